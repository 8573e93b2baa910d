"""Mixtures against Bayes' rule carried out token by token, the bound that is promised, and sums over all texts."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from oracles import synthetic_text

import charlm
from charlm.evaluation.mixture import STEPS, mix
from charlm.evaluation.score import add_escape, exact_nats
from charlm.models.network import Network, import_weights
from charlm.models.ngram import Counts, KneserNey

Nats = NDArray[np.float64]
prices = st.floats(0, 30, allow_subnormal=False)
texts = st.integers(0, 12).flatmap(
    lambda size: st.tuples(
        st.lists(st.integers(0, 2), min_size=size, max_size=size),
        st.lists(st.lists(prices, min_size=size, max_size=size), min_size=1, max_size=3),
    )
)


def of(ids: Sequence[int]) -> NDArray[np.int32]:
    return np.array(ids, dtype=np.int32)


class Posterior:
    """Experts with a weight each, which Bayes' rule changes; one such set for each context."""

    def __init__(self, experts: int) -> None:
        self.weights: dict[object, list[float]] = defaultdict(lambda: [1 / experts] * experts)

    def p(self, context: object, expert_p: Sequence[float]) -> float:
        """The mixture's probability of the token that came, which is then taken note of."""
        joint = [w * p for w, p in zip(self.weights[context], expert_p, strict=True)]
        self.weights[context] = [each / sum(joint) for each in joint]
        return sum(joint)


def step_by_step(models: Sequence[Nats], ids: Sequence[int], steps: int, context: int) -> list[float]:
    grid = [w for w in itertools.product(range(steps + 1), repeat=len(models)) if sum(w) == steps]
    levels = [Posterior(len(grid)) for _ in range(context + 1)]
    trust, last = Posterior(context + 1), Posterior(2)
    nats = []
    for t in range(len(ids)):
        model_p = [math.exp(-float(model[t])) for model in models]
        expert_p = [sum(w * p for w, p in zip(shares, model_p, strict=True)) / steps for shares in grid]
        before = ["start"] * context + list(ids[:t])
        level_p = [level.p(tuple(before[len(before) - k :]), expert_p) for k, level in enumerate(levels)]
        trusted = trust.p(before[-1] if context else None, level_p)
        nats.append(-math.log(last.p(None, [level_p[0], trusted])))
    return nats


def experts(models: Sequence[Nats], steps: int) -> list[float]:
    """The total nats of each linear mixture of the grid."""
    grid = [w for w in itertools.product(range(steps + 1), repeat=len(models)) if sum(w) == steps]
    p = np.exp(-np.stack(models))
    return [float(-np.log(np.array(shares) / steps @ p).sum()) for shares in grid]


# Bayes' rule


@given(texts, st.integers(1, 4), st.integers(0, 3))
def test_nats_are_those_of_bayes_rule(text: tuple[list[int], list[list[float]]], steps: int, context: int) -> None:
    ids, models = text[0], [np.array(model) for model in text[1]]
    nats = mix(models, of(ids), steps=steps, context=context)
    np.testing.assert_allclose(nats, step_by_step(models, ids, steps, context), rtol=0, atol=1e-9)


def test_a_long_text_is_computed_as_exactly() -> None:
    draw = np.random.default_rng(1)
    ids = draw.integers(0, 4, 4000).tolist()
    models = [draw.exponential(2, 4000), draw.exponential(2, 4000), draw.exponential(4, 4000)]
    np.testing.assert_allclose(mix(models, of(ids)), step_by_step(models, ids, STEPS, 3), rtol=0, atol=1e-9)


@given(texts, st.integers(1, 4), st.integers(0, 3))
def test_the_regret_to_the_best_expert_is_bounded(
    text: tuple[list[int], list[list[float]]], steps: int, context: int
) -> None:
    ids, models = text[0], [np.array(model) for model in text[1]]
    total = float(mix(models, of(ids), steps=steps, context=context).sum())
    charges = experts(models, steps)
    assert total <= min(charges) + math.log(2 * len(charges)) + 1e-9
    assert total <= min(float(model.sum()) for model in models) + math.log(2 * len(charges)) + 1e-9


def test_one_model_alone_and_models_that_agree_are_themselves() -> None:
    model, ids = np.array([0.5, 3.0, 0.0, 700.0, 2000.0]), of([0, 1, 0, 0, 1])
    np.testing.assert_allclose(mix([model], ids), model, rtol=1e-12)
    np.testing.assert_allclose(mix([model, model, model], ids), model, rtol=1e-12)


# a probability model


def model_of(seed: int) -> Callable[[Sequence[int]], NDArray[np.float64]]:
    """Some distribution over three tokens for every past."""

    def p(past: Sequence[int]) -> NDArray[np.float64]:
        return np.random.default_rng([seed, *[token + 1 for token in past]]).dirichlet([0.5] * 3)

    return p


def charges_of(seed: int, ids: Sequence[int]) -> Nats:
    return np.array([-math.log(model_of(seed)(ids[:t])[token]) for t, token in enumerate(ids)])


@pytest.mark.parametrize("models", [2, 3])
def test_probabilities_sum_to_one_over_tokens_and_over_texts(models: int) -> None:
    total = 0.0
    for ids in itertools.product(range(3), repeat=5):
        nats = mix([charges_of(seed, ids) for seed in range(models)], of(ids))
        total += math.exp(-nats.sum())
    assert total == pytest.approx(1, abs=1e-9)
    past = [0, 1, 1, 2, 0, 1]
    ends = [[*past, token] for token in range(3)]
    p = [math.exp(-mix([charges_of(seed, ids) for seed in range(models)], of(ids))[-1]) for ids in ends]
    assert math.fsum(p) == pytest.approx(1, abs=1e-9)


@given(texts, texts)
@settings(max_examples=50)
def test_weights_depend_on_the_past_alone(
    text: tuple[list[int], list[list[float]]], after: tuple[list[int], list[list[float]]]
) -> None:
    ids, models = text[0], [np.array(model) for model in text[1]]
    end = np.resize(after[1][0], len(after[0]))
    longer = [np.concatenate([model, end * (k + 1)]) for k, model in enumerate(models)]
    nats = mix(longer, of([*ids, *[2 - token for token in after[0]]]))
    np.testing.assert_allclose(nats[: len(ids)], mix(models, of(ids)), rtol=0, atol=1e-9)


def test_a_factor_common_to_all_models_changes_no_weight() -> None:
    """As for an unseen character, or the share of the escape in every known one."""
    draw = np.random.default_rng(2)
    models, ids, price = draw.exponential(2, (2, 50)), of(draw.integers(0, 3, 50).tolist()), draw.exponential(1, 50)
    np.testing.assert_allclose(mix(list(models + price), ids), mix(list(models), ids) + price, atol=1e-9)


# what it is for


def test_models_that_know_different_things_are_better_together() -> None:
    """One is sure after token 0, the other after token 1; which of them to trust has to be learned by context."""
    ids = of([0, 1] * 200)
    early, late = np.where(ids == 1, 0.1, 3.0), np.where(ids == 0, 0.1, 3.0)
    together = mix([early, late], ids)
    assert together[-100:].mean() < 0.15
    assert mix([early, late], ids, context=0)[-100:].mean() > 0.5


def test_a_network_and_an_ngram_model_together_are_better_than_either(small_model: charlm.LanguageModel) -> None:
    tokenizer = small_model.tokenizer
    network = Network(small_model.config.model, tokenizer.size)
    import_weights(network.eval(), small_model.checkpoint.weights)
    train, ids = (tokenizer.encode(part).ids for part in _split(synthetic_text(60_000, seed=7) + "☃"))
    neural = exact_nats(network, tokenizer, ids)
    counted = add_escape(KneserNey(Counts(train, tokenizer.size, 6), 6).nats(ids), ids, tokenizer)
    mixed = mix([neural, counted], ids)
    assert mixed.mean() < min(neural.mean(dtype=np.float64), counted.mean()) - 0.005
    assert mixed[-1] == pytest.approx(tokenizer.unseen_nats)


def _split(text: str) -> tuple[str, str]:
    return text[:54_000], text[54_000:]


# edges


def test_an_empty_text_and_arrays_that_do_not_fit() -> None:
    assert mix([np.zeros(0), np.zeros(0)], of([])).shape == (0,)
    with pytest.raises(ValueError, match="nats of 2 tokens"):
        mix([np.zeros(2), np.zeros(3)], of([0, 1]))
    with pytest.raises(ValueError, match="one model"):
        mix([], of([0, 1]))
