"""Tables as lines of text that fit a width: nothing is ever broken inside a word.

Where a table is too wide, its widest columns shrink first: headers wrap between words, and names and texts are cut with
an ellipsis. Figures are never cut. Columns that still find no room follow in a further block, below the first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from rich.cells import cell_len, set_cell_size

from charlm.report.words import one_line

Cells = Sequence[str]
Cut = Callable[[str, int], str]
_GAP: Final = "  "
_LEFT: Final = 24  # cells that the left column keeps
_HEADER: Final = 16  # cells that a word of a header keeps
_ALIGNED: Final = 60  # cells to which rows are padded where there is no width; what is longer has its row to itself
_MARKS: Final = 8  # characters without a width, such as accents, that are kept for each cell


class Block(NamedTuple):
    """Some columns of a table: the lines of the header, and a line for each row."""

    header: list[str]
    body: list[str]


def cut_end(text: str, width: int) -> str:
    """The beginning of a line, for texts.

    >>> cut_end("It was a bright cold day", 10)
    'It was a …'
    """
    if _fits(text, width):
        return text
    return set_cell_size(text[: _MARKS * width], max(0, width - 1)) + "…"


def _fits(text: str, width: int) -> bool:
    """Whether a text has no more cells than that; one with too many characters of no width does not, either."""
    return len(text) <= _MARKS * width and cell_len(text) <= width


def cut_middle(text: str, width: int) -> str:
    """The beginning and the end of a line, for names and paths.

    >>> cut_middle("checkpoints/a-long-name/best.safetensors", 20)
    'checkpoint…fetensors'
    """
    if _fits(text, width):
        return text
    tail, kept = "", (width - 1) // 2
    for character in reversed(text[-_MARKS * max(1, kept) :]):
        if cell_len(character + tail) > kept:
            break
        tail = character + tail
    return set_cell_size(text[: _MARKS * width], max(0, width - 1 - cell_len(tail))) + "…" + tail


def wrap(text: str, width: int) -> list[str]:
    """Lines of whole words; a word that is longer than a line has one to itself.

    >>> wrap("bits per character", 9)
    ['bits per', 'character']
    """
    lines = [""]
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}" if lines[-1] else word
        if cell_len(longer) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def layout(
    columns: Cells, rows: Sequence[Cells], width: int | None, *, left: int | Sequence[int] = 0, cut: Cut = cut_middle
) -> list[Block]:
    """The table's blocks for a width in cells; None: as wide as it is, with no cell cut and none padded to a long one.

    Column `left`, or each of several, stands to the left and is cut by `cut` where there is no room; all others stand
    to the right. The first column is in every block. Cells are foreign text: what would command a terminal is shown.
    """
    lefts = [left] if isinstance(left, int) else left
    header, body = [one_line(column) for column in columns], [[one_line(cell) for cell in row] for row in rows]
    widths = [max(map(cell_len, column)) for column in zip(header, *body, strict=True)]
    if width is None:
        widths = [min(cells, max(_ALIGNED, cell_len(name))) for cells, name in zip(widths, header, strict=True)]
        return [_block(header, body, widths, range(len(widths)), lefts, _whole)]
    widths = _shrunk(header, body, widths, width, lefts)
    return [_block(header, body, widths, block, lefts, cut) for block in _blocks(widths, width)]


def _whole(text: str, width: int) -> str:  # noqa: ARG001 - a `Cut`
    """All of a text."""
    return text


def _shrunk(header: Cells, body: Sequence[Cells], widths: list[int], width: int, lefts: Sequence[int]) -> list[int]:
    """Widths after the widest columns have given up cells one by one, as many as are needed and no more than can be."""
    least = [max([0, *(cell_len(row[number]) for row in body)]) for number in range(len(header))]
    least = [max(cells, min(_HEADER, _longest(words))) for cells, words in zip(least, header, strict=True)]
    for left in lefts:
        least[left] = min(widths[left], _LEFT)
    widths = list(widths)
    while sum(widths) + len(_GAP) * (len(widths) - 1) > width:
        wide = [number for number in range(len(widths)) if widths[number] > least[number]]
        if not wide:
            break
        widths[max(wide, key=widths.__getitem__)] -= 1
    return widths


def _blocks(widths: Sequence[int], width: int) -> list[list[int]]:
    """Which columns stand side by side; the first is in every block."""
    blocks, used = [[0]], widths[0]
    for number, cells in enumerate(widths[1:], 1):
        if used + len(_GAP) + cells > width and len(blocks[-1]) > 1:
            blocks.append([0])
            used = widths[0]
        blocks[-1].append(number)
        used += len(_GAP) + cells
    return blocks


def _block(
    header: Cells, body: Sequence[Cells], widths: Sequence[int], block: Sequence[int], lefts: Sequence[int], cut: Cut
) -> Block:
    wrapped = [wrap(header[number], widths[number]) for number in block]
    height = max(map(len, wrapped))
    above = zip(*([""] * (height - len(lines)) + lines for lines in wrapped), strict=True)
    cells = [*above, *([row[number] for number in block] for row in body)]
    lines = []
    for row in cells:
        parts = []
        for cell, number in zip(row, block, strict=True):
            fitted = (cut if number in lefts or cut is _whole else cut_middle)(cell, widths[number])
            space = " " * (widths[number] - cell_len(fitted))
            parts.append(fitted + space if number in lefts else space + fitted)
        lines.append(_GAP.join(parts).rstrip())
    return Block(lines[:height], lines[height:])


def _longest(header: str) -> int:
    return max(map(cell_len, header.split(" ")))
