"""Corpora of any size: a small one is held in memory, a large one is on the disk, and both have the same parts.

A corpus of more than `LARGE` bytes of text is read once, from its first byte to its last, into a store
(`charlm.text.store`), which is made once for each text. The parts, the split and the fingerprint are those that
`charlm.text.corpus` would have found in memory. Records are sorted into their parts there (`charlm.text.record_store`).
A single text that is scored is opened in the same way, whole.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from itertools import chain
from typing import Any, Final, NamedTuple, cast

from charlm.config import Shares, check_shares
from charlm.errors import DataError, StorageError
from charlm.text.corpus import (
    OPTIONS,
    Corpus,
    check_held,
    division_of,
    load_corpus,
    names_of,
    read_text,
    refuse_folder,
    refuse_too_short,
    unread,
)
from charlm.text.encoding import UTF8, NotText, Reader
from charlm.text.files import STDIN, FileState, Globs, Source, blocks, files_below, is_packed, read_once, source_path
from charlm.text.record_store import Sorter
from charlm.text.remarks import Remark, Skipped, fold, fold_skipped
from charlm.text.split import RECORDS, Cut
from charlm.text.store import (
    FORMAT,
    PARTS,
    Maker,
    Store,
    Unusable,
    Written,
    making,
    open_store,
    publish,
    recall,
    remember,
)
from charlm.text.stored import Spans, StoredText, Text

LARGE: Final = 2**23  # bytes of text that are still held in memory


@dataclass(frozen=True, slots=True)
class StoredCorpus:
    """A corpus on the disk; otherwise as `charlm.text.corpus.Corpus`."""

    train: StoredText
    val: StoredText
    test: StoredText
    sources: tuple[Source, ...]
    remarks: tuple[str, ...]
    stdin: StoredText | None
    split: str
    fingerprint: str


class _Known(NamedTuple):
    """What is remembered of a corpus whose files have not changed: the key of its store, and what the store lacks."""

    store: str
    sources: tuple[Source, ...]
    remarks: tuple[str, ...]
    split: str
    stdin: tuple[int, int] | None  # where that is in the store

    def to_json(self) -> dict[str, object]:
        return {**self._asdict(), "sources": [asdict(source) for source in self.sources]}

    @classmethod
    def from_json(cls, table: Mapping[str, Any]) -> _Known:
        """The inverse; raises KeyError or TypeError for anything else."""
        sources = tuple(Source(**source) for source in table["sources"])
        remarks, stdin = tuple(map(str, table["remarks"])), tuple(table["stdin"]) if table["stdin"] else None
        return cls(str(table["store"]), sources, remarks, str(table["split"]), cast("tuple[int, int] | None", stdin))

    def corpus(self, store: Store) -> StoredCorpus:
        """The corpus in its store."""
        parts = {name: store.parts[name] for name in PARTS}
        stdin = store.between(*self.stdin) if self.stdin else None
        return StoredCorpus(
            **parts,
            sources=self.sources,
            remarks=self.remarks,
            stdin=stdin,
            split=self.split,
            fingerprint=store.fingerprint,
        )


def open_corpus(
    paths: Sequence[str],
    val: str,
    test: str = "0",
    *,
    split: str | None = None,
    encoding: str = UTF8,
    records: str = "none",
    globs: Globs = Globs(),  # noqa: B008 - frozen
) -> Corpus | StoredCorpus:
    """The corpus that `load_corpus` describes, in memory or, where it is large, on the disk; raises as it does.

    Raises StorageError, too, where the disk is full.
    """
    shares = check_shares(val, test)
    named = names_of(paths, (val, test), shares)
    inputs = _Inputs(named, globs)
    if not inputs.large:
        return load_corpus(
            paths, val, test, split=split, encoding=encoding, records=records, globs=globs, known=inputs.in_memory()
        )
    return _Request(tuple(paths), (val, test), shares, split, Reader(encoding, tuple(named)), globs, records).open(
        inputs
    )


def open_text(path: str) -> Text:
    """The exact text of a file, or of standard input for `-`: in memory or, where it is large, on the disk.

    Raises as `charlm.text.corpus.read_text`; StorageError, too, where the disk is full.
    """
    if os.path.isdir(path):
        return read_text(path)  # which says what is wrong
    inputs, reader = _Inputs([path], Globs()), Reader()
    if inputs.large:
        return _whole(path, inputs, reader)
    known = inputs.in_memory()
    return reader.read(known[path], path) if path in known else read_text(path, reader)


def _whole(path: str, inputs: _Inputs, reader: Reader) -> StoredText:
    """A text from its store, or made: its words are counted where it is the validation part."""
    begun, state = time.time(), _state_of_text(inputs)
    if inputs.settled(begun) and (table := recall(state)) is not None:
        with suppress(Unusable, KeyError, TypeError):
            return open_store(str(table["store"])).parts["val"]
    with making(inputs.size) as maker:
        one = maker.add(path, reader.pieces(inputs.blocks(path), path))
        spans: dict[str, Spans] = {"train": [], "val": [(one.begin, one.end)], "test": []}
        store = publish(maker, maker.finish(spans, [one.sha256]))
    if inputs.settled(begun) and state == _state_of_text(_Inputs([path], Globs())):
        remember(state, {"store": store.folder.name})
    return store.parts["val"]


def _state_of_text(inputs: _Inputs) -> str:
    return hashlib.sha256(json.dumps([FORMAT, "text", inputs.states]).encode()).hexdigest()[:32]


class _Inputs:
    """The files of a corpus: how large they are, and what had to be read of them to know that."""

    def __init__(self, named: Sequence[str], globs: Globs) -> None:
        self._begun: dict[str, Iterable[bytes]] = {}
        self._again = not any(map(read_once, named))
        self.size, self.states = 0, list[FileState]()
        for path in named:
            if read_once(path):
                self._begin(path)
            else:
                for name in files_below(path, [], globs) if os.path.isdir(path) else [path]:
                    self._measure(name)

    @property
    def large(self) -> bool:
        return self.size > LARGE

    def _begin(self, path: str) -> None:
        """Read as much as may be held in memory of what can be read only once."""
        stream = blocks(path)
        head = list(_first(stream, LARGE))
        size = sum(map(len, head))
        self._begun[path] = head if size <= LARGE else chain(head, stream)
        self.size += size

    def _measure(self, name: str) -> None:
        try:
            found = FileState.of(name)
        except (OSError, ValueError):
            return  # reading it will say what is wrong
        self.states.append(found)
        try:
            packed = is_packed(name)
            self.size += sum(map(len, _first(blocks(name), LARGE))) if packed else found.size
        except (DataError, StorageError):
            return

    def settled(self, since: float) -> bool:
        """Whether all of it are files that have not changed for a while."""
        return self._again and all(state.settled(since) for state in self.states)

    def in_memory(self) -> Mapping[str, bytes]:
        """What was read, whole, of what can be read only once."""
        return {path: b"".join(read) for path, read in self._begun.items()}

    def blocks(self, path: str) -> Iterable[bytes]:
        return self._begun.pop(path) if path in self._begun else blocks(path)


def _first(stream: Iterator[bytes], most: int) -> Iterator[bytes]:
    """Blocks of a stream, until they have more than so many bytes."""
    size = 0
    for block in stream:
        yield block
        size += len(block)
        if size > most:
            return


@dataclass(frozen=True, slots=True)
class _Request:
    """A corpus as it was asked for."""

    paths: tuple[str, ...]
    held: tuple[str, str]
    shares: Shares
    split: str | None
    reader: Reader
    globs: Globs
    records: str = "none"

    def open(self, inputs: _Inputs) -> StoredCorpus:
        """From its store, or made: then it is kept for the next time, where it comes from files."""
        begun, damaged = time.time(), ""
        state = self._state(inputs, self.split)
        if inputs.settled(begun) and (table := recall(state)) is not None:
            try:
                known = _Known.from_json(table)
                if self._is_of(known):
                    return known.corpus(open_store(known.store))
            except (Unusable, KeyError, TypeError) as error:
                damaged = f"the stored corpus could not be used and was made again: {error}"
        store, known = self._make(inputs)
        if inputs.settled(begun) and state == self._state(_Inputs(self.reader.corpus, self.globs), self.split):
            for split in (self.split, known.split):  # which a run that goes on will ask for
                remember(self._state(inputs, split), known.to_json())
        return known._replace(remarks=(*([damaged] if damaged else []), *known.remarks)).corpus(store)

    def _state(self, inputs: _Inputs, split: str | None) -> str:
        """A hash of what the system says of all files, and of how they are read."""
        held = [
            path if share is not None else source_path(path) for path, share in zip(self.held, self.shares, strict=True)
        ]
        described = [FORMAT, inputs.states, held, split, self.reader.encoding]
        described += [self.records] if self.records != "none" else []
        return hashlib.sha256(json.dumps(described).encode()).hexdigest()[:32]

    def _is_of(self, known: _Known) -> bool:
        """Whether all files that are named were read: of a folder, some may have been skipped."""
        named = {source_path(path) for path in self.reader.corpus if not os.path.isdir(path)}
        return named <= {source.path for source in known.sources}

    def _make(self, inputs: _Inputs) -> tuple[Store, _Known]:
        """Read everything into a store; with it, what a corpus knows beside its text."""
        remarks: list[Remark | str] = []
        with making(inputs.size * (3 if self.records != "none" else 1)) as maker:
            sorter = None
            written = [one for path in self.paths for one in self._write(path, maker, inputs, remarks)]
            sources: Sequence[Source] = [_source(one) for one in written]
            if self.records == "none":
                ends = [one.look.end for one in written if one.look.end]
                sources, parts, way, said = division_of(sources, ends, self.shares, self.split)
                spans = _spans(written, parts)
                remarks += said
            else:
                spans, way = {}, RECORDS
                sorter = Sorter(maker, self.records, self.shares)
                remarks.append(sorter.divide((source_path(one.name), one.begin, one.end) for one in written))
            for option, path, share in zip(OPTIONS, self.held, self.shares, strict=True):
                if share is None:
                    one = maker.add(path, self.reader.pieces(inputs.blocks(path), path))
                    source = replace(_source(one), held_out=True, test=option == "--test")
                    check_held(option, path, source, sources)
                    sources, remarks = [*sources, source], [*remarks, *one.look.remarks(one.characters)]
                    spans["test" if source.test else "val"] = [(one.begin, one.end)]
                    written = [*written, one]
                    if sorter is not None:
                        sorter.hold_out(path, one.begin, one.end, test=source.test)
            typed: Spans = [
                (one.begin, one.end) for one, source in zip(written, sources, strict=True) if source.path == STDIN
            ]
            if sorter is not None:
                spans, typed, duplicates = sorter.finish(typed)
                remarks += duplicates
            refuse_too_short(self.paths, self.shares, sources, sum(end - begin for begin, end in spans["train"]))
            store = publish(maker, maker.finish(spans, [source.sha256 for source in sources], self.records))
        place = typed[0] if typed else None
        return store, _Known(store.folder.name, tuple(sources), tuple(fold(remarks)), way, place)

    def _write(self, path: str, maker: Maker, inputs: _Inputs, remarks: list[Remark | str]) -> Iterator[Written]:
        """Write a file, or all texts of a folder."""
        if path == STDIN or not os.path.isdir(path):
            one = maker.add(path, self.reader.pieces(inputs.blocks(path), path))
            remarks += one.look.remarks(one.characters)
            yield one
            return
        skipped, found = list[Skipped](), False
        for name in files_below(path, skipped, self.globs):
            try:
                one = maker.add(name, self.reader.sifted_pieces(blocks(name)))
            except NotText as why:
                skipped.append(Skipped(name, str(why)))
            except (StorageError, DataError) as error:
                skipped.append(Skipped(name, unread(name, error)))
            else:
                found = True
                remarks += one.look.remarks(one.characters)
                yield one
        remarks += fold_skipped(skipped)
        if not found:
            refuse_folder(path, skipped, self.reader, self.globs)


def _spans(written: Sequence[Written], parts: Sequence[Cut]) -> dict[str, Spans]:
    pairs = list(zip(written, parts, strict=True))
    return {
        "train": _merged((one.begin, one.begin + cut.train) for one, cut in pairs),
        "val": _merged((one.begin + cut.train, one.begin + cut.val) for one, cut in pairs),
        "test": _merged((one.begin + cut.val, one.end) for one, cut in pairs),
    }


def _merged(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """The same places in as few spans.

    >>> _merged([(0, 2), (2, 3), (3, 3), (5, 6)])
    [(0, 3), (5, 6)]
    """
    found: list[tuple[int, int]] = []
    for begin, end in spans:
        if begin < end:
            joins_last = bool(found) and found[-1][1] == begin
            found.append((found.pop()[0] if joins_last else begin, end))
    return found


def _source(one: Written) -> Source:
    return Source(source_path(one.name), one.bytes, one.end - one.begin, one.sha256)
