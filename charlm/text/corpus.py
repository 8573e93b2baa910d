"""Files, folders and standard input to one exact text, its validation and test parts, and its fingerprint.

`charlm.text.encoding` decodes the bytes, strictly. Nothing is normalised: line ends and byte order marks stay as they
are. `charlm.text.split` says which part of each source is for training, for validation and for the test; the training
parts are joined unchanged, and so are the others. A corpus of records (`charlm.text.records`) is divided record by
record instead. This module knows nothing of tokens.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Final, NamedTuple, NoReturn

from charlm.config import Shares, check_shares
from charlm.errors import CharlmError, ConfigError, DataError, StorageError, quoted
from charlm.text.encoding import UTF8, Reader
from charlm.text.files import (
    STDIN,
    Globs,
    Source,
    blocks,
    files_below,
    read_once,
    read_unpacked,
    source_path,
    unpacked_name,
)
from charlm.text.records import (
    as_records,
    describe_duplicates,
    describe_parts,
    divide,
    joined,
    records_of,
    refuse_too_few,
    without_duplicates,
)
from charlm.text.remarks import Remark, Skipped, fold, fold_skipped, remarks_on
from charlm.text.split import CHARACTERS, FILES, RECORDS, Cut, cuts, describe, way_of

__all__ = ["STDIN", "Corpus", "Source", "load_corpus", "read_text"]

OPTIONS: Final = ("--val", "--test")
NOTHING_KNOWN: Final[Mapping[str, bytes]] = MappingProxyType({})


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
    """The exact text of a file, unpacked, or of standard input for `-`.

    Raises DataError if it is not in the reader's encoding (UTF-8), StorageError if it cannot be read, CharlmError if
    memory does not suffice.
    """
    with _in_memory(path):
        return reader.read(read_unpacked(path), path)


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


def load_corpus(
    paths: Sequence[str],
    val: str,
    test: str = "0",
    *,
    split: str | None = None,
    encoding: str = UTF8,
    records: str = "none",
    globs: Globs = Globs(),  # noqa: B008 - frozen
    known: Mapping[str, bytes] = NOTHING_KNOWN,
) -> Corpus:
    """The corpus of these files, folders (recursively, sorted) and `-`, held out as `--val` and `--test` say.

    `split` is how shares are held out (`charlm.text.split`); None leaves that to the files. `encoding` is that of
    all files, a name that `charlm.options.codec` returned; `records` is one of `charlm.config.RECORDS`; `globs` says
    which files of a folder are read. `known` has what was read already of what can be read only once.
    Raises DataError when fewer than two characters are left to train on, ConfigError when standard input or a pipe is
    named twice, StorageError when a named file cannot be read.
    """
    shares = check_shares(val, test)
    named = names_of(paths, (val, test), shares)
    files = _Files(Reader(encoding, tuple(named)), globs, known)
    with _in_memory(", ".join(named)):
        corpus = _join(paths, (val, test), shares, split, files, records)
    refuse_too_short(paths, shares, corpus.sources, len(corpus.train))
    return corpus


def names_of(paths: Sequence[str], held: tuple[str, str], shares: Shares) -> list[str]:
    """All files and folders that are named; raises ConfigError where two of them can be read only once."""
    named = [*paths, *(path for path, share in zip(held, shares, strict=True) if share is None)]
    if sum(map(read_once, named)) > 1:
        raise ConfigError(
            "standard input (-) and pipes can be read only once, so only one text may come from there",
            kept="nothing was written",
            hint="save the others as files",
        )
    return named


def refuse_too_short(paths: Sequence[str], shares: Shares, sources: Sequence[Source], train: int) -> None:
    """Raise DataError where fewer than two characters are left to train on."""
    if train < 2:
        found = sum(source.characters for source in sources[: len(sources) - shares.count(None)])
        less = " ".join(f"{option} 0" for option, share in zip(OPTIONS, shares, strict=True) if share)
        raise DataError(
            f"{', '.join(paths)}: {found} character{'s' * (found != 1)}, of which {train} for training; "
            "at least 2 are needed",
            kept="nothing was written",
            hint=f"use a longer text, or {less}" if less else "use a longer text",
        )


@dataclass(frozen=True, slots=True)
class _Files:
    """How the files of a corpus are read."""

    reader: Reader
    globs: Globs
    known: Mapping[str, bytes]

    def read(self, path: str) -> str:
        """The text of a file that is named."""
        if path in self.known:
            return self.reader.read(self.known[path], path)
        return read_text(path, self.reader)


def _join(
    paths: Sequence[str], held: tuple[str, str], shares: Shares, split: str | None, files: _Files, records: str
) -> Corpus:
    """Read all files, hold out the shares, and add the files that the options `held` name instead of one."""
    read: list[tuple[Source, str]] = []
    remarks: list[Remark | str] = []
    for path in paths:
        for name, text in _texts(path, remarks, files):
            read.append((_source(name, text), text))
            remarks += remarks_on(name, text)
    corpus = _divided(read, shares, split) if records == "none" else _divided_by_record(read, shares, records)
    remarks += corpus.remarks
    for option, path, share in zip(OPTIONS, held, shares, strict=True):
        if share is None:
            text = files.read(path)
            source = replace(_source(path, text), held_out=True, test=option == "--test")
            check_held(option, path, source, corpus.sources)
            read.append((source, text))
            remarks += remarks_on(path, text)
            corpus = replace(corpus, sources=(*corpus.sources, source))
            text = as_records(text, records, path)
            corpus = replace(corpus, test=text) if source.test else replace(corpus, val=text)
    if records != "none" and None in shares:  # shares are held out by hash, so that equal records are in one part
        corpus = _without_duplicates(corpus, records, remarks)
    stdin = next((text for source, text in read if source.path == STDIN), "")
    return replace(corpus, remarks=tuple(fold(remarks)), stdin=stdin)


class Division(NamedTuple):
    """How files are divided into parts: the files, where each is cut, which of `charlm.text.split` that is, and what a
    user should know of it.
    """

    sources: tuple[Source, ...]
    cuts: Sequence[Cut]
    way: str
    remarks: tuple[str, ...]


def division_of(files: Sequence[Source], ends: Sequence[str], shares: Shares, split: str | None) -> Division:
    """How these files are divided; `ends` are the last characters of those that are not empty."""
    val, test = (share or 0.0 for share in shares)
    way = way_of(files, split) if val or test else CHARACTERS
    parts, whole = cuts(files, val, test, way), way == FILES
    sources = (
        replace(file, held_out=whole and cut.train < file.characters, test=whole and cut.val < file.characters)
        for file, cut in zip(files, parts, strict=True)
    )
    return Division(tuple(sources), parts, way, (*_joins(ends), *([describe(files, parts)] if whole else [])))


def _divided(read: Sequence[tuple[Source, str]], shares: Shares, split: str | None) -> Corpus:
    """These files in parts: those for training joined in order, and likewise those that are held out."""
    ends = [text[-1] for _, text in read if text]
    sources, parts, way, remarks = division_of([source for source, _ in read], ends, shares, split)
    return Corpus(
        train="".join(text[: cut.train] for (_, text), cut in zip(read, parts, strict=True)),
        val="".join(text[cut.train : cut.val] for (_, text), cut in zip(read, parts, strict=True)),
        test="".join(text[cut.val :] for (_, text), cut in zip(read, parts, strict=True)),
        sources=sources,
        remarks=remarks,
        split=way,
    )


def _divided_by_record(read: Sequence[tuple[Source, str]], shares: Shares, kind: str) -> Corpus:
    """The records of these files in parts, each in the order in which it was read."""
    found = [record for source, text in read for record in records_of(text, kind, source.path)]
    refuse_too_few(len(found), kind)
    parts = divide(found, shares[0] or 0.0, shares[1] or 0.0)
    return Corpus(
        train=joined(parts.train, kind),
        val=joined(parts.val, kind),
        test=joined(parts.test, kind),
        sources=tuple(source for source, _ in read),
        remarks=(describe_parts(kind, [len(parts.train), len(parts.val), len(parts.test)]),),
        split=RECORDS,
    )


def _without_duplicates(corpus: Corpus, kind: str, remarks: list[Remark | str]) -> Corpus:
    """The corpus with no record in its validation text that is trained on or tested, which the remarks report."""
    val, left_out = without_duplicates(corpus.val, (corpus.train, corpus.test), kind)
    _, known = without_duplicates(corpus.test, (corpus.train,), kind)
    remarks += describe_duplicates(left_out, known)
    return replace(corpus, val=val)


def _joins(ends: Sequence[str]) -> Iterator[str]:
    """What a user should know of texts that are joined unchanged, whose last characters these are."""
    if count := sum(end not in "\n\r" for end in ends[:-1]):
        lack = f"lack{'s' * (count == 1)} a final line end"
        yield f"{count:,} of {len(ends):,} files {lack}: the next file begins in the middle of a line"


def check_held(option: str, path: str, source: Source, others: Sequence[Source]) -> None:
    """Refuse an empty file, and a test text that is trained or validated on."""
    if not source.characters:
        raise DataError(f"{path} is empty", kept="nothing was written", hint=f"{option} takes a file, a fraction, or 0")
    same = next((other for other in others if other.sha256 == source.sha256), None)
    if source.test and same is not None:
        part = "validation" if same.held_out else "training"
        raise DataError(
            f"{option} {path}: {same.path} has the same content and is {part} text",
            kept="nothing was written",
            hint="hold out a text that is in no other part, or a fraction, as with --test 0.1",
        )


def _source(name: str, text: str) -> Source:
    raw = text.encode()
    return Source(source_path(name), len(raw), len(text), hashlib.sha256(raw).hexdigest())


def _texts(path: str, remarks: list[Remark | str], files: _Files) -> Iterator[tuple[str, str]]:
    if path == STDIN or not os.path.isdir(path):
        yield path, files.read(path)
        return
    skipped: list[Skipped] = []
    found = False
    for name in files_below(path, skipped, files.globs):
        try:
            text, why = files.reader.sift(read_unpacked(name))
        except (StorageError, DataError) as error:
            text, why = "", unread(name, error)
        if why:
            skipped.append(Skipped(name, why))
        else:
            found = True
            yield name, text
    remarks += fold_skipped(skipped)
    if not found:
        refuse_folder(path, skipped, files.reader, files.globs)


def unread(name: str, error: CharlmError) -> str:
    """Why a file could not be read, without its name."""
    what = str(error).split("; ")[0]
    return what.removeprefix(f"cannot read {name}: ").removeprefix(f"{name} is ").removeprefix(f"{name} ")


def refuse_folder(path: str, skipped: Sequence[Skipped], reader: Reader, globs: Globs) -> NoReturn:
    """Raise DataError for a folder that has no text, or none that the patterns leave."""
    if not files_below(path, [], globs) and (found := files_below(path, [])):
        _refuse_patterns(path, globs, found)
    first = f"; skipped {min(map(str, skipped))}" if skipped else ""
    chosen = f" with {globs}" if globs != Globs() else ""
    raise DataError(
        f"{path} contains no text files{chosen}{first}{f' and {len(skipped) - 1} more' * (len(skipped) > 1)}",
        kept="nothing was written",
        hint=_suggestion(skipped, reader) or "name files, or a folder with UTF-8 text files in it",
    )


def _refuse_patterns(path: str, globs: Globs, found: Sequence[str]) -> NoReturn:
    """Raise DataError for patterns that leave none of the files that were found in a folder."""
    by_name = replace(globs, exclude=())
    included = files_below(path, [], by_name)
    left, chosen = included or found, f" that {by_name} chooses" if globs.include and included else ""
    guilty = replace(globs, include=()) if included else by_name
    files = f"the {len(left):,} files in {path}" if len(left) > 1 else f"one file in {path}"
    raise DataError(
        f"{guilty} leaves none of {files}{chosen}, such as {os.path.basename(left[0])}",
        kept="nothing was written",
        hint="leave it out, or name fewer files by it" if included else _other_pattern(globs, found),
    )


def _other_pattern(globs: Globs, found: Sequence[str]) -> str:
    """A pattern for the files that were found: those that would be chosen if they were not packed, or the first."""
    names = [os.path.basename(path) for path in found]
    name = next((name for name in names if unpacked_name(name) != name and globs.take(unpacked_name(name))), names[0])
    kind = "".join(Path(name).suffixes[-2:] if unpacked_name(name) != name else Path(name).suffixes[-1:])
    if re.fullmatch(r"[.\w]+", kind):
        return f"try --include {quoted(f'*{kind}')}, or leave it out"
    return "leave it out, or give another pattern"


def _suggestion(skipped: Sequence[Skipped], reader: Reader) -> str:
    """How to read a folder whose texts are in another encoding, going by the first of them; or nothing."""
    other = [one.name for one in sorted(skipped, key=str) if one.why.startswith(("not UTF-8", "UTF-"))]
    if not other:
        return ""
    try:
        found = reader.suggestion(next(blocks(other[0]), b""), other[0])
    except CharlmError:
        return ""
    return f"{other[0]}: {found}" if found else ""
