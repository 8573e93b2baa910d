"""Counted language models: what followed a context in the training text, and how often, smoothed.

`Counts` is made once from the ids of a training text, up to a highest order; models of every method and order are made
from it. A model of order n predicts a token w from its context h, the n - 1 tokens before it; h' is h without its first
token. All are true probability models: over the V tokens, P(. | h) sums to 1 for every h, seen or not.

    AddDelta     (c(hw) + d) / (c(h) + d V)
    Backoff      add-delta at the longest end of h that has a follower in the training text
    WittenBell   (c(hw) + N(h.) P(w | h')) / (c(h) + N(h.))          (Bell, Cleary, Witten 1990; method C)
    KneserNey    (c(hw) - D + D(h.) P(w | h')) / c(h)                (modified; Chen and Goodman 1999)

c counts, N(h.) counts the different followers of h, and below the shortest context stands 1 / V; the equations in full
are in docs/mathematics.md. A text is preceded by the start symbol, id V, which is context and never predicted; the
first tokens have no more context than that. An id above it is a token that training never had: as context it matches
nothing, and as a target it has probability 0 here, because the tokenizer's escape pays for it.

How it is counted: each distinct sequence of k tokens has a number, its place among the sorted pairs (number of its
first k - 1 tokens, last token). So one sort of N integers counts each length, a binary search finds a sequence, and a
context's followers lie side by side. Kept are at most 16 bytes for each training token and order (8 for a pair, 4 for
its count, 4 for the number of its predecessors), and a fraction of that in real texts, where sequences repeat; while
counting, up to 80 bytes a token more; while scoring, 32 for each sequence of one length and 80 for each scored token.

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

FALLBACK: Final = (0.5, 1.0, 1.5)  # Kneser-Ney's discounts where counts of counts do not give them

Floats = NDArray[np.float64]
Discounts = tuple[float, float, float]
Numbers = NDArray[np.int64]  # of sequences; -1 for one that the training text does not have


class Counts:
    """How often each sequence of up to `order` tokens occurs in a training text of ids [N] in 0..size - 1, N < 2**31.

    A length's arrays have one entry for each distinct sequence, in the order of their keys, and a 0 behind the last,
    which is what number -1 reads.

    >>> counts = Counts(np.array([0, 1, 0, 1, 1]), size=2, order=2)
    >>> counts.keys(2).tolist()  # context * 2 + token, the start symbol being context 2
    [1, 2, 3, 4]
    >>> counts.count(2).tolist(), counts.preceded(1).tolist()
    ([2, 1, 1, 1, 0], [2, 2, 0])
    """

    def __init__(self, ids: Ids, size: int, order: int) -> None:
        if size < 1 or order < 1:
            raise ValueError(f"{size} tokens and order {order}: there must be at least one of each")
        if len(ids) and not 0 <= ids.min() <= ids.max() < size:
            raise ValueError(f"a training text's ids lie in 0..{size - 1}")
        self.size, self.order = size, order
        self._keys = [np.arange(size, dtype=np.int64)]
        self._count = [_padded(np.bincount(ids, minlength=size))]
        self._preceded: list[NDArray[np.int32]] = []
        stream = _stream(ids, size)
        numbers = stream
        for length in range(2, order + 1):
            shorter = numbers
            numbers, keys, count, places = _rank(shorter[:-1].astype(np.int64) * size + stream[length - 1 :])
            preceded = np.bincount(shorter[1:][places], minlength=len(self._keys[-1]))
            if length > 2:  # what begins with the start symbol has nothing before it: its count stands in
                preceded[shorter[:1]] = 1
            self._keys.append(keys)
            self._count.append(_padded(count))
            self._preceded.append(_padded(preceded))

    def keys(self, length: int) -> NDArray[np.int64]:
        """Of each sequence of this length: the number of all but its last token, times `size`, plus the last token."""
        return self._keys[length - 1]

    def count(self, length: int) -> NDArray[np.int32]:
        """How often each sequence of this length occurs, and a 0."""
        return self._count[length - 1]

    def preceded(self, length: int) -> NDArray[np.int32]:
        """How many different tokens, or the start, come before each sequence of this length < order, and a 0."""
        return self._preceded[length - 1]

    def contexts(self, length: int) -> int:
        """How many numbers the contexts of sequences of this length have; the start symbol is one, of one token."""
        return 1 if length == 1 else len(self.keys(length - 1)) + (length == 2)

    def find(self, length: int, contexts: Numbers, tokens: Ids) -> Numbers:
        """The numbers [N] of sequences of this length >= 2: of these contexts' numbers [N] and the tokens behind."""
        numbers, keys = np.full(len(tokens), -1, dtype=np.int64), self.keys(length)
        sought = np.flatnonzero((contexts >= 0) & (tokens < self.size))
        if len(keys):
            wanted = contexts[sought] * self.size + tokens[sought]
            order = np.argsort(wanted)  # neighbours are found near each other, which is several times as fast
            sought, wanted = sought[order], wanted[order]
            places = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
            numbers[sought] = np.where(keys[places] == wanted, places, -1)
        return numbers

    def summed(self, length: int, values: NDArray[np.int32] | Floats) -> Floats:
        """The sum over each context's followers of a value for each sequence, [contexts + 1]; the last sum is 0."""
        context = self.keys(length) // self.size
        sums = np.bincount(context, values[:-1], minlength=self.contexts(length) + 1)
        return sums.astype(np.float64, copy=False)

    def followers(self, length: int, context: int) -> slice:
        """The numbers of the sequences of this length that begin with a context."""
        if context < 0:
            return slice(0, 0)
        return slice(*np.searchsorted(self.keys(length), [context * self.size, (context + 1) * self.size]).tolist())


def _stream(ids: Ids, size: int) -> Ids:
    return np.concatenate([[size], ids]).astype(np.int32)


def _padded(values: NDArray[np.int64]) -> NDArray[np.int32]:
    return np.append(values, 0).astype(np.int32)


def _rank(keys: NDArray[np.int64]) -> tuple[Ids, NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Of keys [N]: the place of each among the distinct ones, in order; these; how often; a place where each stands."""
    order = np.argsort(keys)
    ordered = keys[order]
    first = np.ones(len(keys), dtype=np.bool_)
    np.not_equal(ordered[1:], ordered[:-1], out=first[1:])
    starts = np.flatnonzero(first)
    numbers = np.empty(len(keys), dtype=np.int32)
    numbers[order] = np.cumsum(first, dtype=np.int32) - 1
    return numbers, ordered[starts], np.diff(starts, append=len(keys)), order[starts]


@dataclass(frozen=True, slots=True)
class Seen:
    """What a context says of its followers; a model may put other numbers in the place of counts.

    A context that was never seen has zeros throughout.
    """

    count: Floats  # of the token
    taken: Floats  # what the token's count gives up for the order below
    total: Floats  # the sum of counts over all tokens
    left: Floats  # the sum of what is taken over all tokens


class NGram(ABC):
    """A model of one order. Where `top` is asked for, it says whether a length is the model's own order."""

    method: ClassVar[str]
    given: ClassVar[Sequence[float]] = (0, 0, 0, 0)  # what a count of 0, 1, 2, 3 or more gives to the order below

    def __init__(self, counts: Counts, order: int) -> None:
        if not 1 <= order <= counts.order:
            raise ValueError(f"order {order} is not among the counted 1..{counts.order}")
        self.counts, self.order = counts, order

    @property
    def name(self) -> str:
        return f"{self.method} {self.order}"

    def nats(self, ids: Ids) -> Floats:
        """-ln P(token | all before it) of each of a text's tokens [N]; infinite for one that is not among the V."""
        return next(self._climb(ids, (self.order,)))

    def nats_by_order(self, ids: Ids) -> Iterator[Floats]:
        """What models of the orders 1, 2, ... up to this one give, for about twice what the last of them costs."""
        return self._climb(ids, range(1, self.order + 1))

    def distribution(self, history: Ids) -> Floats:
        """P(. | history) [V] after the start and these tokens, of which the last order - 1 count."""
        stream = _stream(history[-self.order :], self.counts.size)
        stream = stream[max(0, len(stream) - self.order + 1) :]
        p, context = np.full(self.counts.size, 1 / self.counts.size), 0
        numbers = _singles(stream, self.counts.size)
        for length in range(1, len(stream) + 2):
            if length > 2:
                numbers = self.counts.find(length - 1, numbers[:-1], stream[length - 2 :])
            context = int(numbers[-1]) if length > 1 else 0
            p = self._mixed(self._followers(length, context), p)
        return p

    def _followers(self, length: int, context: int) -> Seen:
        """What is seen of all V tokens behind one context: count and taken are [V], the sums [1]."""
        among = self.counts.followers(length, context)
        tokens = self.counts.keys(length)[among] - context * self.counts.size
        count, taken = np.zeros((2, self.counts.size))
        count[tokens] = self._counted(length, length == self.order)[among]
        taken[tokens] = self._taken(count[tokens].astype(np.int32), length, length == self.order)
        return Seen(count, taken, count.sum(keepdims=True), taken.sum(keepdims=True))

    def _climb(self, ids: Ids, orders: Collection[int]) -> Iterator[Floats]:
        """-ln P [N] for each of these orders, from the shortest contexts to the longest.

        A sequence of `length` tokens that begins at place j of the stream ends with token j + length - 2 of the text:
        the first tokens do not have such a context, and keep what the order below says.
        """
        size, stream = self.counts.size, _stream(ids, self.counts.size)
        below = np.full(len(ids), 1 / size)
        found = _singles(stream, size)
        contexts, numbers = np.zeros(len(ids), dtype=np.int64), found[1:]
        for length in range(1, max(orders) + 1):
            if length > 1:
                contexts = found[:-1]
                found = numbers = self.counts.find(length, contexts, stream[length - 1 :])
            if length in orders:
                p = self._raised(below, self._at(length, True, contexts, numbers))
                yield np.where(ids < size, -np.log(p), np.inf)
            if length < max(orders):
                below = self._raised(below, self._at(length, False, contexts, numbers))

    def _at(self, length: int, top: bool, contexts: Numbers, numbers: Numbers) -> Seen:
        """What is seen of one token [N] behind each of these contexts [N]."""
        count = self._counted(length, top)
        taken = self._taken(count, length, top)
        total, left = (self.counts.summed(length, values)[contexts] for values in (count, taken))
        return Seen(count[numbers].astype(np.float64), taken[numbers], total, left)

    def _raised(self, below: Floats, seen: Seen) -> Floats:
        first = len(below) - len(seen.count)
        return np.concatenate([below[:first], self._mixed(seen, below[first:])])

    def _taken(self, count: NDArray[np.int32], length: int, top: bool) -> Floats:
        return np.array(self._given(length, top), dtype=np.float64)[np.minimum(count, 3)]

    def _given(self, length: int, top: bool) -> Sequence[float]:  # noqa: ARG002 - Kneser-Ney's differ
        return self.given

    def _counted(self, length: int, top: bool) -> NDArray[np.int32]:  # noqa: ARG002
        """What stands for the count of each sequence of a length."""
        return self.counts.count(length)

    @abstractmethod
    def _mixed(self, seen: Seen, below: Floats) -> Floats:
        """P of an order, from what it has seen and from P of the order below."""


def _singles(stream: Ids, size: int) -> Numbers:
    """The numbers of sequences of one token, the start symbol among them."""
    return np.where(stream <= size, stream, -1).astype(np.int64)


class AddDelta(NGram):
    """Each token counted `delta` times more than it occurred, after exactly n - 1 tokens.

    Without a delta it is 1 / V, so that a context has seen one token more than it did, shared out among all of them
    (Perks 1947). With a larger one, contexts that were seen a few times would count for little against V deltas.
    """

    method = "add-delta"

    def __init__(self, counts: Counts, order: int, delta: float | None = None) -> None:
        super().__init__(counts, order)
        self.delta = 1 / counts.size if delta is None else delta
        if not 0 < self.delta < np.inf:
            raise ValueError(f"delta {delta} is not a positive number")

    def _mixed(self, seen: Seen, below: Floats) -> Floats:  # noqa: ARG002 - it knows no other order
        return (seen.count + self.delta) / (seen.total + self.delta * self.counts.size)


class Backoff(AddDelta):
    """Add-delta at the longest end of the context, of n - 1 tokens at most, that the training text goes on after."""

    method = "backoff"

    def _mixed(self, seen: Seen, below: Floats) -> Floats:
        return np.where(seen.total > 0, super()._mixed(seen, below), below)


class WittenBell(NGram):
    """Interpolated: the order below weighs as much as the context has different followers."""

    method = "witten-bell"
    given = (0, 1, 1, 1)

    def _mixed(self, seen: Seen, below: Floats) -> Floats:
        whole = seen.total + seen.left
        return np.where(whole > 0, (seen.count + seen.left * below) / np.maximum(whole, 1), below)


class KneserNey(NGram):
    """Interpolated and modified: discounts for counts of 1, 2 and more, and orders below its own that count, instead of
    how often a sequence occurs, how many different tokens come before it."""

    method = "kneser-ney"

    def __init__(self, counts: Counts, order: int) -> None:
        super().__init__(counts, order)
        self._discounts: dict[tuple[int, bool], Discounts] = {}

    def discounts(self, length: int) -> Discounts:
        """The discounts of sequences of this length, 1..order."""
        return self._discounts_of(length, length == self.order)

    def _discounts_of(self, length: int, top: bool) -> Discounts:
        if (length, top) not in self._discounts:
            self._discounts[length, top] = discounts(self._counted(length, top))
        return self._discounts[length, top]

    def _given(self, length: int, top: bool) -> Sequence[float]:
        return (0, *self._discounts_of(length, top))

    def _counted(self, length: int, top: bool) -> NDArray[np.int32]:
        return self.counts.count(length) if top else self.counts.preceded(length)

    def _mixed(self, seen: Seen, below: Floats) -> Floats:
        kept = seen.count - seen.taken
        return np.where(seen.total > 0, (kept + seen.left * below) / np.maximum(seen.total, 1), below)


def discounts(count: NDArray[np.int32]) -> Discounts:
    """Chen and Goodman's discounts for counts of 1, 2 and more, from how many sequences have a count of 1, 2, 3 and 4.

    `FALLBACK` takes their place, all three of them, where the text does not have enough rare sequences for the
    estimate: one of the first three numbers is 0, or a discount is not between 0 and the count that it is taken from.

    >>> discounts(np.repeat(np.array([1, 2, 3, 4, 9], dtype=np.int32), [8, 4, 3, 2, 5]))
    (0.5, 0.875, 1.6666666666666667)
    >>> discounts(np.array([1, 1, 5, 7, 9], dtype=np.int32)) == FALLBACK
    True
    """
    n1, n2, n3, n4 = np.bincount(np.minimum(count, 5), minlength=6)[1:5].tolist()
    if not (n1 and n2 and n3):
        return FALLBACK
    y = n1 / (n1 + 2 * n2)
    found = 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3
    return found if all(0 < discount < k for k, discount in enumerate(found, 1)) else FALLBACK
