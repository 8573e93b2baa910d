"""The window network against Bengio et al. (2003), equation 1 without direct connections, written as a loop."""

from __future__ import annotations

import torch
from oracles import assert_textbook, random_network
from torch import Tensor

from charlm.config import ModelConfig

V, N, E = 7, 4, 3


def textbook(weights: dict[str, Tensor], ids: list[int]) -> Tensor:
    """y = b + U tanh(d + H x), x the embeddings of the last N words, the oldest first, and zeros before the text."""
    logits = []
    for t in range(len(ids)):
        words = [
            weights["embedding.weight"][ids[k]] if k >= 0 else torch.zeros(E).double() for k in range(t - N + 1, t + 1)
        ]
        hidden = torch.tanh(weights["layers.0.bias"] + weights["layers.0.weight_ih"] @ torch.cat(words))
        logits.append(weights["head.bias"] + weights["head.weight"] @ hidden)
    return torch.stack(logits)


def test_logits_and_gradients_are_the_textbooks() -> None:
    config = ModelConfig(model="window", layers=1, hidden=6, embedding=E, context=N)
    assert_textbook(random_network(config, V, seed=3), textbook, length=11)


def test_it_looks_exactly_as_far_as_it_says() -> None:
    """One layer sees `context` characters, two layers 2 (n - 1) + 1: what is further back changes nothing."""
    for layers, reach in ((1, N), (2, 2 * (N - 1) + 1)):
        config = ModelConfig(model="window", layers=layers, hidden=6, embedding=E, context=N)
        network = random_network(config, V, seed=6).double()
        ids = torch.randint(0, V, (20, 1), generator=torch.Generator().manual_seed(7))
        last = network(ids, network.init_state(1))[0][-1]
        for back in range(1, 20):
            other = ids.clone()
            other[-back] = (other[-back] + 1) % V
            moved = not torch.equal(network(other, network.init_state(1))[0][-1], last)
            assert moved == (back <= reach)
