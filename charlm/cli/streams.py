"""Standard streams that are always there: closed ones are filled in, and nobody has to listen to standard error.

Results go to standard output, so that it fails is an error, unless its reader has simply gone. What goes to standard
error is for whoever watches; that the terminal has gone, or the disk below a redirection is full, ends no training.
"""

from __future__ import annotations

import errno
import io
import os
import stat
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


class _Unheeded(io.FileIO):
    """Takes everything that it is given, whether or not it arrives."""

    def write(self, data: ReadableBuffer, /) -> int:
        try:
            written = super().write(data)
        except OSError:
            written = None
        return memoryview(data).nbytes if written is None else written


def prepare() -> None:
    """Descriptors 0 to 2 are open from here on: a checkpoint that came to be number 1 would be printed into."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False, encoding="utf-8")  # noqa: SIM115
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False, encoding="utf-8")  # noqa: SIM115
    encoding = "utf-8" if sys.stderr is None else sys.stderr.encoding
    raw = _Unheeded(2, "w", closefd=False)
    sys.stderr = io.TextIOWrapper(io.BufferedWriter(raw), encoding, "backslashreplace", line_buffering=True)


def reader_has_gone(error: OSError) -> bool:
    """A pipe whose reader has what it wanted, or a terminal that was closed, is not a failure."""
    if error.errno == errno.EIO:
        return stat.S_ISCHR(os.fstat(sys.stdout.fileno()).st_mode)
    return isinstance(error, BrokenPipeError)


def drop_output() -> None:
    """Nothing more to standard output, not even what is still in its buffer when Python flushes it at its end."""
    with suppress(OSError):  # what stands in for it within another program has no descriptor
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
