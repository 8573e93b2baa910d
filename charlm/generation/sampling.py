"""Choosing the next token: a pure function of logits, a number in [0, 1) and the options."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


class SamplingParameters(NamedTuple):
    """How a distribution is tempered and cut before a token is drawn from it: see `distribution`."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0


def next_token(
    logits: Floats, u: float, *, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0
) -> int:
    """The token that u in [0, 1) selects from the tempered, cut and renormalised distribution over logits [V].

    Tokens are laid out in the order of their ids, and the first whose cumulative probability exceeds u is taken.
    Temperature 0 is argmax (the lowest id among equals).

    >>> next_token(np.log(np.array([0.5, 0.25, 0.25], dtype=np.float32)), 0.6)
    1
    """
    if temperature == 0:
        return int(np.argmax(logits))
    cumulative = np.cumsum(distribution(logits, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p))
    return min(
        int(np.searchsorted(cumulative, u * cumulative[-1], side="right")),
        int(np.flatnonzero(np.diff(cumulative, prepend=0.0))[-1]),
    )


def distribution(
    logits: Floats, *, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0
) -> NDArray[np.float64]:
    """softmax(logits / temperature) [V], cut and renormalised.

    The cuts, in order: the K likeliest; the smallest set that holds `top_p` (nucleus, Holtzman et al. 2020); what has
    at least `min_p` of the likeliest's probability (Nguyen et al. 2024). Ties go to the lower id.
    """
    with np.errstate(over="ignore"):  # the least temperatures send all but the likeliest to -inf, whose exp is 0
        scaled = (logits.astype(np.float64) - float(logits.max())) / temperature
    p = np.exp(scaled)
    p /= p.sum()
    order = np.argsort(-p, kind="stable")
    keep = len(p)
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
