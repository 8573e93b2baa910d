"""Several models as one: a Bayesian mixture of what they say of each token.

Models that err at different places are better together than the best of them alone. Their probabilities are added up
with weights, and which weights are good is learned online, from what has been read so far:

    an expert, for each w of a grid    P_w(token | past) = sum over m of w_m P_m(token | past)
    the mixture                        P(text) = mean over w of P_w(text)

The second line is Bayes' rule with a uniform prior: taken apart token by token, an expert weighs as much as it has made
the text so far likely (Cover 1991, "Universal portfolios"). That is done for the whole text, and apart for the tokens
that follow the same one, two or three tokens, because after some tokens one model is to be trusted more than after
others. Which of these four to believe is learned by the same rule, apart for each token that they follow; and to the
last whether this has been worth it.

Weights follow from the past alone, and what they weigh are probabilities: over a vocabulary the mixture sums to what
the models sum to. It only has to know what each model gave to the token that came. On no text does it need more than
ln(2 K) nats beyond the best of the K experts, of which each model by itself is one.

The escape takes the same share of each model's probabilities, and so of the mixture's: nats may have it in them or not.

This module knows nothing of characters, models, files or printing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from charlm.text.tokenizer import Ids

STEPS: Final = 4  # weights are multiples of 1 / STEPS
CONTEXT: Final = 3  # tokens that weights may depend on, at most

Nats = NDArray[np.float64]
Keys = NDArray[np.int64]


def mix(models: Sequence[NDArray[np.floating[Any]]], ids: Ids, *, steps: int = STEPS, context: int = CONTEXT) -> Nats:
    """-ln P of each token [N] under the mixture, from the finite nats [N] that each model charges for these ids [N].

    Two models make steps + 1 experts, M of them (steps + M - 1)! / (steps! (M - 1)!). Memory is that of a dozen arrays
    of N numbers, whatever the number of experts; time is proportional to it.

    >>> wrong, right = np.full(4, 7.0), np.zeros(4)
    >>> np.exp(-mix([wrong, right], np.arange(4), steps=1, context=0)).round(4).tolist()
    [0.5005, 0.9991, 1.0, 1.0]
    """
    charged = [np.asarray(nats, dtype=np.float64) for nats in models]
    if not charged or any(nats.shape != ids.shape for nats in charged):
        raise ValueError(f"nats of {len(ids)} tokens are needed, from one model at least")
    contexts = list(_contexts(ids, context))
    weighed = [_bayes(_experts(charged, steps), keys) for keys in contexts]
    trusted = _bayes(weighed, contexts[min(1, context)])
    return _bayes([weighed[0], trusted], contexts[0])


def _bayes(experts: Iterable[Nats], keys: Keys) -> Nats:
    """-ln P [N] of the uniform Bayesian mixture of experts' nats [N], apart for the tokens that share a key [N].

    With L_e what expert e has charged within a key up to and with a token, all of them together have charged
    -ln mean over e of exp(-L_e); a token's share is by how much that grows.
    """
    order = np.argsort(keys, kind="stable")
    first = np.diff(keys[order], prepend=-1) != 0
    begin = np.maximum.accumulate(np.where(first, np.arange(len(keys)), 0))
    evidence, number = np.full(len(keys), -np.inf), 0
    for number, nats in enumerate(experts, 1):  # noqa: B007
        total = np.cumsum(nats[order])
        np.logaddexp(evidence, (total - nats[order])[begin] - total, out=evidence)
    together = np.log(number) - evidence
    mixed = np.empty(len(keys))
    mixed[order] = np.where(first, together, np.diff(together, prepend=0.0))
    return mixed


def _experts(models: Sequence[Nats], steps: int) -> Iterator[Nats]:
    """What each linear mixture of the grid charges [N]: -ln sum over m of w_m exp(-nats_m)."""
    for shares in _simplex(len(models), steps):
        used = [np.log(share / steps) - nats for share, nats in zip(shares, models, strict=True) if share]
        yield -np.logaddexp.reduce(used)


def _simplex(models: int, steps: int) -> Iterator[list[int]]:
    """All ways to deal out `steps` equal shares among the models.

    >>> list(_simplex(2, 2))
    [[0, 2], [1, 1], [2, 0]]
    """
    for bars in combinations(range(steps + models - 1), models - 1):
        yield (np.diff([-1, *bars, steps + models - 1]) - 1).tolist()


def _contexts(ids: Ids, longest: int) -> Iterator[Keys]:
    """For each token [N] a number that stands for the 0, 1, .. longest tokens before it; the text's start is one too.

    >>> [keys.tolist() for keys in _contexts(np.array([5, 6, 5, 6]), 2)]
    [[0, 0, 0, 0], [0, 1, 2, 1], [0, 1, 3, 2]]
    """
    keys = np.zeros(len(ids), dtype=np.int64)
    yield keys
    for back in range(1, longest + 1):
        before = np.concatenate([np.full(back, -1), ids])[: len(ids)].astype(np.int64)
        keys = np.unique(keys * (before.max(initial=0) + 2) + before + 1, return_inverse=True)[1]
        yield keys
