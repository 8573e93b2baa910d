"""N-gram models against counts by hand, a slow reading of the textbook, and what any model must satisfy."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction as Q
from itertools import product

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from oracles import synthetic_text

from charlm.models.ngram import (
    FALLBACK,
    AddDelta,
    Backoff,
    Counts,
    Floats,
    KneserNey,
    NGram,
    WittenBell,
    estimate_discounts,
)
from charlm.text.tokenizer import CharTokenizer, Ids

METHODS: list[type[NGram]] = [AddDelta, Backoff, WittenBell, KneserNey]
TOY = "abracadabra"
Sequences = Counter[tuple[int, ...]]
texts = st.integers(1, 4).flatmap(
    lambda size: st.tuples(st.just(size), st.lists(st.integers(0, size - 1), max_size=40), st.integers(1, 5))
)


def of(ids: Sequence[int]) -> Ids:
    return np.array(ids, dtype=np.int32)


def toy(order: int) -> Counts:
    return Counts(of(["abcdr".index(letter) for letter in TOY]), 5, order)


def distribution(model: NGram, history: Ids) -> Floats:
    """P(. | history) [V], from the nats of each token after the history."""
    tokens = range(model.counts.size)
    return np.exp([-model.nats(np.append(history, of([token])))[-1] for token in tokens])


def toy_p(model: NGram, token: str, history: str) -> float:
    return float(
        distribution(model, of(["abcdr?".index(letter) for letter in history.replace("?", "r")]))["abcdr".index(token)]
    )


# the textbook, slowly: dictionaries of tuples, one probability at a time


class Textbook:
    """Chen and Goodman (1999), section 3, over the text behind one start symbol; a context is as long as the history
    allows. Nothing of the code under test but the stated fallback."""

    def __init__(self, ids: Sequence[int], size: int) -> None:
        self.size, self.start = size, size
        self.stream = (size, *ids)
        self.counts: dict[int, Sequences] = {}

    def c(self, length: int) -> Sequences:
        """Of events: sequences whose last token is predicted."""
        if length not in self.counts:
            places = range(max(0, length - 1), len(self.stream))
            found = Counter(self.stream[end - length + 1 : end + 1] for end in places if end > 0)
            self.counts[length] = found
        return self.counts[length]

    def continuation(self, length: int) -> Sequences:
        """N1+(. g): by how many different symbols g is preceded; what begins with the start keeps its count."""
        before: dict[tuple[int, ...], set[int]] = {}
        for longer in self.c(length + 1):
            before.setdefault(longer[1:], set()).add(longer[0])
        result = Counter({g: len(symbols) for g, symbols in before.items()})
        for g, n in self.c(length).items():
            if g[0] == self.start:
                result[g] = n
        return result

    def discounts(self, adjusted: Sequences) -> tuple[float, ...]:
        n = Counter(adjusted.values())
        if n[1] == 0 or n[2] == 0 or n[3] == 0:
            return FALLBACK
        y = n[1] / (n[1] + 2 * n[2])
        d = tuple(k - (k + 1) * y * n[k + 1] / n[k] for k in (1, 2, 3))
        return d if all(0 < d[k - 1] < k for k in (1, 2, 3)) else FALLBACK

    def kneser_ney(self, order: int) -> Callable[[int, tuple[int, ...]], float]:
        levels = {k: self.c(k) if k == order else self.continuation(k) for k in range(1, order + 1)}
        reductions = {k: self.discounts(levels[k]) for k in levels}

        def p(token: int, context: tuple[int, ...]) -> float:
            below = p(token, context[1:]) if context else 1 / self.size
            adjusted, d = levels[len(context) + 1], reductions[len(context) + 1]
            behind = [n for g, n in adjusted.items() if g[:-1] == context]
            if not behind:
                return below
            n = adjusted[(*context, token)]
            kept = max(n - d[min(n, 3) - 1], 0) if n else 0
            gamma = sum(d[min(k, 3) - 1] * sum(min(m, 3) == k for m in behind) for k in (1, 2, 3))
            return (kept + gamma * below) / sum(behind)

        return p

    def witten_bell(self, token: int, context: tuple[int, ...]) -> float:
        below = self.witten_bell(token, context[1:]) if context else 1 / self.size
        followers = {g[-1]: n for g, n in self.c(len(context) + 1).items() if g[:-1] == context}
        if not followers:
            return below
        weight = len(followers) / (len(followers) + sum(followers.values()))
        return (1 - weight) * followers.get(token, 0) / sum(followers.values()) + weight * below

    def context(self, history: Sequence[int], order: int) -> tuple[int, ...]:
        full = (self.start, *history)
        return full[max(0, len(full) - order + 1) :]


# hand counts


def test_add_delta_by_hand() -> None:
    """a is followed by b, c, d, b, and five tokens share the deltas; the end of the text follows nothing."""
    model = AddDelta(toy(3), 2, delta=0.5)
    assert toy_p(model, "b", "a") == pytest.approx(float(Q(2 * 2 + 1, 2 * 4 + 5)))
    assert toy_p(model, "a", "a") == pytest.approx(float(Q(1, 13)))
    assert toy_p(model, "a", "") == pytest.approx(float(Q(2 + 1, 2 + 5))), "the text began with it, once"
    assert toy_p(AddDelta(toy(1), 1, delta=0.5), "a", "br") == pytest.approx(float(Q(11, 22 + 5)))
    assert toy_p(AddDelta(toy(3), 3), "c", "bb") == pytest.approx(1 / 5), "bb does not occur"


def test_the_default_delta_is_one_token_shared_by_all() -> None:
    assert toy_p(AddDelta(toy(2), 2), "b", "a") == pytest.approx(float((2 + Q(1, 5)) / (4 + 1)))


def test_backoff_by_hand() -> None:
    """bb never occurs, so b alone counts: it is followed by r twice. ra is followed by c once; the second ends it."""
    model = Backoff(toy(3), 3, delta=1)
    assert toy_p(model, "r", "bb") == pytest.approx(float(Q(2 + 1, 2 + 5)))
    assert toy_p(model, "c", "ra") == pytest.approx(float(Q(1 + 1, 1 + 5)))
    short = Counts(of([0, 1, 2]), 3, 3)  # 2 is followed by nothing, and so is 1 2
    assert distribution(Backoff(short, 3, delta=1), of([1, 2])) == pytest.approx([2 / 6] * 3)


def test_witten_bell_by_hand() -> None:
    """Alone, a has 5 of 11 counts and 5 kinds share the rest: (5 + 5/5) / 16. Behind b there is one kind, twice."""
    assert toy_p(WittenBell(toy(1), 1), "a", "") == pytest.approx(float(Q(5 + 1, 16)))
    b_alone = (2 + Q(5, 5)) / (11 + 5)
    assert toy_p(WittenBell(toy(2), 2), "b", "a") == pytest.approx(float((2 + 3 * b_alone) / (4 + 3)))
    after_b = (0 + 1 * b_alone) / (2 + 1)
    assert toy_p(WittenBell(toy(3), 3), "b", "ab") == pytest.approx(float((0 + 1 * after_b) / (2 + 1)))


def test_kneser_ney_by_hand() -> None:
    """Before a stand start, r, c, d: 4 kinds; before b, c, d only a; before r only b: 8 in all. The toy text has too
    few rare pairs for an estimate, so 0.5, 1 and 1.5 are taken off."""
    model = KneserNey(toy(3), 2)
    assert estimate_discounts(model.counts.continuations(1)) == (0.5, 1.0, 1.5)
    assert estimate_discounts(model.counts.count(2)) == (0.5, 1.0, 1.5)
    b_alone = (1 - Q(1, 2) + (Q(3, 2) + 4 * Q(1, 2)) * Q(1, 5)) / 8
    assert b_alone == Q(3, 20)
    assert toy_p(model, "b", "a") == pytest.approx(float((2 - 1 + (1 + Q(1, 2) + Q(1, 2)) * b_alone) / 4))
    a_alone = (4 - Q(3, 2) + Q(7, 2) * Q(1, 5)) / 8
    assert toy_p(model, "a", "") == pytest.approx(float((1 - Q(1, 2) + Q(1, 2) * a_alone) / 1)), "after the start"


def test_discounts_of_rare_sequences_by_hand() -> None:
    """n1..n4 = 8, 4, 3, 2: Y = 8/16."""
    counts = np.repeat(np.array([0, 1, 2, 3, 4, 7], dtype=np.int32), [3, 8, 4, 3, 2, 9])
    assert estimate_discounts(counts) == pytest.approx((1 - 2 * 0.5 * 4 / 8, 2 - 3 * 0.5 * 3 / 4, 3 - 4 * 0.5 * 2 / 3))


@pytest.mark.parametrize(
    "ns", [(0, 4, 3, 2), (8, 0, 3, 2), (8, 4, 0, 2), (8, 4, 3, 0), (4, 1, 9, 1), (9, 4, 1, 9), (0, 0, 0, 0)]
)
def test_discounts_that_cannot_be_estimated_are_the_fallback(ns: tuple[int, ...]) -> None:
    """No rare ones at all, or D2 below 0, D3 below 0, D3 as large as 3."""
    assert estimate_discounts(np.repeat(np.array([1, 2, 3, 4], dtype=np.int32), ns)) == FALLBACK


# the textbook


def each(ids: Ids) -> Iterator[tuple[list[int], int]]:
    for t, token in enumerate(ids.tolist()):
        yield ids[:t].tolist(), token


@settings(max_examples=40)
@given(texts, st.lists(st.integers(0, 5), max_size=12))
@example((2, [0, 1] * 9 + [1, 1, 0, 0, 0, 1, 0, 0], 3), [0, 1, 1, 5, 0])
def test_nats_are_those_of_the_textbook(text: tuple[int, list[int], int], scored: list[int]) -> None:
    size, train, order = text
    ids, slow, counts = of(scored), Textbook(train, size), Counts(of(train), size, order + 1)
    kneser_ney = slow.kneser_ney(order)
    for model, p in ((KneserNey(counts, order), kneser_ney), (WittenBell(counts, order), slow.witten_bell)):
        expected = [
            -math.log(p(token, slow.context(history, order))) if token < size else math.inf
            for history, token in each(np.where(ids == size, size + 1, ids))
        ]
        nats = model.nats(np.where(ids == size, size + 1, ids).astype(np.int32))
        np.testing.assert_allclose(nats, expected, rtol=0, atol=1e-9)


def test_nats_of_a_longer_text_are_those_of_the_textbook() -> None:
    """Long enough for estimated discounts in most orders."""
    tokenizer = CharTokenizer.train(synthetic_text(1500, seed=3))
    train, ids = tokenizer.encode(synthetic_text(1500, seed=3)).ids, tokenizer.encode("§¶Om☃ " + TOY).ids
    counts, slow, estimated = Counts(train, tokenizer.size, 6), Textbook(train.tolist(), tokenizer.size), 0
    for order in (1, 2, 4, 6):
        model, p = KneserNey(counts, order), slow.kneser_ney(order)
        levels = [counts.continuations(k) for k in range(1, order)] + [counts.count(order)]
        estimated += sum(estimate_discounts(level) != FALLBACK for level in levels)
        nats = model.nats(ids)
        for (history, token), value in zip(each(ids), nats, strict=True):
            if token < tokenizer.size:
                assert value == pytest.approx(-math.log(p(token, slow.context(history, order))), abs=1e-9)
    assert estimated >= 6


# what any probability model must satisfy


@pytest.mark.parametrize("method", METHODS)
def test_probabilities_sum_to_one_in_every_context(method: type[NGram]) -> None:
    """Every context of up to three tokens, seen or not, with unseen characters (id 6) among them; orders 1 to 4."""
    model = method(toy(4), 4)
    for length in range(4):
        for history in product([0, 1, 2, 3, 4, 6], repeat=length):
            nats = [[order[-1] for order in model.nats_by_order(of([*history, token]))] for token in range(5)]
            p = np.exp(-np.array(nats))  # [tokens, orders]
            assert p.min() > 0
            assert p.sum(axis=0) == pytest.approx(np.ones(4), abs=1e-12)


@settings(max_examples=30)
@given(texts, st.lists(st.integers(0, 5), max_size=8))
def test_probabilities_sum_to_one_and_agree_between_orders(text: tuple[int, list[int], int], scored: list[int]) -> None:
    size, train, order = text
    counts = Counts(of(train), size, order)
    ids = of([token if token < size else size + 1 for token in scored])
    for method in METHODS:
        by_order = list(method(counts, order).nats_by_order(ids))
        for k in range(1, order + 1):
            model = method(counts, k)
            nats = model.nats(ids)
            np.testing.assert_array_equal(nats, by_order[k - 1])
            for (history, token), value in zip(each(ids), nats, strict=True):
                p = distribution(model, of(history))
                assert math.fsum(p) == pytest.approx(1, abs=1e-12)
                assert value == (pytest.approx(-math.log(p[token]), abs=1e-12) if token < size else math.inf)


@pytest.mark.parametrize("method", METHODS)
def test_a_token_depends_on_no_more_than_its_context(method: type[NGram]) -> None:
    model = method(toy(4), 3)
    far, near = of([4, 4, 4, 1, 1, 0, 1]), of([2, 0, 1])
    np.testing.assert_array_equal(distribution(model, far), distribution(model, near))
    assert model.nats(np.append(far, of([4])))[-1] == model.nats(np.append(near, of([4])))[-1]


# the edges


@pytest.mark.parametrize("method", METHODS[1:])
def test_an_unseen_character_in_the_context_ends_it(method: type[NGram]) -> None:
    model, unseen = method(toy(4), 4), 6
    alone = distribution(model, of([0, 0, 0, unseen]))
    np.testing.assert_array_equal(distribution(model, of([0, 1, unseen])), alone)
    if method is KneserNey:
        assert alone[1:] == pytest.approx([3 / 20] * 4)  # one kind before each; see the hand count
    else:
        np.testing.assert_allclose(alone, distribution(method(toy(4), 1), of([])))
    nats = model.nats(of([0, unseen, 0, 1]))
    assert nats[1] == math.inf
    assert np.isfinite(nats[[0, 2, 3]]).all()


def test_after_an_unseen_character_add_delta_knows_nothing() -> None:
    assert distribution(AddDelta(toy(3), 3), of([0, 6])) == pytest.approx([1 / 5] * 5)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("train", [[], [0], [0, 0], [2, 1]])
def test_texts_of_hardly_any_tokens(method: type[NGram], train: list[int]) -> None:
    counts = Counts(of(train), 3, 6)
    for order in (1, 2, 6):
        model = method(counts, order)
        assert len(model.nats(of([]))) == 0
        assert model.nats(of([1])) == pytest.approx(-np.log(distribution(model, of([]))[[1]]))
        assert model.nats(of([0, 1, 2, 4, 0] * 3)).shape == (15,)
        if not train:
            assert distribution(model, of([0, 1])) == pytest.approx([1 / 3] * 3)


@pytest.mark.parametrize("method", METHODS)
def test_a_vocabulary_of_one(method: type[NGram]) -> None:
    assert method(Counts(of([0, 0, 0]), 1, 3), 3).nats(of([0, 0])) == pytest.approx([0, 0], abs=1e-15)


def test_what_cannot_be_counted_is_refused() -> None:
    for ids, size, order in (([0, 3], 3, 2), ([-1], 3, 2), ([0], 3, 0), ([], 0, 2)):
        with pytest.raises(ValueError, match=r"lie in 0\.\.2|at least one"):
            Counts(of(ids), size, order)
    for order in (0, 4):
        with pytest.raises(ValueError, match="is not among the counted"):
            KneserNey(toy(3), order)
    for delta in (0, -1, math.inf, math.nan):
        with pytest.raises(ValueError, match="is not a positive number"):
            AddDelta(toy(3), 2, delta)


# texts that look like texts


@pytest.fixture(scope="module")
def figures() -> dict[str, list[float]]:
    """Nats a token of each method's orders 1..8 on 6,000 characters after 54,000."""
    text = synthetic_text(60_000, seed=7)
    tokenizer = CharTokenizer.train(text)
    ids = tokenizer.encode(text).ids
    counts = Counts(ids[:54_000], tokenizer.size, 8)
    return {
        method.method: [float(nats.mean()) for nats in method(counts, 8).nats_by_order(ids[54_000:])]
        for method in METHODS
    }


def test_kneser_ney_gains_from_longer_contexts_and_beats_the_others(figures: dict[str, list[float]]) -> None:
    best = figures["kneser-ney"]
    assert best[0] > best[1] > best[2] > best[3]
    assert max(best[4:]) < min(best) + 0.05, "more context than helps does little harm"
    for order in range(5, 9):
        assert best[order - 1] < figures["witten-bell"][order - 1] < figures["backoff"][order - 1]
        assert figures["backoff"][order - 1] < figures["add-delta"][order - 1]


def test_order_one_has_the_entropy_of_its_frequencies(figures: dict[str, list[float]]) -> None:
    text = synthetic_text(60_000, seed=7)
    frequency, held = Counter(text[:54_000]), text[54_000:]
    expected = -sum(math.log(frequency[character] / 54_000) for character in held) / len(held)
    for method in METHODS:
        assert figures[method.method][0] == pytest.approx(expected, abs=1e-3)


def test_counts_take_no_more_memory_than_stated() -> None:
    ids = np.random.default_rng(0).integers(0, 200, 30_000).astype(np.int32)  # hardly anything repeats
    counts = Counts(ids, 200, 6)
    arrays = [f(k) for k in range(1, 7) for f in (counts.keys, counts.count)] + [
        counts.continuations(k) for k in range(1, 6)
    ]
    assert sum(array.nbytes for array in arrays) < 16 * 6 * 30_000
