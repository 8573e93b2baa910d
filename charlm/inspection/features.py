"""Features of a text that a cell may follow: for each character a number that holds once it has been read [C].

    quotation     1 inside quotation marks, else 0
    brackets      how many of ( [ { are open
    line          characters of the line so far
    indentation   blanks at the beginning of the line so far
    word          letters and digits of the word so far
    word length   length of the word that the character is in; 0 outside of words

What a mark opens is over at a blank line: a mark that was forgotten does not turn the rest of the text inside out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]
_EITHER: Final = '"'  # opens and closes
_OPENING: Final = "“„«"
_CLOSING: Final = "”»"
_OPEN: Final = "([{"
_CLOSE: Final = ")]}"
_ENDS: Final = "\n\x03"  # of a line, and of a record
_WORD: Final = re.compile(r"[^\W_]+")


class Feature(NamedTuple):
    """How its value at each character of a text is found, and what it is in words."""

    values: Callable[[str], Iterator[int]]
    about: str
    binary: bool = False


def _paragraphs(text: str) -> Iterator[tuple[str, bool]]:
    """Each character, and whether a blank line ends with it."""
    empty = False
    for character in text:
        ends = character in _ENDS
        yield character, ends and empty
        empty = ends or (empty and character in " \t\r")


def _quotation(text: str) -> Iterator[int]:
    """
    >>> list(map(int, _quotation('a "b" c')))
    [0, 0, 1, 1, 0, 0, 0]
    """
    inside = False
    for character, over in _paragraphs(text):
        if over or character in _CLOSING:
            inside = False
        elif character in _OPENING:
            inside = True
        elif character == _EITHER:
            inside = not inside
        yield inside


def _brackets(text: str) -> Iterator[int]:
    """
    >>> list(_brackets("f(a[0])"))
    [0, 1, 1, 2, 2, 1, 0]
    """
    depth = 0
    for character, over in _paragraphs(text):
        depth += (character in _OPEN) - (character in _CLOSE)
        depth = 0 if over else max(0, depth)
        yield depth


def _line(text: str) -> Iterator[int]:
    position = 0
    for character in text:
        position = 0 if character in _ENDS else position + 1
        yield position


def _indentation(text: str) -> Iterator[int]:
    """
    >>> list(_indentation("a b\\n  c d"))
    [0, 0, 0, 0, 1, 2, 2, 2, 2]
    """
    blanks, leading = 0, True
    for character in text:
        if character in _ENDS:
            blanks, leading = 0, True
        elif leading:
            leading = character in " \t"
            blanks += leading
        yield blanks


def _word(text: str) -> Iterator[int]:
    for size, place in _words(text):
        yield place if size else 0


def _word_length(text: str) -> Iterator[int]:
    for size, _ in _words(text):
        yield size


def _words(text: str) -> Iterator[tuple[int, int]]:
    """For each character the length of its word and its place in it from 1; zeros outside of words.

    >>> list(_words("to be"))
    [(2, 1), (2, 2), (0, 0), (2, 1), (2, 2)]
    """
    at = 0
    for word in _WORD.finditer(text):
        yield from ((0, 0) for _ in range(at, word.start()))
        size, at = word.end() - word.start(), word.end()
        yield from ((size, place) for place in range(1, size + 1))
    yield from ((0, 0) for _ in range(at, len(text)))


FEATURES: Final[Mapping[str, Feature]] = {
    "quotation": Feature(_quotation, "inside quotation marks", binary=True),
    "brackets": Feature(_brackets, "depth of brackets"),
    "line": Feature(_line, "position in the line"),
    "indentation": Feature(_indentation, "indentation of the line"),
    "word": Feature(_word, "position in the word"),
    "word length": Feature(_word_length, "length of the word"),
}


def feature(name: str, text: str) -> Numbers:
    """A feature of this name, at each character of a text [C]."""
    return np.fromiter(FEATURES[name].values(text), dtype=np.float64, count=len(text))
