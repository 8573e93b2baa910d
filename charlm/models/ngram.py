"""N-gram language models: how often each token followed a context in the training text, smoothed.

`Counts` counts the sequences of a training text once, up to a highest order; models of every method and order share it.
A model of order n predicts a token w from its context h, the n - 1 tokens before it; h' is h without its first token.
All are probability models: over the V tokens, P(. | h) sums to 1 for every h, whether or not h occurs in the text.

    AddDelta     (c(hw) + d) / (c(h) + d V)
    Backoff      add-delta with the longest suffix of h that something follows in the training text
    WittenBell   (c(hw) + N(h.) P(w | h')) / (c(h) + N(h.))          (Bell, Cleary, Witten 1990; method C)
    KneserNey    (c(hw) - D(c(hw)) + g(h) P(w | h')) / c(h)          (modified; Chen and Goodman 1999)

c counts occurrences, N(h.) is the number of different tokens that follow h, and the order below 1 is uniform, 1 / V.
The equations in full are in docs/mathematics.md. A text is preceded by the start symbol, id V, which is context and
never predicted; the first tokens have shorter contexts. A larger id is a token outside the vocabulary: in a context it
matches nothing, and as a target it has probability 0 here, because the tokenizer's escape accounts for it.

How sequences are counted: each distinct sequence of k tokens has a number, its place among the sorted keys (number of
its first k - 1 tokens) * V + (last token). So each length takes one sort of N integers, a sequence is found by binary
search, and the followers of a context have neighbouring numbers. "abab" with a = 0, b = 1 and V = 2, so that the start
symbol is 2:

    pairs          ^a   ab   ba   ab
    keys            4    1    2    1     = 2 * context + token
    sorted          1 (ab, twice)   2 (ba, once)   4 (^a, once):   numbers 0, 1, 2
    triples        ^ab  aba  bab: keys 2 * 2 + 1, 2 * 0 + 0, 2 * 1 + 1 from the numbers of ^a, ab and ba

Memory: at most 16 bytes for each training token and order (8 for the key, 4 for the count, 4 for the continuation
count), and much less for real texts, in which sequences repeat; up to 80 bytes a token more while counting; while
scoring, 32 bytes for each sequence of one length and 80 for each scored token.

This module knows nothing of characters, escapes, files or printing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from charlm.text.tokenizer import Ids

FALLBACK: Final = (0.5, 1.0, 1.5)  # Kneser-Ney's discounts where they cannot be estimated

Floats = NDArray[np.float64]
Discounts = tuple[float, float, float]  # D1, D2, D3+
Numbers = NDArray[np.int64]  # of sequences; -1 for one that does not occur in the training text


class Counts:
    """How often each sequence of 1 to `order` tokens occurs in a training text of ids [N] in 0..size - 1, N < 2**31.

    The arrays of a length have one entry for each distinct sequence, in the order of their keys, and a final 0, which
    is what the number -1 reads. Raises ValueError for ids or sizes out of range.

    >>> counts = Counts(np.array([0, 1, 0, 1, 1]), size=2, order=2)
    >>> counts.keys(2).tolist()  # context * 2 + token, the start symbol being context 2
    [1, 2, 3, 4]
    >>> counts.count(2).tolist(), counts.continuations(1).tolist()
    ([2, 1, 1, 1, 0], [2, 2, 0])
    """

    def __init__(self, ids: Ids, size: int, order: int) -> None:
        if size < 1 or order < 1:
            raise ValueError(f"{size} tokens and order {order}: there must be at least one of each")
        if len(ids) and not 0 <= ids.min() <= ids.max() < size:
            raise ValueError(f"a training text's ids lie in 0..{size - 1}")
        self.size, self.order = size, order
        self._keys = [np.arange(size, dtype=np.int64)]
        self._count = [_pad(np.bincount(ids, minlength=size))]
        self._continuations: list[NDArray[np.int32]] = []
        tokens = _with_start(ids, size)
        numbers = tokens
        for length in range(2, order + 1):
            shorter = numbers
            numbers, keys, count, places = _rank(shorter[:-1].astype(np.int64) * size + tokens[length - 1 :])
            # Each distinct sequence of this length is one more token that precedes its last length - 1 tokens.
            continuations = np.bincount(shorter[1:][places], minlength=len(self._keys[-1]))
            if length > 2:  # nothing precedes what begins with the start symbol: its count, 1, is used instead
                continuations[shorter[:1]] = 1
            self._keys.append(keys)
            self._count.append(_pad(count))
            self._continuations.append(_pad(continuations))

    def keys(self, length: int) -> NDArray[np.int64]:
        """For each sequence of this length, the number of all but its last token, times `size`, plus the last token."""
        return self._keys[length - 1]

    def count(self, length: int) -> NDArray[np.int32]:
        """How often each sequence of this length occurs, and a final 0."""
        return self._count[length - 1]

    def continuations(self, length: int) -> NDArray[np.int32]:
        """How many different tokens (or the start) precede each sequence of this length < order, and a final 0."""
        return self._continuations[length - 1]

    def contexts(self, length: int) -> int:
        """The number of contexts of sequences of this length; in pairs the start symbol is one."""
        return 1 if length == 1 else len(self.keys(length - 1)) + (length == 2)

    def find(self, length: int, contexts: Numbers, tokens: Ids) -> Numbers:
        """The numbers [N] of sequences of this length >= 2, given each context by its number [N] and each token [N]."""
        numbers, keys = np.full(len(tokens), -1, dtype=np.int64), self.keys(length)
        sought = np.flatnonzero((contexts >= 0) & (tokens < self.size))
        if len(keys):
            wanted = contexts[sought] * self.size + tokens[sought]
            order = np.argsort(wanted)  # searching in sorted order is several times as fast
            sought, wanted = sought[order], wanted[order]
            places = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
            numbers[sought] = np.where(keys[places] == wanted, places, -1)
        return numbers

    def sum_by_context(self, length: int, values: NDArray[np.int32] | Floats) -> Floats:
        """For each context the sum of its followers' values, [contexts + 1]; the last entry is 0."""
        context = self.keys(length) // self.size
        sums = np.bincount(context, values[:-1], minlength=self.contexts(length) + 1)
        return sums.astype(np.float64, copy=False)


def _with_start(ids: Ids, size: int) -> Ids:
    return np.concatenate([[size], ids]).astype(np.int32)


def _pad(values: NDArray[np.int64]) -> NDArray[np.int32]:
    return np.append(values, 0).astype(np.int32)


def _rank(keys: NDArray[np.int64]) -> tuple[Ids, NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """For keys [N]: the rank of each among the distinct keys; these, sorted; how often each occurs; one place of each.

    >>> [part.tolist() for part in _rank(np.array([4, 1, 2, 1]))]
    [[2, 0, 1, 0], [1, 2, 4], [2, 1, 1], [1, 2, 0]]
    """
    order = np.argsort(keys)
    ordered = keys[order]
    first = np.ones(len(keys), dtype=np.bool_)
    np.not_equal(ordered[1:], ordered[:-1], out=first[1:])
    starts = np.flatnonzero(first)
    numbers = np.empty(len(keys), dtype=np.int32)
    numbers[order] = np.cumsum(first, dtype=np.int32) - 1
    return numbers, ordered[starts], np.diff(starts, append=len(keys)), order[starts]


@dataclass(frozen=True, slots=True)
class Statistics:
    """What the training text says of a token after a context, for N tokens and contexts; zeros for unseen contexts.

    Kneser-Ney's lower orders have continuation counts in the place of counts.
    """

    count: Floats  # [N], of the token after the context
    discount: Floats  # [N], what is subtracted from that count
    total: Floats  # [N], the sum of the counts of all tokens after the context
    discounts: Floats  # [N], the sum of all that is subtracted, which goes to the order below


class NGram(ABC):
    """A model of one order. `top` says whether a length is the model's own order."""

    method: ClassVar[str]
    subtracted: ClassVar[Sequence[float]] = (0, 0, 0, 0)  # from counts of 0, 1, 2, and 3 or more

    def __init__(self, counts: Counts, order: int) -> None:
        if not 1 <= order <= counts.order:
            raise ValueError(f"order {order} is not among the counted 1..{counts.order}")
        self.counts, self.order = counts, order

    @property
    def name(self) -> str:
        """Method and order, such as "kneser-ney 6"."""
        return f"{self.method} {self.order}"

    def nats(self, ids: Ids) -> Floats:
        """-ln P(token | all before it) of each token of a text [N], in nats; infinite outside the vocabulary."""
        return next(self._nats_of(ids, (self.order,)))

    def nats_by_order(self, ids: Ids) -> Iterator[Floats]:
        """`nats` under the models of orders 1, 2, ... up to this one, in about twice the time of the last alone."""
        return self._nats_of(ids, range(1, self.order + 1))

    def _nats_of(self, ids: Ids, orders: Collection[int]) -> Iterator[Floats]:
        """-ln P [N] for each of these orders, working from the shortest contexts to the longest.

        With the start symbol in front, the sequence of `length` tokens that begins at place j ends with token
        j + length - 2 of the text. The first tokens have no context of that length and keep the P of the order below.
        """
        size, tokens = self.counts.size, _with_start(ids, self.counts.size)
        below = np.full(len(ids), 1 / size)
        found = _unigram_numbers(tokens, size)
        contexts, numbers = np.zeros(len(ids), dtype=np.int64), found[1:]
        for length in range(1, max(orders) + 1):
            if length > 1:
                contexts = found[:-1]
                found = numbers = self.counts.find(length, contexts, tokens[length - 1 :])
            if length in orders:
                p = self._next_order(below, self._statistics(length, True, contexts, numbers))
                yield np.where(ids < size, -np.log(p), np.inf)
            if length < max(orders):
                below = self._next_order(below, self._statistics(length, False, contexts, numbers))

    def _statistics(self, length: int, top: bool, contexts: Numbers, numbers: Numbers) -> Statistics:
        """Of sequences by their numbers [N], after contexts by theirs [N]."""
        count = self._effective_count(length, top)
        discount = np.array(self._subtracted(length, top), dtype=np.float64)[np.minimum(count, 3)]
        total, discounts = (self.counts.sum_by_context(length, values)[contexts] for values in (count, discount))
        return Statistics(count[numbers].astype(np.float64), discount[numbers], total, discounts)

    def _next_order(self, below: Floats, statistics: Statistics) -> Floats:
        """P [N] of an order from P [N] of the order below; the first tokens, which lack a context, keep the latter."""
        first = len(below) - len(statistics.count)
        return np.concatenate([below[:first], self._combine(statistics, below[first:])])

    def _subtracted(self, length: int, top: bool) -> Sequence[float]:  # noqa: ARG002 - Kneser-Ney's differ
        return self.subtracted

    def _effective_count(self, length: int, top: bool) -> NDArray[np.int32]:  # noqa: ARG002
        """What the method uses as the count of each sequence of a length."""
        return self.counts.count(length)

    @abstractmethod
    def _combine(self, statistics: Statistics, below: Floats) -> Floats:
        """P of an order, from its statistics and from P of the order below."""


def _unigram_numbers(tokens: Ids, size: int) -> Numbers:
    """The numbers of sequences of one token, the start symbol among them."""
    return np.where(tokens <= size, tokens, -1).astype(np.int64)


class AddDelta(NGram):
    """Additive smoothing (Lidstone): every token is counted `delta` times more than it occurred after the context.

    The default delta is 1 / V (Perks 1947): each context has then seen one token more than it did, shared out among
    all V. With a larger delta, contexts that occurred a few times would count for little against V deltas. Raises
    ValueError unless delta is positive and finite.
    """

    method = "add-delta"

    def __init__(self, counts: Counts, order: int, delta: float | None = None) -> None:
        super().__init__(counts, order)
        self.delta = 1 / counts.size if delta is None else delta
        if not 0 < self.delta < np.inf:
            raise ValueError(f"delta {delta} is not a positive number")

    def _combine(self, statistics: Statistics, below: Floats) -> Floats:  # noqa: ARG002 - it has no order below
        return (statistics.count + self.delta) / (statistics.total + self.delta * self.counts.size)


class Backoff(AddDelta):
    """Add-delta with the longest suffix of the context, of at most n - 1 tokens, that occurs in the training text."""

    method = "backoff"

    def _combine(self, statistics: Statistics, below: Floats) -> Floats:
        return np.where(statistics.total > 0, super()._combine(statistics, below), below)


class WittenBell(NGram):
    """Interpolated Witten-Bell: the weight of the order below is the number of different followers of the context.

    It is N(h.) / (c(h) + N(h.)). A context with many different followers is likely to have new ones. In "abracadabra" a
    is followed four times, by 3 different tokens: the order below has the weight 3 / 7.
    """

    method = "witten-bell"
    subtracted = (0, 1, 1, 1)  # 1 for each different follower; their sum is N(h.)

    def _combine(self, statistics: Statistics, below: Floats) -> Floats:
        whole = statistics.total + statistics.discounts
        p = (statistics.count + statistics.discounts * below) / np.maximum(whole, 1)
        return np.where(whole > 0, p, below)


class KneserNey(NGram):
    """Interpolated modified Kneser-Ney (Chen and Goodman 1999, section 3, "Modified Kneser-Ney smoothing").

    1. Discounts. D1, D2 or D3+ is subtracted from each count of 1, 2, or 3 and more (`estimate_discounts`).
    2. Interpolation. What is subtracted after a context is the weight of the order below, so P sums to 1.
    3. Continuation counts. Below the model's own order, what counts is not how often a sequence occurs but how many
       different tokens precede it. "Francisco" is frequent but follows only "San": where the longer context does not
       know what comes next, "Francisco" is unlikely.

    "abracadabra", order 2, P(b | a), with D1 = 0.5, D2 = 1 and D3+ = 1.5: a is followed by b twice and by c and d once,
    so 1 + 0.5 + 0.5 = 2 of the 4 counts go to the order below. There a is preceded by 4 different symbols (the start,
    r, c and d), and b, c, d and r by one each, 8 in all; 1.5 + 4 * 0.5 = 3.5 of them go to the uniform order.

        P(b)     = (1 - 0.5 + 3.5 / 5) / 8    = 0.15
        P(b | a) = (2 - 1 + 2 * 0.15) / 4     = 0.325

    >>> ids = np.array(["abcdr".index(letter) for letter in "abracadabra"])
    >>> np.exp(-KneserNey(Counts(ids, size=5, order=2), 2).nats(ids[:2])).round(3).tolist()[1]
    0.325
    """

    method = "kneser-ney"

    def __init__(self, counts: Counts, order: int) -> None:
        super().__init__(counts, order)
        self._discounts: dict[tuple[int, bool], Discounts] = {}

    def _subtracted(self, length: int, top: bool) -> Sequence[float]:
        if (length, top) not in self._discounts:
            self._discounts[length, top] = estimate_discounts(self._effective_count(length, top))
        return (0, *self._discounts[length, top])

    def _effective_count(self, length: int, top: bool) -> NDArray[np.int32]:
        return self.counts.count(length) if top else self.counts.continuations(length)

    def _combine(self, statistics: Statistics, below: Floats) -> Floats:
        kept = statistics.count - statistics.discount
        p = (kept + statistics.discounts * below) / np.maximum(statistics.total, 1)
        return np.where(statistics.total > 0, p, below)


def estimate_discounts(count: NDArray[np.int32]) -> Discounts:
    """D1, D2 and D3+ of modified Kneser-Ney from the counts of all sequences of a length (Chen and Goodman 1999).

    With n1 to n4 sequences that have a count of 1 to 4, and Y = n1 / (n1 + 2 n2):

        D1 = 1 - 2 Y n2 / n1        D2 = 2 - 3 Y n3 / n2        D3+ = 3 - 4 Y n4 / n3

    k - Dk estimates how often a sequence that occurred k times would occur in new text of the same length. Where there
    are too few rare sequences to estimate it, all three are `FALLBACK`: if n1, n2 or n3 is 0, or if a discount does not
    lie between 0 and the count that it is subtracted from.

    >>> estimate_discounts(np.repeat(np.array([1, 2, 3, 4, 9], dtype=np.int32), [8, 4, 3, 2, 5]))
    (0.5, 0.875, 1.6666666666666667)
    >>> estimate_discounts(np.array([1, 1, 5, 7, 9], dtype=np.int32)) == FALLBACK
    True
    """
    n1, n2, n3, n4 = np.bincount(np.minimum(count, 5), minlength=6)[1:5].tolist()
    if not (n1 and n2 and n3):
        return FALLBACK
    y = n1 / (n1 + 2 * n2)
    found = 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3
    return found if all(0 < discount < k for k, discount in enumerate(found, 1)) else FALLBACK
