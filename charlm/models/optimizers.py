"""Optimizers, each once: which weights one takes, what it remembers of them, its learning rate, and where its code is.

No torch is needed to know an optimizer, so that a checkpoint can be checked without it; the code that updates weights
is named by its place and imported when a run starts. A new optimizer is a subclass of
`charlm.training.optim.Optimizer`, an object like those at the end of this module, and a line in
`charlm.config.OPTIMIZERS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from charlm.config import OPTIMIZERS, Config
from charlm.models.cells import Shapes
from charlm.options import resolve

PREFIX: Final = "optimizer."
OTHERS: Final = "adamw"  # the optimizer of weights that the chosen one does not take


def every_weight(name: str, shape: tuple[int, ...], one_hot: bool) -> bool:  # noqa: ARG001
    """For optimizers that take all weights."""
    return True


def recurrent_matrices(name: str, shape: tuple[int, ...], one_hot: bool) -> bool:
    """The recurrent layers' matrices; the first layer's input matrix of one-hot inputs is an embedding, and is not."""
    return name.startswith("rnn.") and len(shape) == 2 and not (one_hot and name == "rnn.0.weight_ih")


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimizerSpec:
    """An optimizer.

    update              a subclass of `charlm.training.optim.Optimizer`, or its place
    quantities          what it remembers of a weight, in the weight's shape
    scalars             what it remembers of a weight as one number
    takes               whether a weight (name, shape, whether inputs are one-hot) follows it; others follow AdamW
    default_lr          peak learning rate where the user gives none
    lr_follows_updates  whether a run of few updates wants a larger one
    """

    update: str | Callable[..., Any]
    quantities: tuple[str, ...]
    scalars: tuple[str, ...] = ()
    takes: Callable[[str, tuple[int, ...], bool], bool] = every_weight
    default_lr: float
    lr_follows_updates: bool = False

    def load_update(self) -> Callable[..., Any]:
        """The class that updates weights; imports torch."""
        return resolve(self.update)  # type: ignore[no-any-return]


def optimizer_shapes(config: Config, weights: Shapes) -> Shapes:
    """Name and shape of all that a run's optimizers remember of these weights: optimizer.<quantity>.<weight>."""
    shapes: Shapes = {}
    for name, shape in weights.items():
        spec = spec_of(config.optim.optimizer, name, shape, one_hot=not config.model.embedding)
        shapes |= {f"{PREFIX}{quantity}.{name}": shape for quantity in spec.quantities}
        shapes |= {f"{PREFIX}{scalar}.{name}": () for scalar in spec.scalars}
    return shapes


def spec_of(optimizer: str, name: str, shape: tuple[int, ...], *, one_hot: bool) -> OptimizerSpec:
    """What a weight follows in a run with this optimizer."""
    chosen: OptimizerSpec = OPTIMIZERS[optimizer]
    others: OptimizerSpec = OPTIMIZERS[OTHERS]
    return chosen if chosen.takes(name, shape, one_hot) else others


MUON: Final = OptimizerSpec(
    update="charlm.training.optim:Muon",
    quantities=("momentum",),
    takes=recurrent_matrices,
    default_lr=0.02,
    lr_follows_updates=True,
)
ADAMW: Final = OptimizerSpec(
    update="charlm.training.optim:AdamW", quantities=("exp_avg", "exp_avg_sq"), scalars=("step",), default_lr=0.005
)
RMSPROP: Final = OptimizerSpec(
    update="charlm.training.optim:RMSProp", quantities=("square_avg",), scalars=("step",), default_lr=0.002
)
