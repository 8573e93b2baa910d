"""The losses of a run as a picture in the markup of a page (SVG), which needs no script, and as a table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from charlm.report.page.markup import table
from charlm.report.words import figure, short
from charlm.storage.records import Metrics, Validation

_WIDTH, _HEIGHT = 720, 280
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 24, 12, 32
_POINTS: Final = 400  # of a line; more would not be seen
Row = Metrics | Validation
Point = tuple[float, float]


def curves(rows: Sequence[Row]) -> str:
    """Training loss and validation loss in nats per character, by step; nothing where there are fewer than two rows."""
    train = [(row.step, row.train_loss) for row in rows if math.isfinite(row.train_loss)]
    val = [(row.step, row.val_loss) for row in rows if row.val_loss is not None and math.isfinite(row.val_loss)]
    if len(train) + len(val) < 2:
        return ""
    steps, losses = zip(*train, *val, strict=True)
    return _Picture(max(steps), min(losses), max(losses)).markup(_thinned(train), val) + _table(rows)


class _Picture:
    """Places of steps and losses."""

    def __init__(self, steps: int, least: float, most: float) -> None:
        self._steps = max(1, steps)
        self._ticks = ticks(least, most)
        self._low, self._high = min(self._ticks[0], least), max(self._ticks[-1], most)

    def _place(self, point: Point) -> Point:
        step, loss = point
        x = _LEFT + (_WIDTH - _LEFT - _RIGHT) * step / self._steps
        share = (loss - self._low) / ((self._high - self._low) or 1)
        return x, _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * share

    def _line(self, points: Sequence[Point], name: str) -> str:
        places = " ".join(f"{x:.1f},{y:.1f}" for x, y in map(self._place, points))
        return f'<polyline class="{name}" points="{places}"/>' if len(points) > 1 else ""

    def markup(self, train: Sequence[Point], val: Sequence[Point]) -> str:
        parts = []
        for loss in self._ticks:
            _, y = self._place((0, loss))
            parts.append(f'<path class="grid" d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}"/>')
            parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{loss:g}</text>')
        for step in ticks(0, self._steps):
            if step <= self._steps:
                x, _ = self._place((step, self._low))
                parts.append(f'<text x="{x:.1f}" y="{_HEIGHT - 6}" text-anchor="middle">{short(round(step))}</text>')
        parts += [self._line(train, "train"), self._line(val, "val")]
        parts += [f'<circle class="point" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in map(self._place, val)]
        lines = [name for name, points in (("thin: training", train), ("thick: validation", val)) if points]
        return (
            f'<figure><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{self._words(train, val)}">'
            f'{"".join(parts)}</svg><figcaption class="small">Loss in nats per character, by step; '
            f"{', '.join(lines)}</figcaption></figure>\n"
        )

    def _words(self, train: Sequence[Point], val: Sequence[Point]) -> str:
        """What can be seen, for who cannot see it."""
        kinds = (("training", train), ("validation", val))
        parts = [
            f"{name} loss from {points[0][1]:.3f} at step {points[0][0]:,.0f} to {points[-1][1]:.3f} at step "
            f"{points[-1][0]:,.0f}"
            for name, points in kinds
            if points
        ]
        return "; ".join(parts)


def ticks(least: float, most: float) -> list[float]:
    """Four to nine round numbers between and about two others.

    >>> ticks(1.42, 4.2), ticks(0, 1500)
    ([1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5], [0.0, 200.0, 400.0, 600.0, 800.0, 1000.0, 1200.0, 1400.0, 1600.0])
    """
    span = (most - least) or 1.0
    power = 10.0 ** math.floor(math.log10(span))
    step = next(size * power for size in (0.1, 0.2, 0.5, 1, 2) if span / (size * power) <= 8)
    first, last = math.floor(least / step + 1e-9), math.ceil(most / step - 1e-9)
    return [round(number * step, 10) for number in range(first, last + 1)]


def _thinned(points: Sequence[Point]) -> list[Point]:
    """At most so many of them, the last among them."""
    every = max(1, math.ceil(len(points) / _POINTS))
    return [*points[:-1:every], *points[-1:]]


def _table(rows: Sequence[Row]) -> str:
    """The validations."""
    cells = [
        (f"{row.step:,}", f"{row.characters_seen:,}", figure(row.train_loss), figure(row.val_loss))
        for row in rows
        if row.val_loss is not None
    ]
    columns = ["step", "characters seen", "training loss", "validation loss"]
    return (
        f"<details><summary>All validations</summary>{table('Validations', columns, cells)}</details>\n"
        if cells
        else ""
    )
