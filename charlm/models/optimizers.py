"""Optimizers: for each the weights that it updates, the state that it keeps, its learning rate, and its code.

This module does not need torch, so that a checkpoint can be checked without it; the code that updates weights is given
as "module:name" and imported when a run starts. A new optimizer is a subclass of
`charlm.training.optim.Optimizer`, an object like those at the end of this module, and a line in
`charlm.config.OPTIMIZERS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from charlm.config import OPTIMIZERS, Config
from charlm.models.architecture import Shapes, trained_shapes
from charlm.options import resolve

PREFIX: Final = "optimizer."
OTHERS: Final = "adamw"  # updates the weights that the chosen optimizer does not take


def every_weight(name: str, shape: tuple[int, ...], one_hot: bool) -> bool:  # noqa: ARG001
    """True: for optimizers that update all weights."""
    return True


def layer_matrices(name: str, shape: tuple[int, ...], one_hot: bool) -> bool:
    """Whether this is a matrix of a layer; with one-hot inputs the first input matrix is an embedding."""
    of_a_layer = name.startswith(("rnn.", "layers."))
    return of_a_layer and len(shape) == 2 and not (one_hot and name.endswith(".0.weight_ih"))


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimizerSpec:
    """An optimizer.

    update              a subclass of `charlm.training.optim.Optimizer`, or "module:name" of one
    quantities          names of the state kept for each weight, in the shape of the weight
    scalars             names of the state kept for each weight as one number
    takes               whether it updates a weight (name, shape, whether inputs are one-hot); AdamW updates the others
    default_lr          default peak learning rate
    """

    update: str | Callable[..., Any]
    quantities: tuple[str, ...]
    scalars: tuple[str, ...] = ()
    takes: Callable[[str, tuple[int, ...], bool], bool] = every_weight
    default_lr: float

    def load_update(self) -> Callable[..., Any]:
        """The class that updates weights; imports torch."""
        return resolve(self.update)  # type: ignore[no-any-return]


def optimizer_shapes(config: Config, weights: Shapes) -> Shapes:
    """Name and shape of the optimizer state of a network's weights: optimizer.<quantity>.<weight>."""
    shapes: Shapes = {}
    for name, shape in trained_shapes(config.model, weights).items():
        spec = spec_of(config.optim.optimizer, name, shape, one_hot=not config.model.embedding)
        shapes |= {f"{PREFIX}{quantity}.{name}": shape for quantity in spec.quantities}
        shapes |= {f"{PREFIX}{scalar}.{name}": () for scalar in spec.scalars}
    return shapes


def spec_of(optimizer: str, name: str, shape: tuple[int, ...], *, one_hot: bool) -> OptimizerSpec:
    """The optimizer that updates a weight, in a run with this `--optimizer`."""
    chosen: OptimizerSpec = OPTIMIZERS[optimizer]
    others: OptimizerSpec = OPTIMIZERS[OTHERS]
    return chosen if chosen.takes(name, shape, one_hot) else others


MUON: Final = OptimizerSpec(
    update="charlm.training.optim:Muon",
    quantities=("momentum",),
    takes=layer_matrices,
    default_lr=0.05,
)
ADAMW: Final = OptimizerSpec(
    update="charlm.training.optim:AdamW", quantities=("exp_avg", "exp_avg_sq"), scalars=("step",), default_lr=0.005
)
RMSPROP: Final = OptimizerSpec(
    update="charlm.training.optim:RMSProp", quantities=("square_avg",), scalars=("step",), default_lr=0.002
)
