"""`python -m bench.defaults`: what the defaults reach in 30 seconds, 3 minutes and 10 minutes on each text in data/.

A row is one run of `charlm train TEXT --time T` with nothing else chosen, on all processors: run it on a quiet machine.
Rows are kept in bench/results/defaults.json. One that is there is measured again only with `--again`, so that the table
can be filled row by row: `python -m bench.defaults --text alice --time 30s`. Each run rewrites the table in results.md.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from bench.command import report
from bench.kept import read_rows, write_rows
from bench.machine import stamp
from bench.markdown import table
from bench.sections import replace_section
from bench.texts import DATA, TEXTS

RUNS: Final = Path("checkpoints", "results")
ROWS: Final = Path("bench", "results", "defaults.json")
TIMES: Final = {"30s": "30 s", "3m": "3 min", "10m": "10 min"}
WINDOW: Final = 256
_MARKS: Final = ("<!-- written by python -m bench.defaults -->", "<!-- end -->")


class Row(NamedTuple):
    """One run. Losses are in nats per character on the validation text; None is what was not recorded."""

    text: str
    time: str
    loss: float
    cold_loss: float | None  # over windows of 256 that each begin from zero state
    steps: int | None
    model: str | None
    precision: str | None
    machine: str
    date: str
    commit: str

    @property
    def bits(self) -> float:
        """Per character."""
        return self.loss / math.log(2)


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.defaults", description="Measure what the defaults reach.")
    parser.add_argument(
        "--text", action="append", choices=TEXTS, help="name of a text in data/ (default: all that are there)"
    )
    parser.add_argument("--time", action="append", choices=TIMES, help="training time (default: all)")
    parser.add_argument("--again", action="store_true", help="measure rows that are there, too")
    asked = parser.parse_args()
    for text in asked.text or [name for name in TEXTS if (DATA / f"{name}.txt").exists()]:
        for time in asked.time or TIMES:
            if asked.again or (text, time) not in rows():
                keep(measured(text, time, again=asked.again))
                replace_section(_MARKS, section())


def rows() -> dict[tuple[str, str], Row]:
    """What has been measured, by text and time."""
    return {(row.text, row.time): row for row in read_rows(ROWS, Row)}


def keep(row: Row) -> None:
    known = {**rows(), (row.text, row.time): row}
    order = sorted(known.values(), key=lambda one: (list(TEXTS).index(one.text), list(TIMES).index(one.time)))
    write_rows(ROWS, order)
    print(f"{row.loss:.4f} {row.text} {row.time}", flush=True)


def measured(text: str, time: str, *, again: bool) -> Row:
    """Train with the defaults, then score in cold windows; a run that has ended reports its figures again."""
    name = f"{text}-{time}"
    options = ["--name", name, "--checkpoints", str(RUNS), "--json", "-q", "--force" if again else "--resume"]
    run = report("train", str(DATA / f"{text}.txt"), "--time", time, *options)
    info = report("info", str(RUNS / name), "--json", "-q")
    scores = report("eval", str(RUNS / name), "--cold-windows", str(WINDOW), "--json", "-q")["results"]
    cold = next(row for row in scores if "cold windows" in row["model"])
    model = info["config"]
    return Row(
        text=text,
        time=time,
        loss=round(run["val_loss"], 4),
        cold_loss=round(cold["loss"], 4),
        steps=run["steps"],
        model=f"{model['cell']} {model['layers']} x {model['hidden']}",
        precision=info["environment"]["precision"],
        **stamp(),
    )


# the section of docs/results.md


def section() -> Iterator[str]:
    """The tables, between the two marks."""
    known = rows()
    yield _MARKS[0]
    yield from table(["bits per character", *TIMES.values()], [[name, *_cells(known, name)] for name in TEXTS])
    yield ""
    head = ["text", "time", "nats", "cold windows of 256", "model", "updates", "precision", "machine", "date", "commit"]
    yield from table(head, [_details(row) for row in known.values()])
    yield _MARKS[1]


def _cells(known: dict[tuple[str, str], Row], text: str) -> list[str]:
    found = [known.get((text, time)) for time in TIMES]
    return ["-" if row is None else f"{row.bits:.3f}" for row in found]


def _details(row: Row) -> Sequence[str]:
    cold = "-" if row.cold_loss is None else f"{row.cold_loss:.4f}"
    steps = "-" if row.steps is None else f"{row.steps:,}"
    return [
        row.text,
        TIMES[row.time],
        f"{row.loss:.4f}",
        cold,
        row.model or "-",
        steps,
        row.precision or "-",
        row.machine,
        row.date,
        row.commit,
    ]


if __name__ == "__main__":
    main()
