"""One line of a benchmark's result."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import NamedTuple


class Row(NamedTuple):
    """`ours` and `peer` are medians in `unit`, `ratio` is the median over pairs.

    `target` is what the ratio, or where there is no peer `ours`, has to reach.
    """

    name: str
    ours: float | None
    peer: float | None
    ratio: float | None
    target: str
    holds: bool | None
    unit: str

    def line(self) -> str:
        ratio = f"{self.ratio:>8.3f}" if self.ratio is not None else f"{'':8}"
        mark = {True: "holds", False: "MISSED", None: ""}[self.holds]
        return f"{self.name + ', ' + self.unit:56}{_cell(self.ours)}{_cell(self.peer)}{ratio}  {self.target} {mark}"


def _cell(value: float | None) -> str:
    if value is None:
        return f"{'':12}"
    return f"{value:>12,.3g}" if value < 100 else f"{value:>12,.0f}"


def compared(name: str, unit: str, ours: Sequence[float], peer: Sequence[float], least: float) -> Row:
    """A row for pairs of speeds, of which ours should be at least `least` times the peer's."""
    ratio = median(a / b for a, b in zip(ours, peer, strict=True))
    return Row(name, median(ours), median(peer), round(ratio, 4), f">= {least}", ratio >= least, unit)


def bounded(name: str, unit: str, ours: Sequence[float], most: float) -> Row:
    """A row for our times, which should not exceed `most`."""
    return Row(name, median(ours), None, None, f"<= {most}", median(ours) <= most, unit)
