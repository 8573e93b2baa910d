"""A layer of leaky units in torch, for chunks, with kernels like those of `charlm.models.recurrence`.

    n = tanh(W_i x + b + W_h h)    h' = h + a (n - h)    a = sigmoid(rate)

Legend: T tokens of a chunk, B lanes, N inputs in all (T B, or fewer where rows are of different lengths), E input
width, H hidden units.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from charlm.models.modules.layer import OfStates
from charlm.models.recurrence import State, add_product, product_type, states_before

_FASTEST: Final = 4.0
_SLOWEST: Final = -2.0


def spread_rates(units: int) -> Tensor:
    """Initial rates of units [H], evenly spread: a from 0.98 to 0.12, 1 / a from 1 to 8.4 characters."""
    return torch.linspace(_FASTEST, _SLOWEST, units)


class Leaky(OfStates):
    """Inputs [T, B, E] and the states before them ([B, H],) to the states after each [T, B, H] and the last ones."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.weight_ih = nn.Parameter(torch.empty(hidden, width))
        self.weight_hh = nn.Parameter(torch.empty(hidden, hidden))
        self.bias_ih = nn.Parameter(torch.empty(hidden))
        self.rate = nn.Parameter(torch.empty(hidden))

    def initialise(self, generator: torch.Generator) -> None:
        nn.init.xavier_uniform_(self.weight_ih, generator=generator)
        nn.init.orthogonal_(self.weight_hh, generator=generator)
        self.bias_ih.zero_()
        self.rate.copy_(spread_rates(len(self.rate)))

    def states(self, x_NE: Tensor, rows: list[int], state: State) -> Tensor:
        dtype = product_type(self.weight_hh)
        factors = (factor.to(dtype) for factor in (x_NE, self.weight_ih, self.weight_hh))
        states: Tensor = _Chunk.apply(  # type: ignore[no-untyped-call]
            state[0], self.rate.sigmoid(), self.bias_ih, *factors, rows
        )
        return states


class _Chunk(torch.autograd.Function):
    """h0 [B, H], a [H], bias [H], x [N, E], w_ih [H, E] and w_hh [H, H] to states [N, H].

    At each time the first so many `rows` have an input, no more than at the time before.
    """

    @staticmethod
    def forward(
        ctx: Any, h0: Tensor, a: Tensor, bias: Tensor, x: Tensor, w_ih: Tensor, w_hh: Tensor, rows: list[int]
    ) -> Tensor:
        n = bias.repeat(len(x), 1)
        add_product(n, x, w_ih.t())
        w, h = w_hh.t().contiguous(), torch.empty_like(n)
        ns, hs = n.split_with_sizes(rows), h.split_with_sizes(rows)
        state = h0
        for t, count in enumerate(rows):
            add_product(ns[t], state[:count], w)
            ns[t].tanh_()
            state = torch.lerp(state[:count], ns[t], a, out=hs[t])
        ctx.rows = rows
        ctx.save_for_backward(x, w_ih, w_hh, h0, a, h, n)
        return h

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        (x, w_ih, w_hh, h0, a, h, n), rows = ctx.saved_tensors, ctx.rows
        before, keep = states_before(h0, h, rows), 1 - a
        d = torch.addcmul(a, a * n, n, value=-1)  # the derivative of h' by what tanh reads; then its gradient
        dh = torch.empty_like(h).copy_(dy)  # the gradient of h' by the loss at its time; then by all that follows
        ds, dhs, later = d.split_with_sizes(rows), dh.split_with_sizes(rows), torch.zeros_like(h0)
        for t in reversed(range(len(rows))):
            earlier = later[: rows[t]]
            ds[t].mul_(dhs[t].add_(earlier))
            torch.mul(dhs[t], keep, out=earlier)
            add_product(earlier, ds[t], w_hh)
        da, dbias, d = (dh * (n - before)).sum(0), d.sum(0), d.to(x.dtype)
        dx = d @ w_ih if ctx.needs_input_grad[3] else None
        return later, da, dbias, dx, d.t() @ x, d.t() @ before.to(x.dtype), None
