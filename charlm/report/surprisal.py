"""How surprisal is shown: the levels and colours that terminal and page share, the coloured text, the CSV.

Six levels, each from twice as many bits a character as the one below, so that a text's character shows at a glance.
In each palette lightness goes one way from level to level, so that their order can be seen with any eyes, and every
level brings its own background and letters, so that it does not depend on what the terminal's are.

Where there are no colours (a pipe, NO_COLOR), every line of the text comes with its totals instead.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from rich.text import Text

from charlm.evaluation.surprisal import PositionLoss, Surprisal
from charlm.report.console import Console, heading, paragraphs, table
from charlm.report.tables import cut_end
from charlm.report.words import figure, one_line

LEVELS: Final = (0.5, 1.0, 2.0, 4.0, 8.0)  # bits a character at which the next of six levels begins
NAMES: Final = ("under ½", "½ to 1", "1 to 2", "2 to 4", "4 to 8", "8 bits and more")
# Background and letters of each level. On a page the more surprising is further from the paper, darker on white and
# lighter on black; a terminal's paper is unknown, and these are six of its 256 colours.
LIGHT: Final = (
    ("#ffffff", "#1b1b1f"),
    ("#fdf0c8", "#1b1b1f"),
    ("#fbcf7a", "#1b1b1f"),
    ("#f0955a", "#1b1b1f"),
    ("#b5386a", "#ffffff"),
    ("#47156c", "#ffffff"),
)
DARK: Final = (
    ("#15161c", "#d8d9e0"),
    ("#2d2452", "#e6e6f0"),
    ("#612b7a", "#ffffff"),
    ("#a83a72", "#ffffff"),
    ("#f0925c", "#15161c"),
    ("#fbe68a", "#15161c"),
)
TERMINAL: Final = (
    ("#00005f", "#d7d7ff"),
    ("#005f87", "#ffffff"),
    ("#008787", "#000000"),
    ("#5faf5f", "#000000"),
    ("#afd75f", "#000000"),
    ("#ffff5f", "#000000"),
)
EXCERPT: Final = 60  # cells of a line, or of a word, beside its totals


class Scored(NamedTuple):
    """A text under its name, with its surprisal and, if asked for, its losses by place since a cold start."""

    name: str
    surprisal: Surprisal
    losses: tuple[PositionLoss, ...] = ()


def level(bits: float) -> int:
    """The level of so many bits a character, 0 to 5.

    >>> level(0.2), level(1.0), level(7.9), level(30)
    (0, 2, 4, 5)
    """
    return sum(bits >= bound for bound in LEVELS)


def sign(character: str) -> str:
    """What stands for a character where each has to be seen: a line end and a tab, too.

    >>> sign("a"), sign("\\n"), sign("\\x1b")
    ('a', '↵', '␛')
    """
    return "↵" if character == "\n" else one_line(character)


def surprisal_report(out: Console, texts: Sequence[Scored], *, words: int = 10, show_text: bool = True) -> None:
    """The texts, coloured or line by line; then totals of each, and the `words` worst words of each."""
    coloured = out.is_terminal and out.color_system is not None and not out.no_color
    if show_text and coloured:
        out.print(_legend(), soft_wrap=True)
    for text in texts:
        if show_text and text.surprisal.text:
            heading(out, text.name if len(texts) > 1 else "")
            (_coloured if coloured else _by_line)(out, text.surprisal)
            paragraphs(out, [""])
    table(out, ["", "characters", "unknown", "bits", "bits per character", "perplexity"], list(map(_totals, texts)))
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
        columns = ["worst words", "times", "bits per character", "bits each time", "bits in all"]
        table(out, columns, rows, title=title, cut=cut_end)


def _legend() -> Text:
    line = Text("bits per character: ")
    for name, (back, ink) in zip(NAMES, TERMINAL, strict=True):
        line.append(f" {name} ", f"{ink} on {back}")
    return line.append("\n")


def _coloured(out: Console, judged: Surprisal) -> None:
    """Line by line; a line end, a tab and what would command the terminal are signs of their own colour."""
    bits = judged.character_nats / math.log(2)
    levels = np.searchsorted(LEVELS, bits, side="right")
    for line in judged.lines():
        shown = Text(overflow="fold")
        begin = line.start
        cuts = np.flatnonzero(np.diff(levels[line.start : line.end])) + line.start + 1
        for end in (*cuts.tolist(), line.end):
            back, ink = TERMINAL[levels[begin]]
            shown.append("".join(map(_spaced, judged.text[begin:end])), f"{ink} on {back}")
            begin = end
        out.print(shown)


def _spaced(character: str) -> str:
    return "␉\t" if character == "\t" else sign(character)


def _by_line(out: Console, judged: Surprisal) -> None:
    rows = [
        (
            f"{number:,}",
            figure(line.bits, 1),
            figure(line.bits_per_character, 2),
            cut_end(one_line(judged.text[line.start : line.end].removesuffix("\n")), EXCERPT),
        )
        for number, line in enumerate(judged.lines(), 1)
    ]
    table(out, ["line", "bits", "bits per character", "text"], rows, left=3, cut=cut_end)


def _totals(text: Scored) -> tuple[str, ...]:
    total = text.surprisal.total
    return (
        text.name,
        f"{total.characters:,}",
        f"{text.surprisal.unknown_characters:,}",
        figure(total.bits, 1),
        figure(total.bits_per_character),
        figure(total.perplexity, 3),
    )


def character_csv(texts: Sequence[Scored]) -> str:
    """A row for each character: its offset from 0, the character, its bits; with several texts, also the text's name.

    A backslash is doubled; line ends, tabs and what is not safe to print are written as in Python: \\n, \\x1b, \\u202e.
    Bits of a token that is several characters are spread evenly over them; where they are not finite, there is nothing.

    >>> _written("a"), _written("\\\\"), _written("\\n"), _written("\\u202e")
    ('a', '\\\\\\\\', '\\\\n', '\\\\u202e')
    """
    several = len(texts) > 1
    written = io.StringIO()
    writer = csv.writer(written, lineterminator="\n")
    writer.writerow(["offset", "character", "bits", *["text"] * several])
    for text in texts:
        known = {character: _written(character) for character in set(text.surprisal.text)}
        name = [one_line(text.name)] * several
        values = (text.surprisal.character_nats / math.log(2)).tolist()
        for offset, (character, bits) in enumerate(zip(text.surprisal.text, values, strict=True)):
            writer.writerow([offset, known[character], f"{bits:.9g}" if math.isfinite(bits) else "", *name])
    return written.getvalue()


def _written(character: str) -> str:
    if character == "\\" or one_line(character) != character:
        return character.encode("unicode_escape").decode()
    return character
