"""One holder at a time, by a lock on a file that the system releases however its holder ends.

The library filelock knows how: flock, or LockFileEx on Windows. Some file systems in networks have no locks. There a
second file stands for the lock, with the number of the process that holds it. After a kill it stays behind, and the
next process on the same machine sees that its holder is gone.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

OPEN_FILES_STAY: Final = os.name == "nt"  # Windows does not remove a file that a process has open
_NO_LOCKS: Final = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP)


class Held(Exception):
    """Another holder has the lock."""


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold the lock of this file, which is made if it is missing; raises Held, without waiting, or OSError."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            by_system = _take(descriptor, path)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            by_system = False
        if by_system:
            yield
        else:
            with _marked(path.with_name(f"{path.name}.held")):
                yield
    finally:
        os.close(descriptor)  # which releases it


def _take(descriptor: int, path: Path) -> bool:
    """Take the system's lock on an open file: True, or raises Held; OSError where there are no locks."""
    from filelock import lock_descriptor

    if not lock_descriptor(descriptor, blocking=False) or not _is_file(descriptor, path):
        raise Held  # or its holder has just removed the folder: another process may hold the new lock
    return True


def _is_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


@contextmanager
def _marked(path: Path) -> Iterator[None]:
    """Hold a file that is the lock as long as it exists."""
    from filelock import SoftFileLock, Timeout

    lock = SoftFileLock(path, timeout=0)
    for last in (False, True):  # the first try may only find that the holder is gone
        try:
            lock.acquire()
            break
        except Timeout as error:
            if last:
                raise Held from error
    try:
        yield
    finally:
        with suppress(OSError):
            lock.release()
