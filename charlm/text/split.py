"""Which part of a text is for training, which for validation, and which for the test.

Shares of a text are held out in one of two ways:

    characters   each file is cut: first comes its training text, then its validation text, and last its test text
    files        no file is cut: the hash of its content decides which part it belongs to, as a whole

The end of a short file is no text to validate on, so where files are many or short they are held out whole. A file's
part depends on nothing but its content, so adding a file, renaming one or moving the folder moves no other file.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from math import ceil
from statistics import median
from typing import Final, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

CHARACTERS: Final = "characters"
FILES: Final = "files"
RECORDS: Final = "records"  # each as a whole, also by its hash: `charlm.text.records`
WAYS: Final = (CHARACTERS, FILES, RECORDS)

MANY: Final = 20  # files of different content that are held out whole, however long they are
SEVERAL: Final = 10  # the same where they are short
SHORT: Final = 10_000  # characters: a median below it makes files short
_LARGE: Final = Fraction(1, 4)  # of the text: a larger file stays in training, or it would be most of what is held out
_FEW: Final = 8  # hashes at either end of a range, and longest texts, that decide what is held out
_FEWEST: Final = 3  # files with which there is one for each part


class File(Protocol):
    """What a split depends on; `charlm.text.corpus.Source` has it."""

    @property
    def characters(self) -> int: ...

    @property
    def sha256(self) -> str: ...


class Cut(NamedTuple):
    """A file's parts: text[:train] is for training, text[train:val] for validation, text[val:] for the test."""

    train: int
    val: int


def split_point(characters: int, share: float | Fraction) -> int:
    """Number of characters before the last `share` of them, computed exactly from the share's decimal digits.

    Floating point would lose characters: 1 - 0.9 is less than 0.1.

    >>> split_point(10, 0.9), int(10 * (1 - 0.9))
    (1, 0)
    """
    return int(characters * (1 - _exact(share)))


def way_of(files: Sequence[File], wanted: str | None = None) -> str:
    """How these files are split: as wanted, where that can be done, or as suits them.

    >>> from types import SimpleNamespace as File
    >>> way_of([File(characters=143, sha256=f"{k:064x}") for k in range(10)])
    'files'
    >>> way_of([File(characters=90_000, sha256=f"{k:064x}") for k in range(10)])
    'characters'
    """
    lengths = {file.sha256: file.characters for file in files if file.characters}
    if wanted is not None:
        return wanted if len(lengths) >= _FEWEST else CHARACTERS
    many = len(lengths) >= MANY
    short = len(lengths) >= SEVERAL and median(lengths.values()) < SHORT
    return FILES if many or short else CHARACTERS


def cuts(files: Sequence[File], val: float, test: float, way: str) -> list[Cut]:
    """Where each file is cut, so that about these shares of the text are held out."""
    if way == CHARACTERS or not (val or test):
        both = _exact(val) + _exact(test)
        return [Cut(split_point(file.characters, both), split_point(file.characters, test)) for file in files]
    validation, tested = _chosen(files, _exact(val), _exact(test))
    return [
        Cut(0, file.characters * (file.sha256 in validation))
        if file.sha256 in validation or file.sha256 in tested
        else Cut(file.characters, file.characters)
        for file in files
    ]


def _chosen(files: Sequence[File], val: Fraction, test: Fraction) -> tuple[frozenset[str], frozenset[str]]:
    """The hashes of the files that are held out for validation, and of those for the test.

    As numbers from 0 to 1 hashes are spread evenly: those below `val` are for validation, those from 1 - `test` on for
    the test, so that adding a test moves no file into validation or out of it. Of few files there may be none in such a
    range; then it is the one nearest to it.
    """
    total = sum(file.characters for file in files)
    ranked = sorted({file.sha256 for file in files if 0 < file.characters <= _LARGE * total})
    low, high = _counts(ranked, val, test, any(file.characters > _LARGE * total for file in files))
    return frozenset(ranked[:low]), frozenset(ranked[len(ranked) - high :])


def _counts(ranked: Sequence[str], val: Fraction, test: Fraction, has_larger: bool) -> tuple[int, int]:
    """How many of these hashes are held out for validation, from the first on, and for the test, up to the last.

    Something is left to train on: one of them, or what is larger.
    """
    low = max(1, sum(_place(sha256) < val for sha256 in ranked)) if val else 0
    high = max(1, sum(_place(sha256) >= 1 - test for sha256 in ranked)) if test else 0
    spare = len(ranked) - (not has_larger)
    low = max(0, min(low, spare - bool(test)))
    return low, max(0, min(high, spare - low))


class HeldOut(NamedTuple):
    """Which of many texts `cuts` holds out whole, by the first 64 bits of their hashes, and by their lengths."""

    last_val: int  # a smaller one, or this, is for validation; -1: none is
    first_test: int  # a larger one, or this, is for the test; 2**64: none is
    longest: int  # characters of a text that can be held out


class Chooser:
    """Finds which of many texts `cuts` would hold out, in one pass, and in memory that does not grow with their number.

    What it depends on is kept: of each of three ranges of hashes (for validation, for training, for the test) those
    nearest to its ends, and the longest texts. One that is larger than a quarter of all is not held out, and of such
    there are at most three; something is always left to train on. Both can only change what happens near those ends.
    """

    def __init__(self, val: float, test: float) -> None:
        self._val, self._test = _exact(val), _exact(test)
        bounds = [0, ceil(self._val * 2**64), ceil((1 - self._test) * 2**64), 2**64]
        self._ranges = [_Range(begin, end - 1) for begin, end in pairwise(bounds) if begin < end]
        self._longest: dict[bytes, int] = {}
        self.characters = 0

    def push(self, digests: Sequence[bytes], lengths: NDArray[np.int64]) -> NDArray[np.uint64]:
        """The next texts: their SHA-256 [R], and their lengths [R]; returns the first 64 bits of the former."""
        keys = np.frombuffer(b"".join(digests), dtype=">u8")[::4].astype(np.uint64)
        for one in self._ranges:
            one.push(digests, keys)
        for number in np.argsort(lengths)[-_FEW:].tolist():
            self._longest[digests[number]] = int(lengths[number])
        kept = sorted(self._longest.items(), key=lambda one: one[1])[-_FEW:]
        self._longest, self.characters = dict(kept), self.characters + int(lengths.sum())
        return keys

    def found(self) -> HeldOut:
        """Which of all of them are held out."""
        longest = self.characters // _LARGE.denominator
        large = {digest for digest, length in self._longest.items() if length > longest}
        ranked = sorted(digest.hex() for one in self._ranges for digest in one.kept if digest not in large)
        low, high = _counts(ranked, self._val, self._test, bool(large))
        last_val = int(ranked[low - 1][:16], 16) if low else -1
        return HeldOut(last_val, int(ranked[-high][:16], 16) if high else 2**64, longest)


class _Range:
    """Hashes from `first` to `last`, by their first 64 bits: those nearest to either end."""

    def __init__(self, first: int, last: int) -> None:
        self.kept: list[bytes] = []
        self._outer = np.array([first, last], dtype=np.uint64)
        self._inner = self._outer[::-1].copy()  # what lies between these two is not kept

    def push(self, digests: Sequence[bytes], keys: NDArray[np.uint64]) -> None:
        inside = (keys >= self._outer[0]) & (keys <= self._outer[1])
        new = np.flatnonzero(inside & ((keys <= self._inner[0]) | (keys >= self._inner[1])))
        found = sorted({*self.kept, *(digests[number] for number in new.tolist())})
        self.kept = found
        if len(found) > 2 * _FEW:
            self.kept = [*found[:_FEW], *found[-_FEW:]]
            ends = found[_FEW - 1], found[-_FEW]
            self._inner = np.array([int.from_bytes(digest[:8], "big") for digest in ends], dtype=np.uint64)


def _place(sha256: str) -> Fraction:
    return Fraction(int(sha256[:16], 16), 2**64)


def _exact(share: float | Fraction) -> Fraction:
    return Fraction(str(share))


def describe(files: Sequence[File], parts: Sequence[Cut]) -> str:
    """How many files are held out, in words: `validation: 210 of 2,096 files, chosen by hash`."""
    pairs = [(file.characters, cut) for file, cut in zip(files, parts, strict=True) if file.characters]
    counts = {
        "validation": sum(cut.train < cut.val for _, cut in pairs),
        "test": sum(cut.val < characters for characters, cut in pairs),
    }
    first, *others = [f"{part}: {count:,}" for part, count in counts.items() if count] or ["validation: 0"]
    return "; ".join([f"{first} of {len(pairs):,} files, chosen by hash", *others])
