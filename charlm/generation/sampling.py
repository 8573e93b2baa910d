"""Sampling the next token: a pure function of logits, a uniform number in [0, 1) and the sampling parameters."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


class SamplingParameters(NamedTuple):
    """Temperature and truncation of a distribution before a token is sampled from it; see `distribution`."""

    temperature: float = 1.0
    top_k: int = 0  # 0 disables
    top_p: float = 1.0  # 1 disables
    min_p: float = 0.0  # 0 disables


def next_token(
    logits: Floats, u: float, *, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0
) -> int:
    """The token that a uniform number u in [0, 1) selects from `distribution` (inverse transform sampling).

    Tokens stay in the order of their ids, and the first one whose cumulative probability exceeds u is taken.
    Temperature 0 is greedy: the most probable token, the lowest id among equals. Probabilities 0.5, 0.25, 0.25 cumulate
    to 0.5, 0.75, 1, so u = 0.6 selects token 1.

    >>> next_token(np.log(np.array([0.5, 0.25, 0.25], dtype=np.float32)), 0.6)
    1
    """
    if temperature == 0:
        return int(np.argmax(logits))
    cumulative = np.cumsum(distribution(logits, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p))
    return min(
        int(np.searchsorted(cumulative, u * cumulative[-1], side="right")),
        int(np.flatnonzero(np.diff(cumulative, prepend=0.0))[-1]),  # rounding must not select a removed token
    )


def distribution(
    logits: Floats, *, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0
) -> NDArray[np.float64]:
    """softmax(logits / temperature) [V], truncated and renormalised. The steps, in this order:

    1. Temperature.
    2. Top-k: keep the K most probable tokens.
    3. Top-p, or nucleus (Holtzman et al. 2020): renormalise those, and keep the smallest set of the most probable ones
       whose probabilities sum to at least `top_p`.
    4. Min-p (Nguyen et al. 2024): of those, keep tokens with at least `min_p` times the highest probability.
    5. Renormalise.

    Among equal probabilities the lower id is kept. With probabilities 0.5, 0.3, 0.15 and 0.05, top_k = 3 leaves 0.526,
    0.316 and 0.158; top_p = 0.8 then keeps two, since 0.526 < 0.8 <= 0.842; and these become 0.625 and 0.375.

    >>> p = np.log(np.array([0.5, 0.3, 0.15, 0.05], dtype=np.float32))
    >>> distribution(p, top_k=3, top_p=0.8).round(3).tolist()
    [0.625, 0.375, 0.0, 0.0]
    """
    with np.errstate(over="ignore"):  # tiny temperatures send all but the most probable to -inf, whose exp is 0
        scaled = (logits.astype(np.float64) - float(logits.max())) / temperature
    p = np.exp(scaled)
    p /= p.sum()
    order = np.argsort(-p, kind="stable")
    keep = len(p)  # how many of the most probable tokens stay
    if top_k:
        keep = min(keep, top_k)
    if top_p < 1:
        within = p[order[:keep]] / p[order[:keep]].sum()
        keep = min(keep, int(np.searchsorted(np.cumsum(within), top_p, side="left")) + 1)
    if min_p:
        keep = min(keep, int((p >= min_p * p[order[0]]).sum()))
    if keep < len(p):
        p[order[keep:]] = 0
        p /= p.sum()
    return p
