"""What saving costs: the same steps with a checkpoint after each of them and with none."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import charlm
from bench.rows import Row, bounded
from charlm.training.events import Event, Stepped

PAIRS = 3
STEPS = 12
EVERY = 60.0  # seconds between checkpoints, by default


def rows() -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder, "text.txt")
        text.write_text("".join(f"{n} and {n * n % 97} make {n + n * n % 97}.\n" for n in range(40_000)))
        shares = [_share(text) for _ in range(PAIRS + 1)][1:]
    return [bounded("saving 2x512 each 60 s, share of training time", "%", shares, 2.0)]


def _share(text: Path) -> float:
    """Per cent of a minute that a checkpoint takes from training."""
    return 100 * (_seconds(text, "1") - _seconds(text, "100000")) / STEPS / EVERY


def _seconds(text: Path, every: str) -> float:
    """From the second step, as the first also sets up, to the last."""
    times: list[float] = []

    def note(event: Event) -> None:
        if isinstance(event, Stepped):
            times.append(time.perf_counter())

    charlm.train(
        text,
        checkpoints=text.parent,
        name="run",
        force=True,
        hidden=512,
        layers=2,
        embedding=64,
        batch=64,
        bptt=128,
        steps=STEPS + 2,
        val="0",
        checkpoint_every=every,
        on_event=note,
    )
    return times[-1] - times[1]  # a save follows the event of its step
