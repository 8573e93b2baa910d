"""Networks that have not been trained, of about equal size: what a cell and its initial weights alone do to gradients.

They are initialised as training does (`charlm.models.network.initialise`), with orthogonal recurrent matrices, or with
Xavier's (Glorot and Bengio 2010): uniform in +-sqrt(6 / (H + H)), gate by gate.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final, NamedTuple

import numpy as np

from charlm.config import ModelConfig
from charlm.inspection.subject import RecurrentNetwork, open_network
from charlm.models.network import Network, export_weights, initialise
from charlm.models.sizing import of_size
from charlm.runtime.random import Purpose, integer, uniforms

ORTHOGONAL: Final = "orthogonal"
XAVIER: Final = "xavier"
_CHARACTERS: Final = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 .\n"


class Start(NamedTuple):
    """How a network begins: its configuration, and how its recurrent matrices are drawn."""

    config: ModelConfig
    recurrent: str = ORTHOGONAL

    @property
    def name(self) -> str:
        """
        >>> Start(ModelConfig(cell="lstm", hidden=96)).name, Start(ModelConfig(cell="rnn", hidden=8), XAVIER).name
        ('fresh lstm, 96 units, forget bias 1', 'fresh rnn, 8 units, xavier')
        """
        bias = f", forget bias {self.config.forget_bias:g}" * (self.config.cell == "lstm")
        drawn = f", {self.recurrent}" * (self.recurrent != ORTHOGONAL)
        return f"fresh {self.config.cell}, {self.config.hidden} units{bias}{drawn}"


def plain_starts(like: ModelConfig, parameters: int, vocabulary: int) -> list[Start]:
    """Tanh units, a GRU and an LSTM with about so many parameters; embedding and layers are those of `like`."""
    return [
        Start(of_size(replace(like, cell=cell, forget_bias=1.0), parameters, vocabulary))
        for cell in ("rnn", "gru", "lstm")
    ]


def varied_starts(like: ModelConfig, parameters: int, vocabulary: int) -> list[Start]:
    """Those, each with Xavier's recurrent matrices too, and the LSTM with forget biases of 0 and 2."""
    plain = plain_starts(like, parameters, vocabulary)
    lstm = plain[-1]
    biases = [Start(replace(lstm.config, forget_bias=bias)) for bias in (0.0, 2.0)]
    return [one for start in plain for one in (start, start._replace(recurrent=XAVIER))] + biases


def fresh_network(start: Start, vocabulary: int, seed: int) -> RecurrentNetwork:
    """The network as training would begin with it, in float64."""
    network = Network(start.config, vocabulary)
    initialise(network, seed)
    weights = export_weights(network)
    if start.recurrent == XAVIER:
        for number, name in enumerate(name for name in weights if name.endswith("weight_hh")):
            rows, hidden = weights[name].shape
            drawn = uniforms(integer(seed, Purpose.WEIGHTS, 1 + number), Purpose.WEIGHTS, 0, rows, hidden)
            weights[name] = ((2 * drawn - 1) * np.sqrt(6 / (2 * hidden))).astype(np.float32)
    return open_network(start.config, weights, np.float64)


def random_text(length: int, seed: int) -> str:
    """Characters that are independent of each other, each of 65 equally likely."""
    drawn = uniforms(seed, Purpose.SAMPLE, 0, length, 1)[:, 0] * len(_CHARACTERS)
    return "".join(_CHARACTERS[number] for number in drawn.astype(int).tolist())
