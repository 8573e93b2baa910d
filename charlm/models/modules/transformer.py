"""The layer of `charlm.models.transformer` in torch.

Legend: T tokens of a chunk, B lanes, E input width, H hidden units, n characters of the window, D = H / heads; of a
block, Q queries and K = n - 1 + Q keys.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from charlm.models.architecture import Place
from charlm.models.modules.layer import Layer
from charlm.models.network import Parts
from charlm.models.transformer import BASE, EPSILON, heads_of

_BLOCK = 64  # queries that are computed together, or n: each has n keys, whose number a longer block would exceed
_QUIET = 0.25  # the last norm's first scale: with 1 the first predictions would be far from uniform


class Transformer(Layer):
    """Inputs [T, B, E] to outputs [T, B, H]; the keys and values before, and their number, are carried."""

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._heads, self._n, self._layers = heads_of(place.config), place.config.context, place.config.layers
        self._is_last = place.is_last

    def initialise(self, generator: torch.Generator) -> None:
        """As in GPT-2, what is added to the input is smaller the more layers there are."""
        super().initialise(generator)
        for name in ("weight_attention", "weight_down"):
            self.get_parameter(name).mul_(1 / math.sqrt(2 * self._layers))
        for name in ("norm_attention", "norm_mlp"):
            self.get_parameter(name).fill_(1)
        if self._is_last:
            self.get_parameter("norm_last").fill_(_QUIET)

    def forward(self, x_TBE: Tensor, state: Parts) -> tuple[Tensor, Parts]:
        x_TBH = self.enter(x_TBE)
        attended, after = self._attend(self._product("qkv", self._norm("norm_attention", x_TBH)), state)
        x_TBH = x_TBH + self._product("attention", attended)
        wide = F.gelu(self._product("up", self._norm("norm_mlp", x_TBH)), approximate="tanh")
        x_TBH = x_TBH + self._product("down", wide)
        return self._norm("norm_last", x_TBH) if self._is_last else x_TBH, after

    def _norm(self, name: str, x: Tensor) -> Tensor:
        scale, shift = self.get_parameter(name), self.get_parameter(f"{name}_bias")
        return F.layer_norm(x, (self.hidden,), scale, shift, EPSILON)

    def _product(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self.get_parameter(f"weight_{name}"), self.get_parameter(f"bias_{name}"))

    def _attend(self, qkv: Tensor, state: Parts) -> tuple[Tensor, Parts]:
        """From queries, keys and values [T, B, 3 H] to what is attended to [T, B, H]."""
        steps, lanes = qkv.shape[:2]
        query, key, value = qkv.transpose(0, 1).chunk(3, dim=2)
        keys, values = (self._joined(past, new) for past, new in ((state[0], key), (state[1], value)))
        size = max(_BLOCK, self._n)
        blocks = [self._block(query, keys, values, state[2], at, size) for at in range(0, steps, size)]
        carried = (part[:, steps:].reshape(lanes, -1) for part in (keys, values))
        return torch.cat(blocks, dim=1).transpose(0, 1), (*carried, (state[2] + steps).clamp(max=self._n - 1))

    def _joined(self, past: Tensor, new: Tensor) -> Tensor:
        """What is carried, and after it what is new [B, n - 1 + T, H]."""
        return torch.cat([past.view(len(new), self._n - 1, self.hidden).to(new.dtype), new], dim=1)

    def _block(self, query: Tensor, keys: Tensor, values: Tensor, count: Tensor, at: int, size: int) -> Tensor:
        """What the queries from `at` on attend to [B, Q, H]; query i of them is at place n - 1 + i of its keys."""
        query = query[:, at : at + size]
        before, length = self._n - 1, self._n - 1 + query.shape[1]
        cos, sin = self._turns(length, query)
        turned = _turned(self._split(query), cos[before:], sin[before:])
        turned_keys = _turned(self._split(keys[:, at : at + length]), cos, sin)
        place = torch.arange(length, device=query.device)
        behind = place[before:, None] - place
        seen = ((behind >= 0) & (behind <= before)) & (place + at >= before - count).unsqueeze(1)
        attended = F.scaled_dot_product_attention(
            turned, turned_keys, self._split(values[:, at : at + length]), attn_mask=seen.unsqueeze(1)
        )
        return attended.transpose(1, 2).flatten(2)

    def _split(self, x: Tensor) -> Tensor:
        """Head by head [B, heads, .., D]."""
        return x.reshape(*x.shape[:2], self._heads, -1).transpose(1, 2)

    def _turns(self, length: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """For `_turned` at each of so many places [K, D], in the type of these values."""
        weight, width = self.get_parameter("bias_qkv"), self.hidden // self._heads
        place = torch.arange(length, dtype=weight.dtype, device=weight.device)
        pair = torch.arange(width // 2, dtype=weight.dtype, device=weight.device)
        turn = place[:, None] * BASE ** (-2 * pair / width)
        cos, sin = turn.cos().to(like.dtype), turn.sin().to(like.dtype)
        return torch.cat([cos, cos], dim=1), torch.cat([-sin, sin], dim=1)


def _turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """The units i and i + D / 2 of each head as points in a plane, turned: by cos, cos and by -sin, sin [.., D]."""
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, dims=-1), sin)
