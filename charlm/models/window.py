"""A fixed window (Bengio et al. 2003, "A neural probabilistic language model"): without torch.

    y(t) = tanh(W [x(t-n+1), ..., x(t)] + b)

where [..] joins the inputs of the last n characters, x their embeddings. Before the text they are zero. The direct
connections from embeddings to outputs, which the paper has as an option, are left out. A second layer reads the window
of the first one's outputs, and so looks n - 1 characters further back.

Legend: B lanes, E input width of a layer, H hidden units, n characters of the window (`context`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np

from charlm.config import ModelConfig
from charlm.models.architecture import Architecture, Floats, LayerStep, Parts, Place, Shapes
from charlm.options import Value


class Window(Architecture):
    """Each layer reads the last n inputs; a lane carries n - 1 of them, the oldest first."""

    options = ("context",)
    defaults: Mapping[str, Value] = {"layers": 1}
    layer = "charlm.models.modules.window:Window"

    def shapes(self, place: Place) -> Shapes:
        hidden = place.config.hidden
        return {"weight_ih": (hidden, place.config.context * place.width), "bias": (hidden,)}

    def states(self, place: Place) -> Mapping[str, int]:
        return {"past": (place.config.context - 1) * place.width}

    def open(self, place: Place, weights: Mapping[str, Floats]) -> LayerStep:
        matrix, bias = weights["weight_ih"].T, weights["bias"]

        def step(x: Floats, before: Parts) -> tuple[Floats, Parts]:
            window = np.concatenate([before[0], x], axis=1)
            return np.tanh(window @ matrix + bias), (window[:, place.width :],)

        return step

    def receptive_field(self, config: ModelConfig) -> int:
        return config.layers * (config.context - 1) + 1

    def activations(self, place: Place) -> int:
        """The window, the output and their gradients."""
        return 2 * (place.config.context * place.width + place.config.hidden)


WINDOW: Final = Window()
