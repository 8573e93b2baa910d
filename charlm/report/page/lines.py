"""A text in the markup of a page: an element for each line, in which nothing commands and nothing is lost.

A character that cannot be seen is an element that shows it and names its code point. The script colours the lines
(heatmap.js); where none runs, they are there.
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import NamedTuple

from charlm.report.levels import sign


class Line(NamedTuple):
    """A line's text, the number of its first unit, and what stands in its margin."""

    text: str
    unit: int
    margin: str


def text_block(lines: Iterable[Line], columns: str, *, number: int = 0, name: str = "text") -> str:
    """The lines of the text of this number on the page, with the columns' names above the margin.

    >>> text_block([Line("a<\\t", 0, "1")], "line").splitlines()[2]
    '<div class="line" dir="auto" data-unit="0" data-margin="1">a&lt;<b data-c="9">␉</b></div>'
    """
    return (
        f'<div class="{name}" data-text="{number}" role="group" aria-label="The text; arrow keys move through it">\n'
        f'<p class="columns" aria-hidden="true">{columns}</p>\n{"".join(map(_line, lines))}</div>\n'
    )


def _line(line: Line) -> str:
    """Number and figures are an attribute, so that the elements' text is the text alone."""
    shown = line.text.translate({ord(character): _markup(character) for character in set(line.text)})
    return f'<div class="line" dir="auto" data-unit="{line.unit}" data-margin="{line.margin}">{shown}</div>\n'


def _markup(character: str) -> str:
    shown = sign(character)
    if shown == character:
        return escape(character, quote=False)
    return f'<b data-c="{ord(character):x}">{shown}</b>'
