"""The training loop: truncated backpropagation through time over lanes whose state is carried.

It emits events and never prints; what it needs is handed to it. Legend: T chunk, B lanes, V vocabulary.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from charlm.config import Config, SampleConfig
from charlm.errors import CheckpointError, DivergedError
from charlm.evaluation.score import Score, score
from charlm.generation.engine import open_decoder
from charlm.generation.generate import collect, generate
from charlm.models.network import (
    Network,
    State,
    export_state,
    export_weights,
    import_state,
    import_weights,
    named_weights,
    zero_lanes,
)
from charlm.options import every, seconds
from charlm.runtime.device import Runtime
from charlm.runtime.random import Purpose, uniforms
from charlm.storage.checkpoint import Checkpoint, finite
from charlm.storage.runs import Run
from charlm.text.lanes import Chunk, Lanes, Position
from charlm.text.tokenizer import Tokenizer, Tokens
from charlm.training.average import Average
from charlm.training.budget import REVISE, Clock, affordable_checks, checks_of_steps, revise
from charlm.training.divergence import gone_back, last_good, lowered, told, usable_best
from charlm.training.events import Checked, Emit, Finished, Remark, Saved, Stepped, Writing, Wrote
from charlm.training.gradient import Gradient
from charlm.training.memory import fitting
from charlm.training.optim import LossScale, WeightUpdate, clip
from charlm.training.schedule import Plan, due, rate
from charlm.training.state import RECENT, TrainState

LOG_EVERY: Final = 10  # steps between rows of metrics.jsonl
CHECKS: Final = 20  # looks at the held-out text, unless they cost too much of a time budget
_SAMPLE_SECONDS: Final = 15.0  # at least, between short texts that are written on the way
_SAMPLE: Final = SampleConfig(length=160, temperature=0.8)


@dataclass(frozen=True, slots=True)
class Task:
    """What a trainer works on, and what it writes into every checkpoint beside its own state."""

    config: Config
    tokenizer: Tokenizer
    train: Tokens
    val: Tokens | None  # all that is held out: the closing score is of it
    glance: Tokens | None  # what checks look at: its beginning
    corpus: Mapping[str, Any]


class Trainer:
    """One run, from its first step or from where a checkpoint left it."""

    def __init__(
        self, task: Task, network: Network, runtime: Runtime, run: Run, *, emit: Emit, stop: Callable[[], str | None]
    ) -> None:
        config = task.config
        self.task, self.network, self.runtime, self.run = task, network, runtime, run
        self.emit, self.stop = emit, stop
        self.lanes = Lanes(
            task.train.ids,
            start=task.tokenizer.start,
            batch=config.train.batch,
            seed=config.train.seed,
            device=runtime.device,
        )
        self.gradient = Gradient(
            network,
            runtime,
            (config.train.bptt, self.lanes.batch),
            config.train.seed,
            lambda text: emit(Remark(text)),
        )
        self.optimizer = WeightUpdate(config.optim, named_weights(network), config.model.hidden, runtime.type)
        self.average = Average(named_weights(network), config.optim.average)
        self.hidden: State = network.init_state(self.lanes.batch)
        self.scale = LossScale(runtime.scales_loss)
        self.budget = seconds(config.train.time) if config.train.time else 0.0
        self.state = TrainState(loss_scale=self.scale.scale)
        chunk = self.lanes.batch * config.train.bptt
        self._check_steps = len(task.glance.ids) / chunk / 2 if task.glance else 0.0  # reading costs half of learning
        if not self.budget:
            self.state.plan = Plan.of(self._total_steps())
            self.state.checks = checks_of_steps(self.state.plan.total, self._check_steps, CHECKS) if task.glance else 0
        self._per_character = len(task.train.ids) / task.train.characters  # tokens
        self._save_steps, self._save_seconds = every(config.train.checkpoint_every)
        self._at = 0  # the step at work
        self._told_unflushed = False
        self.changed = False  # whether something is other than in the checkpoint that this goes on from
        self._start_clock()

    def _total_steps(self) -> int:
        train = self.task.config.train
        return train.steps or train.epochs * self.lanes.chunks(train.bptt)

    def restore(self, checkpoint: Checkpoint, *, same_text: bool = True) -> None:
        """Go on from this checkpoint of the same run; in another text, at its beginning and with no best yet."""
        self.state = TrainState.from_json(
            checkpoint.training, checkpoint.bookkeeping, [dict(row) for row in checkpoint.history]
        )
        import_weights(self.network, checkpoint.weights)
        self.average.restore(checkpoint.tensors)
        self.optimizer.restore(checkpoint.tensors)
        self.hidden = import_state(checkpoint.tensors, self.task.config.model, self.runtime.device)
        self.scale = LossScale(self.scale.enabled, self.state.loss_scale, self.state.good_steps)
        lanes = len(self.hidden[0][0])
        if same_text and (lanes != self.lanes.batch or self.state.position.offset >= self.lanes.longest):
            raise CheckpointError("the checkpoint's place in its text cannot be", kept="nothing was changed")
        self.run.cut_metrics(self.state.metrics_length)
        if not same_text:
            self.state.position = Position(self.state.position.epoch + 1)
            self.hidden = self.network.init_state(self.lanes.batch)
            self.state.best, self.state.bad_checks = None, 0

    def train(self) -> Finished:
        """Steps until the plan ends, patience does, or `stop` names a reason; then the closing score."""
        self._start_clock()
        self.network.train()
        reason, saved = None, False
        if self.state.step == 0 or self.changed:
            self.save()  # now there is something to go on from; and a folder that cannot be written is found here
        while not saved:
            try:
                while not self.state.finished and (reason := self.stop()) is None:
                    self._advance()
                self.save()
                saved = True
            except DivergedError as problem:
                self._roll_back(problem)
        if reason is None:
            reason = "patience" if self.state.stopped else "done"
            self._close()
        finished = Finished(reason, self.state.step, self.state.seconds)
        self.emit(finished)
        return finished

    def _advance(self) -> None:
        """A step, and whatever is due after it."""
        with fitting(self.network, self.runtime, batch=self.lanes.batch, bptt=self.task.config.train.bptt):
            norm, lr = self._step()
        replanned = self._keep_time()
        checked = self._check() if self._check_is_due() else None
        self._write_a_little()
        self._record(norm, lr, checked)
        better = self.budget and self.state.best_step == self.state.step  # a later plan may not look at this step
        if replanned or better or self._save_is_due():  # a plan is on the disk before it is used
            self.save()

    # a step

    def _step(self) -> tuple[float, float]:
        """One update; returns the gradient's norm before clipping, and the rate."""
        began = time.perf_counter()
        config, state = self.task.config, self.state
        self._at = state.step
        chunk = self.lanes.read(state.position, config.train.bptt)
        share = rate(state.step, state.plan.progress(state.step), warmup=config.optim.warmup, decay=config.optim.decay)
        share *= lowered(state)
        updated = False
        while not updated:  # more than once only after an overflow of fp16, whose loss is then scaled less
            loss, after = self._backward(chunk)
            weights = list(self.network.parameters())
            self.scale.unscale(weights)
            norm = float(clip(weights, config.optim.clip, config.optim.clip_mode))
            updated = self._update(loss, norm, share)
        self.hidden = after
        state.step += 1
        state.position = chunk.next
        state.tokens_seen += chunk.scored
        state.recent = [*state.recent[1 - RECENT :], (loss * chunk.scored, chunk.scored)]
        self._training += time.perf_counter() - began
        return norm, share * config.optim.lr

    def _backward(self, chunk: Chunk) -> tuple[float, State]:
        """Mean loss over the chunk's targets (nats per token) and the state after it; gradients are in the weights."""
        before = self._before(chunk)
        loss, after = self.gradient(chunk.inputs, chunk.targets, before, self.state.step, self.scale.scale)
        return loss.item(), after

    def _before(self, chunk: Chunk) -> State:
        """Zeros where an epoch begins; else the carried state, but zeros in lanes that drop it."""
        if chunk.fresh:
            return self.network.init_state(self.lanes.batch)
        config = self.task.config.train
        if not config.drop_state:
            return self.hidden
        dropped_B = uniforms(config.seed, Purpose.STATE, self.state.step, 1, self.lanes.batch)[0] < config.drop_state
        return zero_lanes(self.hidden, dropped_B) if dropped_B.any() else self.hidden

    def _update(self, loss: float, norm: float, share: float) -> bool:
        """Change the weights; False after an overflow of fp16: the chunk is to be read again."""
        good = math.isfinite(loss) and math.isfinite(norm)
        skip = self.scale.update(good)
        self.state.loss_scale, self.state.good_steps = self.scale.scale, self.scale.good
        if good:
            with self.runtime.rounding():
                self.optimizer.step(share, self.state.step)
            self.average.update(self.state.step + 1)
        elif not skip:
            raise self._diverged(f"loss {loss:g}, gradient norm {norm:g}")
        return good

    def _diverged(self, what: str) -> DivergedError:
        return DivergedError(f"training diverged at step {self._at + 1}: {what}")

    def _roll_back(self, problem: DivergedError) -> None:
        """To the last checkpoint and a lower rate, which is on record before it is used."""
        before, lr = self.state, self.task.config.optim.lr
        before.seconds = self._clock().seconds
        best = usable_best(self.run, self.task.config)
        checkpoint, where = last_good(problem, before, self.run, best, lr)
        self.restore(checkpoint)
        self.state = gone_back(self.state, before, best, self._at)
        self._start_clock()
        self.emit(Remark(told(problem, where, self.state, lr)))
        self.save(keep=False)  # `previous` may be what was gone back to

    def _rules(self) -> dict[str, Any]:
        """What else the steps to come depend on: the seed of every random number, and the rates."""
        config = self.task.config
        return {"seed": config.train.seed, "optimizer": asdict(config.optim)}

    # time

    def _start_clock(self) -> None:
        self._start = self._saved = self._wrote = time.perf_counter()
        self._earlier = self._looked = self.state.seconds
        self._first_step, self._first_token, self._training = self.state.step, self.state.tokens_seen, 0.0
        self._check_cost = self._checking = 0.0

    def _clock(self) -> Clock:
        elapsed = time.perf_counter() - self._start
        return Clock(
            self._earlier + elapsed, elapsed - self._checking, self._training, self.state.step - self._first_step
        )

    def _keep_time(self) -> bool:
        """Under a time budget: whether there is a new plan, which has to be saved before it is used."""
        state, clock = self.state, self._clock()
        state.seconds = clock.seconds
        if not self.budget:
            return False
        if not state.plan.measured and self.task.glance is not None:
            self._check_cost = clock.step_time * self._check_steps  # until one is measured
            state.checks = affordable_checks(self.budget, self._check_cost, CHECKS)
        left = state.checks - math.floor(state.plan.progress(state.step - 1) * state.checks)
        plan = revise(state.plan, state.step, self.budget, clock, self._looked, reserve=left * self._check_cost)
        if clock.seconds - self._looked >= REVISE * self.budget:
            self._looked = clock.seconds
        if plan is None:
            return False
        state.plan = plan
        return True

    # looks at the held-out text

    def _check_is_due(self) -> bool:
        state = self.state
        return due(state.plan.progress(state.step - 1), state.plan.progress(state.step), state.checks)

    def _check(self) -> float | None:
        """Score the glance, keep the best, count patience; returns the loss."""
        state = self.state
        if self.task.glance is None:
            return None
        began = time.perf_counter()
        with self.average.shown():
            loss = self._score(self.task.glance).loss
        self._check_cost = time.perf_counter() - began
        self._checking += self._check_cost
        if not math.isfinite(loss):
            raise self._diverged(f"held-out loss {loss:g}")
        better = state.best is None or loss < state.best
        if better:
            state.best, state.best_step, state.bad_checks = loss, state.step, 0
        else:
            state.bad_checks += 1
            patience = self.task.config.train.patience
            state.stopped = bool(patience) and state.bad_checks >= patience
        state.seconds = self._clock().seconds
        state.history.append(self._row(val_loss=loss))
        if better:
            self.run.save_best(self._checkpoint(whole=False))
        self.emit(Checked(state.step, state.plan.total, self._recent_loss(RECENT), loss, better, state.seconds))
        return loss

    def _score(self, tokens: Tokens) -> Score:
        self.network.eval()
        result = score(self.network, self.task.tokenizer, tokens, device=self.runtime.device)
        self.network.train()
        return result

    def _close(self) -> None:
        """Score the best model on all that is held out, and write the closing figures into the run's checkpoints."""
        last, best = self._checkpoint(whole=True), self.run.load_best(self.task.config)
        import_weights(self.network, (best or last).weights)
        result = self._result(self._score(self.task.val) if self.task.val else None)
        self.emit(Writing())
        if best is not None:
            self.run.save_best(replace(best, history=last.history, result=result))
        self.run.save_last(replace(last, result=result))

    def _result(self, final: Score | None) -> dict[str, Any]:
        state = self.state
        return {
            "steps": state.step,
            "characters_seen": self.characters_seen,
            "train_loss": self._recent_loss(max(LOG_EVERY, state.step // 20)),
            "val_loss": final.loss if final else None,
            "val_bits_per_character": final.bits_per_character if final else None,
            "val_perplexity": finite(final.perplexity) if final else None,
            "best_val_loss": state.best,
            "seconds": round(state.seconds, 3),
            "characters_per_second": round(self._speed()) if self._training else None,
            "stopped": state.stopped,
        }

    def _write_a_little(self) -> None:
        """Now and then, by the clock: what is written has no effect on what is learned."""
        now = time.perf_counter()
        if now - self._wrote < _SAMPLE_SECONDS:
            return
        decoder = open_decoder(self.task.config.model, self._model(), threads=1)
        self.emit(Wrote(self.state.step, collect(generate(decoder, self.task.tokenizer, _SAMPLE), 1)[0]))
        self._wrote = now

    # what is told and kept

    @property
    def characters_seen(self) -> int:
        return round(self.state.tokens_seen / self._per_character)

    def _recent_loss(self, steps: int) -> float:
        """Nats per character over the last steps."""
        return self.state.recent_loss(steps) * self._per_character

    def _speed(self) -> float:
        """Characters learned per second of stepping, in this process."""
        return (self.state.tokens_seen - self._first_token) / self._per_character / self._training

    def _row(self, **more: Any) -> dict[str, Any]:
        state = self.state
        return {
            "step": state.step,
            "characters_seen": self.characters_seen,
            "train_loss": self._recent_loss(LOG_EVERY),
            "seconds": round(state.seconds, 3),
            "characters_per_second": round(self._speed()),
            **more,
        }

    def _record(self, norm: float, lr: float, val_loss: float | None) -> None:
        state = self.state
        if val_loss is not None or state.finished or state.step % LOG_EVERY == 0 or state.step == 1:
            state.metrics_length = self.run.append_metrics(self._row(val_loss=val_loss, grad_norm=finite(norm), lr=lr))
        total = state.plan.total if state.plan.measured else 0
        self.emit(
            Stepped(
                state.step, total, self._recent_loss(LOG_EVERY), norm, lr, self._speed(), state.seconds, self._left()
            )
        )

    def _left(self) -> float:
        if self.budget:
            return max(0.0, self.budget - self.state.seconds)
        clock = self._clock()
        return (self.state.plan.total - self.state.step) * clock.elapsed / clock.steps

    def _save_is_due(self) -> bool:
        if self._save_steps:
            return self.state.step % self._save_steps == 0
        return time.perf_counter() - self._saved >= self._save_seconds

    def save(self, *, keep: bool = True) -> None:
        """The whole training state, durably."""
        self.emit(Writing())
        self.state.seconds = self._clock().seconds
        flushed = self.run.save_last(self._checkpoint(whole=True), keep=keep)
        if not flushed and not self._told_unflushed:
            self._told_unflushed = True
            self.emit(
                Remark(f"{self.run.folder} cannot be flushed: a power failure may cost the newest checkpoint there")
            )
        self._saved = time.perf_counter()
        self.emit(Saved(self.state.step, self.run.last))

    def _model(self) -> dict[str, NDArray[np.float32]]:
        """The weights that the run would leave behind now."""
        with self.average.shown():
            return export_weights(self.network)

    def _checkpoint(self, *, whole: bool) -> Checkpoint:
        """The present state; not `whole` means the model alone, with the loss it was chosen by."""
        task, state = self.task, self.state
        weights, tensors = self._model(), {}
        if whole:
            carried = export_state(self.hidden, task.config.model)
            tensors = {**self.optimizer.export(), **self.average.export(), **carried}
        for name, array in {**weights, **tensors}.items():
            if not np.isfinite(array).all():
                raise self._diverged(f"{name} holds values that are not finite")
        return Checkpoint(
            config=task.config,
            tokenizer=task.tokenizer.state(),
            weights=weights,
            training={**state.to_json(), **self._rules()} if whole else {"step": state.step, "best": state.best},
            tensors=tensors,
            bookkeeping=state.bookkeeping(),
            history=tuple(state.history),
            corpus=task.corpus,
            environment=self.runtime.environment,
        )
