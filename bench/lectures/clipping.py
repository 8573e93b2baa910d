"""`python -m bench.lectures.clipping TEXT -o FILE`: tanh units and plain gradient descent, with clipping and without.

charlm's optimizers divide gradients by their size, so that clipping changes little. It was made for plain gradient
descent, w - lr g.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path
from statistics import mean, median
from typing import TYPE_CHECKING, Final, NamedTuple

import torch

from bench.lectures.asked import asked
from charlm.config import ModelConfig
from charlm.models.network import Network, initialise, named_weights
from charlm.report.console import console, table
from charlm.report.picture import COLORS, Size, legend_above, render
from charlm.report.words import bits, figure
from charlm.runtime.device import Runtime
from charlm.text.corpus import load_corpus
from charlm.text.lanes import Lanes
from charlm.text.position import Position
from charlm.text.tokenizer import CharTokenizer
from charlm.training.gradient import gradient
from charlm.training.optim import clip

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CONFIG: Final = ModelConfig(cell="rnn", layers=1, hidden=128, embedding=32)
BATCH, BPTT = 32, 32
RATE: Final = 1.0
STEPS: Final = 300
THRESHOLDS: Final = {"clipped at 1": 1.0, "not clipped": 0.0}
SIZE: Final = Size(7.2, 4.6)


class Descent(NamedTuple):
    """The loss of each step in bits per character, and the norm of its gradient before clipping."""

    losses: list[float]
    norms: list[float]


def descend(text: str, threshold: float, steps: int = STEPS) -> Descent:
    """Plain gradient descent from the same start on the same chunks; a threshold of 0 is none."""
    tokenizer = CharTokenizer.train(text)
    network = Network(CONFIG, tokenizer.size)
    initialise(network, seed=0)
    lanes = Lanes(tokenizer.encode(text).ids, start=tokenizer.start, batch=BATCH, bptt=BPTT, seed=0)
    weights, runtime, found = named_weights(network), Runtime(network.device, "fp32", 1, ""), Descent([], [])
    position, zero = Position(), network.init_state(BATCH)
    state = zero
    for _ in range(steps):
        chunk = lanes.read(position)
        loss, state = gradient(network, runtime, chunk, zero if chunk.begins.all() else state)
        position = chunk.next
        found.losses.append(bits(loss.item()))
        found.norms.append(float(clip(weights.values(), threshold, "norm")))
        with torch.no_grad():
            for weight in weights.values():
                assert weight.grad is not None
                weight.sub_(weight.grad, alpha=RATE)
    return found


def picture(descents: dict[str, Descent]) -> bytes:
    """Losses above, norms below, against steps."""

    def draw(figure: Figure) -> None:
        loss, norm = figure.subplots(2, 1, sharex=True)
        for color, (name, found) in zip(COLORS, descents.items(), strict=False):
            loss.plot(found.losses, color=color, label=name, linewidth=1)
            norm.plot(found.norms, color=color, linewidth=1)
        loss.set(title="Gradient descent with a learning rate of 1", ylabel="bits per character", ylim=(0, None))
        norm.set(xlabel="steps", ylabel="gradient norm", yscale="log")
        figure.align_ylabels([loss, norm])
        legend_above(loss)

    return render(draw, SIZE, "svg")


def main() -> None:
    given = asked(__doc__, text="a text file")
    torch.set_num_threads(1)  # steps this small are not faster with more
    text = load_corpus((given.text,), "0.1").train
    found = {name: descend(text, threshold) for name, threshold in THRESHOLDS.items()}
    Path(given.output).write_bytes(picture(found))
    columns = ["", "median norm", "largest norm", "steps with a norm above 1", "bits, mean of the last 50 steps"]
    table(console(sys.stdout), columns, [_row(name, one) for name, one in found.items()])


def _row(name: str, one: Descent) -> tuple[str, ...]:
    finite = [norm for norm in one.norms if math.isfinite(norm)]
    above = sum(not norm <= 1 for norm in one.norms)
    return name, figure(median(finite), 2), figure(max(finite), 1), f"{above}", figure(mean(one.losses[-50:]), 3)


if __name__ == "__main__":
    main()
