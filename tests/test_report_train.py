"""The closing words follow from the numbers: improving, overfitting, flat, or no validation text."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from charlm.config import Config, ModelConfig, TrainConfig
from charlm.report.train import summarise
from charlm.storage.records import Result, Validation
from charlm.storage.runs import Run, Trained

TIMED = Config(model=ModelConfig(hidden=200), train=TrainConfig(time="10m"))


def said(
    losses: list[float],
    *,
    train: float = 1.5,
    config: Config = TIMED,
    stopped: bool = False,
    vocabulary: int = 64,
    test: float | None = None,
) -> str:
    """The summary of a run whose validations, 100 steps and 90 seconds apart, found these losses; the best is final."""
    history = [Validation(step=100 * n, seconds=90.0 * n, train_loss=1.5, val_loss=x) for n, x in enumerate(losses, 1)]
    best = min(losses, default=None)
    result = Result(
        steps=100 * len(losses),
        characters_seen=1,
        train_loss=train,
        val_loss=best,
        val_bits_per_character=None if best is None else best / math.log(2),
        val_perplexity=None if best is None else math.exp(best),
        best_val_loss=best,
        test_loss=test,
        test_bits_per_character=None if test is None else test / math.log(2),
        seconds=1.0,
        stopped=stopped,
    )
    run = Run(Path("checkpoints/run"))
    return "\n".join(
        summarise(
            Trained(
                run=run,
                reason="patience" if stopped else "done",
                checkpoint=run.best,
                result=result,
                history=tuple(history),
                config=config,
                parameters=1,
                vocabulary=vocabulary,
            )
        )
    )


def test_the_first_sentence_says_what_the_loss_means() -> None:
    first = said([math.log(8)], vocabulary=64).splitlines()[0]
    assert first.startswith("On its validation text, the model needs 3.00 bits per character")
    assert "among 8.0 equally likely characters" in first
    assert "a uniform guess is one among 64 (6.00 bits)" in first


def test_a_run_that_still_improves_should_go_on() -> None:
    text = said([2.0, 1.8, 1.7, 1.65])
    assert "still improving: 1.800, 1.700, 1.650 nats" in text
    assert "the same command with --force --time 20m" in text
    assert "overfitting" not in text


@pytest.mark.parametrize(
    ("train", "option"), [(TrainConfig(epochs=3), "--epochs 6"), (TrainConfig(steps=500), "--steps 1000")]
)
def test_more_training_is_asked_for_in_the_runs_own_measure(train: TrainConfig, option: str) -> None:
    assert f"the same command with --force {option}." in said([2.0, 1.8, 1.7], config=Config(train=train))


def test_a_run_that_improves_but_knows_its_text_too_well_should_be_regularised() -> None:
    text = said([2.0, 1.9, 1.8], train=1.2)
    assert "still improving" in text
    assert "training loss is already 0.60 nats below its validation loss" in text
    assert "--dropout 0.15" in text


@pytest.mark.parametrize("stopped", [False, True])
def test_a_run_that_overfits_is_told_since_when(stopped: bool) -> None:
    text = said([2.0, 1.7, 1.75, 1.9], train=0.8, stopped=stopped)
    assert "overfitting since step 200 (3:00 in)" in text
    assert "rose from 1.700 to 1.900 while the training loss reached 0.800" in text
    assert "best.safetensors holds the model from step 200." in text
    assert ("stopped early: no improvement in 5 validations" in text) == stopped
    assert "Try --dropout 0.15" in text


@pytest.mark.parametrize(
    ("dropout", "advice"),
    [(0.0, "--dropout 0.15"), (0.2, "--dropout 0.35"), (0.45, "--dropout 0.50"), (0.5, "--hidden 100")],
)
def test_regularisation_goes_on_from_what_there_is(dropout: float, advice: str) -> None:
    config = Config(model=ModelConfig(hidden=200, dropout_between=dropout), train=TrainConfig(time="10m"))
    assert f"Try {advice}" in said([2.0, 1.7, 1.9], config=config)


def test_a_run_that_is_flat_should_grow() -> None:
    text = said([1.9, 1.702, 1.701, 1.7])
    assert "stopped improving at step 400, at 1.700 nats" in text
    assert "--hidden 300" in text
    assert "improving:" not in text


def test_a_run_that_is_flat_and_knows_its_text_too_well_should_be_regularised() -> None:
    text = said([1.9, 1.702, 1.701, 1.7], train=1.0)
    assert "stopped improving" in text
    assert "--dropout" in text


def test_a_short_run_is_not_judged() -> None:
    for losses in ([2.0], [2.0, 1.5]):
        assert "too short to say" in said(losses)


def test_without_validation_text_only_memorisation_is_reported() -> None:
    lines = said([], train=0.5).splitlines()
    assert lines[0].startswith("There is no validation text")
    assert "0.5000 nats (0.721 bits)" in lines[0]
    assert "--val 0.1" in lines[1]


def test_only_a_test_text_is_one_that_no_choice_has_seen() -> None:
    """The best model is chosen by its validation loss, which says so; the headline is the test's, if there is one."""
    alone = said([2.0, 1.8, math.log(8)])
    assert "no choice" not in alone
    assert "not seen" not in alone
    lines = said([2.0, 1.8, math.log(8)], test=math.log(16)).splitlines()
    assert lines[0].startswith("On its test text, which no choice has seen, the model needs 4.00 bits per character")
    assert "among 16.0 equally likely characters" in lines[0]
    assert lines[1:] == alone.splitlines()[1:]


def test_a_test_text_without_a_validation_text_is_reported_too() -> None:
    lines = said([], test=math.log(16)).splitlines()
    assert lines[0].startswith("On its test text")
    assert "the last" in lines[1]
    assert "memorisation" not in "".join(lines)
