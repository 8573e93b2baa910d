"""Durable writes: a file is replaced as a whole or not at all, and is on the disk afterwards.

temporary file in the same folder -> flush to the disk -> read back and compare -> rename -> flush the folder.

Until the rename the old file is untouched; after it the new one is whole, also when the power fails: a name never
leads to content that was not flushed before. Every step is one call of `os`, so that tests can fail each, end the
process at each, and lose what was not flushed. This module knows nothing of what it writes.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Final

from charlm.errors import StorageError

_CANNOT_FLUSH_FOLDERS: Final = (errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.EBADF)
_BINARY: Final = getattr(os, "O_BINARY", 0)  # or Windows would write line ends of its own
_CHUNK: Final = 2**20


def write_durably(path: Path, data: bytes, *, keep: Path | None = None) -> bool:
    """Replace `path` by `data`; with `keep`, its previous content is kept there, and one of the two is always whole.

    Returns whether its name is on the disk too: False on a file system that cannot flush a folder, as some in networks
    cannot. Raises StorageError when any step fails; `path` is then as it was and the temporary files are gone. Only
    when flushing the folder fails is the new file in place all the same, and the error says so.
    """
    temporary = temporary_name(path)
    try:
        with _removed_on_failure(temporary):
            _write(temporary, data)
            _compare(temporary, data)
            if keep is not None and path.exists():
                _link(path, keep)
            os.replace(temporary, path)
    except OSError as error:
        raise StorageError(
            f"cannot write {path}: {error.strerror or error}",
            kept="what was there is unchanged",
            hint="free space or choose another folder",
        ) from error
    try:
        return _flush_folder(path.parent)
    except OSError as error:
        raise StorageError(
            f"cannot flush {path.parent}: {error.strerror or error}",
            kept=f"{path.name} is written, but may not survive a power failure",
            hint="check the disk",
        ) from error


def temporary_name(path: Path) -> Path:
    """What a file is called until it replaces `path`: if this process ends before, that is what is left."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def write_stream(path: Path, blocks: Iterable[bytes]) -> None:
    """Replace `path` by these blocks, one after the other, as `write_durably` does; memory holds one at a time."""
    with writing(path) as write:
        for block in blocks:
            write(block)


@contextmanager
def writing(path: Path) -> Iterator[Callable[[bytes], None]]:
    """A function that adds to what will replace `path` when all is done; an error that is raised meanwhile prevents it.

    Raises StorageError as `write_durably` does.
    """
    temporary, written = temporary_name(path), sha256()
    with _removed_on_failure(temporary):
        with _reported(path):
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | _BINARY, 0o666)

        def write(block: bytes) -> None:
            with _reported(path):
                _write_all(descriptor, block)
            written.update(block)

        try:
            yield write
            with _reported(path):
                os.fsync(descriptor)
        finally:
            with _reported(path):
                os.close(descriptor)
        with _reported(path):
            if _hashed(temporary) != written.digest():
                raise OSError(errno.EIO, "what was read back differs from what was written")
            os.replace(temporary, path)
    with _reported(path):
        _flush_folder(path.parent)


@contextmanager
def _reported(path: Path) -> Iterator[None]:
    """Turn what the system says into a StorageError."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"cannot write {path}: {error.strerror or error}",
            kept="what was there is unchanged",
            hint="free space or choose another folder",
        ) from error


def _hashed(path: Path) -> bytes:
    found = sha256()
    with _opened(path, os.O_RDONLY) as descriptor:
        while chunk := os.read(descriptor, _CHUNK):
            found.update(chunk)
    return found.digest()


def make_folder(folder: Path) -> None:
    """The folder, and those above it that are missing, each with its name on the disk; raises OSError."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    with suppress(
        FileExistsError
    ):  # another process was faster; or a file is in the way, and using the folder will fail
        os.mkdir(folder)
    _flush_folder(folder.parent)


def append(path: Path, data: bytes) -> int:
    """Write at the end of a file, not durably; returns its length then. Raises OSError."""
    with _opened(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND) as descriptor:
        _write_all(descriptor, data)
        return os.fstat(descriptor).st_size


def flush(path: Path) -> None:
    """Flush a file to the disk; create it if it is missing. Raises OSError."""
    with _opened(path, os.O_WRONLY | os.O_CREAT) as descriptor:
        os.fsync(descriptor)


@contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    descriptor = os.open(path, flags | _BINARY, 0o666)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _write(path: Path, data: bytes) -> None:
    with _opened(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) as descriptor:
        _write_all(descriptor, data)
        os.fsync(descriptor)


def _write_all(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _compare(path: Path, data: bytes) -> None:
    """Raise OSError unless the file holds exactly this."""
    rest = memoryview(data)
    with _opened(path, os.O_RDONLY) as descriptor:
        while chunk := os.read(descriptor, _CHUNK):
            if chunk != rest[: len(chunk)]:
                break
            rest = rest[len(chunk) :]
    if chunk or rest:
        raise OSError(errno.EIO, "what was read back differs from what was written")


def _link(path: Path, keep: Path) -> None:
    """A second name for the present file, put in place at once; a copy where links are not supported."""
    second = keep.with_name(f".{keep.name}.{os.getpid()}.tmp")
    with suppress(FileNotFoundError):
        os.unlink(second)  # it could be a link to the file that is to be copied
    with _removed_on_failure(second):
        try:
            os.link(path, second)
        except OSError:
            _write(second, path.read_bytes())
        os.replace(second, keep)
    with suppress(FileNotFoundError):
        os.unlink(second)  # renaming a link onto another link to the same file does nothing


@contextmanager
def _removed_on_failure(path: Path) -> Iterator[None]:
    try:
        yield
    except BaseException:
        with suppress(OSError):
            os.unlink(path)
        raise


def _flush_folder(folder: Path) -> bool:
    """Flush the names in a folder; returns False where the system (Windows) or the file system cannot do that."""
    try:
        with _opened(folder, os.O_RDONLY) as descriptor:
            os.fsync(descriptor)
    except OSError as error:
        if error.errno in _CANNOT_FLUSH_FOLDERS:  # the rename itself is done
            return False
        raise
    return True
