"""A run's folder: its files, its lock, and how a name leads to a checkpoint.

checkpoints/<name>/
    last.safetensors      the whole training state; `previous` is the one before: at every instant one is whole
    previous.safetensors
    best.safetensors      the model with the lowest validation loss, without optimizer
    metrics.jsonl         one row every few steps
    samples.jsonl         what the network wrote on the way
    corpus.txt            the text, if it came from standard input
    curves.png            drawn at the end
    events.out.tfevents.* the same rows for TensorBoard (--log tensorboard)
"""

from __future__ import annotations

import errno
import json
import os
import re
import unicodedata
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from charlm.config import DEFAULT_FOLDER, Config
from charlm.errors import CharlmError, CheckpointError, ConfigError, DataError, StorageError, quoted
from charlm.storage import hub
from charlm.storage.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from charlm.storage.durable import append, flush, make_folder
from charlm.storage.lock import OPEN_FILES_STAY, Held, held, is_held
from charlm.storage.records import Bookkeeping, Metrics, Result, TrainingSample, Validation, loss_in_words, picked
from charlm.storage.schema import row_from_json, sample_from_json

_LISTED: Final = 5  # runs that an error lists
_LONGEST: Final = 200
_LONGEST_BYTES: Final = 255  # what file systems take
_TAIL: Final = 4096  # bytes at the end of metrics.jsonl that hold its last row
EVENTS: Final = "events.out.tfevents"  # what TensorBoard looks for at the beginning of a name
_NAME: Final = re.compile(rf"[^-\0/\\][^\0/\\]{{0,{_LONGEST - 1}}}")


@dataclass(frozen=True, slots=True)
class Run:
    folder: Path

    @property
    def last(self) -> Path:
        return self.folder / "last.safetensors"

    @property
    def previous(self) -> Path:
        return self.folder / "previous.safetensors"

    @property
    def best(self) -> Path:
        return self.folder / "best.safetensors"

    @property
    def metrics(self) -> Path:
        return self.folder / "metrics.jsonl"

    @property
    def samples(self) -> Path:
        return self.folder / "samples.jsonl"

    @property
    def corpus(self) -> Path:
        return self.folder / "corpus.txt"

    @property
    def curves(self) -> Path:
        return self.folder / "curves.png"

    @property
    def lock(self) -> Path:
        return self.folder / ".lock"

    @property
    def event_files(self) -> list[Path]:
        """The files for TensorBoard, in the order in which they were written."""
        return sorted(self.folder.glob(f"{EVENTS}.*"))

    @property
    def saved(self) -> bool:
        """Whether there is a checkpoint to resume from."""
        return self.last.exists() or self.previous.exists()

    @property
    def exists(self) -> bool:
        """Whether there is anything that training would overwrite."""
        return any(path.exists() for path in (self.last, self.previous, self.best))

    @property
    def running(self) -> bool:
        """Whether a living process trains it, as far as can be seen from here."""
        with suppress(OSError):  # somebody else's lock, which is not ours to read
            return is_held(self.lock)
        return False

    def save_last(self, checkpoint: Checkpoint, *, keep: bool = True) -> bool:
        """Save the whole training state, after flushing the rows that it counts on; returns as `write_durably`.

        The one before becomes `previous`, unless `previous` is to be kept.
        """
        with _writing(self.metrics):
            flush(self.metrics)
        if checkpoint.bookkeeping.samples_length:
            with _writing(self.samples):
                flush(self.samples)
        return save_checkpoint(self.last, checkpoint, keep=self.previous if keep else None)

    def save_best(self, checkpoint: Checkpoint) -> None:
        save_checkpoint(self.best, checkpoint)

    def load_best(self, config: Config) -> Checkpoint | None:
        """The best model so far; raises CheckpointError where it is of another run's configuration."""
        best = load_checkpoint(self.best) if self.best.exists() else None
        if best is not None and best.config != config:
            raise CheckpointError(f"{self.best} belongs to another run", hint="move it elsewhere, then use --resume")
        return best

    def clear(self) -> None:
        """Remove what an earlier run of this name left; its lock stays, and its text, which may be the only copy."""
        for path in (self.last, self.previous, self.best, self.metrics, self.samples, self.curves, *self.event_files):
            path.unlink(missing_ok=True)

    def restore(self) -> tuple[Checkpoint, Path] | None:
        """The newest whole training state, and its file; None if the run has not saved any yet."""
        problem: CharlmError | None = None
        for path in (self.last, self.previous):
            try:
                if path.exists():
                    return load_state(path), path
            except (CheckpointError, StorageError) as error:  # a bad sector cannot even be read
                problem = problem or error
        if problem is not None:
            raise problem
        return None

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run's lock; a second trainer is refused. The system releases it however the process ends."""
        with ExitStack() as until_the_end:
            self._lock(until_the_end)
            for left_over in self.folder.glob(".*.tmp"):  # of a save that was killed: nobody else may write here
                left_over.unlink(missing_ok=True)
            yield
        if OPEN_FILES_STAY:
            remove_empty(self)  # which could not remove the lock before

    def _lock(self, until_the_end: ExitStack) -> None:
        """Take the lock; raises ConfigError where another process has it, StorageError where none can be taken."""
        try:
            make_folder(self.folder)
            if not os.access(self.folder, os.W_OK):  # an existing lock file could be opened all the same
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            until_the_end.enter_context(held(self.lock))
        except OSError as error:
            raise StorageError(
                f"cannot write in {self.folder}: {error.strerror}",
                kept="nothing was changed",
                hint="choose another folder with --checkpoints",
            ) from error
        except Held as error:
            raise ConfigError(
                f"{self.folder} is being trained by another process",
                kept="nothing was changed",
                hint="wait for it, or choose another --name",
            ) from error

    def append_metrics(self, row: Metrics) -> int:
        """Add a row; returns the file's length after it."""
        return _append(self.metrics, row)

    def append_sample(self, row: TrainingSample) -> int:
        """The same of samples.jsonl."""
        return _append(self.samples, row)

    def cut_rows(self, kept: Bookkeeping) -> None:
        """Truncate to the rows that a checkpoint knows of, so that none is there twice and none missing."""
        for path, length in ((self.metrics, kept.metrics_length), (self.samples, kept.samples_length)):
            if path.exists():
                os.truncate(path, path.read_bytes()[:length].rfind(b"\n") + 1)

    def read_metrics(self) -> list[Metrics]:
        """All rows so far, without one that is just being written; raises DataError, or StorageError."""
        return [self._row(line, number) for number, line in enumerate(_whole_lines(self.metrics), 1)]

    def read_samples(self) -> list[TrainingSample]:
        """The same of samples.jsonl."""
        found = []
        for number, line in enumerate(_whole_lines(self.samples), 1):
            try:
                found.append(picked(TrainingSample, sample_from_json(line)))
            except ValueError as error:
                raise DataError(f"{self.samples}, line {number:,}: it is no sample") from error
        return found

    def last_metrics(self) -> Metrics | None:
        """The last of these rows, for which the file is not read as a whole; None where there is none."""
        if self.metrics.is_file():
            with suppress(OSError, DataError, IndexError), self.metrics.open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL))
                return self._row(file.read().split(b"\n")[-2], 0)
        return None

    def _row(self, line: bytes, number: int) -> Metrics:
        try:
            return picked(Metrics, row_from_json(line))
        except ValueError as error:
            raise DataError(f"{self.metrics}, line {number:,}: it is no row of metrics") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """How a run ended.

    reason      `done`, `patience` (stopped early), or what the caller's `stop` returned
    checkpoint  the best model's file, or the last one's where there is no validation text
    result      the closing figures; after a stop those so far, without a closing validation loss
    history     the validations
    vocabulary  the number of different tokens
    rollbacks   how often training diverged and went back
    """

    run: Run
    reason: str
    checkpoint: Path
    result: Result
    history: tuple[Validation, ...]
    config: Config
    parameters: int
    vocabulary: int
    rollbacks: int = 0

    def __repr__(self) -> str:
        figures = f"{self.reason}, {self.result.steps:,} steps, {loss_in_words(self.result, self.history)}"
        return f"Trained({str(self.checkpoint)!r}: {figures})"


def _append(path: Path, row: Metrics | TrainingSample) -> int:
    with _writing(path):
        return append(path, json.dumps(asdict(row), allow_nan=False).encode() + b"\n")


def _whole_lines(path: Path) -> list[bytes]:
    try:
        return path.read_bytes().split(b"\n")[:-1] if path.is_file() else []
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}") from error


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Turn an OSError into a StorageError."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"cannot write {path}: {error.strerror}",
            kept="what was saved before is unchanged",
            hint="fix that, then use --resume",
        ) from error


def load_state(path: Path) -> Checkpoint:
    """A checkpoint that training can be resumed from; raises CheckpointError for a model alone."""
    checkpoint = load_checkpoint(path)
    if not checkpoint.resumable:
        raise CheckpointError(f"{path} holds only a model, without the training state needed to resume")
    return checkpoint


def default_name(stem: str) -> str:
    """A name for a run on a file of this name without suffix: the same, as far as that is a name of a run.

    >>> default_name("my novel"), default_name("10\\u202f000 words"), default_name("-o"), default_name("\\u200c")
    ('my novel', '10 000 words', 'o', 'corpus')
    """
    if _is_name(stem):
        return stem
    shown = (_shown(character) for character in stem)
    name = re.sub(" +", " ", "".join(shown)).strip(" -")[:_LONGEST]
    while len(os.fsencode(name)) > _LONGEST_BYTES:
        name = name[:-1]
    return name if _is_name(name) else "corpus"


def _shown(character: str) -> str:
    """A character that a name may have in place of this one; white space becomes a space, format characters nothing."""
    if character.isprintable() and character not in "/\\":
        return character
    return " " if character.isspace() else "" if unicodedata.category(character) == "Cf" else "_"


def _is_name(name: str) -> bool:
    fits = name.isprintable() and len(os.fsencode(name)) <= _LONGEST_BYTES
    return bool(_NAME.fullmatch(name)) and name not in (".", "..") and fits


def open_run(name: str, folder: str = DEFAULT_FOLDER) -> Run:
    """The run of this name, which need not exist yet; a name is one component of a path."""
    if not _is_name(name):
        raise ConfigError(
            f"--name must be at most 200 printable characters, without / and not starting with -; it is {name!r}",
            kept="nothing was changed",
        )
    return Run(Path(folder) / name)


def find_checkpoint(what: str | None, folder: str = DEFAULT_FOLDER) -> Path:
    """Resolve a CHECKPOINT: a file, a run's folder or name, hf:OWNER/NAME on the Hub, or (None) the newest run's.

    In a run `best` is preferred over `last`. What begins with hf: is always on the Hub, whatever files there are here.
    Raises CheckpointError when there is none, StorageError when the Hub cannot be reached.
    """
    if what is None:
        return _of_run(newest_run(Path(folder)))
    if hub.is_hub_name(what):
        return hub.fetch(what)
    path, named = Path(what), Path(folder) / what
    if os.path.isfile(path):  # unlike Path.is_file, False for what cannot be a path
        return path
    if os.path.isdir(path) and (Run(path).exists or not os.path.isdir(named)):
        return _of_run(Run(path))
    if os.path.isdir(named):
        return _of_run(Run(named))
    raise CheckpointError(
        f"there is no checkpoint or run {what!r}", hint=f"runs are in {folder}; charlm train CORPUS makes one"
    )


def _of_run(run: Run) -> Path:
    for path in (run.best, run.last, run.previous):
        if path.exists():
            return path
    if runs := runs_in(run.folder):
        names = ", ".join(quoted(one.folder) for one in runs[:_LISTED])
        more = f" and {len(runs) - _LISTED:,} more" if len(runs) > _LISTED else ""
        raise CheckpointError(
            f"{run.folder} is a folder of runs", hint=f"name one of them, newest first: {names}{more}"
        )
    raise CheckpointError(f"{run.folder} holds no checkpoint yet", hint="charlm train CORPUS makes one")


def runs_in(folder: Path) -> list[Run]:
    """The runs in a folder that have a checkpoint, the one that was written last first."""
    times = {}
    for run in map(Run, folder.iterdir() if folder.is_dir() else ()):
        with suppress(OSError):  # removed meanwhile, or not ours to read
            if run.exists:
                files = [path for path in (run.best, run.last, run.previous) if path.exists()]
                times[run] = max(path.stat().st_mtime_ns for path in files)
    return sorted(times, key=lambda run: -times[run])


def find_run(what: str | None, folder: str = DEFAULT_FOLDER) -> Run:
    """Resolve a RUN: its folder, its name, a checkpoint in it, or (None) the newest; it need not have one yet.

    Raises CheckpointError when there is none.
    """
    if what is None:
        return newest_run(Path(folder))
    path = Path(what)
    beside = [Run(path.parent)] if path.suffix == ".safetensors" else []
    for run in (Run(path), Run(Path(folder) / what), *beside):
        if os.path.isdir(run.folder) and (run.exists or run.metrics.exists()):
            return run
    raise CheckpointError(f"there is no run {what!r}", hint=f"charlm runs lists those in {quoted(folder)}")


def newest_run(folder: Path) -> Run:
    """The run whose checkpoints were written last."""
    runs = runs_in(folder)
    if not runs:
        raise CheckpointError(f"there is no run under {folder}", hint="charlm train CORPUS makes one")
    return runs[0]


def remove_empty(run: Run) -> None:
    """Remove the folder of a run that failed before it wrote anything, unless other files are in it."""
    if not run.exists:
        with suppress(OSError):
            for path in (run.metrics, run.samples, run.corpus, run.lock):
                path.unlink(missing_ok=True)
            run.folder.rmdir()
