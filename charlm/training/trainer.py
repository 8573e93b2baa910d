"""The training loop: truncated backpropagation through time over lanes whose state is carried.

It emits events and never prints; what it needs is handed to it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from charlm.config import Config
from charlm.errors import CharlmError, CheckpointError, ConfigError
from charlm.evaluation.score import Score
from charlm.models.network import (
    Network,
    State,
    export_state,
    export_weights,
    import_state,
    import_weights,
    select_lanes,
)
from charlm.options import Value
from charlm.runtime.device import Runtime
from charlm.runtime.group import ALONE, Group
from charlm.storage.checkpoint import Checkpoint
from charlm.storage.records import RECENT, CorpusRecord, ModelState, Plan, Result, TrainingSample, TrainState
from charlm.storage.runs import Run
from charlm.text.lanes import Lanes
from charlm.text.position import Position
from charlm.text.record_lanes import RecordLanes
from charlm.text.records import edges_of
from charlm.text.stored import Text
from charlm.text.tokenizer import StoredTokens, Tokenizer, Tokens
from charlm.training.clock import Clock
from charlm.training.defaults import Course, settle
from charlm.training.divergence import (
    Divergence,
    check_training,
    find_rollback,
    format_rollback,
    handed_round,
    note_start,
    roll_back,
    rollback_rate,
)
from charlm.training.events import Emit, Finished, Recorded, Remark, RolledBack, Sampled, Settled, Stepped, Validated
from charlm.training.journal import Journal
from charlm.training.memory import fitting
from charlm.training.plan import TRIALS, Planner, learning_rate
from charlm.training.samples import Samples
from charlm.training.sharing import gather_lanes, shared
from charlm.training.step import Stepper
from charlm.training.validator import InterruptedScore, Validator
from charlm.training.writer import Writer

Stop = Callable[[], str | None]


@dataclass(frozen=True, slots=True)
class Task:
    """What a trainer works on, and what it writes into every checkpoint besides its own state."""

    config: Config
    tokenizer: Tokenizer
    train: Tokens | StoredTokens
    validation: Text  # the validation text, empty if there is none
    corpus: CorpusRecord
    test: Text = ""  # the test text, empty if there is none


def in_lanes(task: Task, device: torch.device) -> Lanes | RecordLanes:
    """The training text, read in lanes."""
    ids, start, train = task.train.ids, task.tokenizer.start, task.config.train
    if len(edges := edges_of(task.train, task.tokenizer, task.config.data.records)) > 1:
        return RecordLanes(ids, edges, start=start, batch=train.batch, bptt=train.bptt, seed=train.seed, device=device)
    return Lanes(
        ids,
        start=start,
        batch=train.batch,
        bptt=train.bptt,
        seed=train.seed,
        shuffle=train.shuffle,
        device=device,
    )


def check_lanes(lanes: int, group: Group) -> None:
    """Raise ConfigError where there is not a lane for each process."""
    if lanes < group.size:
        raise ConfigError(
            f"{group.size} processes cannot share {lanes} lane{'s' * (lanes != 1)}: each needs at least one",
            kept="nothing was changed",
            hint=f"start at most {lanes}, or use a larger --batch where the text is long enough for it",
        )


class Trainer:
    """One run, from its first step or from where a checkpoint left it.

    The processes of a group train it together: the first watches the clock and writes, and all of them hold the same
    weights and make the same updates.
    """

    def __init__(
        self,
        task: Task,
        network: Network,
        runtime: Runtime,
        run: Run,
        *,
        emit: Emit,
        stop: Stop,
        group: Group = ALONE,
    ) -> None:
        config, train = task.config, task.config.train
        self.task, self.network, self.runtime, self.emit, self.stop = task, network, runtime, emit, stop
        self.lanes = in_lanes(task, runtime.device)
        check_lanes(self.lanes.batch, group)
        self.group = group
        self.stepper = self._stepper()
        self.validator = Validator(
            network,
            task.tokenizer,
            task.validation,
            records=config.data.records,
            patience=train.patience,
            threads=runtime.threads if runtime.follows else 1,
            autocast=runtime.autocast,
            group=group,
        )
        self.planner = Planner(
            train,
            chunks=self.lanes.chunks,
            validation_steps=self.validator.cost(self.lanes.chunk_tokens),
            validation_characters=self.validator.characters,
        )
        self.writer = Writer(run, train.checkpoint_every, emit, idle=not group.is_first)
        self.samples = Samples(
            config.model, task.tokenizer, records=config.data.records, direction=config.data.direction
        )
        self.journal = Journal(len(task.train.ids) / task.train.characters)
        self.state = TrainState(loss_scale=self.stepper.scale.scale, seed=train.seed, optimizer=asdict(config.optim))
        self.planner.begin(self.state)
        self.carried: State = network.init_state(len(self.stepper.lanes))
        self.clock = Clock()

    def _stepper(self) -> Stepper:
        """What makes a step of the present configuration."""
        lanes, tell = self.lanes.batch, lambda text: self.emit(Remark(text=text))
        return Stepper(self.task.config, self.network, self.runtime, lanes, tell, self.group)

    def restore(self, checkpoint: Checkpoint, *, same_text: bool = True) -> None:
        """Go on from this checkpoint of the same run; in another text, at its beginning and with no best yet.

        Raises CheckpointError where the checkpoint's place is not one in its text.
        """
        config = self.task.config
        state = replace(checkpoint.state, seed=config.train.seed, optimizer=asdict(config.optim), omitted=frozenset())
        import_weights(self.network, checkpoint.weights)
        self.stepper.restore(checkpoint.tensors, state)
        carried = import_state(checkpoint.tensors, config.model, self.runtime.device)
        if same_text and (len(carried[0][0]) != self.lanes.batch or not self.lanes.has(state.position)):
            raise CheckpointError("the checkpoint's position in the text is invalid", kept="nothing was changed")
        own = self.stepper.lanes
        self.state, self.carried = state, select_lanes(carried, slice(own.start, own.stop))
        self.journal.restore(checkpoint.bookkeeping, checkpoint.history)
        self.writer.cut_rows(checkpoint.bookkeeping)
        if not same_text:
            state.position = Position(state.position.epoch + 1)
            self.carried = self.network.init_state(len(own))
            state.best, state.bad_checks = None, 0

    def train(self, *, save_first: bool = False) -> tuple[str, Result]:
        """Steps until the plan ends, patience does, or `stop` names a reason; then the closing score.

        Returns `done`, `patience` or that reason, and the closing figures, which are in the run's checkpoints then;
        after a stop they lack the closing score, and are in none. With `save_first` the state is saved before the
        first step: there is something in it that the checkpoint on the disk lacks.
        """
        self._start_clock()
        self.network.train()
        if self.state.step == 0 or save_first:
            self._save()  # now there is something to go on from; and a folder that cannot be written is found here
        reason, last = self._learn()
        try:
            if reason is None:
                last = self._close(last)
                reason = "patience" if self.state.stopped else "done"
        except InterruptedScore as interruption:
            reason = str(interruption)
        finally:  # whatever goes wrong with the closing score, what was learned is saved
            self.writer.save(last)
        with self.group.together():  # no process ends before that
            pass
        self.emit(Finished(reason=reason, steps=self.state.step, seconds=self.journal.seconds))
        return reason, last.result or self.journal.result(self.state, self.clock, None)

    def _start_clock(self) -> None:
        self.clock = Clock(self.journal.seconds)
        self.planner.start(self.journal.seconds)

    def _learn(self) -> tuple[str | None, Checkpoint]:
        """All steps that there are to take; why they ended early, and the checkpoint behind the last."""
        while True:
            try:
                reason = None
                while not self.state.finished and (reason := self.group.reason(self.stop())) is None:
                    self._advance()
                self.journal.seconds = self.clock.seconds
                return reason, self._checkpoint()
            except Divergence as problem:
                self._roll_back(problem)

    def _advance(self) -> None:
        """A step, and whatever is due after it."""
        norm, lr = self._step()
        self.journal.seconds = self.clock.seconds
        replanned = self._replan()
        val_loss = self._validate() if self.planner.validation_is_due(self.state) else None
        if self.group.is_first and self.samples.due():
            self._sample()
        self._record(norm, lr, val_loss)
        better = self.planner.budget and self.state.best_step == self.state.step  # a later plan may not validate here
        if replanned or better or self.group.first(lambda: self.writer.is_due(self.state.step)):
            self._save()  # a plan is on the disk before it is used

    def _sample(self) -> None:
        """A short text by the network as it is now; it is on record before it is told of."""
        row = TrainingSample(
            step=self.state.step, seconds=round(self.journal.seconds, 3), text=self.samples.sample(self._model())
        )
        self.journal.samples_length = self.writer.add_sample(row)
        self.emit(Sampled(step=row.step, text=row.text))

    def _replan(self) -> bool:
        """Under a time budget: whether there is a better plan, by the clock of the first process."""
        if not self.planner.budget:
            return False
        state = self.state
        if not state.plan.measured:
            self._try_validation()

        def revised() -> tuple[bool, list[Any]]:
            replanned = self.planner.revise(state, self.clock)
            return replanned, [state.plan.knots, state.checks, state.validation_characters]

        replanned, (knots, state.checks, state.validation_characters) = self.group.first(revised)
        state.plan = Plan(tuple((step, progress) for step, progress in knots))
        if replanned and state.unsettled and not state.finished:
            self._settle()
        return replanned

    def _try_validation(self) -> None:
        """Before the first plan: how long a validation takes, which the time of steps says only roughly."""
        for share, times in TRIALS:  # the first is a little one, in case it takes far longer than expected
            if characters := self.group.first(partial(self.planner.trial, self.state, self.clock, share)):
                for _ in range(times):  # chunks of a new size are computed with each number of threads: the last counts
                    with self.clock.validation(characters):
                        self.validator.try_out(characters)

    def _settle(self) -> None:
        """Choose once more what was chosen for an estimate of the steps, which have been timed now.

        Then go on as a run does that is resumed with those options: they are in the checkpoint that is saved next.
        """
        state, task = self.state, self.task
        passes = state.tokens_seen / state.step * state.plan.total / len(task.train.ids)
        course, characters = Course(state.plan.total, passes), task.train.characters

        def choices() -> dict[str, Value]:
            return settle(task.config, state.unsettled, course, step=state.step, characters=characters).flat()

        config = Config.of(self.group.first(choices))
        weights, tensors = self._model(), self.stepper.export()
        self.task, state.optimizer = replace(task, config=config), asdict(config.optim)
        self.network.set_dropout(config.model)
        import_weights(self.network, weights)
        self.stepper = self._stepper()
        self.stepper.restore(tensors, state)
        options = {name: config.flat()[name] for name in state.unsettled}
        state.unsettled = ()
        self.emit(Settled(step=state.step, total=state.plan.total, passes=passes, options=options))

    def _step(self) -> tuple[float, float]:
        """One update; returns the gradient's norm before clipping, and the learning rate."""
        config, state = self.task.config, self.state
        chunk = self.lanes.read(state.position)
        rate = rollback_rate(state) * learning_rate(
            state.step, state.plan.progress(state.step), warmup=config.optim.warmup, decay=config.optim.decay
        )
        fits = fitting(
            self.network,
            self.runtime,
            batch=self.lanes.batch,
            bptt=config.train.bptt,
            processes=self.group.size,
        )
        with fits, self.clock.step(chunk.scored):
            loss, norm, self.carried = self.stepper.step(chunk, self.carried, state, rate)
        state.step += 1
        state.position = chunk.next
        state.tokens_seen += chunk.scored
        state.recent = [*state.recent[1 - RECENT :], (loss * chunk.scored, chunk.scored)]
        note_start(state, self.task.tokenizer.size)
        check_training(state, self.task.tokenizer.size)
        return norm, rate * config.optim.lr

    def _validate(self) -> float:
        """Score the validation subset, keep the best model, count patience; returns the loss."""
        state = self.state
        characters = state.validation_characters or self.validator.characters
        with self.clock.validation(characters), self.stepper.average.shown():
            loss = self.validator.validate(state)
        better = self.validator.judge(state, loss)
        self.journal.seconds = self.clock.seconds
        self.journal.add_validation(state, self.clock, loss)
        if better:
            self.writer.save_best(self._checkpoint(whole=False))
        self.emit(
            Validated(
                step=state.step,
                total=state.plan.total,
                train_loss=self.journal.recent_loss(state, RECENT),
                val_loss=loss,
                best=better,
                seconds=self.journal.seconds,
            )
        )
        return loss

    def _roll_back(self, problem: Divergence) -> None:
        """To the last good checkpoint and a lower learning rate, which is on record before it is used."""
        diverged, config, seconds, inexact = self.state, self.task.config, self.clock.seconds, self.journal.inexact
        checkpoint, where, best = handed_round(
            self.group,
            lambda: find_rollback(problem, diverged, self.writer.run, config, self.validator.guess()),
        )
        self.restore(checkpoint)
        self.emit(RolledBack(step=self.state.step))
        roll_back(self.state, diverged, problem, best)
        self.journal.seconds, self.journal.inexact = seconds, inexact  # spent time is spent
        self._start_clock()
        self.emit(Remark(text=format_rollback(problem, where, self.state, config.optim.lr)))
        self._save(keep=False)  # `previous` may be what was gone back to

    def _close(self, last: Checkpoint) -> Checkpoint:
        """Score the best model on the whole validation text, and, this once, on the test text.

        Returns `last` with the result, which is in `best` already.
        """
        best = shared(self.group, lambda: self.writer.run.load_best(self.task.config))
        import_weights(self.network, (best or last).weights)
        final: Score | None = self.validator.score_all(self.stop)
        test = self.validator.score_text(self.task.test, self.stop)
        temperature = self.group.first(
            lambda: self.samples.temperature(export_weights(self.network), self.task.train.ids, self.task.validation)
        )
        closing = round(self.clock.seconds - self.journal.seconds, 3)
        result = self.journal.result(self.state, self.clock, final, test)
        result = replace(result, temperature=temperature, closing_seconds=closing)
        self._remark_on(final)
        if best is not None:
            self.writer.save_best(replace(best, history=last.history, result=result))
        return replace(last, result=result)

    def _remark_on(self, final: Score | None) -> None:
        """Say so where the model that is kept is worse than no model."""
        if final is not None and final.loss > (guess := self.validator.guess(final)):
            kept = f"validation loss {final.loss:.3g} nats per character, a uniform guess has {guess:.3g}"
            self.emit(Remark(text=f"the model is worse than a uniform guess: {kept}"))

    def _record(self, norm: float, lr: float, val_loss: float | None) -> None:
        """A row of metrics where one is due, and the step's event."""
        state, journal = self.state, self.journal
        row = None
        if journal.row_is_due(state, val_loss):
            row = journal.metrics(state, self.clock, val_loss=val_loss, norm=norm, lr=lr)
            journal.metrics_length = self.writer.add_metrics(row)
        self.emit(
            Stepped(
                step=state.step,
                total=state.plan.total if state.plan.measured else 0,
                loss=journal.recent_loss(state),
                grad_norm=norm,
                lr=lr,
                characters_per_second=journal.characters_per_second(self.clock),
                seconds=journal.seconds,
                left=self.planner.seconds_left(state, self.clock.timing),
            )
        )
        if row is not None:
            self.emit(Recorded(row=row))

    def _save(self, *, keep: bool = True) -> None:
        """The whole training state, durably; raises CharlmError where the processes have come apart."""
        self.journal.seconds = self.clock.seconds
        checkpoint = self._checkpoint()
        if self.group.size > 1:
            hint = "use machines of one kind, with the same PyTorch; what was saved can be resumed"
            self.group.agree("other weights", checkpoint.state_sha256, CharlmError, hint=hint)
        self.writer.save(checkpoint, keep=keep)

    def _model(self) -> dict[str, NDArray[np.float32]]:
        """The weights that the run would leave behind now."""
        with self.stepper.average.shown():
            return export_weights(self.network)

    def _checkpoint(self, *, whole: bool = True) -> Checkpoint:
        """The present state; not `whole` means the model alone, with the loss that it was chosen by.

        Raises Divergence where a tensor is not finite.
        """
        task, state = self.task, self.state
        weights, tensors = self._model(), {}
        if whole:
            carried = gather_lanes(self.group, self.carried, self.lanes.batch)
            tensors = {**self.stepper.export(), **export_state(carried, task.config.model)}
        for name, array in {**weights, **tensors}.items():
            if not np.isfinite(array).all():
                raise Divergence(state.step, f"{name} holds values that are not finite")
        return Checkpoint(
            config=task.config,
            tokenizer=task.tokenizer.state(),
            weights=weights,
            training=replace(state) if whole else ModelState(step=state.step, best=state.best),
            tensors=tensors,
            bookkeeping=self.journal.bookkeeping,
            history=tuple(self.journal.history),
            corpus=task.corpus,
            environment=self.runtime.environment,
        )
