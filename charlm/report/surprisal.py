"""The report of `charlm score`: the text in colours or line by line, its totals, and its worst words.

Where there are no colours (a pipe, NO_COLOR), every line of the text comes with its totals instead.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol

import numpy as np
from rich.text import Text

from charlm.evaluation.surprisal import Part, PositionLoss, Surprisal
from charlm.report.console import Console, heading, is_coloured, paragraphs, table
from charlm.report.levels import LEVELS, NAMES, TERMINAL, sign, style
from charlm.report.tables import cut_end
from charlm.report.words import figure, one_line

EXCERPT: Final = 60  # cells of a line, or of a word, beside its totals


class Scored(NamedTuple):
    """A text under its name, with its surprisal and, if asked for, its losses by position since a cold start."""

    name: str
    surprisal: Surprisal
    losses: tuple[PositionLoss, ...] = ()


class Totalled(Protocol):
    """What is known of a text whose characters are in memory no more."""

    @property
    def name(self) -> str: ...

    @property
    def characters(self) -> int: ...

    @property
    def unknown(self) -> int: ...

    @property
    def nats(self) -> float: ...


def totals_report(out: Console, texts: Sequence[Totalled]) -> None:
    """The totals of texts that were written row by row."""
    _totals_table(out, [_totals(one.name, Part(0, one.characters, one.nats), one.unknown) for one in texts])


def surprisal_report(out: Console, texts: Sequence[Scored], *, words: int = 10, show_text: bool = True) -> None:
    """The texts, coloured or line by line; then totals of each, and the `words` worst words of each."""
    coloured = is_coloured(out)
    if show_text and coloured:
        out.print(_legend(), soft_wrap=True)
    for text in texts:
        if show_text and text.surprisal.text:
            heading(out, text.name if len(texts) > 1 else "")
            (_coloured if coloured else _by_line)(out, text.surprisal)
            paragraphs(out, [""])
    judged = [(text.name, text.surprisal) for text in texts]
    _totals_table(out, [_totals(name, one.total, one.unknown_characters) for name, one in judged])
    for text in texts:
        _worst_words(out, text, words, title=text.name if len(texts) > 1 else "")


def _worst_words(out: Console, text: Scored, words: int, title: str) -> None:
    rows = [
        (
            cut_end(one_line(word.text), EXCERPT),
            f"{word.count:,}",
            *(figure(x, 2) for x in (word.bits_per_character, word.mean_bits, word.bits)),
        )
        for word in text.surprisal.worst_words(words)
    ]
    if rows:
        paragraphs(out, [""])
        columns = ["least expected words", "count", "bits per character", "mean bits", "total bits"]
        table(out, columns, rows, title=title, cut=cut_end)


def _legend() -> Text:
    line = Text("bits per character: ")
    for name, level in zip(NAMES, TERMINAL, strict=True):
        line.append(f" {name} ", style(level))
    return line.append("\n")


def _coloured(out: Console, surprisal: Surprisal) -> None:
    """Line by line; a line end, a tab and what would command the terminal are signs of their own colour."""
    bits = surprisal.character_nats / math.log(2)
    levels = np.searchsorted(LEVELS, bits, side="right")
    for line in surprisal.lines():
        shown = Text(overflow="fold")
        begin = line.start
        cuts = np.flatnonzero(np.diff(levels[line.start : line.end])) + line.start + 1
        for end in (*cuts.tolist(), line.end):
            shown.append("".join(map(_spaced, surprisal.text[begin:end])), style(TERMINAL[levels[begin]]))
            begin = end
        out.print(shown)


def _spaced(character: str) -> str:
    return "␉\t" if character == "\t" else sign(character)


def _by_line(out: Console, surprisal: Surprisal) -> None:
    rows = [
        (
            f"{number:,}",
            figure(line.bits, 1),
            figure(line.bits_per_character, 2),
            cut_end(one_line(surprisal.text[line.start : line.end].removesuffix("\n")), EXCERPT),
        )
        for number, line in enumerate(surprisal.lines(), 1)
    ]
    table(out, ["line", "bits", "bits per character", "text"], rows, left=3, cut=cut_end)


def _totals_table(out: Console, rows: Sequence[Sequence[str]]) -> None:
    table(out, ["", "characters", "unknown", "bits", "bits per character", "perplexity"], rows)


def _totals(name: str, total: Part, unknown: int) -> tuple[str, ...]:
    return (
        name,
        f"{total.characters:,}",
        f"{unknown:,}",
        figure(total.bits, 1),
        figure(total.bits_per_character),
        figure(total.perplexity, 3),
    )
