"""Files, folders and standard input to one exact text, its held-out part and its fingerprint.

Bytes are UTF-8, strictly; nothing is normalised, no line end is translated, a byte order mark stays. The last share
of *each* source is held out; the parts are joined unchanged. This module knows nothing of tokens.
"""

from __future__ import annotations

import codecs
import hashlib
import os
import stat
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Final

from charlm.config import val_share
from charlm.errors import CharlmError, ConfigError, DataError, StorageError

STDIN: Final = "-"
_SNIFF: Final = 8192
_FILE: Final = "a file"
_FOLDER: Final = "a folder"


@dataclass(frozen=True, slots=True)
class Source:
    """One file of a corpus, as it was read; `-` is standard input or a pipe, which nobody can read again."""

    path: str
    bytes: int
    characters: int
    sha256: str
    held_out: bool = False  # named by --val


@dataclass(frozen=True, slots=True)
class Corpus:
    """A training text and its held-out text, with where they came from."""

    train: str
    val: str
    sources: tuple[Source, ...]
    remarks: tuple[str, ...]  # what a user should know about the text: what was skipped, BOM, line ends
    stdin: str = ""  # what standard input, or a pipe, gave

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the two parts' SHA-256, as hexadecimal."""
        parts = [hashlib.sha256(part.encode()).digest() for part in (self.train, self.val)]
        return hashlib.sha256(b"".join(parts)).hexdigest()


def read_text(path: str) -> str:
    """The exact text of a file, or of standard input for `-`."""
    with _in_memory(path):
        return decode(read_bytes(path), path)


@contextmanager
def _in_memory(what: str) -> Iterator[None]:
    """A text is held in memory, several times its size; one that is too large says so."""
    try:
        yield
    except MemoryError as error:
        raise CharlmError(
            f"{what} does not fit into memory",
            kept="nothing was written",
            hint="give a part of it: it takes 10 to 30 times the size of its file",
        ) from error


def read_bytes(path: str) -> bytes:
    try:
        if path == STDIN:
            return sys.stdin.buffer.read()
        return Path(path).read_bytes()
    except IsADirectoryError as error:
        raise StorageError(f"{path} is a folder, not a text", kept="nothing was written", hint="name a file") from error
    except OSError as error:
        raise StorageError(
            f"cannot read {path}: {error.strerror}",
            kept="nothing was written",
            hint="check the name and its permissions",
        ) from error
    except ValueError as error:  # a NUL in the name
        raise StorageError(f"cannot read {path!r}: {error}", kept="nothing was written") from error


def decode(raw: bytes, path: str) -> str:
    """UTF-8, strictly; the error names the first bad byte's offset and line."""
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path} is not UTF-8: {error.reason} at byte {error.start}, line {line}",
            kept="nothing was written",
            hint=_advice(raw, error),
        ) from error


def _advice(raw: bytes, error: UnicodeDecodeError) -> str:
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "convert it first: iconv -f utf-16 -t utf-8"
    if b"\0" in raw[:_SNIFF]:
        return "it looks binary: give a text"
    if error.reason == "unexpected end of data":
        return "it ends inside a character, as a file that was cut short does: get it whole"
    return "convert it first, for instance with iconv -f latin1 -t utf-8"


def load_corpus(paths: Sequence[str], val: str) -> Corpus:
    """The corpus that these files, folders (recursively, sorted) and `-` make, split as `--val` says.

    Raises DataError when fewer than two characters are left to train on, StorageError when a named file is unreadable.
    """
    share = val_share(val)
    named = [*paths, val] if share is None else paths
    if sum(map(_read_once, named)) > 1:
        raise ConfigError(
            "standard input (-) can be read only once, and so can a pipe; one text may come from there",
            kept="nothing was written",
            hint="write the others to files",
        )
    with _in_memory(", ".join(named)):
        corpus = _joined(paths, val, share)
    if len(corpus.train) < 2:
        found = sum(source.characters for source in corpus.sources if not source.held_out)
        raise DataError(
            f"{', '.join(paths)}: {found} character{'s' * (found != 1)}, of which {len(corpus.train)} to train on; "
            "at least 2 are needed",
            kept="nothing was written",
            hint="give a longer text, or --val 0" if share else "give a longer text",
        )
    return corpus


def _joined(paths: Sequence[str], val: str, share: float | None) -> Corpus:
    train: list[str] = []
    held: list[str] = []
    sources: list[Source] = []
    remarks: list[str] = []
    stdin = ""
    for path in paths:
        for name, text in _texts(path, remarks):
            sources.append(_source(name, text))
            remarks += _remarks(name, text)
            stdin = text if sources[-1].path == STDIN else stdin
            end = split_point(len(text), share or 0.0)
            train.append(text[:end])
            held.append(text[end:])
    if share is None:
        text = read_text(val)
        sources.append(_source(val, text, held_out=True))
        remarks += _remarks(val, text)
        stdin = text if sources[-1].path == STDIN else stdin
        held = [text]
        if not text:
            raise DataError(f"{val} is empty", kept="nothing was written", hint="--val wants a text, a share, or 0")
    return Corpus("".join(train), "".join(held), tuple(sources), tuple(remarks), stdin)


def split_point(characters: int, share: float) -> int:
    """How many characters are before the held-out share, which is meant as the decimal number that a user reads.

    >>> split_point(10, 0.9), int(10 * (1 - 0.9))
    (1, 0)
    """
    return int(characters * (1 - Fraction(str(share))))


def _read_once(path: str) -> bool:
    """Whether this is standard input, or a pipe or another device that gives its text a single time."""
    return path == STDIN or (os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path))


def _source(name: str, text: str, *, held_out: bool = False) -> Source:
    raw = text.encode()
    path = STDIN if _read_once(name) else str(Path(name).absolute())
    return Source(path, len(raw), len(text), hashlib.sha256(raw).hexdigest(), held_out)


def _texts(path: str, remarks: list[str]) -> Iterator[tuple[str, str]]:
    if path == STDIN or not os.path.isdir(path):
        yield path, read_text(path)
        return
    skipped: list[str] = []
    found = False
    for name in sorted(_walk(path, skipped)):
        try:
            raw = Path(name).read_bytes()
            if b"\0" in raw[:_SNIFF]:
                skipped.append(f"{name}: binary")
                continue
            text = raw.decode()
        except OSError as error:
            skipped.append(f"{name}: {error.strerror}")
        except UnicodeDecodeError as error:
            skipped.append(f"{name}: not UTF-8 at byte {error.start}")
        else:
            found = True
            yield name, text
    remarks += [f"skipped {what}" for what in sorted(skipped)]
    if not found:
        first = f"; skipped {min(skipped)}" + f" and {len(skipped) - 1} more" * (len(skipped) > 1) if skipped else ""
        raise DataError(
            f"{path} holds no text{first}",
            kept="nothing was written",
            hint="name files, or a folder with UTF-8 texts in it",
        )


def _walk(folder: str, skipped: list[str]) -> Iterator[str]:
    """Files below a folder, in no order; whatever else lies there is named, and links to folders are not followed.

    A list of what is still to be visited instead of recursion: folders may be nested as deep as paths can be long.
    """
    left = [folder]
    while left:
        where = left.pop()
        try:
            names = os.listdir(where)
        except OSError as error:
            skipped.append(f"{where}: {error.strerror}")
            continue
        for name in names:
            path = os.path.join(where, name)
            kind = "hidden" if name.startswith(".") else _kind(path)
            if kind == _FILE:
                yield path
            elif kind == _FOLDER:
                left.append(path)
            else:
                skipped.append(f"{path}: {kind}")


def _kind(path: str) -> str:
    """A file, a folder, or why it is neither that a text is looked for in; a pipe is never opened, it could block."""
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
    return "a run of charlm's" if _is_run(path) else _FOLDER


def _is_run(folder: str) -> bool:
    """Whether this is one of our own runs: what we wrote is no text to learn from."""
    return any(os.path.isfile(os.path.join(folder, f"{name}.safetensors")) for name in ("last", "previous"))


def _remarks(name: str, text: str) -> Iterator[str]:
    if text.startswith("\ufeff"):
        yield f"{name} begins with a byte order mark, kept as a character"
    if "\r\n" in text:
        yield f"{name} has CR LF line ends, kept as they are"
    elif "\r" in text:
        yield f"{name} has CR line ends, kept as they are"
    if "\0" in text:
        yield f"{name} has NUL characters, kept as they are"
