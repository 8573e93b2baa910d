"""When and how a run's files are written: checkpoints, rows of metrics, samples."""

from __future__ import annotations

import time
from collections.abc import Callable

from charlm.options import every
from charlm.storage.checkpoint import Checkpoint
from charlm.storage.records import Bookkeeping, Metrics, TrainingSample
from charlm.storage.runs import Run
from charlm.training.events import Emit, Remark, Saved


class Writer:
    """Writes the files of one run and says when a checkpoint is due; `now` tells the time in seconds.

    One that is `idle` writes nothing: of many processes only the first touches the run's folder.
    """

    def __init__(
        self,
        run: Run,
        checkpoint_every: str,
        emit: Emit,
        *,
        idle: bool = False,
        now: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.run, self._emit, self._idle, self._now = run, emit, idle, now
        self._steps, self._seconds = every(checkpoint_every)
        self._saved = now()
        self._warned = False

    def is_due(self, step: int) -> bool:
        """Whether it is time to save after this step."""
        if self._steps:
            return step % self._steps == 0
        return self._now() - self._saved >= self._seconds

    def save(self, checkpoint: Checkpoint, *, keep: bool = True) -> None:
        """Write `last`, durably; the one before becomes `previous`, unless `previous` is to be kept as it is."""
        if self._idle:
            return
        flushed = self.run.save_last(checkpoint, keep=keep)
        if not flushed and not self._warned:
            self._warned = True
            problem = f"{self.run.folder} cannot be flushed: a power failure may cost the newest checkpoint there"
            self._emit(Remark(text=problem))
        self._saved = self._now()
        self._emit(Saved(step=checkpoint.training.step, path=self.run.last))

    def save_best(self, checkpoint: Checkpoint) -> None:
        """Write `best`, durably."""
        if not self._idle:
            self.run.save_best(checkpoint)

    def add_metrics(self, row: Metrics) -> int:
        """Add a row to metrics.jsonl; returns the file's length, which the next checkpoint has to know."""
        return 0 if self._idle else self.run.append_metrics(row)

    def add_sample(self, row: TrainingSample) -> int:
        """The same of samples.jsonl."""
        return 0 if self._idle else self.run.append_sample(row)

    def cut_rows(self, kept: Bookkeeping) -> None:
        """Back to the rows that a checkpoint knows of."""
        if not self._idle:
            self.run.cut_rows(kept)
