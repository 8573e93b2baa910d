"""One self-contained HTML page: a text, coloured by how many bits each of its characters cost, with what else the model
held likely there.

It needs no network, and tells the browser so: a content security policy admits this page's own script, by its hash,
and nothing else. What is foreign is escaped. The text stands in the markup, control characters as elements that show
them and name their code points, so that nothing in it commands and nothing is lost; data are JSON without a single
"<"; the script makes elements and sets their text, never markup. Where no script runs, the text and all tables are
there, uncoloured.

Figures travel as columns of whole numbers, byte by byte (all low bytes, then all higher ones), deflated and in base64:
bits as q / 500, probabilities as (q / 4095)^2. The script colours lines as they come into view. At most `LIMIT` tokens
are shown; totals are of the whole texts.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import zlib
from collections.abc import Sequence
from html import escape
from importlib import resources
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from charlm.evaluation.surprisal import PositionLoss, Surprisal
from charlm.report.surprisal import DARK, EXCERPT, LEVELS, LIGHT, NAMES, Scored, sign
from charlm.report.tables import cut_end
from charlm.report.words import figure, one_line
from charlm.text.tokenizer import Tokenizer

LIMIT: Final = 200_000  # tokens shown, of all texts together
ALTERNATIVES: Final = 10


def page(model: str, texts: Sequence[Scored], tokenizer: Tokenizer, *, words: int = 10) -> str:
    """The page for these texts, scored by the model of this name with this tokenizer; `words` worst words of each."""
    title = one_line("Surprisal of " + ", ".join(text.name for text in texts))
    sections, data, pieces, left = [], [], set(), LIMIT
    for number, text in enumerate(texts):
        units = _shown(text.surprisal, left)
        left -= int(np.searchsorted(text.surprisal.unit_of, units))
        sections.append(_section(number, text, units, words))
        columns, used = _columns(text.surprisal, units)
        data.append(columns)
        pieces |= used
    names = {str(token): _name(tokenizer, token) for token in sorted(pieces)}
    content = _json({"levels": LEVELS, "names": names, "texts": data})
    style = _file("page.css").replace("/*levels*/", _palettes())
    script = _file("page.js")
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src '{_hash(script)}'; base-uri 'none'"
    legend = "".join(f'<span class="c{number}">{name}</span>' for number, name in enumerate(NAMES))
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}; form-action 'none'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{style}</style>
</head>
<body>
<header>
<h1>{escape(title)}</h1>
<p>Bits of each character under {escape(one_line(model))}: one bit for what is as likely as not, one more for each
halving of its probability. Point at a character, or move with the arrow keys, for what was likeliest there.</p>
<p class="legend" aria-label="Colours, in bits per character">{legend}</p>
</header>
<main>
{"".join(sections)}</main>
<div id="tip" role="tooltip" hidden></div>
<script type="application/json" id="data">{content}</script>
<script>{script}</script>
</body>
</html>
"""


def _shown(surprisal: Surprisal, limit: int) -> int:
    """How many units are shown when so many tokens may be: those whose first token is among them."""
    known = surprisal.likeliest
    tokens = min(limit, len(surprisal.ids) if known is None else len(known.ids))
    return int(np.searchsorted(surprisal.first_tokens, tokens))


def _section(number: int, text: Scored, units: int, words: int) -> str:
    judged, heading = text.surprisal, escape(one_line(text.name))
    left = len(judged.text) - int(judged.starts[units])
    note = f'<p class="note">The last {left:,} characters are not shown; the figures are of the whole.</p>\n'
    return f"""<section>
<h2><bdi>{heading}</bdi></h2>
<div class="figures">{_totals(judged)}{_worst(judged, words)}{_losses(text.losses)}</div>
<div class="text" data-text="{number}" role="group" aria-label="The text; arrow keys move through it">
<p class="columns" aria-hidden="true">{_margin("line", "bits", "bits/char")}</p>
{_lines(judged, units)}</div>
{note if left else ""}</section>
"""


def _lines(judged: Surprisal, units: int) -> str:
    """A line's element has its number and totals as an attribute, so that the elements' text is the text alone."""
    table = {ord(character): _markup(character) for character in set(judged.text)}
    lines = judged.lines()
    begins = np.searchsorted(judged.starts, [line.start for line in lines])  # a unit goes where it begins
    ends = [*begins[1:], len(judged.starts) - 1][: len(lines)]
    rows = []
    for number, (line, first, last) in enumerate(zip(lines, begins, np.minimum(ends, units), strict=True), 1):
        if first >= units:
            break
        margin = _margin(f"{number:,}", figure(line.bits, 1), figure(line.bits_per_character, 2))
        shown = judged.text[judged.starts[first] : judged.starts[last]].translate(table)
        rows.append(f'<div class="line" data-unit="{first}" data-margin="{margin}">{shown}</div>\n')
    return "".join(rows)


def _margin(number: str, total: str, mean: str) -> str:
    return f"{number:>6}{total:>9}{mean:>11}"


def _markup(character: str) -> str:
    shown = sign(character)
    if shown == character:
        return escape(character, quote=False)
    return f'<b data-c="{ord(character):x}">{shown}</b>'


def _totals(judged: Surprisal) -> str:
    total = judged.total
    rows = [
        ("characters", f"{total.characters:,}"),
        ("unknown characters", f"{judged.unknown_characters:,}"),
        ("bits", figure(total.bits, 1)),
        ("bits per character", figure(total.bits_per_character)),
        ("perplexity per character", figure(total.perplexity, 3)),
    ]
    return _table("Totals", [], rows)


def _worst(judged: Surprisal, words: int) -> str:
    rows = [
        (
            cut_end(one_line(w.text), EXCERPT),
            f"{w.count:,}",
            *(figure(x, 2) for x in (w.bits_per_character, w.mean_bits, w.bits)),
        )
        for w in judged.worst_words(words)
    ]
    columns = ["", "times", "bits per character", "bits each time", "bits in all"]
    return _table("Worst words", columns, rows) if rows else ""


def _losses(losses: Sequence[PositionLoss]) -> str:
    if not losses:
        return ""
    rows = [
        (str(row.first) if row.first == row.last else f"{row.first} to {row.last}", figure(row.bits_per_character, 2))
        for row in losses
    ]
    return _table("By place since a cold start", ["place", "bits per character"], rows)


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = "".join(
        f"<tr><th><bdi>{escape(row[0])}</bdi></th>" + "".join(f"<td>{escape(cell)}</td>" for cell in row[1:]) + "</tr>"
        for row in rows
    )
    return f"<table><caption>{escape(title)}</caption>{f'<tr>{head}</tr>' if head else ''}{body}</table>"


def _columns(judged: Surprisal, units: int) -> tuple[dict[str, Any], set[int]]:
    """The first units' figures for the script, and the tokens that they name.

    Of each unit: bits, its length, its number of tokens, and of its first token the id and the alternatives.
    """
    first = judged.first_tokens[:units]
    bits = judged.unit_nats[:units] / math.log(2)
    own = judged.ids[first]
    known = judged.likeliest
    ids = known.ids[first] if known is not None else np.zeros((units, 0), dtype=np.int32)
    roots = np.sqrt(known.probabilities[first]) if known is not None else np.zeros((units, 0))
    tokens = np.diff(np.append(judged.first_tokens, len(judged.ids)))[:units]
    whole = np.nan_to_num(bits * 500, nan=65535, posinf=65535)
    columns = [np.rint(np.minimum(whole, 65535)), np.diff(judged.starts[: units + 1]), np.minimum(tokens, 255), own]
    columns += [*ids.T, *np.rint(np.nan_to_num(roots.T) * 4095)]
    wide = 2 if units and max(own.max(), ids.max(initial=0)) > 255 else 1
    widths = [2, 4, 1, wide, *[wide] * ids.shape[1], *[2] * ids.shape[1]]
    raw = b"".join(_planes(column, width) for column, width in zip(columns, widths, strict=True))
    packed = base64.b64encode(zlib.compress(raw, 9)).decode()
    return {"units": units, "widths": widths, "packed": packed}, {*own.tolist(), *np.unique(ids).tolist()}


def _planes(column: NDArray[Any], width: int) -> bytes:
    """Whole numbers [U] as `width` planes of U bytes: neighbours are alike, which is what packs well."""
    return b"".join((column.astype(np.int64) >> 8 * plane & 255).astype(np.uint8).tobytes() for plane in range(width))


def _name(tokenizer: Tokenizer, token: int) -> str:
    if token >= tokenizer.size:
        return "never seen"
    try:
        return "".join(map(sign, tokenizer.pieces[token].decode())).replace(" ", "␣")
    except UnicodeDecodeError:
        return "byte " + tokenizer.pieces[token].hex(" ").upper()


def _json(value: object) -> str:
    """JSON in which nothing looks like markup, in ASCII."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


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
