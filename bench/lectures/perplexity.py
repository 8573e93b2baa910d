"""`python -m bench.lectures.perplexity RUN -o FILE`: one quantity on four scales, for models from knowing nothing on.

A uniform guess, n-gram models of the run's training text (Kneser-Ney), and the run, on its validation text.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

import charlm
from bench.lectures.asked import asked
from charlm.evaluation.baselines import ngram_nats
from charlm.evaluation.score import Score, uniform_loss
from charlm.models.ngram import Counts, KneserNey
from charlm.report.console import console, table
from charlm.report.picture import BLUE, Size, render
from charlm.storage.provenance import own_corpus
from charlm.text.tokenizer import tokenize

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ORDERS: Final = (1, 2, 3, 5)
SIZE: Final = Size(7.2, 3.0)


class Named(NamedTuple):
    """A model's score, and what it is called."""

    name: str
    score: Score


def scores(run: str) -> Iterator[Named]:
    """From the model that knows nothing to the run."""
    model = charlm.load(run)
    tokenizer, training = model.tokenizer, str(own_corpus(model.checkpoint, model.path, ()).train)
    tokens = tokenize(tokenizer, model.validation_text())
    own = model.score(model.validation_text())
    yield Named(
        f"uniform guess among {tokenizer.size}", Score.of(uniform_loss(tokenizer, own) * own.characters, tokens)
    )
    counts = Counts(tokenizer.encode(training).ids, tokenizer.size, max(ORDERS))
    for order, (_, nats) in zip(ORDERS, ngram_nats(counts, tokenizer, tokens.ids, {KneserNey: ORDERS}), strict=True):
        yield Named(f"{order}-gram", Score.of(float(np.sum(nats)), tokens))
    yield Named(Path(run).name, own)


def picture(found: list[Named]) -> bytes:
    """A bar for each model; bits below, perplexity above."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        names, values = [one.name for one in found], [one.score.bits_per_character for one in found]
        bars = axes.barh(names, values, color=BLUE, height=0.6)
        axes.bar_label(bars, [f" {2**value:.2f}" for value in values])
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.set(xlabel="bits per character; beside each bar its perplexity per character, 2 to that power")
        axes.set_xlim(0, 1.1 * max(values))
        above = axes.secondary_xaxis("top", functions=(_nats, _bits))
        above.set_xlabel("nats per character (cross-entropy)")
        above.spines["top"].set_visible(True)

    return render(draw, SIZE, "svg")


def _nats(values: Any) -> Any:
    return values * math.log(2)


def _bits(values: Any) -> Any:
    return values / math.log(2)


def main() -> None:
    given = asked(__doc__, run="a run's folder or name")
    found = list(scores(given.run))
    Path(given.output).write_bytes(picture(found))
    columns = ["", "nats per character", "bits per character", "perplexity per character", "perplexity per word"]
    table(console(sys.stdout), columns, [_row(one) for one in found])
    score = found[0].score
    each = score.characters / score.words
    print(f"{score.characters:,} characters, {score.words:,} words: {each:.2f} characters a word")


def _row(one: Named) -> tuple[str, ...]:
    score = one.score
    word = score.word_perplexity
    shown = f"{word:,.0f}" if word < 1e6 else f"{word:.1e}"
    return one.name, f"{score.loss:.3f}", f"{score.bits_per_character:.3f}", f"{score.perplexity:.2f}", shown


if __name__ == "__main__":
    main()
