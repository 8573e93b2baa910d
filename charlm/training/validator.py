"""Validation during training: the loss on text that is not learned from, and what follows from it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Final

from torch import Tensor

from charlm.evaluation.score import DRIFT, Scorable, Score, score, score_stored, uniform_loss
from charlm.evaluation.threaded import Threaded
from charlm.models.network import Network
from charlm.runtime.group import ALONE, ElsewhereError, Group
from charlm.storage.records import TrainState
from charlm.text.records import end_of
from charlm.text.stored import Text, position_of
from charlm.text.tokenizer import StoredTokens, Tokenizer, Tokens, tokenize
from charlm.training.divergence import check_validation

SUBSET: Final = 200_000  # characters of the validation text that validations during training score
_DRIFT: Final = 0.03  # of theirs, in nats a token: it moves their losses by less than 0.0001 (docs/log.md)


class InterruptedScore(Exception):
    """Scoring was asked to stop."""


@dataclass(frozen=True, slots=True)
class _Interruptible:
    """A model that can be asked to stop between two chunks of a text."""

    model: Scorable
    stop: Callable[[], str | None]

    def init_state(self, lanes: int) -> Any:
        return self.model.init_state(lanes)

    def __call__(self, ids_TB: Tensor, state: Any) -> tuple[Tensor, Any]:
        if (reason := self.stop()) is not None:
            raise InterruptedScore(reason)
        return self.model(ids_TB, state)


class Validator:
    """Scores a network on the validation text; keeps count of the best loss and of patience.

    Validations score the first `SUBSET` characters, or fewer where a time budget is short, in the precision of training
    (`autocast`): they have to tell checkpoints from each other, and take time from training. `score_all` scores all of
    it, as `charlm eval` does. Scoring takes up to `threads` threads, as many as are fastest; with 1, as many as torch
    has. The processes of a group share it out; the loss is the same on all of them.
    """

    def __init__(
        self,
        network: Network,
        tokenizer: Tokenizer,
        text: Text,
        *,
        records: str = "none",
        patience: int,
        threads: int = 1,
        autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
        group: Group = ALONE,
    ) -> None:
        self._group, self._autocast = group, autocast
        self._network, self._tokenizer, self._text, self._patience = network, tokenizer, text, patience
        self._records = records
        self._model = Threaded(network, threads)
        self._subset: Tokens | None = None

    @property
    def characters(self) -> int:
        """How many characters validations score where time allows; 0 where there is no validation text."""
        return min(SUBSET, len(self._text))

    def cost(self, step_tokens: float) -> float:
        """How many steps, each of so many tokens, a validation costs: reading takes half as long as learning."""
        return len(self.subset(0).ids) / step_tokens / 2 if self._text else 0.0

    def validate(self, state: TrainState) -> float:
        """The loss on the subset, nats per character; raises Divergence where it is not finite or has exploded."""
        found = self._validation(state.validation_characters)
        check_validation(state, self._tokenizer.size, found.loss, self.guess(found))
        return found.loss

    def try_out(self, characters: int) -> None:
        """Score the first so many characters, for the time that it takes."""
        self._validation(characters)

    def _validation(self, characters: int) -> Score:
        with self._autocast():
            return self._score(self.subset(characters), self._model, _DRIFT)

    def guess(self, counts: Score | None = None) -> float:
        """The loss of a uniform guess on a text with these counts, or on the subset; nats per character."""
        return uniform_loss(self._tokenizer, counts or Score.of(0.0, self.subset(0)))

    def judge(self, state: TrainState, loss: float) -> bool:
        """Take note of a validation's loss; returns whether it is the best so far."""
        better = state.best is None or loss < state.best
        if better:
            state.best, state.best_step, state.bad_checks = loss, state.step, 0
        else:
            state.bad_checks += 1
            state.stopped = bool(self._patience) and state.bad_checks >= self._patience
        return better

    def score_all(self, stop: Callable[[], str | None]) -> Score | None:
        """The score of the whole validation text, as `score_text`."""
        return self.score_text(self._text, stop)

    def score_text(self, text: Text, stop: Callable[[], str | None]) -> Score | None:
        """The score of a text, None if it is empty; raises InterruptedScore when `stop` names a reason."""
        if not text:
            return None
        return self._score(tokenize(self._tokenizer, text), _Interruptible(self._model, stop))

    def subset(self, characters: int) -> Tokens:
        """The tokens of the first so many characters; 0: of as many as are scored where time allows."""
        characters = min(characters or SUBSET, len(self._text))
        if end := end_of(self._records):  # whole records: the one in which they end is the last
            characters = position_of(self._text, end, characters - 1) + 1 if characters else 0
        if self._subset is None or self._subset.characters != characters:
            self._subset = tokenize(self._tokenizer, self._text[:characters])
        return self._subset

    def _score(self, tokens: Tokens | StoredTokens, model: Scorable, drift: float = DRIFT) -> Score:
        self._network.eval()
        try:
            device, records, group = self._network.device, self._records, self._group
            if isinstance(tokens, StoredTokens):
                return score_stored(model, self._tokenizer, tokens, records=records, device=device, group=group)
            return score(model, self._tokenizer, tokens, drift=drift, records=records, device=device, group=group)
        except ElsewhereError as reason:  # another process was asked to stop
            raise InterruptedScore(str(reason)) from reason
        finally:
            self._network.train()
