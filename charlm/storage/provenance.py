"""Find a checkpoint's text again: by its recorded path, verified by its fingerprint."""

from __future__ import annotations

import codecs
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from hashlib import sha256
from os.path import getsize, isfile
from pathlib import Path
from typing import Final, TypeVar

from charlm.config import check_shares
from charlm.errors import DataError, StorageError
from charlm.runtime.cache import recall, remember
from charlm.storage.checkpoint import Checkpoint
from charlm.storage.durable import write_durably, write_stream
from charlm.storage.records import CorpusRecord
from charlm.storage.runs import Run
from charlm.text.corpus import STDIN, Corpus, Source
from charlm.text.encoding import UTF8, Reader
from charlm.text.files import FileState, Globs, blocks, is_packed
from charlm.text.large import LARGE, StoredCorpus, open_corpus
from charlm.text.overlap import TrainingIndex
from charlm.text.portion import end_of_text
from charlm.text.records import as_records, end_of
from charlm.text.split import CHARACTERS, RECORDS, cuts
from charlm.text.stored import blocks_of

_HINT = "restore the text, or give its current path: --corpus FILE; to resume, charlm train FILE --resume"
_DEEP: Final = 8  # folders above a run, and last parts of a recorded path, that are tried where a project has moved
C = TypeVar("C", bound=Corpus | StoredCorpus)


def keep_stdin(corpus: C, run: Run, encoding: str = UTF8) -> C:
    """The same corpus; what came from standard input is kept in the run's folder, where it can be found again.

    It is kept in the encoding of the run's other texts, as which all of them will be read.
    """
    if all(source.path != STDIN for source in corpus.sources):
        return corpus
    if isinstance(corpus, Corpus):
        write_durably(run.corpus, corpus.stdin.encode(encoding))
    elif corpus.stdin is not None:
        encoder = codecs.getincrementalencoder(encoding)()
        write_stream(run.corpus, (encoder.encode(block) for block in blocks_of(corpus.stdin)))
    path = str(run.corpus.absolute())
    return replace(corpus, sources=tuple(replace(s, path=path) if s.path == STDIN else s for s in corpus.sources))


def find_corpus(
    recorded: CorpusRecord,
    val: str,
    paths: Sequence[str] = (),
    *,
    test: str = "0",
    held_out: str | None = None,
    tested: str | None = None,
    beside: Path | None = None,
    allow_change: bool = False,
    encoding: str = UTF8,
    records: str = "none",
    globs: Globs = Globs(),  # noqa: B008 - frozen
) -> Corpus | StoredCorpus:
    """The corpus of a checkpoint: from `paths`, from where it was, or near `beside` it, where a project was moved.

    It is on the disk, where it is large. `val`, `test`, `encoding` and `records` are the run's own. Where one of the
    first two is a file, `held_out` or `tested` says where it is now, or it is known among `paths`; so are the run's own
    files among those of other runs.
    Raises DataError when a text is missing or, unless `allow_change`, when it is no longer the same.
    """
    named = _named(recorded, val, test)
    own = [source for source in recorded.sources if source not in named]
    given, held = list(paths), [val, test]
    try:
        digests = {path: _digest(path, encoding) for path in given if isfile(path)}
        for which, (source, at) in enumerate(zip(named, (held_out, tested), strict=True)):
            if source is not None:
                now = at or next((path for path, digest in digests.items() if digest == source.sha256), None)
                given = [path for path in given if path != now]
                held[which] = now or _found(source, beside, encoding)
        wanted = {source.sha256 for source in own}
        if wanted <= set(digests.values()):  # the others belong to other runs of the same command
            given = [path for path in given if digests.get(path) in wanted]
        places = given or [_found(source, beside, encoding) for source in own]
        corpus = open_corpus(places, *held, split=recorded.split, encoding=encoding, records=records, globs=globs)
    except StorageError as error:
        raise DataError(f"the run's own text is missing: {error}", hint=_HINT) from error
    if corpus.fingerprint != recorded.fingerprint and not allow_change:
        raise DataError(_difference(recorded.sources, corpus), kept="nothing was changed", hint=_HINT)
    return corpus


def own_corpus(checkpoint: Checkpoint, path: Path, paths: Sequence[str] = ()) -> Corpus | StoredCorpus:
    """`find_corpus` for a checkpoint that was read from `path`."""
    data = checkpoint.config.data
    return find_corpus(
        checkpoint.corpus,
        data.val,
        paths,
        test=data.test,
        beside=path.parent,
        encoding=data.encoding,
        records=data.records,
        globs=Globs.of(data.include, data.exclude),
    )


def training_index(checkpoint: Checkpoint, path: Path, corpus: Sequence[str] = ()) -> TrainingIndex:
    """The index of what this checkpoint, read from `path`, was trained on: from its old place or from `corpus`.

    Of a large text it is an index of its end. Raises DataError when that text is missing or has another fingerprint.
    """
    data, found = checkpoint.config.data, own_corpus(checkpoint, path, corpus)
    if isinstance(found, Corpus):
        return TrainingIndex(training_files(found, data.val, data.test))
    text, remark = end_of_text(found.train)
    return TrainingIndex([(" and ".join(source.path for source in found.sources if not source.held_out), text)], remark)


def training_records(checkpoint: Checkpoint, path: Path, kind: str, corpus: Sequence[str] = ()) -> frozenset[str]:
    """The records of this kind in the training text of a checkpoint that was read from `path`, without their ends.

    Raises DataError when that text is missing or has another fingerprint.
    """
    text = as_records(str(own_corpus(checkpoint, path, corpus).train), kind)
    return frozenset(text.split(end_of(kind))) - {""}


def training_files(corpus: Corpus, val: str, test: str = "0") -> list[tuple[str, str]]:
    """Path and training part of each of a corpus's files, where `--val` and `--test` were these."""
    sources = [source for source in corpus.sources if not source.held_out]  # in a split by files these are whole
    if corpus.split == RECORDS:
        return [(" and ".join(source.path for source in sources), corpus.train)]
    shares = check_shares(val, test) if corpus.split == CHARACTERS else (0.0, 0.0)
    begin = 0
    files = []
    for source, cut in zip(sources, cuts(sources, shares[0] or 0.0, shares[1] or 0.0, CHARACTERS), strict=True):
        files.append((source.path, corpus.train[begin : begin + cut.train]))
        begin += cut.train
    return files


def _named(recorded: CorpusRecord, val: str, test: str) -> tuple[Source | None, Source | None]:
    """The files that `--val` and `--test` named, None where one was a share; raises DataError where one is missing."""
    found: list[Source | None] = []
    for part, share in zip(("validation", "test"), check_shares(val, test), strict=True):
        held = [source for source in recorded.sources if source.held_out and source.test == (part == "test")]
        if share is None and not held:
            raise DataError(f"the run's {part} file is missing from its record", kept="nothing was changed", hint=_HINT)
        found.append(held[-1] if share is None else None)
    return found[0], found[1]


def _digest(path: str, encoding: str) -> str:
    """The SHA-256 of a text in UTF-8, as `Source` records it; of a file in another encoding, of its bytes.

    That of a large file is remembered for as long as the system says that it has not changed.
    """
    state = FileState.of(path)
    key = sha256(repr((encoding, *state)).encode("utf-8", "surrogatepass")).hexdigest()
    settled = state.size > LARGE and state.settled(time.time())
    if settled and isinstance(known := recall("texts", key), str):
        return known
    digest = _hashed(path, encoding)
    if settled:
        remember("texts", key, digest)
    return digest


def _hashed(path: str, encoding: str) -> str:
    if encoding != UTF8:
        with suppress(DataError):
            return _sum(piece.utf8 for piece in Reader(encoding).pieces(blocks(path), path))
    return _sum(blocks(path))


def _sum(parts: Iterable[bytes]) -> str:
    found = sha256()
    for part in parts:
        found.update(part)
    return found.hexdigest()


def _found(source: Source, beside: Path | None, encoding: str) -> str:
    """Where a text was, or where it is as it was in a project that has moved, or a file of its name beside the run.

    What is no file is not opened: a stranger's checkpoint may name anything, also a pipe that nobody writes to.
    """
    near = [] if beside is None else [str(place) for place in _places(source.path, beside)]
    places = [place for place in (source.path, *near) if isfile(place)]
    if found := next((place for place in places if _is(place, source, encoding)), None):
        return found
    named = {source.path} if beside is None else {source.path, str(beside / Path(source.path).name)}
    for place in places:  # changed: whoever allows that means this one
        if place in named:
            return place
    raise StorageError(f"cannot read {source.path}: there is no such file", kept="nothing was written")


def _places(path: str, beside: Path) -> Iterator[Path]:
    """Where a path may lead in a copy of a project, from the folder of a run in it: nearest and longest first.

    With a text at /old/data/book.txt, a run at /new/checkpoints/book finds /new/data/book.txt.
    """
    folder = beside.absolute()
    parts = Path(path).parts[1:][-_DEEP:] if Path(path).is_absolute() else Path(path).parts[-_DEEP:]
    if not parts:  # a stranger's checkpoint may name no file at all
        return
    yield beside / parts[-1]
    for above in (folder, *folder.parents[:_DEEP]):
        for first in range(len(parts)):
            yield above.joinpath(*parts[first:])


def _is(place: str, source: Source, encoding: str) -> bool:
    """Whether this file is the text that was read; in UTF-8, one of another size is not even opened."""
    with suppress(OSError, StorageError, DataError):
        likely = encoding != UTF8 or getsize(place) == source.bytes or is_packed(place)
        return likely and _digest(place, encoding) == source.sha256
    return False


def _difference(before: Sequence[Source], now: Corpus | StoredCorpus) -> str:
    """What about a corpus has changed, in words."""
    if len(before) != len(now.sources):
        return f"the run's text had {len(before)} file{'s' * (len(before) != 1)} and now has {len(now.sources)}"
    for old, new in zip(before, now.sources, strict=True):
        if old.sha256 != new.sha256:
            return (
                f"{new.path} is not the run's text: {old.characters:,} characters then, {new.characters:,} now, "
                "and another SHA-256"
            )
    return "the run's text is now split differently"
