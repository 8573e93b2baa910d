"""Runs command lines of charlm in a Python without what only POSIX systems have, as far as one can take it away.

    python without_posix.py '["train", "t.txt"]' '["sample", "t"]'

First all modules of charlm are imported. Each command's exit code is a line on standard error. What torch and NumPy
cannot be imported without on this system stays (os.uname, os.register_at_fork): on others they do not look for it.
"""

from __future__ import annotations

import asyncio  # noqa: F401  # as torch imports it; on a POSIX system it cannot be imported without os.sysconf
import ctypes
import importlib
import json
import os
import pkgutil
import signal
import sys
from typing import Any

MODULES = ("fcntl", "termios", "pwd", "grp", "resource", "tty", "pty", "syslog", "readline")
FUNCTIONS = (
    *("sched_getaffinity", "sched_setaffinity", "sysconf", "getuid", "geteuid", "getgid", "getegid", "fchmod", "chown"),
    *("fchown", "fork", "setsid", "getpgid", "killpg", "statvfs", "pread", "pwrite", "mkfifo", "ctermid"),
    *("O_NONBLOCK", "O_NOFOLLOW", "O_DIRECTORY", "O_CLOEXEC", "getloadavg", "posix_fallocate"),
)
SIGNALS = ("SIGHUP", "SIGPIPE", "SIGQUIT", "SIGALRM", "SIGUSR1", "SIGUSR2", "SIGKILL", "SIGCHLD", "SIGTSTP", "SIGWINCH")


def take_away() -> None:
    """Leave about as much as Windows has."""
    for name in MODULES:
        sys.modules[name] = None  # type: ignore[assignment]
    for place, names in ((os, FUNCTIONS), (signal, SIGNALS)):
        for name in names:
            if hasattr(place, name):
                delattr(place, name)
    load = ctypes.CDLL.__init__

    def no_own_library(self: ctypes.CDLL, name: Any, *arguments: Any, **options: Any) -> None:
        if name is None:
            raise TypeError("LoadLibrary() argument 1 must be str, not None")
        load(self, name, *arguments, **options)

    ctypes.CDLL.__init__ = no_own_library  # type: ignore[method-assign]


def open_as_windows_does() -> None:
    """Folders cannot be opened, and what is not opened as binary gets another line end."""
    real_open, real_write, real_close = os.open, os.write, os.close
    binary, as_text = 0x8000, set()

    def open_file(path: Any, flags: int, *arguments: Any, **options: Any) -> int:
        if isinstance(path, (str, bytes, os.PathLike)) and os.path.isdir(path):
            raise PermissionError(13, "Permission denied", path)
        descriptor = real_open(path, flags & ~binary, *arguments, **options)
        if not flags & binary:
            as_text.add(descriptor)
        return descriptor

    def write(descriptor: int, data: Any) -> int:
        if descriptor not in as_text:
            return real_write(descriptor, data)
        real_write(descriptor, bytes(data).replace(b"\n", b"\r\n"))
        return len(data)

    def close(fd: int) -> None:
        as_text.discard(fd)
        real_close(fd)

    os.O_BINARY = binary  # type: ignore[attr-defined, unused-ignore]
    os.open, os.write, os.close = open_file, write, close


def import_all() -> None:
    import charlm

    for module in pkgutil.walk_packages(charlm.__path__, "charlm."):
        importlib.import_module(module.name)


def main() -> None:
    take_away()
    open_as_windows_does()
    import_all()
    from charlm.__main__ import main as charlm

    for line in sys.argv[1:]:
        sys.argv = ["charlm", *json.loads(line)]
        code = charlm()
        sys.stderr.write(f"{sys.argv[1]}: {code}\n")


if __name__ == "__main__":
    main()
