"""Files, folders and standard input to one exact text, its validation part and its fingerprint.

Bytes are decoded as UTF-8, strictly. Nothing is normalised: line ends and byte order marks stay as they are. The last
part of *each* source is held out for validation; the training parts are joined unchanged, and so are the validation
parts. This module knows nothing of tokens.
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
    """One file of a corpus, as it was read; the path `-` is standard input or a pipe, which cannot be read again."""

    path: str
    bytes: int
    characters: int
    sha256: str
    held_out: bool = False  # a validation text, named by --val


@dataclass(frozen=True, slots=True)
class Corpus:
    """A training text and its validation text, and the files that they come from."""

    train: str
    val: str
    sources: tuple[Source, ...]
    remarks: tuple[str, ...]  # what a user should know: skipped files, byte order marks, line ends
    stdin: str = ""  # the text of standard input or a pipe, if one was read

    @property
    def fingerprint(self) -> str:
        """SHA-256, in hexadecimal, of the two digests SHA-256(train) and SHA-256(val), 64 bytes."""
        parts = [hashlib.sha256(part.encode()).digest() for part in (self.train, self.val)]
        return hashlib.sha256(b"".join(parts)).hexdigest()


def read_text(path: str) -> str:
    """The exact text of a file, or of standard input for `-`.

    Raises DataError if it is not UTF-8, StorageError if it cannot be read, CharlmError if memory does not suffice.
    """
    with _in_memory(path):
        return decode(read_bytes(path), path)


@contextmanager
def _in_memory(what: str) -> Iterator[None]:
    """Turn a MemoryError into a message: a text is held in memory, several times its size."""
    try:
        yield
    except MemoryError as error:
        raise CharlmError(
            f"{what} does not fit into memory",
            kept="nothing was written",
            hint="use a part of it: training needs 10 to 30 times the size of the file",
        ) from error


def read_bytes(path: str) -> bytes:
    """The bytes of a file, or of standard input for `-`; raises StorageError."""
    try:
        if path == STDIN:
            return sys.stdin.buffer.read()
        return Path(path).read_bytes()
    except IsADirectoryError as error:
        raise StorageError(
            f"{path} is a folder, not a file", kept="nothing was written", hint="name a file in it"
        ) from error
    except OSError as error:
        raise StorageError(
            f"cannot read {path}: {error.strerror}",
            kept="nothing was written",
            hint="check the name and its permissions",
        ) from error
    except ValueError as error:  # a NUL in the name
        raise StorageError(
            f"cannot read {path!r}: {error}", kept="nothing was written", hint="check the name"
        ) from error


def decode(raw: bytes, path: str) -> str:
    """The text of these bytes, as strict UTF-8; DataError names the offset and line of the first bad byte."""
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path} is not UTF-8: {error.reason} at byte {error.start}, line {line}",
            kept="nothing was written",
            hint=_decoding_hint(raw, error),
        ) from error


def _decoding_hint(raw: bytes, error: UnicodeDecodeError) -> str:
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "convert it first: iconv -f utf-16 -t utf-8"
    if b"\0" in raw[:_SNIFF]:
        return "it looks like a binary file: name a text file"
    if error.reason == "unexpected end of data":
        return "it ends inside a character, so it may be cut short: get the whole file"
    return "convert it first, for example with iconv -f latin1 -t utf-8"


def load_corpus(paths: Sequence[str], val: str) -> Corpus:
    """The corpus of these files, folders (recursively, sorted) and `-`, split as `--val` says.

    Raises DataError when fewer than two characters are left to train on, ConfigError when standard input or a pipe is
    named twice, StorageError when a named file cannot be read.
    """
    share = val_share(val)
    named = [*paths, val] if share is None else paths
    if sum(map(_read_once, named)) > 1:
        raise ConfigError(
            "standard input (-) and pipes can be read only once, so only one text may come from there",
            kept="nothing was written",
            hint="save the others as files",
        )
    with _in_memory(", ".join(named)):
        corpus = _join(paths, val, share)
    if len(corpus.train) < 2:
        found = sum(source.characters for source in corpus.sources if not source.held_out)
        raise DataError(
            f"{', '.join(paths)}: {found} character{'s' * (found != 1)}, of which {len(corpus.train)} for training; "
            "at least 2 are needed",
            kept="nothing was written",
            hint="use a longer text, or --val 0" if share else "use a longer text",
        )
    return corpus


def _join(paths: Sequence[str], val: str, share: float | None) -> Corpus:
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
            raise DataError(f"{val} is empty", kept="nothing was written", hint="--val takes a file, a fraction, or 0")
    return Corpus("".join(train), "".join(held), tuple(sources), tuple(remarks), stdin)


def split_point(characters: int, share: float) -> int:
    """Number of characters before the validation part, computed exactly from the share's decimal digits.

    Floating point would lose characters: 1 - 0.9 is less than 0.1.

    >>> split_point(10, 0.9), int(10 * (1 - 0.9))
    (1, 0)
    """
    return int(characters * (1 - Fraction(str(share))))


def _read_once(path: str) -> bool:
    """Whether this is standard input, a pipe or a device, which can be read a single time."""
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
            f"{path} contains no text files{first}",
            kept="nothing was written",
            hint="name files, or a folder with UTF-8 text files in it",
        )


def _walk(folder: str, skipped: list[str]) -> Iterator[str]:
    """Paths of the files below a folder, in no order; anything else is added to `skipped`. Links are not followed.

    A list of folders still to visit takes the place of recursion, which deeply nested folders could exhaust.
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


def _remarks(name: str, text: str) -> Iterator[str]:
    if text.startswith("\ufeff"):
        yield f"{name} begins with a byte order mark, kept as a character"
    if "\r\n" in text:
        yield f"{name} has CR LF line ends, kept as they are"
    elif "\r" in text:
        yield f"{name} has CR line ends, kept as they are"
    if "\0" in text:
        yield f"{name} has NUL characters, kept as they are"
