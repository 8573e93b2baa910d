"""One token at a time, for several streams at once, in NumPy: no torch to import, no weights to repack at each step.

The first layer's input product is a table, looked up by id: (embedding row) W_ih^T + b_ih (+ b_hh), computed once.
The equations are those of docs/mathematics.md in PyTorch's form; tests hold this engine to the training network.

Legend: B streams, H hidden units, G gates (4 LSTM, 3 GRU, 1 RNN), V vocabulary. Arithmetic is float32.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charlm.config import ModelConfig

Floats = NDArray[np.float32]
DecoderState = list[tuple[Floats, ...]]  # for each layer h [B, H], and for LSTM c [B, H]


class Decoder:
    """A model's weights, arranged for stepping."""

    def __init__(self, config: ModelConfig, weights: Mapping[str, NDArray[Any]]) -> None:
        self.config = config
        self.vocabulary = len(weights["head.bias"])
        self._step = {"lstm": _lstm, "gru": _gru, "rnn": _rnn}[config.cell]
        self._hh = [_transposed(weights[f"rnn.{i}.weight_hh"]) for i in range(config.layers)]
        self._ih = [_transposed(weights[f"rnn.{i}.weight_ih"]) for i in range(1, config.layers)]
        self._bias_n: list[Floats] = []  # recurrent bias of a GRU's candidate, empty for other cells
        bias_ih: list[Floats] = []
        for i in range(config.layers):
            ih, hh = weights[f"rnn.{i}.bias_ih"].copy(), weights[f"rnn.{i}.bias_hh"]
            inside = (
                2 * config.hidden if config.cell == "gru" else len(hh)
            )  # of a GRU, what the reset gate leaves alone
            ih[:inside] += hh[:inside]
            bias_ih.append(ih)
            self._bias_n.append(hh[inside:])
        self._table = _input_table(config, weights) + bias_ih[0]
        self._bias_ih = bias_ih[1:]
        self._head, self._head_bias = _transposed(weights["head.weight"]), weights["head.bias"]

    def init_state(self, streams: int) -> DecoderState:
        zero = np.zeros((streams, self.config.hidden), dtype=np.float32)
        count = 2 if self.config.cell == "lstm" else 1
        return [(zero,) * count for _ in range(self.config.layers)]

    def step(self, ids: Sequence[int] | NDArray[np.int64], state: DecoderState) -> tuple[Floats, DecoderState]:
        """Logits [B, V] after reading one id in each of B streams, and the state then."""
        x: Floats = self._table[np.asarray(ids)]
        following: DecoderState = []
        for layer, before in enumerate(state):
            if layer:
                x = following[-1][0] @ self._ih[layer - 1] + self._bias_ih[layer - 1]
            following.append(self._step(x, before, self._hh[layer], self._bias_n[layer]))
        return following[-1][0] @ self._head + self._head_bias, following


def _input_table(config: ModelConfig, weights: Mapping[str, NDArray[Any]]) -> Floats:
    """Row by id [V + 2, G H]: what the first layer makes of each token, of the start and of an unseen character."""
    weight = weights["rnn.0.weight_ih"].T
    if config.embedding:
        known = weights["embedding.weight"]
        rows = np.concatenate([known, known[:-1].mean(axis=0, keepdims=True)])
        return np.ascontiguousarray(rows @ weight, dtype=np.float32)
    start, unseen = np.zeros_like(weight[:1]), weight.mean(axis=0, keepdims=True)
    return np.concatenate([weight, start, unseen]).astype(np.float32)


def _transposed(weight: NDArray[Any]) -> Floats:
    return np.ascontiguousarray(weight.T, dtype=np.float32)


def _sigmoid(x: Floats) -> Floats:
    half = np.float32(0.5)
    y: Floats = half * np.tanh(half * x) + half
    return y


def _lstm(x: Floats, state: tuple[Floats, ...], hh: Floats, _: Floats) -> tuple[Floats, ...]:
    h, c = state
    gates = h @ hh
    gates += x
    width = h.shape[1]
    i, f, o = _sigmoid(gates[:, :width]), _sigmoid(gates[:, width : 2 * width]), _sigmoid(gates[:, 3 * width :])
    c = f * c + i * np.tanh(gates[:, 2 * width : 3 * width])
    return o * np.tanh(c), c


def _gru(x: Floats, state: tuple[Floats, ...], hh: Floats, bias_n: Floats) -> tuple[Floats, ...]:
    (h,) = state
    product = h @ hh
    width = h.shape[1]
    gates = _sigmoid(x[:, : 2 * width] + product[:, : 2 * width])
    r, z = gates[:, :width], gates[:, width:]
    n = np.tanh(x[:, 2 * width :] + r * (product[:, 2 * width :] + bias_n))
    return (n + z * (h - n),)


def _rnn(x: Floats, state: tuple[Floats, ...], hh: Floats, _: Floats) -> tuple[Floats, ...]:
    (h,) = state
    return (np.tanh(x + h @ hh),)
