"""The transformer against PyTorch's attention, with rotary embeddings as complex numbers, a mask as a loop."""

from __future__ import annotations

import math

import pytest
import torch
from oracles import assert_textbook, random_network
from torch import Tensor, nn

from charlm.config import Config, ModelConfig, TrainConfig, check_train
from charlm.errors import ConfigError
from charlm.models.network import Network
from charlm.training.defaults import Facts, choose
from charlm.training.footprint import footprint

V, H, HEADS, N, LAYERS = 7, 8, 2, 5, 2
D = H // HEADS


def turned(x: Tensor, places: list[int]) -> Tensor:
    """RoFormer's equation 34 [T, D]: at place m, pair k is multiplied by e^(i m theta_k), theta_k = 100^(-2k/D)."""
    pairs = torch.complex(x[:, : D // 2], x[:, D // 2 :])
    theta = torch.tensor([100 ** (-2 * i / D) for i in range(D // 2)]).double()
    angle = torch.tensor(places).double()[:, None] * theta
    result = pairs * torch.polar(torch.ones_like(angle), angle)
    return torch.cat([result.real, result.imag], dim=1)


def attention(x: Tensor, w: dict[str, Tensor]) -> Tensor:
    """Each of T places attends to itself and the N - 1 before it [T, H]; places count from 1,000."""
    q, k, v = (x @ matrix.T + b for matrix, b in zip(w["weight_qkv"].chunk(3), w["bias_qkv"].chunk(3), strict=True))
    places = list(range(1000, 1000 + len(x)))
    mask = torch.tensor([[0.0 if 0 <= i - j < N else -math.inf for j in range(len(x))] for i in range(len(x))]).double()
    heads = []
    for one in range(HEADS):
        own = slice(one * D, (one + 1) * D)
        scores = turned(q[:, own], places) @ turned(k[:, own], places).T / math.sqrt(D) + mask
        heads.append(scores.softmax(dim=1) @ v[:, own])
    return torch.cat(heads, dim=1) @ w["weight_attention"].T + w["bias_attention"]


def norm(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    variance = x.var(dim=1, unbiased=False, keepdim=True)
    return (x - x.mean(dim=1, keepdim=True)) / torch.sqrt(variance + 1e-5) * scale + shift


def textbook(weights: dict[str, Tensor], ids: list[int]) -> Tensor:
    x = torch.stack([weights["layers.0.weight_ih"] @ weights["embedding.weight"][token] for token in ids])
    for layer in range(LAYERS):
        w = {name.removeprefix(f"layers.{layer}."): weight for name, weight in weights.items()}
        x = x + attention(norm(x, w["norm_attention"], w["norm_attention_bias"]), w)
        wide = norm(x, w["norm_mlp"], w["norm_mlp_bias"]) @ w["weight_up"].T + w["bias_up"]
        x = x + nn.GELU(approximate="tanh")(wide) @ w["weight_down"].T + w["bias_down"]
    x = norm(x, weights[f"layers.{LAYERS - 1}.norm_last"], weights[f"layers.{LAYERS - 1}.norm_last_bias"])
    return x @ weights["head.weight"].T + weights["head.bias"]


def test_logits_and_gradients_are_the_textbooks() -> None:
    config = ModelConfig(model="transformer", layers=LAYERS, hidden=H, embedding=3, context=N, heads=HEADS)
    assert_textbook(random_network(config, V, seed=3), textbook, length=13, looser=100)  # angles are around 1,000


@pytest.mark.parametrize("context", [1, 3, 600])
def test_long_chunks_are_computed_in_blocks_with_one_result(context: int) -> None:
    """A block has 64 queries, or as many as the window; 600 keys are more than a block of PyTorch's kernels has."""
    config = ModelConfig(model="transformer", layers=2, hidden=H, embedding=3, context=context, heads=HEADS)
    network = random_network(config, V, seed=5).double()
    ids = torch.randint(0, V, (700, 1), generator=torch.Generator().manual_seed(6))
    whole, state = network(ids, network.init_state(1))
    later, parts = network.init_state(1), []
    for chunk in torch.split(ids, [1, 60, 70, 569]):
        logits, later = network(chunk, later)
        parts.append(logits)
    torch.testing.assert_close(torch.cat(parts), whole, rtol=0, atol=1e-12)
    assert state[0][2].item() == later[0][2].item() == min(700, context - 1)


def test_what_lanes_carry_counts_as_memory() -> None:
    config = ModelConfig(model="transformer", layers=2, hidden=H, embedding=3, context=100, heads=HEADS)
    found = footprint(Config(model=config, train=TrainConfig(batch=3)), V)
    assert found.states == sum(part.nbytes for layer in Network(config, V).init_state(3) for part in layer)


def test_heads_divide_the_units_evenly_or_are_refused() -> None:
    facts = Facts(characters=10**6, tokens=10**6, vocabulary=60, device="cpu", speed=1e11)
    asked: dict[str, object] = {"model": "transformer", "hidden": 64, "heads": 3}
    with pytest.raises(ConfigError, match=r"--heads 3 needs a --hidden that is a multiple of 6.* not 64.* --hidden 66"):
        choose(check_train(asked), facts)
    for hidden, heads in ((64, 2), (96, 3), (128, 4), (192, 6), (256, 8), (512, 16)):
        config, reasons = choose({"model": "transformer", "hidden": hidden}, facts)
        assert config.model.heads == heads
        assert str(hidden) in reasons["heads"]
