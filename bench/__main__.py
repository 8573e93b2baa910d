"""`python -m bench`: run the benchmarks, print a table, write JSON."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

from bench import contention, cuda, decoder, distributed, memory, quality, records, save, scale, scoring, start, train
from bench.machine import machine
from bench.rows import Row

PARTS: dict[str, Callable[[], list[Row]]] = {
    "quality": quality.rows,
    "train": train.rows,
    "decoder": decoder.rows,
    "scoring": scoring.rows,
    "records": records.rows,
    "memory": memory.rows,
    "scale": scale.rows,
    "contention": contention.rows,
    "distributed": distributed.rows,
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
    where = machine()
    print(f"{where['processor']}, {where['threads']} threads, torch {where['torch']}, commit {where['commit']}")
    print(f"{'':56}{'charlm':>12}{'peer':>12}{'ratio':>8}  target")
    rows = [row for part in parts for row in _printed(PARTS[part]())]
    record = {**where, "rows": [row._asdict() for row in rows]}
    print(json.dumps(record))
    if arguments.save:
        name = f"{where['date'][:10]}-{where['commit']}{'-' + arguments.only if arguments.only else ''}.json"
        folder = Path(__file__).with_name("results")
        folder.mkdir(exist_ok=True)
        folder.joinpath(name).write_text(json.dumps(record, indent=1) + "\n")


def _printed(rows: list[Row]) -> list[Row]:
    for row in rows:
        print(row.line())
    return rows


main()
