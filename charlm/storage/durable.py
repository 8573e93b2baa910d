"""Write a file whole or not at all, and know that it is on the disk.

temporary file in the same folder -> flush to the disk -> read back and compare -> rename -> flush the folder.

Until the rename the old file is untouched; after it the new one is whole, also when the power fails. This module
knows nothing of what it writes.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Final

from charlm.errors import StorageError

_CANNOT_FLUSH_FOLDERS: Final = (errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.EBADF)


def write_durably(path: Path, data: bytes, *, keep: Path | None = None) -> None:
    """Replace `path` by `data`; with `keep`, what `path` held before is found there, and one of both is always whole.

    Raises StorageError when any step fails; `path` is then as it was and the temporary files are gone. Only when the
    folder cannot be flushed is the new file in place all the same, and the error says so.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        try:
            _write(temporary, data)
            if temporary.read_bytes() != data:
                raise OSError(errno.EIO, "what was read back differs from what was written")
            if keep is not None and path.exists():
                _link(path, keep)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(
            f"cannot write {path}: {error.strerror or error}",
            kept="what was there is unchanged",
            hint="free space or choose another folder",
        ) from error
    try:
        _flush_folder(path.parent)
    except OSError as error:
        raise StorageError(
            f"cannot flush {path.parent}: {error.strerror or error}",
            kept=f"{path.name} is written, but may not outlive a power failure",
            hint="check the disk",
        ) from error


def _write(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    with open(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(descriptor)


def _link(path: Path, keep: Path) -> None:
    """A second name for the present file, put in place at once; where links are not to be had, a copy."""
    second = keep.with_name(f".{keep.name}.{os.getpid()}.tmp")
    second.unlink(missing_ok=True)
    try:
        try:
            os.link(path, second)
        except OSError:
            _write(second, path.read_bytes())
        os.replace(second, keep)
    finally:
        second.unlink(missing_ok=True)


def _flush_folder(folder: Path) -> None:
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in _CANNOT_FLUSH_FOLDERS:  # some network file systems cannot; the rename itself is done
            raise
