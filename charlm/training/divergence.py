"""When a loss or a gradient is not finite: back to the last good checkpoint, and on at a lower learning rate.

Such a number is caught before it reaches a weight, so every checkpoint is finite; but one that was saved while the
loss ran away is no good to go back to. A run may go back a few times. Each rollback is on record in its state before it
is used, so that a run that is interrupted afterwards ends in the same way.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Final, NamedTuple

import numpy as np

from charlm.config import Config
from charlm.errors import CheckpointError, DivergedError, StorageError
from charlm.storage.checkpoint import Checkpoint
from charlm.storage.records import TrainState
from charlm.storage.runs import Run, load_state
from charlm.text.position import Position

ROLLBACKS: Final = 5  # times that a run may go back
LOWER: Final = 1 / 3  # of the learning rate, each time
_RUNAWAY: Final = 1.5  # times the loss of a uniform guess: a loss that is higher has run away
_JUDGED: Final = 10  # last steps whose losses tell


class Divergence(DivergedError):
    """A number in this step (from 1) is not finite."""

    def __init__(self, step: int, what: str) -> None:
        super().__init__(f"training diverged at step {step}: {what}")
        self.step = step


class Rollback(NamedTuple):
    """Where a run goes back to."""

    checkpoint: Checkpoint
    where: str  # in words
    best: Checkpoint | None  # the best model so far, which stays the best


def rollback_rate(state: TrainState) -> float:
    """The share of the learning rate that is left after the rollbacks so far."""
    return LOWER ** len(state.rollbacks)


def find_rollback(problem: Divergence, state: TrainState, run: Run, config: Config) -> Rollback:
    """The checkpoint to go back to: last, previous, or in their stead the best model without momentum.

    Raises DivergedError, which names the last good model, when there is none or it was tried too often.
    """
    saved, best = list(_saved(run)), _usable_best(run, config)
    good = [checkpoint for checkpoint in saved if not _has_run_away(checkpoint)]
    if len(state.rollbacks) < ROLLBACKS:
        if good:
            return Rollback(good[0], f"step {good[0].training.step}", best)
        if saved and best is not None:
            return Rollback(_restart(saved[0], best), f"the best model (step {best.training.step})", best)
    lr = config.optim.lr * rollback_rate(state)
    times = f", even at a learning rate of {lr:.2g} after {len(state.rollbacks)} rollbacks" * bool(state.rollbacks)
    named = run.best if best is not None else run.last if good else None
    raise DivergedError(
        f"{problem}{times}",
        kept=f"the last good model is {named}" if named else f"{run.folder} holds no good model",
        hint=f"start again with --force and a lower learning rate, such as --lr {lr / 10:.1g}",
    ) from problem


def roll_back(state: TrainState, diverged: TrainState, problem: Divergence, best: Checkpoint | None) -> None:
    """Note in a checkpoint's restored state that the run came back to it.

    What is learned is the checkpoint's. The best model so far is on the disk and stays the best.
    """
    state.rollbacks = [*diverged.rollbacks, (problem.step, state.step)]
    if best is not None:
        state.best, state.best_step, state.bad_checks = best.training.best, best.training.step, 0


def format_rollback(problem: Divergence, where: str, state: TrainState, lr: float) -> str:
    """What a user should know of it."""
    return (
        f"{problem}; went back to {where} and lowered the learning rate to {lr * rollback_rate(state):.2g} "
        f"(rollback {len(state.rollbacks)} of at most {ROLLBACKS})"
    )


def _usable_best(run: Run, config: Config) -> Checkpoint | None:
    """The best model so far; a damaged one counts as none."""
    try:
        return run.load_best(config)
    except (CheckpointError, StorageError):
        return None


def _saved(run: Run) -> Iterator[Checkpoint]:
    for path in (run.last, run.previous):
        try:
            yield load_state(path)
        except (CheckpointError, StorageError):  # damaged, a model alone, or not there yet
            continue


def _has_run_away(checkpoint: Checkpoint) -> bool:
    """Whether the last losses are far above that of a uniform guess."""
    recent = checkpoint.state.recent[-_JUDGED:]
    uniform = math.log(checkpoint.open_tokenizer().size)
    loss, tokens = map(sum, zip(*recent, strict=True)) if recent else (0.0, 0)
    return loss > _RUNAWAY * uniform * tokens


def _restart(saved: Checkpoint, best: Checkpoint) -> Checkpoint:
    """A checkpoint with the best model's weights, no momentum and no carried state, at the beginning of an epoch."""
    state = saved.state
    return replace(
        saved,
        weights=best.weights,
        tensors={name: np.zeros_like(array) for name, array in saved.tensors.items() if name.startswith("state.")},
        training=replace(state, position=Position(state.position.epoch + 1)),
    )
