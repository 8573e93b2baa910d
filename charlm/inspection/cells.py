"""Cells that follow a feature of the text, and what they are good for.

For each feature the unit is taken whose memory correlates most with it in the first half of a text. The second half,
which had no part in that choice, gives its correlation, and for a binary feature the AUC: how often the unit is higher
at a character that has the feature than at one that has not.

Whether that is luck is decided by a permutation test on the second half. The feature is shifted against the text, round
a circle, by every number of characters: that keeps how it runs, but not where. At each shift the best of all units is
taken (their largest absolute correlation), so that the test holds for the whole family of units: p is the share of
shifts at which some unit does as well as the chosen one does unshifted. All shifts at once are a product of Fourier
transforms. A unit counts as found if p is below 5 % divided by the number of features.

What a unit is good for is measured by holding it at its mean of the first half, throughout, and scoring the second.

Legend: M inputs, C characters, U units of all layers, n characters of the second half.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from charlm.errors import ConfigError, DataError
from charlm.inspection.features import FEATURES, Numbers, feature
from charlm.inspection.subject import Array, Reading, RecurrentNetwork
from charlm.inspection.trace import BLOCK, Held, memories, trace

LEVEL: Final = 0.05  # of all features together
SHORTEST: Final = 500  # characters
_TOGETHER: Final = 64  # units whose transforms are in memory at once


class Unit(NamedTuple):
    """A unit of a layer, both counted from 1."""

    layer: int
    number: int

    def __str__(self) -> str:
        return f"{self.layer}:{self.number}"


class Finding(NamedTuple):
    """The unit that follows a feature most closely, on the second half of the text.

    A feature that does not vary in one of the halves has no unit. `auc` is there for binary features; a unit that falls
    where the feature rises is turned round for it. `character` is the correlation that the present character alone
    reaches, each standing for the mean of the feature at it in the first half: what a unit without a memory could do.
    """

    feature: str
    unit: Unit | None = None
    correlation: float | None = None
    character: float | None = None
    auc: float | None = None
    p: float | None = None
    found: bool = False

    def record(self) -> dict[str, object]:
        """All figures for JSON."""
        return {**self._asdict(), "unit": None if self.unit is None else str(self.unit)}


def unit_of(network: RecurrentNetwork, named: str, model: str) -> Unit:
    """The unit that a text such as 2:17 names. Raises ConfigError where this model has none of that name."""
    layer, colon, number = named.partition(":")
    if colon and layer.isdecimal() and number.isdecimal():
        unit = Unit(int(layer), int(number))
        if 1 <= unit.layer <= len(network.layers) and 1 <= unit.number <= network.config.hidden:
            return unit
    layers, units = len(network.layers), network.config.hidden
    raise ConfigError(
        f"there is no unit {named}: {model} has layers 1 to {layers} of units 1 to {units}",
        kept="nothing was inspected",
        hint="give it as LAYER:NUMBER, such as 1:1",
    )


class Activity:
    """The memory of every unit at every character of a text, once it has been read."""

    def __init__(self, network: RecurrentNetwork, read: Reading) -> None:
        if len(read.text) < SHORTEST:
            raise DataError(
                f"a text of {len(read.text):,} characters is too short to find cells",
                kept="nothing was inspected",
                hint=f"give one of at least {SHORTEST}",
            )
        self.network, self.read, self.middle = network, read, len(read.text) // 2
        self._values = memories(network, read)

    @property
    def units(self) -> list[Unit]:
        hidden = self.network.config.hidden
        return [Unit(layer + 1, number + 1) for layer in range(len(self.network.layers)) for number in range(hidden)]

    def of(self, units: Sequence[Unit]) -> Array:
        """Of these units at each character [C, units]."""
        hidden = self.network.config.hidden
        return self._values[:, [(unit.layer - 1) * hidden + unit.number - 1 for unit in units]][self.read.token_of]

    def find(self, name: str, units: Sequence[Unit]) -> Finding:
        """The one of these units that follows a feature most closely."""
        values, half = feature(name, self.read.text), self.middle
        if not np.ptp(values[:half]) or not np.ptp(values[half:]):
            return Finding(name)
        first = correlations(self.of(units)[:half], values[:half])
        best = int(np.abs(first).argmax())
        unit, turn = units[best], math.copysign(1, first[best])
        own = self.of([unit])[half:, 0]
        correlation = float(correlations(own[:, None], values[half:])[0])
        p = chance(self.of(units)[half:], values[half:], turn * correlation)
        binary = FEATURES[name].binary
        score = auc(turn * own, values[half:] > 0) if binary else None
        return Finding(
            feature=name,
            unit=unit,
            correlation=correlation,
            character=self._by_character(values),
            auc=score,
            p=p,
            found=p <= LEVEL / len(FEATURES),
        )

    def _by_character(self, values: Numbers) -> float:
        """The correlation of a feature [C] on the second half with its mean at each character on the first."""
        points = np.frombuffer(self.read.text.encode("utf-32-le"), dtype="<u4")
        known, place = np.unique(points, return_inverse=True)
        first = place[: self.middle]
        sums, counts = (np.bincount(first, weights, len(known)) for weights in (values[: self.middle], None))
        means = np.where(counts > 0, sums / np.maximum(counts, 1), values[: self.middle].mean())
        return float(correlations(means[place[self.middle :], None], values[self.middle :])[0])

    def costs(self, units: Sequence[Unit]) -> dict[Unit, float]:
        """What holding each unit at its mean costs on the second half, in bits per character; a lane for each."""
        if not units:
            return {}
        means = self.of(units)[: self.middle].mean(axis=0, dtype=np.float64).tolist()
        held = [
            Held(lane, unit.layer - 1, unit.number - 1, mean)
            for lane, (unit, mean) in enumerate(zip(units, means, strict=True), 1)
        ]
        counted = np.zeros(len(self.read.inputs) + 1, dtype=np.bool_)
        counted[self.read.token_of[self.middle :]] = True
        nats = lane_nats(self.network, self.read, held, len(units) + 1, counted[1:])
        bits = (nats[1:] - nats[0]) / (math.log(2) * (len(self.read.text) - self.middle))
        return dict(zip(units, bits.tolist(), strict=True))


def correlations(activity: Array, values: Numbers) -> Numbers:
    """Pearson's correlation of each unit [n, U] with a feature [n]; 0 of a unit that does not change."""
    found: Numbers = standardised(activity).T @ standardised(values[:, None])[:, 0] / len(values)
    return found


def standardised(columns: Array) -> Numbers:
    """Columns with mean 0 and variance 1, in float64; zeros for a column that does not change."""
    centred = columns - columns.mean(axis=0, dtype=np.float64)
    scale = np.sqrt((centred**2).mean(axis=0))
    found: Numbers = np.where(np.ptp(columns, axis=0) > 0, centred / np.where(scale > 0, scale, 1), 0.0)
    return found


def chance(activity: Array, values: Numbers, reached: float) -> float:
    """The share of circular shifts of a feature at which the best of all units [n, U] correlates with it as much.

    A correlation below 0 has the other sign than in the first half, and counts as luck: 1.
    """
    if reached <= 0:
        return 1.0
    count = len(values)
    spectrum, best = np.fft.rfft(standardised(values[:, None])[:, 0]), np.zeros(count)
    for begin in range(0, activity.shape[1], _TOGETHER):
        units = np.fft.rfft(standardised(activity[:, begin : begin + _TOGETHER]), axis=0)
        shifted = np.fft.irfft(units * spectrum.conj()[:, None], count, axis=0) / count
        np.maximum(best, np.abs(shifted).max(axis=1), out=best)
    return float(1 + (best[1:] >= reached).sum()) / count


def auc(values: Array, positive: NDArray[np.bool_]) -> float:
    """How often a value where `positive` holds is above one where it does not; ties count half (Mann, Whitney 1947).

    >>> auc(np.array([1.0, 2.0, 2.0, 3.0]), np.array([False, True, False, True]))
    0.875
    """
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]
    ones = int(positive.sum())
    return float((ranks[positive].sum() - ones * (ones + 1) / 2) / (ones * (len(values) - ones)))


def lane_nats(
    network: RecurrentNetwork, read: Reading, held: Sequence[Held], lanes: int, counted: NDArray[np.bool_]
) -> Numbers:
    """-ln P of the tokens that follow the `counted` inputs [M], in each lane [B]; unknown ones are left out."""
    found = np.zeros(lanes)
    known = counted & (read.targets >= 0) & (read.targets < network.vocabulary)
    for block in trace(network, read, lanes=lanes, held=held, size=max(1, BLOCK // lanes)):
        part = slice(block.begin, block.begin + len(block.output))
        rows = np.flatnonzero(known[part])
        if len(rows):
            logits = (block.output[rows] @ network.head + network.head_bias).astype(np.float64)
            largest = logits.max(axis=2)
            total = largest + np.log(np.exp(logits - largest[..., None]).sum(axis=2))
            targets = read.targets[part][rows]
            found += (total - logits[np.arange(len(rows)), :, targets]).sum(axis=0)
    return found


def find_cells(activity: Activity, units: Sequence[Unit]) -> tuple[list[Finding], Mapping[Unit, float]]:
    """For each feature the one of these units that follows it, and what each unit that was found is good for."""
    findings = [activity.find(name, units) for name in FEATURES]
    wanted = [one.unit for one in findings if one.unit and one.found]
    return findings, activity.costs(list(dict.fromkeys([*wanted, *(units if len(units) == 1 else ())])))
