"""A stream as people see it: tables, facts and paragraphs, on a terminal or in a pipe.

Each stream decides by itself about colour and whether something may move. Foreign text (a model's, a file's name)
passes `visible` and never rich's markup.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TextIO

from rich.console import Console as Console  # noqa: PLC0414 - for whoever must not import rich
from rich.table import Table
from rich.text import Text

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


def table(out: Console, title: str, columns: Sequence[str], rows: Sequence[Row]) -> None:
    """A table with its first column to the left and figures to the right."""
    grid = Table(
        title=Text(title), title_justify="left", title_style="bold", box=None, pad_edge=False, header_style="dim"
    )
    for number, column in enumerate(columns):
        grid.add_column(column, justify="right" if number else "left", overflow="fold")
    for row in rows:
        grid.add_row(*(Text(one_line(cell)) for cell in row))
    out.print(grid)


def facts(out: Console, rows: Sequence[tuple[str, str]]) -> None:
    """Names and what they are, one a line; long lines are the terminal's to wrap, so that paths can be copied."""
    width = max(len(one_line(name)) for name, _ in rows)
    for name, value in rows:
        line = Text(f"{one_line(name):<{width}}  ", style="dim")
        line.append(one_line(value), style="not dim")
        out.print(line, soft_wrap=True)


def paragraphs(out: Console, lines: Sequence[str]) -> None:
    for line in lines:
        out.print(Text(visible(line)))


def excerpt(out: Console, where: str, text: str) -> None:
    """Where a text stands, and below it as much of it as fits a line."""
    out.print(Text(one_line(where), style="dim"), soft_wrap=True)
    line = Text("    " + one_line(text))
    line.truncate(out.width, overflow="ellipsis")
    out.print(line, soft_wrap=True)
