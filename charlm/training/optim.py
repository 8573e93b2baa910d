"""How weights follow gradients: AdamW, RMSProp, Muon; clipping; loss scaling. docs/mathematics.md has the equations.

Whatever the optimizer, weight decay is decoupled (Loshchilov and Hutter 2019) and touches matrices only. Every tensor
of an optimizer's state has a name made of the weight's, so that a checkpoint can hold it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from math import prod
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.optim import adam, rmsprop

from charlm.config import OPTIMIZERS, OptimConfig
from charlm.models.optimizers import PREFIX, OptimizerSpec
from charlm.runtime.group import ALONE, Group

ADAMW_SHARE: Final = 0.5  # weights that an optimizer does not take follow AdamW, at this share of its learning rate
_NEWTON_SCHULZ: Final = (3.4445, -4.7750, 2.0315)  # Jordan et al. 2024
_ITERATIONS: Final = 3
_MOMENTUM: Final = 0.95
MUON_EVERY: Final = 4  # steps between Muon's updates; docs/log.md has what others cost


class Optimizer(ABC):
    """How some weights follow their gradients; what is remembered of each lies in `state`, by quantity.

    `charlm.models.optimizers` has what else there is to know of each. Subclasses call torch's kernels directly: its
    optimizer classes import torch's compiler, a second's work, when the first of them is made.
    """

    def __init__(self, weights: Iterable[Tensor], lr: float, **_: object) -> None:
        self.weights, self.lr = list(weights), lr
        self.state: dict[Tensor, dict[str, Tensor]] = {}

    @torch.no_grad()
    def step(self, rate: float = 1.0, number: int = 0) -> None:
        """Change the weights in place, at this share of the peak learning rate; steps are numbered from 0."""
        self._update(self.lr * rate, number)

    @abstractmethod
    def _update(self, lr: float, number: int) -> None: ...

    def takes_longer(self, number: int) -> bool:  # noqa: ARG002
        """Whether the update of this step takes longer than most."""
        return False

    def remembered(self, quantity: str, *, scalar: bool = False) -> list[Tensor]:
        """This quantity of every weight, zero before the first step; a `scalar` is one number."""
        for weight in self.weights:
            state = self.state.setdefault(weight, {})
            if quantity not in state:
                state[quantity] = weight.new_zeros(()) if scalar else torch.zeros_like(weight)
        return [self.state[weight][quantity] for weight in self.weights]

    @property
    def gradients(self) -> list[Tensor]:
        return [weight.grad for weight in self.weights if weight.grad is not None]


class AdamW(Optimizer):
    """Kingma and Ba 2015, with beta 0.9 and 0.99; weight decay as in Loshchilov and Hutter 2019."""

    def _update(self, lr: float, number: int) -> None:  # noqa: ARG002
        adam.adam(
            self.weights,
            self.gradients,
            self.remembered("exp_avg"),
            self.remembered("exp_avg_sq"),
            [],
            self.remembered("step", scalar=True),
            fused=self.weights[0].device.type in ("cpu", "cuda"),
            amsgrad=False,
            beta1=0.9,
            beta2=0.99,
            lr=lr,
            weight_decay=0,
            eps=1e-8,
            maximize=False,
        )


class RMSProp(Optimizer):
    """Tieleman and Hinton 2012, with a decay of 0.95."""

    def _update(self, lr: float, number: int) -> None:  # noqa: ARG002
        rmsprop.rmsprop(
            self.weights,
            self.gradients,
            self.remembered("square_avg"),
            [],
            [],
            self.remembered("step", scalar=True),
            lr=lr,
            alpha=0.95,
            eps=1e-8,
            weight_decay=0,
            momentum=0,
            centered=False,
        )


class Muon(Optimizer):
    """Orthogonalised momentum (Jordan et al. 2024), gate by gate, at every fourth step.

    At each step m <- 0.95 m + g. At every fourth, u = g + 0.95 m (Nesterov) and w <- w - 4 lr orthogonal(u), for each
    gate's block [H, width] by itself: the matrices of a gated layer are stacks of independent ones. Momentum changes so
    slowly that updates at the steps between would hardly differ, and orthogonalisation is what takes time. Blocks of
    one shape are one batched product. Of many processes each orthogonalises some of the blocks, for all of them.
    """

    def __init__(
        self,
        weights: Iterable[Tensor],
        lr: float,
        *,
        hidden: int,
        arithmetic: torch.dtype = torch.float32,
        group: Group = ALONE,
        **_: object,
    ) -> None:
        super().__init__(weights, lr)
        self.hidden, self.arithmetic, self.group = hidden, arithmetic, group

    def _update(self, lr: float, number: int) -> None:
        momenta, gradients = self.remembered("momentum"), self.gradients
        torch._foreach_mul_(momenta, _MOMENTUM)
        torch._foreach_add_(momenta, gradients)
        if not self.takes_longer(number):
            return
        blocks = [block for weight in self.weights for block in torch.split(weight, self.hidden)]
        nesterov = torch._foreach_add(gradients, momenta, alpha=_MOMENTUM)
        updates = self._orthogonalised([part for update in nesterov for part in torch.split(update, self.hidden)])
        torch._foreach_add_(blocks, updates, alpha=-lr * MUON_EVERY)

    def takes_longer(self, number: int) -> bool:
        """Whether this step orthogonalises."""
        return number % MUON_EVERY == 0

    def _orthogonalised(self, blocks: Sequence[Tensor]) -> list[Tensor]:
        """`orthogonal` of each block, on the process that it is dealt to; all processes get all of them."""
        of = dealt([tuple(block.shape) for block in blocks], self.group.size)
        by_rank = [[number for number, rank in enumerate(of) if rank == one] for one in range(self.group.size)]
        own = _by_shape([blocks[number] for number in by_rank[self.group.rank]], self.arithmetic)
        if self.group.size == 1:
            return own
        flat = torch.cat([block.reshape(-1) for block in own] or [blocks[0].new_zeros(0)])
        counts = [sum(blocks[number].numel() for number in numbers) for numbers in by_rank]
        order = [number for numbers in by_rank for number in numbers]
        parts = torch.split(self.group.gather(flat, counts), [blocks[number].numel() for number in order])
        found = dict(zip(order, parts, strict=True))
        return [found[number].view_as(block) for number, block in enumerate(blocks)]


def _by_shape(blocks: Sequence[Tensor], arithmetic: torch.dtype) -> list[Tensor]:
    """`orthogonal` of each block; those of one shape are one batched product."""
    shapes: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for number, block in enumerate(blocks):
        shapes[tuple(block.shape)].append(number)
    found: dict[int, Tensor] = {}
    for numbers in shapes.values():
        found |= zip(numbers, orthogonal(torch.stack([blocks[number] for number in numbers]), arithmetic), strict=True)
    return [found[number] for number in range(len(blocks))]


def dealt(shapes: Sequence[tuple[int, ...]], processes: int) -> list[int]:
    """To which process each matrix goes: the one that takes longest first, each to the one with the least so far.

    An orthogonalisation takes the time of its products: rows x columns x the smaller of them.

    >>> dealt([(4, 4), (4, 2), (4, 4), (4, 2), (4, 2)], 2), dealt([(4, 4)] * 3, 1)
    ([0, 0, 1, 1, 0], [0, 0, 0])
    """
    costs = [prod(shape) * min(shape) for shape in shapes]
    load, of = [0] * processes, [0] * len(shapes)
    for number in sorted(range(len(shapes)), key=lambda number: -costs[number]):
        of[number] = load.index(min(load))
        load[of[number]] += costs[number]
    return of


def orthogonal(matrices: Tensor, arithmetic: torch.dtype = torch.float32) -> Tensor:
    """Nearly U V^T for each matrix U S V^T [N, rows, columns], by three quintic Newton-Schulz steps.

    A step X <- a X + b (X X^T) X + c (X X^T)^2 X maps each singular value s to a s + b s^3 + c s^5 and leaves U and V
    as they are; the coefficients push every s towards 1. Dividing by the Frobenius norm first puts all of them in
    (0, 1]. After three steps they lie between 0.3 and 1.21 where the input's are at least a hundredth of its norm,
    which is all that an update needs.
    """
    a, b, c = _NEWTON_SCHULZ
    tall = matrices.shape[1] > matrices.shape[2]
    x = (matrices.mT if tall else matrices).to(arithmetic)
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(_ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    result: Tensor = (x.mT if tall else x).to(matrices.dtype)
    return result


class WeightUpdate:
    """The optimizer of an `OptimConfig` over named weights, with AdamW for those that it does not take.

    `hidden` is the number of units of a layer, `arithmetic` the type of Muon's products, `group` shares them out.
    """

    def __init__(
        self,
        config: OptimConfig,
        weights: Mapping[str, torch.nn.Parameter],
        hidden: int,
        arithmetic: torch.dtype = torch.float32,
        group: Group = ALONE,
    ) -> None:
        self.config, self.weights = config, dict(weights)
        chosen: OptimizerSpec = OPTIMIZERS[config.optimizer]
        one_hot = "embedding.weight" not in weights
        taken = {name for name, weight in weights.items() if chosen.takes(name, tuple(weight.shape), one_hot)}
        own = [weight for name, weight in weights.items() if name in taken]
        others = [weight for name, weight in weights.items() if name not in taken]
        self.optimizers: list[Optimizer] = []
        if own:
            update = chosen.load_update()
            self.optimizers.append(update(own, config.lr, hidden=hidden, arithmetic=arithmetic, group=group))
        if others:
            self.optimizers.append(AdamW(others, config.lr * (ADAMW_SHARE if own else 1)))

    @torch.no_grad()
    def step(self, rate: float, number: int) -> None:
        """One update, at this share of the peak learning rate; steps are numbered from 0."""
        for optimizer in self.optimizers:
            if self.config.weight_decay:
                matrices = [weight for weight in optimizer.weights if weight.dim() > 1]
                torch._foreach_mul_(matrices, 1 - optimizer.lr * rate * self.config.weight_decay)
            optimizer.step(rate, number)

    def takes_longer(self, number: int) -> bool:
        """Whether the update of this step takes longer than most, for any of the optimizers."""
        return any(optimizer.takes_longer(number) for optimizer in self.optimizers)

    @property
    def has_begun(self) -> bool:
        """Whether there has been an update since the first weights, or since a restart without momentum."""
        return any(any(optimizer.state.values()) for optimizer in self.optimizers)

    def export(self) -> dict[str, NDArray[np.float32]]:
        """State by name: optimizer.<quantity>.<weight>, as in optimizer.exp_avg.head.bias."""
        return {
            f"{PREFIX}{quantity}.{name}": tensor.detach().cpu().numpy().copy()
            for name, weight in self.weights.items()
            for optimizer in self.optimizers
            for quantity, tensor in optimizer.state.get(weight, {}).items()
        }

    def restore(self, arrays: Mapping[str, NDArray[np.float32]]) -> None:
        """The inverse of `export`, for a checkpoint's tensors, which have been checked when it was loaded."""
        for optimizer in self.optimizers:
            for weight in optimizer.weights:
                name = next(n for n, w in self.weights.items() if w is weight)
                suffix = "." + name
                optimizer.state[weight] = {
                    key[len(PREFIX) : -len(suffix)]: torch.from_numpy(array.copy()).to(weight.device)
                    for key, array in arrays.items()
                    if key.startswith(PREFIX) and key.endswith(suffix)
                }


def clip(weights: Iterable[Tensor], threshold: float, mode: str) -> Tensor:
    """Clip gradients in place; returns their global norm before that.

    norm: g <- g * threshold / max(|g|, threshold), |g| over all weights (Pascanu et al. 2013); value: each entry into
    [-threshold, threshold]. A threshold of 0 leaves them alone.
    """
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    if threshold and mode == "norm":
        torch._foreach_mul_(gradients, threshold / norm.clamp(min=threshold))
    elif threshold:
        torch._foreach_clamp_min_(gradients, -threshold)
        torch._foreach_clamp_max_(gradients, threshold)
    return norm


class LossScale:
    """Dynamic loss scaling for fp16 (Micikevicius et al. 2018).

    The scale is halved at an overflow, whose step is skipped, and doubled after 2,000 good steps.
    """

    def __init__(self, enabled: bool, scale: float = 65536.0, good: int = 0) -> None:
        self.enabled = enabled
        self.scale, self.good = (scale, good) if enabled else (1.0, 0)

    def unscale(self, weights: Iterable[Tensor]) -> None:
        if self.enabled:
            torch._foreach_mul_([weight.grad for weight in weights if weight.grad is not None], 1 / self.scale)

    def update(self, finite: bool) -> bool:
        """Note whether the gradient was finite; True if the step has to be skipped on that account."""
        if not self.enabled:
            return False
        if not finite:
            self.scale, self.good = self.scale / 2, 0
            return self.scale >= 1  # below that, overflow is not the scale's doing
        self.good += 1
        if self.good == 2000:
            self.scale, self.good = self.scale * 2, 0
        return False
