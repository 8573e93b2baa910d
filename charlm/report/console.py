"""A stream as people see it: tables, facts and paragraphs, on a terminal or in a pipe.

Each stream decides by itself about colour and whether something may move. Foreign text (a model's, a file's name)
passes `visible` and never rich's markup.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TextIO

from rich.cells import cell_len, set_cell_size
from rich.console import Console as Console  # noqa: PLC0414 - for whoever must not import rich
from rich.text import Text

from charlm.report.tables import Cut, cut_end, cut_middle, layout, wrap
from charlm.report.words import one_line, visible

Row = Sequence[str]


class _Console(Console):
    """rich ends the process when a reader has gone: that is for the command line to decide."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        raise BrokenPipeError


def console(stream: TextIO, *, color: bool = True) -> Console:
    """A console on this stream; in a pipe lines are as long as they need to be."""
    width = None if stream.isatty() else 200
    return _Console(
        file=stream, no_color=None if color else True, highlight=False, soft_wrap=not stream.isatty(), width=width
    )


def is_coloured(out: Console) -> bool:
    """Whether a text can be coloured there: on a terminal that has colours, where they are wanted."""
    return out.is_terminal and out.color_system is not None and not out.no_color


def heading(out: Console, title: str) -> None:
    """A title on one line, nothing for an empty one."""
    if title:
        name = one_line(title)
        _line(out, Text(cut_middle(name, out.width) if out.is_terminal else name, style="bold"))


def table(
    out: Console,
    columns: Sequence[str],
    rows: Sequence[Row],
    *,
    title: str = "",
    left: int | Sequence[int] = 0,
    cut: Cut = cut_middle,
) -> None:
    """A table whose column `left` (or several) stands to the left, and figures to the right; see `tables.layout`.

    On a terminal it is as wide as that at most. In a pipe every row is one line.
    """
    width = out.width if out.is_terminal else None
    heading(out, title)
    for number, block in enumerate(layout(columns, rows, width, left=left, cut=cut)):
        if number:
            _line(out, Text())
        for line in block.header:
            _line(out, Text(line, style="dim"))
        for line in block.body:
            _line(out, Text(line))


class Verbatim(str):
    """A path or a command among facts: never broken by us, so that it can be copied."""

    __slots__ = ()


def facts(out: Console, rows: Sequence[tuple[str, str]]) -> None:
    """Names and what they are; on a terminal what is too long goes on in the lines below, between words."""
    indent = max(cell_len(one_line(name)) for name, _ in rows) + 2
    for name, value in rows:
        shown = one_line(value)
        wrapped = out.is_terminal and not isinstance(value, Verbatim)
        parts = wrap(shown, out.width - indent) if wrapped else [shown]
        if wrapped and out.width - indent < cell_len(parts[0]) <= out.width:
            parts.insert(0, "")
        for number, part in enumerate(parts):
            begin = indent if not number else min(indent, max(0, out.width - cell_len(part)))
            line = Text(set_cell_size("" if number else one_line(name), begin), style="dim")
            line.append(part, style="not dim")
            _line(out, line)


def entry(out: Console, name: str, lines: Sequence[str]) -> None:
    """A name in a list, and what there is to say about it below, wrapped between words on a terminal."""
    _line(out, Text(one_line(name), style="bold"))
    for line in lines:
        for part in wrap(one_line(line), out.width - 2) if out.is_terminal else [one_line(line)]:
            _line(out, Text(f"  {part}"))


def _line(out: Console, line: Text) -> None:
    out.print(Text(line.plain) if out.no_color else line, soft_wrap=True)


def paragraphs(out: Console, lines: Sequence[str]) -> None:
    for line in lines:
        out.print(Text(visible(line)))


def excerpt(out: Console, where: str, text: str) -> None:
    """Where a text stands, and below it as much of it as fits a line."""
    _line(out, Text(one_line(where), style="dim"))
    _line(out, Text("    " + cut_end(one_line(text), out.width - 4)))
