"""`python -m bench.lectures.dropout -o FILE`: an LSTM that is to remember, with dropout in different places.

charlm's networks drop what goes into a layer and out of the last one, never what a layer tells itself from one step to
the next (Zaremba, Sutskever, Vinyals 2014, "Recurrent neural network regularization"). To see why, the same LSTM is
written here as its equations, step by step, with masks on h(t-1) and c(t-1) as well. It learns the task `recall` of
`charlm lags`: a letter, a number of other characters, and then it is asked for the letter. Its weights are those of a
network of charlm, which answers without dropout. Every mask is fresh at every step.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.lectures.asked import asked
from charlm.config import ModelConfig, OptimConfig
from charlm.inspection.reading import last_logits
from charlm.inspection.tasks import TASKS
from charlm.models.network import Dropout, Network, Parts, State, initialise, named_weights
from charlm.report.console import console, table
from charlm.report.picture import COLORS, Size, legend_above, render
from charlm.training.optim import WeightUpdate, clip

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PLACES: Final = {"non-recurrent only": "", "and h(t-1)": "h", "and h(t-1), c(t-1)": "hc"}
RATES: Final = (0.25, 0.5)
LAG: Final = 10
TASK: Final = TASKS["recall"]
CONFIG: Final = ModelConfig(cell="lstm", layers=1, hidden=64, embedding=0)
OPTIM: Final = OptimConfig(optimizer="adamw", lr=0.003, weight_decay=0.0)
STEPS, BATCH, ASKED = 300, 32, 1000
SIZE: Final = Size(7.2, 3.6)


class Textbook(nn.Module):
    """A network whose LSTM layers are computed as in a textbook, with dropout also where `recurrent` says: h, c.

    Legend: T tokens, B lanes, E input width, H hidden units, V vocabulary.
    """

    def __init__(self, network: Network, rate: float, recurrent: str) -> None:
        super().__init__()
        self.network = network
        self.drop = Dropout(rate, network.noise)
        self.drop_h = Dropout(rate * ("h" in recurrent), network.noise)
        self.drop_c = Dropout(rate * ("c" in recurrent), network.noise)

    def forward(self, ids_TB: Tensor, state: State) -> tuple[Tensor, State]:
        """Logits [T, B, V] after each token, and the state after the last."""
        x_TBE, after = self.network.embedding(ids_TB), []
        for layer, parts in zip(self.network.layers, state, strict=True):
            x_TBE, following = self._layer(dict(layer.named_parameters()), self.drop(x_TBE), parts)
            after.append(following)
        return self.network.head(self.drop(x_TBE)), tuple(after)

    def _layer(self, weights: dict[str, Tensor], x_TBE: Tensor, parts: Parts) -> tuple[Tensor, Parts]:
        (h, c), outputs = parts, []
        w_ih, w_hh, b_ih, b_hh = weights.values()
        for x in F.linear(x_TBE, w_ih, b_ih + b_hh):
            i, f, g, o = (x + F.linear(self.drop_h(h), w_hh)).chunk(4, dim=1)
            c = torch.sigmoid(f) * self.drop_c(c) + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
            outputs.append(h)
        return torch.stack(outputs), (h, c)


class Trial(NamedTuple):
    """What was dropped at which rate, and the share of right answers to new sequences."""

    places: str
    rate: float
    right: float


def trial(places: str, rate: float, steps: int = STEPS) -> Trial:
    """Train a network from the same start on the same sequences, and ask it without dropout."""
    network = Network(CONFIG, len(TASK.vocabulary))
    initialise(network, seed=0)
    network.reseed(0, 0)
    weights, generator = named_weights(network), np.random.default_rng(0)
    update, model = WeightUpdate(OPTIM, weights, CONFIG.hidden), Textbook(network, rate, PLACES[places])
    for number in range(steps):
        ids_TB, answers_B = map(torch.from_numpy, TASK.draw(generator, LAG, BATCH))
        logits_TBV, _ = model(ids_TB, network.init_state(BATCH))
        network.zero_grad(set_to_none=True)
        F.cross_entropy(logits_TBV[-1], answers_B).backward()  # type: ignore[no-untyped-call]
        clip(weights.values(), 1.0, "norm")
        update.step(1.0, number)
    ids_TB, answers_B = map(torch.from_numpy, TASK.draw(np.random.default_rng(1), LAG, ASKED))
    answered_B = last_logits(network.eval(), ids_TB, len(TASK.vocabulary)).argmax(1)
    return Trial(places, rate, float((answered_B == answers_B).float().mean()))


def trials() -> Iterator[Trial]:
    """One without dropout, then each place at each rate."""
    yield trial("non-recurrent only", 0.0)._replace(places="none")
    for places, rate in product(PLACES, RATES):
        yield trial(places, rate)


def picture(found: list[Trial]) -> bytes:
    """Right answers against the rate, a line for each place."""
    none, others = found[0], found[1:]

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for number, places in enumerate(PLACES):
            own = [none, *(one for one in others if one.places == places)]
            look: dict[str, Any] = {"color": COLORS[number], "marker": "osD"[number], "markersize": 11 - 3 * number}
            axes.plot([one.rate for one in own], [100 * one.right for one in own], label=places, **look)
        axes.axhline(100 * TASK.chance, color="0.4", linestyle="--", label="chance")
        axes.set(title=f"Recalling a letter after {LAG} characters, by what is dropped", ylim=(-3, 105))
        axes.set(xlabel="dropout rate", ylabel="right answers (%)", xticks=[0, *RATES])
        legend_above(axes)

    return render(draw, SIZE, "svg")


def main() -> None:
    output = asked(__doc__).output
    torch.set_num_threads(1)  # steps this small are not faster with more
    found = []
    for one in trials():
        found.append(one)
        print(f"{one.places}, {one.rate:g}: {100 * one.right:.1f} % right", file=sys.stderr, flush=True)
    Path(output).write_bytes(picture(found))
    rows = [(one.places, f"{one.rate:g}", f"{100 * one.right:.1f} %") for one in found]
    table(console(sys.stdout), ["dropped", "rate", "right answers"], rows)


if __name__ == "__main__":
    main()
