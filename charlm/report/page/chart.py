"""Lines as a picture in the markup of a page (SVG), which needs no script; what can be seen is said in words, too."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Final, NamedTuple

_WIDTH, _HEIGHT = 720, 280
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 24, 12, 32
_NAMES: Final = 56  # what the names of lines need at the right
_APART: Final = 22  # names from each other: the height of letters on a narrow screen
Point = tuple[float, float]


class Scale(NamedTuple):
    """Values from `low` to `high` along an axis, with labels at some of them."""

    low: float
    high: float
    ticks: Sequence[tuple[float, str]]
    log: bool = False

    def share(self, value: float) -> float:
        """How far from the low end, 0 to 1."""
        low, high, own = map(math.log, (self.low, self.high, value)) if self.log else (self.low, self.high, value)
        return (own - low) / ((high - low) or 1)


class Line(NamedTuple):
    """Points, joined by a line of this style (page.css).

    name   stands at its end
    edges  low and high at each point, drawn as a band
    dots   whether each point is marked
    """

    style: str
    points: Sequence[Point]
    name: str = ""
    edges: Sequence[Point] = ()
    dots: bool = False


def chart(lines: Sequence[Line], x: Scale, y: Scale, *, words: str, caption: str) -> str:
    """A figure with these lines; `words` says what can be seen, for who cannot see it."""
    right = _WIDTH - (_NAMES if any(line.name for line in lines) else _RIGHT)

    def place(point: Point) -> Point:
        across, up = x.share(point[0]), y.share(point[1])
        return _LEFT + (right - _LEFT) * across, _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * up

    parts = []
    for value, label in y.ticks:
        height = place((x.low, value))[1]
        parts.append(f'<path class="grid" d="M{_LEFT} {height:.1f}H{right}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{height + 4:.1f}" text-anchor="end">{label}</text>')
    for value, label in x.ticks:
        parts.append(f'<text x="{place((value, y.low))[0]:.1f}" y="{_HEIGHT - 6}" text-anchor="middle">{label}</text>')
    for line in lines:
        places = list(map(place, line.points))
        if line.edges:
            outline = [(at, edges[0]) for (at, _), edges in zip(line.points, line.edges, strict=True)]
            outline += [(at, edges[1]) for (at, _), edges in zip(line.points, line.edges, strict=True)][::-1]
            parts.append(f'<polygon class="band" points="{_joined(list(map(place, outline)))}"/>')
        if len(places) > 1:
            parts.append(f'<polyline class="{line.style}" points="{_joined(places)}"/>')
        if line.dots:
            parts += [f'<circle class="point" cx="{across:.1f}" cy="{up:.1f}" r="3"/>' for across, up in places]
    parts += _names([(line.name, *place(line.points[-1])) for line in lines if line.name and line.points])
    return (
        f'<figure><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(words)}">'
        f'{"".join(parts)}</svg><figcaption class="small">{escape(caption)}</figcaption></figure>\n'
    )


def _joined(points: Sequence[Point]) -> str:
    return " ".join(f"{across:.1f},{up:.1f}" for across, up in points)


def _names(ends: Sequence[tuple[str, float, float]]) -> list[str]:
    """What lines are called, at their ends, from the top, none upon another."""
    parts, lowest = [], -math.inf
    ordered = sorted(ends, key=lambda end: end[2])
    for left, (name, across, up) in zip(range(len(ordered) - 1, -1, -1), ordered, strict=True):
        lowest = min(max(up, lowest + _APART), _HEIGHT - _BOTTOM - left * _APART)
        parts.append(f'<text x="{across + 5:.1f}" y="{lowest + 4:.1f}">{escape(name)}</text>')
    return parts


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


def scale_of(least: float, most: float) -> Scale:
    """A scale from one round number to another, about two values."""
    found = ticks(least, most)
    return Scale(min(found[0], least), max(found[-1], most), [(value, f"{value:g}") for value in found])
