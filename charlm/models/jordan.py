"""A Jordan network (Jordan 1986, "Serial order: a parallel distributed processing approach"): its past is its outputs.

    s(t) = mu s(t-1) + x(t)    y(t) = tanh(W x(t) + V s(t) + b)

Jordan's network reads a decaying trace of what it has put out. In training the outputs are those that it should have
given (teacher forcing), which for a model of text are the true characters: those that it reads next. So s is a trace of
the inputs x, in training and scoring of the text's, in sampling of its own. With mu = 0 only the present one is left,
and one layer is a bigram model.

A second layer reads a trace of the first one's outputs. Each unit of a trace has a mu of its own, which is learned.

Legend: B lanes, E input width of a layer, H hidden units.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np

from charlm.models.architecture import Architecture, Floats, LayerStep, Parts, Place, Shapes
from charlm.models.cells import sigmoid
from charlm.options import Value


class Jordan(Architecture):
    """Each layer reads its inputs and their trace, which a lane carries."""

    defaults: Mapping[str, Value] = {"layers": 1}
    layer = "charlm.models.modules.jordan:Jordan"

    def shapes(self, place: Place) -> Shapes:
        hidden = place.config.hidden
        return {"weight_ih": (hidden, 2 * place.width), "bias": (hidden,), "decay": (place.width,)}

    def states(self, place: Place) -> Mapping[str, int]:
        return {"trace": place.width}

    def open(self, place: Place, weights: Mapping[str, Floats]) -> LayerStep:  # noqa: ARG002
        matrix, bias, mu = weights["weight_ih"].T, weights["bias"], sigmoid(weights["decay"])

        def step(x: Floats, before: Parts) -> tuple[Floats, Parts]:
            trace = mu * before[0] + x
            return np.tanh(np.concatenate([x, trace], axis=1) @ matrix + bias), (trace,)

        return step

    def activations(self, place: Place) -> int:
        """The trace, both inputs side by side, the output, and their gradients."""
        return 6 * place.width + 2 * place.config.hidden


JORDAN: Final = Jordan()
