"""A recurrent network's weights as the page's script reads them: a list of arrays, and their bytes.

    embedding       the embedding of each id [V + 2, E]; of one-hot input the first product of each id [V + 2, G H]
    N.input         W_i of layer N [G H, E or H]; of the first layer with an embedding, too
    N.recurrent     W_h of layer N [G H, H], without rows where a cell has none
    N.bias          what is added to W_i x [G H]
    N.inner         what the cell's step gets besides
    head, head.bias the output layer [V, H] and [V]

All are 32-bit floats, little-endian, row by row. With 8-bit weights the matrices that a hidden state is multiplied with
are signed bytes, with one scale for each row under NAME.scale, as in `charlm.generation.decoder`. Signed bytes come
last, so that each array begins at a multiple of its numbers' size. This module does not need torch.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from charlm.config import ModelConfig
from charlm.generation.decoder import Weights, embedding_rows, input_table, quantize, vectors
from charlm.models.architecture import layer_weights
from charlm.models.cells import cell_of

CELLS: Final = ("lstm", "gru", "rnn", "leaky", "mingru")  # those that model.js has


class PackedWeights(NamedTuple):
    """Name, type (f32 or i8) and shape of each array, in the order of their bytes."""

    tensors: list[dict[str, Any]]
    data: bytes


def pack_weights(config: ModelConfig, weights: Weights, precision: str = "fp32") -> PackedWeights:
    """A network of recurrent layers; `precision` is fp32 or int8."""
    arrays = _arrays(config, weights)
    if precision == "int8":
        arrays = {name: array for own in arrays.items() for name, array in _quantized(*own).items()}
    found = sorted(arrays.items(), key=lambda item: item[1].itemsize, reverse=True)
    tensors = [
        {"name": name, "type": "i8" if array.itemsize == 1 else "f32", "shape": array.shape} for name, array in found
    ]
    return PackedWeights(tensors, b"".join(array.astype(array.dtype.newbyteorder("<")).tobytes() for _, array in found))


def _arrays(config: ModelConfig, weights: Weights) -> dict[str, NDArray[Any]]:
    found = {"embedding": embedding_rows(weights) if config.embedding else input_table(config, weights)}
    for layer in range(config.layers):
        own = layer_weights(config, layer, weights)
        if layer or config.embedding:
            found[f"{layer}.input"] = own["weight_ih"]
        found[f"{layer}.recurrent"] = cell_of(config).recurrent(own)
        found[f"{layer}.bias"], found[f"{layer}.inner"] = vectors(config, weights, layer)
    found["head"], found["head.bias"] = weights["head.weight"], weights["head.bias"]
    return {name: np.asarray(array, dtype=np.float32) for name, array in found.items()}


def _quantized(name: str, array: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """With 8 bits a weight, if a hidden state is multiplied with it; the first layer reads embeddings."""
    if array.ndim != 2 or name in ("embedding", "0.input"):
        return {name: array}
    rows, scale = quantize(array)
    return {name: rows, f"{name}.scale": scale}
