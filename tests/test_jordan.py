"""The Jordan network against Jordan (1986) with teacher forcing, written as a loop; and what its trace remembers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from oracles import assert_textbook, random_network, sigmoid
from torch import Tensor

from charlm.config import ModelConfig
from charlm.models.network import Network, export_weights, initialise, named_weights

V, E = 7, 3


def jordan(*, layers: int = 1) -> Network:
    config = ModelConfig(model="jordan", layers=layers, hidden=6, embedding=E)
    return random_network(config, V, seed=3).double().requires_grad_().train()


def textbook(weights: dict[str, Tensor], ids: list[int]) -> Tensor:
    """The state is mu times itself plus the output that should have been given: the character that is read next."""
    logits, state = [], torch.zeros(E).double()
    mu = sigmoid(weights["layers.0.decay"])
    for token in ids:
        x = weights["embedding.weight"][token]
        state = mu * state + x
        of_input, of_state = weights["layers.0.weight_ih"].chunk(2, dim=1)
        hidden = torch.tanh(of_input @ x + of_state @ state + weights["layers.0.bias"])
        logits.append(weights["head.weight"] @ hidden + weights["head.bias"])
    return torch.stack(logits)


def test_logits_and_gradients_are_the_textbooks() -> None:
    assert_textbook(jordan(), textbook, length=11)


@pytest.mark.parametrize("remembers", [False, True])
def test_without_decay_it_is_a_bigram_model(remembers: bool) -> None:
    """With mu = 0 a prediction depends on the character just read alone, and with any other on all of them."""
    network = jordan()
    with torch.no_grad():
        named_weights(network)["layers.0.decay"].fill_(1.0 if remembers else -1000.0)
    one, other = torch.tensor([[0, 1, 2, 3]]).T, torch.tensor([[4, 5, 6, 3]]).T
    last = [network.eval()(ids, network.init_state(1))[0][-1] for ids in (one, other)]
    assert torch.equal(*last) != remembers


def test_a_trace_begins_with_many_time_constants_and_no_more_weight_than_the_input() -> None:
    network = Network(ModelConfig(model="jordan", layers=1, hidden=512, embedding=64), V)
    initialise(network, 1)
    weights = export_weights(network)
    mu = 1 / (1 + np.exp(-weights["layers.0.decay"]))
    assert mu.min() < 0.15
    assert mu.max() > 0.98
    of_input, of_trace = np.split(weights["layers.0.weight_ih"], 2, axis=1)
    longest = np.linalg.norm(of_trace, axis=0) / (1 - mu)  # of a character that comes again and again
    np.testing.assert_allclose(longest, np.linalg.norm(of_input, axis=0), rtol=0.2)
