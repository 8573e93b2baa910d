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
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from charlm.inference.surprisal import PositionLoss, Surprisal
from charlm.report.plain import figure, one_line
from charlm.report.surprisal import DARK, LEVELS, LIGHT, NAMES, Scored, sign
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
    style, script = STYLE.replace("/*levels*/", _palettes()), SCRIPT
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
    perplexity = math.exp(min(709.0, total.nats / total.characters)) if total.characters else None
    rows = [
        ("characters", f"{total.characters:,}"),
        ("never seen in training", f"{judged.unknown_characters:,}"),
        ("bits", figure(total.bits, 1)),
        ("bits per character", figure(total.bits_per_character)),
        ("perplexity per character", figure(perplexity, 3)),
    ]
    return _table("Totals", [], rows)


def _worst(judged: Surprisal, words: int) -> str:
    rows = [
        (one_line(w.text), f"{w.count:,}", *(figure(x, 2) for x in (w.bits_per_character, w.mean_bits, w.bits)))
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


def _hash(script: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _palettes() -> str:
    def rules(palette: Sequence[tuple[str, str]]) -> str:
        page = f":root{{--page:{palette[0][0]};--ink:{palette[0][1]}}}"
        return page + "".join(f".c{n}{{background:{back};color:{ink}}}" for n, (back, ink) in enumerate(palette))

    return f"{rules(LIGHT)}@media(prefers-color-scheme:dark){{{rules(DARK)}}}"


STYLE: Final = """
:root{color-scheme:light dark}
/*levels*/
body{background:var(--page);color:var(--ink);margin:0 auto;padding:1rem 1.5rem 12rem;max-width:76rem;
 font:1rem/1.5 system-ui,sans-serif}
h1{font-size:1.4rem;overflow-wrap:anywhere}
h2{font-size:1.15rem;margin:2.5rem 0 .5rem;overflow-wrap:anywhere}
p{max-width:46rem;margin:.5rem 0}
.legend{position:sticky;top:0;z-index:1;padding:.4rem 0;background:var(--page);max-width:none}
.legend span{display:inline-block;padding:.1rem .6rem;font-size:.85rem}
.legend .c0{outline:1px solid #8888;outline-offset:-1px}
.figures{display:flex;flex-wrap:wrap;gap:1rem 3rem;align-items:flex-start;margin-bottom:1rem}
table{border-collapse:collapse;font-size:.85rem;font-variant-numeric:tabular-nums}
caption{text-align:left;font-weight:600}
th{font-weight:400;text-align:left;max-width:20rem;overflow-wrap:anywhere}
th,td{padding:.05rem 1rem .05rem 0}
td,tr:first-child>th+th{text-align:right}
.text,.columns{font:.95rem/1.6 ui-monospace,"DejaVu Sans Mono",Menlo,Consolas,monospace}
.columns{font-size:.8rem;opacity:.75;white-space:pre;margin:0;max-width:none}
.line{position:relative;padding-left:14rem;white-space:break-spaces;overflow-wrap:anywhere;tab-size:8;
 unicode-bidi:isolate;content-visibility:auto;contain-intrinsic-size:auto 1.5rem}
.line::before{content:attr(data-margin);position:absolute;left:0;white-space:pre;font-size:.8rem;line-height:1.9;
 opacity:.75}
.tab::after,b[data-c="9"]::after{content:"\\9"}
.line span:focus,.line span.at{outline:2px solid currentColor;outline-offset:1px}
.note{font-style:italic}.line b{font-weight:400}
#tip{position:fixed;z-index:2;width:17rem;padding:.6rem .8rem;background:var(--page);color:var(--ink);
 border:1px solid #888;border-radius:.4rem;box-shadow:0 .3rem 1rem #0005;font-size:.85rem;pointer-events:none}
#tip[hidden]{display:none}#tip p{margin:0 0 .3rem}
#tip p b{font-size:1.05rem;overflow-wrap:anywhere}
#tip .row{display:grid;grid-template-columns:6rem 1fr 4rem;gap:.5rem;align-items:center;padding:0 .2rem}
#tip .own{font-weight:700;outline:1px solid currentColor;border-radius:.2rem}
#tip .row :first-child{overflow:hidden;text-overflow:ellipsis;white-space:nowrap;
 font-family:ui-monospace,"DejaVu Sans Mono",Menlo,Consolas,monospace}
#tip .row :last-child{text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums}
#tip .bar{height:.55rem;background:#8883}
#tip .bar i{display:block;height:100%;background:#3b82c4}
@media(max-width:52rem){.line{padding-left:0}.line::before,.columns{display:none}}
"""

SCRIPT: Final = """
'use strict';
const data = JSON.parse(document.getElementById('data').textContent);
const tip = document.getElementById('tip');
const make = (tag, name, text) => {
  const element = document.createElement(tag);
  if (name) element.className = name;
  if (text !== undefined) element.textContent = text;
  return element;
};
const percent = p => p >= 0.001 ? (100 * p).toFixed(p >= 0.01 ? 1 : 2) + ' %' : '< 0.1 %';

async function unpack(text) {
  const bytes = Uint8Array.from(atob(text.packed), c => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream('deflate'));
  const raw = new Uint8Array(await new Response(stream).arrayBuffer());
  let at = 0;
  return text.widths.map(width => {
    const from = at;
    at += width * text.units;
    return unit => {
      let value = 0;
      for (let plane = width - 1; plane >= 0; plane--) value = 256 * value + raw[from + plane * text.units + unit];
      return value;
    };
  });
}

function colour(line, columns) {  // its text becomes an element for each unit, once
  if (line.coloured) return;
  line.coloured = true;
  const signs = [];
  for (const node of line.childNodes)
    if (node.nodeType === 3) signs.push(...Array.from(node.data, c => [c, '']));
    else signs.push([node.textContent, node.dataset.c === '9' ? ' tab' : '']);
  const parts = document.createDocumentFragment();
  for (let at = 0, unit = +line.dataset.unit; at < signs.length; unit++) {
    const length = columns[1](unit), own = signs.slice(at, at + length), bits = columns[0](unit) / 500;
    const level = data.levels.filter(bound => bits / length >= bound).length;
    const span = make('span', 'c' + level + (length === 1 ? own[0][1] : ''), own.map(sign => sign[0]).join(''));
    span.unit = unit;
    span.tabIndex = -1;
    parts.append(span);
    at += length;
  }
  line.replaceChildren(parts);
}

function row(label, p, own) {
  const line = make('div', own ? 'row own' : 'row'), bar = make('div', 'bar'), fill = make('i');
  fill.style.width = 100 * p + '%';
  bar.append(fill);
  line.append(make('span', '', label), bar, make('span', '', percent(p)));
  return line;
}

let shown = null;
function hide() {
  if (shown) shown.removeAttribute('aria-describedby'), shown.classList.remove('at');
  shown = null;
  tip.hidden = true;
}

function show(span, columns) {
  if (span === shown) return;
  hide();
  shown = span;
  span.classList.add('at');
  span.setAttribute('aria-describedby', 'tip');
  const unit = span.unit, q = columns[0](unit), own = columns[3](unit), tokens = columns[2](unit);
  const k = (columns.length - 4) / 2, title = make('p');
  title.append(make('b', '', span.textContent.replace(/ /g, '\\u2423')), q === 65535 ? ' over 131 bits' :
    ` ${(q / 500).toFixed(2)} bits`, tokens === 1 ? `, ${percent(2 ** (-q / 500))}` : `, of ${tokens} tokens`);
  tip.replaceChildren(title);
  if (k && tokens > 1) tip.append(make('p', '', 'the likeliest for the first of them:'));
  let found = false;
  for (let j = 0; j < k; j++) {
    const id = columns[4 + j](unit);
    found ||= id === own;
    tip.append(row(data.names[id], (columns[4 + k + j](unit) / 4095) ** 2, id === own));
  }
  if (k && !found && tokens === 1) tip.append(make('div', '', '\\u2026'), row(data.names[own], 2 ** (-q / 500), true));
  tip.hidden = false;
  place();
}

function place() {
  const at = shown.getClientRects()[0], width = tip.offsetWidth, height = tip.offsetHeight;
  const below = at.bottom + 8 + height <= innerHeight || at.top < height + 8;
  tip.style.left = Math.max(4, Math.min(at.left, innerWidth - width - 8)) + 'px';
  tip.style.top = (below ? at.bottom + 8 : at.top - height - 8) + 'px';
}

function follow(block, columns) {
  const lines = [...block.querySelectorAll('.line')];
  const watch = new IntersectionObserver(seen => {
    for (const one of seen) if (one.isIntersecting) watch.unobserve(one.target), colour(one.target, columns);
  }, {rootMargin: '800px'});
  for (const line of lines) +line.dataset.unit < 3000 ? colour(line, columns) : watch.observe(line);
  addEventListener('beforeprint', () => lines.forEach(line => colour(line, columns)));
  const unitAt = event => event.target.unit === undefined ? null : event.target;
  block.addEventListener('mouseover', event => unitAt(event) ? show(event.target, columns) : hide());
  block.addEventListener('mouseleave', hide);
  block.addEventListener('click', event => unitAt(event) && go(event.target));
  block.addEventListener('focusin', event => unitAt(event) && show(event.target, columns));
  block.addEventListener('focusout', hide);
  let current = null;
  function go(span) {  // one of them can be reached with Tab, the others with arrows from there
    if (current) current.tabIndex = -1;
    current = span;
    span.tabIndex = 0;
    span.focus();
  }
  function into(line, column) {
    if (!line) return;
    colour(line, columns);
    go(line.children[Math.min(column, line.children.length - 1)]);
  }
  block.addEventListener('keydown', event => {
    const span = unitAt(event);
    if (!span || event.ctrlKey || event.altKey || event.metaKey) return;
    const line = span.parentNode, at = lines.indexOf(line), column = [...line.children].indexOf(span);
    const move = {
      ArrowRight: () => span.nextSibling ? go(span.nextSibling) : into(lines[at + 1], 0),
      ArrowLeft: () => span.previousSibling ? go(span.previousSibling) : into(lines[at - 1], Infinity),
      ArrowDown: () => into(lines[at + 1], column), ArrowUp: () => into(lines[at - 1], column),
      Home: () => into(line, 0), End: () => into(line, Infinity), Escape: hide,
    }[event.key];
    if (move) event.preventDefault(), move();
  });
  if (lines.length) current = lines[0].firstChild, current.tabIndex = 0;
}

document.querySelectorAll('.text').forEach(async block => follow(block, await unpack(data.texts[block.dataset.text])));
addEventListener('scroll', () => shown && (shown === document.activeElement ? place() : hide()), {passive: true});
"""
