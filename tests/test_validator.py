"""Validation by itself: which text it scores, what it keeps count of, and that it can be stopped."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from oracles import random_network

from charlm.config import ModelConfig
from charlm.evaluation.score import score
from charlm.storage.records import TrainState
from charlm.text.tokenizer import CharTokenizer, tokenize
from charlm.training import validator as module
from charlm.training.divergence import Divergence
from charlm.training.validator import InterruptedScore, Validator

TEXT = "to be or not to be, that is the question. " * 30
TOKENIZER = CharTokenizer.train(TEXT)
NETWORK = random_network(ModelConfig(hidden=8, embedding=4, layers=1), TOKENIZER.size, seed=3)


def loss_of(text: str) -> float:
    NETWORK.eval()
    return score(NETWORK, TOKENIZER, tokenize(TOKENIZER, text)).loss


def validator(text: str = TEXT, patience: int = 2) -> Validator:
    return Validator(NETWORK, TOKENIZER, text, patience=patience)


def test_validations_score_a_subset_and_the_closing_score_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SUBSET", 500)
    one = validator()
    assert one.characters == 500
    assert one.validate(TrainState()) == pytest.approx(loss_of(TEXT[:500]))
    assert one.validate(TrainState(validation_characters=90)) == pytest.approx(loss_of(TEXT[:90]))
    assert one.validate(TrainState()) == pytest.approx(loss_of(TEXT[:500]))
    final = one.score_all(lambda: None)
    assert final is not None
    assert final.loss == pytest.approx(loss_of(TEXT))
    assert final.characters == len(TEXT)


def test_validations_are_in_the_precision_of_training_and_the_closing_score_is_not() -> None:
    inside: list[bool] = []
    seen: list[bool] = []

    @contextmanager
    def precision() -> Iterator[None]:
        inside.append(True)
        yield
        inside.pop()

    handle = NETWORK.register_forward_pre_hook(lambda *_: seen.append(bool(inside)))
    one = Validator(NETWORK, TOKENIZER, TEXT, patience=0, autocast=precision)
    one.validate(TrainState())
    assert seen
    assert all(seen)
    seen.clear()
    final = one.score_all(lambda: None)
    handle.remove()
    assert seen
    assert not any(seen)
    assert final is not None
    assert final.loss == loss_of(TEXT)


def test_the_network_goes_on_learning_afterwards() -> None:
    validator().validate(TrainState())
    assert NETWORK.training
    validator().score_all(lambda: None)
    assert NETWORK.training


def test_the_best_is_kept_and_patience_counts_validations_since() -> None:
    one, state, better = validator(patience=2), TrainState(), []
    for step, loss in enumerate((3.0, 2.0, 2.5, 1.9, 1.9, 2.1), 1):
        state.step = step
        better.append(one.judge(state, loss))
    assert better == [True, True, False, True, False, False]
    assert (state.best, state.best_step, state.bad_checks, state.stopped) == (1.9, 4, 2, True)
    patient = TrainState(best=1.0)
    for _ in range(9):
        validator(patience=0).judge(patient, 2.0)
    assert not patient.stopped


def test_reading_costs_half_of_learning() -> None:
    assert validator().cost(step_tokens=100) == len(TEXT) / 100 / 2
    assert validator("").cost(step_tokens=100) == 0


def test_a_loss_that_is_not_finite_is_divergence() -> None:
    broken = random_network(ModelConfig(hidden=8, embedding=4, layers=1), TOKENIZER.size, seed=3)
    broken.head.bias.data[0] = float("inf")
    with pytest.raises(Divergence, match="diverged at step 7: validation loss") as caught:
        Validator(broken, TOKENIZER, TEXT, patience=0).validate(TrainState(step=7))
    assert caught.value.step == 7


def test_scoring_stops_between_chunks_when_it_is_asked_to() -> None:
    asked = iter(range(1000))
    with pytest.raises(InterruptedScore, match="SIGINT"):
        validator().score_all(lambda: "SIGINT" if next(asked) == 1 else None)
    assert NETWORK.training
    assert validator("").score_all(lambda: "SIGINT") is None
