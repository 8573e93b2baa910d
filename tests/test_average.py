"""The model as an average of the weights that training goes through."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_divergence import damaged
from test_resume import OPTIONS, after, corpus, train

import charlm
from charlm.storage.checkpoint import Checkpoint, load_checkpoint
from charlm.storage.runs import Run
from charlm.training import divergence
from charlm.training.events import Event, Validated

__all__ = ["corpus"]
STEPS = 9


def last(trained: charlm.Trained) -> Checkpoint:
    return load_checkpoint(trained.run.last)


def walked(corpus: Path, **options: Any) -> list[Checkpoint]:
    """The checkpoint after each step of a run that is stopped after each."""
    options = {**OPTIONS, "steps": STEPS, **options}
    found = [last(train(corpus, "walk", **options, stop=after(1)))]
    while len(found) < STEPS:
        found.append(last(train(corpus, "walk", resume=True, stop=after(1))))
    return found


@pytest.mark.parametrize("reach", [0.15, 0.3, 1.0])
def test_the_model_is_the_weighted_sum_of_the_weights_after_each_step(corpus: Path, reach: float) -> None:
    """Against the sum written out, with the weights of a run that averages nothing."""
    plain, averaged = walked(corpus), last(train(corpus, "whole", **{**OPTIONS, "steps": STEPS}, average=reach))
    kept = [min(1.0, 1 / (reach * step)) if step > 1 else 1.0 for step in range(1, STEPS + 1)]
    shares = [own * math.prod(1 - later for later in kept[place + 1 :]) for place, own in enumerate(kept)]
    assert sum(shares) == pytest.approx(1)
    for name in plain[0].weights:
        expected = sum(s * checkpoint.weights[name].astype(float) for s, checkpoint in zip(shares, plain, strict=True))
        np.testing.assert_allclose(averaged.weights[name], expected, atol=1e-6)
        assert np.array_equal(averaged.tensors[f"iterate.{name}"], plain[-1].weights[name])


def test_a_reach_of_one_is_the_mean_of_all(corpus: Path) -> None:
    plain, averaged = walked(corpus), last(train(corpus, "whole", **{**OPTIONS, "steps": STEPS}, average=1.0))
    for name in plain[0].weights:
        mean = np.mean([checkpoint.weights[name] for checkpoint in plain], 0)
        np.testing.assert_allclose(averaged.weights[name], mean, atol=1e-6)


def test_checks_and_the_closing_score_are_of_the_average(corpus: Path) -> None:
    events: list[Event] = []
    trained = train(corpus, "run", **OPTIONS, average=0.3, on_event=events.append)
    best = charlm.load(trained.run.best)
    assert best.score(best.validation_text()).loss == pytest.approx(trained.result.val_loss, abs=1e-6)
    assert best.score(best.validation_text()).loss == pytest.approx(
        trained.result.best_val_loss, abs=1e-5
    )  # of a check
    checks = [event for event in events if isinstance(event, Validated)]
    model = charlm.load(trained.run.last)
    assert checks[-1].step == OPTIONS["steps"]
    assert model.score(model.validation_text()).loss == pytest.approx(checks[-1].val_loss, abs=1e-5)


def test_without_a_reach_nothing_more_is_kept(corpus: Path) -> None:
    found = last(train(corpus, "run", **{**OPTIONS, "steps": 2}))
    assert not any(name.startswith("iterate.") for name in found.tensors)


def test_before_the_first_step_there_is_nothing_to_average(corpus: Path) -> None:
    stopped = train(corpus, "run", **OPTIONS, average=0.5, stop=after(0))
    assert not any(name.startswith("iterate.") for name in last(stopped).tensors)
    assert last(train(corpus, "run", resume=True)).state.step == OPTIONS["steps"]


def test_a_run_whose_best_model_is_gone_is_judged_by_its_last(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Run, "load_best", lambda *_: None)
    trained = train(corpus, "run", **OPTIONS, average=0.5)
    model = charlm.load(trained.run.last)
    assert model.score(model.validation_text()).loss == pytest.approx(trained.result.val_loss, abs=1e-6)


@pytest.mark.parametrize("ruined", [False, True])
def test_after_going_back_the_average_goes_on_or_begins_anew(
    corpus: Path, monkeypatch: pytest.MonkeyPatch, ruined: bool
) -> None:
    """To a checkpoint with both weights, or to the best model, which has one."""
    if ruined:
        monkeypatch.setattr(divergence, "_has_run_away", lambda _: True)
    with monkeypatch.context() as patch:
        damaged(patch, "loss", math.nan, lambda number: number == 25)
        options = {**OPTIONS, "average": 0.3, "checkpoint_every": "10"}
        halted = train(corpus, "run", **options, stop=after(25))  # calls: 24 steps, and one that went back
    before = last(halted)
    assert before.state.rollbacks == [(25, before.state.step)]
    assert any(name.startswith("iterate.") for name in before.tensors) == (not ruined)
    done = last(train(corpus, "run", resume=True))
    assert all(not np.array_equal(done.tensors[f"iterate.{n}"], array) for n, array in done.weights.items())
