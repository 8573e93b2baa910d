"""How far back a model looks: its bits per character when it sees only the last k characters (Khandelwal et al. 2018,
"Sharp nearby, fuzzy far away: how neural language models use context").

For each of P places of a text, evenly spread, the model reads the start input and the k characters before that place
from the zero state, and is charged for the character there. All contexts are scored at the same places, so that their
differences are those of the context alone; P characters give each figure a paired block bootstrap
(`charlm.evaluation.bootstrap`). A model of order n, Kneser-Ney, sees n - 1 characters: it is scored at the same places.

How far a model looks is the shortest k from which no longer context gains `NEGLIGIBLE` bits or more. The same is found
for each resampled text; its interval holds the middle 95 % of them.

Where tokens are not characters, k counts tokens, and bits are those of a token. This module knows nothing of files or
printing.

Legend: N tokens of a text, P places, K contexts, R resamples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from charlm.errors import DataError
from charlm.evaluation.bootstrap import Floats, Interval, difference, interval, resampled_means
from charlm.evaluation.score import Scorable, add_escape, cross_entropy
from charlm.inspection.reading import last_logits
from charlm.models.ngram import Counts, KneserNey
from charlm.text.tokenizer import Ids, Tokenizer

CONTEXTS: Final = (1, 2, 3, 5, 10, 20, 50, 100, 200, 500, 1000)
HIGHEST_ORDER: Final = 11  # of n-gram models: 10 characters of context
NEGLIGIBLE: Final = 0.01  # bits
FEWEST: Final = 20  # places, below which there are no intervals
_MOST: Final = 5000
_WORK: Final = 5e11  # products of weights in some 20 seconds of one core
_LANES: Final = 256

Places = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """A context of so many characters: mean bits, and those of the resampled texts [R], None where there are none."""

    context: int
    bits: float
    means: Floats | None

    @property
    def interval(self) -> Interval | None:
        """The 95 % interval of the mean."""
        return interval(self.means)

    def record(self) -> dict[str, object]:
        """The figures for JSON."""
        return {"context": self.context, "bits": self.bits, "interval": _listed(self.interval)}


@dataclass(frozen=True, eq=False)
class Memory:
    """What contexts are worth.

    places           where the text was scored [P], counted in tokens from 0
    rows             the model's, by context
    ngrams           those of n-gram models of orders 1, 2, ...; empty where there is no training text
    receptive_field  how many tokens a prediction can depend on at most; None where there is no limit
    """

    places: Places
    rows: tuple[Row, ...]
    ngrams: tuple[Row, ...]
    receptive_field: int | None

    @cached_property
    def reach(self) -> int:
        """The shortest context from which no longer one gains `NEGLIGIBLE` bits; the longest where there is none."""
        return self.rows[int(_reach(np.array([[row.bits] for row in self.rows]))[0])].context

    @cached_property
    def reach_interval(self) -> tuple[int, int] | None:
        """The 95 % interval of `reach`, among the contexts that were measured."""
        if any(row.means is None for row in self.rows):
            return None
        found = _reach(np.stack([row.means for row in self.rows if row.means is not None]))
        low, high = np.quantile(found, [0.025, 0.975], method="inverted_cdf")
        return self.rows[int(low)].context, self.rows[int(high)].context

    @property
    def is_beyond(self) -> bool:
        """Whether even the longest context but one is too short, so that nobody knows what longer ones would gain."""
        return self.reach == self.rows[-1].context

    def gain(self, row: Row) -> tuple[float, Interval | None]:
        """How many bits the longest context gains over this one, and the paired 95 % interval."""
        longest = self.rows[-1]
        return row.bits - longest.bits, difference(row.means, longest.means)

    def ngram(self, context: int) -> Row | None:
        """The n-gram model that sees so many characters."""
        return next((row for row in self.ngrams if row.context == context), None)

    def record(self) -> dict[str, object]:
        """The figures for JSON."""
        return {
            "positions": len(self.places),
            "receptive_field": self.receptive_field,
            "contexts": [
                {**row.record(), "gain": gain, "gain_interval": _listed(own)}
                for row in self.rows
                for gain, own in (self.gain(row),)
            ],
            "ngrams": [{"order": row.context + 1, **row.record()} for row in self.ngrams],
            "reach": self.reach,
            "reach_interval": _listed(self.reach_interval),
            "beyond": self.is_beyond,
        }


def _listed(edges: tuple[float, float] | None) -> list[float] | None:
    return None if edges is None else list(edges)


def _reach(bits_KR: Floats) -> Places:
    """For each column the row from which on no later one is lower by `NEGLIGIBLE` or more: [R].

    >>> _reach(np.array([[3.0, 2.0], [2.5, 1.999], [2.495, 1.998]])).tolist()
    [1, 0]
    """
    lowest_behind = np.minimum.accumulate(bits_KR[::-1])[::-1]
    return np.asarray(np.argmax(bits_KR - lowest_behind < NEGLIGIBLE, axis=0), dtype=np.int64)


def usual_positions(parameters: int, contexts: Sequence[int]) -> int:
    """How many places take some 20 seconds for a network of so many parameters: 100 to 5,000.

    >>> usual_positions(250_000, CONTEXTS), usual_positions(50_000_000, CONTEXTS)
    (1052, 100)
    """
    return max(100, min(_MOST, round(_WORK / (parameters * (sum(contexts) + len(contexts))))))


def spread_places(tokens: int, positions: int, before: int) -> Places:
    """That many places [P] of a text of N tokens, evenly spread; `before` tokens stand before each.

    All there are, where they are fewer. Raises DataError for a text that is too short.

    >>> spread_places(11, 3, 4).tolist(), spread_places(6, 9, 4).tolist()
    ([4, 7, 10], [4, 5])
    """
    if tokens <= before:
        raise DataError(
            f"a context of {before:,} needs a text of more than {before:,}, and this one has {tokens:,}",
            kept="nothing was computed",
            hint="take a longer text, or shorter --contexts",
        )
    return np.unique(np.linspace(before, tokens - 1, positions).astype(np.int64))


def memory(
    model: Scorable,
    tokenizer: Tokenizer,
    ids: Ids,
    places: Places,
    *,
    contexts: Sequence[int] = CONTEXTS,
    training: Ids | None = None,
    receptive_field: int | None = None,
    device: torch.device | None = None,
) -> Memory:
    """What contexts are worth at these places [P] of a text [N], for the model and for n-gram models of `training` ids.

    Every place has the longest context before it.
    """
    rows = [
        _row(context, context_nats(model, tokenizer, ids, places, context, device=device))
        for context in sorted(contexts)
    ]
    ngrams = [] if training is None else ngram_nats(training, tokenizer, ids, places)
    return Memory(places, tuple(rows), tuple(_row(number, nats) for number, nats in enumerate(ngrams)), receptive_field)


def _row(context: int, nats: NDArray[np.floating[Any]]) -> Row:
    series = np.asarray(nats, dtype=np.float64) / math.log(2)
    return Row(context, float(series.mean()), resampled_means(series))


def context_nats(
    model: Scorable,
    tokenizer: Tokenizer,
    ids: Ids,
    places: Places,
    context: int,
    *,
    device: torch.device | None = None,
) -> Floats:
    """-ln P of the token at each place [P], in nats, given the start input and the `context` tokens before it."""
    found = np.zeros(len(places), dtype=np.float64)
    for first in range(0, len(places), _LANES):
        own = places[first : first + _LANES]
        before = ids[own[None, :] + np.arange(-context, 0)[:, None]]
        inputs = np.concatenate([np.full((1, len(own)), tokenizer.start), before]).astype(np.int64)
        logits_BV = last_logits(model, torch.from_numpy(inputs).to(device), tokenizer.size)
        targets = ids[own].astype(np.int64)
        nll = cross_entropy(logits_BV[None], torch.from_numpy(targets[None]).to(device))[0].cpu().numpy()
        found[first : first + _LANES] = add_escape(nll, targets, tokenizer)
    return found


def ngram_nats(training: Ids, tokenizer: Tokenizer, ids: Ids, places: Places) -> list[Floats]:
    """-ln P of the token at each place [P] under Kneser-Ney of orders 1 to 11, counted on training ids.

    Each token is scored behind the ten before it: joined, they make a text of which every eleventh token counts.
    """
    counts = Counts(training, tokenizer.size, HIGHEST_ORDER)
    around = places[:, None] + np.arange(1 - HIGHEST_ORDER, 1)
    joined = np.where(around < 0, tokenizer.unseen, ids[np.maximum(around, 0)]).astype(np.int32).ravel()
    model = KneserNey(counts, HIGHEST_ORDER)
    targets = ids[places]
    return [
        add_escape(nats[HIGHEST_ORDER - 1 :: HIGHEST_ORDER], targets, tokenizer) for nats in model.nats_by_order(joined)
    ]
