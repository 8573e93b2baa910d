"""Tables in the markup of a page; what is foreign is escaped."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], *, name: str = "") -> str:
    """Rows of texts, each named by its first cell, under a caption; `name` is the class of the table.

    >>> table("Totals", [], [("bits", "<3")])
    '<table><caption>Totals</caption><tr><th scope="row"><bdi>bits</bdi></th><td>&lt;3</td></tr></table>'
    """
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in columns)
    body = "".join(map(_row, rows))
    kind = f' class="{name}"' if name else ""
    return f"<table{kind}><caption>{escape(title)}</caption>{f'<tr>{head}</tr>' if head else ''}{body}</table>"


def wide_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], *, name: str = "") -> str:
    """The same where a narrow screen has no room for all columns: it can be scrolled, with the keyboard, too."""
    region = f'class="wide-table" role="region" tabindex="0" aria-label="{escape(title)}"'
    return f"<div {region}>{table(title, columns, rows, name=name)}</div>\n"


def _row(cells: Sequence[str]) -> str:
    first, *others = map(escape, cells)
    return f'<tr><th scope="row"><bdi>{first}</bdi></th>{"".join(f"<td>{cell}</td>" for cell in others)}</tr>'
