"""When checkpoints are due, and what is said of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hostile import made

from charlm.storage.checkpoint import load_checkpoint
from charlm.storage.runs import Run
from charlm.training.events import Event, Remark, Saved
from charlm.training.writer import Writer


@pytest.fixture
def run(tmp_path: Path) -> Run:
    run = Run(tmp_path / "book")
    run.folder.mkdir()
    return run


def test_every_so_many_steps(run: Run) -> None:
    writer = Writer(run, "3", lambda _: None)
    assert [step for step in range(1, 10) if writer.is_due(step)] == [3, 6, 9]


def test_every_so_many_seconds_since_the_last_save(run: Run) -> None:
    now = [0.0]
    writer = Writer(run, "60s", lambda _: None, now=lambda: now[0])
    due = []
    for now[0] in (0.0, 59.0, 60.0, 61.0):
        due.append(writer.is_due(1))
    assert due == [False, False, True, True]
    writer.save(made())
    assert not writer.is_due(1)
    now[0] += 60
    assert writer.is_due(1)


def test_a_save_keeps_the_one_before_unless_told_otherwise(run: Run) -> None:
    events: list[Event] = []
    writer = Writer(run, "60s", events.append)
    for step, keep in ((1, True), (2, True), (3, False)):
        writer.save(made(training=replace(made().state, step=step)), keep=keep)
    assert [load_checkpoint(path).state.step for path in (run.last, run.previous)] == [3, 1]
    assert events == [Saved(step=step, path=run.last) for step in (1, 2, 3)]


def test_a_folder_that_cannot_be_flushed_is_said_once(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Run, "save_last", lambda *_, **__: False)
    events: list[Event] = []
    writer = Writer(run, "60s", events.append)
    for _ in range(3):
        writer.save(made())
    assert [event.text for event in events if isinstance(event, Remark)] == [
        f"{run.folder} cannot be flushed: a power failure may cost the newest checkpoint there"
    ]
