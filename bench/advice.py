"""`python -m bench.advice`: whether the command that ends a training run leads to a better model.

A row is one text in data/: the loss after 30 seconds with the defaults, the command that the run ends with, and the
loss after that command. It runs at the length that it names, on all processors: run it on a quiet machine.

Rows are kept in bench/results/advice.json. One that is there is measured again only with `--again`, so that the table
can be filled row by row: `python -m bench.advice --text alice`.
"""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import Final, NamedTuple

from bench.command import report
from bench.kept import read_rows, write_rows
from bench.machine import stamp
from bench.texts import DATA, TEXTS

RUNS: Final = Path("checkpoints", "advice")
ROWS: Final = Path("bench", "results", "advice.json")
TIME: Final = "30s"


class Row(NamedTuple):
    """One text. Losses are in nats per character on the validation text; None where nothing was suggested."""

    text: str
    before: float
    suggested: str | None
    after: float | None
    machine: str
    date: str
    commit: str


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.advice", description="Try what a training run suggests.")
    parser.add_argument(
        "--text", action="append", choices=TEXTS, help="name of a text in data/ (default: all that are there)"
    )
    parser.add_argument("--again", action="store_true", help="measure rows that are there, too")
    asked = parser.parse_args()
    for text in asked.text or [name for name in TEXTS if (DATA / f"{name}.txt").exists()]:
        if asked.again or text not in rows():
            keep(measured(text))


def rows() -> dict[str, Row]:
    """What has been measured, by text."""
    return {row.text: row for row in read_rows(ROWS, Row)}


def keep(row: Row) -> None:
    """Add a row to those that have been measured, and print it."""
    known = {**rows(), row.text: row}
    order = sorted(known.values(), key=lambda one: list(TEXTS).index(one.text))
    write_rows(ROWS, order)
    after = "-" if row.after is None else f"{row.after:.4f}"
    print(f"{row.text}: {row.before:.4f}, then {after} by: {row.suggested or 'nothing suggested'}", flush=True)


def measured(text: str) -> Row:
    """Train for a short time, then do as the run says."""
    options = ["--time", TIME, "--name", text, "--checkpoints", str(RUNS), "--force"]
    run = report("train", str(DATA / f"{text}.txt"), *options, "--json", "-q")
    suggested = run["next"]
    after = report(*shlex.split(suggested)[1:], "--json", "-q")["val_loss"] if suggested else None
    return Row(
        text=text,
        before=round(run["val_loss"], 4),
        suggested=suggested,
        after=None if after is None else round(after, 4),
        **stamp(),
    )


if __name__ == "__main__":
    main()
