"""Makes and keeps the stores of large corpora: folders with all characters as numbers, in the user's cache.

    corpora/KEY/codes         the number of each character of all sources (`charlm.text.stored`)
    corpora/KEY/header.json   format, type, length, alphabet, parts, fingerprint, a hash of samples of `codes`
    corpora/KEY/*.ids         ids of the training text, for tokenizers whose tokens are not characters
    corpora/KEY/*.edges       where records begin among ids
    corpora/STATE.json        for sources with these names, sizes and times: their KEY, and what a corpus knows of them

KEY is a hash of the content of all sources and of how they are divided, STATE one of what the system says of the files,
so that a text that has not changed is not read again. A store is written under another name and renamed as a whole: of
two processes that make the same one, both use the first. What a killed process has left is removed by the next one
that makes a store. Where there is no cache, stores are in the system's folder of temporary files, for one process.
"""

from __future__ import annotations

import atexit
import errno
import hashlib
import json
import os
import platform
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from charlm.errors import StorageError
from charlm.runtime.cache import cache_folder
from charlm.text.encoding import Piece
from charlm.text.remarks import Look
from charlm.text.stored import BLOCK, Ids32, Numbers, Places, Spans, StoredIds, StoredText
from charlm.text.tally import Tally

FORMAT: Final = 1
PARTS: Final = ("train", "val", "test")
_CODES: Final = "codes"
_HEADER: Final = "header.json"
_MAKING: Final = ".making"
_WIDER: Final = {"u1": "u2", "u2": "u4"}
_MARKS: Final = 64  # places of the first source from which hashing and counting can go on
_SAMPLES: Final = 64  # pieces of a store that are compared with their hash when it is opened,
_SAMPLE: Final = 2**14  # of so many bytes each
_MOST: Final = 20 * 10**9  # bytes of all stores: of more, the ones that were not used for longest are removed
_OLD: Final = 7 * 86400.0  # seconds after which what another machine has left is removed, too


class Unusable(Exception):
    """A store is damaged, of another version, or of another text."""


class Written(NamedTuple):
    """One source as it was written: its place, its hash, and what is odd about it."""

    name: str
    begin: int
    end: int
    bytes: int
    sha256: str
    look: Look
    characters: frozenset[str]


class _Mark(NamedTuple):
    """Behind so many characters of the first source: how often each has occurred, and the hash up to here."""

    length: int
    counts: Places
    sha256: Any


@dataclass(frozen=True, slots=True)
class Store:
    """A corpus on the disk: its parts by name, and their fingerprint (`charlm.text.corpus.Corpus`)."""

    folder: Path
    parts: Mapping[str, StoredText]
    fingerprint: str

    def between(self, begin: int, end: int) -> StoredText:
        """The text of one source."""
        whole = self.parts["train"]
        counts = np.zeros(len(whole.alphabet), dtype=np.int64)
        return StoredText(self.folder, whole.codes.over([(begin, end)]), whole.alphabet, counts)


class Maker:
    """Writes the sources of a corpus one after the other, and then says which part each place belongs to.

    `length` is the number of characters that were written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._path, self._kind, self._points = folder / _CODES, "u1", list[int]()
        self._file = self._path.open("wb", buffering=0)
        self._code_of: NDArray[Any] = np.zeros(0x110000, dtype=self._kind)
        self._tally = Tally(2**8)
        self.length, self._marks, self._stride = 0, list[_Mark](), 1

    def close(self) -> None:
        """Close the file; nothing happens where it is closed."""
        self._file.close()

    def add(self, name: str, pieces: Iterable[Piece]) -> Written:
        """Write a source; where its pieces raise an error, all is as it was before."""
        begin, before, sha256, size = self.length, self._tally.counts, hashlib.sha256(), 0
        look = Look(name)
        try:
            for number, piece in enumerate(pieces):
                if not piece.text:
                    continue
                self.write(piece.text)
                sha256.update(piece.utf8)
                size += len(piece.utf8)
                look.push(piece.text)
                if not begin and not number % self._stride:
                    self._mark(sha256)
        except BaseException:
            self._take_back(begin, before)
            raise
        own = self._tally.counts[: len(self._points) + 1]
        own[: len(before)] -= before[: len(own)]
        characters = frozenset(chr(self._points[code - 1]) for code in np.flatnonzero(own))
        return Written(name, begin, self.length, size, sha256.hexdigest(), look, characters)

    def know(self, text: str) -> None:
        """Give these characters numbers, where they have none."""
        points = np.unique(_points(text))
        self._learn(points[self._code_of[points] == 0])

    def text(self, begin: int, end: int) -> StoredText:
        """What was written at these places, of which there is one at least."""
        return self._text(self._path, begin, end)

    def set_aside(self, name: str) -> StoredText:
        """Everything that was written, which is now in a file of this name; what follows is written from place 0 on."""
        self._file.close()
        os.replace(self._path, self.folder / name)
        aside = self._text(self.folder / name, 0, self.length)
        self._file = self._path.open("wb", buffering=0)
        self.length, self._marks = 0, []
        return aside

    def put(self, at: int, codes: NDArray[Any]) -> None:
        """Write the numbers of characters from this place on."""
        self._file.seek(at * np.dtype(self._kind).itemsize)
        _write_all(self._file, codes.astype(self._kind, copy=False))
        self.length = max(self.length, at + len(codes))

    def _text(self, path: Path, begin: int, end: int) -> StoredText:
        codes = StoredIds(Numbers(path, self._kind, self.length), [(begin, end)])
        alphabet = np.array(self._points, dtype=np.int32)
        return StoredText(self.folder, codes, alphabet, np.zeros(len(alphabet), dtype=np.int64))

    def write(self, text: str) -> None:
        """Write these characters, as part of a source or of none."""
        points = _points(text)
        codes = self._code_of.take(points, mode="clip")  # there is no larger one, so that none is clipped: it is faster
        if not codes.all():
            self._learn(np.unique(points[codes == 0]))
            codes = self._code_of[points]
        self._tally.push(codes)
        _write_all(self._file, codes)
        self.length += len(codes)

    def _learn(self, points: NDArray[Any]) -> None:
        """Give these characters numbers, in a wider type where they no longer fit."""
        first = len(self._points) + 1
        self._points += points.tolist()
        while len(self._points) > np.iinfo(self._kind).max:
            self._widen(_WIDER[self._kind])
        self._code_of[points] = np.arange(first, first + len(points))

    def _widen(self, kind: str) -> None:
        self._file.close()
        narrow = self._path.with_name("narrow")
        os.replace(self._path, narrow)
        self._file = self._path.open("wb", buffering=0)
        with narrow.open("rb") as file:
            while len(codes := np.fromfile(file, dtype=self._kind, count=BLOCK)):
                _write_all(self._file, codes.astype(kind))
        narrow.unlink()
        self._kind, self._code_of = kind, self._code_of.astype(kind)
        self._tally = Tally(min(256 ** np.dtype(kind).itemsize, 0x110001), self._tally.counts)

    def _mark(self, sha256: Any) -> None:
        self._marks.append(_Mark(self.length, self._tally.counts[: len(self._points) + 1], sha256.copy()))
        if len(self._marks) > _MARKS:
            del self._marks[::2]
            self._stride *= 2

    def _take_back(self, begin: int, counts: Places) -> None:
        """Forget what was written behind `begin`; characters that were new keep their numbers."""
        with suppress(OSError, ValueError):
            self._file.truncate(begin * np.dtype(self._kind).itemsize)
            self._file.seek(0, os.SEEK_END)
        self.length = begin
        self._tally = Tally(len(self._tally.counts), counts)
        self._marks = [mark for mark in self._marks if begin and mark.length <= begin]

    def finish(self, spans: Mapping[str, Spans], sources: Sequence[str], records: str = "none") -> str:
        """Write the header, of these parts; returns the key of the store.

        `sources` are their hashes, `records` what the parts consist of.
        """
        os.fsync(self._file.fileno())
        self._file.close()
        alphabet = np.array(self._points, dtype=np.int32)
        codes = StoredIds(Numbers(self._path, self._kind, self.length), [(0, self.length)])
        parts, digests = {}, []
        for name in PARTS:
            mark = self._latest(spans[name]) if name == "train" else None  # marks know nothing of words
            text = StoredText(self.folder, codes.over(spans[name]), alphabet, np.zeros(0, dtype=np.int64))
            counts, words, digest = _counted(text, mark, with_words=name != "train")
            parts[name] = {"spans": [list(span) for span in spans[name]], "counts": counts, "words": words}
            digests.append(digest)
        fingerprint = hashlib.sha256(b"".join(digests[: 3 if len(codes.over(spans["test"])) else 2])).hexdigest()
        header = {
            "format": FORMAT,
            "kind": self._kind,
            "length": self.length,
            "alphabet": alphabet.tolist(),
            "parts": parts,
            "fingerprint": fingerprint,
            "sample": _sample(self._path),
        }
        described = [FORMAT, fingerprint, list(sources), [parts[name]["spans"] for name in PARTS]]
        described += [records] if records != "none" else []
        header["key"] = hashlib.sha256(json.dumps(described).encode()).hexdigest()[:32]
        _write_flushed(self.folder / _HEADER, json.dumps(header).encode())
        return str(header["key"])

    def _latest(self, spans: Spans) -> _Mark | None:
        """From where the first of these spans is known already."""
        if not spans or spans[0][0]:
            return None
        return max((mark for mark in self._marks if mark.length <= spans[0][1]), default=None, key=lambda m: m.length)


def _points(text: str) -> NDArray[Any]:
    """The code points of a text."""
    if text.isascii():
        return np.frombuffer(text.encode("ascii"), dtype=np.uint8)
    return np.frombuffer(text.encode("utf-32-le"), dtype="<u4")


def _counted(text: StoredText, mark: _Mark | None, *, with_words: bool) -> tuple[list[int], int | None, bytes]:
    """How often each character of the alphabet occurs in a text, its words, and its SHA-256."""
    size, sha256, words, inside = len(text.alphabet) + 1, hashlib.sha256(), 0, False
    begin, tally = 0, Tally(max(2**8, size))
    if mark is not None:
        sha256, begin, tally = mark.sha256.copy(), mark.length, Tally(max(2**8, size), mark.counts)
    spaces = np.array([False, *(chr(point).isspace() for point in text.alphabet.tolist())])
    for at in range(begin, len(text), BLOCK):
        codes = text.codes.numbers(at, at + BLOCK)
        tally.push(codes)
        sha256.update(text.spelled(codes).encode())
        if with_words:
            visible = ~spaces[codes]
            words += int(np.count_nonzero(visible[1:] & ~visible[:-1])) + bool(visible[0] and not inside)
            inside = bool(visible[-1])
    counts = tally.counts[:size]
    lines = np.flatnonzero(text.alphabet == ord("\n")) + 1
    total = words + int(counts[lines].sum()) if with_words else None
    return counts[1:].tolist(), total, sha256.digest()


@contextmanager
def making(needed: int) -> Iterator[Maker]:
    """A maker in a folder of its own, which `publish` renames; gone afterwards where it does not.

    Raises StorageError where the disk is full or cannot be written; `needed` bytes are mentioned then.
    """
    parent = _parent()
    folder, maker = _temporary(parent), None
    try:
        with _on_disk(parent, needed):
            folder.mkdir(mode=0o700)
            maker = Maker(folder)
            yield maker
    finally:
        if maker is not None:
            maker.close()
        shutil.rmtree(folder, ignore_errors=True)


def _temporary(folder: Path) -> Path:
    """A name that nobody else has, and that says whose it is (`_is_left`)."""
    return folder / f"{_MAKING}-{_node()}-{os.getpid()}-{secrets.token_hex(4)}"


@contextmanager
def _on_disk(folder: Path, needed: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        room = f"; it needs about {needed / 1e9:,.1f} GB" if needed else ""
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        raise StorageError(
            f"cannot store the corpus in {folder}: {error.strerror or error}{room}",
            kept="nothing was kept",
            hint=f"{'free space there' if full else 'check that folder'}, or set XDG_CACHE_HOME to another one",
        ) from error


def publish(maker: Maker, key: str) -> Store:
    """Give a finished store its name, or use an equal one that is there; one that cannot be used is replaced."""
    final = maker.folder.parent / key
    with _on_disk(final.parent, 0):
        try:
            os.rename(maker.folder, final)
        except OSError:
            if not _is_usable(key):
                shutil.rmtree(final, ignore_errors=True)
                os.rename(maker.folder, final)
    _tidy(final)
    try:
        return open_store(key)
    except Unusable as error:
        raise StorageError(
            f"cannot read {final} back: {error}", kept="nothing was kept", hint="check the disk"
        ) from error


def open_store(key: str) -> Store:
    """The store of this key; raises Unusable, saying why."""
    folder = _parent() / key
    try:
        header = json.loads((folder / _HEADER).read_bytes())
        if header["format"] != FORMAT:
            raise Unusable(f"its format is {header['format']}, not {FORMAT}")
        if header["key"] != key:
            raise Unusable("it is of another text")
        numbers = Numbers(folder / _CODES, header["kind"], header["length"])
        if _sample(folder / _CODES) != header["sample"]:
            raise Unusable("its content has changed")
        os.utime(folder / _HEADER)  # used now
        alphabet = np.array(header["alphabet"], dtype=np.int32)
        parts = {name: _part(folder, numbers, alphabet, header["parts"][name]) for name in PARTS}
        return Store(folder, parts, str(header["fingerprint"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Unusable(str(error)) from error


def _is_usable(key: str) -> bool:
    try:
        open_store(key)
    except Unusable:
        return False
    return True


def _part(folder: Path, numbers: Numbers, alphabet: Ids32, table: Mapping[str, Any]) -> StoredText:
    spans = [(int(begin), int(end)) for begin, end in table["spans"]]
    counts = np.array(table["counts"], dtype=np.int64)
    return StoredText(folder, StoredIds(numbers, spans), alphabet, counts, table["words"])


def recall(state: str) -> dict[str, Any] | None:
    """What was remembered of sources in this state; None where that is nothing, or the text has to be read again."""
    path = _parent() / f"{state}.json"
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and found.get("format") == FORMAT else None


def remember(state: str, table: Mapping[str, object]) -> None:
    """Keep what is known of sources in this state; where that is impossible, they are read again."""
    with suppress(OSError):
        path = _parent() / f"{state}.json"
        temporary = _temporary(path.parent)
        temporary.write_bytes(json.dumps({"format": FORMAT, **table}).encode())
        os.replace(temporary, path)


_own: list[Path] = []  # a folder that this process made because there is no cache


def _parent() -> Path:
    """The folder of all stores; raises StorageError where none can be made."""
    cache = cache_folder()
    if cache is not None:
        with suppress(OSError):
            (cache / "corpora").mkdir(mode=0o700, exist_ok=True)
            return cache / "corpora"
    if not _own:
        with _on_disk(Path(tempfile.gettempdir()), 0):
            _own.append(Path(tempfile.mkdtemp(prefix=f"charlm-{os.getpid()}-")))
        atexit.register(shutil.rmtree, _own[0], ignore_errors=True)
    return _own[0]


def _tidy(used: Path) -> None:
    """Remove what killed processes have left, and the stores that were not used for longest, beyond `_MOST` bytes."""
    _remove_left(used.parent)
    stores = [(_used(folder), folder) for folder in used.parent.iterdir() if folder.is_dir() and folder != used]
    room = _MOST - _size(used)
    for _, folder in sorted(stores, reverse=True):
        if folder.name.startswith(_MAKING):
            continue
        room -= _size(folder)
        if room < 0:
            shutil.rmtree(folder, ignore_errors=True)
    for state in used.parent.glob("*.json"):
        table = recall(state.stem)
        if table is None or not (used.parent / str(table.get("store"))).is_dir():
            state.unlink(missing_ok=True)


def _remove_left(folder: Path) -> None:
    """Remove what killed processes have left in a folder."""
    for left in folder.glob(f"{_MAKING}-*"):
        if _is_left(left):
            shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink(missing_ok=True)


def _is_left(path: Path) -> bool:
    """Whether the process that was writing this is gone."""
    with suppress(OSError, ValueError, IndexError):
        _, node, process, _ = path.name.split("-")
        if node != _node() or not hasattr(os, "fork"):  # elsewhere, a signal would end the process
            return time.time() - path.stat().st_mtime > _OLD
        try:
            os.kill(int(process), 0)
        except ProcessLookupError:
            return True
    return False


def _node() -> str:
    return hashlib.sha256(platform.node().encode()).hexdigest()[:8]


def _used(folder: Path) -> float:
    with suppress(OSError):
        return (folder / _HEADER).stat().st_mtime
    return 0.0


def _size(folder: Path) -> int:
    with suppress(OSError):
        return sum(path.stat().st_size for path in folder.iterdir())
    return 0


def _sample(path: Path) -> str:
    """A hash of pieces of a file, evenly spread."""
    sha256, size = hashlib.sha256(), path.stat().st_size
    with path.open("rb") as file:
        for number in range(_SAMPLES):
            file.seek((size - _SAMPLE) * number // (_SAMPLES - 1) if size > _SAMPLE else 0)
            sha256.update(file.read(_SAMPLE))
    return sha256.hexdigest()


def _write_all(file: Any, numbers: NDArray[Any]) -> None:
    rest = np.ascontiguousarray(numbers).data.cast("B")
    while rest:
        rest = rest[file.write(rest) :]


def _write_flushed(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def stored_ids(text: StoredText, name: str, blocks: Iterable[NDArray[Any]], size: int) -> StoredIds:
    """The ids of a text for a tokenizer of this `name` and vocabulary `size`, kept with its store.

    `blocks` is only gone through where they are not there. Raises StorageError where the disk is full.
    """
    kind = "u1" if size <= 2**8 else "u2" if size <= 2**16 else "u4"
    numbers = _kept(text.folder, f"{name}-{kind}", ".ids", kind, blocks, len(text))
    return StoredIds(numbers, [(0, len(numbers))])


def _kept(folder: Path, name: str, suffix: str, kind: str, blocks: Iterable[NDArray[Any]], needed: int) -> Numbers:
    """A file of numbers that is kept with a store: the one that is there, or these blocks.

    Its name says how many they are and which hash samples of it have; it has the name when it is whole.
    Raises StorageError where the disk is full.
    """
    for path in folder.glob(f"{name}-*{suffix}"):
        with suppress(OSError, ValueError):
            count, sample = path.stem.split("-")[-2:]
            if _sample(path).startswith(sample):
                return Numbers(path, kind, int(count))
    _remove_left(folder)
    return _written(folder, name, suffix, kind, blocks, needed)


def _written(folder: Path, name: str, suffix: str, kind: str, blocks: Iterable[NDArray[Any]], needed: int) -> Numbers:
    temporary, count = _temporary(folder), 0
    try:
        with _on_disk(folder, needed):
            with temporary.open("wb", buffering=0) as file:
                for numbers in blocks:
                    _write_all(file, numbers.astype(kind, copy=False))
                    count += len(numbers)
                os.fsync(file.fileno())
            path = folder / f"{name}-{count}-{_sample(temporary)[:16]}{suffix}"
            os.replace(temporary, path)
            return Numbers(path, kind, count)
    finally:
        with suppress(OSError):
            temporary.unlink()


def stored_edges(ids: StoredIds, token: int, end: str) -> Numbers:
    """Where records begin among ids [N], and behind them N [R + 1]; kept with their store.

    Each record ends with the `token` of the character `end`. Raises StorageError where the disk is full.
    """
    name = f"{ids.path.stem}-{ids.name}-{ord(end)}"
    return _kept(ids.path.parent, name, ".edges", "i8", _edges(ids, token), len(ids))


def _edges(ids: StoredIds, token: int) -> Iterator[Places]:
    """Where records begin that end with this token, and behind them N, in pieces."""
    yield np.zeros(1, dtype=np.int64)
    for at in range(0, len(ids), BLOCK):
        edges = np.flatnonzero(ids[at : at + BLOCK] == token) + at + 1
        if at + BLOCK >= len(ids):  # whatever the last record ends with
            edges = np.append(edges[edges < len(ids)], len(ids))
        yield edges
