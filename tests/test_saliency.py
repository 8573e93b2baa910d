"""Attributions against what they must equal: finite differences, a linear model, characters replaced one by one."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from oracles import random_network
from torch import Tensor

from charlm.config import ModelConfig
from charlm.errors import DataError
from charlm.inspection.saliency import BEFORE, DISTANCES, Saliency, check_place, rank_correlation, saliency
from charlm.models.network import Network
from charlm.text.tokenizer import CharTokenizer

TOKENIZER = CharTokenizer.train("abcdefg")
V = TOKENIZER.size
CONFIGS = {
    "lstm": ModelConfig(layers=2, hidden=6, embedding=3),
    "gru, one-hot": ModelConfig(cell="gru", layers=1, hidden=6, embedding=0),
    "transformer": ModelConfig(model="transformer", layers=1, hidden=6, embedding=3, context=30, heads=1),
    "dilated": ModelConfig(model="dilated", layers=3, hidden=6, embedding=3),
}


def some_ids(count: int, *, seed: int = 1) -> NDArray[np.int32]:
    return np.random.default_rng(seed).integers(V, size=count).astype(np.int32)


def log2_p(network: Network, ids: NDArray[np.int32], place: int, x: Tensor) -> float:
    """Of the token at a place, after these embeddings [D, E] of the last tokens and what is before them."""
    begin = np.concatenate([[V], ids[max(0, place - BEFORE) : place - DISTANCES]]).astype(np.int64)
    with torch.no_grad():
        whole = torch.cat([network.embedding(torch.from_numpy(begin)[:, None]), x[:, None]])
        logits, _ = network.forward_embedded(whole, network.init_state(1))
        return float(torch.log_softmax(logits[-1, 0], dim=0)[int(ids[place])]) / math.log(2)


@pytest.mark.parametrize("name", CONFIGS)
def test_gradient_times_input_is_a_derivative_and_occlusion_a_difference(name: str) -> None:
    network, ids = random_network(CONFIGS[name], V, seed=2).double(), some_ids(300)
    places = [DISTANCES, 120, 280]
    found = saliency(network, TOKENIZER, ids, places)
    for row, place in enumerate(places):
        with torch.no_grad():
            x = network.embedding(torch.from_numpy(ids[place - DISTANCES : place].astype(np.int64))[:, None])[:, 0]
            mean = network.embedding(torch.arange(V)[:, None])[:, 0].mean(0)
        usual = log2_p(network, ids, place, x)
        assert found.bits[row] == pytest.approx(-usual, abs=1e-12)
        for distance in (1, 2, 5, 13, DISTANCES):
            step = torch.zeros_like(x)
            step[-distance] = x[-distance] - mean
            slope = (log2_p(network, ids, place, x + 1e-5 * step) - log2_p(network, ids, place, x - 1e-5 * step)) / 2e-5
            assert found.gradient[row, distance - 1] == pytest.approx(slope, abs=1e-7)
            change = usual - log2_p(network, ids, place, x - step)
            assert found.occlusion[row, distance - 1] == pytest.approx(
                change, abs=1e-7
            )  # a one-hot mean is that of fp32
    assert (np.abs(found.occlusion).max(axis=1) > 1e-3).all()


class Linear(Network):
    """Two tokens; log2 P of the first is linear in the embeddings of the last tokens."""

    def forward_embedded(self, x_TBE: Tensor, state: Any) -> tuple[Tensor, Any]:
        generator = torch.Generator().manual_seed(5)
        weights = torch.randn(len(x_TBE), 1, x_TBE.shape[-1], generator=generator, dtype=x_TBE.dtype)
        first = (0.01 * weights * x_TBE).sum((0, 2)) - 3
        return torch.stack([first, torch.log(-torch.expm1(first))], dim=-1)[None], state


def test_of_a_linear_model_both_are_equal() -> None:
    tokenizer = CharTokenizer.train("ab")
    config = ModelConfig(layers=1, hidden=2, embedding=4)
    network = Linear(config, 2).eval().double()
    network.load_state_dict(random_network(config, 2, seed=3).double().state_dict())
    ids = np.random.default_rng(4).integers(2, size=120).astype(np.int32)
    ids[[60, 90, 110]] = 0
    found = saliency(network, tokenizer, ids, [60, 90, 110])
    assert np.abs(found.occlusion).min() > 1e-6
    np.testing.assert_allclose(found.gradient, found.occlusion, rtol=0, atol=1e-12)
    assert found.correlation == pytest.approx(1)


def test_what_is_out_of_the_receptive_field_counts_nothing() -> None:
    network = random_network(ModelConfig(model="window", layers=1, hidden=6, embedding=3, context=4), V, seed=6)
    found = saliency(network, TOKENIZER, some_ids(200), [80, 150])
    for values in (found.mean_gradient, found.mean_occlusion):
        assert (values[:4] > 0).all()
        assert not values[4:].any()


def test_places_in_blocks_give_what_each_gives_alone() -> None:
    network, ids = random_network(CONFIGS["lstm"], V, seed=7).double(), some_ids(400)
    places = list(range(60, 360, 17))
    together = saliency(network, TOKENIZER, ids, places)
    for row, place in enumerate(places[::5]):
        alone = saliency(network, TOKENIZER, ids, [place])
        np.testing.assert_allclose(together.gradient[5 * row], alone.gradient[0], rtol=0, atol=1e-12)
        np.testing.assert_allclose(together.occlusion[5 * row], alone.occlusion[0], rtol=0, atol=1e-12)


def test_unseen_characters_are_left_out_and_refused_as_an_example() -> None:
    network, ids = random_network(CONFIGS["lstm"], V, seed=8), some_ids(200)
    ids[100] = TOKENIZER.unseen
    assert saliency(network, TOKENIZER, ids, [99, 100, 101]).places.tolist() == [99, 101]
    assert saliency(network, TOKENIZER, ids, [100]).correlation is None
    with pytest.raises(DataError, match="not in the model's vocabulary"):
        check_place(TOKENIZER, ids, 100)
    for place in (0, 49, 200):
        with pytest.raises(DataError, match="not between 50 and 199"):
            check_place(TOKENIZER, ids, place)
    assert check_place(TOKENIZER, ids, 50).tolist() == [50]


def test_the_network_is_left_as_it_was() -> None:
    network = random_network(CONFIGS["lstm"], V, seed=9)
    before = [weight.detach().clone() for weight in network.parameters()]
    saliency(network, TOKENIZER, some_ids(200), [100])
    assert not network.training
    assert all(weight.grad is None and weight.requires_grad for weight in network.parameters())
    assert all(torch.equal(*pair) for pair in zip(before, network.parameters(), strict=True))


def test_rank_correlation_counts_ties_at_their_mean_rank() -> None:
    """Ranks 1, 2.5, 2.5, 4 and 1, 2, 3, 4: 4.5 / sqrt(4.5 * 5)."""
    tied = rank_correlation(np.array([5.0, 7, 7, 9]), np.array([0.0, 1, 10, 100]))
    assert tied == pytest.approx(4.5 / math.sqrt(4.5 * 5))
    assert rank_correlation(np.array([1.0, 2, 3]), np.array([3.0, 2, 1])) == pytest.approx(-1)


def test_the_record_has_absolute_means() -> None:
    one = np.array([[1.0, -2.0], [-3.0, 4.0]])
    found = Saliency(np.array([60, 70]), np.zeros(2), one, -one)
    assert found.record()["gradient"] == [2.0, 3.0]
    assert found.record()["correlation"] == -1.0
    assert found.record()["correlation_interval"] is None
