"""Dilated convolutions against van den Oord et al. (2016), equation 2 with residual connections, written as a loop."""

from __future__ import annotations

import pytest
import torch
from oracles import assert_textbook, random_network, sigmoid
from torch import Tensor

from charlm.config import ModelConfig
from charlm.models.architecture import architecture_of

V, H, LAYERS = 7, 5, 4


def textbook(weights: dict[str, Tensor], ids: list[int]) -> Tensor:
    """y(t) = x(t) + W_o (tanh(W_f * x) sigmoid(W_g * x)): filters of two taps, 2**l apart; zeros before the text."""
    rows = [weights["layers.0.weight_ih"] @ weights["embedding.weight"][token] for token in ids]
    for layer in range(LAYERS):
        w = {name.removeprefix(f"layers.{layer}."): weight for name, weight in weights.items()}
        (past_f, past_g), (now_f, now_g) = w["weight_gates"][:, :H].chunk(2), w["weight_gates"][:, H:].chunk(2)
        b_f, b_g = w["bias_gates"].chunk(2)
        above = []
        for t, x in enumerate(rows):
            before = rows[t - 2**layer] if t >= 2**layer else torch.zeros(H).double()
            gate = sigmoid(past_g @ before + now_g @ x + b_g)
            above.append(x + w["bias_out"] + w["weight_out"] @ (torch.tanh(past_f @ before + now_f @ x + b_f) * gate))
        rows = above
    return torch.stack([weights["head.bias"] + weights["head.weight"] @ y for y in rows])


def test_logits_and_gradients_are_the_textbooks() -> None:
    network = random_network(ModelConfig(model="dilated", layers=LAYERS, hidden=H, embedding=3), V, seed=3)
    assert_textbook(network, textbook, length=21)


@pytest.mark.parametrize(("layers", "reach"), [(1, 2), (2, 4), (4, 16), (8, 256), (10, 1024), (11, 1025)])
def test_the_receptive_field_doubles_with_each_layer_up_to_ten(layers: int, reach: int) -> None:
    config = ModelConfig(model="dilated", layers=layers)
    assert architecture_of(config).receptive_field(config) == reach
