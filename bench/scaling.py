"""How long a step takes on N processes: a model made of measured pieces, and what it says of more than there are here.

    step(N) = compute(B / N) + masks + sum(N) + muon(N) / 4 + decide(N) + wait(N)

docs/scaling.md explains the terms. `python -m bench.scaling` prints its tables, and simulates wait(N) from step times
of `python -m bench.waiting`; with the JSON of `python -m bench.distributed` as its argument it also compares
the model with what was measured.
"""

from __future__ import annotations

import json
import math
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

RESULTS: Final = Path(__file__).with_name("results") / "waiting.json"  # quantiles of measured step times
MUON_EVERY: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """Numbers of weights: all, and those in matrices that Muon takes."""

    name: str
    weights: int
    matrices: int

    @classmethod
    def lstm(cls, layers: int, hidden: int, embedding: int, vocabulary: int) -> Network:
        """
        >>> Network.lstm(2, 512, 64, 65)
        Network(name='2 x 512', weights=3322561, matrices=3276800)
        """
        matrices = sum(4 * hidden * ((hidden if number else embedding) + hidden) for number in range(layers))
        rest = layers * 8 * hidden + (vocabulary + 1) * embedding + (hidden + 1) * vocabulary
        return cls(name=f"{layers} x {hidden}", weights=matrices + rest, matrices=matrices)


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """What connects N processes: bytes a second that a process sends, and seconds until a message is there.

    A ring takes 2 (N - 1) messages for a sum, a tree 2 log2 N.
    """

    name: str
    bandwidth: float
    latency: float
    tree: bool = False

    def sum(self, count: int, size: float) -> float:
        """Seconds for the sum of `size` bytes over so many processes: each sends 2 (N - 1) / N of them."""
        if count == 1:
            return 0.0
        messages = 2 * math.ceil(math.log2(count)) if self.tree else 2 * (count - 1)
        return 2 * (count - 1) / count * size / self.bandwidth + messages * self.latency

    def gather(self, count: int, size: float) -> float:
        """Seconds until each of so many processes has `size` bytes of which each had its share."""
        return 0.0 if count == 1 else (count - 1) / count * size / self.bandwidth + (count - 1) * self.latency

    def decide(self, count: int) -> float:
        """Seconds for two short messages to all: whether to stop, and whether to save."""
        return 0.0 if count == 1 else 2 * math.ceil(math.log2(count)) * self.latency


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Seconds of one process's step with all B lanes.

    `fixed` does not shrink with the lanes: kernels launched one after the other, weights read from memory. `each` is
    the rest, `masks` what drawing dropout masks takes, which every process does for all lanes, `muon` one
    orthogonalisation of everything.
    """

    fixed: float
    each: float
    masks: float = 0.0
    muon: float = 0.0

    @property
    def alone(self) -> float:
        return self.fixed + self.each + self.masks + self.muon / MUON_EVERY


def step_seconds(step: Step, network: Network, link: Link, count: int) -> float:
    """Seconds of a step of the same global batch on so many processes; wait(N) is left to `waiting`."""
    muon = step.muon / count + link.gather(count, 4 * network.matrices)
    moved = link.sum(count, 4 * network.weights) + link.decide(count)
    return step.fixed + step.each / count + step.masks + muon / MUON_EVERY + moved


def growing_seconds(step: Step, network: Network, link: Link, count: int) -> float:
    """The same where each process has B lanes, so that the global batch grows; masks are drawn for all of them."""
    muon = step.muon / count + link.gather(count, 4 * network.matrices)
    moved = link.sum(count, 4 * network.weights) + link.decide(count)
    return step.fixed + step.each + step.masks * count + muon / MUON_EVERY + moved


def waiting(times: Sequence[float], count: int, *, steps: int = 2000, seed: int = 0) -> float:
    """By how much the slowest of so many processes is slower than the mean one, simulated from measured step times.

    >>> waiting([1.0, 1.0], 8), waiting([1.0, 2.0], 64, steps=100)
    (1.0, 1.3333333333333333)
    """
    draw = random.Random(seed)  # noqa: S311
    slowest = sum(max(draw.choices(times, k=count)) for _ in range(steps)) / steps
    return slowest * len(times) / sum(times)


# One H100 trains 2 x 512 in chunks of 256 lanes x 128 at 4,198,000 characters a second (docs/log.md). How much of that
# step is fixed was not measured, so both ends are shown. Links are assumptions, lower than what their makers give.
GPU_SECONDS: Final = 256 * 128 / 4_198_000
INSIDE: Final = Link(name="NVLink, one machine", bandwidth=200e9, latency=5e-6, tree=True)
BETWEEN: Final = Link(name="400 Gbit/s for each GPU", bandwidth=40e9, latency=10e-6, tree=True)
SLOW: Final = Link(name="25 Gbit/s for each GPU", bandwidth=2.5e9, latency=25e-6, tree=True)


def predictions() -> list[tuple[str, int, str, float, float]]:
    """Network, GPUs, link, and the efficiency where the global batch grows, and at least where it is fixed."""
    found = []
    network = Network.lstm(2, 512, 64, 65)
    for count, link in ((8, INSIDE), (8, SLOW), (64, BETWEEN), (64, SLOW)):
        scalable, half = Step(fixed=0.0, each=GPU_SECONDS), Step(fixed=GPU_SECONDS / 2, each=GPU_SECONDS / 2)
        growing = GPU_SECONDS / growing_seconds(scalable, network, link, count)
        fixed = GPU_SECONDS / step_seconds(half, network, link, count) / count
        found.append((network.name, count, link.name, growing, fixed))
    return found


def most_that_pay(step: Step, network: Network, link: Link, *, least: float = 0.5) -> int:
    """The largest number of processes, doubled each time, whose efficiency at the same global batch is `least`."""
    count = 1
    while count < 4096 and step.alone / step_seconds(step, network, link, 2 * count) / (2 * count) >= least:
        count *= 2
    return count


def corpus_hours(characters: float, speed: float, count: int, efficiency: float) -> float:
    """Hours for one pass over so many characters."""
    return characters / (speed * count * efficiency) / 3600


def main() -> None:
    print("network    GPUs  link                        growing batch  same batch (half of a step fixed)")
    for name, count, link, growing, fixed in predictions():
        hours = corpus_hours(100e9, 4_198_000, count, growing)
        print(f"{name:<10} {count:>4}  {link:<26} {growing:>14.0%} {fixed:>11.0%}   100 GB: {hours:.2f} h")
    for share in (0.0, 0.1, 0.5):
        step = Step(fixed=share * GPU_SECONDS, each=(1 - share) * GPU_SECONDS)
        most = most_that_pay(step, Network.lstm(2, 512, 64, 65), BETWEEN)
        print(f"same batch, {share:.0%} of a step fixed: pays (half of each GPU used) up to {most} GPUs")
    measured = json.loads(RESULTS.read_text())["seconds"]
    for count in (2, 8, 64):
        print(f"waiting for the slowest of {count} processes: {waiting(measured, count) - 1:.1%} of a mean step")
    if len(sys.argv) > 1:
        _compare(json.loads(sys.argv[1]))


def _compare(measured: dict[str, dict[str, float]]) -> None:
    """The model's step of two processes beside the measured one; it is made of one process's and of the sum alone."""
    one, two = measured["1"], measured["2"]
    link = Link(name="here", bandwidth=one["weights"] * 4 / max(two["sum"], 1e-9), latency=0.0)
    each = 2 * (one["step"] - one["half"])
    step = Step(fixed=one["step"] - each - one["muon"] / MUON_EVERY, each=each, muon=one["muon"])
    network = Network(name="2 x 512", weights=int(one["weights"]), matrices=int(one["matrices"]))
    model = step_seconds(step, network, link, 2)
    print(f"two processes: model {model:.3f} s, measured {two['step']:.3f} s a step ({model / two['step'] - 1:+.1%})")


if __name__ == "__main__":
    main()
