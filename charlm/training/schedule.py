"""How far training is, and the rate that follows: pure functions of the step.

A plan is recorded in the checkpoint before it is used, so that a resumed run follows the same rates to the bit. That
holds under a time budget too, where the number of steps is an estimate that is revised as the machine turns out
faster or slower.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

UNKNOWN: Final = 10**12  # total steps of a plan that has not been measured yet


@dataclass(frozen=True, slots=True)
class Plan:
    """Progress from 0 to 1, piecewise linear in the step. Knots are (step, progress); the last is (total, 1).

    >>> plan = Plan.of(100).revised(50, 150)
    >>> [plan.progress(step) for step in (0, 25, 50, 100, 150)]
    [0.0, 0.25, 0.5, 0.75, 1.0]
    """

    knots: tuple[tuple[int, float], ...]

    @classmethod
    def of(cls, total: int) -> Plan:
        return cls(((0, 0.0), (total, 1.0)))

    @property
    def total(self) -> int:
        return self.knots[-1][0]

    @property
    def measured(self) -> bool:
        return self.total < UNKNOWN

    def progress(self, step: int) -> float:
        if step >= self.total:
            return 1.0
        number = next(i for i in range(len(self.knots) - 2, -1, -1) if self.knots[i][0] <= step)
        (begin, low), (end, high) = self.knots[number : number + 2]
        return low + (high - low) * (step - begin) / (end - begin)

    def revised(self, step: int, total: int) -> Plan:
        """The same up to `step`, then straight to 1 at `total`."""
        past = tuple(knot for knot in self.knots[:-1] if knot[0] < step)
        return Plan((*past, (step, self.progress(step)), (max(total, step), 1.0)))

    @classmethod
    def from_json(cls, knots: Sequence[Sequence[float]]) -> Plan:
        return cls(tuple((int(step), float(progress)) for step, progress in knots))


def rate(step: int, progress: float, *, warmup: int, decay: str) -> float:
    """The rate of a step (from 0) as a share of the highest: a linear rise over `warmup` steps, times the decay.

    >>> [round(rate(step, step / 10, warmup=2, decay="linear"), 2) for step in (0, 1, 5, 9)]
    [0.5, 0.9, 0.5, 0.1]
    """
    rise = min(1.0, (step + 1) / warmup) if warmup else 1.0
    fall = {"linear": 1 - progress, "cosine": 0.5 * (1 + math.cos(math.pi * progress)), "none": 1.0}[decay]
    return rise * fall


def due(before: float, after: float, times: int) -> bool:
    """Whether one of `times` evenly spaced points of progress lies in (before, after]."""
    return math.floor(after * times) > math.floor(before * times)
