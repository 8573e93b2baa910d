"""Samples of training are kept: one row for each, none of a future that was undone, however a run is interrupted."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from test_divergence import damaged, told
from test_resume import OPTIONS, after, corpus, outcome, train
from victims import KILLED, Point, Victims

from charlm.storage.checkpoint import load_checkpoint
from charlm.storage.hub import publishable
from charlm.storage.runs import Run
from charlm.training import samples
from charlm.training.events import Event, Sampled

__all__ = ["corpus"]
SHORT: dict[str, Any] = {**OPTIONS, "steps": 24}


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sample after each step."""
    monkeypatch.setattr(samples, "EVERY", 0.0)


def kept(run: Run) -> list[tuple[int, str]]:
    return [(row.step, row.text) for row in run.read_samples()]


@pytest.mark.usefixtures("often")
def test_what_is_told_is_on_record_and_stopping_often_changes_nothing(corpus: Path) -> None:
    events: list[Event] = []
    whole = train(corpus, "whole", **SHORT, on_event=events.append)
    assert kept(whole.run) == [(event.step, event.text) for event in events if isinstance(event, Sampled)]
    assert [step for step, _ in kept(whole.run)] == list(range(1, 25))
    seconds = [row.seconds for row in whole.run.read_samples()]
    assert seconds == sorted(seconds)
    trained = train(corpus, "parts", **SHORT, stop=after(1))
    for steps in (7, 1, 9):
        with trained.run.samples.open("a") as file:  # a process that was killed after its last checkpoint leaves such
            file.write(json.dumps({"step": 30, "seconds": 1.0, "text": "undone"}) + '\n{"step": 31, "sec')
        trained = train(corpus, "parts", resume=True, stop=after(steps))
    trained = train(corpus, "parts", resume=True)
    assert kept(trained.run) == kept(whole.run)
    assert outcome(trained) == outcome(whole)


def test_a_run_learns_the_same_whether_it_writes_samples(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = train(corpus, "plain", **SHORT)
    assert not plain.run.samples.exists()
    monkeypatch.setattr(samples, "EVERY", 0.0)
    assert outcome(train(corpus, "told", **SHORT)) == outcome(plain)


@pytest.mark.usefixtures("often")
def test_what_a_rollback_undoes_is_gone(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    damaged(monkeypatch, "loss", math.nan, lambda number: number == 17)
    events: list[Event] = []
    done = train(corpus, "run", **SHORT, checkpoint_every="10", on_event=events.append)
    assert len(told(events)) == 1
    assert [step for step, _ in kept(done.run)] == list(range(1, 25))
    written = [(event.step, event.text) for event in events if isinstance(event, Sampled)]
    assert [step for step, _ in written] == [*range(1, 17), *range(11, 25)]
    assert kept(done.run) == [*written[:10], *written[16:]]


@pytest.mark.fault(5)
def test_a_killed_run_holds_each_sample_once_when_it_goes_on(corpus: Path) -> None:
    """Killed by SIGKILL before and after the row is written, and while the rows are cut."""
    command = ["train", corpus.name, "--checkpoints", ".", "-q", "--checkpoint-every", "5"]
    command += [word for name, value in SHORT.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    patches = {"charlm.training.samples.EVERY": 0.0}
    with Victims() as victims:
        assert victims.run(corpus.parent, [*command, "--name", "whole"], patches=patches) == 0
        whole, run = Run(corpus.parent / "whole"), Run(corpus.parent / "killed")
        assert len(kept(whole)) == 24
        again = ["train", "--resume", "--name", "killed", "--checkpoints", ".", "-q"]
        points = [Point("Run.append_sample", 8, 1), Point("Writer.add_sample", 9, 2), Point("Run.cut_rows", 1, 8)]
        words = [*command, "--name", "killed"]
        for point in points:
            assert victims.run(corpus.parent, words, kill_at=point, patches=patches) == KILLED
            words = again
        assert victims.run(corpus.parent, again, patches=patches) == 0
        assert kept(run) == kept(whole)
        assert load_checkpoint(run.last).state_sha256 == load_checkpoint(whole.last).state_sha256


@pytest.mark.usefixtures("often")
def test_a_new_run_of_the_name_begins_anew_and_what_is_pushed_has_none(corpus: Path) -> None:
    run = train(corpus, "run", **SHORT).run
    again = train(corpus, "run", **{**SHORT, "steps": 3}, force=True).run
    assert [step for step, _ in kept(again)] == [1, 2, 3]
    assert run.samples == again.samples
    checkpoint = load_checkpoint(again.last)
    assert checkpoint.bookkeeping.samples_length == again.samples.stat().st_size
    assert publishable(checkpoint).bookkeeping.samples_length == 0
