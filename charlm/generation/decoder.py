"""One token at a time, for several lanes at once: what a decoder does, and how it is done in NumPy.

No torch is needed, and no weights are repacked at each step. The first layer's input product is a table, looked up by
id: (embedding row) W_ih^T + b_ih (+ b_hh), computed once. The equations are those of docs/mathematics.md in PyTorch's
form; tests hold this engine to the training network, and the compiled one of `charlm.generation.compiled` to this.

With 8-bit weights each row of a matrix is w = scale * q with whole numbers q from -127 to 127, and the hidden state
that it meets is read in steps of 1/127.

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
from charlm.models.cells import cell_of

STEPS: Final = 127  # of a hidden state's byte, from 0 to 1
Weights = Mapping[str, NDArray[Any]]
Ids = Sequence[int] | NDArray[np.integer[Any]]
DecoderState = list[tuple[Floats, ...]]  # for each layer its states, [B, H] each; an engine may pad H


class Decoder(ABC):
    """A model that is read, or writes, token by token. States that are handed in are left as they are."""

    config: ModelConfig
    vocabulary: int
    width: int  # of a state's rows: H, or more where an engine pads it

    def init_state(self, lanes: int) -> DecoderState:
        zero = np.zeros((lanes, self.width), dtype=np.float32)
        return [(zero,) * len(cell_of(self.config).states) for _ in range(self.config.layers)]

    def step(self, ids: Ids, state: DecoderState) -> tuple[Floats, DecoderState]:
        """Logits [B, V] after reading one id in each of B lanes, and the state then."""
        return self.after(np.asarray(ids)[None, :], state)

    def after(self, ids_TB: NDArray[np.integer[Any]], state: DecoderState) -> tuple[Floats, DecoderState]:
        """Logits [B, V] after reading the last of T ids, and the state then."""
        logits, state = self.read(ids_TB, state)
        return logits[-1], state

    @abstractmethod
    def read(self, ids_TB: NDArray[np.integer[Any]], state: DecoderState) -> tuple[Floats, DecoderState]:
        """Logits [T, B, V] after reading each of T ids, and the state in the end."""

    @abstractmethod
    def sample(
        self, logits: Floats, state: DecoderState, uniforms_TB: NDArray[np.float64], settings: SamplingParameters
    ) -> tuple[NDArray[np.int64], Floats, DecoderState]:
        """T tokens in a row [T, B], each sampled from the logits [B, V] by a number in [0, 1) and then read.

        Returns the logits and the state after the last of them, too.
        """


class NumpyDecoder(Decoder):
    """A model's weights, arranged for stepping; `precision` is fp32 or int8."""

    def __init__(self, config: ModelConfig, weights: Weights, precision: str = "fp32") -> None:
        self.config, self.width = config, config.hidden
        self.vocabulary = len(weights["head.bias"])
        self._cell = cell_of(config)
        self._int8 = precision == "int8"
        self._hh = [self._matrix(weights[f"rnn.{i}.weight_hh"]) for i in range(config.layers)]
        self._ih = [self._matrix(weights[f"rnn.{i}.weight_ih"]) for i in range(1, config.layers)]
        self._head, self._head_bias = self._matrix(weights["head.weight"]), weights["head.bias"]
        biases = [merge_biases(config, weights, layer) for layer in range(config.layers)]
        self._bias, self._inner = [bias for bias, _ in biases[1:]], [inner for _, inner in biases]
        self._table = input_table(config, weights) + biases[0][0]

    def _matrix(self, weight: NDArray[Any]) -> Floats:
        if self._int8:
            rows, scale = quantize(weight)
            weight = rows * scale[:, None]
        return np.ascontiguousarray(weight.T, dtype=np.float32)

    def _seen(self, h: Floats) -> Floats:
        """A hidden state as matrices meet it."""
        return np.floor(h * np.float32(STEPS) + np.float32(0.5)) / np.float32(STEPS) if self._int8 else h

    def step(self, ids: Ids, state: DecoderState) -> tuple[Floats, DecoderState]:
        x: Floats = self._table[np.asarray(ids)]
        following: DecoderState = []
        for layer, before in enumerate(state):
            if layer:
                x = self._seen(following[-1][0]) @ self._ih[layer - 1] + self._bias[layer - 1]
            product = self._seen(before[0]) @ self._hh[layer]
            following.append(self._cell.step(x, product, before, self._inner[layer]))
        return self._seen(following[-1][0]) @ self._head + self._head_bias, following

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


def quantize(weight: NDArray[Any]) -> tuple[NDArray[np.int8], Floats]:
    """A matrix [rows, columns] as whole numbers from -127 to 127 and each row's scale; ties go to the even number."""
    scale = np.abs(weight).max(axis=1) / np.float32(127)
    scale[scale == 0] = 1
    return np.rint(weight / scale[:, None]).astype(np.int8), scale.astype(np.float32)


def merge_biases(config: ModelConfig, weights: Weights, layer: int) -> tuple[Floats, Floats]:
    """The biases of a layer, as `charlm.models.cells.Cell.merge_biases` adds them up."""
    return cell_of(config).merge_biases(weights[f"rnn.{layer}.bias_ih"], weights[f"rnn.{layer}.bias_hh"])


def input_table(config: ModelConfig, weights: Weights) -> Floats:
    """Row by id [V + 2, G H]: what the first layer makes of each token, of the start and of an unseen character."""
    weight = weights["rnn.0.weight_ih"].T
    if config.embedding:
        known = weights["embedding.weight"]
        rows = np.concatenate([known, known[:-1].mean(axis=0, keepdims=True)])
        return np.ascontiguousarray(rows @ weight, dtype=np.float32)
    start, unseen = np.zeros_like(weight[:1]), weight.mean(axis=0, keepdims=True)
    return np.concatenate([weight, start, unseen]).astype(np.float32)


def open_numpy(config: ModelConfig, weights: Weights, precision: str, threads: int) -> Decoder:  # noqa: ARG001
    """The decoder that needs nothing but NumPy, which has threads of its own."""
    return NumpyDecoder(config, weights, precision)
