"""Standard streams that a command can rely on: closed ones are opened, and failures of standard error are ignored.

Results go to standard output, so a failure there is an error, unless the reader has closed its end. Standard error is
for whoever watches: a closed terminal, or a full disk behind a redirection, must not end a training run.

Data are UTF-8 whatever the locale. Words are in the encoding of the locale, and what it lacks is replaced.
"""

from __future__ import annotations

import codecs
import errno
import io
import os
import stat
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from charlm.report.words import replaced

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


_REPLACED: Final = "charlm.replaced"  # the name of our error handler among Python's


class _BestEffort(io.FileIO):
    """A descriptor on which writing never fails; what cannot be written is lost."""

    def write(self, data: ReadableBuffer, /) -> int:
        try:
            written = super().write(data)
        except OSError:
            written = None
        return memoryview(data).nbytes if written is None else written


def prepare() -> None:
    """Open descriptors 0 to 2 where they are closed: results would be printed into a checkpoint opened as number 1."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False, encoding="utf-8")  # noqa: SIM115
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False, encoding="utf-8")  # noqa: SIM115
    codecs.register_error(_REPLACED, _replace)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors=_REPLACED)
    encoding = "utf-8" if sys.stderr is None else sys.stderr.encoding
    raw = _BestEffort(2, "w", closefd=False)
    sys.stderr = io.TextIOWrapper(io.BufferedWriter(raw), encoding, _REPLACED, line_buffering=True)


def _replace(error: UnicodeError) -> tuple[str, int]:
    """What stands for characters that a stream's encoding lacks, and where to go on."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return replaced(error.object[error.start : error.end]), error.end


def write_data(data: bytes) -> None:
    """Write bytes to standard output as they are, after the words that were printed before."""
    sys.stdout.flush()
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def reader_has_gone(error: OSError) -> bool:
    """Whether the reader has closed its pipe, or the terminal was closed; neither is a failure."""
    if error.errno == errno.EIO:
        return stat.S_ISCHR(os.fstat(sys.stdout.fileno()).st_mode)
    return isinstance(error, BrokenPipeError)


def drop_output() -> None:
    """Discard further standard output, with what Python would flush from its buffer at exit."""
    with suppress(OSError):  # a replacement within another program has no descriptor
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
