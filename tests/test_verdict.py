"""How a run went, told from histories of losses: only what is true, and one thing to change."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from charlm.config import Config, ModelConfig, OptimConfig, TrainConfig
from charlm.report.verdict import Verdict, judge
from charlm.storage.records import Result, Validation

TIMED = TrainConfig(time="10m")


def verdict(
    losses: list[float],
    train: list[float] | float = 1.5,
    *,
    stopped: bool = False,
    steps: int = 0,
    length: TrainConfig = TIMED,
    **options: Any,
) -> Verdict:
    """Of a run with these validations, 100 steps and 90 seconds apart, and these training losses, the last one last."""
    trained = train if isinstance(train, list) else [train] * (len(losses) + 1)
    rows = zip(losses, trained, strict=False)
    history = [
        Validation(step=100 * n, seconds=90.0 * n, train_loss=before, val_loss=loss)
        for n, (loss, before) in enumerate(rows, 1)
    ]
    best = min(losses, default=None)
    result = Result(
        steps=steps or 100 * len(losses),
        characters_seen=1,
        train_loss=trained[-1],
        val_loss=best,
        best_val_loss=best,
        seconds=1.0,
        stopped=stopped,
    )
    optim = OptimConfig(lr=0.006, decay=options.pop("decay", "linear"))
    return judge(history, result, Config(model=ModelConfig(hidden=200, **options), optim=optim, train=length), 64)


LONGER = {"time": "20m"}
DROPOUT = {"dropout": 0.15}
LOWER = {"lr": 0.002}


@pytest.mark.parametrize(
    ("losses", "train", "more", "kind", "changes"),
    [
        pytest.param([2.0, 1.8, 1.7, 1.65], 1.5, {}, "falling", LONGER, id="monotone fall"),
        pytest.param([2.0, 1.8, 1.7, 1.65], 1.5, {"decay": "none"}, "improving", LONGER, id="no annealing"),
        pytest.param([1.421, 1.436, 1.391], 1.3, {}, "uneven", LONGER, id="up and down"),
        pytest.param([1.421, 1.436, 1.391], 1.3, {"decay": "none"}, "uneven", LONGER, id="up and down, no annealing"),
        pytest.param([2.0, 1.9, 1.8], 1.2, {}, "falling", {**DROPOUT, **LONGER}, id="falls with a gap"),
        pytest.param([2.0, 1.7, 1.75, 1.9], [2.0, 1.6, 1.2, 1.0, 0.8], {}, "overfitting", DROPOUT, id="overfitting"),
        pytest.param([2.0, 1.8, 1.6, 1.62], [1.9, 1.8, 1.6, 1.55, 1.5], {}, "uneven", LONGER, id="wobble at the end"),
        pytest.param([2.0, 1.7, 1.9], [2.0, 1.6, 1.8, 1.9], {}, "unstable", LOWER, id="both rise"),
        pytest.param([2.0, 1.7, 1.9], [2.0, 1.6, 1.6, 1.6], {}, "unstable", LOWER, id="training loss does not fall"),
        pytest.param([2.0, 1.7, 1.7], [1.9, 1.5, 1.9, 2.1], {}, "unstable", LOWER, id="training loss alone rises"),
        pytest.param([1.9, 1.702, 1.701, 1.7], 1.5, {}, "flat", {"hidden": 300, **LONGER}, id="flat"),
        pytest.param([1.9, 1.702, 1.701, 1.7], 1.0, {}, "flat", DROPOUT, id="flat with a gap"),
        pytest.param([2.0, 1.8, 1.7, 1.65], 1.5, {"stopped": True}, "flat", {"hidden": 300, **LONGER}, id="patience"),
        pytest.param([2.0, 1.5], 1.5, {}, "short", {"time": "40m"}, id="two validations"),
        pytest.param([2.0], 1.5, {}, "short", {"time": "40m"}, id="one validation"),
        pytest.param([2.0, 1.8, 1.7], 1.5, {"steps": 20}, "short", {"time": "200m"}, id="few steps"),
        pytest.param([], 0.5, {}, "unjudged", {}, id="nothing held out"),
        pytest.param([15.0, 138.0, 2e9, 245.0], 220.0, {}, "useless", LOWER, id="diverged"),
        pytest.param([15.0], 220.0, {}, "useless", LOWER, id="diverged at once"),
    ],
)
def test_a_history_has_one_verdict_and_one_thing_to_change(
    losses: list[float], train: list[float] | float, more: dict[str, Any], kind: str, changes: dict[str, Any]
) -> None:
    found = verdict(losses, train, **more)
    assert (found.kind, dict(found.changes)) == (kind, changes)
    text = " ".join(found.lines)
    assert ("overfitting" in text) == (kind == "overfitting")
    assert ("still improving" in text) == (kind == "improving")
    assert all(f"--{name} {value}" in text for name, value in changes.items())
    assert not text or text.endswith(".")


def test_the_sentences_give_the_figures() -> None:
    fell = verdict([2.0, 1.8, 1.7, 1.65]).words
    assert "fell to the end (1.800, 1.700, 1.650 nats at the last three validations)" in fell
    assert "as is usual while the learning rate falls to 0; a longer run may reach lower." in fell
    uneven = verdict([1.421, 1.436, 1.391], 1.3).words
    assert "went up and down (1.421, 1.436, 1.391 nats at the last three validations)" in uneven
    assert "lowest at step 300" in uneven
    both = verdict([2.0, 1.7, 1.9], [2.0, 1.6, 1.8, 1.9]).words
    assert "rose from 1.700 at step 200 to 1.900, and the training loss from 1.600 to 1.900" in both


@pytest.mark.parametrize("stopped", [False, True])
def test_a_run_that_overfits_is_told_since_when(stopped: bool) -> None:
    text = verdict([2.0, 1.7, 1.75, 1.9], [2.0, 1.6, 1.2, 1.0, 0.8], stopped=stopped).words
    assert "overfitting since step 200 (3:00 in)" in text
    assert "rose from 1.700 to 1.900 while the training loss fell from 1.600 to 0.800" in text
    assert "best.safetensors holds the model from step 200." in text
    assert ("stopped early: no improvement in 5 validations" in text) == stopped


@pytest.mark.parametrize(
    ("length", "changes"),
    [
        (TrainConfig(epochs=3), {"epochs": 6}),
        (TrainConfig(steps=500), {"steps": 1000}),
        (TrainConfig(time="1.5h"), {"time": "3h"}),
        (TrainConfig(time="6000h"), {}),  # twice as much is more than --time takes
    ],
)
def test_more_training_is_in_the_runs_own_measure(length: TrainConfig, changes: dict[str, Any]) -> None:
    assert dict(verdict([2.0, 1.8, 1.7], length=length).changes) == changes


@pytest.mark.parametrize(
    ("model", "changes"),
    [
        (ModelConfig(hidden=200, dropout_between=0.0), {"dropout": 0.15}),
        (ModelConfig(hidden=200, dropout_between=0.2), {"dropout": 0.35}),
        (ModelConfig(hidden=200, dropout_between=0.45), {"dropout": 0.5}),
        (ModelConfig(hidden=200, dropout_between=0.5), {"hidden": 100}),
        (ModelConfig(hidden=16, dropout_between=0.5), {}),
        (ModelConfig(hidden=200, cell="rnn"), {"hidden": 100}),  # dropout does not help it
        (ModelConfig(hidden=16, model="window"), {}),
    ],
)
def test_regularisation_goes_on_from_what_there_is(model: ModelConfig, changes: dict[str, Any]) -> None:
    config = Config(model=model, train=TIMED)
    history = [
        Validation(step=100 * n, seconds=1.0, train_loss=1.5, val_loss=x) for n, x in enumerate((2, 1.7, 1.9), 1)
    ]
    result = Result(
        steps=300, characters_seen=1, train_loss=1.0, val_loss=1.7, best_val_loss=1.7, seconds=1.0, stopped=False
    )
    assert dict(judge(history, result, config, 64).changes) == changes


def test_a_run_that_diverged_goes_on_at_the_learning_rate_that_held() -> None:
    history = [Validation(step=100 * n, seconds=1.0, train_loss=1.5, val_loss=2.0 - n / 10) for n in (1, 2, 3)]
    result = Result(
        steps=300, characters_seen=1, train_loss=1.6, val_loss=1.7, best_val_loss=1.7, seconds=1.0, stopped=False
    )
    config = Config(optim=OptimConfig(lr=27.0), train=TIMED)
    found = judge(history, result, config, 64, rollbacks=2)
    assert found.words.startswith("It diverged 2 times, and was rolled back to a learning rate of 3. Its validation")
    assert dict(found.changes) == {"lr": 3.0, "time": "20m"}
    assert dict(judge([], replace(result, val_loss=None), config, 64, rollbacks=1).changes) == {}


def test_other_tokens_than_characters_are_not_compared_with_a_guess_among_characters() -> None:
    found = verdict([9.0, 8.0, 7.0], 6.0)
    assert found.kind == "useless"
    assert 1.2 * math.log(64) < 6.0
