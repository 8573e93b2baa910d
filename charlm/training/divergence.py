"""When a loss or a gradient is not finite: back to the last good checkpoint, and on from there at a lower rate.

Such a number is caught before it reaches a weight, so every checkpoint is finite; but one that was saved while the
loss ran away is not worth going back to. A run may go back a few times. Each is on record in its state before it is
used, so that a run that is interrupted afterwards ends in the same way.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

import numpy as np

from charlm.config import Config
from charlm.errors import CheckpointError, DivergedError, StorageError
from charlm.storage.checkpoint import Checkpoint
from charlm.storage.runs import Run, load_state
from charlm.text.lanes import Position
from charlm.training.state import TrainState

ROLLBACKS: Final = 5  # times that a run goes back
LOWER: Final = 1 / 3  # of the rate, each time
_RUINED: Final = 1.5  # times what guessing costs: a loss that is higher
_LOOKED_AT: Final = 10  # steps


def lowered(state: TrainState) -> float:
    """The share of the rate that is left."""
    return LOWER ** len(state.rollbacks)


def last_good(
    problem: DivergedError, state: TrainState, run: Run, best: Checkpoint | None, lr: float
) -> tuple[Checkpoint, str]:
    """The checkpoint to go back to, and in words: last, previous, or in their stead the best model without momentum.

    Raises DivergedError, which names the last good model, when there is none or it was tried too often.
    """
    saved = list(_saved(run))
    good = [checkpoint for checkpoint in saved if not _ruined(checkpoint)]
    if len(state.rollbacks) < ROLLBACKS:
        if good:
            return good[0], f"step {good[0].training['step']}"
        if saved and best is not None:
            return _renewed(saved[0], best), f"the best model, of step {best.training['step']},"
    rate = lr * lowered(state)
    times = f", also at a rate of {rate:.2g} after going back {len(state.rollbacks)} times" * bool(state.rollbacks)
    named = run.best if best is not None else run.last if good else None
    raise DivergedError(
        f"{problem}{times}",
        kept=f"the last good model is {named}" if named else f"{run.folder} holds no good model",
        hint=f"start again with --force and a lower rate, such as --lr {rate / 10:.1g}",
    ) from problem


def usable_best(run: Run, config: Config) -> Checkpoint | None:
    """The best model so far; a damaged one counts as none."""
    try:
        return run.load_best(config)
    except (CheckpointError, StorageError):
        return None


def gone_back(to: TrainState, state: TrainState, best: Checkpoint | None, at: int) -> TrainState:
    """The checkpoint's state after `state` diverged in the step after `at`.

    What is learned is the checkpoint's. The best model so far is on the disk and stays the best; spent time is spent.
    """
    to.rollbacks = [*state.rollbacks, (at + 1, to.step)]
    to.seconds, to.inexact = state.seconds, state.inexact
    if best is not None:
        to.best, to.best_step, to.bad_checks = best.training["best"], best.training["step"], 0
    return to


def told(problem: DivergedError, where: str, state: TrainState, lr: float) -> str:
    """What a user should know of it."""
    return (
        f"{problem}; went back to {where} and lowered the rate to {lr * lowered(state):.2g}, "
        f"time {len(state.rollbacks)} of at most {ROLLBACKS}"
    )


def _saved(run: Run) -> Iterator[Checkpoint]:
    for path in (run.last, run.previous):
        try:
            yield load_state(path)
        except (CheckpointError, StorageError):  # damaged, a model alone, or not there yet
            continue


def _ruined(checkpoint: Checkpoint) -> bool:
    recent = checkpoint.training["recent"][-_LOOKED_AT:]
    guessing = math.log(checkpoint.open_tokenizer().size)
    loss, tokens = map(sum, zip(*recent, strict=True)) if recent else (0.0, 0)
    return loss > _RUINED * guessing * tokens


def _renewed(saved: Checkpoint, best: Checkpoint) -> Checkpoint:
    """A ruined checkpoint with the best model's weights, no momentum and no memory, at the beginning of an epoch."""
    return replace(
        saved,
        weights=best.weights,
        tensors={name: np.zeros_like(array) for name, array in saved.tensors.items() if name.startswith("state.")},
        training={**saved.training, "position": Position(saved.training["position"]["epoch"] + 1)._asdict()},
    )
