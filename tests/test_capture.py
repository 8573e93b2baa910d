"""How work is recorded: torch's own parts are played here, and note in which order they are used."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from charlm.runtime.capture import Captured

CPU = torch.device("cpu")


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    noted: list[str] = []

    class Stream:
        def wait_stream(self, _: Stream) -> None:
            noted.append("wait")

    class Graph:
        def register_generator_state(self, _: torch.Generator) -> None:
            noted.append("register")

        def replay(self) -> None:
            noted.append("replay")

    @contextmanager
    def note(what: object) -> Iterator[None]:
        noted.append(f"in {type(what).__name__}")
        yield
        noted.append("out")

    for name, fake in {
        "CUDAGraph": Graph,
        "graph": note,
        "Stream": Stream,
        "current_stream": Stream,
        "stream": note,
        "device": note,
    }.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    return noted


def test_work_runs_aside_before_it_is_recorded_and_then_only_as_a_whole(events: list[str]) -> None:
    noise = torch.Generator().manual_seed(3)
    before = noise.get_state()

    def work() -> int:
        events.append("work")
        torch.rand(5, generator=noise)
        return len(events)

    captured = Captured(work, CPU, noise)
    aside = ["in device", "wait", "in Stream", "work", "work", "work", "out", "wait"]
    assert events == [*aside, "register", "in Graph", "work", "out", "out"]
    assert torch.equal(noise.get_state(), before), "the first replay would draw other masks than a step without it"
    recorded = captured.results
    assert captured.replay() == recorded
    assert events[-1] == "replay"


def test_what_cannot_be_recorded_leaves_the_generator_as_it_was(events: list[str]) -> None:
    noise = torch.Generator().manual_seed(3)
    before = noise.get_state()

    def work() -> None:
        torch.rand(5, generator=noise)
        if "in Graph" in events:
            raise RuntimeError("operation not permitted when stream is capturing")

    with pytest.raises(RuntimeError, match="not permitted"):
        Captured(work, CPU, noise)
    assert torch.equal(noise.get_state(), before)
