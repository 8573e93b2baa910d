"""GRU and tanh layers that are fast on a processor; on other devices they are PyTorch's own.

PyTorch fuses its LSTM on processors, but not these two. Here W_i x is one matrix product for a whole chunk, as is the
gradient of each matrix, and a step is one product and a few element-wise operations in place.

The GRU is that of Cho et al. (2014), "Learning phrase representations using RNN encoder-decoder", in PyTorch's form:

    r = sigmoid(W_ir x + b_ir + W_hr h + b_hr)    n = tanh(W_in x + b_in + r u)    u = W_hn h + b_hn
    z = sigmoid(W_iz x + b_iz + W_hz h + b_hz)    h' = n + z (h - n)

A tanh layer has h' = n = tanh(W_i x + b_i + W_h h + b_h).

Legend: T tokens of a chunk, B lanes, E input width, H hidden units, G blocks of H: n r z u for a GRU, n for a tanh
layer; K of them, 3 or 1, are rows of each matrix. In this order the blocks that x enters (n r z) are adjacent, and so
are those that h enters (r z u). PyTorch's matrices have the order r z n.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


class GRU(nn.GRU):
    """One layer: inputs [T, B, E] and a state [1, B, H] to the states after each input [T, B, H] and the last state.

    Under autocast, matrix products are computed in its type and everything else in that of the weights.
    """

    def forward(self, x_TBE: Tensor, h_1BH: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        return _read_chunk(self, x_TBE, h_1BH) if x_TBE.device.type == "cpu" else super().forward(x_TBE, h_1BH)


class RNN(nn.RNN):
    """A layer of tanh units, with the same inputs and outputs as `GRU`."""

    def forward(self, x_TBE: Tensor, h_1BH: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        return _read_chunk(self, x_TBE, h_1BH) if x_TBE.device.type == "cpu" else super().forward(x_TBE, h_1BH)


def _read_chunk(layer: nn.RNNBase, x_TBE: Tensor, h_1BH: Tensor) -> tuple[Tensor, Tensor]:
    (T, B, E), H = x_TBE.shape, layer.hidden_size
    w_ih, w_hh, b_ih, b_hh = layer.parameters()
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else w_hh.dtype
    apart = H if len(w_hh) > H else 0  # a GRU has the blocks n, which only x enters, and u, which only h enters
    bias = F.pad(b_ih.roll(H), (0, apart)) + F.pad(b_hh, (apart, 0))
    factors = x_TBE.reshape(T * B, E).to(dtype), w_ih.roll(H, 0).to(dtype), w_hh.to(dtype)
    y_TBH: Tensor = _Chunk.apply(h_1BH[0], bias, *factors)  # type: ignore[no-untyped-call]
    return y_TBH, y_TBH[-1:].clone()  # a view would keep the whole chunk in memory as long as the state


class _Chunk(torch.autograd.Function):
    """h0 [B, H], bias [GH], x [TB, E], w_ih [KH, E] with blocks n r z, and w_hh [KH, H] to states [T, B, H]."""

    @staticmethod
    def forward(ctx: Any, h0: Tensor, bias: Tensor, x: Tensor, w_ih: Tensor, w_hh: Tensor) -> Tensor:
        (B, H), KH, GH = h0.shape, len(w_hh), len(bias)
        h = bias.new_empty(len(x) // B + 1, B, H)
        h[0] = h0
        blocks = bias.new_empty(len(h) - 1, B, GH) if GH > H else h[1:]  # in a tanh layer n becomes the state in place
        blocks[:] = bias
        _add_product(blocks.view(-1, GH)[:, :KH], x, w_ih.t())
        w = w_hh.t().contiguous()  # for few rows, up to twice as fast as the transposed view
        n, *gates = (block.unbind() for block in blocks.view(-1, B, GH // H, H).unbind(2))
        rzu, rz, hs = blocks[..., -KH:].unbind(), blocks[..., H:KH].unbind(), h.unbind()
        if gates:
            r, z, u = gates
        for t in range(len(n)):
            _add_product(rzu[t], hs[t], w)
            if gates:
                rz[t].sigmoid_()
                n[t].addcmul_(r[t], u[t])
            n[t].tanh_()
            if gates:
                torch.lerp(n[t], hs[t], z[t], out=hs[t + 1])
        ctx.save_for_backward(x, w_ih, w_hh, h, blocks)
        return h[1:]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, w_ih, w_hh, h, blocks = ctx.saved_tensors
        (T, B, H), KH = dy.shape, len(w_hh)
        d = _slopes(blocks.view(T, B, -1, H), h[:-1])
        ds, rzu = d.unbind(), d.view(T, B, -1)[..., -KH:].unbind()
        z = blocks[..., 2 * H : KH].unbind() if KH > H else h.new_zeros(T).unbind()  # a tanh layer has no update gate
        above, turns = (torch.zeros_like(h[0]), *dy.unbind()), torch.empty_like(h[:2]).unbind()
        dh = above[T]
        for t in reversed(range(T)):
            ds[t].mul_(dh.unsqueeze(1))
            dh = torch.addcmul(above[t], dh, z[t], out=turns[t % 2])
            _add_product(dh, rzu[t], w_hh)
        d = d.view(T * B, -1)
        dbias, d = d.sum(0), d.to(x.dtype)
        of_x, of_h = d[:, :KH], d[:, -KH:]
        dx = of_x @ w_ih if ctx.needs_input_grad[2] else None
        return dh, dbias, dx, of_x.t() @ x, of_h.t() @ h[:-1].view(T * B, H).to(x.dtype)


def _slopes(blocks_TBGH: Tensor, h_TBH: Tensor) -> Tensor:
    """The derivative of h' by each block before its sigmoid or tanh [T, B, G, H].

    The gradient of a block is the gradient of h' times this. The derivatives do not depend on later steps, so they are
    computed for all steps at once, and the backward pass over time only multiplies.
    """
    slopes = torch.empty_like(blocks_TBGH)
    (n, *gates), (dn, *dgates) = blocks_TBGH.unbind(2), slopes.unbind(2)
    torch.addcmul(n.new_ones(()), n, n, value=-1, out=dn)
    if gates:
        (r, z, u), (dr, dz, du), keep = gates, dgates, 1 - gates[1]
        torch.mul(dn.mul_(keep), r, out=du)
        torch.mul(du, u, out=dr).mul_(1 - r)
        torch.sub(h_TBH, n, out=dz).mul_(z).mul_(keep)
    return slopes


def _add_product(into: Tensor, a: Tensor, b: Tensor) -> None:
    """into += a b, with the product computed in the type of b."""
    if into.dtype == b.dtype:
        into.addmm_(a, b)
    else:
        into += torch.mm(a.to(b.dtype), b)
