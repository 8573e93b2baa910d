"""Which earlier characters drive a prediction: gradient times input, checked by occlusion.

Let L be log2 P of the character that comes next, x_d the embedding of the character d places before it, and m the mean
embedding of the vocabulary, which says nothing of which character it is.

    gradient times input    a_d = (x_d - m) . dL / dx_d      (Simonyan, Vedaldi and Zisserman 2013; Li, Chen, Hovy and
                                                              Jurafsky 2016, "Visualizing and understanding neural
                                                              models in NLP")
    occlusion               o_d = L - L with m in the place of x_d           (Zeiler and Fergus 2014)

Both are in bits and positive where the character made the prediction more probable. The gradient is exact only for
small changes; occlusion is what really changes, at one forward pass for each character. If L is linear in x_d they are
equal. The input is measured from m, because occlusion puts m there; with a mean of 0, a_d is the usual product.

The text before a place is read from the zero state and the start input, from `BEFORE` characters on. Where tokens are
not characters, all of this is about tokens. This module knows nothing of files or printing.

Legend: D distances 1 to 50, P places, E embedding width, T tokens, B lanes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from charlm.errors import DataError
from charlm.evaluation.bootstrap import Floats, Interval, interval, resampled_means
from charlm.models.network import Network, State, select_lanes
from charlm.text.tokenizer import Ids, Tokenizer

DISTANCES: Final = 50
BEFORE: Final = 200  # tokens that are read before a place
POSITIONS: Final = 200
_TOGETHER: Final = 8  # places, each of which takes D + 1 lanes


@dataclass(frozen=True, eq=False)
class Saliency:
    """Attributions of the tokens at distances 1 to D before each of P places, in bits: both [P, D].

    places     places in the text, counted in tokens from 0
    bits       -L, the surprisal of the token at each place [P]
    """

    places: NDArray[np.int64]
    bits: Floats
    gradient: Floats
    occlusion: Floats

    @property
    def mean_gradient(self) -> Floats:
        """Mean absolute gradient times input, by distance [D]."""
        return np.asarray(np.abs(self.gradient).mean(axis=0))

    @property
    def mean_occlusion(self) -> Floats:
        """Mean absolute change by occlusion, by distance [D]."""
        return np.asarray(np.abs(self.occlusion).mean(axis=0))

    @cached_property
    def correlations(self) -> Floats:
        """Spearman's rank correlation of the two at each place, over the distances [P]; without undefined ones."""
        found = [rank_correlation(*pair) for pair in zip(self.gradient, self.occlusion, strict=True)]
        return np.array([value for value in found if value is not None], dtype=np.float64)

    @property
    def correlation(self) -> float | None:
        """Their mean; None where there is none."""
        return float(self.correlations.mean()) if len(self.correlations) else None

    @property
    def correlation_interval(self) -> Interval | None:
        """The 95 % interval of that mean."""
        return interval(resampled_means(self.correlations))

    @property
    def correlation_of_means(self) -> float | None:
        """The rank correlation of the mean absolute attributions, over the distances."""
        return rank_correlation(self.mean_gradient, self.mean_occlusion)

    def record(self) -> dict[str, object]:
        """The figures for JSON."""
        edges = self.correlation_interval
        return {
            "positions": len(self.places),
            "gradient": self.mean_gradient.tolist(),
            "occlusion": self.mean_occlusion.tolist(),
            "correlation": self.correlation,
            "correlation_interval": None if edges is None else list(edges),
            "correlation_of_means": self.correlation_of_means,
        }


def rank_correlation(a: Floats, b: Floats) -> float | None:
    """Spearman's rank correlation of two series, equal values having their mean rank; None where one is constant.

    >>> rank_correlation(np.array([1.0, 2, 3]), np.array([1.0, 4, 9])), rank_correlation(np.zeros(3), np.arange(3.0))
    (1.0, None)
    """
    centred = [ranks - ranks.mean() for ranks in (_ranks(a), _ranks(b))]
    scale = math.sqrt(float((centred[0] ** 2).sum() * (centred[1] ** 2).sum()))
    return float(centred[0] @ centred[1]) / scale if scale else None


def _ranks(values: Floats) -> Floats:
    _, number, counts = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(counts) - (counts - 1) / 2)[number], dtype=np.float64)


def saliency(network: Network, tokenizer: Tokenizer, ids: Ids, places: Sequence[int] | NDArray[np.int64]) -> Saliency:
    """The attributions before these places of a text [N], each of which has `DISTANCES` tokens before it.

    Places whose token is not in the vocabulary are left out: its probability does not depend on what is before.
    """
    known = np.array([place for place in places if ids[place] < tokenizer.size], dtype=np.int64)
    reader = _reader(network)
    found = [
        _together(reader, tokenizer, ids, known[first : first + _TOGETHER]) for first in range(0, len(known), _TOGETHER)
    ]
    empty = (np.zeros(0), np.zeros((0, DISTANCES)), np.zeros((0, DISTANCES)))
    bits, gradient, occlusion = (np.concatenate(parts) for parts in zip(*found, empty, strict=True))
    return Saliency(known, bits, gradient, occlusion)


def check_place(tokenizer: Tokenizer, ids: Ids, place: int) -> NDArray[np.int64]:
    """This place alone [1]; DataError where it cannot be explained."""
    if not DISTANCES <= place < len(ids):
        raise DataError(
            f"position {place:,} is not between {DISTANCES} and {len(ids) - 1:,}, the last of the text",
            kept="nothing was computed",
            hint="choose another",
        )
    if ids[place] >= tokenizer.size:
        raise DataError(
            f"the character at position {place:,} is not in the model's vocabulary, so that nothing drives it",
            kept="nothing was computed",
            hint="choose another",
        )
    return np.array([place], dtype=np.int64)


def _reader(network: Network) -> Network:
    """A copy without dropout; cuDNN has no gradient for recurrent layers in evaluation mode."""
    reader = network.copy().eval().requires_grad_(False)
    reader.layers.train()
    return reader


def _together(
    network: Network, tokenizer: Tokenizer, ids: Ids, places: NDArray[np.int64]
) -> tuple[Floats, Floats, Floats]:
    """Bits [P], gradient times input and occlusion [P, D] of some places."""
    device = network.device
    targets = torch.from_numpy(ids[places].astype(np.int64)).to(device)
    last = torch.from_numpy(ids[places + np.arange(-DISTANCES, 0)[:, None]].astype(np.int64)).to(device)  # [D, P]
    with torch.no_grad():
        states = _states_before(network, tokenizer, ids, places)
        mean = network.embedding(torch.full((1, 1), tokenizer.unseen, device=device))
        x = network.embedding(last)
    x.requires_grad_()
    likelihood = _bits(network, x, states, targets)
    (gradient,) = torch.autograd.grad(likelihood.sum(), x)
    attribution = ((x.detach() - mean) * gradient).sum(-1)  # [D, P], the furthest first
    with torch.no_grad():
        lanes = torch.arange(len(places), device=device).repeat_interleave(DISTANCES)
        occluded = x.detach()[:, lanes].clone()
        rows = torch.arange(DISTANCES, device=device).repeat(len(places))
        occluded[rows, torch.arange(len(lanes), device=device)] = mean[0, 0]
        without = _bits(network, occluded, select_lanes(states, lanes), targets[lanes])
        change = likelihood.detach()[:, None] - without.view(len(places), DISTANCES)  # [P, D], the furthest first
    return -_array(likelihood), _array(attribution.t().flip(1)), _array(change.flip(1))


def _states_before(network: Network, tokenizer: Tokenizer, ids: Ids, places: NDArray[np.int64]) -> State:
    """The state before the last D tokens before each place; lanes whose text begins later are read by themselves."""
    parts = []
    for place in places.tolist():
        own = ids[max(0, place - BEFORE) : place - DISTANCES]
        read = np.concatenate([[tokenizer.start], own]).astype(np.int64)
        parts.append(network(torch.from_numpy(read).to(network.device)[:, None], network.init_state(1))[1])
    return tuple(tuple(torch.cat(lanes) for lanes in zip(*layer, strict=True)) for layer in zip(*parts, strict=True))


def _bits(network: Network, x_TBE: Tensor, states: State, targets: Tensor) -> Tensor:
    """log2 P of the targets [B] behind these embeddings."""
    logits_TBV, _ = network.forward_embedded(x_TBE, states)
    return F.log_softmax(logits_TBV[-1], dim=-1).gather(1, targets[:, None])[:, 0] / math.log(2)


def _array(values: Tensor) -> Floats:
    return values.detach().double().cpu().numpy()
