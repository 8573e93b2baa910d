"""What people see of `charlm inspect cells`: which cells follow what, and a text coloured by what a cell does.

Seven levels: the middle one is around 0, blue is below and red above. The outermost begin at five sixths of the largest
absolute value (of all but one character in a hundred). They are told apart by lightness too. The page is in
`charlm.report.page.cells_page`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray
from rich.text import Text

from charlm.inspection.cells import LEVEL, Finding, Unit
from charlm.inspection.features import FEATURES
from charlm.inspection.subject import Array
from charlm.report.console import Console, heading, is_coloured, paragraphs, table
from charlm.report.levels import sign, style
from charlm.report.words import figure

# Background and letters of the levels from the lowest to the highest: some of a terminal's 256 colours.
PALETTE: Final = (
    ("#005faf", "#ffffff"),
    ("#5f87d7", "#000000"),
    ("#afd7ff", "#000000"),
    ("#eeeeee", "#000000"),
    ("#ffd7af", "#000000"),
    ("#ff875f", "#000000"),
    ("#af0000", "#ffffff"),
)
COLUMNS: Final = ("feature", "cell", "correlation", "by character", "AUC", "p", "bits when held")
NOTE: Final = (
    "Cells were chosen on the first half of the text; figures are those of the second. By character: the correlation "
    "that the present character alone reaches. p: share of circular shifts at which some unit does as well; up to "
    f"{LEVEL / len(FEATURES):.2g} it is no luck. Bits when held: bits per character more with the cell at its mean."
)
_MIDDLE: Final = len(PALETTE) // 2
_USUAL: Final = 99  # per cent of the characters


def cells_report(out: Console, findings: Sequence[Finding], costs: Mapping[Unit, float]) -> None:
    """A row for each feature: the cell that follows it, how well, whether that may be luck, and what it is good for."""
    table(out, COLUMNS, [row(one, costs) for one in findings])
    paragraphs(out, [NOTE])


def row(one: Finding, costs: Mapping[Unit, float]) -> tuple[str, ...]:
    """
    >>> row(Finding("line"), {})
    ('position in the line', 'does not vary here', '-', '-', '-', '-', '-')
    """
    name = FEATURES[one.feature].about
    if one.unit is None:
        return (name, "does not vary here", *"-----")
    cell = str(one.unit) if one.found else f"none (best {one.unit})"
    cost = costs.get(one.unit) if one.found else None
    measured = (figure(one.correlation, 2), figure(one.character, 2), figure(one.auc, 3), figure(one.p, 5))
    return (name, cell, *measured, figure(cost, 4))


def levels(values: Array) -> NDArray[np.int64]:
    """The level of each value, from 0 to 6.

    >>> levels(np.array([-2.0, -0.7, 0.1, 0.0, 2.0])).tolist()
    [0, 2, 3, 3, 6]
    """
    scale = np.percentile(np.abs(values), _USUAL) if len(values) else 1.0
    steps = np.rint(_MIDDLE * values / (scale or 1.0)).astype(np.int64)
    found: NDArray[np.int64] = np.clip(steps, -_MIDDLE, _MIDDLE) + _MIDDLE
    return found


def coloured(out: Console, title: str, text: str, values: Array, shown: int) -> None:
    """The beginning of a text, coloured by a unit's activity at each character [C], where there are colours."""
    if not is_coloured(out):
        return
    heading(out, title)
    legend = Text("")
    for name, colours in zip(("low", "", "", "around 0", "", "", "high"), PALETTE, strict=True):
        legend.append(f" {name} ", style(colours))
    out.print(legend, soft_wrap=True)
    line = Text(overflow="fold")
    for part, level in _runs(text[:shown], levels(values)):
        look = style(PALETTE[level])
        for number, piece in enumerate(part.split("\n")):
            if number:
                line.append("↵", look)
                out.print(line)
                line = Text(overflow="fold")
            line.append("".join(map(sign, piece)), look)
    out.print(line)
    paragraphs(out, [""])


def _runs(text: str, level: NDArray[np.int64]) -> Iterator[tuple[str, int]]:
    """A text in runs of one level."""
    edges = [0, *(np.flatnonzero(np.diff(level[: len(text)])) + 1).tolist(), len(text)]
    for begin, end in pairwise(edges):
        if end > begin:
            yield text[begin:end], int(level[begin])


def follows(unit: Unit, findings: Sequence[Finding]) -> str:
    """What a unit was found to follow, in words."""
    return ", ".join(FEATURES[one.feature].about for one in findings if one.unit == unit and one.found)


def found_units(findings: Sequence[Finding]) -> list[Unit]:
    """The units that were found, each once, the closest follower first."""
    found = sorted((one for one in findings if one.found), key=lambda one: -abs(one.correlation or 0))
    return list(dict.fromkeys(one.unit for one in found if one.unit))


def title_of(unit: Unit, state: str, findings: Sequence[Finding]) -> str:
    """A unit, and what it follows.

    >>> title_of(Unit(1, 5), "c", [Finding("line", Unit(1, 5), found=True), Finding("word", Unit(1, 5))])
    'c of unit 1:5: position in the line'
    """
    about = follows(unit, findings)
    return f"{state} of unit {unit}" + (f": {about}" if about else "")
