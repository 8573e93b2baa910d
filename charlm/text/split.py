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
from statistics import median
from typing import Final, NamedTuple, Protocol

CHARACTERS: Final = "characters"
FILES: Final = "files"
RECORDS: Final = "records"  # each as a whole, also by its hash: `charlm.text.records`
WAYS: Final = (CHARACTERS, FILES, RECORDS)

MANY: Final = 20  # files of different content that are held out whole, however long they are
SEVERAL: Final = 10  # the same where they are short
SHORT: Final = 10_000  # characters: a median below it makes files short
_LARGE: Final = Fraction(1, 4)  # of the text: a larger file stays in training, or it would be most of what is held out
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
    low = max(1, sum(_place(sha256) < val for sha256 in ranked)) if val else 0
    high = max(1, sum(_place(sha256) >= 1 - test for sha256 in ranked)) if test else 0
    spare = len(ranked) - all(file.characters <= _LARGE * total for file in files)  # something is left to train on
    low = max(0, min(low, spare - bool(test)))
    high = max(0, min(high, spare - low))
    return frozenset(ranked[:low]), frozenset(ranked[len(ranked) - high :])


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
