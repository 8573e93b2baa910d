"""What a user should know of the files of a corpus: oddities of their text, and which files were skipped.

Of many files of a kind one line is made, with the first few by name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Final, NamedTuple

_C1: Final = re.compile("[\x80-\x9f]")
_NAMED: Final = 3  # of many files
_SINGLY: Final = 5  # skipped files of a kind that get a line each
_LINES: Final = 200  # from which a list is long,
_LENGTH: Final = 40  # characters of a line up to which it is a list, on average,
_ORDERED: Final = 0.99  # and pairs of neighbours in order from which it is sorted
_LOOK: Final = 100_000  # characters at either end by which a text is judged


class Remark(NamedTuple):
    """Something about one file; `what` is the rest of a sentence that begins with its name."""

    name: str
    what: str


class Skipped(NamedTuple):
    """A file or folder of a corpus that is not read, and why."""

    name: str
    why: str

    @property
    def kind(self) -> str:
        """The reason, as far as it is the same for several files."""
        return self.why.partition(" at byte ")[0]

    def __str__(self) -> str:
        return f"{self.name}: {self.why}"


def remarks_on(name: str, text: str) -> Iterator[Remark]:
    """What is odd about the text of a file."""
    return _remarks(
        name,
        mark=text.startswith("\ufeff"),
        crlf="\r\n" in text,
        cr="\r" in text,
        nul="\0" in text,
        c1=not text.isascii() and _C1.search(text) is not None,
        listed=is_sorted_list(text),
    )


def _remarks(name: str, *, mark: bool, crlf: bool, cr: bool, nul: bool, c1: bool, listed: bool) -> Iterator[Remark]:
    if mark:
        yield Remark(name, "begins with a byte order mark, kept as a character")
    if crlf:
        yield Remark(name, "has CR LF line ends, kept as they are")
    elif cr:
        yield Remark(name, "has CR line ends, kept as they are")
    if nul:
        yield Remark(name, "has NUL characters, kept as they are")
    if c1:
        yield Remark(
            name, "has C1 control characters (U+0080 to U+009F), as where cp1252 was read as latin1: see --encoding"
        )
    if listed:
        yield Remark(
            name,
            "has its lines in alphabetical order, so that each tells the first letters of the next: "
            "the loss is better than on other lines; shuffle them first (shuf)",
        )


class Look:
    """Looks at a text that is read in pieces, for the same remarks."""

    def __init__(self, name: str) -> None:
        self._name, self._length, self._first, self._last, self._crlf = name, 0, "", "", False

    def push(self, text: str) -> None:
        """The next piece, of one character at least."""
        self._crlf |= ("\r" in text and "\r\n" in text) or (self._last[-1:] == "\r" and text[0] == "\n")
        if len(self._first) < 2 * _LOOK:
            self._first += text[: 2 * _LOOK - len(self._first)]
        self._last = text[-_LOOK:] if len(text) >= _LOOK else (self._last + text)[-_LOOK:]
        self._length += len(text)

    @property
    def end(self) -> str:
        """Its last character."""
        return self._last[-1:]

    def remarks(self, characters: frozenset[str]) -> Iterator[Remark]:
        """What is odd about the text, which has these characters."""
        ends = (self._first,) if self._length <= 2 * _LOOK else (self._first[:_LOOK], self._last)
        return _remarks(
            self._name,
            mark=self._first.startswith("\ufeff"),
            crlf=self._crlf,
            cr="\r" in characters,
            nul="\0" in characters,
            c1=any("\x80" <= character <= "\x9f" for character in characters),
            listed=all(map(_sorted_lines, ends)),
        )


def is_sorted_list(text: str) -> bool:
    """Whether a text is a long list of short lines in alphabetical order, such as names.

    Long: from 200 lines. Short: 40 characters or fewer on average. In order, with or without regard to capitals: 99 of
    100 neighbours, of which at least half differ. Of a longer text both ends are looked at, 100,000 characters each.
    """
    ends = (text,) if len(text) <= 2 * _LOOK else (text[:_LOOK], text[-_LOOK:])
    return all(map(_sorted_lines, ends))


def _sorted_lines(text: str) -> bool:
    lines = [line for line in text.splitlines() if line.strip()]
    if len(lines) < _LINES or len(text) > _LENGTH * len(lines):
        return False
    different = sum(first != second for first, second in pairwise(lines))
    return different >= len(lines) / 2 and (_in_order(lines) or _in_order([line.casefold() for line in lines]))


def _in_order(lines: list[str]) -> bool:
    return sum(first <= second for first, second in pairwise(lines)) >= _ORDERED * (len(lines) - 1)


def fold(remarks: Iterable[Remark | str]) -> Iterator[str]:
    """One line for each kind of remark, however many files it is about; other remarks as they are.

    >>> list(fold([Remark("a", "has x"), "so be it", Remark("b", "has x")]))
    ['a and b have x', 'so be it']
    """
    names: dict[str, list[str]] = {}
    for remark in remarks:
        if isinstance(remark, Remark):
            names.setdefault(remark.what, []).append(remark.name)
        else:
            names.setdefault(remark, [])
    for what, about in names.items():
        yield f"{_listed(about)} {what if len(about) == 1 else _plural(what)}" if about else what


def fold_skipped(skipped: Iterable[Skipped]) -> Iterator[str]:
    """A line for each file that was skipped; but one for all of a kind where there are many."""
    kinds: dict[str, list[Skipped]] = {}
    for one in sorted(skipped, key=str):
        kinds.setdefault(one.kind, []).append(one)
    many = {kind: group for kind, group in kinds.items() if len(group) > _SINGLY}
    yield from sorted(f"skipped {one}" for group in kinds.values() if len(group) <= _SINGLY for one in group)
    for kind, group in many.items():
        yield f"skipped {len(group):,} files ({kind}): {_listed([one.name for one in group])}"


def _listed(names: list[str]) -> str:
    """
    >>> _listed(["a", "b"]), _listed(list("abcdef"))
    ('a and b', 'a, b, c and 3 more')
    """
    shown = names if len(names) <= _NAMED + 1 else [*names[:_NAMED], f"{len(names) - _NAMED:,} more"]
    return " and ".join(filter(None, [", ".join(shown[:-1]), shown[-1]]))


def _plural(what: str) -> str:
    """
    >>> _plural("has its lines"), _plural("begins with")
    ('have their lines', 'begin with')
    """
    verb, _, rest = what.partition(" ")
    return f"{'have' if verb == 'has' else verb.removesuffix('s')} {re.sub('^its ', 'their ', rest)}"
