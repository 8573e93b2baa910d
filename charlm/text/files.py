"""The files of a corpus: which there are, and their bytes, unpacked, in blocks.

What is packed is known by its first bytes, whatever its name: gzip, xz and zstd. None of them is valid UTF-8. A text is
unpacked as a stream, so that memory does not depend on its size, and a file that changes while it is read is refused.
"""

from __future__ import annotations

import gzip
import lzma
import os
import shutil
import stat
import sys
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, BinaryIO, Final, NamedTuple, Protocol, cast

from charlm.errors import DataError, StorageError, quoted
from charlm.text.remarks import Skipped

STDIN: Final = "-"
READ: Final = 2**19  # bytes that are read at once
SETTLED: Final = 2.0  # seconds after which a change of a file changes its time, too, with any file system
_FILE: Final = "a file"
_FOLDER: Final = "a folder"
_SUFFIXES: Final = (".gz", ".xz", ".zst")  # that packed files usually have
_GZIP: Final = b"\x1f\x8b\x08"
_XZ: Final = b"\xfd7zXZ\0"
_ZSTD: Final = b"\x28\xb5\x2f\xfd"
_FED: Final = 4096  # bytes of a zstd file that are unpacked at once: they may become 4,096 times as many
_KEPT: Final = "nothing was written"


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Source:
    """One file of a corpus, as it was read; the path `-` is standard input or a pipe, which cannot be read again.

    `bytes` and `sha256` are those of its text in UTF-8, so that the same text in another encoding, or packed, is known.
    """

    path: str
    bytes: int
    characters: int
    sha256: str
    held_out: bool = False  # as a whole: named by --val or --test, or chosen by its hash
    test: bool = False  # and that for the test


@dataclass(frozen=True, slots=True)
class Globs:
    """Which files of a folder are read: those that match one of `include`, if there are any, and none of `exclude`.

    A pattern with a slash is compared with the path below the folder, another one with the name of the file. `*` also
    stands for slashes.

    >>> globs = Globs.of("*.txt, notes/*", "draft*")
    >>> [globs.take(path) for path in ("a.txt", "b/c.txt", "notes/d.md", "b/draft.txt", "e.md")]
    [True, True, True, False, False]
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    @classmethod
    def of(cls, include: str = "", exclude: str = "") -> Globs:
        """From patterns separated by commas."""
        return cls(*(tuple(filter(None, map(str.strip, patterns.split(",")))) for patterns in (include, exclude)))

    def take(self, path: str) -> bool:
        """Whether the file at this path below the folder, with slashes, is read."""
        included = not self.include or _matches(path, self.include)
        return included and not _matches(path, self.exclude)

    def __str__(self) -> str:
        """As it is given to a command."""
        given = {"--include": self.include, "--exclude": self.exclude}
        return " and ".join(f"{option} {quoted(','.join(patterns))}" for option, patterns in given.items() if patterns)


def _matches(path: str, patterns: Sequence[str]) -> bool:
    name = path.rpartition("/")[2]
    return any(fnmatchcase(path if "/" in pattern else name, pattern) for pattern in patterns)


def read_once(path: str) -> bool:
    """Whether this is standard input, a pipe or a device, which can be read a single time."""
    return path == STDIN or (os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path))


def source_path(name: str) -> str:
    """How a source is recorded: by its absolute path, or as standard input."""
    return STDIN if read_once(name) else str(Path(name).absolute())


class FileState(NamedTuple):
    """What the system says of a file; while it says the same, and says it long enough, the content is the same."""

    path: str
    size: int
    changed: int  # in nanoseconds since 1970, as the next
    changed_itself: int
    number: int

    @classmethod
    def of(cls, path: str) -> FileState:
        """The state of a file now; raises OSError, or ValueError for what is no name."""
        found = os.stat(path)
        return cls(source_path(path), found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)

    def settled(self, since: float) -> bool:
        """Whether it has not changed for a while before this time, so that a change would have changed its time."""
        return self.changed < (since - SETTLED) * 1e9


def stem(path: Path) -> str:
    """The name of a file without its suffix, nor that of its packing.

    >>> stem(Path("novel.txt.xz")), stem(Path("novel.txt")), stem(Path("chapter.1.txt"))
    ('novel', 'novel', 'chapter.1')
    """
    return Path(unpacked_name(path.name)).stem


def unpacked_name(name: str) -> str:
    """The name of a file without the suffix of its packing, if it has one."""
    return Path(name).stem if Path(name).suffix in _SUFFIXES else name


def is_packed(path: str) -> bool:
    """Whether this file is to be unpacked; raises StorageError."""
    with _opened(path) as file:
        return file.read(len(_XZ)).startswith((_GZIP, _XZ, _ZSTD))


@contextmanager
def read_twice(path: str) -> Iterator[BinaryIO]:
    """A file as it is, from anywhere in it; what can be read only once is copied to the disk. Raises StorageError."""
    with _opened(path) as file:
        if not read_once(path):
            yield file
            return
        with TemporaryFile() as copy:
            shutil.copyfileobj(file, copy, READ)
            yield copy


def read_unpacked(path: str) -> bytes:
    """The bytes of a file, unpacked; raises as `blocks`."""
    return b"".join(blocks(path))


def blocks(path: str) -> Iterator[bytes]:
    """The bytes of a file, or of standard input for `-`, unpacked, in blocks of about `READ` bytes.

    Raises StorageError where it cannot be read, DataError where it is damaged or changes meanwhile.
    """
    with _opened(path) as file:
        before = _state(file)
        begun = file.tell() if before else 0
        head = file.read(len(_XZ))
        stream = _Stream(head, file)
        yield from _unpacked(stream, head, path, READ)
        if before is not None and (_state(file) != before or begun + stream.bytes != before[0]):
            raise DataError(
                f"{path} changed while it was read", kept=_KEPT, hint="try again when nothing writes to it any more"
            )


@contextmanager
def _opened(path: str) -> Iterator[BinaryIO]:
    """A file, opened; whatever the system says while it is read becomes a StorageError."""
    try:
        if path == STDIN:
            yield sys.stdin.buffer
            return
        with open(path, "rb") as file:
            yield file
    except IsADirectoryError as error:
        raise StorageError(f"{path} is a folder, not a file", kept=_KEPT, hint="name a file in it") from error
    except OSError as error:
        raise StorageError(
            f"cannot read {path}: {error.strerror}", kept=_KEPT, hint="check the name and its permissions"
        ) from error
    except ValueError as error:  # a NUL in the name
        raise StorageError(f"cannot read {path!r}: {error}", kept=_KEPT, hint="check the name") from error


def _state(file: BinaryIO) -> tuple[int, int] | None:
    """Size and time of an open file, which change when it does; None for what is no file, or has no size (/proc)."""
    with suppress(OSError, AttributeError, ValueError):  # a stream without a number
        found = os.fstat(file.fileno())
        if stat.S_ISREG(found.st_mode) and found.st_size:
            return found.st_size, found.st_mtime_ns
    return None


class _Stream:
    """The bytes of a file from its beginning, of which some have been read already."""

    def __init__(self, head: bytes, file: _Readable) -> None:
        self._head, self._file, self.bytes = head, file, len(head)

    def read(self, size: int = -1) -> bytes:
        head, self._head = self._head, b""
        rest = self._file.read(size - len(head) if size >= 0 else -1) if size < 0 or size > len(head) else b""
        if 0 <= size < len(head):
            head, self._head = head[:size], head[size:]
        self.bytes += len(rest)
        return head + rest


def _unpacked(stream: _Stream, head: bytes, path: str, size: int) -> Iterator[bytes]:
    """The blocks of a stream that begins with `head`; raises DataError where an archive is damaged."""
    if head.startswith(_GZIP):
        with gzip.GzipFile(fileobj=cast("Any", stream)) as unpacker:
            yield from _through("gzip", unpacker, stream, path, size)
    elif head.startswith(_XZ):
        with lzma.LZMAFile(cast("Any", stream)) as unpacker:
            yield from _through("xz", unpacker, stream, path, size)
    elif head.startswith(_ZSTD):
        yield from _through("zstd", _Zstd(stream), stream, path, size)
    else:
        while block := stream.read(size):
            yield block


def _through(kind: str, unpacker: _Readable, stream: _Stream, path: str, size: int) -> Iterator[bytes]:
    while True:
        try:
            block = unpacker.read(size)
        except EOFError as error:
            raise DataError(
                f"{path} is a {kind} file that ends too early, after {stream.bytes:,} bytes",
                kept=_KEPT,
                hint="get the whole file",
            ) from error
        except (gzip.BadGzipFile, zlib.error, lzma.LZMAError, ValueError) as error:
            raise DataError(
                f"{path} is a damaged {kind} file: {_first_line(error)}, before byte {stream.bytes:,}",
                kept=_KEPT,
                hint="get it again, or unpack what is whole of it and use that",
            ) from error
        if not block:
            return
        yield block


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or ["bad data"])[0]


class _Zstd:
    """Unpacks zstd frames one after the other; raises ValueError where they are damaged, EOFError where cut short."""

    def __init__(self, stream: _Stream) -> None:
        from zstandard import ZstdDecompressor, ZstdError

        self._stream, self._new, self._error = stream, ZstdDecompressor, ZstdError
        self._frame: Any = None
        self._rest = b""

    def read(self, size: int) -> bytes:
        found: list[bytes] = []
        while sum(map(len, found)) < size:
            fed = self._rest or self._stream.read(_FED)
            self._rest = b""
            if not fed:
                if self._frame is not None:
                    raise EOFError
                break
            self._frame = self._frame or self._new().decompressobj()
            try:
                found.append(self._frame.decompress(fed))
            except self._error as error:
                raise ValueError(str(error)) from error
            if self._frame.eof:
                self._rest, self._frame = self._frame.unused_data, None
        return b"".join(found)


def files_below(folder: str, skipped: list[Skipped], globs: Globs = Globs()) -> list[str]:
    """Paths of the files below a folder, sorted; what else is there is added to `skipped`. Links are not followed."""
    base = len(os.path.join(folder, ""))
    return sorted(path for path in _walk(folder, skipped) if globs.take(path[base:].replace(os.sep, "/")))


def _walk(folder: str, skipped: list[Skipped]) -> Iterator[str]:
    """Paths of the files below a folder, in no order; anything else is added to `skipped`. Links are not followed.

    A list of folders still to visit takes the place of recursion, which deeply nested folders could exhaust.
    """
    left = [folder]
    while left:
        where = left.pop()
        try:
            names = os.listdir(where)
        except OSError as error:
            skipped.append(Skipped(where, str(error.strerror)))
            continue
        for name in names:
            path = os.path.join(where, name)
            kind = "hidden" if name.startswith(".") else _kind(path)
            if kind == _FILE:
                yield path
            elif kind == _FOLDER:
                left.append(path)
            else:
                skipped.append(Skipped(path, kind))


def _kind(path: str) -> str:
    """`_FILE`, `_FOLDER`, or the reason why this is skipped. A pipe is never opened, because that could block."""
    try:
        mode = os.stat(path).st_mode
    except OSError as error:  # unreadable, gone by now, a link to nothing or to itself
        return str(error.strerror)
    if stat.S_ISREG(mode):
        return _FILE
    if not stat.S_ISDIR(mode):
        return "not a file"
    if os.path.islink(path):
        return "a link to a folder"
    return "a charlm run" if _is_run(path) else _FOLDER


def _is_run(folder: str) -> bool:
    """Whether this is the folder of a charlm run, whose files are not training text."""
    return any(os.path.isfile(os.path.join(folder, f"{name}.safetensors")) for name in ("last", "previous"))
