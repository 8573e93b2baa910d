"""A causal transformer (Vaswani et al. 2017, "Attention is all you need") with a sliding window: without torch.

A layer is a block of attention and a block of two matrices, each behind a norm ("pre-norm") and added to its input:

    a(t) = x(t) + W_a attention(norm x) + b_a          y(t) = a(t) + W_d gelu(W_u norm a(t) + b_u) + b_d

and the last layer puts out norm y(t). A prediction attends to the last n inputs of a layer, the present one among them.
A lane carries keys and values of n - 1 of them, as in Transformer-XL (Dai et al. 2019), and how many there are: what
would lie before the text is masked. Positions are relative, by rotary embeddings (Su et al. 2021): the angles depend on
how far apart query and key are, so keys are carried without them, and a chunk may begin anywhere.

Inputs of another width than H are mapped to it first, by a matrix without bias. gelu is the approximation by tanh.

Legend: B lanes, E input width of a layer, H hidden units, n characters of the window (`context`), D = H / heads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import numpy as np

from charlm.config import ModelConfig
from charlm.errors import ConfigError
from charlm.models.architecture import (
    Architecture,
    Floats,
    LayerStep,
    Parts,
    Place,
    Shapes,
    entrance,
    entrance_shapes,
)
from charlm.options import UNTOUCHED, Value

EPSILON: Final = 1e-5  # added to the variance by norms
BASE: Final = 100.0  # with the paper's 10,000, most angles would hardly turn within a window (docs/log.md)
_HEAD: Final = 32  # units of a head, by default at least


def heads_of(config: ModelConfig) -> int:
    """The number of heads, given or by width: as many as have 32 units at least, and an even number of them.

    >>> [heads_of(ModelConfig(hidden=hidden)) for hidden in (32, 128, 192, 200, 512)]
    [1, 4, 6, 5, 16]
    """
    most = max(1, config.hidden // _HEAD)
    return config.heads or next((heads for heads in range(most, 0, -1) if config.hidden % (2 * heads) == 0), 1)


class Transformer(Architecture):
    """Layers of attention over a window; a lane carries keys and values, the oldest first, and their number."""

    options = ("context", "heads")
    defaults: Mapping[str, Value] = {"layers": 4, "context": 128}
    layer = "charlm.models.modules.transformer:Transformer"
    slowness = 1.75

    def by_size(self, config: ModelConfig) -> Mapping[str, Value]:
        return {"heads": heads_of(config)}

    def check(self, config: ModelConfig) -> None:
        heads = heads_of(config)
        if config.hidden % (2 * heads):
            raise ConfigError(
                f"--heads {heads} needs a --hidden that is a multiple of {2 * heads}, so that all heads have the same "
                f"even width, not {config.hidden}",
                kept=UNTOUCHED,
                hint=f"--hidden {-(-config.hidden // (2 * heads)) * 2 * heads} is one",
            )

    def shapes(self, place: Place) -> Shapes:
        hidden = place.config.hidden
        return {
            **entrance_shapes(place),
            **_norm("norm_attention", hidden),
            **_linear("qkv", 3 * hidden, hidden),
            **_linear("attention", hidden, hidden),
            **_norm("norm_mlp", hidden),
            **_linear("up", 4 * hidden, hidden),
            **_linear("down", hidden, 4 * hidden),
            **(_norm("norm_last", hidden) if place.is_last else {}),
        }

    def states(self, place: Place) -> Mapping[str, int]:
        width = (place.config.context - 1) * place.config.hidden
        return {"keys": width, "values": width, "count": 1}

    def open(self, place: Place, weights: Mapping[str, Floats]) -> LayerStep:
        enter, norm, product = entrance(weights), _norms(weights), _products(weights)
        attend = _attention(place)

        def step(x: Floats, before: Parts) -> tuple[Floats, Parts]:
            x = enter(x)
            attended, after = attend(product("qkv", norm("norm_attention", x)), before)
            x = x + product("attention", attended)
            x = x + product("down", _gelu(product("up", norm("norm_mlp", x))))
            return norm("norm_last", x) if place.is_last else x, after

        return step

    def receptive_field(self, config: ModelConfig) -> int:
        return config.layers * (config.context - 1) + 1

    def activations(self, place: Place) -> int:
        """Norms, queries, keys and values, also turned, the wide layer, and gradients of the widest of them."""
        return 24 * place.config.hidden


def _norm(name: str, hidden: int) -> Shapes:
    return {name: (hidden,), f"{name}_bias": (hidden,)}


def _linear(name: str, rows: int, columns: int) -> Shapes:
    return {f"weight_{name}": (rows, columns), f"bias_{name}": (rows,)}


def _norms(weights: Mapping[str, Floats]) -> Callable[[str, Floats], Floats]:
    """Layer normalisation (Ba et al. 2016) by name."""

    def norm(name: str, x: Floats) -> Floats:
        apart = x - x.mean(axis=-1, keepdims=True)
        scaled = apart / np.sqrt(np.square(apart).mean(axis=-1, keepdims=True) + np.float32(EPSILON))
        y: Floats = scaled * weights[name] + weights[f"{name}_bias"]
        return y

    return norm


def _products(weights: Mapping[str, Floats]) -> Callable[[str, Floats], Floats]:
    """W x + b by name."""
    return lambda name, x: x @ weights[f"weight_{name}"].T + weights[f"bias_{name}"]


def _gelu(x: Floats) -> Floats:
    """Hendrycks and Gimpel (2016), the approximation by tanh."""
    half, scale, cubic = np.float32(0.5), np.float32(np.sqrt(2 / np.pi)), np.float32(0.044715)
    y: Floats = half * x * (1 + np.tanh(scale * (x + cubic * x * x * x)))
    return y


def _attention(place: Place) -> Callable[[Floats, Parts], tuple[Floats, Parts]]:
    """From query, key and value [B, 3 H] and what a lane carries to what is attended to [B, H], and what it carries."""
    config, heads = place.config, heads_of(place.config)
    n, width = config.context, config.hidden // heads
    angle = (np.arange(n)[:, None] * BASE ** (-2 * np.arange(width // 2) / width))[:, None, :]
    turns = ((np.cos(angle),) * 2, (-np.sin(angle), np.sin(angle)))
    cos, sin = (np.concatenate(parts, axis=-1, dtype=np.float32) for parts in turns)  # the query is at the last place

    def joined(past: Floats, new: Floats) -> Floats:
        return np.concatenate([past, new], axis=1).reshape(len(new), n, heads, width)

    def attend(qkv: Floats, before: Parts) -> tuple[Floats, Parts]:
        query, key, value = np.split(qkv, 3, axis=1)
        keys, values = joined(before[0], key), joined(before[1], value)
        turned = _turned(query.reshape(-1, heads, width), cos[-1], sin[-1])
        scores = (_turned(keys, cos, sin).transpose(0, 2, 1, 3) @ turned[..., None])[..., 0] / np.float32(width**0.5)
        absent = np.arange(n) < n - 1 - before[2]
        probabilities = _softmax(np.where(absent[:, None, :], np.float32(-np.inf), scores))
        attended = probabilities[:, :, None, :] @ values.transpose(0, 2, 1, 3)
        carried = (array[:, 1:].reshape(len(qkv), -1) for array in (keys, values))
        return attended.reshape(len(qkv), -1), (*carried, np.minimum(before[2] + 1, np.float32(n - 1)))

    return attend


def _turned(x: Floats, cos: Floats, sin: Floats) -> Floats:
    """The units i and i + D / 2 of each head as points in a plane, turned: by cos, cos and by -sin, sin [.., D]."""
    return x * cos + np.roll(x, x.shape[-1] // 2, axis=-1) * sin


def _softmax(scores: Floats) -> Floats:
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    found: Floats = powers / powers.sum(axis=-1, keepdims=True)
    return found


TRANSFORMER: Final = Transformer()
