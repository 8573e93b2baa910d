"""A linear recurrence over a chunk, h' = a h + b element by element, and its gradient.

On a processor it is computed one step after another, which is least work. On a GPU, where every step would be a kernel,
it is computed in log2 T steps (Hillis and Steele 1986, "Data parallel algorithms"): a step with a, b and then one with
a', b' are together a step with a' a, a' b + b'. So neighbours are joined first, then pairs with the pairs before them.
Neither way takes a logarithm or divides: with a between 0 and 1 no intermediate value overflows.

Legend: T tokens of a chunk, N inputs in all, of which `rows` have one at each time, B rows, H units.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from charlm.models.recurrence import states_before


def scan(a_NH: Tensor, b_NH: Tensor, h_BH: Tensor, rows: list[int]) -> Tensor:
    """The state after each of N inputs [N, H], which lie time by time, from the states before the first [B, H]."""
    states: Tensor = _Scan.apply(a_NH, b_NH, h_BH, rows)  # type: ignore[no-untyped-call]
    return states


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, h0: Tensor, rows: list[int]) -> Tensor:
        ctx.rows = rows
        h = doubled(a, b, h0) if _is_parallel(a, rows) else stepped(a, b, h0, rows)
        ctx.save_for_backward(a, h, h0)
        return h

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        """The gradient of a state is that of its own loss and a' times that of the next state: a scan backwards."""
        (a, h, h0), rows = ctx.saved_tensors, ctx.rows
        if _is_parallel(a, rows):
            factors = torch.cat([a[len(h0) :], torch.zeros_like(h0)])
            dh = _reversed(doubled(_reversed(factors, h0), _reversed(dy, h0), torch.zeros_like(h0)), h0)
        else:
            dh = _stepped_back(a, dy, rows)
        dh0 = torch.zeros_like(h0)
        dh0[: rows[0]] = a[: rows[0]] * dh[: rows[0]]
        return dh * states_before(h0, h, rows), dh, dh0, None


def _is_parallel(a: Tensor, rows: list[int]) -> bool:
    return a.device.type != "cpu" and rows[0] == rows[-1]


def stepped(a_NH: Tensor, b_NH: Tensor, h_BH: Tensor, rows: list[int]) -> Tensor:
    """The states one after another."""
    out = torch.empty_like(b_NH)
    factors, terms, states = (part.split_with_sizes(rows) for part in (a_NH, b_NH, out))
    h = h_BH
    for t, count in enumerate(rows):
        h = torch.addcmul(terms[t], factors[t], h[:count], out=states[t])
    return out


def doubled(a_NH: Tensor, b_NH: Tensor, h_BH: Tensor) -> Tensor:
    """The same in log2 T steps, for rows of one length."""
    B = len(h_BH)
    a, b = a_NH, torch.cat([torch.addcmul(b_NH[:B], a_NH[:B], h_BH), b_NH[B:]])
    reach = B
    while reach < len(a):
        b = torch.cat([b[:reach], torch.addcmul(b[reach:], a[reach:], b[:-reach])])
        a = torch.cat([a[:reach], a[reach:] * a[:-reach]])
        reach *= 2
    return b


def _stepped_back(a_NH: Tensor, dy_NH: Tensor, rows: list[int]) -> Tensor:
    """The gradient of each state; rows that have ended get none from later times."""
    out = torch.empty_like(a_NH).copy_(dy_NH)
    factors, gradients = a_NH.split_with_sizes(rows), out.split_with_sizes(rows)
    for t in reversed(range(len(rows) - 1)):
        count = rows[t + 1]
        gradients[t][:count].addcmul_(factors[t + 1], gradients[t + 1])
    return out


def _reversed(part_NH: Tensor, h_BH: Tensor) -> Tensor:
    """The other way round in time."""
    return part_NH.view(-1, *h_BH.shape).flip(0).flatten(0, 1)
