"""What can go wrong, as one tree; the exit code of the command line stands beside each kind.

    CharlmError           1   the operation failed
    ├── ConfigError       2   an option or a configuration is wrong, a run exists or is in use
    ├── DataError         3   a text cannot be used
    ├── CheckpointError   4   a checkpoint is bad, missing, or not there yet
    ├── DivergedError     5   training diverged, at lower learning rates too
    ├── LostError         1   another process of the run has ended, or cannot be reached
    ├── StorageError     74   reading or writing failed (EX_IOERR)
    └── StoppedError    130   interrupted (Ctrl-C); 129: hung up, when a terminal goes; 143: terminated

The library raises these; only the command line catches them.
"""

from __future__ import annotations

import os
import shlex

HUNG_UP = 129  # as shells count signals: 128 + SIGHUP
INTERRUPTED = 130  # Ctrl-C, 128 + SIGINT
TERMINATED = 143  # 128 + SIGTERM


class CharlmError(Exception):
    """What is wrong and where; `kept` says what was left unchanged, `hint` what to do next.

    >>> print(CharlmError("a.txt is empty", kept="nothing was written", hint="give a longer text"))
    a.txt is empty; nothing was written; give a longer text
    """

    exit_code = 1

    def __init__(self, what: str, *, kept: str = "", hint: str = "") -> None:
        super().__init__("; ".join(part for part in (what, kept, hint) if part))


class ConfigError(CharlmError):
    exit_code = 2


class DataError(CharlmError):
    exit_code = 3


class CheckpointError(CharlmError):
    exit_code = 4


class DivergedError(CharlmError):
    exit_code = 5


class LostError(CharlmError):
    """Another process of the run has ended, or cannot be reached."""


class StoppedError(CharlmError):
    """A signal ended the work; `exit_code` is the shell's for that signal."""

    def __init__(self, what: str, *, kept: str, hint: str, exit_code: int) -> None:
        super().__init__(what, kept=kept, hint=hint)
        self.exit_code = exit_code


class StorageError(CharlmError):
    exit_code = 74


def quoted(text: object) -> str:
    """A file, a name or a value as it stands in a suggested command, which can be pasted into a shell.

    What cannot be printed is written as bash reads it; a name that begins like an option is a path.

    >>> print(quoted("my novel.txt"), quoted("it's"), quoted("plain.txt"), quoted("two\\nlines"), quoted("-x"))
    'my novel.txt' 'it'"'"'s' plain.txt $'two\\x0alines' ./-x
    """
    word = str(text)
    if word.startswith("-") and word != "-":
        word = f"./{word}"
    if word.isprintable():
        return shlex.quote(word)
    raw = os.fsencode(word) if any("\udc80" <= character <= "\udcff" for character in word) else word.encode()
    return "$'" + "".join(chr(b) if 32 <= b < 127 and chr(b) not in "\\'" else f"\\x{b:02x}" for b in raw) + "'"
