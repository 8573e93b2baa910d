"""Find a checkpoint's text again: by its recorded path, verified by its fingerprint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from os.path import isfile
from pathlib import Path

from charlm.config import val_share
from charlm.errors import DataError, StorageError
from charlm.storage.checkpoint import Checkpoint
from charlm.storage.durable import write_durably
from charlm.storage.records import CorpusRecord
from charlm.storage.runs import Run
from charlm.text.corpus import STDIN, Corpus, Source, load_corpus, read_bytes, split_point
from charlm.text.overlap import TrainingIndex

_HINT = "restore the text, or give its current path"


def keep_stdin(corpus: Corpus, run: Run) -> Corpus:
    """The same corpus; what came from standard input is kept in the run's folder, where it can be found again."""
    if all(source.path != STDIN for source in corpus.sources):
        return corpus
    write_durably(run.corpus, corpus.stdin.encode())
    path = str(run.corpus.absolute())
    return replace(corpus, sources=tuple(replace(s, path=path) if s.path == STDIN else s for s in corpus.sources))


def find_corpus(
    recorded: CorpusRecord,
    val: str,
    paths: Sequence[str] = (),
    *,
    held_out: str | None = None,
    beside: Path | None = None,
    allow_change: bool = False,
) -> Corpus:
    """The corpus of a checkpoint: from `paths`, from where it was, or from `beside` it, where a run's folder moved.

    `val` is the run's own `--val`. Where that is a file, `held_out` says where it is now, or it is known among `paths`;
    so are the run's own files among those of other runs.
    Raises DataError when a text is missing or, unless `allow_change`, when it is no longer the same.
    """
    own, held = recorded.training_sources, recorded.validation_source
    if held is None and val_share(val) is None:
        raise DataError("the run's validation file is missing from its record", kept="nothing was changed", hint=_HINT)
    given = list(paths)
    try:
        digests = {path: sha256(read_bytes(path)).hexdigest() for path in given if isfile(path)}
        if held is not None and held_out is None:
            held_out = next((path for path, digest in digests.items() if digest == held.sha256), None)
            given = [path for path in given if path != held_out]
        wanted = {source.sha256 for source in own}
        if wanted <= set(digests.values()):  # the others belong to other runs of the same command
            given = [path for path in given if digests.get(path) in wanted]
        corpus = load_corpus(
            given or [_found(source.path, beside) for source in own],
            (held_out or _found(held.path, beside)) if held is not None else val,
        )
    except StorageError as error:
        raise DataError(f"the run's own text is missing: {error}", hint=_HINT) from error
    if corpus.fingerprint != recorded.fingerprint and not allow_change:
        raise DataError(_difference(recorded.sources, corpus), kept="nothing was changed", hint=_HINT)
    return corpus


def own_corpus(checkpoint: Checkpoint, path: Path, paths: Sequence[str] = ()) -> Corpus:
    """`find_corpus` for a checkpoint that was read from `path`."""
    return find_corpus(checkpoint.corpus, checkpoint.config.data.val, paths, beside=path.parent)


def training_index(checkpoint: Checkpoint, path: Path, corpus: Sequence[str] = ()) -> TrainingIndex:
    """The index of what this checkpoint, read from `path`, was trained on: from its old place or from `corpus`.

    Raises DataError when that text is missing or has another fingerprint.
    """
    return TrainingIndex(training_files(own_corpus(checkpoint, path, corpus), checkpoint.config.data.val))


def training_files(corpus: Corpus, val: str) -> list[tuple[str, str]]:
    """Path and training part of each of a corpus's files, where `--val` was `val`."""
    share, begin = val_share(val) or 0.0, 0
    files = []
    for source in corpus.sources:
        if not source.held_out:
            end = begin + split_point(source.characters, share)
            files.append((source.path, corpus.train[begin:end]))
            begin = end
    return files


def _found(path: str, beside: Path | None) -> str:
    """Where a text was, or a file of its name beside the checkpoint.

    What is no file is not opened: a stranger's checkpoint may name anything, also a pipe that nobody writes to.
    """
    for place in (path, *([] if beside is None else [str(beside / Path(path).name)])):
        if isfile(place):
            return place
    raise StorageError(f"cannot read {path}: there is no such file", kept="nothing was written")


def _difference(before: Sequence[Source], now: Corpus) -> str:
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
