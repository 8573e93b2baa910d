"""What a run tells of itself: rows of metrics, validations, and the closing figures, per character."""

from __future__ import annotations

from typing import Final

from charlm.evaluation.score import Score
from charlm.storage.checkpoint import finite
from charlm.storage.records import Bookkeeping, Metrics, Result, TrainState, Validation
from charlm.training.clock import Clock

LOG_EVERY: Final = 10  # steps between rows of metrics.jsonl


class Journal:
    """Turns a training state into figures per character, and keeps what no computation depends on.

    history         the validations so far
    seconds         of the run, at its last step or save
    metrics_length  of metrics.jsonl, in bytes
    samples_length  of samples.jsonl
    inexact         why the run is not what it would be without an interruption
    init_from       hash of the model whose weights it began with, or nothing
    """

    def __init__(self, tokens_per_character: float) -> None:
        self._tokens_per_character = tokens_per_character
        self.history: list[Validation] = []
        self.seconds, self.metrics_length, self.samples_length = 0.0, 0, 0
        self.inexact: list[str] = []
        self.init_from = ""

    def restore(self, kept: Bookkeeping, history: tuple[Validation, ...]) -> None:
        """Go on from what a checkpoint holds."""
        self.seconds, self.inexact, self.init_from = kept.seconds, list(kept.inexact), kept.init_from
        self.metrics_length, self.samples_length = kept.metrics_length, kept.samples_length
        self.history = list(history)

    @property
    def bookkeeping(self) -> Bookkeeping:
        return Bookkeeping(
            seconds=self.seconds,
            metrics_length=self.metrics_length,
            samples_length=self.samples_length,
            inexact=tuple(self.inexact),
            init_from=self.init_from,
        )

    def characters_seen(self, state: TrainState) -> int:
        return round(state.tokens_seen / self._tokens_per_character)

    def recent_loss(self, state: TrainState, steps: int = LOG_EVERY) -> float:
        """Nats per character over the last steps."""
        return state.recent_loss(steps) * self._tokens_per_character

    def characters_per_second(self, clock: Clock) -> float:
        return clock.tokens_per_second / self._tokens_per_character

    def add_validation(self, state: TrainState, clock: Clock, val_loss: float) -> None:
        """Add a validation to the history."""
        self.history.append(
            Validation(
                step=state.step,
                characters_seen=self.characters_seen(state),
                train_loss=self.recent_loss(state),
                seconds=round(self.seconds, 3),
                characters_per_second=round(self.characters_per_second(clock)),
                val_loss=val_loss,
            )
        )

    def row_is_due(self, state: TrainState, val_loss: float | None) -> bool:
        """Whether this step gets a row of metrics."""
        return val_loss is not None or state.finished or state.step % LOG_EVERY == 0 or state.step == 1

    def metrics(self, state: TrainState, clock: Clock, *, val_loss: float | None, norm: float, lr: float) -> Metrics:
        """This step's row of metrics."""
        return Metrics(
            step=state.step,
            characters_seen=self.characters_seen(state),
            train_loss=self.recent_loss(state),
            seconds=round(self.seconds, 3),
            characters_per_second=round(self.characters_per_second(clock)),
            val_loss=val_loss,
            grad_norm=finite(norm),
            lr=lr,
        )

    def result(self, state: TrainState, clock: Clock, final: Score | None, test: Score | None = None) -> Result:
        """The figures at this point, with the scores of the whole validation text and of the test text, where given."""
        speed = round(self.characters_per_second(clock))
        return Result(
            steps=state.step,
            planned_steps=state.plan.planned if state.plan.measured else None,
            characters_seen=self.characters_seen(state),
            train_loss=self.recent_loss(state, max(LOG_EVERY, state.step // 20)),
            val_loss=final.loss if final else None,
            val_bits_per_character=final.bits_per_character if final else None,
            val_perplexity=finite(final.perplexity) if final else None,
            best_val_loss=state.best,
            test_loss=finite(test.loss) if test else None,
            test_bits_per_character=finite(test.bits_per_character) if test else None,
            seconds=round(self.seconds, 3),
            characters_per_second=speed or None,
            stopped=state.stopped,
        )
