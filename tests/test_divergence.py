"""A number that is not finite reaches no weight and no checkpoint, and a loss far above a uniform guess does not last;
training goes back, lowers the learning rate, or gives up."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from oracles import validation_loss
from test_resume import OPTIONS, after, corpus, outcome, train

import charlm
from charlm.storage.checkpoint import load_checkpoint
from charlm.storage.records import RECENT, Plan, TrainState
from charlm.storage.runs import Run
from charlm.training import step
from charlm.training.divergence import (
    LOWER,
    ROLLBACKS,
    Divergence,
    check_training,
    check_validation,
    note_start,
)
from charlm.training.events import Event, Remark, Saved, Stepped
from charlm.training.step import Stepper
from charlm.training.validator import Validator

__all__ = ["corpus"]
WILD: dict[str, Any] = {
    "optimizer": "adamw",
    "lr": 60.0,
    "weight_decay": 0.1,
    "clip": 0.0,
    "drop_state": 0.0,
}  # diverges by itself
EXPLODING: dict[str, Any] = {"optimizer": "adamw", "lr": 30.0}  # never reaches infinity
UNIFORM = math.log(64)


def damaged(monkeypatch: pytest.MonkeyPatch, where: str, value: float, when: Callable[[int], bool]) -> None:
    """Multiplies the loss, the gradient's norm or the validation loss of some calls (from 1)."""
    owner, name = {"loss": (Stepper, "_backward"), "norm": (step, "clip"), "check": (Validator, "_score")}[where]
    real, calls = getattr(owner, name), []

    def wrapper(*arguments: Any) -> Any:
        calls.append(name)
        result = real(*arguments)
        if not when(len(calls)):
            return result
        match where:
            case "loss":
                return result[0] * value, result[1]
            case "check":
                return replace(result, nats=result.nats * value)
        return result * value

    monkeypatch.setattr(owner, name, wrapper)


def told(events: list[Event]) -> list[str]:
    return [event.text for event in events if isinstance(event, Remark) and "diverged" in event.text]


@pytest.mark.fault(25)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(("where", "call", "at"), [("loss", 25, 25), ("norm", 25, 25), ("check", 3, 30)])
def test_what_is_not_finite_is_caught_before_the_update_and_training_goes_back(
    corpus: Path, monkeypatch: pytest.MonkeyPatch, where: str, call: int, at: int, value: float
) -> None:
    damaged(monkeypatch, where, value, lambda number: number == call)
    events: list[Event] = []
    done = train(corpus, "run", **OPTIONS, checkpoint_every="10", on_event=events.append)
    back = (at - 1) // 10 * 10
    assert load_checkpoint(done.run.last).state.rollbacks == [(at, back)]
    assert len(told(events)) == 1
    assert f"diverged at step {at}" in told(events)[0]
    assert f"went back to step {back}" in told(events)[0]
    rates = {event.step: event.lr for event in events if isinstance(event, Stepped)}
    others: list[Event] = []
    plain = train(corpus, "plain", **OPTIONS, on_event=others.append)
    before = {event.step: event.lr for event in others if isinstance(event, Stepped)}
    assert all(rates[k] == before[k] for k in range(1, back + 1))
    assert all(rates[k] == pytest.approx(before[k] * LOWER) for k in range(back + 1, 61))
    assert done.result.steps == plain.result.steps == 60
    rows = [row.step for row in done.run.read_metrics()]
    assert rows == sorted(set(rows))


@pytest.mark.fault(25)
@pytest.mark.parametrize("where", ["loss", "norm", "check"])
def test_it_gives_up_after_so_many_times_and_names_the_last_good_model(
    corpus: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    damaged(monkeypatch, where, math.nan, lambda number: number >= (3 if where == "check" else 23))
    events: list[Event] = []
    with pytest.raises(charlm.DivergedError, match=r"the last good model is .*best\.safetensors.*--lr") as caught:
        train(corpus, "run", **OPTIONS, checkpoint_every="10", on_event=events.append)
    assert caught.value.exit_code == 5
    assert len(told(events)) == ROLLBACKS
    for name in ("best", "last", "previous"):
        saved = load_checkpoint(corpus.parent / "run" / f"{name}.safetensors")
        assert all(np.isfinite(array).all() for array in saved.weights.values())
    best = load_checkpoint(corpus.parent / "run" / "best.safetensors").training
    assert best.best is not None
    assert best.best < 5
    assert best.step < 23


def test_a_run_that_diverged_can_be_told_to_go_on_and_remembers_how_often(
    corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        damaged(patch, "loss", math.nan, lambda number: number >= 23)
        with pytest.raises(charlm.DivergedError):
            train(corpus, "run", **OPTIONS)
    done = train(corpus, "run", resume=True)
    assert len(load_checkpoint(done.run.last).state.rollbacks) == ROLLBACKS


@pytest.mark.fault(25)
@pytest.mark.parametrize("kind", [WILD, EXPLODING], ids=["wild", "exploding"])
@pytest.mark.parametrize("stops", [(3,), (31, 1, 1), (40, 10)])
def test_a_run_that_diverges_by_itself_ends_the_same_when_it_is_killed(
    corpus: Path, stops: tuple[int, ...], kind: dict[str, Any]
) -> None:
    options = {**OPTIONS, **kind, "checkpoint_every": "10", "steps": 150, "patience": 0}
    whole = train(corpus, "whole", **options)
    assert load_checkpoint(whole.run.last).state.rollbacks
    for steps in stops:
        with pytest.raises(_Killed):
            train(corpus, "killed", resume=True, **options, stop=killing(steps))
    killed = train(corpus, "killed", resume=True, **options)
    assert outcome(killed) == outcome(whole)
    assert math.isfinite(validation_loss(killed))  # where a chaotic run ends depends on the processor


def losses(*each: float, step: int | None = None, total: int = 1000, start: float = 0.0) -> TrainState:
    """A state after steps of two tokens with these mean losses."""
    recent = [(2 * loss, 2) for loss in each][-RECENT:]
    return TrainState(step=len(each) if step is None else step, plan=Plan.of(total), recent=recent, start=start)


@pytest.mark.parametrize(
    ("state", "diverged"),
    [
        (losses(*[4.1] * 99), False),
        (losses(4.1, *[9.0] * 19), False),
        (losses(4.1, *[9.0] * 20), True),
        (losses(4.1, *[8.0] * 50), False),  # less than twice a uniform guess
        (losses(4.1, *[9.0] * 19, 4.0, *[9.0] * 19), False),  # not in a row
        (losses(*[2e12] * 80, *[4.0] * 20, step=500), False),  # recovered
        (losses(4.1, *[9.0] * 4, total=5), True),  # nothing can recover after the last step
        (losses(4.1, *[9.0] * 2, total=3), False),
        (losses(12.0, *[13.0] * 60, start=12.0), False),  # fine-tuning on a very different text
        (losses(12.0, *[25.0] * 20, start=12.0), True),
        (losses(), False),
    ],
)
def test_losses_that_stay_far_above_a_uniform_guess_and_the_start_are_divergence(
    state: TrainState, diverged: bool
) -> None:
    if not diverged:
        check_training(state, 64)
        return
    with pytest.raises(Divergence, match=rf"step {state.step}: loss \S+ nats, above .* nats at the start") as caught:
        check_training(state, 64)
    assert caught.value.step == state.step


def test_what_a_loss_is_compared_with_is_said_when_the_first_is_no_longer_remembered() -> None:
    with pytest.raises(Divergence, match=r"at step 300: loss 220 nats, above the 4\.16 nats of a uniform guess"):
        check_training(losses(*[220.0] * 20, step=300), 64)


@pytest.mark.parametrize(
    ("loss", "state", "diverged"),
    [
        (4.0, losses(*[4.0] * 30), False),
        (3 * UNIFORM, losses(*[0.1] * 30), False),  # overfitting
        (3 * UNIFORM, losses(4.0, *[9.0] * 9), True),
        (3 * UNIFORM, losses(4.0, *[9.0] * 8, 8.0), False),
        (1e6, losses(*[0.1] * 30), True),  # nothing but an explosion
        (math.nan, losses(*[0.1] * 30), True),
        (40.0, losses(*[15.0] * 30, start=15.0), False),
    ],
)
def test_a_validation_loss_explodes_likewise_but_overfitting_is_none(
    loss: float, state: TrainState, diverged: bool
) -> None:
    if not diverged:
        check_validation(state, 64, loss, UNIFORM)
        return
    with pytest.raises(Divergence, match=f"at step {state.step}: validation loss"):
        check_validation(state, 64, loss, UNIFORM)


def test_a_vocabulary_of_a_few_letters_is_allowed_more() -> None:
    """Whoever is sure of one of two letters, as after a thousand in a row, pays far more than ln 2 for the other."""
    check_training(losses(*[5.0] * 50), 2)
    check_training(losses(*[0.0] * 50), 1)
    with pytest.raises(Divergence):
        check_training(losses(0.7, *[6.0] * 20), 2)


@pytest.mark.parametrize(("first", "start"), [(4.17, 0.0), (6.0, 0.0), (6.5, 6.5), (1e9, 10 * UNIFORM)])
def test_a_start_is_remembered_where_it_is_no_uniform_guess(first: float, start: float) -> None:
    state = losses(first)
    note_start(state, 64)
    assert state.start == start
    later = losses(4.0, 9.0)
    note_start(later, 64)
    assert later.start == 0
    assert ("start" in state.to_json()) == bool(start)  # so that the hash of other runs stays what it was


@pytest.mark.fault(25)
@pytest.mark.parametrize("options", [EXPLODING, {"optimizer": "rmsprop", "lr": 100.0}], ids=["adamw", "rmsprop"])
def test_a_run_that_explodes_at_once_goes_back_and_keeps_no_model_of_that(
    corpus: Path, options: dict[str, Any]
) -> None:
    events: list[Event] = []
    done = train(corpus, "run", **{**OPTIONS, **options, "steps": 100, "patience": 0}, on_event=events.append)
    assert "went back to step 0 and lowered the learning rate" in told(events)[0]
    assert load_checkpoint(done.run.last).state.rollbacks
    assert validation_loss(done) < 2 * math.log(done.vocabulary)


def test_a_loss_that_is_high_for_a_while_is_no_divergence(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    damaged(monkeypatch, "loss", 1e3, lambda number: 20 < number < 40)
    done = train(corpus, "run", **OPTIONS)
    assert load_checkpoint(done.run.last).state.rollbacks == []


def test_a_model_that_is_worse_than_a_uniform_guess_is_named_so(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    damaged(monkeypatch, "check", 1.5, lambda _: True)
    events: list[Event] = []
    train(corpus, "run", **{**OPTIONS, "steps": 3, "lr": 1e-9}, on_event=events.append)
    said = [event.text for event in events if isinstance(event, Remark)]
    assert any("worse than a uniform guess: validation loss" in text for text in said)


class _Killed(BaseException):
    """Ends a run where it stands, as SIGKILL does: nothing is saved."""


def killing(steps: int) -> Callable[[], str | None]:
    stop = after(steps)

    def kill() -> str | None:
        if stop() is not None:
            raise _Killed
        return None

    return kill


@pytest.mark.fault(25)
def test_a_checkpoint_whose_loss_ran_away_is_not_gone_back_to(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    damaged(monkeypatch, "loss", 1e6, lambda number: 15 < number < 40)
    with monkeypatch.context() as patch:
        damaged(patch, "norm", math.nan, lambda number: number == 40)
        events: list[Event] = []
        done = train(corpus, "run", **OPTIONS, checkpoint_every="10", on_event=events.append)
    assert "went back to the best model (step" in told(events)[0]
    assert validation_loss(done) < 4


def test_without_a_good_model_it_gives_up_at_once_and_says_so(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    damaged(monkeypatch, "loss", 1e6, lambda number: number > 14)
    with pytest.raises(
        charlm.DivergedError, match=r"at step 34: loss .*run holds no good model; start again with --force"
    ):
        train(corpus, "run", **OPTIONS, checkpoint_every="10", val="0")


@pytest.mark.fault(25)
def test_the_save_after_going_back_leaves_what_was_gone_back_to(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`last` is ruined, `previous` is good: a kill in that save must not find the one in the other's place."""
    damaged(monkeypatch, "loss", 1e6, lambda number: 20 < number < 31)
    damaged(monkeypatch, "norm", math.nan, lambda number: number == 31)
    saved: list[tuple[int, int]] = []
    run = Run(corpus.parent / "run")

    def note(event: Event) -> None:
        if isinstance(event, Saved) and run.previous.exists():
            steps = [load_checkpoint(path).state.step for path in (run.last, run.previous)]
            saved.append((steps[0], steps[1]))

    train(corpus, "run", **OPTIONS, checkpoint_every="10", val="0", on_event=note)
    assert saved[:5] == [(10, 0), (20, 10), (30, 20), (20, 20), (30, 20)]


def test_why_a_run_is_not_exact_outlives_going_back(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped = train(corpus, "run", **OPTIONS, stop=after(12))
    checkpoint = load_checkpoint(stopped.run.last)
    stopped.run.save_last(replace(checkpoint, environment=replace(checkpoint.environment, torch="another")))
    damaged(monkeypatch, "norm", math.nan, lambda number: number == 3)
    done = train(corpus, "run", resume=True)
    assert load_checkpoint(done.run.last).state.rollbacks == [(15, 12)]
    assert len(load_checkpoint(done.run.last).bookkeeping.inexact) == 1
