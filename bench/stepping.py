"""The time at which each step of a charlm training ends, seen from outside: 2x512, batch 64, chunks of 128."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Final

import charlm
from charlm.runtime.processor import own_process
from charlm.training.events import Event, Stepped

BATCH: Final = 64
WINDOW: Final = 128
HIDDEN: Final = 512
EMBEDDING: Final = 64


def step_times(text: Path, steps: int, **options: Any) -> list[float]:
    """Seconds of a clock at the end of each step, before what is saved after it; without validation."""
    times: list[float] = []

    def note(event: Event) -> None:
        if isinstance(event, Stepped):
            times.append(time.perf_counter())

    own_process()  # as the command line does
    charlm.train(
        text,
        checkpoints=text.parent,
        force=True,
        on_event=note,
        val="0",
        steps=steps,
        layers=2,
        hidden=HIDDEN,
        embedding=EMBEDDING,
        **{"cell": "lstm", "batch": BATCH, "bptt": WINDOW, **options},
    )
    return times
