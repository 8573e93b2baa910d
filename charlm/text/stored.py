"""Texts and token ids that lie on the disk, and are read piece by piece through memory mapping.

A stored text is a row of numbers, one for each character, in the smallest type of integer that they fit, and the
alphabet that they count through. So the character at any place is found without reading what stands before it, and the
ids of a character vocabulary are these numbers looked up in a table. `charlm.text.store` writes them.

Nothing here takes memory that grows with the text: what was read is given back to the system after `_GIVEN_BACK`
bytes. Legend: A characters of the alphabet, N places.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import weakref
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

Places = NDArray[np.int64]
Ids32 = NDArray[np.int32]
Spans = Sequence[tuple[int, int]]  # where each begins and ends

BLOCK: Final = 2**20  # characters or ids that are read at once, where all are read
_GIVEN_BACK: Final = 2**24  # bytes
_NEAR: Final = 2**10  # places from one to the next that are read at once


class Numbers:
    """The integers of a file, mapped into memory. Raises OSError, or ValueError where the file has another size."""

    def __init__(self, path: Path, kind: str, count: int) -> None:
        dtype = np.dtype(kind)
        self._file = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        weakref.finalize(self, os.close, self._file)
        size = os.stat(self._file).st_size
        if size != count * dtype.itemsize:
            raise ValueError(f"{size:,} bytes in place of {count * dtype.itemsize:,}")
        self._map = mmap.mmap(self._file, 0, access=mmap.ACCESS_READ) if count else mmap.mmap(-1, 1)
        self.path, self._all = path, np.frombuffer(self._map, dtype, count)
        self._read = 0

    def between(self, begin: int, end: int) -> NDArray[Any]:
        """A copy of these places [end - begin]."""
        return self._given_back(self._all[begin:end].copy())

    def at(self, places: Places) -> NDArray[Any]:
        """The numbers at these places (arrays of any shape)."""
        return self._given_back(self._all[places])

    def scattered(self, places: Places) -> NDArray[Any]:
        """The same, read in runs of places that ascend along the first axis, and not through the map.

        Around each place that is read through it, the system may map hundreds of thousands of bytes: where runs lie all
        over the file, that is as much memory as the file is long.
        """
        if not hasattr(os, "pread"):
            return self.at(places)
        flat = places.T.ravel()
        steps = np.diff(flat)
        edges = [0, *(np.flatnonzero((steps < 0) | (steps > _NEAR)) + 1).tolist(), len(flat)]
        found = np.empty(len(flat), dtype=self._all.dtype)
        for begin, end in pairwise(edges if len(flat) else ()):
            self._read_run(flat[begin:end], found[begin:end])
        return found.reshape(places.T.shape).T

    def _read_run(self, places: Places, found: NDArray[Any]) -> None:
        first, size = int(places[0]), found.itemsize
        count = int(places[-1]) - first + 1
        read = np.frombuffer(os.pread(self._file, count * size, first * size), dtype=found.dtype)
        found[:] = read[places - first]

    def __len__(self) -> int:
        return len(self._all)

    def _given_back(self, found: NDArray[Any]) -> NDArray[Any]:
        """The same; where much has been read, the system may take back the memory that it was mapped into."""
        self._read += found.nbytes
        if self._read >= _GIVEN_BACK and hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)
            self._read = 0
        return found


class Loaded:
    """Integers that are in memory, read in the same way."""

    def __init__(self, numbers: Places) -> None:
        self._all = numbers

    def __len__(self) -> int:
        return len(self._all)

    def between(self, begin: int, end: int) -> Places:
        return self._all[begin:end]

    def scattered(self, places: Places) -> Places:
        return self._all[places]


class StoredIds:
    """Ids [N] as they lie in spans of a file, each through a table where there is one; read-only.

    `ids[a:b]` and `ids.at(places)` are arrays of int32.
    """

    def __init__(self, numbers: Numbers, spans: Spans, table: Ids32 | None = None, *, backward: bool = False) -> None:
        self._numbers, self._spans, self._table = numbers, [span for span in spans if span[0] < span[1]], table
        self._backward = backward  # the last of them is the first one here
        self._begin = np.array([begin for begin, _ in self._spans], dtype=np.int64)
        lengths = np.array([end - begin for begin, end in self._spans], dtype=np.int64)
        self._edges = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)

    def __len__(self) -> int:
        return int(self._edges[-1])

    def __getitem__(self, part: slice) -> Ids32:
        begin, end, _ = part.indices(len(self))
        return self._looked_up(self.numbers(begin, end))

    def numbers(self, begin: int, end: int) -> NDArray[Any]:
        """What stands in the file for these places, of which there may be fewer."""
        if self._backward:
            begin, end = len(self) - end, len(self) - begin
        pieces = [self._numbers.between(*span) for span in self._between(begin, end)]
        found = pieces[0] if len(pieces) == 1 else np.concatenate(pieces or [self._numbers.between(0, 0)])
        return found[::-1].copy() if self._backward else found

    def at(self, places: Places, *, scattered: bool = False) -> Ids32:
        """The ids at these places (arrays of any shape), each from 0 to N - 1; `scattered` as `Numbers.scattered`."""
        if self._backward:
            places = len(self) - 1 - places
        if len(self._spans) > 1:
            span = np.searchsorted(self._edges, places, side="right") - 1
            places = places - self._edges[span] + self._begin[span]
        elif self._spans:
            places = places + self._begin[0]
        read = self._numbers.scattered if scattered else self._numbers.at
        return self._looked_up(read(places))

    def over(self, spans: Spans) -> StoredIds:
        """Other places of the same file."""
        return StoredIds(self._numbers, spans, self._table, backward=self._backward)

    def turned(self) -> StoredIds:
        """The same ids from the last to the first."""
        return StoredIds(self._numbers, self._spans, self._table, backward=not self._backward)

    @property
    def path(self) -> Path:
        """The file."""
        return self._numbers.path

    @property
    def name(self) -> str:
        """A name for these places of the file."""
        places = repr(self._spans) + " backward" * self._backward
        return hashlib.sha256(places.encode()).hexdigest()[:16]

    def through(self, table: Ids32) -> StoredIds:
        """The same places, each number looked up in another table."""
        return StoredIds(self._numbers, self._spans, table, backward=self._backward)

    def _between(self, begin: int, end: int) -> Iterator[tuple[int, int]]:
        """The spans of the file that hold these places."""
        first = int(np.searchsorted(self._edges, begin, side="right")) - 1
        for number in range(max(0, first), len(self._spans)):
            low, high = int(self._edges[number]), int(self._edges[number + 1])
            if low >= end:
                break
            shift = self._spans[number][0] - low
            if max(low, begin) < min(high, end):
                yield max(low, begin) + shift, min(high, end) + shift

    def _looked_up(self, found: NDArray[Any]) -> Ids32:
        return found.astype(np.int32) if self._table is None else self._table[found]


class StoredText:
    """One part of a corpus on the disk, read like a string: `len(text)`, `text[a:b]`, `str(text)`.

    folder      of the store, where ids of other tokenizers can be kept
    codes       the number of each character [N]: 1 for the first of the alphabet; 0 never occurs
    alphabet    code points [A]
    counts      how often each occurs here [A]
    words       white-space-separated runs, and line ends; None where they were not counted
    """

    def __init__(
        self, folder: Path, codes: StoredIds, alphabet: Ids32, counts: Places, words: int | None = None
    ) -> None:
        self.folder, self.codes, self.alphabet, self.counts, self.words = folder, codes, alphabet, counts, words
        self._in_16_bits = not len(alphabet) or int(alphabet.max()) < 0x10000
        self._points = np.concatenate([[0], alphabet]).astype("<u2" if self._in_16_bits else "<u4")

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, part: slice) -> str:
        begin, end, _ = part.indices(len(self))
        return self.spelled(self.codes.numbers(begin, end))

    def spelled(self, codes: NDArray[Any]) -> str:
        """The characters that have these numbers."""
        points = self._points.take(codes, mode="clip")  # none is clipped: it is faster
        return str(points.data, "utf-16-le" if self._in_16_bits else "utf-32-le")

    def __str__(self) -> str:
        return "".join(blocks_of(self))

    def turned(self) -> StoredText:
        """The same text from its last character to its first."""
        return StoredText(self.folder, self.codes.turned(), self.alphabet, self.counts, self.words)

    @property
    def name(self) -> str:
        """A name for this text, which no other one has."""
        return f"{self.folder.name}/{self.codes.name}"

    @property
    def bytes(self) -> int:
        """Its length in UTF-8."""
        return int(lengths_in_utf8(self.alphabet) @ self.counts)

    def count(self) -> Mapping[str, int]:
        """How often each character occurs, of those that do."""
        return {chr(point): int(n) for point, n in zip(self.alphabet, self.counts, strict=True) if n}


Text: TypeAlias = str | StoredText


def lengths_in_utf8(points: NDArray[Any]) -> Places:
    """How many bytes of UTF-8 each of these code points takes (arrays of any shape)."""
    return np.ones(points.shape, dtype=np.int64) + (points >= 0x80) + (points >= 0x800) + (points >= 0x10000)


def blocks_of(text: Text, size: int = BLOCK) -> Iterator[str]:
    """A text in pieces of so many characters.

    >>> list(blocks_of("emma", 3))
    ['emm', 'a']
    """
    return (text[at : at + size] for at in range(0, len(text), size))


def position_of(text: Text, character: str, begin: int) -> int:
    """Where this character stands first from `begin` on; raises ValueError where it does not.

    >>> position_of("a b c", " ", 2)
    3
    """
    if isinstance(text, str):
        return text.index(character, begin)
    for at in range(begin, len(text), BLOCK):
        if (found := text[at : at + BLOCK].find(character)) >= 0:
            return at + found
    raise ValueError(f"there is no {character!r}")


def line_blocks(text: Text, size: int = 0) -> Iterator[str]:
    """A text in pieces of at most so many characters (0: `BLOCK`), which end with a line or a record (U+0003) where one
    ends in them.

    >>> list(line_blocks("one\\ntwo\\nseventeen", 5))
    ['one\\n', 'two\\n', 'seven', 'teen']
    """
    at, size = 0, size or BLOCK
    while at < len(text):
        piece = text[at : at + size]
        if at + len(piece) < len(text):
            piece = piece[: max(map(piece.rfind, "\n\x03")) + 1] or piece
        yield piece
        at += len(piece)


def characters_of(text: Text) -> frozenset[str]:
    """The different characters of a text."""
    return frozenset(text if isinstance(text, str) else text.count())
