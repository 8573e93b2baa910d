"""A Bayesian mixture of several models' predictions of each token.

Models that err in different places predict better together than the best of them alone. Their probabilities are
averaged with weights, and good weights are learned online, from the text read so far:

    an expert, for each w of a grid    P_w(token | past) = sum over m of w_m P_m(token | past)
    the mixture                        P(text) = mean over w of P_w(text)

The second line is Bayes' rule with a uniform prior over experts: token by token, the weight of an expert is
proportional to the probability that it gave to the text so far (Cover 1991, "Universal portfolios"). For example, two
experts give the first token probabilities 0.9 and 0.1, and the second token 0.8 and 0.2:

    first token     weights 0.5, 0.5       P = 0.5 * 0.9 + 0.5 * 0.1 = 0.5
    second token    weights 0.9, 0.1       P = 0.9 * 0.8 + 0.1 * 0.2 = 0.74
    both            0.5 * 0.74 = 0.37      = (0.9 * 0.8 + 0.1 * 0.2) / 2, the mean of P_w(text)

The rule is applied three times:

1. To the experts, four times over: for the whole text, and separately for the tokens that follow the same one, two or
   three tokens, because after some tokens one model is better and after others another.
2. To these four mixtures, separately for the tokens that follow the same token.
3. To the first of the four, which uses no contexts, and the result of 2.

All weights depend on the past only, so the mixture of probability models is a probability model. It needs to know only
the probability that each model gave to the token that came. For no text does it need more than ln(2 K) nats more than
the best of the K experts, of which each single model is one.

The escape multiplies each model's probabilities by the same factor, and so the mixture's: nats may include it or not.

Legend: N tokens, M models, K experts. This module knows nothing of characters, models, files or printing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from charlm.text.tokenizer import Ids

STEPS: Final = 4  # weights are multiples of 1 / STEPS
CONTEXT: Final = 3  # the largest number of preceding tokens that weights depend on

Nats = NDArray[np.float64]
Keys = NDArray[np.int64]


def mix(models: Sequence[NDArray[np.floating[Any]]], ids: Ids, *, steps: int = STEPS, context: int = CONTEXT) -> Nats:
    """-ln P of each token [N] under the mixture, from each model's -ln P, finite arrays [N], of these ids [N].

    Two models make steps + 1 experts, and M models (steps + M - 1)! / (steps! (M - 1)!). Takes the memory of a dozen
    arrays of N numbers, whatever the number of experts, and time proportional to it. Raises ValueError without models,
    or if lengths differ. Here one model is always right: after the first token its weight is 1 - e^-7.

    >>> wrong, right = np.full(4, 7.0), np.zeros(4)
    >>> np.exp(-mix([wrong, right], np.arange(4), steps=1, context=0)).round(4).tolist()
    [0.5005, 0.9991, 1.0, 1.0]
    """
    given = [np.asarray(nats, dtype=np.float64) for nats in models]
    if not given or any(nats.shape != ids.shape for nats in given):
        raise ValueError(f"nats of {len(ids)} tokens from at least one model are needed")
    contexts = list(_contexts(ids, context))
    by_context = [_bayes(_experts(given, steps), keys) for keys in contexts]
    chosen = _bayes(by_context, contexts[min(1, context)])
    return _bayes([by_context[0], chosen], contexts[0])


def _bayes(experts: Iterable[Nats], keys: Keys) -> Nats:
    """-ln P [N] of the uniform Bayesian mixture of experts' -ln P [N], separately for the tokens that share a key [N].

    1. Sort the tokens by key, keeping their order: the tokens of a key are now consecutive.
    2. For each expert e, L_e is the sum of its -ln P over the tokens of the key up to and including this one.
    3. The -ln P of the mixture for all these tokens together is -ln(mean over e of exp(-L_e)).
    4. The -ln P of one token is the difference of that sum and the one before it.
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
    """-ln P [N] of each expert, a linear mixture on the grid: -ln sum over m of w_m exp(-nats_m)."""
    for shares in _simplex(len(models), steps):
        used = [np.log(share / steps) - nats for share, nats in zip(shares, models, strict=True) if share]
        yield -np.logaddexp.reduce(used)


def _simplex(models: int, steps: int) -> Iterator[list[int]]:
    """All ways to distribute `steps` equal shares among the models, as stars and bars.

    >>> list(_simplex(2, 2))
    [[0, 2], [1, 1], [2, 0]]
    """
    for bars in combinations(range(steps + models - 1), models - 1):
        yield (np.diff([-1, *bars, steps + models - 1]) - 1).tolist()


def _contexts(ids: Ids, longest: int) -> Iterator[Keys]:
    """For each token a key [N] of the 0, 1, .. `longest` tokens before it; the start of the text counts as a token.

    >>> [keys.tolist() for keys in _contexts(np.array([5, 6, 5, 6]), 2)]
    [[0, 0, 0, 0], [0, 1, 2, 1], [0, 1, 3, 2]]
    """
    keys = np.zeros(len(ids), dtype=np.int64)
    yield keys
    for back in range(1, longest + 1):
        before = np.concatenate([np.full(back, -1), ids])[: len(ids)].astype(np.int64)
        keys = np.unique(keys * (before.max(initial=0) + 2) + before + 1, return_inverse=True)[1]
        yield keys
