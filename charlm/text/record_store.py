"""The records of a large corpus, sorted into parts on the disk, as `charlm.text.corpus` divides them in memory.

The sources have been written into a store that is being made (`charlm.text.store`). They are read from there three
times: to write their records, each with its end, and a hash of each; to see which are held out, and which of those
occur elsewhere; and to write the records of each part next to each other. The files of hashes and of edges are removed
when that is done. Memory holds hashes of the records of held-out parts alone, up to 30 bytes each while they are
sorted, and those only where a part is a file.

Two records are taken to be equal where the first 64 bits of their SHA-256 are. Legend: R records.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from charlm.config import Shares
from charlm.text.records import (
    describe_duplicates,
    describe_parts,
    edge_groups,
    end_of,
    joined,
    record_blocks,
    refuse_too_few,
)
from charlm.text.split import Chooser, HeldOut
from charlm.text.store import PARTS, Maker
from charlm.text.stored import Numbers, Places, Spans, StoredText, blocks_of

_BLOCK: Final = 2**20  # characters that are sorted at once
_TRAIN, _VAL, _TEST, _LEFT_OUT = range(4)
_NONE_HELD: Final = HeldOut(-1, 2**64, 0)

Keys = NDArray[np.uint64]


class _Group(NamedTuple):
    """Some records: where they lie, and behind them [R + 1], their hashes [R] and parts [R]."""

    edges: Places
    keys: Keys
    parts: NDArray[np.int8]

    @property
    def empty(self) -> NDArray[np.bool_]:
        """Which of them have nothing but their end."""
        empty: NDArray[np.bool_] = np.diff(self.edges) == 1
        return empty


class _Written(NamedTuple):
    """Records as they were written: files of their edges and their hashes, and the part of all, if it is the same."""

    edges: Numbers
    keys: Numbers
    held_out: HeldOut
    part: int | None

    def groups(self) -> Iterator[_Group]:
        at = 0
        for edges in edge_groups(self.edges, _BLOCK):
            keys = self.keys.between(at, at + len(edges) - 1)
            at += len(keys)
            yield _Group(edges, keys, self._parts(edges, keys))

    def _parts(self, edges: Places, keys: Keys) -> NDArray[np.int8]:
        if self.part is not None:
            return np.full(len(keys), self.part, dtype=np.int8)
        parts, small = np.full(len(keys), _TRAIN, dtype=np.int8), np.diff(edges) - 1 <= self.held_out.longest
        if self.held_out.last_val >= 0:
            parts[small & (keys <= np.uint64(self.held_out.last_val))] = _VAL
        if self.held_out.first_test < 2**64:
            parts[small & (keys >= np.uint64(self.held_out.first_test))] = _TEST
        return parts


class Sorter:
    """Sorts the records of the sources that a maker has written; `shares` are held out of them (None: a file is)."""

    def __init__(self, maker: Maker, kind: str, shares: Shares) -> None:
        self._maker, self._kind, self._end = maker, kind, end_of(kind)
        self._held = shares[0] or 0.0, shares[1] or 0.0
        self._hashed = shares != (0.0, 0.0)
        self._written: list[_Written] = []
        self._temporary: list[Path] = []
        maker.know(self._end)  # before anything is read back

    def divide(self, sources: Iterable[tuple[str, int, int]]) -> str:
        """Hold out shares of the records of these sources (name, begin, end); returns what was done, in words.

        Raises DataError where there are fewer than two records, or the end of a record stands inside one.
        """
        chooser = Chooser(*self._held)
        texts = ((name, self._maker.text(begin, end)) for name, begin, end in sources if begin < end)
        found = (records for name, text in texts for records in record_blocks(blocks_of(text), self._kind, name))
        edges, keys = self._write(found, chooser)
        refuse_too_few(len(keys), self._kind)
        held_out = chooser.found() if any(self._held) else _NONE_HELD
        self._written.append(_Written(edges, keys, held_out, None))
        counts = sum(np.bincount(group.parts, minlength=3) for group in self._groups(None))
        return describe_parts(self._kind, np.asarray(counts).tolist())

    def hold_out(self, name: str, begin: int, end: int, *, test: bool) -> None:
        """Make a part of this source, which may consist of records with their ends already."""
        text = self._maker.text(begin, end)
        if self._kind != "line" and text[len(text) - 1 :] == self._end:
            found = (piece.split(self._end)[:-1] for piece in _ended(text, self._end))
            edges, keys = self._write(found, Chooser(0.0, 0.0))
        else:
            edges, keys = self._write(record_blocks(blocks_of(text), self._kind, name), Chooser(0.0, 0.0))
        self._written.append(_Written(edges, keys, _NONE_HELD, _TEST if test else _VAL))

    def _write(self, blocks: Iterable[Sequence[str]], chooser: Chooser) -> tuple[Numbers, Numbers]:
        """Write records, each with its end; the files of their edges and of their hashes."""
        paths = [self._maker.folder / f"{name}{len(self._temporary)}" for name in ("edges", "keys")]
        self._temporary += paths
        count = 0
        with paths[0].open("wb") as edges, paths[1].open("wb") as keys:
            edges.write(np.int64(self._maker.length).tobytes())
            for records in blocks:
                lengths, text = np.fromiter(map(len, records), np.int64, len(records)), joined(records, self._kind)
                keys.write(self._keys(text, lengths, chooser).tobytes())
                edges.write((self._maker.length + np.cumsum(lengths + 1)).tobytes())
                self._maker.write(text)
                count += len(records)
        return Numbers(paths[0], "i8", count + 1), Numbers(paths[1], "u8", count)

    def _keys(self, text: str, lengths: Places, chooser: Chooser) -> Keys:
        """The hashes of the records that a text consists of; they are encoded and parted all at once."""
        if not self._hashed:
            return np.zeros(len(lengths), dtype=np.uint64)
        records = text.encode().split(self._end.encode())[:-1]
        return chooser.push([sha256(record).digest() for record in records], lengths)

    def finish(self, typed: Spans) -> tuple[dict[str, Spans], Spans, list[str]]:
        """Write the parts next to each other, and behind them what was `typed`, as it was.

        Returns the places of each part and of that, and what is to be said of records in several parts.
        """
        known, said = self._known() if len(self._written) > 1 else (None, [])
        sizes = np.zeros(4, dtype=np.int64)
        for group in self._groups(known):
            sizes += np.bincount(group.parts, np.diff(group.edges), minlength=4).astype(np.int64)
        edges = [0, *np.cumsum(sizes[:3]).tolist()]
        text, free = self._maker.set_aside("read"), edges[:3]
        for group in self._groups(known):
            codes = text.codes.numbers(int(group.edges[0]), int(group.edges[-1]))
            part_of = np.repeat(group.parts, np.diff(group.edges))
            for part in np.flatnonzero(np.bincount(group.parts, minlength=4)[:_LEFT_OUT]).tolist():
                own = codes[part_of == part]
                self._maker.put(free[part], own)
                free[part] += len(own)
        for begin, end in typed:
            for at in range(begin, end, _BLOCK):
                self._maker.put(edges[3] + at - begin, text.codes[at : min(at + _BLOCK, end)])
        self._clear(text)
        spans: dict[str, Spans] = {part: [(edges[n], edges[n + 1])] for n, part in enumerate(PARTS)}
        return spans, [(edges[3], edges[3] + end - begin) for begin, end in typed], said

    def _groups(self, known: Mapping[int, Keys] | None) -> Iterator[_Group]:
        """All records; of those for validation, the ones that are `known` are left out."""
        for written in self._written:
            for group in written.groups():
                if known is not None:
                    group.parts[(group.parts == _VAL) & (_among(group.keys, known[_VAL]) | group.empty)] = _LEFT_OUT
                yield group

    def _known(self) -> tuple[Mapping[int, Keys], list[str]]:
        """The hashes of records for validation that are in the training or test text, too, and of those for the test
        that are in the training text; and what is to be said of them.
        """
        held = {part: self._keys_of(part) for part in (_VAL, _TEST)}
        seen = {part: np.zeros(len(keys), dtype=bool) for part, keys in held.items()}
        for group in self._groups(None):
            trained, tested = group.keys[group.parts == _TRAIN], group.keys[group.parts == _TEST]
            for part, keys in ((_VAL, trained), (_VAL, tested), (_TEST, trained)):
                seen[part][_places(keys, held[part])] = True
        known = {part: keys[seen[part]] for part, keys in held.items()}
        return known, list(self._said(known))

    def _keys_of(self, part: int) -> Keys:
        """The different hashes of the records of a part, ascending."""
        found = [np.unique(group.keys[group.parts == part]) for group in self._groups(None)]
        return np.unique(np.concatenate(found))

    def _said(self, known: Mapping[int, Keys]) -> Iterator[str]:
        counts = dict.fromkeys(known, 0)
        for group in self._groups(None):
            for part, keys in known.items():
                counts[part] += int(((group.parts == part) & (_among(group.keys, keys) | group.empty)).sum())
        return describe_duplicates(counts[_VAL], counts[_TEST])

    def _clear(self, text: StoredText) -> None:
        """Remove the files that are no longer needed."""
        self._written = []
        text.codes.path.unlink()
        for path in self._temporary:
            path.unlink()


def _ended(text: StoredText, end: str) -> Iterator[str]:
    """A text of records with their ends, in pieces that end with one."""
    left: list[str] = []
    for piece in blocks_of(text):
        records, found, rest = piece.rpartition(end)
        if found:
            yield "".join([*left, records, found])
            left = []
        left.append(rest)


def _places(keys: Keys, known: Keys) -> NDArray[np.intp]:
    """The places among the `known` ones, which ascend, of those keys that are there."""
    if not len(known):
        return np.zeros(0, dtype=np.intp)
    place = np.searchsorted(known, keys) % len(known)
    found: NDArray[np.intp] = place[known[place] == keys]
    return found


def _among(keys: Keys, known: Keys) -> NDArray[np.bool_]:
    """Which keys are among the `known` ones, which ascend."""
    if not len(known):
        return np.zeros(len(keys), dtype=bool)
    found: NDArray[np.bool_] = known[np.searchsorted(known, keys) % len(known)] == keys
    return found
