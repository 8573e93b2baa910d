"""Memory and time of corpora of 10 MB, 100 MB and 1 GB, made on the spot: what a user waits for, and what it takes.

Each run is a process of its own, `python -m bench.memory TEXT TOKENIZER`, for its peak memory. It trains three steps,
and validates nothing, so that what is measured is reading, encoding and the first steps. Corpora of records (lines of
about 100 characters) are measured by `python -m bench.memory TEXT TOKENIZER line`, with 100 KB of them held out: of the
largest, too, since the final figures take memory by the size of the validation text, up to a limit.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final, Literal

from bench.rows import Row, bounded

SIZES: Final = {"10 MB": 10**7, "100 MB": 10**8, "1 GB": 10**9}
STEPS: Final = 3
_MORE: Final = 150.0  # MB that a run on the largest text may take beyond one on the smallest
_PARAGRAPHS: Final = 5000
_HELD_OUT: Final = 10**5  # bytes of records
_LETTERS: Final = "etaoinshrdlcumwfgypbvkjxqzéäöüñ"


def rows() -> list[Row]:
    found: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        peaks = []
        for size, count in SIZES.items():
            text = write_text(folder / f"{size.replace(' ', '')}.txt", count)
            first, second = (_trained(text, "char", folder) for _ in range(2))
            peaks.append(first["megabytes"])
            largest = size == "1 GB"
            found += [
                Row(f"peak memory on {size}, first run", first["megabytes"], None, None, "", None, "MB"),
                Row(f"peak memory on {size}, second run", second["megabytes"], None, None, "", None, "MB"),
                _time(f"first step on {size}, first run", first["seconds"], 30.0 if largest else None),
                _time(f"first step on {size}, second run", second["seconds"], 3.0 if largest else None),
            ]
        found.append(bounded("peak memory, 1 GB beyond 10 MB", "MB", [peaks[-1] - peaks[0]], _MORE))
        found += _record_rows(folder)
        for tokenizer in ("char", "byte"):
            speed = _encoding_speed(folder / "100MB.txt", tokenizer, folder)
            found.append(Row(f"encoding, {tokenizer}", speed, None, None, ">= 100", speed >= 100, "MB/s"))
    return found


def _record_rows(folder: Path) -> list[Row]:
    """Memory and time of corpora of records, of which the largest has ten million."""
    found, peaks = list[Row](), list[float]()
    for size, count in SIZES.items():
        text = write_text(folder / f"{size.replace(' ', '')}-lines.txt", count, words=(8, 32), end="\n")
        run = _trained(text, "char", folder, "line")
        text.unlink()
        peaks.append(run["megabytes"])
        found += [
            Row(f"peak memory on {size} of records", run["megabytes"], None, None, "", None, "MB"),
            _time(f"first step on {size} of records", run["seconds"], None),
        ]
    return [*found, bounded("peak memory, 1 GB of records beyond 10 MB", "MB", [peaks[-1] - peaks[0]], _MORE)]


def _time(name: str, seconds: float, most: float | None) -> Row:
    return Row(name, seconds, None, None, "", None, "s") if most is None else bounded(name, "s", [seconds], most)


def write_text(path: Path, size: int, words: tuple[int, int] = (20, 160), end: str = "\n\n") -> Path:
    """A text of this many bytes or a few less: paragraphs of so many made-up words, in another order each time."""
    draw = random.Random(7)  # noqa: S311
    known = ["".join(draw.choices(_LETTERS, range(len(_LETTERS), 0, -1), k=draw.randint(1, 9))) for _ in range(8000)]
    paragraphs = []
    for _ in range(_PARAGRAPHS):
        text = " ".join(draw.choices(known, k=draw.randint(*words)))
        paragraphs.append(
            f"{text[:1].upper()}{text[1:]} … “{draw.choice(known)}”, {draw.randint(1, 2000)}.{end}".encode()
        )
    with path.open("wb") as file:
        while file.tell() < size:
            draw.shuffle(paragraphs)
            file.write(b"".join(paragraphs))
        file.truncate(size)
    data = _tail(path)
    cut = len(data) - len(data.decode("utf-8", "ignore").encode())  # of a character that was cut in two
    os.truncate(path, size - cut)
    an_hour_ago = time.time() - 3600
    os.utime(path, (an_hour_ago, an_hour_ago))
    return path


def _tail(path: Path) -> bytes:
    """The last bytes of a text, from the beginning of a line."""
    with path.open("rb") as file:
        file.seek(-4096, os.SEEK_END)
        return file.read().partition(b"\n")[2]


def _trained(text: Path, tokenizer: str, folder: Path, records: str = "") -> dict[str, Any]:
    """Peak memory and the time of the first step of a run in a process of its own."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(folder / "cache")}
    command = [sys.executable, "-m", "bench.memory", str(text), tokenizer, *filter(None, [records])]
    began = time.time()
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {"megabytes": found["megabytes"], "seconds": found["first_step"] - began}


def _encoding_speed(text: Path, tokenizer: str, folder: Path) -> float:
    """Megabytes a second from the file to the ids of its training part, on one core."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(folder / f"cache-{tokenizer}"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "bench.memory", str(text), tokenizer, "encode"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return text.stat().st_size / 1e6 / float(done.stdout)


def measure(text: str, tokenizer: str, records: Literal["none", "line"] = "none") -> dict[str, float]:
    """Train a few steps; when the first ended, and the peak memory."""
    import resource

    import charlm
    from charlm.runtime.processor import own_process
    from charlm.training.events import Event, Stepped

    ends: list[float] = []

    def note(event: Event) -> None:
        if isinstance(event, Stepped):
            ends.append(time.time())

    held_out = "0" if records == "none" else f"{_HELD_OUT / Path(text).stat().st_size:.6f}"
    own_process()  # as the command line does
    charlm.train(
        text, checkpoints=Path(text).parent / "runs", force=True, on_event=note, tokenizer=tokenizer, steps=STEPS,
        val=held_out, device="cpu", precision="fp32", records=records,
    )  # fmt: skip
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e3 if sys.platform == "linux" else 1e6)
    return {"first_step": ends[0], "megabytes": peak}


def encode(text: str, tokenizer: str) -> float:
    """Seconds of a processor from a file to the ids of its training part."""
    from charlm.config import DataConfig
    from charlm.text.large import open_corpus
    from charlm.text.tokenizer import tokenize, train_tokenizer

    began = time.process_time()
    corpus = open_corpus([text], "0.1")
    tokenize(train_tokenizer(DataConfig(tokenizer=tokenizer), corpus.train), corpus.train)
    return time.process_time() - began


if __name__ == "__main__":
    path, kind, *what = sys.argv[1:]
    if what == ["encode"]:
        print(encode(path, kind))
    else:
        print(json.dumps(measure(path, kind, "line" if what else "none")))
