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
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from charlm.config import CELLS, ModelConfig
from charlm.models.architecture import Architecture, Floats, LayerStep, Parts, Place, Shapes
from charlm.options import resolve

# (W_i x + biases [B, G H], W_h h [B, G H], states [B, H] each, other vectors [..]) -> gates [B, H] each
Values = Callable[[Floats, Floats, Parts, Floats], Parts]
# (gates, states, other vectors) -> what units keep: the new states, without h where there is an output
Update = Callable[[Parts, Parts, Floats], Parts]
# (gates, what units keep) -> h [B, H]
Output = Callable[[Parts, Parts], Floats]
Range = tuple[float, float]
_SIGMOID: Final[Range] = (0.0, 1.0)
_TANH: Final[Range] = (-1.0, 1.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """A recurrent cell. Its step, in NumPy, has three parts, so that what is between them can be seen and changed.

    gates     names of the blocks of its matrices, in order; one called "f" is a forget gate, initialised to forget_bias
    ranges    between which values a gate lies, by its name; one that is not named has no bounds
    states    names of what is carried from step to step, the output h first
    values    the values of the gates, in order
    update    what units keep: the states after a step, or those behind h if there is an `output`
    output    h, from the gates and what units keep
    layer     a torch module class that reads a chunk, constructed as layer(E, H): one of torch.nn.LSTM's kind, or one
              that is called as `charlm.models.architecture.Architecture.module` says
    weights   names of what a layer learns, of those in `shapes`; any other is a vector [H], which the step gets
    torch     one step as a torch function, called like torch.lstm_cell; without one, `layer` reads single steps
    inner     the number of gates, counted from the last, whose b_h cannot be added to b_i beforehand, because it is
              multiplied by another gate
    compiled  the number of the cell in kernel.c, or None
    dropout_helps  as `charlm.models.architecture.Architecture.dropout_helps`
    sure      precisions in which `layer` is faster than in fp32 at every size, on a processor with the instructions
    """

    gates: tuple[str, ...]
    ranges: Mapping[str, Range] = field(default_factory=dict)
    states: tuple[str, ...] = ("h",)
    values: Values
    update: Update
    output: Output | None = None
    layer: str | Callable[..., Any]
    weights: tuple[str, ...] = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    torch: str | Callable[..., Any] | None = None
    inner: int = 0
    compiled: int | None = None
    dropout_helps: bool = False
    sure: tuple[str, ...] = ()

    def step(self, x: Floats, product: Floats, states: Parts, others: Floats) -> Parts:
        """The states [B, H] after a step, from W_i x + biases and W_h h [B, G H], the states before, other vectors."""
        gates = self.values(x, product, states, others)
        return self.after(gates, self.update(gates, states, others))

    def after(self, gates: Parts, kept: Parts) -> Parts:
        """The states after a step, from its gates and what units keep."""
        return kept if self.output is None else (self.output(gates, kept), *kept)

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

    def dropout_helps(self, config: ModelConfig) -> bool:
        return cell_of(config).dropout_helps

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


def _lstm_values(x: Floats, product: Floats, state: Parts, _: Floats) -> Parts:
    gates, width = product + x, state[0].shape[1]
    i, f, o = sigmoid(gates[:, :width]), sigmoid(gates[:, width : 2 * width]), sigmoid(gates[:, 3 * width :])
    return i, f, np.tanh(gates[:, 2 * width : 3 * width]), o


def _lstm_update(gates: Parts, state: Parts, _: Floats) -> Parts:
    i, f, g, _o = gates
    return (f * state[1] + i * g,)


def _lstm_output(gates: Parts, kept: Parts) -> Floats:
    h: Floats = gates[3] * np.tanh(kept[0])
    return h


def _gru_values(x: Floats, product: Floats, state: Parts, inner: Floats) -> Parts:
    width = state[0].shape[1]
    gates = sigmoid(x[:, : 2 * width] + product[:, : 2 * width])
    r, z = gates[:, :width], gates[:, width:]
    return r, z, np.tanh(x[:, 2 * width :] + r * (product[:, 2 * width :] + inner))


def _gru_update(gates: Parts, state: Parts, _: Floats) -> Parts:
    _r, z, n = gates
    return (n + z * (state[0] - n),)


def _tanh_values(x: Floats, product: Floats, _: Parts, __: Floats) -> Parts:
    return (np.tanh(x + product),)


def _leaky_update(gates: Parts, state: Parts, rate: Floats) -> Parts:
    (h,) = state
    return (h + sigmoid(rate) * (gates[0] - h),)


def _rnn_update(gates: Parts, _: Parts, __: Floats) -> Parts:
    return gates


def _mingru_values(x: Floats, _: Floats, state: Parts, __: Floats) -> Parts:
    width = state[0].shape[1]
    return sigmoid(x[:, :width]), x[:, width:]


def _mingru_update(gates: Parts, state: Parts, _: Floats) -> Parts:
    (h,), (z, c) = state, gates
    return (h + z * (c - h),)


LSTM: Final = Cell(
    gates=("i", "f", "g", "o"),
    ranges={"i": _SIGMOID, "f": _SIGMOID, "g": _TANH, "o": _SIGMOID},
    states=("h", "c"),
    values=_lstm_values,
    update=_lstm_update,
    output=_lstm_output,
    layer="charlm.models.recurrence:LSTM",
    torch="torch:lstm_cell",
    compiled=0,
    dropout_helps=True,
    sure=("bf16",),  # 1.2 to 2 times as fast, from 32 to 512 units (docs/log.md)
)
GRU: Final = Cell(
    gates=("r", "z", "n"),
    ranges={"r": _SIGMOID, "z": _SIGMOID, "n": _TANH},
    values=_gru_values,
    update=_gru_update,
    layer="charlm.models.recurrence:GRU",
    torch="torch:gru_cell",
    inner=1,
    compiled=1,
    dropout_helps=True,
)
RNN: Final = Cell(
    gates=("h",),
    ranges={"h": _TANH},
    values=_tanh_values,
    update=_rnn_update,
    layer="charlm.models.recurrence:RNN",
    torch="torch:rnn_tanh_cell",
    compiled=2,
)
LEAKY: Final = Cell(
    gates=("n",),
    ranges={"n": _TANH},
    values=_tanh_values,
    update=_leaky_update,
    layer="charlm.models.modules.leaky:Leaky",
    weights=("weight_ih", "weight_hh", "bias_ih", "rate"),
)
MINGRU: Final = Cell(
    gates=("z", "c"),
    ranges={"z": _SIGMOID},
    values=_mingru_values,
    update=_mingru_update,
    layer="charlm.models.modules.mingru:MinGRU",
    weights=("weight_ih", "bias_ih"),
)

RECURRENT: Final = Recurrent()
