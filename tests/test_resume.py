"""A run that stops and goes on ends exactly like one that never stopped."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import charlm
from charlm.storage.checkpoint import load_checkpoint
from charlm.training.events import Event, Remark

TEXT = "".join(f"{n} and {n * n % 97} make {n + n * n % 97}.\n" for n in range(120))
OPTIONS: dict[str, Any] = {
    "hidden": 16,
    "batch": 3,
    "bptt": 24,
    "dropout": 0.2,
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
    timeless = [{k: v for k, v in row.items() if k not in ("seconds", "characters_per_second")} for row in rows]
    states = [load_checkpoint(path).state_sha256 for path in (trained.run.last, trained.run.best)]
    return states, timeless, trained.result["val_loss"]


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"cell": "gru", "optimizer": "adamw"},
        {"cell": "rnn", "optimizer": "rmsprop"},
        {"precision": "bf16"},
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
    assert train(corpus, "new", resume=True, **OPTIONS).result["steps"] == 60


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
    assert load_checkpoint(stopped.run.last).training["step"] == 0
    assert outcome(train(corpus, "run", resume=True)) == whole


def test_a_held_out_file_that_moved_is_found_where_val_says(corpus: Path) -> None:
    held, moved = corpus.with_name("held.txt"), corpus.with_name("moved.txt")
    held.write_text("1 and 2 make 3.\n")
    train(corpus, "run", **OPTIONS, val=str(held), stop=after(2))
    held.rename(moved)
    with pytest.raises(charlm.DataError, match=r"held\.txt"):
        train(corpus, "run", resume=True)
    assert train(corpus, "run", resume=True, val=str(moved)).reason == "done"


def test_rows_written_after_the_last_checkpoint_are_cut_back(corpus: Path) -> None:
    whole = train(corpus, "whole", **OPTIONS)
    stopped = train(corpus, "torn", **OPTIONS, stop=after(25))
    with stopped.run.metrics.open("a") as file:
        file.write('{"step": 30, "half a ro')
    assert outcome(train(corpus, "torn", resume=True))[1] == outcome(whole)[1]


@pytest.mark.parametrize(
    ("option", "value"), [("hidden", 32), ("batch", 4), ("cell", "gru"), ("steps", 99), ("seed", 1)]
)
def test_an_option_that_contradicts_the_run_is_refused_by_name(corpus: Path, option: str, value: object) -> None:
    train(corpus, "run", **OPTIONS, stop=after(2))
    with pytest.raises(charlm.ConfigError, match=f"--{option} {value} contradicts"):
        train(corpus, "run", resume=True, **{option: value})


def test_the_same_options_given_again_agree(corpus: Path) -> None:
    train(corpus, "run", **OPTIONS, stop=after(2))
    assert train(corpus, "run", resume=True, **OPTIONS).reason == "done"


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


def test_a_corrupt_last_falls_back_to_previous_and_says_so(corpus: Path) -> None:
    whole = outcome(train(corpus, "whole", **OPTIONS))
    stopped = train(corpus, "run", **OPTIONS, checkpoint_every="10", stop=after(25))
    damaged = bytearray(stopped.run.last.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    stopped.run.last.write_bytes(damaged)
    events: list[Event] = []
    trained = train(corpus, "run", resume=True, on_event=events.append)
    assert any(isinstance(event, Remark) and "going on from" in event.text for event in events)
    assert outcome(trained) == whole


def test_another_number_of_threads_is_said_to_cost_exactness(corpus: Path) -> None:
    train(corpus, "run", **OPTIONS, stop=after(2))
    events: list[Event] = []
    train(corpus, "run", resume=True, on_event=events.append, threads=2)
    assert any(isinstance(event, Remark) and "not bit-exact" in event.text for event in events)


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


def test_a_time_budgets_recorded_plan_is_followed_after_a_stop(corpus: Path) -> None:
    stopped = train(corpus, "timed", **_timed(), stop=after(60))
    before = load_checkpoint(stopped.run.last)
    trained = train(corpus, "timed", resume=True)
    plan = load_checkpoint(trained.run.last).training["plan"]
    assert plan[: len(before.training["plan"]) - 1] == before.training["plan"][:-1]
    assert trained.result["seconds"] < 2.2


def _timed() -> dict[str, Any]:
    options = {name: value for name, value in OPTIONS.items() if name != "steps"}
    return {**options, "time": "2s", "patience": 0}
