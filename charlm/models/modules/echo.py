"""The layer of `charlm.models.echo` in torch: a tanh layer that is drawn otherwise and never learns."""

from __future__ import annotations

from typing import Final

import torch
from torch import nn

from charlm.models.architecture import Place
from charlm.models.recurrence import RNN

INPUT: Final = 2.0  # input weights are uniform in +-INPUT, divided by about the length of what a layer reads
BIAS: Final = 0.1  # biases are uniform in +-BIAS: without them tanh is odd, and so would be every state


class Echo(RNN):
    """Inputs [T, B, E] and a state [1, B, H] to the states after each input [T, B, H] and the last state."""

    def __init__(self, place: Place) -> None:
        super().__init__(place.width, place.config.hidden)
        self._radius = place.config.radius
        self._scale = INPUT / _length(place)

    def initialise(self, generator: torch.Generator) -> None:
        w_ih, w_hh, b_ih, b_hh = self.parameters()
        w_ih.uniform_(-self._scale, self._scale, generator=generator)
        nn.init.orthogonal_(w_hh, self._radius, generator=generator)
        b_ih.uniform_(-BIAS, BIAS, generator=generator)
        b_hh.zero_()


def _length(place: Place) -> float:
    """About the Euclidean length of a layer's inputs: states, embeddings N(0, 0.1^2), or one-hot vectors."""
    if place.number:
        return float(place.width**0.5)
    return 0.1 * place.width**0.5 if place.config.embedding else 1.0
