"""Recurrent layers that are fast on a processor; on other devices they are PyTorch's own.

PyTorch fuses its LSTM on processors, but not the other two, and none for rows of different lengths. Here W_i x is one
matrix product for a whole chunk, as is the gradient of each matrix, and a step is one product and a few element-wise
operations in place.

The GRU is that of Cho et al. (2014), "Learning phrase representations using RNN encoder-decoder", in PyTorch's form:

    r = sigmoid(W_ir x + b_ir + W_hr h + b_hr)    n = tanh(W_in x + b_in + r u)    u = W_hn h + b_hn
    z = sigmoid(W_iz x + b_iz + W_hz h + b_hz)    h' = n + z (h - n)

A tanh layer has h' = n = tanh(W_i x + b_i + W_h h + b_h).

Legend: T tokens of a chunk, B lanes, N = T B inputs in all (fewer where rows are of different lengths), E input width,
H hidden units, G blocks of H: n r z u for a GRU, n for a tanh layer; K of them, 3 or 1, are rows of each matrix. In
this order the blocks that x enters (n r z) are adjacent, and so are those that h enters (r z u). PyTorch's matrices
have the order r z n.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence

State = tuple[Tensor, ...]  # of one layer, [B, H] each


class LSTM(nn.LSTM):
    """One layer of PyTorch's own, which is fast on a processor too, but for rows of different lengths.

    Those are read as those of a GRU are below, with the gates i f g o in PyTorch's order:

        c' = f c + i g    h' = o tanh(c')
    """

    def read_packed(self, x_NE: Tensor, rows: list[int], state: Sequence[Tensor]) -> tuple[Tensor, State]:
        """Like `GRU.read_packed`, for the states h and c."""
        if x_NE.device.type != "cpu":
            return _read_packed(super().forward, x_NE, rows, state)
        w_ih, w_hh, b_ih, b_hh = self.parameters()
        dtype = product_type(w_hh)
        h0, c0 = state
        y_NH, c_NH = _LSTMChunk.apply(  # type: ignore[no-untyped-call]
            h0, c0, b_ih + b_hh, x_NE.to(dtype), w_ih.to(dtype), w_hh.to(dtype), rows
        )
        last = last_places(rows, y_NH.device)
        return y_NH, (y_NH[last], c_NH[last])


class GRU(nn.GRU):
    """One layer: inputs [T, B, E] and a state [1, B, H] to the states after each input [T, B, H] and the last state.

    Under autocast, matrix products are computed in its type and everything else in that of the weights.
    """

    def forward(self, x_TBE: Tensor, h_1BH: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        return _read_chunk(self, x_TBE, h_1BH) if x_TBE.device.type == "cpu" else super().forward(x_TBE, h_1BH)

    def read_packed(self, x_NE: Tensor, rows: list[int], state: Sequence[Tensor]) -> tuple[Tensor, State]:
        """Rows of different lengths, from the longest to the shortest: y [N, H], and the state after each row.

        `rows` says how many rows have an input at each of T times; the N inputs lie time by time, as in PyTorch's
        PackedSequence. `state` has one part [B, H] here, where B is the number of rows.
        """
        if x_NE.device.type != "cpu":
            return _read_packed(super().forward, x_NE, rows, state)
        y_NH = _states(self, x_NE, rows, state[0])
        return y_NH, (y_NH[last_places(rows, y_NH.device)],)


class RNN(nn.RNN):
    """A layer of tanh units, with the same inputs and outputs as `GRU`."""

    def forward(self, x_TBE: Tensor, h_1BH: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        return _read_chunk(self, x_TBE, h_1BH) if x_TBE.device.type == "cpu" else super().forward(x_TBE, h_1BH)

    def read_packed(self, x_NE: Tensor, rows: list[int], state: Sequence[Tensor]) -> tuple[Tensor, State]:
        """Like `GRU.read_packed`."""
        if x_NE.device.type != "cpu":
            return _read_packed(super().forward, x_NE, rows, state)
        y_NH = _states(self, x_NE, rows, state[0])
        return y_NH, (y_NH[last_places(rows, y_NH.device)],)


def _read_packed(
    forward: Callable[..., Any], x_NE: Tensor, rows: list[int], state: Sequence[Tensor]
) -> tuple[Tensor, State]:
    """The same by PyTorch's own layers."""
    h = tuple(part.unsqueeze(0) for part in state)
    y, after = forward(PackedSequence(x_NE, torch.tensor(rows)), h if len(h) > 1 else h[0])
    parts = after if isinstance(after, tuple) else (after,)
    return y.data, tuple(part.squeeze(0) for part in parts)


def last_places(rows: list[int], device: torch.device) -> Tensor:
    """Where, among N inputs that lie time by time, the last one of each row is [B].

    >>> last_places([3, 3, 1], torch.device("cpu")).tolist()
    [6, 4, 5]
    """
    ends = np.cumsum(rows) - rows
    count = np.asarray(rows)
    lengths = (count[:, None] > np.arange(count[0])).sum(0)
    return torch.from_numpy(ends[lengths - 1] + np.arange(count[0])).to(device)


def _read_chunk(layer: nn.RNNBase, x_TBE: Tensor, h_1BH: Tensor) -> tuple[Tensor, Tensor]:
    T, B, E = x_TBE.shape
    y_TBH = _states(layer, x_TBE.reshape(T * B, E), [B] * T, h_1BH[0]).view(T, B, -1)
    return y_TBH, y_TBH[-1:].clone()  # a view would keep the whole chunk in memory as long as the state


def _states(layer: nn.RNNBase, x_NE: Tensor, rows: list[int], h_BH: Tensor) -> Tensor:
    """The state after each of N inputs [N, H], of which `rows` have one at each time."""
    H = layer.hidden_size
    w_ih, w_hh, b_ih, b_hh = layer.parameters()
    dtype = product_type(w_hh)
    apart = H if len(w_hh) > H else 0  # a GRU has the blocks n, which only x enters, and u, which only h enters
    bias = F.pad(b_ih.roll(H), (0, apart)) + F.pad(b_hh, (apart, 0))
    factors = x_NE.to(dtype), w_ih.roll(H, 0).to(dtype), w_hh.to(dtype)
    y_NH: Tensor = _Chunk.apply(h_BH, bias, *factors, rows)  # type: ignore[no-untyped-call]
    return y_NH


def product_type(weight: Tensor) -> torch.dtype:
    """The type in which matrix products are computed."""
    device = weight.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype


class _Chunk(torch.autograd.Function):
    """h0 [B, H], bias [GH], x [N, E], w_ih [KH, E] with blocks n r z, and w_hh [KH, H] to states [N, H].

    At each time the first so many `rows` have an input, no more than at the time before.
    """

    @staticmethod
    def forward(ctx: Any, h0: Tensor, bias: Tensor, x: Tensor, w_ih: Tensor, w_hh: Tensor, rows: list[int]) -> Tensor:
        H, KH, GH = h0.shape[1], len(w_hh), len(bias)
        h = bias.new_empty(len(x), H)
        blocks = bias.new_empty(len(x), GH) if GH > H else h  # in a tanh layer n becomes the state in place
        blocks[:] = bias
        add_product(blocks[:, :KH], x, w_ih.t())
        w = w_hh.t().contiguous()  # for few rows, up to twice as fast as the transposed view
        n, *gates = (block.split_with_sizes(rows) for block in blocks.view(len(x), GH // H, H).unbind(1))
        rzu, rz, hs = (part.split_with_sizes(rows) for part in (blocks[:, -KH:], blocks[:, H:KH], h))
        if gates:
            r, z, u = gates
        before = [state[:count] for state, count in zip((h0, *hs[:-1]), rows, strict=True)]
        for t in range(len(rows)):
            add_product(rzu[t], before[t], w)
            if gates:
                rz[t].sigmoid_()
                n[t].addcmul_(r[t], u[t])
            n[t].tanh_()
            if gates:
                torch.lerp(n[t], before[t], z[t], out=hs[t])
        ctx.rows = rows
        ctx.save_for_backward(x, w_ih, w_hh, h0, h, blocks)
        return h

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        (x, w_ih, w_hh, h0, h, blocks), rows = ctx.saved_tensors, ctx.rows
        (N, H), KH, T = h.shape, len(w_hh), len(rows)
        before = states_before(h0, h, rows)
        d = _slopes(blocks.view(N, -1, H), before)
        ds, rzu = d.split_with_sizes(rows), d.view(N, -1)[:, -KH:].split_with_sizes(rows)
        has_update = KH > H  # a tanh layer has no update gate
        z = (blocks[:, 2 * H : KH] if has_update else torch.zeros_like(h)).split_with_sizes(rows)
        above, turns = (
            (torch.zeros_like(h0), *dy.split_with_sizes(rows)),
            torch.empty(2, *h0.shape, dtype=h.dtype).unbind(),
        )
        dh = above[T]
        for t in reversed(range(T)):
            ds[t].mul_(dh.unsqueeze(1))
            count, wider = rows[t], len(above[t])
            after = turns[t % 2]
            torch.addcmul(above[t][:count], dh, z[t], out=after[:count])
            add_product(after[:count], rzu[t], w_hh)
            after[count:wider] = above[t][count:]  # rows that have ended by then
            dh = after[:wider]
        d = d.view(N, -1)
        dbias, d = d.sum(0), d.to(x.dtype)
        of_x, of_h = d[:, :KH], d[:, -KH:]
        dx = of_x @ w_ih if ctx.needs_input_grad[2] else None
        return dh, dbias, dx, of_x.t() @ x, of_h.t() @ before.to(x.dtype), None


def states_before(h0: Tensor, h: Tensor, rows: list[int]) -> Tensor:
    """The state before each of N inputs [N, H], from those after them and the first."""
    states = (h0, *h.split_with_sizes(rows)[:-1])
    return torch.cat([state[:count] for state, count in zip(states, rows, strict=True)])


class _LSTMChunk(torch.autograd.Function):
    """h0 and c0 [B, H], bias [4H], x [N, E], w_ih [4H, E] and w_hh [4H, H] to states h and c after each input [N, H].

    Rows are those of `_Chunk`. No gradient flows back from c: no chunk's loss depends on the state behind it.
    """

    @staticmethod
    def forward(
        ctx: Any, h0: Tensor, c0: Tensor, bias: Tensor, x: Tensor, w_ih: Tensor, w_hh: Tensor, rows: list[int]
    ) -> tuple[Tensor, Tensor]:
        N, H = len(x), h0.shape[1]
        gates = bias.repeat(N, 1)  # a copy for one input too
        add_product(gates, x, w_ih.t())
        w = w_hh.t().contiguous()
        h, c, tanh_c = bias.new_empty(3, N, H).unbind()
        i, f, g, o = (block.split_with_sizes(rows) for block in gates.view(N, 4, H).unbind(1))
        both, each, hs, cs, tanhs = (part.split_with_sizes(rows) for part in (gates[:, : 2 * H], gates, h, c, tanh_c))
        state, cell = h0, c0
        for t, count in enumerate(rows):
            add_product(each[t], state[:count], w)
            both[t].sigmoid_()
            g[t].tanh_()
            o[t].sigmoid_()
            torch.mul(f[t], cell[:count], out=cs[t])
            cs[t].addcmul_(i[t], g[t])
            torch.tanh(cs[t], out=tanhs[t])
            torch.mul(o[t], tanhs[t], out=hs[t])
            state, cell = hs[t], cs[t]
        ctx.rows = rows
        ctx.save_for_backward(x, w_ih, w_hh, h0, c0, h, c, tanh_c, gates)
        ctx.mark_non_differentiable(c)
        return h, c

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        x, w_ih, w_hh, h0, c0, h, c, tanh_c, gates = ctx.saved_tensors
        rows, (N, H) = ctx.rows, h.shape
        i, f, g, o = gates.view(N, 4, H).unbind(1)
        before = states_before(h0, h, rows)
        # What each gate's input changes c' (or, for o, h') by; none depends on what comes later.
        d = torch.empty_like(gates)
        di, df, dg, do = d.view(N, 4, H).unbind(1)
        by_sigmoid, by_tanh = torch.ops.aten.sigmoid_backward, torch.ops.aten.tanh_backward  # s (1 - s), 1 - t^2
        by_sigmoid.grad_input(g, i, grad_input=di)
        by_sigmoid.grad_input(states_before(c0, c, rows), f, grad_input=df)
        by_tanh.grad_input(i, g, grad_input=dg)
        by_sigmoid.grad_input(tanh_c, o, grad_input=do)
        of_c = by_tanh(o, tanh_c)
        each, of_h, of_cell, keep = (part.split_with_sizes(rows) for part in (d, do, of_c, f))
        ifg = d.view(N, 4, H)[:, :3].split_with_sizes(rows)
        dys = dy.split_with_sizes(rows)
        dh, dc = torch.zeros_like(h0), torch.zeros_like(c0)
        for t in reversed(range(len(rows))):
            count = rows[t]
            now = dh[:count] + dys[t]
            cell = dc[:count].addcmul_(now, of_cell[t])
            ifg[t].mul_(cell.unsqueeze(1))
            of_h[t].mul_(now)
            cell.mul_(keep[t])
            if each[t].dtype == w_hh.dtype:
                torch.mm(each[t], w_hh, out=dh[:count])
            else:
                dh[:count] = torch.mm(each[t].to(w_hh.dtype), w_hh)
        dbias, d = d.sum(0), d.to(x.dtype)
        dx = d @ w_ih if ctx.needs_input_grad[3] else None
        return dh, dc, dbias, dx, d.t() @ x, d.t() @ before.to(x.dtype), None


def _slopes(blocks_NGH: Tensor, h_NH: Tensor) -> Tensor:
    """The derivative of h' by each block before its sigmoid or tanh [N, G, H], from the states h before [N, H].

    The gradient of a block is the gradient of h' times this. The derivatives do not depend on later steps, so they are
    computed for all steps at once, and the backward pass over time only multiplies.
    """
    slopes = torch.empty_like(blocks_NGH)
    (n, *gates), (dn, *dgates) = blocks_NGH.unbind(1), slopes.unbind(1)
    torch.addcmul(n.new_ones(()), n, n, value=-1, out=dn)
    if gates:
        (r, z, u), (dr, dz, du), keep = gates, dgates, 1 - gates[1]
        torch.mul(dn.mul_(keep), r, out=du)
        torch.mul(du, u, out=dr).mul_(1 - r)
        torch.sub(h_NH, n, out=dz).mul_(z).mul_(keep)
    return slopes


def add_product(into: Tensor, a: Tensor, b: Tensor) -> None:
    """into += a b, with the product computed in the type of b."""
    if into.dtype == b.dtype:
        into.addmm_(a, b)
    else:
        into += torch.mm(a.to(b.dtype), b)
