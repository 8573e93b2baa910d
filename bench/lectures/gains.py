"""`python -m bench.lectures.gains -o FILE`: gradients of tanh units whose recurrent matrix is multiplied by a number.

The matrix is orthogonal, so all of its singular values are that number, the gain. Pascanu, Mikolov and Bengio (2013):
below 1 gradients vanish; above 1 they may explode, where units do not saturate. Nothing is trained; the text is random.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Final

from bench.lectures.asked import asked
from charlm.config import ModelConfig
from charlm.inspection.fresh import Start, fresh_network, random_text
from charlm.inspection.gradients import Reached, reached
from charlm.inspection.subject import reading
from charlm.report.console import console
from charlm.report.reaches import reaches_picture, reaches_report
from charlm.text.tokenizer import CharTokenizer

GAINS: Final = (0.5, 0.9, 1.0, 1.1, 1.25, 1.5)
DISTANCE, PLACES = 100, 32
CONFIG: Final = ModelConfig(cell="rnn", layers=1, hidden=256)


def found(gain: float, seed: int = 0) -> Reached:
    """How far the gradients of a network with this gain reach."""
    text = random_text(4000, seed)
    tokenizer = CharTokenizer.train(text)
    network = fresh_network(Start(CONFIG), tokenizer.size, seed)
    layers = tuple(layer._replace(w_hh=gain * layer.w_hh) for layer in network.layers)
    scaled, read = replace(network, layers=layers), reading(text, tokenizer)
    return reached(f"gain {gain:g}", scaled, read, distance=DISTANCE, places=PLACES)


def main() -> None:
    output = asked(__doc__).output
    networks = [found(gain) for gain in GAINS]
    Path(output).write_bytes(reaches_picture(networks, "svg"))
    reaches_report(console(sys.stdout), networks)


if __name__ == "__main__":
    main()
