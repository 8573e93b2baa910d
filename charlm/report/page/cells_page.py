"""What a page shows of cells that follow a feature of a text: their table, and the page of `charlm inspect cells`."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import Final

from charlm.inspection.cells import Finding, Unit
from charlm.inspection.subject import Array
from charlm.report.cells import COLUMNS, NOTE, follows, row
from charlm.report.page.bundle import bundle, framed
from charlm.report.page.lines import Line, text_block
from charlm.report.page.markup import wide_table
from charlm.report.words import one_line

_MARGIN: Final = 6
_LINE: Final = re.compile(r"[^\n\x03]*[\n\x03]|[^\n\x03]+\Z")  # ends with itself, or with the record
_BODY: Final = """<header>
<h1>{title}</h1>
<p>The activity of a cell, {state} of a unit, once each character has been read. Point at a character, or move with the
arrow keys, to read its value. A line above a character is a value above 0, a line below it one below 0.</p>
</header>
<main>
<section aria-labelledby="found-title">
<h2 id="found-title">What cells follow</h2>
{found}</section>
<section aria-labelledby="text-title">
<h2 id="text-title">The text</h2>
{text}</section>
</main>
"""


def cells_page(
    model: str,
    text: str,
    state: str,
    findings: Sequence[Finding],
    costs: Mapping[Unit, float],
    activities: Mapping[Unit, Array],
) -> str:
    """One self-contained HTML page: the table, and the text [C], coloured by one of these units' activities [C].

    A unit is chosen from a list. Where no cell was found there is none, and no text.
    """
    title = f"Cells of {one_line(model)}"
    cells = [
        {
            "layer": unit.layer,
            "unit": unit.number,
            "about": follows(unit, findings),
            "packed": base64.b64encode(values.astype("<f4").tobytes()).decode(),
        }
        for unit, values in activities.items()
    ]
    return framed(
        title=title,
        body=_BODY.format(
            title=escape(title),
            state=state,
            found=found_table(findings, costs),
            text=_block(text) if cells else "<p>No cell follows a feature of this text.</p>\n",
        ),
        script=bundle("inspected"),
        data={"state": state, "cells": cells},
    )


def found_table(findings: Sequence[Finding], costs: Mapping[Unit, float]) -> str:
    """A row for each feature, as `charlm inspect cells` prints it, and what the columns mean."""
    rows = [row(one, costs) for one in findings]
    return f"{wide_table('Cells by feature', COLUMNS, rows, name='found-cells')}<p>{NOTE}</p>\n"


def _block(text: str) -> str:
    lines, unit = [], 0
    for number, line in enumerate(_LINE.findall(text), 1):
        lines.append(Line(line, unit, f"{number:,}".rjust(_MARGIN)))
        unit += len(line)
    return text_block(lines, "line".rjust(_MARGIN), name="text numbered")
