"""Surprisal as columns of NumPy arrays, for statistics: a row for each character, or for each word.

*Words* are parted by white space, or also by punctuation:

    space         It's "done".        It's | "done".
    punctuation   It's "done".        It's | " | done | " | .

A word by punctuation is a run of letters, digits and the marks on them; apostrophes and hyphens between them stay
inside ("don't", "well-known"), as do points and commas between digits ("3.14"). Every other character is a word of its
own.

*Blanks*, the white space between words, may be counted with the word that follows (before), with the word that precedes
(after), or not at all (none). Where there is no such word in the record, a blank is counted with the nearest. So with
before and after every character of a record that has a word is in one of them.

The *end* of a record is charged, but is no part of a word: it has a row of its own, in which the word is the end.

Entropy and rank are those of the first token of the unit (`charlm.evaluation.surprisal`) that holds the character, or
the word's first character, whatever its blanks.

Legend: C characters, W words and ends, R records.
"""

from __future__ import annotations

import math
import re
import unicodedata
from dataclasses import dataclass, fields
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from charlm.config import WordConfig
from charlm.evaluation.passages import Passage, passage_of
from charlm.evaluation.surprisal import Floats, Places, Surprisal
from charlm.text.records import end_of

Strings = NDArray[np.object_]  # of str: NumPy's own strings would drop U+0000 at their end
# What characters are to `punctuation`: l letter, d digit, m mark, j joins letters, n joins digits, s space, o other.
_KINDS: Final = {"'": "j", "’": "j", "-": "j", "\u2010": "j", "\u2011": "j", ".": "n", ",": "n"}
_PART: Final = re.compile(r"[ldm]+(?:j[ldm]+|(?<=d)n(?=d)[ldm]+)*|[jno]m*")


class _Columns:
    """A table whose fields are columns of one length."""

    __slots__ = ()

    def columns(self) -> dict[str, NDArray[Any]]:
        """The columns by name, as `pandas.DataFrame` takes them."""
        return {column.name: getattr(self, column.name) for column in fields(self)}  # type: ignore[arg-type]

    def part(self, begin: int, end: int) -> Self:
        """These rows."""
        return type(self)(**{name: column[begin:end] for name, column in self.columns().items()})

    def __len__(self) -> int:
        return len(next(iter(self.columns().values())))


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class CharacterTable(_Columns):
    """The characters of a text, in its order: each column is [C].

    character   as read, ends of records among them
    record      its number, from 1; a text is one record
    bits        -log2 of its probability; those of a unit are spread evenly over its characters
    entropy     of the model's distribution before its unit, in bits
    rank        of its unit's first token in that distribution, from 1
    """

    character: Strings
    record: Places
    bits: Floats
    entropy: Floats
    rank: Places

    def __repr__(self) -> str:
        return f"CharacterTable({len(self):,} characters: {_summary(self.bits)})"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class WordTable(_Columns):
    """The words of a text and the ends of its records, in its order: each column is [W].

    record       its number, from 1; a text is one record
    number       of the word in its record, from 1; that of the end is one more than that of the last word
    word         without blanks
    is_end       whether it is the end of a record, not a word
    characters   that are counted: those of the word, and of the blanks that go with it
    bits         their sum
    entropy      of the model's distribution before the word's first character, in bits
    rank         of that character in it, from 1
    """

    record: Places
    number: Places
    word: Strings
    is_end: NDArray[np.bool_]
    characters: Places
    bits: Floats
    entropy: Floats
    rank: Places

    def __repr__(self) -> str:
        return f"WordTable({len(self) - int(self.is_end.sum()):,} words: {_summary(self.bits)})"


def character_table(judged: Surprisal) -> CharacterTable:
    """The columns of characters; without a forecast the entropy is NaN and the rank 0."""
    return characters_in(passage_of(judged))


def characters_in(passage: Passage) -> CharacterTable:
    """The columns of a passage's characters."""
    return CharacterTable(
        character=_strings(passage.text),
        record=np.repeat(np.arange(1, len(passage.edges)), np.diff(passage.edges)),
        bits=passage.nats / math.log(2),
        entropy=passage.entropy,
        rank=passage.rank,
    )


def word_table(judged: Surprisal, config: WordConfig = WordConfig()) -> WordTable:  # noqa: B008 - frozen
    """The columns of words; without a forecast the entropy is NaN and the rank 0."""
    return words_in(passage_of(judged), config)


def words_in(passage: Passage, config: WordConfig) -> WordTable:
    """The columns of a passage's words."""
    own, edges = _spans(passage, config.words_by), passage.edges
    counted = _with_blanks(own, edges, config.blank, ends=bool(end_of(passage.records)))
    ends = _ends(passage)
    order = np.argsort(np.append(own[:, 0], ends[:, 0]), kind="stable")
    own, counted = np.concatenate([own, ends])[order], np.concatenate([counted, ends])[order]
    record = np.searchsorted(edges, own[:, 0], side="right")
    return WordTable(
        record=record,
        number=np.arange(1, len(own) + 1) - np.searchsorted(record, record),
        word=_strings([passage.text[start:end] for start, end in own.tolist()]),
        is_end=np.append(np.zeros(len(order) - len(ends), dtype=bool), np.ones(len(ends), dtype=bool))[order],
        characters=counted[:, 1] - counted[:, 0],
        bits=_sums(passage.nats, counted) / math.log(2),
        entropy=passage.entropy[own[:, 0]],
        rank=passage.rank[own[:, 0]],
    )


def _sums(nats: Floats, spans: Places) -> Floats:
    """The nats of these parts of a text [parts, 2], which are in its order and apart; none is empty."""
    return np.add.reduceat(np.append(nats, 0.0), spans.ravel())[::2] if len(spans) else np.zeros(0)


def _spans(passage: Passage, words_by: str) -> Places:
    """The first character and the end of each word, [words, 2]."""
    text, end = passage.text, end_of(passage.records)
    if words_by == "space":
        return _pairs([match.span() for match in re.finditer(rf"[^\s{end}]+", text)])
    kinds = text.translate({ord(character): _kind(character) for character in set(text)})
    if end:
        kinds = "".join("s" if one == end else kind for one, kind in zip(text, kinds, strict=True))
    return _pairs([match.span() for match in _PART.finditer(kinds)])


def _kind(character: str) -> str:
    """
    >>> "".join(map(_kind, "aß漢3²\u0301'’-., \\t!€"))
    'lllddmjjjnnssoo'
    """
    if character.isspace():
        return "s"
    category = unicodedata.category(character)
    others = {"L": "l", "M": "m", "N": "d"}.get(category[0], {"Cf": "m", "Pc": "l"}.get(category, "o"))
    return _KINDS.get(character, others)


def _ends(passage: Passage) -> Places:
    """The first character and the end of each end of a record, [R, 2]; none where the model reads one text."""
    after = passage.edges[1:] if end_of(passage.records) else np.zeros(0, dtype=np.int64)
    return np.stack([after - 1, after], axis=1)


def _with_blanks(own: Places, edges: Places, blank: str, *, ends: bool) -> Places:
    """The characters that are counted for each word, [words, 2]: its own, and the blanks that go with it."""
    if blank == "none" or not len(own):
        return own
    record = np.searchsorted(edges, own[:, 0], side="right")
    parted = np.diff(record) > 0
    first, last = np.append(True, parted), np.append(parted, True)
    before, after = np.append(0, own[:-1, 1]), np.append(own[1:, 0], 0)
    start = np.where(first, edges[record - 1], before if blank == "before" else own[:, 0])
    end = np.where(last, edges[record] - ends, own[:, 1] if blank == "before" else after)
    return np.stack([start, end], axis=1)


def _pairs(spans: list[tuple[int, int]]) -> Places:
    return np.array(spans, dtype=np.int64).reshape(-1, 2)


def _strings(parts: str | list[str]) -> Strings:
    found = np.empty(len(parts), dtype=object)
    found[:] = list(parts)
    return found


def _summary(bits: Floats) -> str:
    return f"{bits.sum():.4f} bits"
