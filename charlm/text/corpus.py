"""Files, folders and standard input to one exact text, its validation and test parts, and its fingerprint.

`charlm.text.encoding` decodes the bytes, strictly. Nothing is normalised: line ends and byte order marks stay as they
are. `charlm.text.split` says which part of each source is for training, for validation and for the test; the training
parts are joined unchanged, and so are the others. A corpus of records (`charlm.text.records`) is divided record by
record instead. This module knows nothing of tokens.
"""

from __future__ import annotations

import hashlib
import os
import stat
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from charlm.config import Shares, check_shares
from charlm.errors import CharlmError, ConfigError, DataError, StorageError
from charlm.text.encoding import UTF8, Reader
from charlm.text.records import as_records, divide, joined, records_of, without_duplicates
from charlm.text.remarks import Remark, Skipped, fold, fold_skipped, remarks_on
from charlm.text.split import CHARACTERS, FILES, RECORDS, cuts, describe, way_of

STDIN: Final = "-"
_FILE: Final = "a file"
_FOLDER: Final = "a folder"
_OPTIONS: Final = ("--val", "--test")
_SEPARATED: Final = {
    "line": "put each on a line of its own",
    "paragraph": "put a blank line between two paragraphs, or use --records line",
    "file": "name several files or a folder, or use --records line or paragraph",
}


@dataclass(frozen=True, slots=True)
class Source:
    """One file of a corpus, as it was read; the path `-` is standard input or a pipe, which cannot be read again.

    `bytes` and `sha256` are those of its text in UTF-8, so that the same text in another encoding is known.
    """

    path: str
    bytes: int
    characters: int
    sha256: str
    held_out: bool = False  # as a whole: named by --val or --test, or chosen by its hash
    test: bool = False  # and that for the test


@dataclass(frozen=True, slots=True)
class Corpus:
    """A training text, its validation text and its test text, and the files that they come from."""

    train: str
    val: str
    sources: tuple[Source, ...]
    remarks: tuple[str, ...]  # what a user should know: skipped files, byte order marks, line ends
    stdin: str = ""  # the text of standard input or a pipe, if one was read
    test: str = ""
    split: str = CHARACTERS  # how shares were held out, as `charlm.text.split` defines it

    @property
    def fingerprint(self) -> str:
        """SHA-256, in hexadecimal, of SHA-256(train), SHA-256(val) and, where there is a test text, SHA-256(test)."""
        parts = [hashlib.sha256(part.encode()).digest() for part in (self.train, self.val, self.test)]
        return hashlib.sha256(b"".join(parts[: 3 if self.test else 2])).hexdigest()


def read_text(path: str, reader: Reader = Reader()) -> str:  # noqa: B008 - frozen
    """The exact text of a file, or of standard input for `-`.

    Raises DataError if it is not in the reader's encoding (UTF-8), StorageError if it cannot be read, CharlmError if
    memory does not suffice.
    """
    with _in_memory(path):
        return reader.read(read_bytes(path), path)


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


def load_corpus(
    paths: Sequence[str],
    val: str,
    test: str = "0",
    *,
    split: str | None = None,
    encoding: str = UTF8,
    records: str = "none",
) -> Corpus:
    """The corpus of these files, folders (recursively, sorted) and `-`, held out as `--val` and `--test` say.

    `split` is how shares are held out (`charlm.text.split`); None leaves that to the files. `encoding` is that of
    all files, a name that `charlm.options.codec` returned; `records` is one of `charlm.config.RECORDS`.
    Raises DataError when fewer than two characters are left to train on, ConfigError when standard input or a pipe is
    named twice, StorageError when a named file cannot be read.
    """
    shares = check_shares(val, test)
    named = [*paths, *(path for path, share in zip((val, test), shares, strict=True) if share is None)]
    if sum(map(_read_once, named)) > 1:
        raise ConfigError(
            "standard input (-) and pipes can be read only once, so only one text may come from there",
            kept="nothing was written",
            hint="save the others as files",
        )
    with _in_memory(", ".join(named)):
        corpus = _join(paths, (val, test), shares, split, Reader(encoding, tuple(named)), records)
    if len(corpus.train) < 2:
        found = sum(source.characters for source in corpus.sources[: len(corpus.sources) - shares.count(None)])
        less = " ".join(f"{option} 0" for option, share in zip(_OPTIONS, shares, strict=True) if share)
        raise DataError(
            f"{', '.join(paths)}: {found} character{'s' * (found != 1)}, of which {len(corpus.train)} for training; "
            "at least 2 are needed",
            kept="nothing was written",
            hint=f"use a longer text, or {less}" if less else "use a longer text",
        )
    return corpus


def _join(
    paths: Sequence[str], held: tuple[str, str], shares: Shares, split: str | None, reader: Reader, records: str
) -> Corpus:
    """Read all files, hold out the shares, and add the files that the options `held` name instead of one."""
    read: list[tuple[Source, str]] = []
    remarks: list[Remark | str] = []
    for path in paths:
        for name, text in _texts(path, remarks, reader):
            read.append((_source(name, text), text))
            remarks += remarks_on(name, text)
    corpus = _divided(read, shares, split) if records == "none" else _divided_by_record(read, shares, records)
    remarks += corpus.remarks
    for option, path, share in zip(_OPTIONS, held, shares, strict=True):
        if share is None:
            text = read_text(path, reader)
            source = replace(_source(path, text), held_out=True, test=option == "--test")
            _check_held(option, path, source, corpus)
            read.append((source, text))
            remarks += remarks_on(path, text)
            corpus = replace(corpus, sources=(*corpus.sources, source))
            text = as_records(text, records, path)
            corpus = replace(corpus, test=text) if source.test else replace(corpus, val=text)
    if records != "none" and None in shares:  # shares are held out by hash, so that equal records are in one part
        corpus = _without_duplicates(corpus, records, remarks)
    stdin = next((text for source, text in read if source.path == STDIN), "")
    return replace(corpus, remarks=tuple(fold(remarks)), stdin=stdin)


def _divided(read: Sequence[tuple[Source, str]], shares: Shares, split: str | None) -> Corpus:
    """These files in parts: those for training joined in order, and likewise those that are held out."""
    files = [source for source, _ in read]
    val, test = (share or 0.0 for share in shares)
    way = way_of(files, split) if val or test else CHARACTERS
    parts = cuts(files, val, test, way)
    whole = way == FILES
    return Corpus(
        train="".join(text[: cut.train] for (_, text), cut in zip(read, parts, strict=True)),
        val="".join(text[cut.train : cut.val] for (_, text), cut in zip(read, parts, strict=True)),
        test="".join(text[cut.val :] for (_, text), cut in zip(read, parts, strict=True)),
        sources=tuple(
            replace(source, held_out=whole and cut.train < len(text), test=whole and cut.val < len(text))
            for (source, text), cut in zip(read, parts, strict=True)
        ),
        remarks=(*_joins([text for _, text in read if text]), *([describe(files, parts)] if whole else [])),
        split=way,
    )


def _divided_by_record(read: Sequence[tuple[Source, str]], shares: Shares, kind: str) -> Corpus:
    """The records of these files in parts, each in the order in which it was read."""
    found = [record for source, text in read for record in records_of(text, kind, source.path)]
    if len(found) < 2:
        raise DataError(
            f"--records {kind} needs two records at least, but the text has {len(found)}",
            kept="nothing was written",
            hint=_SEPARATED[kind],
        )
    parts = divide(found, shares[0] or 0.0, shares[1] or 0.0)
    counts = {"training": parts.train, "validation": parts.val, "test": parts.test}
    said = ", ".join(f"{len(records):,} for {name}" for name, records in counts.items() if records)
    if any(shares) and len(parts.train) < len(found):
        said += ", chosen by hash"
    return Corpus(
        train=joined(parts.train, kind),
        val=joined(parts.val, kind),
        test=joined(parts.test, kind),
        sources=tuple(source for source, _ in read),
        remarks=(f"{len(found):,} records ({kind}): {said}",),
        split=RECORDS,
    )


def _without_duplicates(corpus: Corpus, kind: str, remarks: list[Remark | str]) -> Corpus:
    """The corpus with no record in its validation text that is trained on or tested, which the remarks report."""
    val, left_out = without_duplicates(corpus.val, (corpus.train, corpus.test), kind)
    if left_out:
        remarks.append(f"{left_out:,} validation records are in the training or test text, too, and are left out")
    _, known = without_duplicates(corpus.test, (corpus.train,), kind)
    if known:
        remarks.append(f"{known:,} test records are in the training text, too; they are scored like the others")
    return replace(corpus, val=val)


def _joins(texts: Sequence[str]) -> Iterator[str]:
    """What a user should know of texts that are joined unchanged."""
    if count := sum(not text.endswith(("\n", "\r")) for text in texts[:-1]):
        lack = f"lack{'s' * (count == 1)} a final line end"
        yield f"{count:,} of {len(texts):,} files {lack}: the next file begins in the middle of a line"


def _check_held(option: str, path: str, source: Source, corpus: Corpus) -> None:
    """Refuse an empty file, and a test text that is trained or validated on."""
    if not source.characters:
        raise DataError(f"{path} is empty", kept="nothing was written", hint=f"{option} takes a file, a fraction, or 0")
    same = next((other for other in corpus.sources if other.sha256 == source.sha256), None)
    if source.test and same is not None:
        part = "validation" if same.held_out else "training"
        raise DataError(
            f"{option} {path}: {same.path} has the same content and is {part} text",
            kept="nothing was written",
            hint="hold out a text that is in no other part, or a fraction, as with --test 0.1",
        )


def _read_once(path: str) -> bool:
    """Whether this is standard input, a pipe or a device, which can be read a single time."""
    return path == STDIN or (os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path))


def _source(name: str, text: str) -> Source:
    raw = text.encode()
    path = STDIN if _read_once(name) else str(Path(name).absolute())
    return Source(path, len(raw), len(text), hashlib.sha256(raw).hexdigest())


def _texts(path: str, remarks: list[Remark | str], reader: Reader) -> Iterator[tuple[str, str]]:
    if path == STDIN or not os.path.isdir(path):
        yield path, read_text(path, reader)
        return
    skipped: list[Skipped] = []
    found = False
    for name in sorted(_walk(path, skipped)):
        try:
            text, why = reader.sift(Path(name).read_bytes())
        except OSError as error:
            text, why = "", str(error.strerror)
        if why:
            skipped.append(Skipped(name, why))
        else:
            found = True
            yield name, text
    remarks += fold_skipped(skipped)
    if not found:
        first = f"; skipped {min(map(str, skipped))}" if skipped else ""
        raise DataError(
            f"{path} contains no text files{first}{f' and {len(skipped) - 1} more' * (len(skipped) > 1)}",
            kept="nothing was written",
            hint=_suggestion(skipped, reader) or "name files, or a folder with UTF-8 text files in it",
        )


def _suggestion(skipped: Sequence[Skipped], reader: Reader) -> str:
    """How to read a folder whose texts are in another encoding, going by the first of them; or nothing."""
    other = [one.name for one in sorted(skipped, key=str) if one.why.startswith(("not UTF-8", "UTF-"))]
    if not other:
        return ""
    try:
        found = reader.suggestion(Path(other[0]).read_bytes(), other[0])
    except OSError:
        return ""
    return f"{other[0]}: {found}" if found else ""


def _walk(folder: str, skipped: list[Skipped]) -> Iterator[str]:
    """Paths of the files below a folder, in no order; anything else is added to `skipped`. Links are not followed.

    A list of folders still to visit takes the place of recursion, which deeply nested folders could exhaust.
    """
    left = [folder]
    while left:
        where = left.pop()
        try:
            names = os.listdir(where)
        except OSError as error:
            skipped.append(Skipped(where, str(error.strerror)))
            continue
        for name in names:
            path = os.path.join(where, name)
            kind = "hidden" if name.startswith(".") else _kind(path)
            if kind == _FILE:
                yield path
            elif kind == _FOLDER:
                left.append(path)
            else:
                skipped.append(Skipped(path, kind))


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
