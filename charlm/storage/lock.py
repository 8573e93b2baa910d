"""One holder at a time, by a lock on a file that the system releases however its holder ends.

The library filelock knows how: flock, or LockFileEx on Windows. Some file systems in networks have no locks. There a
second file stands for the lock, with the number of the process that holds it. After a kill it stays behind, and the
next process on the same machine sees that its holder is gone.
"""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

OPEN_FILES_STAY: Final = os.name == "nt"  # Windows does not remove a file that a process has open
_NO_LOCKS: Final = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP)
_PAUSES: Final = (0.01, 0.05)  # seconds before another try: `is_held` has the lock for an instant


class Held(Exception):
    """Another holder has the lock."""


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold the lock of this file, which is made if it is missing; raises Held, practically at once, or OSError."""
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
            with _marked(_marker(path)):
                yield
    finally:
        os.close(descriptor)  # which releases it


def is_held(path: Path) -> bool:
    """Whether a living process holds the lock of this file, which is not made; raises OSError where none can see that.

    Nobody is kept from the lock: this has it for an instant, and `held` tries again after one, as this does.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    except FileNotFoundError:
        return False
    try:
        return not _try(descriptor)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return _is_marked(_marker(path))
    finally:
        os.close(descriptor)


def _take(descriptor: int, path: Path) -> bool:
    """Take the system's lock on an open file: True, or raises Held; OSError where there are no locks."""
    if not _try(descriptor) or not _is_file(descriptor, path):
        raise Held  # the second: its holder has just removed the folder, and another process may hold the new lock
    return True


def _try(descriptor: int) -> bool:
    """Take the system's lock on an open file, if nobody holds it for longer than an instant."""
    from filelock import lock_descriptor

    for pause in (0.0, *_PAUSES):
        time.sleep(pause)
        if lock_descriptor(descriptor, blocking=False):
            return True
    return False


def _is_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _marker(path: Path) -> Path:
    """The file that stands for the lock where there are no locks."""
    return path.with_name(f"{path.name}.held")


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


def _is_marked(path: Path) -> bool:
    """Whether the file that stands for the lock is there, unless its holder is known to be gone."""
    try:
        holder, host = path.read_text(errors="replace").split("\n")[:2]
        number = int(holder)
    except FileNotFoundError:
        return False
    except ValueError:  # it is being written
        return True
    if OPEN_FILES_STAY or not host.startswith(socket.gethostname()):  # where processes cannot be asked about
        return True
    try:
        os.kill(number, 0)  # which sends nothing
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # somebody else's
        return True
    return True
