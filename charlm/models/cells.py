"""Recurrent layers, the architecture of charlm, and their cells: for each its gates and states, weight shapes, step in
NumPy, and the layer that trains it.

This module does not need torch: the layer for training is given as "module:name" and imported when a network is built.
A new cell is an object like those at the end of this module, and a line in `charlm.config.CELLS`.

A layer computes W_i x + b_i for all gates in one product, and W_h h + b_h in another. The rows of the matrices are
blocks of H, one for each gate, in the order of `gates`, which for these cells is PyTorch's. docs/mathematics.md has the
equations.

Legend: B lanes (rows of the batch), E input width, H hidden units, G gates, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from charlm.config import CELLS, ModelConfig
from charlm.models.architecture import Architecture, Floats, LayerStep, Parts, Place, Shapes
from charlm.options import resolve

# (W_i x + biases [B, G H], W_h h [B, G H], states [B, H] each, inner biases [inner H]) -> new states [B, H] each
Step = Callable[[Floats, Floats, Parts, Floats], Parts]


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """A recurrent cell.

    gates     names of the blocks of its matrices, in order; one called "f" is a forget gate, initialised to forget_bias
    states    names of what is carried from step to step, the output h first
    step      one step in NumPy, float32
    layer     a torch module class that reads a chunk, constructed like torch.nn.LSTM(E, H) and with its parameters; it
              maps inputs [T, B, E] and states [1, B, H] each to outputs [T, B, H] and states
    torch     one step as a torch function, called like torch.lstm_cell; without one, `layer` reads single steps
    inner     the number of gates, counted from the last, whose b_h cannot be added to b_i beforehand, because it is
              multiplied by another gate
    compiled  the number of the cell in kernel.c, or None
    sure      precisions in which `layer` is faster than in fp32 at every size, on a processor with the instructions
    """

    gates: tuple[str, ...]
    states: tuple[str, ...] = ("h",)
    step: Step
    layer: str | Callable[..., Any]
    torch: str | Callable[..., Any] | None = None
    inner: int = 0
    compiled: int | None = None
    sure: tuple[str, ...] = ()

    def load_layer(self) -> Callable[..., Any]:
        """The class of the training layer; imports torch."""
        return resolve(self.layer)  # type: ignore[no-any-return]

    def load_torch(self) -> Callable[..., Any] | None:
        """The step as a torch function, or None; imports torch."""
        return resolve(self.torch) if self.torch else None

    def shapes(self, width: int, hidden: int) -> Shapes:
        """Name and shape of each weight of a layer with inputs of this width E."""
        rows = len(self.gates) * hidden
        return {"weight_ih": (rows, width), "weight_hh": (rows, hidden), "bias_ih": (rows,), "bias_hh": (rows,)}

    def merge_biases(self, bias_ih: Floats, bias_hh: Floats) -> tuple[Floats, Floats]:
        """b_i + b_h [G H], without the inner part of b_h, and that part by itself [inner H]."""
        outside = len(bias_hh) // len(self.gates) * (len(self.gates) - self.inner)
        bias = bias_ih.copy()
        bias[:outside] += bias_hh[:outside]
        return bias, bias_hh[outside:]


def cell_of(config: ModelConfig) -> Cell:
    """The cell that a network's configuration names."""
    cell: Cell = CELLS[config.cell]
    return cell


class Recurrent(Architecture):
    """Layers of cells: each reads the output of the layer below and its own state before."""

    options = ("cell", "forget_bias", "skip")
    prefix = "rnn"

    def sure(self, config: ModelConfig) -> Sequence[str]:
        return cell_of(config).sure

    def shapes(self, place: Place) -> Shapes:
        return cell_of(place.config).shapes(place.width, place.config.hidden)

    def states(self, place: Place) -> Mapping[str, int]:
        return dict.fromkeys(cell_of(place.config).states, place.config.hidden)

    def open(self, place: Place, weights: Mapping[str, Floats]) -> LayerStep:
        cell, w_ih, w_hh = cell_of(place.config), weights["weight_ih"].T, weights["weight_hh"].T
        bias, inner = cell.merge_biases(weights["bias_ih"], weights["bias_hh"])

        def step(x: Floats, before: Parts) -> tuple[Floats, Parts]:
            after = cell.step(x @ w_ih + bias, before[0] @ w_hh, before, inner)
            return after[0], after

        return step

    def module(self, place: Place) -> Any:
        return cell_of(place.config).load_layer()(place.width, place.config.hidden)

    def activations(self, place: Place) -> int:
        """Gates and their gradients, states and an output."""
        cell = cell_of(place.config)
        return (2 * len(cell.gates) + len(cell.states) + 1) * place.config.hidden


def sigmoid(x: Floats) -> Floats:
    """1 / (1 + e^-x), computed with tanh, which cannot overflow."""
    half = np.float32(0.5)
    y: Floats = half * np.tanh(half * x) + half
    return y


def _lstm(x: Floats, product: Floats, state: Parts, _: Floats) -> Parts:
    h, c = state
    gates = product + x
    width = h.shape[1]
    i, f, o = sigmoid(gates[:, :width]), sigmoid(gates[:, width : 2 * width]), sigmoid(gates[:, 3 * width :])
    c = f * c + i * np.tanh(gates[:, 2 * width : 3 * width])
    return o * np.tanh(c), c


def _gru(x: Floats, product: Floats, state: Parts, inner: Floats) -> Parts:
    (h,) = state
    width = h.shape[1]
    gates = sigmoid(x[:, : 2 * width] + product[:, : 2 * width])
    r, z = gates[:, :width], gates[:, width:]
    n = np.tanh(x[:, 2 * width :] + r * (product[:, 2 * width :] + inner))
    return (n + z * (h - n),)


def _rnn(x: Floats, product: Floats, state: Parts, inner: Floats) -> Parts:  # noqa: ARG001
    return (np.tanh(x + product),)


LSTM: Final = Cell(
    gates=("i", "f", "g", "o"),
    states=("h", "c"),
    step=_lstm,
    layer="charlm.models.recurrence:LSTM",
    torch="torch:lstm_cell",
    compiled=0,
    sure=("bf16",),  # 1.2 to 2 times as fast, from 32 to 512 units (docs/log.md)
)
GRU: Final = Cell(
    gates=("r", "z", "n"),
    step=_gru,
    layer="charlm.models.recurrence:GRU",
    torch="torch:gru_cell",
    inner=1,
    compiled=1,
)
RNN: Final = Cell(
    gates=("h",), step=_rnn, layer="charlm.models.recurrence:RNN", torch="torch:rnn_tanh_cell", compiled=2
)

RECURRENT: Final = Recurrent()
