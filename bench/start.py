"""How soon commands answer, as whole processes: medians of ten, after one that warms the disk's cache."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import charlm
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
            bounded("charlm sample --length 1, 2x512", "s", _times("sample", checkpoint, "--length", "1"), 0.6),
        ]


def _times(*arguments: str, code: int = 0) -> list[float]:
    return [_time(arguments, code) for _ in range(RUNS + 1)][1:]


def _time(arguments: tuple[str, ...], code: int) -> float:
    began = time.perf_counter()
    done = subprocess.run([str(Path(sys.executable).with_name("charlm")), *arguments], capture_output=True, check=False)
    assert done.returncode == code, done.stderr
    return time.perf_counter() - began
