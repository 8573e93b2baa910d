"""The losses of a run as a picture in the markup of a page (SVG), which needs no script, and as a table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from charlm.report.page.chart import Line, Point, Scale, chart, scale_of, ticks
from charlm.report.page.markup import table
from charlm.report.words import figure, short
from charlm.storage.records import Metrics, Validation

_POINTS: Final = 400  # of a line; more would not be seen
Row = Metrics | Validation


def curves(rows: Sequence[Row]) -> str:
    """Training loss and validation loss in nats per character, by step; nothing where there are fewer than two rows."""
    train = [(row.step, row.train_loss) for row in rows if math.isfinite(row.train_loss)]
    val = [(row.step, row.val_loss) for row in rows if row.val_loss is not None and math.isfinite(row.val_loss)]
    if len(train) + len(val) < 2:
        return ""
    steps, losses = zip(*train, *val, strict=True)
    last = max(1, *steps)
    names = [name for name, points in (("thin: training", train), ("thick: validation", val)) if points]
    return chart(
        [Line("train", _thinned(train)), Line("val", val, dots=True)],
        Scale(0, last, [(step, short(round(step))) for step in ticks(0, last) if step <= last]),
        scale_of(min(losses), max(losses)),
        words=_words(train, val),
        caption=f"Loss in nats per character, by step; {', '.join(names)}",
    ) + _table(rows)


def _words(train: Sequence[Point], val: Sequence[Point]) -> str:
    kinds = (("training", train), ("validation", val))
    parts = [
        f"{name} loss from {points[0][1]:.3f} at step {points[0][0]:,.0f} to {points[-1][1]:.3f} at step "
        f"{points[-1][0]:,.0f}"
        for name, points in kinds
        if points
    ]
    return "; ".join(parts)


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
