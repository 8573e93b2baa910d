"""`python -m bench`: run the benchmarks, print a table, write JSON."""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import subprocess
from collections.abc import Callable
from pathlib import Path

import torch

from bench import cuda, decoder, quality, save, scale, scoring, start, train
from bench.rows import Row

PARTS: dict[str, Callable[[], list[Row]]] = {
    "quality": quality.rows,
    "train": train.rows,
    "decoder": decoder.rows,
    "scoring": scoring.rows,
    "scale": scale.rows,
    "cuda": cuda.rows,
    "start": start.rows,
    "save": save.rows,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench")
    parser.add_argument("--only", choices=PARTS, help="one part")
    parser.add_argument("--save", action="store_true", help="keep the rows under bench/results/")
    arguments = parser.parse_args()
    parts = [arguments.only] if arguments.only else list(PARTS)
    machine = _machine()
    print(f"{machine['processor']}, {machine['threads']} threads, torch {machine['torch']}, commit {machine['commit']}")
    print(f"{'':56}{'charlm':>12}{'peer':>12}{'ratio':>8}  target")
    rows = [row for part in parts for row in _told(PARTS[part]())]
    record = {**machine, "rows": [row._asdict() for row in rows]}
    print(json.dumps(record))
    if arguments.save:
        name = f"{machine['date'][:10]}-{machine['commit']}{'-' + arguments.only if arguments.only else ''}.json"
        folder = Path(__file__).with_name("results")
        folder.mkdir(exist_ok=True)
        folder.joinpath(name).write_text(json.dumps(record, indent=1) + "\n")


def _told(rows: list[Row]) -> list[Row]:
    for row in rows:
        print(row.line())
    return rows


def _machine() -> dict[str, str]:
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    model = next(
        (line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")), platform.machine()
    )
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": commit.stdout.strip() or "unknown",
        "processor": model,
        "threads": str(torch.get_num_threads()),
        "torch": torch.__version__,
    }


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


main()
