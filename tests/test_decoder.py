"""The NumPy decoder against the torch network: the same probabilities, step by step, stream by stream."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from oracles import random_network

from charlm.config import ModelConfig
from charlm.inference.decoder import Decoder
from charlm.models.network import Network, export_weights, named_weights

V = 11
CELLS = ("lstm", "gru", "rnn")


def steady_network(cell: str, layers: int, embedding: int) -> Network:
    """Predictions move a good deal, but recurrent matrices contract: a chaotic network would magnify rounding."""
    config = ModelConfig(cell=cell, layers=layers, hidden=16, embedding=embedding)
    network = random_network(config, V, seed=layers, scale=0.6)
    with torch.no_grad():
        for name, weight in named_weights(network).items():
            if name.endswith("weight_hh"):
                weight.mul_(1 / 3)
    return network


def log_softmax(logits: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> torch.Tensor:
    return torch.from_numpy(logits).double().log_softmax(-1)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("embedding", [0, 7])
def test_decoder_equals_the_network_over_200_steps(cell: str, layers: int, embedding: int) -> None:
    """Four streams of random ids, each of which begins with the start input and meets unseen characters on its way."""
    network = steady_network(cell, layers, embedding)
    decoder = Decoder(network.config, export_weights(network))
    ids = torch.randint(0, V + 2, (200, 4), generator=torch.Generator().manual_seed(1))
    ids[0] = V
    assert all((ids == V + 1).any(dim=0))
    with torch.inference_mode():
        reference, _ = network(ids, network.init_state(4))
    state = decoder.init_state(4)
    for row, expected in zip(ids.numpy(), reference.double().log_softmax(-1), strict=True):
        logits, state = decoder.step(row, state)
        torch.testing.assert_close(log_softmax(logits), expected, rtol=0, atol=1e-5)
    assert reference.std(dim=0).mean() > 0.05, "a model whose predictions hardly change would prove little"


@pytest.mark.parametrize("cell", CELLS)
def test_streams_do_not_hear_each_other(cell: str) -> None:
    network = steady_network(cell, 2, 7)
    decoder = Decoder(network.config, export_weights(network))
    draws = np.random.default_rng(3).integers(0, V, (30, 3))
    together, alone = decoder.init_state(3), [decoder.init_state(1) for _ in range(3)]
    for row in draws:
        logits, together = decoder.step(row, together)
        for stream, token in enumerate(row):
            single, alone[stream] = decoder.step([int(token)], alone[stream])
            np.testing.assert_allclose(single[0], logits[stream], rtol=0, atol=1e-5)


@pytest.mark.parametrize("cell", CELLS)
def test_a_step_changes_neither_the_state_that_it_is_given_nor_the_weights(cell: str) -> None:
    """A caller may branch: read on from one state twice."""
    network = steady_network(cell, 2, 7)
    weights = export_weights(network)
    decoder = Decoder(network.config, weights)
    _, state = decoder.step([V, 3], decoder.init_state(2))
    kept = [tuple(part.copy() for part in layer) for layer in state]
    once, _ = decoder.step([1, 2], state)
    twice, _ = decoder.step([1, 2], state)
    np.testing.assert_array_equal(once, twice)
    for layer, before in zip(state, kept, strict=True):
        np.testing.assert_array_equal(np.stack(layer), np.stack(before))
    assert all(np.array_equal(weights[name], array) for name, array in export_weights(network).items())


@pytest.mark.parametrize("cell", CELLS)
def test_saturated_gates_stay_finite(cell: str) -> None:
    """Large weights drive a sigmoid's argument to where exp overflows in float32; warnings are errors here."""
    network = random_network(ModelConfig(cell=cell, layers=2, hidden=16, embedding=7), V, seed=5, scale=200.0)
    decoder = Decoder(network.config, export_weights(network))
    state = decoder.init_state(1)
    for token in range(V):
        logits, state = decoder.step([token], state)
        assert np.isfinite(logits).all()
