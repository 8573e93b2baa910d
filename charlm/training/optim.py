"""How weights follow gradients: AdamW, RMSProp, Muon; clipping; loss scaling. docs/mathematics.md has the equations.

Whatever the rule, weight decay is decoupled (Loshchilov and Hutter 2019) and touches matrices only, and every tensor
of an optimizer's state has a name made of the weight's, so that a checkpoint can hold it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from charlm.config import OptimConfig

_PREFIX: Final = "optimizer."
MUON_TO_ADAM: Final = 0.25  # under Muon, what is no recurrent or input matrix follows AdamW at this share of its rate
_NEWTON_SCHULZ: Final = (3.4445, -4.7750, 2.0315)  # Jordan et al. 2024
_ITERATIONS: Final = 3


class Muon(torch.optim.Optimizer):
    """Momentum orthogonalised (Jordan et al. 2024), gate by gate.

    m <- 0.95 m + g;  u = g + 0.95 m;  w <- w - lr * orthogonal(u), for each gate's block [H, width] by itself, as the
    recurrent matrices of a gated network are stacks of independent ones. Blocks of one shape are one batched product.
    """

    def __init__(self, weights: Iterable[Tensor], *, lr: float, hidden: int, momentum: float = 0.95) -> None:
        super().__init__(list(weights), {"lr": lr, "momentum": momentum})
        self.hidden = hidden

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # noqa: ARG002
        for group in self.param_groups:
            shapes: dict[tuple[int, ...], list[tuple[Tensor, Tensor]]] = defaultdict(list)
            for weight in group["params"]:
                if "momentum" not in self.state[weight]:
                    self.state[weight]["momentum"] = torch.zeros_like(weight)
                momentum = self.state[weight]["momentum"]
                momentum.mul_(group["momentum"]).add_(weight.grad)
                update = weight.grad.add(momentum, alpha=group["momentum"])
                for block, part in zip(weight.split(self.hidden), update.split(self.hidden), strict=True):
                    shapes[tuple(part.shape)].append((block, part))
            for blocks in shapes.values():
                updates = orthogonal(torch.stack([part for _, part in blocks]))
                for (block, _), update in zip(blocks, updates, strict=True):
                    block.add_(update, alpha=-group["lr"])


def orthogonal(matrices: Tensor) -> Tensor:
    """Nearly U V^T for each matrix U S V^T [N, rows, columns]: three quintic Newton-Schulz steps in bf16.

    The result's singular values lie about 1, which is all that an update needs: from 0.3 to 1.21 where the input's are
    at least a hundredth of its Frobenius norm.
    """
    a, b, c = _NEWTON_SCHULZ
    tall = matrices.shape[1] > matrices.shape[2]
    x = (matrices.mT if tall else matrices).bfloat16()
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(_ITERATIONS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    result: Tensor = (x.mT if tall else x).to(matrices.dtype)
    return result


class Optimizer:
    """The rule of an `OptimConfig` over named weights; `rate` of a step is a share of the highest."""

    def __init__(self, config: OptimConfig, weights: Mapping[str, torch.nn.Parameter], hidden: int) -> None:
        self.config, self.weights = config, dict(weights)
        matrices = (
            {n: w for n, w in weights.items() if n.startswith("rnn.") and w.dim() == 2}
            if config.optimizer == "muon"
            else {}
        )
        others = [w for n, w in weights.items() if n not in matrices]
        fused = others[0].device.type in ("cpu", "cuda")
        if config.optimizer == "rmsprop":
            self._rules: list[tuple[torch.optim.Optimizer, float]] = [
                (torch.optim.RMSprop(others, lr=config.lr, alpha=0.95), config.lr)
            ]
        else:
            lr = config.lr * (MUON_TO_ADAM if matrices else 1)
            self._rules = [(torch.optim.Adam(others, lr=lr, betas=(0.9, 0.99), fused=fused), lr)]
        if matrices:
            self._rules.append((Muon(matrices.values(), lr=config.lr, hidden=hidden), config.lr))

    def step(self, rate: float) -> None:
        with torch.no_grad():
            for rule, lr in self._rules:
                group = rule.param_groups[0]
                group["lr"] = lr * rate
                if self.config.weight_decay:
                    matrices = [weight for weight in group["params"] if weight.dim() > 1]
                    torch._foreach_mul_(matrices, 1 - lr * rate * self.config.weight_decay)
                rule.step()

    def zero_grad(self) -> None:
        for weight in self.weights.values():
            weight.grad = None

    def export(self) -> dict[str, NDArray[np.float32]]:
        """State by name: optimizer.<quantity>.<weight>, as in optimizer.exp_avg.head.bias."""
        return {
            f"{_PREFIX}{quantity}.{name}": tensor.detach().cpu().numpy().copy()
            for name, weight in self.weights.items()
            for rule, _ in self._rules
            for quantity, tensor in rule.state.get(weight, {}).items()
        }

    def restore(self, arrays: Mapping[str, NDArray[np.float32]]) -> None:
        """The inverse of `export`; names that are not an optimizer's are passed over."""
        for rule, _ in self._rules:
            for weight in rule.param_groups[0]["params"]:
                name = next(n for n, w in self.weights.items() if w is weight)
                suffix = "." + name
                rule.state[weight] = {
                    key[len(_PREFIX) : -len(suffix)]: torch.from_numpy(array.copy()).to(weight.device)
                    for key, array in arrays.items()
                    if key.startswith(_PREFIX) and key.endswith(suffix)
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
