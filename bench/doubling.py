"""`python -m bench.doubling`: what twice the time buys, with the defaults, from 15 seconds to 4 minutes.

Each figure is one run of `charlm train TEXT --time T` with nothing else chosen. They are kept in
bench/results/doubling.json; those that are there are measured again only with `--again`. Two texts can be measured side
by side, each on a processor of its own: `taskset -c 0 python -m bench.doubling --text alice`.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Final, NamedTuple

from bench.command import report
from bench.kept import read_rows, write_rows
from bench.machine import stamp
from bench.markdown import table
from bench.sections import replace_section
from bench.texts import DATA

RUNS, KEPT = Path("checkpoints", "results"), Path("bench", "results", "doubling.json")
TIMES: Final = {"15s": "15 s", "30s": "30 s", "1m": "1 min", "2m": "2 min", "4m": "4 min"}
RECORDS: Final = ("--records", "line")
TEXTS: Final = {  # and the options that say how they are read
    "alice": (),
    "names": RECORDS,
    "der-prozess": (),
    "tiny-shakespeare": (),
    "crime-and-punishment-ru": (),
    "war-and-peace": (),
}
MARKS: Final = ("<!-- written by python -m bench.doubling -->", "<!-- end of doubling -->")
_INTRODUCTION: Final = """
## Twice the time

`charlm train TEXT --time T`, no other options (names: `--records line`), in bits per character of the validation text;
by `python -m bench.doubling`. *Planned* compares the steps that each run made with those that it had planned when the
first of them had been timed.
"""


class Figure(NamedTuple):
    """What one run reached."""

    text: str
    time: str
    bits: float  # per character
    planned: int
    steps: int
    machine: str
    date: str
    commit: str

    @property
    def off(self) -> float:
        """By which share of the plan the run made more steps, or fewer."""
        return self.steps / self.planned - 1


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.doubling", description="Measure what twice the time buys.")
    parser.add_argument("--text", action="append", choices=TEXTS, help="name of a text in data/ (default: all)")
    parser.add_argument("--time", action="append", choices=TIMES, help="training time (default: all)")
    parser.add_argument("--again", action="store_true", help="measure figures that are there, too")
    asked = parser.parse_args()
    for text in asked.text or TEXTS:
        for time in asked.time or TIMES:
            if asked.again or (text, time) not in figures():
                keep(measured(text, time))
                replace_section(MARKS, section())


def figures() -> dict[tuple[str, str], Figure]:
    """What has been measured, by text and time."""
    return {(one.text, one.time): one for one in read_rows(KEPT, Figure)}


def keep(figure: Figure) -> None:
    known = {**figures(), (figure.text, figure.time): figure}
    order = sorted(known.values(), key=lambda one: (list(TEXTS).index(one.text), list(TIMES).index(one.time)))
    write_rows(KEPT, order)
    print(f"{figure.bits:.4f} {figure.text} {figure.time} {figure.off:+.1%}", flush=True)


def measured(text: str, time: str) -> Figure:
    """Train with the defaults."""
    options = ["--name", f"{text}-doubling-{time}", "--checkpoints", str(RUNS), "--json", "-q", "--force"]
    run = report("train", str(DATA / f"{text}.txt"), "--time", time, *TEXTS[text], *options)
    return Figure(
        text=text,
        time=time,
        bits=round(run["val_bits_per_character"], 4),
        planned=run["planned_steps"],
        steps=run["steps"],
        **stamp(),
    )


# the section of docs/results.md


def section() -> Iterator[str]:
    """The tables and what they show, between the two marks."""
    known = figures()
    texts = [text for text in TEXTS if any(one.text == text for one in known.values())]
    yield MARKS[0]
    yield _INTRODUCTION
    yield from table(
        ["bits per character", *TIMES.values(), "planned"],
        [[text, *_cells(known, text), _planned(known, text)] for text in texts],
    )
    yield f"\n{_verdict(known)}\n"
    where = sorted({f"{one.machine}, {one.date}, {one.commit}" for one in known.values()})
    yield f"Measured on: {'; '.join(where)}."
    yield MARKS[1]


def _cells(known: dict[tuple[str, str], Figure], text: str) -> list[str]:
    found = [known.get((text, time)) for time in TIMES]
    return ["-" if one is None else f"{one.bits:.3f}" for one in found]


def _planned(known: dict[tuple[str, str], Figure], text: str) -> str:
    off = [one.off for (name, _), one in known.items() if name == text]
    return f"{min(off):+.0%} to {max(off):+.0%}"


def _verdict(known: dict[tuple[str, str], Figure]) -> str:
    """The doubling that costs most, or gains least."""
    steps = [
        (known[text, after].bits - known[text, before].bits, text, before, after)
        for text in TEXTS
        for before, after in pairwise(TIMES)
        if {(text, before), (text, after)} <= known.keys()
    ]
    if not steps:
        return "Nothing was measured for twice the time."
    most, text, before, after = max(steps)
    where = f"{text} from {TIMES[before]} to {TIMES[after]}"
    if most <= 0:
        return f"Twice the time always gains; least, {-most:.4f} bits, for {where}."
    return f"Twice the time costs at most {most:.4f} bits: {where}."


if __name__ == "__main__":
    main()
