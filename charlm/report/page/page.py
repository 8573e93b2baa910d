"""One self-contained HTML page: a text, each character coloured by its surprisal, with the likeliest alternatives.

It needs no network, and tells the browser so: a content security policy admits this page's own script, by its hash,
and nothing else. What is foreign is escaped. The text stands in the markup (`lines`); data are JSON without a single
"<"; the script makes elements and sets their text, never markup. Where no script runs, the text and all tables are
there, uncoloured.

The page of a model (`charlm.report.page.model_page`) shows texts in the same way, by the same script. `packing` says
how figures travel to it; it colours lines as they come into view. At most `LIMIT` tokens are shown; totals are of the
whole texts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from typing import Final

import numpy as np

from charlm.evaluation.surprisal import PositionLoss, Surprisal, Word
from charlm.report.levels import LEVELS, NAMES
from charlm.report.page.bundle import bundle, framed
from charlm.report.page.lines import Line, text_block
from charlm.report.page.markup import table
from charlm.report.page.packing import pack, token_name
from charlm.report.surprisal import EXCERPT, Scored
from charlm.report.tables import cut_end
from charlm.report.words import figure, one_line
from charlm.text.tokenizer import Tokenizer

LIMIT: Final = 200_000  # tokens shown, of all texts together
ALTERNATIVES: Final = 10
_BODY: Final = """<header>
<h1>{title}</h1>
<p>Surprisal of each character under {model}, in bits: the negative binary logarithm of its probability. One bit is a
probability of one half, and each further bit halves it. Point at a character, or move with the arrow keys, to see the
most likely characters at that position.</p>
<p class="legend"><small>bits per character:</small>{legend}</p>
</header>
<main>
{sections}</main>
"""


def page(model: str, texts: Sequence[Scored], tokenizer: Tokenizer, *, words: int = 10) -> str:
    """The page for these texts, scored by the model of this name with this tokenizer; `words` worst words of each."""
    sections, data, tokens, left = [], [], set(), LIMIT
    for number, text in enumerate(texts):
        units = _shown(text.surprisal, left)
        left -= int(np.searchsorted(text.surprisal.unit_of, units))
        worst = text.surprisal.worst_words(words)
        sections.append(_section(number, text, units, worst))
        packed, used = pack(text.surprisal, units)
        data.append({**packed._asdict(), "words": [word.text for word in worst]})
        tokens |= used
    names = {str(token): token_name(tokenizer, token) for token in sorted(tokens)}
    title = one_line("Surprisal of " + ", ".join(text.name for text in texts))
    legend = "".join(f'<span class="c{number}">{name}</span>' for number, name in enumerate(NAMES))
    return framed(
        title=title,
        body=_BODY.format(
            title=escape(title), model=escape(one_line(model)), legend=legend, sections="".join(sections)
        ),
        script=bundle("score"),
        data={"levels": LEVELS, "levelNames": NAMES, "names": names, "texts": data},
    )


def _shown(surprisal: Surprisal, limit: int) -> int:
    """How many units are shown when so many tokens may be: those whose first token is among them."""
    known = surprisal.likeliest
    tokens = min(limit, len(surprisal.ids) if known is None else len(known.ids))
    return int(np.searchsorted(surprisal.first_tokens, tokens))


def _section(number: int, text: Scored, units: int, words: Sequence[Word]) -> str:
    surprisal, heading = text.surprisal, escape(one_line(text.name))
    left = len(surprisal.text) - int(surprisal.starts[units])
    note = f'<p class="note">The last {left:,} characters are not shown; the figures cover the whole text.</p>\n'
    block = text_block(_lines(surprisal, units), _margin("line", "bits", "bits/char"), number=number)
    return f"""<section>
<h2><bdi>{heading}</bdi></h2>
<div class="figures">{_totals(surprisal)}{_worst(words)}{_losses(text.losses)}</div>
{block}{note if left else ""}</section>
"""


def _lines(surprisal: Surprisal, units: int) -> Iterator[Line]:
    """The lines of the first units, each with its number and totals."""
    lines = surprisal.lines()
    begins = np.searchsorted(surprisal.starts, [line.start for line in lines])  # a unit goes where it begins
    ends = [*begins[1:], len(surprisal.starts) - 1][: len(lines)]
    for number, (line, first, last) in enumerate(zip(lines, begins, np.minimum(ends, units), strict=True), 1):
        if first >= units:
            break
        margin = _margin(f"{number:,}", figure(line.bits, 1), figure(line.bits_per_character, 2))
        yield Line(surprisal.text[surprisal.starts[first] : surprisal.starts[last]], int(first), margin)


def _margin(number: str, total: str, mean: str) -> str:
    return f"{number:>6}{total:>9}{mean:>11}"


def _totals(surprisal: Surprisal) -> str:
    total = surprisal.total
    rows = [
        ("characters", f"{total.characters:,}"),
        ("unknown characters", f"{surprisal.unknown_characters:,}"),
        ("bits", figure(total.bits, 1)),
        ("bits per character", figure(total.bits_per_character)),
        ("perplexity per character", figure(total.perplexity, 3)),
    ]
    return table("Totals", [], rows)


def _worst(words: Sequence[Word]) -> str:
    rows = [
        (
            cut_end(one_line(w.text), EXCERPT),
            f"{w.count:,}",
            *(figure(x, 2) for x in (w.bits_per_character, w.mean_bits, w.bits)),
        )
        for w in words
    ]
    columns = ["word", "count", "bits per character", "mean bits", "total bits"]
    return table("Least expected words", columns, rows, name="words") if rows else ""


def _losses(losses: Sequence[PositionLoss]) -> str:
    if not losses:
        return ""
    rows = [
        (str(row.first) if row.first == row.last else f"{row.first} to {row.last}", figure(row.bits_per_character, 2))
        for row in losses
    ]
    return table("By position since a cold start", ["position", "bits per character"], rows)
