"""All runs of a folder, from the headers of their checkpoints: no tensor is read, and nothing is written."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from charlm.errors import CharlmError, ConfigError, StorageError, quoted
from charlm.storage.checkpoint import Outline, read_outline
from charlm.storage.records import Metrics, TrainState
from charlm.storage.runs import Run

RUNNING: Final = "running"  # a living process trains it
FINISHED: Final = "finished"
INTERRUPTED: Final = "interrupted"  # training can go on
MODEL: Final = "model"  # a model alone, which was not trained to the end: training cannot go on
DAMAGED: Final = "damaged"  # training cannot go on, since no checkpoint with its state can be read
_UNCHANGED: Final = "; nothing was changed"  # in an error, before what to do about one file


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """A run as it is now.

    state     one of the words above
    outline   of its newest checkpoint that can be read; None where none can, or a run has not saved yet
    row       the last row of metrics of a run that is being trained, which is ahead of its checkpoint
    best      the lowest validation loss so far, in nats per character
    size      bytes of all files in its folder
    changed   when the newest of them was written, in seconds since 1970
    problem   why a checkpoint cannot be read; may be empty
    """

    run: Run
    state: str
    outline: Outline | None
    row: Metrics | None = None
    best: float | None = None
    size: int = 0
    changed: float = 0.0
    problem: str = ""

    @property
    def step(self) -> int:
        """Updates so far."""
        done = self.outline.training.step if self.outline else 0
        return max(done, self.row.step) if self.row else done

    @property
    def total(self) -> int | None:
        """Updates in all, by the present plan; None where that is not known."""
        state = self.outline.training if self.outline else None
        return state.plan.total if isinstance(state, TrainState) and state.plan.measured else None

    @property
    def progress(self) -> float | None:
        """Which share of them is done; None where that is not known. A run that stopped early is done."""
        if self.state == FINISHED:
            return 1.0
        return min(1.0, self.step / self.total) if self.total else None

    @property
    def seconds(self) -> float:
        """Training time so far."""
        spent = self.outline.bookkeeping.seconds if self.outline else 0.0
        return max(spent, self.row.seconds) if self.row else spent

    @property
    def val_loss(self) -> float | None:
        """Nats per character: of a finished run on the whole validation text, of others the lowest so far."""
        result = self.outline.result if self.outline else None
        return result.val_loss if result else self.best

    @property
    def test_loss(self) -> float | None:
        """Nats per character of the test text; None before the end, and where there is none."""
        result = self.outline.result if self.outline else None
        return result.test_loss if result else None


class Skipped(NamedTuple):
    """A folder in which there is no run, and why."""

    folder: Path
    reason: str


def list_runs(folder: Path) -> tuple[list[Listed], list[Skipped]]:
    """All runs in a folder, the one that changed last first, and the folders that are no run.

    A folder that is itself a run raises ConfigError, one that cannot be read StorageError.
    """
    if Run(folder).exists:
        raise ConfigError(
            f"{folder} is a run, not a folder of runs",
            hint=f"charlm runs --checkpoints {quoted(folder.parent)} lists it, charlm info {quoted(folder)} shows it",
        )
    try:
        names = sorted(entry.name for entry in os.scandir(folder) if _is_folder(entry))
    except OSError as error:
        raise StorageError(f"cannot read {folder}: {error.strerror}", hint="name a folder of runs") from error
    found = [_look(Run(folder / name)) for name in names]
    runs = sorted((one for one in found if isinstance(one, Listed)), key=lambda one: -one.changed)
    return runs, [one for one in found if isinstance(one, Skipped)]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether it is a folder, or a link to one; False for a link that leads nowhere."""
    with suppress(OSError):
        return entry.is_dir()
    return False


def _look(run: Run) -> Listed | Skipped:
    """What is in a folder; what is removed or replaced meanwhile is not there."""
    try:
        files, running = list(_files(run.folder)), run.running
        outline, problem = _newest(run)
    except OSError as error:
        return Skipped(run.folder, str(error.strerror))
    if outline is None and not problem and not running:
        return Skipped(run.folder, "no checkpoint")
    return Listed(
        run=run,
        state=RUNNING if running else _state(run, outline),
        outline=outline,
        row=run.last_metrics() if running else None,
        best=_best(run, outline),
        size=sum({(file.st_dev, file.st_ino): file.st_size for file in files}.values()),
        changed=max((file.st_mtime for file in files), default=0.0),
        problem=problem,
    )


def _files(folder: Path) -> Iterator[os.stat_result]:
    """The files in a folder, links as links; raises OSError where it cannot be read."""
    with os.scandir(folder) as entries:
        for entry in entries:
            with suppress(OSError):
                if not entry.is_dir(follow_symlinks=False):
                    yield os.stat(entry.path, follow_symlinks=False)  # an entry's own lacks inodes on Windows


def _newest(run: Run) -> tuple[Outline | None, str]:
    """The outline of the newest checkpoint, and why there is none of one that is newer."""
    problem = ""
    for path in (run.last, run.previous, run.best):
        if path.exists():
            try:
                return read_outline(path), problem
            except CharlmError as error:
                if path.exists():  # and was not removed meanwhile
                    problem = problem or str(error).partition(_UNCHANGED)[0]
    return None, problem


def _state(run: Run, outline: Outline | None) -> str:
    """The state of a run that nobody trains."""
    if outline is None:
        return DAMAGED
    if outline.result is not None:
        return FINISHED
    if outline.resumable:
        return INTERRUPTED
    return DAMAGED if run.saved else MODEL


def _best(run: Run, outline: Outline | None) -> float | None:
    """The lowest validation loss so far: of the best model, which is saved before the state that knows of it."""
    losses = [outline.training.best] if outline else []
    if outline is None or outline.result is None:
        with suppress(CharlmError):
            losses.append(read_outline(run.best).training.best)
    return min((loss for loss in losses if loss is not None), default=None)
