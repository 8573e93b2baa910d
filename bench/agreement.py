"""`python -m bench.agreement`: subject and verb, judged by models of War and Peace, as a section of docs/results.md.

The pairs are the 50 that come with charlm (`charlm pairs RUN agreement`). Lengths are in steps, so that neither the
machine's speed nor other load changes a figure. Runs go to checkpoints/results/, and finished ones are not trained
again. What was found is kept in bench/results/agreement.json.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from bench.command import report
from bench.machine import machine
from bench.markdown import table
from bench.sections import replace_section
from bench.texts import DATA

RUNS, KEPT = Path("checkpoints", "results"), Path("bench", "results", "agreement.json")
TEXT: Final = "war-and-peace"
STEPS: Final = (1000, 6000)
OPTIONS: Final = ("--layers", "2", "--hidden", "256", "--threads", "1", "--precision", "fp32")
MARKS: Final = ("<!-- written by python -m bench.agreement -->", "<!-- end of agreement -->")
_INTRODUCTION: Final = """
## Agreement of subject and verb

How often a model gives the verb that agrees with its subject more probability than the other one (Linzen, Dupoux,
Goldberg 2016), in the 50 pairs of sentences that come with charlm, by the number of nouns of the other number between
the two. The models were trained on War and Peace; chance is 0.5; 95 % intervals. A model that makes each verb agree
with the noun nearest to it has all pairs without such nouns right, and all others wrong.
"""


def main() -> None:
    found = [_measured(steps) for steps in STEPS]
    KEPT.write_text(json.dumps(found, indent=1) + "\n")
    replace_section(MARKS, section())


def _options(steps: int) -> Sequence[str]:
    """What is trained, as on the command line."""
    return [str(DATA / f"{TEXT}.txt"), "--name", f"{TEXT}-{steps}", *OPTIONS, "--steps", str(steps)]


def _measured(steps: int) -> dict[str, Any]:
    name = f"{TEXT}-{steps}"
    run = report("train", *_options(steps), "--checkpoints", str(RUNS), "--json", "-q", "--resume")
    judged = report("pairs", str(RUNS / name), "agreement", "--json", "-q")
    here = machine()
    return {
        "steps": steps,
        "bits": round(run["val_bits_per_character"], 3),
        "groups": judged["by_group"],
        "total": {name: judged[name] for name in ("pairs", "correct", "accuracy", "low", "high")},
        "date": here["date"][:10],
        "commit": here["commit"],
    }


def section() -> Iterator[str]:
    """The section between its marks; without a table where nothing has been measured."""
    yield MARKS[0]
    if found := json.loads(KEPT.read_text()) if KEPT.exists() else []:
        yield _INTRODUCTION
        groups = [row["group"] for row in found[0]["groups"]]
        yield from table(["steps", "bits per character", *groups, "all"], map(_row, found))
        yield "\n```sh"
        for one in found:
            yield " ".join(["charlm train", *_options(one["steps"])])
            yield f"charlm pairs {TEXT}-{one['steps']} agreement"
        yield "```"
    yield MARKS[1]


def _row(one: dict[str, Any]) -> Sequence[str]:
    cells = [_cell(row) for row in [*one["groups"], one["total"]]]
    return [f"{one['steps']:,}", f"{one['bits']:.3f}", *cells]


def _cell(row: dict[str, Any]) -> str:
    return f"{row['correct']:g} of {row['pairs']}: {row['accuracy']:.2f} ({row['low']:.2f} to {row['high']:.2f})"


if __name__ == "__main__":
    main()
