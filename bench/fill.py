"""`python -m bench.fill`: gaps in held-out text, filled by one model and by two, as a section of docs/results.md.

A forward and a backward model of Der Prozess, of equal size and length of training, fill gaps at random places of the
validation text, whose truth is known. The first half of that text chooses the backward model's weight; the table is of
the second half. What was found is kept in bench/results/fill.json, and finished runs are not trained again.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

import charlm
from bench.command import report
from bench.machine import machine
from bench.markdown import table
from bench.sections import replace_section
from bench.texts import DATA
from charlm.config import FillConfig
from charlm.evaluation.pairs import Accuracy
from charlm.storage.provenance import own_corpus

RUNS, KEPT = Path("checkpoints", "results"), Path("bench", "results", "fill.json")
TEXT: Final = "der-prozess"
OPTIONS: Final = (
    *("--layers", "1", "--hidden", "256", "--embedding", "32", "--steps", "1500", "--batch", "16", "--bptt", "64"),
    *("--seed", "1", "--threads", "1", "--precision", "fp32"),
)
GAPS: Final = {1: 500, 5: 200, 20: 100}  # how many of each length, in the second half; a quarter in the first
CONTEXT: Final = 200  # characters on either side that the models read
_RARE: Final = 20.0  # bits of a character that the training text lacks
WEIGHTS: Final = tuple(number / 10 for number in range(11))
LEFT, AHEAD, RIGHT, PRODUCT, BOTH = METHODS = (
    "forward, text before the gap alone",
    "forward, with look-ahead",
    "backward, with look-back",
    "product: forward x backward / unigram",
    "both (`charlm fill`)",
)
MARKS: Final = ("<!-- written by python -m bench.fill -->", "<!-- end of fill -->")
_INTRODUCTION: Final = f"""
## Filling gaps

What stood in gaps of 1, 5 and 20 characters of the validation text of Der Prozess, at random places, read with
{CONTEXT} characters on either side. Candidates are those that the forward model proposes (`--candidates 200`; for one
character all), the same in every row. *Exact* says how often the first of them is the truth, which for 5 and 20
characters is not always among them: it is where it was *proposed*, and no row can have more. *Bits* are the mean of
$-\\log_2 P(\\mathrm{{truth}})$ among the candidates and the truth. 95 % intervals: Wilson's for exact, and for bits
1.96 standard errors; the last table has differences in the same gaps. Half of the validation text, with a quarter as
many gaps, chose the weight of the backward model; the figures are of the other half.
"""


class Guess(NamedTuple):
    """What a method makes of a gap: whether its first candidate is the truth, and the bits of the truth."""

    exact: bool
    bits: float


class Judged(NamedTuple):
    """A gap's candidates [K]: which is the truth, and their bits by each of the parts that methods are made of."""

    truth: int
    proposed: NDArray[np.bool_]
    left: NDArray[np.float64]  # forward, the gap alone
    ahead: NDArray[np.float64]  # forward, with what is beyond the gap
    right: NDArray[np.float64]  # backward, the gap alone
    back: NDArray[np.float64]  # backward, with what is beyond
    unigram: NDArray[np.float64]

    def bits(self, method: str, weight: float) -> NDArray[np.float64]:
        """The bits of all candidates by a method."""
        return {
            LEFT: self.left,
            AHEAD: self.ahead,
            RIGHT: self.back,
            PRODUCT: self.left + self.right - self.unigram,
            BOTH: (1 - weight) * self.ahead + weight * self.back,
        }[method]

    def guess(self, method: str, weight: float) -> Guess:
        bits = self.bits(method, weight)
        first = int(np.argmin(np.where(self.proposed, bits, np.inf)))
        return Guess(
            first == self.truth, float(bits[self.truth] - bits.min() + np.log2(np.exp2(bits.min() - bits).sum()))
        )


def places(text: str, length: int, count: int, seed: int) -> list[int]:
    """Where gaps of this length begin, at random; raises ValueError where the text has no room for one."""
    room = len(text) - length - 2 * CONTEXT
    if room < 1:
        raise ValueError(f"{len(text):,} characters have no room for a gap of {length} and {2 * CONTEXT} around it")
    found: list[int] = np.random.default_rng([seed, length]).integers(CONTEXT, CONTEXT + room, count).tolist()
    return found


def judged(
    forward: charlm.LanguageModel, backward: charlm.LanguageModel, text: str, gaps: Mapping[int, int], seed: int
) -> dict[int, list[Judged]]:
    """So many gaps of each length."""
    counts = Counter(str(own_corpus(forward.checkpoint, forward.path).train))
    unigram = {character: -math.log2(count / counts.total()) for character, count in counts.items()}
    return {
        length: [_judged(forward, backward, text, at, length, unigram) for at in places(text, length, count, seed)]
        for length, count in gaps.items()
    }


def _judged(
    forward: charlm.LanguageModel,
    backward: charlm.LanguageModel,
    text: str,
    at: int,
    length: int,
    unigram: Mapping[str, float],
) -> Judged:
    before, truth, after = text[at - CONTEXT : at], text[at : at + length], text[at + length : at + length + CONTEXT]
    found = forward.fillings(before, after, backward, FillConfig(length=length, threads=1), also=[truth])
    ours, theirs = [one.forward for one in found], [one.backward for one in found if one.backward]
    return Judged(
        truth=[one.text for one in found].index(truth),
        proposed=np.array([one.proposed for one in found]),
        left=np.array([one.gap for one in ours]),
        ahead=np.array([one.total for one in ours]),
        right=np.array([one.gap for one in theirs]),
        back=np.array([one.total for one in theirs]),
        unigram=np.array([sum(unigram.get(character, _RARE) for character in one.text) for one in found]),
    )


def chosen(gaps: Mapping[int, Sequence[Judged]]) -> float:
    """The weight with the fewest bits, over gaps of all lengths."""
    every = [gap for some in gaps.values() for gap in some]
    return min(WEIGHTS, key=lambda weight: sum(gap.guess(BOTH, weight).bits for gap in every))


def figures(gaps: Sequence[Judged], weight: float) -> dict[str, Any]:
    """What each method makes of gaps of one length, and by how much `charlm fill` is better than the forward model."""
    guesses = {method: [gap.guess(method, weight) for gap in gaps] for method in METHODS}
    return {
        "gaps": len(gaps),
        "proposed": sum(bool(gap.proposed[gap.truth]) for gap in gaps),
        "methods": {method: _means(found) for method, found in guesses.items()},
        "better": {method: _difference(guesses[BOTH], guesses[method]) for method in (LEFT, AHEAD)},
    }


def _means(guesses: Sequence[Guess]) -> dict[str, float]:
    exact = Accuracy(len(guesses), sum(guess.exact for guess in guesses), 0)
    low, high = exact.interval
    bits = np.array([guess.bits for guess in guesses])
    return {"exact": exact.correct, "low": low, "high": high, "bits": float(bits.mean()), "error": _error(bits)}


def _difference(ours: Sequence[Guess], theirs: Sequence[Guess]) -> dict[str, float]:
    pairs = list(zip(ours, theirs, strict=True))
    bits = np.array([other.bits - own.bits for own, other in pairs])
    won, lost = (sum(one.exact > other.exact for one, other in some) for some in (pairs, [p[::-1] for p in pairs]))
    return {"bits": float(bits.mean()), "error": _error(bits), "won": won, "lost": lost}


def _error(values: NDArray[np.float64]) -> float:
    """Half of the 95 % interval of a mean."""
    return float(1.96 * values.std(ddof=1) / math.sqrt(len(values)))


def main() -> None:
    for direction in ("forward", "backward"):
        report("train", *_options(direction), "--checkpoints", str(RUNS), "--json", "-q", "--resume")
    forward, backward = (charlm.load(RUNS / f"{TEXT}-{direction}") for direction in ("forward", "backward"))
    text = forward.validation_text()
    half = len(text) // 2
    choice = judged(forward, backward, text[:half], {length: count // 4 for length, count in GAPS.items()}, seed=1)
    weight = chosen(choice)
    test = judged(forward, backward, text[half:], GAPS, seed=2)
    found = {
        "weight": weight,
        "bits_by_weight": {
            str(one): {
                str(length): _means([gap.guess(BOTH, one) for gap in gaps])["bits"] for length, gaps in choice.items()
            }
            for one in WEIGHTS
        },
        "lengths": {str(length): figures(gaps, weight) for length, gaps in test.items()},
        "date": machine()["date"][:10],
        "commit": machine()["commit"],
    }
    KEPT.write_text(json.dumps(found, indent=1) + "\n")
    replace_section(MARKS, section())


def _options(direction: str) -> Sequence[str]:
    """What is trained, as on the command line."""
    name = f"{TEXT}-{direction}"
    return [str(DATA / f"{TEXT}.txt"), "--name", name, "--direction", direction, *OPTIONS]


def section() -> Iterator[str]:
    """The section between its marks; without tables where nothing has been measured."""
    yield MARKS[0]
    if found := json.loads(KEPT.read_text()) if KEPT.exists() else {}:
        yield _INTRODUCTION
        lengths = found["lengths"]
        columns = [f"{what}, {length}" for length in lengths for what in ("exact", "bits")]
        yield from table(["", *columns], [_row(method, lengths) for method in METHODS])
        proposed = (f"{row['proposed']} of {row['gaps']} ({length})" for length, row in lengths.items())
        yield f"\nProposed: {', '.join(proposed)}. The weight of the backward model was {found['weight']:g}.\n"
        yield from table(
            ["`charlm fill` against", *(f"{what}, {n}" for n in lengths for what in ("won and lost", "fewer bits"))],
            [_against(method, lengths) for method in (LEFT, AHEAD)],
        )
        yield "\n```sh"
        yield from (" ".join(["charlm train", *_options(direction)]) for direction in ("forward", "backward"))
        yield "python -m bench.fill"
        yield "```"
    yield MARKS[1]


def _row(method: str, lengths: Mapping[str, Any]) -> Sequence[str]:
    cells = [method]
    for row in lengths.values():
        one = row["methods"][method]
        cells += [f"{one['exact']} ({one['low']:.3f} to {one['high']:.3f})", f"{one['bits']:.2f} ± {one['error']:.2f}"]
    return cells


def _against(method: str, lengths: Mapping[str, Any]) -> Sequence[str]:
    cells = [method]
    for row in lengths.values():
        one = row["better"][method]
        cells += [f"{one['won']} and {one['lost']}", f"{one['bits']:.2f} ± {one['error']:.2f}"]
    return cells


if __name__ == "__main__":
    main()
