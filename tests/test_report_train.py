"""The closing words follow from the numbers: improving, overfitting, flat, or nothing held out."""

from __future__ import annotations

import math
from typing import Any

import pytest

from charlm.config import Config, ModelConfig, TrainConfig
from charlm.report.train import verdict

TIMED = Config(model=ModelConfig(hidden=200), train=TrainConfig(time="10m"))


def said(
    losses: list[float], *, train: float = 1.5, config: Config = TIMED, stopped: bool = False, vocabulary: int = 64
) -> str:
    """The verdict on a run whose checks, 100 steps and 90 seconds apart, found these losses; the best is final."""
    history = [{"step": 100 * n, "seconds": 90.0 * n, "val_loss": loss} for n, loss in enumerate(losses, 1)]
    best = min(losses)
    result: dict[str, Any] = {
        "val_loss": best,
        "val_bits_per_character": best / math.log(2),
        "val_perplexity": math.exp(best),
        "train_loss": train,
        "stopped": stopped,
        "steps": 100 * len(losses),
    }
    return "\n".join(verdict(config, result, history, vocabulary))


def test_the_first_sentence_says_what_the_loss_means() -> None:
    first = said([math.log(8)], vocabulary=64).splitlines()[0]
    assert "needs 3.00 bits a character" in first
    assert "among 8.0 equally likely characters" in first
    assert "knowing nothing means 64 (6.00 bits)" in first


def test_a_run_that_still_improves_is_told_to_go_on() -> None:
    text = said([2.0, 1.8, 1.7, 1.65])
    assert "still improving: 1.800, 1.700, 1.650 nats" in text
    assert "the same command with --force --time 20m" in text
    assert "overfitting" not in text


@pytest.mark.parametrize(
    ("train", "option"), [(TrainConfig(epochs=3), "--epochs 6"), (TrainConfig(steps=500), "--steps 1000")]
)
def test_more_training_is_asked_for_in_the_runs_own_measure(train: TrainConfig, option: str) -> None:
    assert f"the same command with --force {option}." in said([2.0, 1.8, 1.7], config=Config(train=train))


def test_a_run_that_improves_but_knows_its_text_too_well_is_told_to_regularise() -> None:
    text = said([2.0, 1.9, 1.8], train=1.2)
    assert "still improving" in text
    assert "0.60 nats better on what it has read" in text
    assert "--dropout 0.15" in text


@pytest.mark.parametrize("stopped", [False, True])
def test_a_run_that_overfits_is_told_since_when(stopped: bool) -> None:
    text = said([2.0, 1.7, 1.75, 1.9], train=0.8, stopped=stopped)
    assert "overfitting since step 200 (3:00 in)" in text
    assert "rose from 1.700 to 1.900 while training went on to 0.800" in text
    assert "best.safetensors is the model before that" in text
    assert ("stopped for want of patience" in text) == stopped
    assert "Try --dropout 0.15" in text


@pytest.mark.parametrize(
    ("dropout", "advice"),
    [(0.0, "--dropout 0.15"), (0.2, "--dropout 0.35"), (0.45, "--dropout 0.50"), (0.5, "--hidden 100")],
)
def test_regularisation_goes_on_from_what_there_is(dropout: float, advice: str) -> None:
    config = Config(model=ModelConfig(hidden=200, dropout_between=dropout), train=TrainConfig(time="10m"))
    assert f"Try {advice}" in said([2.0, 1.7, 1.9], config=config)


def test_a_run_that_is_flat_is_told_to_grow() -> None:
    text = said([1.9, 1.702, 1.701, 1.7])
    assert "stopped improving by step 400, at 1.700 nats" in text
    assert "--hidden 300" in text
    assert "improving:" not in text


def test_a_run_that_is_flat_and_knows_its_text_too_well_is_told_to_regularise() -> None:
    text = said([1.9, 1.702, 1.701, 1.7], train=1.0)
    assert "stopped improving" in text
    assert "--dropout" in text


def test_a_short_run_is_not_judged() -> None:
    for losses in ([2.0], [2.0, 1.5]):
        assert "too short to say" in said(losses)


def test_without_held_out_text_only_memory_is_reported() -> None:
    lines = verdict(TIMED, {"val_loss": None, "train_loss": 0.5, "stopped": False}, [], 64)
    assert "Nothing was held out" in lines[0]
    assert "0.5000 nats (0.721 bits)" in lines[0]
    assert "--val 0.1" in lines[1]
