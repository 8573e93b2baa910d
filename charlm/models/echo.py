"""An echo state network (Jaeger 2001, "The echo state approach to analysing and training recurrent neural networks").

    h(t) = tanh(W_in x(t) + b + W h(t-1))

Only the output layer is trained. W_in, b, W, and the embedding where there is one, stay as they were drawn: the states
are a reservoir of echoes of the text, of which the output layer picks what it needs. No gradient is computed through
time.

W is a random orthogonal matrix times the radius r, so that every eigenvalue has the absolute value r, and every
singular value, too. Below 1 that is more than a spectral radius of r: whatever the text, two states come closer by at
least the factor r in each step, so the reservoir forgets where it began (the echo state property, proposition 3 there).

Legend: B lanes, E input width of a layer, H hidden units.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from charlm.config import ModelConfig
from charlm.models.architecture import Architecture, Floats, LayerStep, Place, Shapes
from charlm.models.cells import RNN
from charlm.options import Value


class Echo(Architecture):
    """Each layer is a reservoir of tanh units, with the weights of `charlm.models.cells.RNN`."""

    options = ("radius",)
    defaults: Mapping[str, Value] = {"layers": 1, "hidden": 1024, "embedding": 0, "optimizer": "adamw", "lr": 0.02}
    layer = "charlm.models.modules.echo:Echo"

    def is_frozen(self, name: str) -> bool:
        return not name.startswith("head.")

    def remarks(self, config: ModelConfig) -> Sequence[str]:
        if config.radius <= 1:
            return ()
        why = "what it read long ago, and where it began, may decide what it predicts"
        return (f"with --radius {config.radius:g} a reservoir may be chaotic: {why}; below 1 it forgets for certain",)

    def shapes(self, place: Place) -> Shapes:
        return RNN.shapes(place.width, place.config.hidden)

    def states(self, place: Place) -> Mapping[str, int]:
        return {"h": place.config.hidden}

    def open(self, place: Place, weights: Mapping[str, Floats]) -> LayerStep:  # noqa: ARG002
        return RNN.open(weights)

    def activations(self, place: Place) -> int:
        """A state: there is no backward pass through it."""
        return 2 * place.config.hidden


ECHO: Final = Echo()
