"""When training diverges: back to the last good checkpoint, and on at a lower learning rate.

A loss or a gradient that is not finite is divergence, and so is a loss that stays far above that of a uniform guess and
of the run's own start. The former is caught before it reaches a weight, so every checkpoint is finite; but one that was
saved while the loss ran away is no good to go back to. A run may go back a few times. Each rollback is on record in its
state before it is used, so that a run that is interrupted afterwards ends in the same way; and whether a loss has run
away depends on that state alone, so that a resumed run decides alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import takewhile
from typing import Final, NamedTuple

import numpy as np

from charlm.config import Config
from charlm.errors import CheckpointError, DivergedError, StorageError
from charlm.runtime.group import Group
from charlm.storage.checkpoint import Checkpoint
from charlm.storage.records import TrainState
from charlm.storage.runs import Run, load_state
from charlm.text.position import Position
from charlm.training.sharing import shared

ROLLBACKS: Final = 5  # times that a run may go back
LOWER: Final = 1 / 3  # of the learning rate, each time
_RUNAWAY: Final = 1.5  # times the loss of a uniform guess: what is saved above that is no good to go back to
_JUDGED: Final = 10  # last steps whose losses tell
_EXPLODED: Final = 2.0  # times that loss: higher is divergence, where it lasts
_IN_A_ROW: Final = 20  # steps that have to be so high; a start at a high learning rate recovers from 10
_CONFIRMED: Final = 10  # of them where a validation is as high
_AT_THE_END: Final = 3  # of them at the last step, after which nothing can recover
_HOPELESS: Final = 10.0  # times that loss, and at least
_FLOOR: Final = 50.0  # nats per character: no overfitting reaches such a validation loss
_SMALL: Final = math.log(16)  # smaller vocabularies are treated as one of 16


class Divergence(DivergedError):
    """A number in this step (from 1) is not finite, or a loss has exploded."""

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


def note_start(state: TrainState, vocabulary: int) -> None:
    """After a run's first step: remember its loss where it is far above a uniform guess, as in fine-tuning it can be.

    A new network begins with a uniform guess, near enough.
    """
    loss = state.recent_loss(1)
    if state.step == 1 and loss > _RUNAWAY * _guess(vocabulary):
        state.start = min(loss, _HOPELESS * _guess(vocabulary))


def check_training(state: TrainState, vocabulary: int) -> None:
    """Raise Divergence where the training losses have stayed far above a uniform guess and above the run's start."""
    if _steps_exploded(state, vocabulary) >= (_AT_THE_END if state.finished else _IN_A_ROW):
        raise Divergence(state.step, f"loss {_nats(state.recent_loss(1))}, above {_reference(state, vocabulary)}")


def check_validation(state: TrainState, vocabulary: int, loss: float, guess: float) -> None:
    """Raise Divergence where a validation's loss is not finite, or has exploded; `guess` is that of a uniform guess.

    Both are in nats per character. A model that overfits has a high loss too, but not where it learns.
    """
    if not math.isfinite(loss):
        raise Divergence(state.step, f"validation loss {loss:g}")
    least = max(guess, _SMALL) * _ratio(state, vocabulary)
    lasting = _steps_exploded(state, vocabulary) >= min(_CONFIRMED, max(1, state.step - 1))
    if loss > max(_HOPELESS * least, _FLOOR) or (loss > _EXPLODED * least and lasting):
        raise Divergence(state.step, f"validation loss {_nats(loss)}, above the {_nats(guess)} of a uniform guess")


def _guess(vocabulary: int) -> float:
    """The loss of a uniform guess, nats per token; of a very small vocabulary more, as being sure costs more there."""
    return max(math.log(vocabulary), _SMALL)


def _ratio(state: TrainState, vocabulary: int) -> float:
    """The run's first loss in terms of a uniform guess's, at least 1."""
    return max(1.0, state.start / _guess(vocabulary))


def _steps_exploded(state: TrainState, vocabulary: int) -> int:
    """How many of the last steps, in a row, had an exploded loss."""
    limit = _EXPLODED * _ratio(state, vocabulary) * _guess(vocabulary)
    return sum(1 for _ in takewhile(lambda step: step[0] > limit * step[1], reversed(state.recent)))


def _reference(state: TrainState, vocabulary: int) -> str:
    """What an exploded loss is compared with: the first step's, while it is remembered."""
    if state.start or len(state.recent) == state.step:
        nats, tokens = state.recent[0]
        return f"{_nats(state.start or nats / tokens)} at the start"
    return f"the {_nats(math.log(vocabulary))} of a uniform guess"


def _nats(loss: float) -> str:
    """
    >>> _nats(4.0623), _nats(219.99), _nats(10042885537792.0)
    ('4.06 nats', '220 nats', '1e+13 nats')
    """
    return f"{loss:.3g} nats"


def find_rollback(problem: Divergence, state: TrainState, run: Run, config: Config, guess: float) -> Rollback:
    """The checkpoint to go back to: last, previous, or in their stead the best model without momentum.

    `guess` is the validation loss of a uniform guess, per character: a `best` far above it is no good. Raises
    DivergedError, which names the last good model, when there is none or it was tried too often.
    """
    saved, best = list(_saved(run)), _usable_best(run, config, guess)
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


def handed_round(group: Group, find: Callable[[], Rollback]) -> Rollback:
    """The rollback that the first process finds, on all of them; its DivergedError is raised there alone."""
    if group.size == 1:
        return find()
    found: list[Rollback] = []

    def where_to() -> str:
        found.append(find())
        return found[0].where

    where = group.first(where_to)
    checkpoint = shared(group, lambda: found[0].checkpoint)
    best = shared(group, lambda: found[0].best)
    if checkpoint is None:
        raise CheckpointError("the first process found no checkpoint")
    return Rollback(checkpoint, where, best)


def roll_back(state: TrainState, diverged: TrainState, problem: Divergence, best: Checkpoint | None) -> None:
    """Note in a checkpoint's restored state that the run came back to it.

    What is learned is the checkpoint's. The best model so far is on the disk and stays the best.
    """
    state.unsettled = diverged.unsettled  # what is settled stays so
    state.rollbacks = [*diverged.rollbacks, (problem.step, state.step)]
    if best is not None:
        state.best, state.best_step, state.bad_checks = best.training.best, best.training.step, 0


def format_rollback(problem: Divergence, where: str, state: TrainState, lr: float) -> str:
    """What a user should know of it."""
    return (
        f"{problem}; went back to {where} and lowered the learning rate to {lr * rollback_rate(state):.2g} "
        f"(rollback {len(state.rollbacks)} of at most {ROLLBACKS})"
    )


def _usable_best(run: Run, config: Config, guess: float) -> Checkpoint | None:
    """The best model so far; a damaged one counts as none, and so does one that is far worse than a uniform guess."""
    try:
        best = run.load_best(config)
    except (CheckpointError, StorageError):
        return None
    return best if best is not None and (best.training.best or 0.0) <= _RUNAWAY * max(guess, _SMALL) else None


def _saved(run: Run) -> Iterator[Checkpoint]:
    for path in (run.last, run.previous):
        try:
            yield load_state(path)
        except (CheckpointError, StorageError):  # damaged, a model alone, or not there yet
            continue


def _has_run_away(checkpoint: Checkpoint) -> bool:
    """Whether the last losses are far above that of a uniform guess, and of the run's start."""
    state, vocabulary = checkpoint.state, checkpoint.open_tokenizer().size
    limit = _RUNAWAY * _ratio(state, vocabulary) * _guess(vocabulary)
    return bool(state.recent) and state.recent_loss(_JUDGED) > limit


def _restart(saved: Checkpoint, best: Checkpoint) -> Checkpoint:
    """A checkpoint with the best model's weights, no momentum and no carried state, at the beginning of an epoch."""
    state = saved.state
    return replace(
        saved,
        weights=best.weights,
        tensors={name: np.zeros_like(array) for name, array in saved.tensors.items() if name.startswith("state.")},
        training=replace(state, position=Position(state.position.epoch + 1)),
    )
