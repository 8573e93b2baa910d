"""A decoder in NumPy for networks of any architecture.

Each layer takes its own step (`charlm.models.architecture.Architecture.open`). The decoder of recurrent layers,
`charlm.generation.decoder.NumpyDecoder`, does the same with a table in place of the first product.

With 8-bit weights each row of a matrix is rounded as there; what it is multiplied with is not.

Legend: B lanes, E input width, H hidden units, V vocabulary. Arithmetic is float32.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from charlm.config import ModelConfig
from charlm.generation.decoder import (
    Decoder,
    DecoderState,
    Ids,
    NumpyDecoder,
    SteppingDecoder,
    Weights,
    embedding_rows,
    quantize,
)
from charlm.generation.sampling import Floats
from charlm.models.architecture import adds_inputs, architecture_of, layer_weights, places
from charlm.models.cells import Recurrent


class LayeredDecoder(SteppingDecoder):
    """The decoder of layers that take their own steps; `precision` is fp32 or int8."""

    def __init__(self, config: ModelConfig, weights: Weights, precision: str = "fp32") -> None:
        self.config, self.vocabulary = config, len(weights["head.bias"])
        self._rows = embedding_rows(weights) if config.embedding else one_hot_rows(self.vocabulary)
        if precision == "int8":
            weights = {name: _rounded(name, weight) for name, weight in weights.items()}
        kind = architecture_of(config)
        self._layers = [
            kind.open(place, layer_weights(config, place.number, weights)) for place in places(config, self.vocabulary)
        ]
        self._head, self._bias = np.ascontiguousarray(weights["head.weight"].T), weights["head.bias"]

    def step(self, ids: Ids, state: DecoderState) -> tuple[Floats, DecoderState]:
        x: Floats = self._rows[np.asarray(ids)]
        following: DecoderState = []
        for number, (layer, before) in enumerate(zip(self._layers, state, strict=True)):
            y, after = layer(x, before)
            x = x + y if adds_inputs(self.config, number) else y
            following.append(after)
        return x @ self._head + self._bias, following


def one_hot_rows(vocabulary: int) -> Floats:
    """The one-hot vector of each id [V + 2, V]; the start's is zero, that of an unseen character 1/V everywhere."""
    rows = np.zeros((vocabulary + 2, vocabulary), dtype=np.float32)
    np.fill_diagonal(rows, 1)
    rows[-1] = 1 / vocabulary
    return rows


def _rounded(name: str, weight: NDArray[Any]) -> NDArray[Any]:
    """A matrix that 8 bits a weight can hold; vectors and the embedding stay as they are."""
    if weight.ndim != 2 or name == "embedding.weight":
        return weight
    rows, scale = quantize(weight)
    return rows * scale[:, None]


def open_numpy(config: ModelConfig, weights: Weights, precision: str, threads: int) -> Decoder:  # noqa: ARG001
    """The NumPy decoder, for `charlm.config.ENGINES`; NumPy chooses its own number of threads."""
    kind = NumpyDecoder if isinstance(architecture_of(config), Recurrent) else LayeredDecoder
    return kind(config, weights, precision)
