"""Decoders: a trained model read one token at a time, without torch; the interface, and its implementation in NumPy.

Several sequences are read in parallel, each in its lane. Weights are prepared once: the first layer's input product
(embedding row) W_ih^T + b_ih (+ b_hh) becomes a table with one row for each id. The equations are those of
docs/mathematics.md in PyTorch's form; tests compare this decoder with the training network, and the others with this.

With 8-bit weights each row of a matrix is w = scale * q, with integers q from -127 to 127, and the hidden state that it
is multiplied with is rounded to multiples of 1/127.

Legend: T steps, B lanes, H hidden units, G gates, V vocabulary. Arithmetic is float32.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from charlm.config import ModelConfig
from charlm.generation.sampling import Floats, SamplingParameters, next_token
from charlm.models.architecture import adds_inputs, by_layer, layer_weights, state_shapes
from charlm.models.cells import cell_of

STEPS: Final = 127  # quantization levels of a hidden state between 0 and 1
Weights = Mapping[str, NDArray[Any]]
Ids = Sequence[int] | NDArray[np.integer[Any]]
DecoderState = list[tuple[Floats, ...]]  # for each layer its states, [B, H] each; a decoder may pad H


class Decoder(ABC):
    """A model that reads and generates token by token. Its methods do not modify the states that they are given."""

    config: ModelConfig
    vocabulary: int

    def init_state(self, lanes: int) -> DecoderState:
        """The zero state."""
        shapes = state_shapes(self.config, self.vocabulary, lanes)
        return by_layer([np.zeros(shape, dtype=np.float32) for shape in shapes.values()], self.config)

    def step(self, ids: Ids, state: DecoderState) -> tuple[Floats, DecoderState]:
        """Logits [B, V] after reading one id [B] in each lane, and the state after it."""
        return self.after(np.asarray(ids)[None, :], state)

    def after(self, ids_TB: NDArray[np.integer[Any]], state: DecoderState) -> tuple[Floats, DecoderState]:
        """Logits [B, V] after the last of T ids [T, B], and the state after it."""
        logits, state = self.read(ids_TB, state)
        return logits[-1], state

    @abstractmethod
    def read(self, ids_TB: NDArray[np.integer[Any]], state: DecoderState) -> tuple[Floats, DecoderState]:
        """Logits [T, B, V] after each of T ids [T, B], and the state after the last."""

    @abstractmethod
    def sample(
        self, logits: Floats, state: DecoderState, uniforms_TB: NDArray[np.float64], settings: SamplingParameters
    ) -> tuple[NDArray[np.int64], Floats, DecoderState]:
        """Sample T tokens [T, B] in turn: each from the logits [B, V] by a uniform number in [0, 1), and then read.

        Returns the tokens, and the logits [B, V] and the state after the last of them.
        """


class SteppingDecoder(Decoder):
    """A decoder that is its `step`: the other methods take one step after the other."""

    @abstractmethod
    def step(self, ids: Ids, state: DecoderState) -> tuple[Floats, DecoderState]: ...

    def after(self, ids_TB: NDArray[np.integer[Any]], state: DecoderState) -> tuple[Floats, DecoderState]:
        for ids in ids_TB:
            logits, state = self.step(ids, state)
        return logits, state

    def read(self, ids_TB: NDArray[np.integer[Any]], state: DecoderState) -> tuple[Floats, DecoderState]:
        logits = np.empty((*ids_TB.shape, self.vocabulary), dtype=np.float32)
        for t, ids in enumerate(ids_TB):
            logits[t], state = self.step(ids, state)
        return logits, state

    def sample(
        self, logits: Floats, state: DecoderState, uniforms_TB: NDArray[np.float64], settings: SamplingParameters
    ) -> tuple[NDArray[np.int64], Floats, DecoderState]:
        tokens = np.empty(uniforms_TB.shape, dtype=np.int64)
        for t, uniforms in enumerate(uniforms_TB):
            tokens[t] = [next_token(row, u, **settings._asdict()) for row, u in zip(logits, uniforms, strict=True)]
            logits, state = self.step(tokens[t], state)
        return tokens, logits, state


class NumpyDecoder(SteppingDecoder):
    """The decoder of recurrent layers in NumPy; `precision` is fp32 or int8."""

    def __init__(self, config: ModelConfig, weights: Weights, precision: str = "fp32") -> None:
        self.config = config
        self.vocabulary = len(weights["head.bias"])
        self._cell = cell_of(config)
        self._int8 = precision == "int8"
        self._hh = [self._matrix(self._cell.recurrent(layer_weights(config, i, weights))) for i in range(config.layers)]
        self._ih = [self._matrix(weights[f"rnn.{i}.weight_ih"]) for i in range(1, config.layers)]
        self._head, self._head_bias = self._matrix(weights["head.weight"]), weights["head.bias"]
        biases = [vectors(config, weights, layer) for layer in range(config.layers)]
        self._bias, self._inner = [bias for bias, _ in biases[1:]], [inner for _, inner in biases]
        self._table = input_table(config, weights) + biases[0][0]

    def _matrix(self, weight: NDArray[Any]) -> Floats:
        if self._int8:
            rows, scale = quantize(weight)
            weight = rows * scale[:, None]
        return np.ascontiguousarray(weight.T, dtype=np.float32)

    def _quantized(self, h: Floats) -> Floats:
        """A hidden state [B, H] as it is multiplied with matrices: with int8, rounded to multiples of 1/127."""
        return np.floor(h * np.float32(STEPS) + np.float32(0.5)) / np.float32(STEPS) if self._int8 else h

    def step(self, ids: Ids, state: DecoderState) -> tuple[Floats, DecoderState]:
        x = y = self._table[np.asarray(ids)]
        following: DecoderState = []
        for layer, before in enumerate(state):
            if layer:
                x = self._quantized(y) @ self._ih[layer - 1] + self._bias[layer - 1]
            product = self._quantized(before[0]) @ self._hh[layer]
            following.append(self._cell.step(x, product, before, self._inner[layer]))
            y = y + following[-1][0] if adds_inputs(self.config, layer) else following[-1][0]
        return self._quantized(y) @ self._head + self._head_bias, following


def quantize(weight: NDArray[Any]) -> tuple[NDArray[np.int8], Floats]:
    """A matrix [rows, columns] as integers from -127 to 127 and a scale for each row [rows]; ties round to even.

    >>> quantize(np.array([[0.5, -1.0], [0.0, 0.0]]))[0].tolist()
    [[64, -127], [0, 0]]
    """
    scale = np.abs(weight).max(axis=1) / np.float32(127)
    scale[scale == 0] = 1
    return np.rint(weight / scale[:, None]).astype(np.int8), scale.astype(np.float32)


def vectors(config: ModelConfig, weights: Weights, layer: int) -> tuple[Floats, Floats]:
    """What is added to a layer's W_ih x, and what its step gets besides (`charlm.models.cells.Cell.vectors`)."""
    return cell_of(config).vectors(layer_weights(config, layer, weights))


def embedding_rows(weights: Weights) -> Floats:
    """The embedding of each id [V + 2, E]: every token, the start and an unseen character, which has the mean."""
    known = weights["embedding.weight"]
    return np.concatenate([known, known[:-1].mean(axis=0, keepdims=True)])


def input_table(config: ModelConfig, weights: Weights) -> Floats:
    """The first layer's W_ih x for each id [V + 2, G H]: every token, the start and an unseen character."""
    weight = weights["rnn.0.weight_ih"].T
    if config.embedding:
        return np.ascontiguousarray(embedding_rows(weights) @ weight, dtype=np.float32)
    start, unseen = np.zeros_like(weight[:1]), weight.mean(axis=0, keepdims=True)
    return np.concatenate([weight, start, unseen]).astype(np.float32)
