"""A run that stops and goes on ends exactly like one that never stopped."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matrix import Tries
from oracles import needs_bf16_lstm

import charlm
from charlm.evaluation.score import Score
from charlm.storage.checkpoint import load_checkpoint
from charlm.storage.records import TrainState
from charlm.training.clock import Clock
from charlm.training.events import Event, Remark, Resumed, Saved
from charlm.training.plan import Planner
from charlm.training.validator import Validator

TEXT = "".join(f"{n} and {n * n % 97} make {n + n * n % 97}.\n" for n in range(120))
OPTIONS: dict[str, Any] = {
    "hidden": 16,
    "batch": 3,
    "bptt": 24,
    "dropout": 0.2,
    "shuffle": 96,
    "drop_state": 0.2,
    "steps": 60,
    "threads": 1,
    "precision": "fp32",
}


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "sums.txt"
    path.write_text(TEXT)
    return path


def train(corpus: Path, name: str, **options: Any) -> charlm.Trained:
    return charlm.train(corpus, checkpoints=corpus.parent, name=name, **options)


def after(steps: int) -> Callable[[], str | None]:
    """Stops a run after so many steps."""
    asked = iter(range(10**9))
    return lambda: "stop" if next(asked) == steps else None


def outcome(trained: charlm.Trained) -> tuple[Any, ...]:
    """What must be the same: both states, and the metrics but for times."""
    rows = trained.run.read_metrics()
    timeless = [replace(row, seconds=0.0, characters_per_second=0) for row in rows]
    last, best = load_checkpoint(trained.run.last), load_checkpoint(trained.run.best)
    history = [(row.step, row.val_loss) for row in last.history]
    return last.state_sha256, best.state_sha256, timeless, history, trained.result.val_loss


@pytest.mark.fault(20)
@pytest.mark.parametrize(
    "more",
    [
        {},
        {"cell": "gru", "optimizer": "adamw"},
        {"cell": "rnn", "optimizer": "rmsprop"},
        {"precision": "bf16", "cell": "gru"},
        pytest.param({"precision": "bf16"}, marks=needs_bf16_lstm),
        {"average": 0.3},
        {"tokenizer": "sentencepiece", "vocab_size": 280},
    ],
    ids=lambda more: "-".join(map(str, more.values())) or "lstm",
)
def test_stopping_often_changes_nothing(corpus: Path, more: dict[str, Any]) -> None:
    whole = outcome(train(corpus, "whole", **{**OPTIONS, **more}))
    trained = train(corpus, "parts", **{**OPTIONS, **more}, stop=after(1))
    for steps in (7, 1, 13, 20, 5):  # over ends of epochs: an epoch here has some 45 steps
        assert trained.reason == "stop"
        trained = train(corpus, "parts", resume=True, stop=after(steps))
    trained = train(corpus, "parts", resume=True)
    assert trained.reason == "done"
    assert outcome(trained) == whole


@pytest.fixture
def verses(tmp_path: Path) -> Path:
    """A folder of so many short files that they are held out whole."""
    folder = tmp_path / "verses"
    folder.mkdir()
    for number, line in enumerate(TEXT.splitlines(keepends=True)):
        (folder / f"{number:03}.txt").write_text(line)
    return folder


@pytest.mark.fault(20)
def test_a_run_over_whole_files_with_a_test_text_resumes_exactly(verses: Path) -> None:
    options = {**OPTIONS, "val": "0.2", "test": "0.2"}
    whole = train(verses, "whole", **options)
    stopped = train(verses, "parts", **options, stop=after(7))
    assert stopped.result.test_loss is None
    trained = train(verses, "parts", resume=True)
    assert outcome(trained) == outcome(whole)
    assert trained.result.test_loss == whole.result.test_loss is not None
    with pytest.raises(charlm.ConfigError, match=r"--test 0\.1 contradicts"):
        train(verses, "parts", resume=True, test="0.1")


def test_a_test_text_is_scored_once_and_plays_no_part_in_training(
    corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, scored = corpus.with_name("held.txt"), list[str]()
    held.write_text("No sum, but Words.\n")
    without = train(corpus, "without", **OPTIONS)
    score_text = Validator.score_text

    def scoring(validator: Validator, text: str, stop: Callable[[], str | None]) -> Score | None:
        scored.append(text)
        return score_text(validator, text, stop)

    monkeypatch.setattr(Validator, "score_text", scoring)
    trained = train(corpus, "tested", **OPTIONS, test=str(held))
    train(corpus, "tested", resume=True)
    assert outcome(trained) == outcome(without)
    assert scored.count(held.read_text()) == 1
    assert without.result.test_loss is None
    model = charlm.load(trained.checkpoint)
    assert model.tokenizer.state() == charlm.load(without.checkpoint).tokenizer.state()
    assert trained.result.test_loss == pytest.approx(model.score(model.test_text()).loss, abs=1e-6)
    assert model.test_text() == held.read_text()


def test_a_run_that_is_stopped_in_its_last_score_has_its_test_figure_when_resumed(corpus: Path) -> None:
    calls: list[None] = []
    whole = train(corpus, "whole", **OPTIONS, test="0.1", stop=lambda: calls.append(None))
    stopped = train(corpus, "run", **OPTIONS, test="0.1", stop=after(len(calls) - 1))
    assert (stopped.reason, stopped.result.test_loss) == ("stop", None)
    assert load_checkpoint(stopped.run.last).result is None
    trained = train(corpus, "run", resume=True)
    assert trained.result.test_loss == whole.result.test_loss
    assert outcome(trained) == outcome(whole)


def test_a_test_file_that_moved_is_found_where_test_says(corpus: Path) -> None:
    held, moved = corpus.with_name("held.txt"), corpus.with_name("moved.txt")
    held.write_text("1 and 2 make 3.\n")
    train(corpus, "run", **OPTIONS, test=str(held), stop=after(2))
    held.rename(moved)
    with pytest.raises(charlm.DataError, match=r"held\.txt"):
        train(corpus, "run", resume=True)
    assert train(corpus, "run", resume=True, test=str(moved)).result.test_loss is not None


def test_resuming_a_finished_run_changes_nothing(corpus: Path) -> None:
    trained = train(corpus, "run", **OPTIONS)
    before = trained.run.last.read_bytes()
    assert train(corpus, "run", resume=True).result == trained.result
    assert trained.run.last.read_bytes() == before
    other = corpus.with_name("other.txt")
    other.write_text(TEXT + "!")
    with pytest.raises(charlm.DataError, match="is not the run's text"):
        charlm.train(other, checkpoints=corpus.parent, name="run", resume=True)


def test_resume_without_a_checkpoint_starts(corpus: Path) -> None:
    assert train(corpus, "new", resume=True, **OPTIONS).result.steps == 60


@pytest.mark.fault(11)
def test_a_run_that_was_killed_before_its_first_checkpoint_starts_anew(corpus: Path) -> None:
    whole = outcome(train(corpus, "whole", **OPTIONS))
    (corpus.parent / "early").mkdir()
    (corpus.parent / "early/metrics.jsonl").write_text('{"step": 1}\n')
    (corpus.parent / "early/.last.safetensors.99.tmp").write_text("half a checkpoint")
    assert outcome(train(corpus, "early", resume=True, **OPTIONS)) == whole
    assert not list((corpus.parent / "early").glob(".*.tmp"))


def test_there_is_something_to_go_on_from_before_the_first_step(corpus: Path) -> None:
    whole = outcome(train(corpus, "whole", **OPTIONS))
    stopped = train(corpus, "run", **OPTIONS, stop=after(0))
    assert load_checkpoint(stopped.run.last).state.step == 0
    assert outcome(train(corpus, "run", resume=True)) == whole


def test_a_validation_file_that_moved_is_found_where_val_says(corpus: Path) -> None:
    held, moved = corpus.with_name("held.txt"), corpus.with_name("moved.txt")
    held.write_text("1 and 2 make 3.\n")
    train(corpus, "run", **OPTIONS, val=str(held), stop=after(2))
    held.rename(moved)
    with pytest.raises(charlm.DataError, match=r"held\.txt"):
        train(corpus, "run", resume=True)
    assert train(corpus, "run", resume=True, val=str(moved)).reason == "done"


@pytest.mark.fault(5)
def test_rows_written_after_the_last_checkpoint_are_cut_back(corpus: Path) -> None:
    whole = train(corpus, "whole", **OPTIONS)
    stopped = train(corpus, "torn", **OPTIONS, stop=after(25))
    with stopped.run.metrics.open("a") as file:
        file.write('{"step": 30, "half a ro')
    assert outcome(train(corpus, "torn", resume=True)) == outcome(whole)


@pytest.mark.fault(22)
@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("hidden", 32),
        ("layers", 3),
        ("embedding", 0),
        ("cell", "gru"),
        ("batch", 4),
        ("bptt", 9),
        ("tokenizer", "byte"),
        ("val", "0.2"),
        ("test", "0.1"),
        ("steps", 99),
        ("lr", 0.5),
        ("optimizer", "adamw"),
        ("precision", "bf16"),
        ("seed", 1),
    ],
)
def test_an_option_that_contradicts_the_run_is_refused_by_name(corpus: Path, option: str, value: object) -> None:
    train(corpus, "run", **OPTIONS, stop=after(2))
    with pytest.raises(charlm.ConfigError, match=f"--{option} {value} contradicts"):
        train(corpus, "run", resume=True, **{option: value})


def test_the_same_options_given_again_agree(corpus: Path) -> None:
    train(corpus, "run", **OPTIONS, stop=after(2))
    assert train(corpus, "run", resume=True, **OPTIONS).reason == "done"


@pytest.mark.fault(21)
def test_a_changed_text_is_refused_by_name_unless_allowed(corpus: Path) -> None:
    train(corpus, "run", **OPTIONS, stop=after(2))
    corpus.write_text(TEXT.replace("make", "give"))
    with pytest.raises(charlm.DataError, match=r"sums\.txt is not the run's text"):
        train(corpus, "run", resume=True)
    with pytest.raises(charlm.DataError, match="327 characters that the run's vocabulary lacks"):
        train(corpus, "run", resume=True, allow_data_change=True)
    corpus.write_text(TEXT[: len(TEXT) // 3].replace("make", "name"))
    assert train(corpus, "run", resume=True, allow_data_change=True).reason == "done"
    assert train(corpus, "run", resume=True).reason == "done"  # it is the run's text now


@pytest.mark.fault(32)
def test_a_corrupt_last_falls_back_to_previous_and_says_so(corpus: Path) -> None:
    whole = outcome(train(corpus, "whole", **OPTIONS))
    stopped = train(corpus, "run", **OPTIONS, checkpoint_every="10", stop=after(25))
    damaged = bytearray(stopped.run.last.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    stopped.run.last.write_bytes(damaged)
    events: list[Event] = []
    trained = train(corpus, "run", resume=True, on_event=events.append)
    assert any(isinstance(event, Remark) and "resuming from" in event.text for event in events)
    assert outcome(trained) == whole


@pytest.mark.fault(23)
@pytest.mark.parametrize(
    ("name", "value"),
    [("threads", 2), ("torch", "2.0"), ("python", "3.9"), ("system", "Plan 9"), ("device_name", "another")],
)
def test_going_on_elsewhere_is_said_to_cost_exactness_and_marks_the_run(corpus: Path, name: str, value: Any) -> None:
    trained = train(corpus, "run", **OPTIONS, stop=after(2))
    checkpoint = load_checkpoint(trained.run.last)
    assert not checkpoint.bookkeeping.inexact
    trained.run.save_last(replace(checkpoint, environment=replace(checkpoint.environment, **{name: value})))
    events: list[Event] = []
    train(corpus, "run", resume=True, threads=1, on_event=events.append)
    assert any(isinstance(event, Remark) and "not bit-exact" in event.text for event in events)
    assert [event.exact for event in events if isinstance(event, Resumed)] == [False]
    marks = load_checkpoint(trained.run.last).bookkeeping.inexact
    now = getattr(checkpoint.environment, name)
    assert list(marks) == [f"{name} changed from {value} to {now} at step 2"]


@pytest.mark.fault(24)
def test_scoring_and_sampling_between_steps_do_not_touch_training(corpus: Path) -> None:
    whole = outcome(train(corpus, "whole", **OPTIONS))

    def look(event: Event) -> None:
        path = corpus.parent / "watched" / "best.safetensors"
        if path.exists() and type(event).__name__ == "Saved":
            model = charlm.load(path)
            model.sample(length=20)
            model.score("1 and 2 make 3.\n")

    trained = train(corpus, "watched", **OPTIONS, checkpoint_every="7", on_event=look)
    assert outcome(trained) == whole


@pytest.mark.fault(24)
def test_the_random_generators_of_torch_and_numpy_play_no_part(corpus: Path) -> None:
    whole = outcome(train(corpus, "whole", **OPTIONS))

    def scramble(event: Event) -> None:  # noqa: ARG001
        torch.manual_seed(time.perf_counter_ns())
        np.random.seed(time.perf_counter_ns() % 2**32)
        random.seed()

    assert outcome(train(corpus, "other", **OPTIONS, on_event=scramble)) == whole


@pytest.mark.fault(19)
def test_going_on_from_any_step_ends_the_same(corpus: Path, tries: Tries, many: Callable[[int, int], int]) -> None:
    """Over the end of an epoch, which has 45 chunks, and of lanes, of which one is a token longer."""
    whole = outcome(train(corpus, "whole", **OPTIONS))
    for step in range(0, 61, many(7, 1)):
        train(corpus, f"run-{step}", **OPTIONS, stop=after(step))
        assert outcome(train(corpus, f"run-{step}", resume=True)) == whole, step
        tries.survived()


@pytest.mark.fault(20)
def test_stopping_at_every_step_changes_nothing(corpus: Path, many: Callable[[int, int], int]) -> None:
    options = {**OPTIONS, "steps": many(12, 60)}
    whole = outcome(train(corpus, "whole", **options))
    trained = train(corpus, "run", **options, stop=after(1))
    while trained.reason == "stop":
        trained = train(corpus, "run", resume=True, stop=after(1))
    assert outcome(trained) == whole


@pytest.mark.fault(13)
def test_a_run_may_replace_the_one_that_it_starts_from(corpus: Path) -> None:
    first = train(corpus, "run", **OPTIONS)
    second = train(corpus, "other", **OPTIONS, init_from=first.checkpoint)
    assert outcome(train(corpus, "run", **OPTIONS, init_from="run", force=True)) == outcome(second)


def test_a_time_budget_ends_like_an_uninterrupted_run_of_the_same_plans(
    corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock makes the plans; whoever follows them step by step, without a clock, ends in the same state."""
    plans: dict[int, Any] = {}

    def note(event: Event) -> None:
        if isinstance(event, Saved):
            state = load_checkpoint(event.path).state
            plans[state.step] = state.plan, state.checks, state.validation_characters

    trained = train(corpus, "timed", **_timed(), stop=after(50), on_event=note)
    while trained.reason == "stop":
        trained = train(corpus, "timed", resume=True, stop=after(400), on_event=note)
    assert len({len(plan.knots) for plan, *_ in plans.values()}) > 1

    def follow(planner: Planner, state: TrainState, clock: Clock) -> bool:  # noqa: ARG001
        if state.step not in plans:
            return False
        state.plan, state.checks, state.validation_characters = plans[state.step]
        return True

    monkeypatch.setattr(Planner, "revise", follow)
    assert outcome(train(corpus, "followed", **_timed())) == outcome(trained)


def test_a_time_budgets_recorded_plan_is_followed_after_a_stop(corpus: Path) -> None:
    stopped = train(corpus, "timed", **_timed(), stop=after(60))
    before = load_checkpoint(stopped.run.last)
    trained = train(corpus, "timed", resume=True)
    plan = load_checkpoint(trained.run.last).state.plan
    assert plan.knots[: len(before.state.plan.knots) - 1] == before.state.plan.knots[:-1]
    assert trained.result.seconds < 2.2


def _timed() -> dict[str, Any]:
    options = {name: value for name, value in OPTIONS.items() if name != "steps"}
    chosen = {"lr": 0.02, "average": 0.0, "weight_decay": 0.05, "warmup": 5}  # or they would follow from the speed here
    return {**options, **chosen, "time": "2s", "patience": 0}
