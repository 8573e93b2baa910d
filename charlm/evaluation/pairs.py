"""Minimal pairs: which of two texts a model finds likelier, and how often that is the better one.

Each text is read by itself, from the initial state, in its `Frame`:

    a model of records      the text and its end, which is charged: the text is a record
    a model of one text     a line end that is read but not charged, the text, and a line end that is charged: the text
                            is a line. Where the vocabulary has no line end there is none

The end is charged because otherwise no text could be less likely than one that begins like it: "The girl sleep" would
always be likelier than "The girl sleeps". Where texts break off in the middle of a sentence, a line end there is as
unlikely for the one as for the other, and only blurs the difference; a blank is the better end of a last word.

The text with fewer bits is the likelier one: in all, or per character, the charged end being one of them. A difference
below `TIE` is a tie, which counts half, so that guessing gives 50 %. That is how far rounding may move the bits of a
text; texts are tied, for example, if they differ in unseen characters alone.

The interval of an accuracy is Wilson's (1927, "Probable inference, the law of succession, and statistical inference"),
which takes the pairs to be independent. For p correct of n pairs, with z = 1.96,

    (p + z^2 / 2 ± z sqrt(p (n - p) / n + z^2 / 4)) / (n + z^2)

A bootstrap of the pairs agrees with it where there are many, but has no width where all or none are correct.

This module knows nothing of files or printing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from charlm.errors import DataError
from charlm.text.pairs import MinimalPair
from charlm.text.records import end_of
from charlm.text.tokenizer import Tokenizer

TIE: Final = 1e-4  # bits
_Z: Final = 1.959963984540054  # standard deviations within which 95 % of a normal distribution lie
_LINE_END: Final = "\n"


def wilson(p: float, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share, where p of n independent trials had success.

    >>> [round(edge, 4) for edge in wilson(8, 10)]
    [0.4902, 0.9433]
    """
    middle, half = p + _Z**2 / 2, _Z * math.sqrt(p * (n - p) / n + _Z**2 / 4)
    return max(0.0, (middle - half) / (n + _Z**2)), min(1.0, (middle + half) / (n + _Z**2))


class Frame(NamedTuple):
    """What stands around each text: `before` is read and not charged, `end` is charged."""

    before: str
    end: str


def frame_of(tokenizer: Tokenizer, records: str, end: str | None = None) -> Frame:
    """The frame of texts for a model that reads such records; `end` replaces the usual one.

    >>> from charlm.text.tokenizer import CharTokenizer
    >>> lines, names = CharTokenizer.train("two\\nlines"), CharTokenizer.train("emma")
    >>> frame_of(lines, "none"), frame_of(names, "none"), frame_of(lines, "line")
    (Frame(before='\\n', end='\\n'), Frame(before='', end=''), Frame(before='', end='\\n'))
    """
    own = end_of(records)
    line = "" if own or len(tokenizer.encode(_LINE_END).escaped) else _LINE_END
    return Frame(line, (own or line) if end is None else end)


def check_one_record(pairs: Sequence[MinimalPair], records: str) -> None:
    """Raise DataError for a text that has the end of a record in it, where a model reads records."""
    end = end_of(records)
    for number, pair in enumerate(pairs if end else (), 1):
        if end in pair.better + pair.worse:
            raise DataError(
                f"a text of pair {number} has {end!r} in it, which ends a record: it is no record of the model's",
                kept="nothing was scored",
                hint="remove it, or use --records none",
            )


class TextBits(NamedTuple):
    """The bits of a text, and the characters that they are charged for: its own, and its end."""

    bits: float
    characters: int
    unknown_characters: int

    @property
    def per_character(self) -> float:
        return self.bits / self.characters


@dataclass(frozen=True, slots=True)
class JudgedPair:
    """A pair with the bits of both texts."""

    pair: MinimalPair
    better: TextBits
    worse: TextBits
    per_character: bool = False

    @property
    def correct(self) -> float:
        """1 if the better text is the likelier one, 0 if it is not, 0.5 for a tie."""
        more = self.worse.bits - self.better.bits
        if self.per_character:
            more = (self.worse.per_character - self.better.per_character) * self.better.characters
        return 1.0 if more > TIE else 0.0 if more < -TIE else 0.5


def judge(
    tokenizer: Tokenizer,
    pairs: Sequence[MinimalPair],
    frame: Frame,
    nats: Sequence[NDArray[np.floating[Any]]],
    *,
    per_character: bool = False,
) -> Iterator[JudgedPair]:
    """The pairs with their bits, from the nats of each token of their texts in their frames: better, worse, better."""
    skipped = len(tokenizer.encode(frame.before).ids)
    bits = [float(own[skipped:].sum(dtype=np.float64)) / math.log(2) for own in nats]
    for pair, better, worse in zip(pairs, bits[::2], bits[1::2], strict=True):
        one, other = (
            TextBits(own, len(text + frame.end), len(tokenizer.encode(text + frame.end).escaped))
            for own, text in ((better, pair.better), (worse, pair.worse))
        )
        yield JudgedPair(pair, one, other, per_character)


@dataclass(frozen=True, slots=True)
class Accuracy:
    """How many of some pairs are judged correctly; ties count half.

    >>> found = Accuracy(pairs=10, correct=8.0, ties=0)
    >>> found.accuracy, [round(edge, 4) for edge in found.interval]
    (0.8, [0.4902, 0.9433])
    """

    pairs: int
    correct: float
    ties: int

    @classmethod
    def of(cls, judged: Sequence[JudgedPair]) -> Accuracy:
        results = [one.correct for one in judged]
        return cls(len(results), sum(results), results.count(0.5))

    @property
    def accuracy(self) -> float:
        return self.correct / self.pairs

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of the accuracy."""
        return wilson(self.correct, self.pairs)

    def record(self) -> dict[str, object]:
        """The figures for JSON."""
        low, high = self.interval
        return {
            "pairs": self.pairs,
            "correct": int(self.correct) if self.correct.is_integer() else self.correct,
            "ties": self.ties,
            "accuracy": self.accuracy,
            "low": low,
            "high": high,
        }


@dataclass(frozen=True, slots=True)
class PairScores:
    """Pairs as a model judges them, in the order in which they were given.

    >>> judged = JudgedPair(MinimalPair("it is", "it are", "copula"), TextBits(9, 6, 0), TextBits(14, 7, 0))
    >>> PairScores((judged, judged), Frame("", ".")).total.accuracy
    1.0
    """

    judged: tuple[JudgedPair, ...]
    frame: Frame

    def __repr__(self) -> str:
        total = self.total
        low, high = total.interval
        return (
            f"PairScores({total.pairs:,} pairs: {total.correct:g} correct, accuracy {total.accuracy:.3f}, "
            f"95 % interval {low:.3f} to {high:.3f})"
        )

    @property
    def total(self) -> Accuracy:
        """The accuracy over all pairs."""
        return Accuracy.of(self.judged)

    @property
    def by_group(self) -> dict[str, Accuracy]:
        """The accuracy over the pairs of each group, in the order in which groups first occur; none without groups."""
        groups: dict[str, list[JudgedPair]] = {}
        for one in self.judged:
            groups.setdefault(one.pair.group, []).append(one)
        return {} if groups.keys() <= {""} else {name: Accuracy.of(judged) for name, judged in groups.items()}

    @property
    def unknown_characters(self) -> int:
        """Characters of all texts that do not occur in the training text."""
        return sum(one.better.unknown_characters + one.worse.unknown_characters for one in self.judged)

    def record(self) -> dict[str, object]:
        """The figures for JSON."""
        groups = [{"group": name, **found.record()} for name, found in self.by_group.items()]
        return {**self.total.record(), "unknown_characters": self.unknown_characters, "by_group": groups}
