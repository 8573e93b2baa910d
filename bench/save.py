"""The cost of saving: the same steps with a checkpoint after each of them and with none."""

from __future__ import annotations

import tempfile
from pathlib import Path

from bench.rows import Row, bounded
from bench.stepping import step_times

PAIRS = 3
STEPS = 12
EVERY = 60.0  # seconds between checkpoints, by default


def rows() -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder, "text.txt")
        text.write_text("".join(f"{n} and {n * n % 97} make {n + n * n % 97}.\n" for n in range(40_000)))
        shares = [_share(text) for _ in range(PAIRS + 1)][1:]
    return [bounded("saving 2x512 every 60 s, share of training time", "%", shares, 2.0)]


def _share(text: Path) -> float:
    """Percentage of a minute that a checkpoint takes."""
    return 100 * (_seconds(text, "1") - _seconds(text, "100000")) / STEPS / EVERY


def _seconds(text: Path, every: str) -> float:
    """From the second step, as the first also sets up, to the last; a save follows the note of its step."""
    times = step_times(text, STEPS + 2, checkpoint_every=every)
    return times[-1] - times[1]
