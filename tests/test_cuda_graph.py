"""How work is captured: stand-ins for torch's parts note in which order they are used."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from charlm.runtime.cuda_graph import Captured

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
    def note(what: object, **_: object) -> Iterator[None]:
        noted.append(f"in {type(what).__name__}")
        try:
            yield
        finally:
            if not isinstance(what, Graph) or "work" in noted:  # torch's recording forgets its end where work fails
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


def test_work_runs_on_a_side_stream_before_its_capture_and_then_as_a_graph(events: list[str]) -> None:
    def work() -> int:
        events.append("work")
        return len(events)

    captured = Captured(work, CPU, torch.Generator())
    warm = ["work", "work", "work"]
    assert events == [
        "in device",
        "wait",
        "in Stream",
        *warm,
        "register",
        "in Graph",
        "work",
        "out",
        "out",
        "wait",
        "out",
    ]
    recorded = captured.results
    assert captured.replay() == recorded
    assert events[-1] == "replay"


def test_a_failed_capture_leaves_no_stream_behind(events: list[str]) -> None:
    def work() -> None:
        if "in Graph" in events:
            raise RuntimeError("operation not permitted when stream is capturing")

    with pytest.raises(RuntimeError, match="not permitted"):
        Captured(work, CPU)
    assert events == ["in device", "wait", "in Stream", "in Graph", "out", "out"], (
        "the recording's own end may be missing"
    )
