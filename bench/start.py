"""How soon commands answer, as whole processes: medians of ten, after one that warms the disk cache."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from pathlib import Path

import charlm
from bench.command import CHARLM
from bench.rows import Row, bounded

RUNS = 10


def rows() -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder, "text.txt")
        text.write_text("to be or not to be, " * 100)
        run = charlm.train(text, checkpoints=folder, steps=1, hidden=512, layers=2, embedding=64)
        checkpoint = str(run.checkpoint)
        return [
            bounded("charlm --help", "s", _times("--help"), 0.2),
            bounded("charlm --version", "s", _times("--version"), 0.2),
            bounded("charlm train --hidden 0 (a usage error)", "s", _times("train", "x", "--hidden", "0", code=2), 0.3),
            bounded("charlm info, 2x512", "s", _times("info", checkpoint), 0.5),
            bounded("charlm sample --length 200, 2x512, to the first character", "s", _firsts(checkpoint), 0.6),
            bounded(
                "charlm train, 1 MB, to its first step", "s", [_first_step(Path(folder)) for _ in range(4)][1:], 3.0
            ),
        ]


def _times(*arguments: str, code: int = 0) -> list[float]:
    return [_time(arguments, code) for _ in range(RUNS + 1)][1:]


def _firsts(checkpoint: str) -> list[float]:
    return [_first_character(checkpoint) for _ in range(RUNS + 1)][1:]


def _first_character(checkpoint: str) -> float:
    began = time.perf_counter()
    with subprocess.Popen(
        [CHARLM, "sample", checkpoint, "--length", "200", "--seed", "0"], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert os.read(process.stdout.fileno(), 1)
        took = time.perf_counter() - began
        process.stdout.read()
    return took


def _first_step(folder: Path) -> float:
    """Until the first row of a run's metrics; then the run is killed."""
    text = folder / "long.txt"
    text.write_text("".join(f"{n} and {n * n % 97} make {n + n * n % 97}.\n" for n in range(50_000)))
    metrics = folder / "long" / "metrics.jsonl"
    began = time.perf_counter()
    command = [CHARLM, "train", str(text), "--checkpoints", str(folder), "--force", "--time", "10m", "-q"]
    metrics.unlink(missing_ok=True)
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    while not (metrics.exists() and metrics.stat().st_size):
        assert process.poll() is None
        time.sleep(0.005)
    took = time.perf_counter() - began
    process.kill()
    process.wait()
    return took


def _time(arguments: tuple[str, ...], code: int) -> float:
    began = time.perf_counter()
    done = subprocess.run([CHARLM, *arguments], capture_output=True, check=False)
    assert done.returncode == code, done.stderr
    return time.perf_counter() - began
