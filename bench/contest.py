"""`python -m bench.contest`: all kinds of models on three texts, two minutes each, beside what lectures claim of them.

A text is one `charlm compare`, whose figures are kept in bench/results/contest.json; one that is there is measured
again only with `--again`. Two texts can be measured side by side, each on a processor of its own:
`taskset -c 0 python -m bench.contest --text alice`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from bench.command import report
from bench.machine import stamp
from bench.markdown import table
from bench.sections import replace_section
from bench.texts import DATA

RUNS, KEPT = Path("checkpoints", "results"), Path("bench", "results", "contest.json")
TEXTS: Final = ("alice", "der-prozess", "tiny-shakespeare")
MODELS: Final = "lstm,gru,rnn,mingru,leaky,window,dilated,echo,jordan,transformer,ngram"
TIME: Final = "2m"
MARKS: Final = ("<!-- written by python -m bench.contest -->", "<!-- end of contest -->")
_INTRODUCTION: Final = f"""
## All kinds of models

`charlm compare TEXT --models {MODELS} --time {TIME}`, by `python -m bench.contest`: each network for two minutes with
the size, learning rate and regularisation that charlm chooses for it. Bits per character of the validation text, with
half of the 95 % interval after ±, which does not cover another seed.
"""
_CLAIMS: Final = """
What lectures say of these models, and what was found: bits per character that the first needs more than the second
(less than 0: it is better), or its speed of training as a multiple of the second's.
"""
Found = Mapping[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.contest", description="Compare all kinds of models.")
    parser.add_argument("--text", action="append", choices=TEXTS, help="name of a text in data/ (default: all)")
    parser.add_argument("--again", action="store_true", help="measure texts that are there, too")
    asked = parser.parse_args()
    for text in asked.text or TEXTS:
        if asked.again or text not in contests():
            keep(text, measured(text))
            replace_section(MARKS, section())


def contests() -> dict[str, Found]:
    """What has been measured, by text."""
    found: dict[str, Found] = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    return found


def keep(text: str, found: Found) -> None:
    KEPT.write_text(json.dumps({**contests(), text: found}, indent=1, sort_keys=True) + "\n")
    print(text, *(f"{one['name']} {one['bits_per_character']:.3f}" for one in found["models"]), flush=True)


def measured(text: str) -> Found:
    """Train them all; a comparison that was interrupted goes on."""
    options = ["--models", MODELS, "--time", TIME, "--checkpoints", str(RUNS), "--name", f"contest-{text}"]
    run = report("compare", str(DATA / f"{text}.txt"), *options, "--json", "-q")
    return {"models": run["models"], "where": ", ".join(stamp().values())}


# the section of docs/results.md


def section() -> Iterator[str]:
    """Tables, and what they say of the claims, between the two marks."""
    known = {text: contests()[text] for text in TEXTS if text in contests()}
    yield MARKS[0]
    yield _INTRODUCTION
    for text, found in known.items():
        columns = ["bits", "parameters", "steps", "training, char/s", "sampling, char/s", "memory, MB"]
        yield from table([text, *columns], map(_line, found["models"]))
        yield f"\nMeasured on: {found['where']}.\n"
    yield _CLAIMS.strip("\n")
    yield ""
    yield from table(["claim", "measure", *known], _claims({text: found["models"] for text, found in known.items()}))
    yield MARKS[1]


def _line(one: Found) -> Sequence[str]:
    half = (one["interval"][1] - one["interval"][0]) / 2 if one["interval"] else 0.0
    numbers = ("parameters", "steps", "training_characters_per_second", "sampling_characters_per_second")
    counts = ["-" if one[name] is None else f"{one[name]:,}" for name in numbers]
    memory = "-" if one["memory_bytes"] is None else f"{one['memory_bytes'] / 1e6:,.0f}"
    return [one["name"], f"{one['bits_per_character']:.3f} ± {half:.3f}", *counts, memory]


def _claims(known: Mapping[str, Sequence[Found]]) -> Iterator[Sequence[str]]:
    """Each claim, how it is measured, and that on each text."""
    for claim, first, second, measure in (
        ("LSTM predicts better than tanh units", "lstm", "rnn", "bits"),
        ("GRU predicts better than tanh units", "gru", "rnn", "bits"),
        ("GRU is as good as LSTM", "gru", "lstm", "bits"),
        ("and quicker to train", "gru", "lstm", "speed"),
        ("dilated convolutions are level with recurrence", "dilated", "lstm", "bits"),
        ("a transformer needs more time than an LSTM", "transformer", "lstm", "bits"),
        ("networks beat counting", "lstm", "ngram", "bits"),
    ):
        cells = [_compared(_named(models, first), _named(models, second), measure) for models in known.values()]
        yield [claim, f"{first} against {second}, {measure}", *cells]


def _named(models: Sequence[Found], name: str) -> Found | None:
    """The model of this name; of n-gram models, the one that is no network."""
    return next((one for one in models if one["name"] == name or (name == "ngram" and one["parameters"] is None)), None)


def _compared(first: Found | None, second: Found | None, measure: str) -> str:
    if first is None or second is None:
        return "-"
    if measure == "bits":
        return f"{first['bits_per_character'] - second['bits_per_character']:+.3f}"
    speeds = [one["training_characters_per_second"] for one in (first, second)]
    return f"{speeds[0] / speeds[1]:.2f} x"


if __name__ == "__main__":
    main()
