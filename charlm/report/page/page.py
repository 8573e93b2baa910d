"""One self-contained HTML page: a text, each character coloured by its surprisal, with the likeliest alternatives.

It needs no network, and tells the browser so: a content security policy admits this page's own script, by its hash,
and nothing else. What is foreign is escaped. The text stands in the markup, control characters as elements that show
them and name their code points, so that nothing in it commands and nothing is lost; data are JSON without a single
"<"; the script makes elements and sets their text, never markup. Where no script runs, the text and all tables are
there, uncoloured.

page.html is the frame, page.css and page.js stand in it; `packing` says how figures travel to the script, which colours
lines as they come into view. At most `LIMIT` tokens are shown; totals are of the whole texts.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from html import escape
from importlib import resources
from string import Template
from typing import Final

import numpy as np

from charlm.evaluation.surprisal import PositionLoss, Surprisal
from charlm.report.levels import DARK, LEVELS, LIGHT, NAMES, sign
from charlm.report.page.packing import pack, safe_json, token_name
from charlm.report.surprisal import EXCERPT, Scored
from charlm.report.tables import cut_end
from charlm.report.words import figure, one_line
from charlm.text.tokenizer import Tokenizer

LIMIT: Final = 200_000  # tokens shown, of all texts together
ALTERNATIVES: Final = 10
_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; script-src '{}'; base-uri 'none'; form-action 'none'"


def page(model: str, texts: Sequence[Scored], tokenizer: Tokenizer, *, words: int = 10) -> str:
    """The page for these texts, scored by the model of this name with this tokenizer; `words` worst words of each."""
    sections, data, tokens, left = [], [], set(), LIMIT
    for number, text in enumerate(texts):
        units = _shown(text.surprisal, left)
        left -= int(np.searchsorted(text.surprisal.unit_of, units))
        sections.append(_section(number, text, units, words))
        packed, used = pack(text.surprisal, units)
        data.append(packed._asdict())
        tokens |= used
    names = {str(token): token_name(tokenizer, token) for token in sorted(tokens)}
    script = _file("page.js")
    return Template(_file("page.html")).substitute(
        policy=_POLICY.format(_hash(script)),
        title=escape(one_line("Surprisal of " + ", ".join(text.name for text in texts))),
        style=_file("page.css").replace("/*levels*/", _palettes()),
        model=escape(one_line(model)),
        legend="".join(f'<span class="c{number}">{name}</span>' for number, name in enumerate(NAMES)),
        sections="".join(sections),
        data=safe_json({"levels": LEVELS, "names": names, "texts": data}),
        script=script,
    )


def _shown(surprisal: Surprisal, limit: int) -> int:
    """How many units are shown when so many tokens may be: those whose first token is among them."""
    known = surprisal.likeliest
    tokens = min(limit, len(surprisal.ids) if known is None else len(known.ids))
    return int(np.searchsorted(surprisal.first_tokens, tokens))


def _section(number: int, text: Scored, units: int, words: int) -> str:
    surprisal, heading = text.surprisal, escape(one_line(text.name))
    left = len(surprisal.text) - int(surprisal.starts[units])
    note = f'<p class="note">The last {left:,} characters are not shown; the figures cover the whole text.</p>\n'
    return f"""<section>
<h2><bdi>{heading}</bdi></h2>
<div class="figures">{_totals(surprisal)}{_worst(surprisal, words)}{_losses(text.losses)}</div>
<div class="text" data-text="{number}" role="group" aria-label="The text; arrow keys move through it">
<p class="columns" aria-hidden="true">{_margin("line", "bits", "bits/char")}</p>
{_lines(surprisal, units)}</div>
{note if left else ""}</section>
"""


def _lines(surprisal: Surprisal, units: int) -> str:
    """A line's element has its number and totals as an attribute, so that the elements' text is the text alone."""
    table = {ord(character): _markup(character) for character in set(surprisal.text)}
    lines = surprisal.lines()
    begins = np.searchsorted(surprisal.starts, [line.start for line in lines])  # a unit goes where it begins
    ends = [*begins[1:], len(surprisal.starts) - 1][: len(lines)]
    rows = []
    for number, (line, first, last) in enumerate(zip(lines, begins, np.minimum(ends, units), strict=True), 1):
        if first >= units:
            break
        margin = _margin(f"{number:,}", figure(line.bits, 1), figure(line.bits_per_character, 2))
        shown = surprisal.text[surprisal.starts[first] : surprisal.starts[last]].translate(table)
        rows.append(f'<div class="line" data-unit="{first}" data-margin="{margin}">{shown}</div>\n')
    return "".join(rows)


def _margin(number: str, total: str, mean: str) -> str:
    return f"{number:>6}{total:>9}{mean:>11}"


def _markup(character: str) -> str:
    shown = sign(character)
    if shown == character:
        return escape(character, quote=False)
    return f'<b data-c="{ord(character):x}">{shown}</b>'


def _totals(surprisal: Surprisal) -> str:
    total = surprisal.total
    rows = [
        ("characters", f"{total.characters:,}"),
        ("unknown characters", f"{surprisal.unknown_characters:,}"),
        ("bits", figure(total.bits, 1)),
        ("bits per character", figure(total.bits_per_character)),
        ("perplexity per character", figure(total.perplexity, 3)),
    ]
    return _table("Totals", [], rows)


def _worst(surprisal: Surprisal, words: int) -> str:
    rows = [
        (
            cut_end(one_line(w.text), EXCERPT),
            f"{w.count:,}",
            *(figure(x, 2) for x in (w.bits_per_character, w.mean_bits, w.bits)),
        )
        for w in surprisal.worst_words(words)
    ]
    columns = ["", "count", "bits per character", "mean bits", "total bits"]
    return _table("Least expected words", columns, rows) if rows else ""


def _losses(losses: Sequence[PositionLoss]) -> str:
    if not losses:
        return ""
    rows = [
        (str(row.first) if row.first == row.last else f"{row.first} to {row.last}", figure(row.bits_per_character, 2))
        for row in losses
    ]
    return _table("By position since a cold start", ["position", "bits per character"], rows)


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = "".join(
        f"<tr><th><bdi>{escape(row[0])}</bdi></th>" + "".join(f"<td>{escape(cell)}</td>" for cell in row[1:]) + "</tr>"
        for row in rows
    )
    return f"<table><caption>{escape(title)}</caption>{f'<tr>{head}</tr>' if head else ''}{body}</table>"


def _file(name: str) -> str:
    """A part of the page that stands beside this module."""
    return resources.files(__package__ or "").joinpath(name).read_text(encoding="utf-8")


def _hash(script: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _palettes() -> str:
    def rules(palette: Sequence[tuple[str, str]]) -> str:
        page = f":root{{--page:{palette[0][0]};--ink:{palette[0][1]}}}"
        return page + "".join(f".c{n}{{background:{back};color:{ink}}}" for n, (back, ink) in enumerate(palette))

    return f"{rules(LIGHT)}@media(prefers-color-scheme:dark){{{rules(DARK)}}}"
