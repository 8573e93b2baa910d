"""Files, folders and standard input to one exact text, its held-out part and its fingerprint.

Bytes are UTF-8, strictly; nothing is normalised, no line end is translated, a byte order mark stays. The last share
of *each* source is held out; the parts are joined unchanged. This module knows nothing of tokens.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from charlm.config import val_share
from charlm.errors import ConfigError, DataError, StorageError

STDIN: Final = "-"
_SNIFF: Final = 8192


@dataclass(frozen=True, slots=True)
class Source:
    """One file (or `-`) of a corpus, as it was read."""

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
    stdin: str = ""  # what standard input gave, which cannot be read a second time

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the two parts' SHA-256, as hexadecimal."""
        parts = [hashlib.sha256(part.encode()).digest() for part in (self.train, self.val)]
        return hashlib.sha256(b"".join(parts)).hexdigest()


def read_text(path: str) -> str:
    """The exact text of a file, or of standard input for `-`."""
    return decode(read_bytes(path), path)


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
    train: list[str] = []
    held: list[str] = []
    sources: list[Source] = []
    remarks: list[str] = []
    if paths.count(STDIN) + (val == STDIN) > 1:
        raise ConfigError("standard input (-) can be read only once", kept="nothing was written")
    stdin = ""
    for path in paths:
        for name, text in _texts(path, remarks):
            sources.append(_source(name, text))
            remarks += _remarks(name, text)
            stdin = text if path == STDIN else stdin
            cut = int(len(text) * (1 - share)) if share is not None else len(text)
            train.append(text[:cut])
            held.append(text[cut:])
    if share is None:
        text = read_text(val)
        sources.append(_source(val, text, held_out=True))
        stdin = text if val == STDIN else stdin
        held = [text]
        if not text:
            raise DataError(f"{val} is empty", kept="nothing was written", hint="--val wants a text, a share, or 0")
    corpus = Corpus("".join(train), "".join(held), tuple(sources), tuple(remarks), stdin)
    if len(corpus.train) < 2:
        found = sum(source.characters for source in sources)
        raise DataError(
            f"{', '.join(paths)}: {found} character{'s' * (found != 1)}, of which {len(corpus.train)} to train on; "
            "at least 2 are needed",
            kept="nothing was written",
            hint="give a longer text, or --val 0",
        )
    return corpus


def _source(name: str, text: str, *, held_out: bool = False) -> Source:
    raw = text.encode()
    path = name if name == STDIN else str(Path(name).absolute())
    return Source(path, len(raw), len(text), hashlib.sha256(raw).hexdigest(), held_out)


def _texts(path: str, remarks: list[str]) -> Iterator[tuple[str, str]]:
    if path == STDIN or not os.path.isdir(path):
        yield path, read_text(path)
        return
    found = False
    for name in sorted(_walk(Path(path), remarks)):
        try:
            raw = Path(name).read_bytes()
            if b"\0" in raw[:_SNIFF]:
                remarks.append(f"skipped {name}: binary")
                continue
            text = raw.decode()
        except OSError as error:
            remarks.append(f"skipped {name}: {error.strerror}")
        except UnicodeDecodeError as error:
            remarks.append(f"skipped {name}: not UTF-8 at byte {error.start}")
        else:
            found = True
            yield name, text
    if not found:
        raise DataError(
            f"{path} holds no text", kept="nothing was written", hint="name files, or a folder with UTF-8 texts in it"
        )


def _walk(folder: Path, remarks: list[str]) -> Iterator[str]:
    """Regular files below a folder; hidden ones are passed over, links to folders are named and not followed."""

    def unreadable(error: OSError) -> None:
        remarks.append(f"skipped {error.filename}: {error.strerror}")

    for where, folders, files in os.walk(folder, onerror=unreadable):
        remarks += [f"skipped {Path(where, name)}: a run of charlm's" for name in folders if _is_run(Path(where, name))]
        folders[:] = [name for name in folders if not name.startswith(".") and not _is_run(Path(where, name))]
        remarks += [
            f"skipped {Path(where, name)}: a link to a folder" for name in folders if Path(where, name).is_symlink()
        ]
        for name in files:
            path = Path(where, name)
            if name.startswith("."):
                continue
            if path.is_file():
                yield str(path)
            else:
                remarks.append(f"skipped {path}: not a file")


def _is_run(folder: Path) -> bool:
    """Whether this is one of our own runs: what we wrote is no text to learn from."""
    return (folder / "last.safetensors").exists()


def _remarks(name: str, text: str) -> Iterator[str]:
    if text.startswith("\ufeff"):
        yield f"{name} begins with a byte order mark, kept as a character"
    if "\r\n" in text:
        yield f"{name} has CR LF line ends, kept as they are"
    elif "\r" in text:
        yield f"{name} has CR line ends, kept as they are"
    if "\0" in text:
        yield f"{name} has NUL characters, kept as they are"
