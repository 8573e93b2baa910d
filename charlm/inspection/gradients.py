"""How far gradients reach back: the norm of dJ_t / dh_{t-k} against the distance k.

J_t is the loss at one place of a text, -ln P(token t + 1 | all before it). Its gradient in a state k tokens before is
the product of k Jacobians of one step (Bengio, Simard, Frasconi 1994, "Learning long-term dependencies with gradient
descent is difficult"; Pascanu, Mikolov, Bengio 2013, "On the difficulty of training recurrent neural networks"). The
gradient is the total one: what changes a state changes all that is computed from it, in the layers above and, for c of
an LSTM, h of the same step too.

A step is that of `charlm.models.cells`: NumPy's functions are applied to `Differentiable` arrays, which compute with
torch, so that no equation is written twice. Everything is float64. The step is differentiated anew at each distance,
from the states that a first reading has kept, so that memory is one step's graph and not that of the whole text. The
gradient is scaled to norm 1 on its way back, and the logarithms of the scales are added up: no norm underflows.

Legend: T inputs, B places of the text side by side, K the largest distance, L layers, S states of a layer, H hidden
units, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from numpy.lib.mixins import NDArrayOperatorsMixin
from torch import Tensor

from charlm.errors import CharlmError, DataError
from charlm.inspection.subject import Array, Reading, RecurrentNetwork
from charlm.models.sizing import parameters_of

WARM: Final = 256  # inputs that are read before the farthest state, from the zero state, where the text has them
State = list[tuple[Array, ...]]  # of each layer [B, H]


class Differentiable(NDArrayOperatorsMixin):
    """Stands for an array while NumPy's functions are applied to it; torch computes them, and their gradient."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.tensor.shape)

    def __array_ufunc__(self, function: Any, method: str, *inputs: Any, **options: Any) -> Differentiable:
        counterpart = getattr(torch, function.__name__, None)
        if counterpart is None or method != "__call__" or options:
            raise NotImplementedError(f"numpy.{function.__name__}")
        return Differentiable(counterpart(*(self._tensor(value) for value in inputs)))

    def __array_function__(self, function: Any, *_: Any) -> Any:
        raise NotImplementedError(f"numpy.{function.__name__}")

    def __getitem__(self, key: Any) -> Differentiable:
        return Differentiable(self.tensor[key])

    def _tensor(self, value: Any) -> Tensor:
        return value.tensor if isinstance(value, Differentiable) else torch.as_tensor(value, dtype=self.tensor.dtype)


class Reach(NamedTuple):
    """How the gradient in one state of a layer falls with the distance.

    layer      its number, from 1
    state      its name
    log_norms  natural logarithm of the norm of dJ_t / d(state k tokens before t), for k from 0 to K [K + 1]: the mean
               over the places, so that its exponential is their geometric mean; -inf for 0
    """

    layer: int
    state: str
    log_norms: Array

    @property
    def half_life(self) -> float | None:
        """The least distance at which the norm is half of that at distance 0, interpolated; None beyond K.

        Between two distances its logarithm is taken to be linear.
        """
        level = self.log_norms[0] - math.log(2)
        below = np.flatnonzero(self.log_norms <= level)
        if not len(below) or not math.isfinite(level):
            return None
        k = int(below[0])
        high, low = self.log_norms[k - 1], self.log_norms[k]
        return float(k - 1 + (high - level) / (high - low)) if math.isfinite(low) else float(k)

    @property
    def factor(self) -> float | None:
        """What one more token multiplies the norm by, over the second half of the distances.

        The exponential of the slope of a straight line through the logarithms (least squares); None where they are
        too few.
        """
        distance = np.arange(len(self.log_norms))
        used = (distance >= len(distance) // 2) & np.isfinite(self.log_norms)
        if used.sum() < 2:
            return None
        return float(np.exp(np.polyfit(distance[used], self.log_norms[used], 1)[0]))

    def relative(self, distance: int) -> float:
        """The norm at this distance, in parts of that at distance 0."""
        return float(np.exp(self.log_norms[distance] - self.log_norms[0]))

    def record(self) -> dict[str, object]:
        """All figures for JSON; norms of zero are left out."""
        return {
            "layer": self.layer,
            "state": self.state,
            "half_life": self.half_life,
            "factor": self.factor,
            "log10_norms": [norm / math.log(10) for norm in self.log_norms.tolist() if math.isfinite(norm)],
        }


class Reached(NamedTuple):
    """How far the gradients of a network reach back, under its name."""

    name: str
    parameters: int
    reaches: Sequence[Reach]


def reached(name: str, network: RecurrentNetwork, read: Reading, *, distance: int, places: int) -> Reached:
    """`reaches` of a network of this name."""
    found = reaches(network, read, distance=distance, places=places)
    return Reached(name, parameters_of(network.config, network.vocabulary), found)


def reaches(network: RecurrentNetwork, read: Reading, *, distance: int, places: int) -> list[Reach]:
    """How the gradients of a network reach back, each state of each layer, over so many places of a text.

    The network is opened in float64. Raises DataError for a text with too few tokens, or a vocabulary of one, where
    nothing is to be predicted.
    """
    if network.vocabulary < 2:
        raise DataError("a text of one character has no gradient: it is always right", kept="nothing was inspected")
    norms = log_norms(network, read, distance=distance, places=places).mean(axis=-1)
    return [
        Reach(layer, state, own)
        for layer, states in enumerate(norms, 1)
        for state, own in zip(network.cell.states, states, strict=True)
    ]


def log_norms(network: RecurrentNetwork, read: Reading, *, distance: int, places: int) -> Array:
    """The logarithm of each norm at each of the places [L, S, K + 1, B], which lie evenly over the text."""
    at = places_of(read, network.vocabulary, distance, places)
    warm = min(WARM, int(at.min()) - distance)
    inputs = read.inputs[at - (warm + distance) + np.arange(warm + distance + 1)[:, None]]
    state, before = network.zeros(len(at)), []
    for number, ids in enumerate(inputs):
        if number >= warm:
            before.append(state)
        state = network.step(network.rows[ids], state)[0]
    found = np.empty((len(network.layers), len(network.cell.states), distance + 1, len(at)))
    gradient, scale = None, np.zeros(len(at))
    for k in range(distance + 1):
        in_after, in_before = _gradients(network, inputs[-1 - k], before.pop(), gradient, read.targets[at])
        with np.errstate(divide="ignore"):  # the logarithm of 0
            found[..., k, :] = [[np.log(_norm(part)) + scale for part in layer] for layer in in_after]
        largest = np.max([_norm(part) for layer in in_before for part in layer], axis=0)
        largest[largest == 0] = 1
        scale = scale + np.log(largest)
        gradient = [part / torch.from_numpy(largest)[:, None] for layer in in_before for part in layer]
    return found


def _norm(part: Tensor) -> Array:
    """The norm of each row [B]."""
    norms: Array = part.norm(dim=1).numpy()
    return norms


def places_of(read: Reading, vocabulary: int, distance: int, count: int) -> Array:
    """Inputs whose loss is looked at [B]: at most so many, evenly spread, the last one first.

    Each predicts a known token and has as many inputs before it as the distance, and 256 more where the text has them:
    at least half of the text behind the distance is for places. Raises DataError where there is no such input.
    """
    known = (read.targets >= 0) & (read.targets < vocabulary)
    known[:distance] = False
    candidates = np.flatnonzero(known)
    if not len(candidates):
        raise DataError(
            f"a text of {len(read.inputs) - 1:,} tokens is too short for a distance of {distance:,}",
            kept="nothing was inspected",
            hint=f"give a longer text, or --distance {max(1, len(read.inputs) - 2):,}".replace(",", ""),
        )
    warm = min(WARM, (int(candidates[-1]) - distance) // 2)
    candidates = candidates[candidates >= distance + warm]
    spread = np.linspace(len(candidates) - 1, 0, min(count, len(candidates)))
    found: Array = candidates[np.rint(spread).astype(np.int64)]
    return found


def _gradients(
    network: RecurrentNetwork, ids: Array, before: State, gradient: list[Tensor] | None, targets: Array
) -> tuple[list[list[Tensor]], list[list[Tensor]]]:
    """The total gradient in the states after a step [L, S] of [B, H], and that in those before it.

    `gradient` is what comes from later steps to the states after this one; without one J is the loss of this step.
    """
    leaves = [tuple(torch.from_numpy(part).requires_grad_() for part in layer) for layer in before]
    after, y = _step(network, Differentiable(torch.from_numpy(network.rows[ids])), leaves)
    flat = [part for layer in after for part in layer]
    asked = [*flat, *(part for layer in leaves for part in layer)]
    if gradient is None:
        logits = y @ torch.from_numpy(network.head) + torch.from_numpy(network.head_bias)
        loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(targets).long(), reduction="sum")
        found = torch.autograd.grad(loss, asked, allow_unused=True)
    else:
        found = torch.autograd.grad(flat, asked, gradient, allow_unused=True)
    values = [torch.zeros_like(part) if own is None else own for part, own in zip(asked, found, strict=True)]
    each = len(network.cell.states)
    parts = [values[begin : begin + each] for begin in range(0, len(values), each)]
    return parts[: len(before)], parts[len(before) :]


def _step(network: RecurrentNetwork, x: Differentiable, before: Sequence[tuple[Tensor, ...]]) -> Any:
    try:
        after, y = network.step(x, [tuple(map(Differentiable, layer)) for layer in before])
    except NotImplementedError as error:
        raise CharlmError(
            f"the gradient of the cell {network.config.cell} cannot be computed: its step uses {error}",
            kept="nothing was inspected",
            hint="write its step with arithmetic, tanh, exp and ranges of columns, as in charlm/models/cells.py",
        ) from error
    return [tuple(part.tensor for part in layer) for layer in after], y.tensor
