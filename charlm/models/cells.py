"""Recurrent layers, the architecture of charlm, and their cells: for each its gates and states, weight shapes, step in
NumPy, and the layer that trains it.

This module does not need torch: the layer for training is given as "module:name" and imported when a network is built.
A new cell is an object like those at the end of this module, and a line in `charlm.config.CELLS`.

A layer computes W_i x + b_i for all gates in one product, and W_h h + b_h in another. The rows of the matrices are
blocks of H, one for each gate, in the order of `gates`, which for cells that PyTorch has is its own.
docs/mathematics.md has the equations.

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

# (W_i x + biases [B, G H], W_h h [B, G H], states [B, H] each, other vectors [..]) -> new states [B, H] each
Step = Callable[[Floats, Floats, Parts, Floats], Parts]


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """A recurrent cell.

    gates     names of the blocks of its matrices, in order; one called "f" is a forget gate, initialised to forget_bias
    states    names of what is carried from step to step, the output h first
    step      one step in NumPy, float32
    layer     a torch module class that reads a chunk, constructed as layer(E, H): one of torch.nn.LSTM's kind, or one
              that is called as `charlm.models.architecture.Architecture.module` says
    weights   names of what a layer learns, of those in `shapes`; any other is a vector [H], which the step gets
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
    weights: tuple[str, ...] = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
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
        known = {"weight_ih": (rows, width), "weight_hh": (rows, hidden), "bias_ih": (rows,), "bias_hh": (rows,)}
        return {name: known.get(name, (hidden,)) for name in self.weights}

    def recurrent(self, weights: Mapping[str, Floats]) -> Floats:
        """Of a layer's weights by name: W_h [G H, H], which has no rows where there is none."""
        none = np.empty((0, len(weights["weight_ih"]) // len(self.gates)), dtype=np.float32)
        return weights.get("weight_hh", none)

    def vectors(self, weights: Mapping[str, Floats]) -> tuple[Floats, Floats]:
        """The same: b_i + b_h [G H], without the inner part of b_h; and what the step gets besides.

        That is the inner part of b_h [inner H], and then every vector that is no bias.
        """
        bias = weights["bias_ih"].copy()
        hidden = len(bias) // len(self.gates)
        of_h = weights.get("bias_hh", np.zeros_like(bias))
        outside = hidden * (len(self.gates) - self.inner)
        bias[:outside] += of_h[:outside]
        others = [weights[name] for name in self.weights if not name.startswith(("weight", "bias"))]
        return bias, np.concatenate([of_h[outside:], *others])

    def open(self, weights: Mapping[str, Floats]) -> LayerStep:
        """The step of a layer with these weights."""
        w_ih, w_hh, (bias, inner) = weights["weight_ih"].T, self.recurrent(weights).T, self.vectors(weights)

        def step(x: Floats, before: Parts) -> tuple[Floats, Parts]:
            after = self.step(x @ w_ih + bias, before[0] @ w_hh, before, inner)
            return after[0], after

        return step


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
        return cell_of(place.config).open(weights)

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


def _leaky(x: Floats, product: Floats, state: Parts, rate: Floats) -> Parts:
    (h,) = state
    return (h + sigmoid(rate) * (np.tanh(x + product) - h),)


def _mingru(x: Floats, product: Floats, state: Parts, inner: Floats) -> Parts:  # noqa: ARG001
    (h,) = state
    width = h.shape[1]
    return (h + sigmoid(x[:, :width]) * (x[:, width:] - h),)


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
LEAKY: Final = Cell(
    gates=("h",),
    step=_leaky,
    layer="charlm.models.modules.leaky:Leaky",
    weights=("weight_ih", "weight_hh", "bias_ih", "rate"),
)
MINGRU: Final = Cell(
    gates=("z", "c"),
    step=_mingru,
    layer="charlm.models.modules.mingru:MinGRU",
    weights=("weight_ih", "bias_ih"),
)

RECURRENT: Final = Recurrent()
