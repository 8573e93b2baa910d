"""`python -m bench.lectures.sparsity TEXT -o FILE`: how many n-grams of held-out text training never had, by order.

And what smoothing makes of it: the bits per character of n-gram models of the same orders. The last tenth of the text
is held out.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from bench.lectures.asked import asked
from charlm.evaluation.score import add_escape
from charlm.models.ngram import AddDelta, Counts, KneserNey, NGram, WittenBell
from charlm.report.console import console, table
from charlm.report.picture import BLUE, COLORS, Size, render
from charlm.report.words import bits, figure
from charlm.text.corpus import load_corpus
from charlm.text.tokenizer import CharTokenizer, Ids

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HIGHEST: Final = 8
METHODS: Final[tuple[type[NGram], ...]] = (AddDelta, WittenBell, KneserNey)
SIZE: Final = Size(7.2, 3.6)


class Order(NamedTuple):
    """Of an order n: n-grams that are possible, different ones in training, the share of the held-out ones that are
    not among these, and the bits per character of each method."""

    order: int
    possible: float
    different: int
    unseen: float
    bits: tuple[float, ...]


def orders(train: str, held_out: str, highest: int = HIGHEST) -> Iterator[Order]:
    """The figures of each order up to the highest."""
    tokenizer = CharTokenizer.train(train)
    ids = tokenizer.encode(held_out).ids
    counts = Counts(tokenizer.encode(train).ids, tokenizer.size, highest)
    nats = zip(*(method(counts, highest).nats_by_order(ids) for method in METHODS), strict=True)
    for order, (share, by_method) in enumerate(zip(unseen(counts, ids), nats, strict=True), 1):
        found = tuple(bits(float(add_escape(each, ids, tokenizer).mean())) for each in by_method)
        yield Order(order, float(tokenizer.size) ** order, len(counts.keys(order)), share, found)


def unseen(counts: Counts, ids: Ids) -> Iterator[float]:
    """For each order the share of a text's n-grams that do not occur in the training text."""
    numbers = np.where(ids < counts.size, ids, -1).astype(np.int64)
    for order in range(1, counts.order + 1):
        if order > 1:
            numbers = counts.find(order, numbers[:-1], ids[order - 1 :])
        yield float((numbers < 0).mean())


def picture(found: list[Order]) -> bytes:
    """Unseen n-grams to the left, bits per character to the right, both against the order."""

    def draw(figure: Figure) -> None:
        left, right = figure.subplots(1, 2)
        at = [one.order for one in found]
        left.bar(at, [100 * one.unseen for one in found], color=BLUE)
        left.set(title="Held-out n-grams never seen", xlabel="order n", ylabel="% of all", ylim=(0, 100), xticks=at)
        for number, method in enumerate(METHODS):
            look: dict[str, Any] = {"color": COLORS[number], "marker": "osD"[number], "markersize": 4}
            right.plot(at, [one.bits[number] for one in found], label=method.method, **look)
        right.set(title="What smoothing makes of them", xlabel="order n", ylabel="bits per character", xticks=at)
        right.set_ylim(bottom=0)
        right.legend(loc="upper right")

    return render(draw, SIZE, "svg")


def main() -> None:
    given = asked(__doc__, text="a text file")
    corpus = load_corpus((given.text,), "0.1")
    found = list(orders(corpus.train, corpus.val))
    Path(given.output).write_bytes(picture(found))
    columns = ["order", "possible", "different in training", "never seen", *(method.method for method in METHODS)]
    table(console(sys.stdout), columns, [_row(one) for one in found])


def _row(one: Order) -> tuple[str, ...]:
    possible = f"{one.possible:,.0f}" if one.possible < 1e6 else f"{one.possible:.1e}"
    counts = f"{one.order}", possible, f"{one.different:,}", f"{100 * one.unseen:.2f} %"
    return *counts, *(figure(each, 3) for each in one.bits)


if __name__ == "__main__":
    main()
