"""Under a time budget, what follows from the number of steps is settled once steps have been timed.

All by a clock of the tests' own, on a machine whose speed they decide.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import charlm
from charlm.config import DROPOUTS, Config
from charlm.evaluation.score import Score
from charlm.storage.checkpoint import Checkpoint, load_checkpoint
from charlm.storage.records import TrainState
from charlm.training.clock import Clock
from charlm.training.defaults import FOLLOWING, Course, Facts, choose, settle, unsettled
from charlm.training.divergence import Divergence
from charlm.training.events import Event, Saved, Settled, Stepped
from charlm.training.plan import FEWEST, Planner
from charlm.training.samples import Samples
from charlm.training.step import Stepper, StepResult
from charlm.training.validator import Validator

PROFILE = settings(derandomize=True, deadline=None, max_examples=100, database=None)
TEXT = "".join(f"{n} times {n % 7} is {n * (n % 7)}.\n" for n in range(400))
SMALL: dict[str, Any] = {"hidden": 8, "embedding": 8, "batch": 4, "bptt": 16, "precision": "fp32", "threads": 1}
BUDGET = 10.0


class Machine:
    """One on which a step and the validation of a character take so many seconds, whatever this one is like."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, step: float, character: float, speed: float = 1e7) -> None:
        self.now = self.validating = 0.0
        self.step, self.character = step, character
        taken, score = Stepper.step, Validator._score

        def slow_step(stepper: Stepper, *arguments: Any) -> StepResult:
            self.now += self.step
            return taken(stepper, *arguments)

        def slow_score(validator: Validator, tokens: Any, *arguments: Any) -> Score:
            self.now += self.character * tokens.characters
            self.validating += self.character * tokens.characters
            return score(validator, tokens, *arguments)

        monkeypatch.setattr(Stepper, "step", slow_step)
        monkeypatch.setattr(Validator, "_score", slow_score)
        monkeypatch.setattr(Validator, "score_all", lambda *_: None)  # comes after the budget, as what follows
        monkeypatch.setattr(Samples, "temperature", lambda *_: None)
        monkeypatch.setattr("charlm.training.trainer.Clock", lambda earlier=0.0: Clock(earlier, now=lambda: self.now))
        monkeypatch.setattr("charlm.training.session.training_speed", lambda *_: speed)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "sums.txt"
    path.write_text(TEXT)
    return path


def train(corpus: Path, name: str = "run", **options: Any) -> charlm.Trained:
    length = {} if options.keys() & {"steps", "epochs"} else {"time": f"{BUDGET:g}s"}
    given = {} if options.get("resume") else {**SMALL, **length}
    return charlm.train(corpus, checkpoints=corpus.parent, name=name, **{**given, **options})


def after(steps: int) -> Callable[[], str | None]:
    asked = iter(range(10**9))
    return lambda: "stop" if next(asked) == steps else None


def last(trained: charlm.Trained) -> Checkpoint:
    return load_checkpoint(trained.run.last)


@pytest.mark.parametrize("slow", [0.0, 0.5, 4.0, 20.0])
@pytest.mark.parametrize("step", [0.05, 0.1])
def test_a_budget_is_kept_as_planned_with_few_validations(
    corpus: Path, monkeypatch: pytest.MonkeyPatch, step: float, slow: float
) -> None:
    """A character of a validation costs as much as one that is learned, times `slow`."""
    machine = Machine(monkeypatch, step=step, character=slow * step / 64)
    trained = train(corpus, patience=0)
    result = trained.result
    assert result.seconds == pytest.approx(BUDGET, rel=0.03)
    assert result.planned_steps == pytest.approx(result.steps, rel=0.1)
    assert machine.validating <= 0.1 * BUDGET
    assert len(trained.history) >= FEWEST


def test_the_end_is_near_the_budget_on_a_machine_that_slows_down_late(
    corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(monkeypatch, step=0.04, character=1e-5)

    def follow(_: Event) -> None:
        machine.step = 0.04 if machine.now < 0.93 * BUDGET else 0.08

    assert train(corpus, patience=0, on_event=follow).result.seconds == pytest.approx(BUDGET, rel=0.03)


def test_what_was_left_out_follows_from_the_steps_that_were_timed(
    corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the estimate was; a run of as many steps has the same options."""
    Machine(monkeypatch, step=0.1, character=1e-5)
    events: list[Event] = []
    trained = train(corpus, patience=0, on_event=events.append)
    (settled,) = (event for event in events if isinstance(event, Settled))
    alike = train(corpus, "alike", steps=settled.total)
    own, wanted = trained.config.flat(), alike.config.flat()
    assert set(settled.options) == FOLLOWING
    assert {name: own[name] for name in FOLLOWING - {"warmup"}} == {
        name: wanted[name] for name in FOLLOWING - {"warmup"}
    }
    assert settled.total == trained.result.planned_steps


def test_what_was_given_stays(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Machine(monkeypatch, step=0.05, character=1e-5)
    given: dict[str, Any] = {"lr": 0.0123, "dropout_input": 0.11, "weight_decay": 0.07}
    found = last(train(corpus, **given, stop=after(30)))
    own = found.config.flat()
    assert {name: own[name] for name in given} == given
    assert found.state.unsettled == ()


def test_settled_options_are_saved_before_a_step_uses_them(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each step has the weight decay of the newest checkpoint, its dropout, and with a constant rate its rate."""
    Machine(monkeypatch, step=0.1, character=1e-5, speed=1e9)
    saved: list[Checkpoint] = []
    decays: dict[float, None] = {}
    dropped: list[bool] = []
    taken = Stepper.step

    def step(stepper: Stepper, *arguments: Any) -> StepResult:
        model = saved[-1].config.model
        places = [model.dropout_input, model.dropout_between, model.dropout_output]
        dropped.append([dropout.p for dropout in stepper.network.dropout] == places)
        assert asdict(stepper.config.optim) == saved[-1].state.optimizer == asdict(saved[-1].config.optim)
        decays[stepper.config.optim.weight_decay] = None
        return taken(stepper, *arguments)

    def follow(event: Event) -> None:
        if isinstance(event, Saved):
            saved.append(load_checkpoint(event.path))
        if isinstance(event, Stepped):
            assert event.lr == saved[-1].config.optim.lr

    monkeypatch.setattr(Stepper, "step", step)
    train(corpus, decay="none", warmup=0, patience=0, on_event=follow)
    assert all(dropped)
    assert len(decays) == 2
    assert [bool(one.state.unsettled) for one in saved[:2]] == [True, False]
    assert not any(one.state.unsettled for one in saved[1:])


@pytest.mark.parametrize(("first", "average"), [(1, None), (9, 0.2), (10, None), (11, 0.2), (40, None)])
def test_a_run_resumed_before_at_or_after_settling_ends_like_one_of_the_same_plans(
    corpus: Path, monkeypatch: pytest.MonkeyPatch, first: int, average: float | None
) -> None:
    Machine(monkeypatch, step=0.1, character=1e-5)
    monkeypatch.setattr("charlm.training.defaults._AVERAGED", (50, 0.05))
    options = {"average": average} if average else {}
    plans: dict[int, Any] = {}

    def note(event: Event) -> None:
        if isinstance(event, Saved):
            state = load_checkpoint(event.path).state
            plans[state.step] = state.plan, state.checks, state.validation_characters

    train(corpus, "parts", **options, stop=after(first), on_event=note)
    trained = train(corpus, "parts", resume=True, on_event=note)

    def follow(planner: Planner, state: TrainState, clock: Clock) -> bool:  # noqa: ARG001
        plan = plans.get(state.step, (state.plan, 0, 0))
        better = bool(plan[0] != state.plan)
        if better:
            state.plan, state.checks, state.validation_characters = plan
        return better

    monkeypatch.setattr(Planner, "revise", follow)
    whole = train(corpus, "whole", **options)
    assert whole.config == trained.config
    assert whole.config.optim.average == (average or 0.05)
    assert last(whole).state_sha256 == last(trained).state_sha256
    assert whole.result.steps == trained.result.steps > 50


def test_a_run_that_goes_back_to_before_it_was_settled_keeps_what_was_settled(
    corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It diverges where its newest checkpoint cannot be used, and the one before is not settled yet."""
    Machine(monkeypatch, step=0.1, character=1e-5)
    taken, saved = Stepper.step, list[Checkpoint]()

    def diverging(stepper: Stepper, *arguments: Any) -> StepResult:
        if len(saved) == 2:
            saved.append(saved[-1])
            (corpus.parent / "run" / "last.safetensors").write_bytes(b"damaged")
            raise Divergence(9, "by decree")
        return taken(stepper, *arguments)

    def follow(event: Event) -> None:
        if isinstance(event, Saved):
            saved.append(load_checkpoint(event.path))

    monkeypatch.setattr(Stepper, "step", diverging)
    monkeypatch.setattr("charlm.training.defaults._AVERAGED", (50, 0.05))
    trained = train(corpus, patience=0, on_event=follow)
    before, settled, _, again = saved[:4]
    assert (bool(before.state.unsettled), settled.state.unsettled) == (True, ())
    assert len(again.state.rollbacks) == 1
    assert again.config == settled.config == trained.config != before.config
    assert trained.reason == "done"
    assert last(trained).state.unsettled == ()


def test_an_option_that_is_given_when_the_run_goes_on_is_settled_by_that(
    corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Machine(monkeypatch, step=0.1, character=1e-5)
    stopped = train(corpus, stop=after(2))
    decay = stopped.config.optim.weight_decay
    assert "weight_decay" in last(stopped).state.unsettled
    going_on = train(corpus, resume=True, weight_decay=decay, stop=after(20))
    assert going_on.config.optim.weight_decay == decay
    assert going_on.config.optim.warmup != stopped.config.optim.warmup


@pytest.mark.parametrize("length", [{"steps": 5}, {"epochs": 1}])
def test_a_run_of_given_length_is_settled_from_the_start(
    corpus: Path, monkeypatch: pytest.MonkeyPatch, length: dict[str, Any]
) -> None:
    Machine(monkeypatch, step=0.02, character=1e-5)
    events: list[Event] = []
    trained = train(corpus, **length, on_event=events.append)
    assert not any(isinstance(event, Settled) for event in events)
    assert last(trained).state.unsettled == ()
    assert trained.result.planned_steps == trained.result.steps


@PROFILE
@given(
    st.sets(st.sampled_from(sorted(FOLLOWING))),
    st.floats(1, 1e7),
    st.floats(0.01, 1e4),
    st.integers(0, 100),
)
def test_settling_changes_no_other_option(names: set[str], updates: float, passes: float, step: int) -> None:
    config, reasons = choose({"time": "20s"}, Facts(10**5, 10**5, 80, "cpu", 1e10))
    settled = settle(config, names, Course(updates, passes), step=step, characters=10**5)
    before, now = config.flat(), settled.flat()
    assert {name: value for name, value in now.items() if name not in names} == {
        name: value for name, value in before.items() if name not in names
    }
    assert set(unsettled(config, reasons)) == FOLLOWING
    assert settle(settled, names, Course(updates, passes), step=step, characters=10**5) == settled
    if step >= config.optim.warmup:
        assert settled.optim.warmup == config.optim.warmup


def test_dropout_is_not_settled_for_networks_that_have_none_whatever_their_length() -> None:
    config, reasons = choose({"time": "20s", "cell": "rnn"}, Facts(10**5, 10**5, 80, "cpu", 1e10))
    assert set(unsettled(config, reasons)) == FOLLOWING.difference(DROPOUTS)


def test_names_that_no_charlm_writes_settle_nothing() -> None:
    config = Config()
    assert settle(config, ("hidden", "seed", "no option"), Course(1, 1), step=0, characters=10**5) == config
