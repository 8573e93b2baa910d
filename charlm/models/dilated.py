"""Dilated causal convolutions (van den Oord et al. 2016, "WaveNet: a generative model for raw audio"): without torch.

    z(t) = tanh(W_f [x(t-d), x(t)] + b_f) sigmoid(W_g [x(t-d), x(t)] + b_g)
    y(t) = x(t) + W_o z(t) + b_o

where [..] joins two inputs. The dilation d doubles from layer to layer, 1, 2, 4, ..., so that the receptive field grows
with the power of their number; after 512 it begins again. Before the text inputs are zero. Where the inputs of layer 0
have another width, a matrix without bias maps them to H first.

The paper adds up the z of all layers for the output layer by further matrices (skip connections). Here the output
layer reads y of the last layer, which is the sum of all W_o z already, and those matrices are left out.

Legend: B lanes, E input width of a layer, H hidden units, d dilation.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np

from charlm.config import ModelConfig
from charlm.models.architecture import (
    Architecture,
    Floats,
    LayerStep,
    Parts,
    Place,
    Shapes,
    entrance,
    entrance_shapes,
)
from charlm.models.cells import sigmoid
from charlm.options import Value

_CYCLE: Final = 10  # layers from one dilation of 1 to the next, as in the paper


def dilation(number: int) -> int:
    """How many characters before the present one a layer reads the other input.

    >>> [dilation(number) for number in (0, 1, 2, 9, 10)]
    [1, 2, 4, 512, 1]
    """
    return int(2 ** (number % _CYCLE))


class Dilated(Architecture):
    """Each layer reads the present input and the one d before it; a lane carries the last d, the oldest first."""

    defaults: Mapping[str, Value] = {"layers": 8}
    layer = "charlm.models.modules.dilated:Dilated"

    def shapes(self, place: Place) -> Shapes:
        hidden = place.config.hidden
        return {
            **entrance_shapes(place),
            "weight_gates": (2 * hidden, 2 * hidden),
            "bias_gates": (2 * hidden,),
            "weight_out": (hidden, hidden),
            "bias_out": (hidden,),
        }

    def states(self, place: Place) -> Mapping[str, int]:
        return {"past": dilation(place.number) * place.config.hidden}

    def open(self, place: Place, weights: Mapping[str, Floats]) -> LayerStep:
        enter, hidden = entrance(weights), place.config.hidden
        gates, gate_bias = weights["weight_gates"].T, weights["bias_gates"]
        out, out_bias = weights["weight_out"].T, weights["bias_out"]

        def step(x: Floats, before: Parts) -> tuple[Floats, Parts]:
            x = enter(x)
            read = np.concatenate([before[0], x], axis=1)
            product = np.concatenate([read[:, :hidden], x], axis=1) @ gates + gate_bias
            z = np.tanh(product[:, :hidden]) * sigmoid(product[:, hidden:])
            return x + z @ out + out_bias, (read[:, hidden:],)

        return step

    def receptive_field(self, config: ModelConfig) -> int:
        return 1 + sum(map(dilation, range(config.layers)))

    def activations(self, place: Place) -> int:
        """Both inputs, the gates, what they make of them, the output, and their gradients."""
        return 14 * place.config.hidden


DILATED: Final = Dilated()
