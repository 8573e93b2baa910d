"""Echo state networks: the reservoir's equations and spectral radius, and that nothing of it is ever trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from oracles import Parts, Weights, random_state, stack
from torch import Tensor

import charlm
from charlm.config import Config, ModelConfig
from charlm.evaluation.dynamic import dynamic_nats
from charlm.models.network import Network, export_weights, initialise, named_weights, trained_weights
from charlm.models.optimizers import optimizer_shapes
from charlm.storage.checkpoint import load_checkpoint
from charlm.text.tokenizer import CharTokenizer
from charlm.training.footprint import footprint

V = 7
TEXT = "".join(f"{n} and {n} make {2 * n}.\n" for n in range(150))


def reservoir(*, radius: float = 0.9, hidden: int = 24, layers: int = 1, embedding: int = 0) -> Network:
    config = ModelConfig(model="echo", hidden=hidden, layers=layers, embedding=embedding, radius=radius)
    network = Network(config, V)
    initialise(network, 3)
    return network


def some_ids(steps: int, lanes: int) -> Tensor:
    return torch.randint(0, V, (steps, lanes), generator=torch.Generator().manual_seed(steps))


@pytest.mark.parametrize("radius", [0.0, 0.3, 0.9, 1.0, 5.0])
def test_the_spectral_radius_is_the_one_that_was_asked_for(radius: float) -> None:
    weights = export_weights(reservoir(radius=radius, layers=2))
    for layer in (0, 1):
        matrix = weights[f"layers.{layer}.weight_hh"].astype(np.float64)
        assert np.abs(np.linalg.eigvals(matrix)).max() == pytest.approx(radius, abs=1e-6 * max(1, radius))


def echo_step(_: str, x: Tensor, state: Parts, w: Weights, layer: int) -> Parts:
    own = {name.removeprefix(f"layers.{layer}."): weight for name, weight in w.items()}
    return (torch.tanh(x @ own["weight_ih"].T + state[0] @ own["weight_hh"].T + own["bias_ih"] + own["bias_hh"]),)


@pytest.mark.parametrize("layers", [1, 2])
def test_logits_states_and_the_heads_gradient_are_those_of_the_equation(layers: int) -> None:
    network, ids = reservoir(layers=layers).double().train(), some_ids(11, 3)
    state, weights = random_state(network, 3, seed=4), named_weights(network)
    head = list(trained_weights(network).values())
    with torch.enable_grad():
        outcomes = [network(ids, state), stack("", weights, ids, state, echo_step)]
        gradients = [torch.autograd.grad(logits.square().sum(), head) for logits, _ in outcomes]
    torch.testing.assert_close(outcomes[0], outcomes[1], rtol=0, atol=1e-12)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-11, atol=1e-12)


def test_only_the_output_layer_is_trained_and_nothing_is_computed_for_the_rest() -> None:
    network = reservoir(embedding=3)
    assert list(trained_weights(network)) == ["head.weight", "head.bias"]
    logits, state = network.requires_grad_().train()(some_ids(5, 2), network.init_state(2))
    assert logits.requires_grad
    assert not state[0][0].requires_grad  # no history: no backward pass through time
    logits.sum().backward()
    with_gradient = {name for name, weight in named_weights(network).items() if weight.grad is not None}
    assert with_gradient == {"head.weight", "head.bias"}


def train(corpus: Path, **options: Any) -> charlm.Trained:
    given: dict[str, Any] = {"steps": 30, "hidden": 16, "batch": 4, "bptt": 24, "threads": 1, "precision": "fp32"}
    return charlm.train(corpus, model="echo", checkpoints=corpus.parent, **{**given, **options})


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "sums.txt"
    path.write_text(TEXT)
    return path


@pytest.mark.parametrize("optimizer", ["adamw", "muon", "rmsprop"])
def test_training_leaves_the_reservoir_as_it_was_drawn(corpus: Path, optimizer: str) -> None:
    """With weight decay and averaging on; nothing is remembered of what is not trained."""
    trained = train(corpus, optimizer=optimizer, weight_decay=0.5, average=0.5, embedding=6, seed=5)
    last = load_checkpoint(trained.run.last)
    network = Network(last.config.model, trained.vocabulary)
    initialise(network, 5)
    drawn = export_weights(network)
    changed = {name for name, weight in last.weights.items() if not np.array_equal(weight, drawn[name])}
    assert changed == {"head.weight", "head.bias"}
    remembered = {name.split(".", 1)[1] for name in last.tensors if name.startswith("iterate.")}
    assert remembered == changed
    of = {name.split(".", 2)[2] for name in last.tensors if name.startswith("optimizer.")}
    assert of == changed


def test_the_memory_that_training_needs_is_that_of_the_head() -> None:
    config = Config(model=ModelConfig(model="echo", hidden=1000, embedding=0))
    needed = footprint(config, 50)
    assert needed.gradients == 4 * 1001 * 50
    shapes = optimizer_shapes(config, {"head.bias": (50,), "layers.0.weight_hh": (1000, 1000)})
    assert not any("layers" in name for name in shapes)


@pytest.mark.parametrize("radius", [0.0, 5.0])
def test_a_reservoir_without_memory_and_a_chaotic_one_can_be_trained(corpus: Path, radius: float) -> None:
    told: list[str] = []
    result = train(corpus, radius=radius, on_event=lambda event: told.append(getattr(event, "text", ""))).result
    assert result.val_loss is not None
    assert np.isfinite(result.val_loss)
    assert any("may be chaotic" in text for text in told) == (radius > 1)


def test_a_reservoir_below_one_forgets_where_it_began() -> None:
    """The difference of two states shrinks at least by the radius in each step (the echo state property)."""
    network, ids = reservoir(radius=0.8).double(), some_ids(60, 1)
    one, other = (random_state(network, 1, seed=seed) for seed in (1, 2))
    before = (one[0][0] - other[0][0]).norm()
    for t in range(60):
        (_, one), (_, other) = (network(ids[t : t + 1], state) for state in (one, other))
        after = (one[0][0] - other[0][0]).norm()
        assert after <= 0.8 * before + 1e-12
        before = after


def test_dynamic_evaluation_learns_with_the_output_layer_alone() -> None:
    tokenizer = CharTokenizer.train(TEXT)
    config = ModelConfig(model="echo", hidden=16, layers=1, embedding=0)
    network = Network(config, tokenizer.size)
    initialise(network, 1)
    nats = dynamic_nats(network, tokenizer, tokenizer.encode(TEXT[:2000]).ids)
    assert nats[-500:].mean() < nats[:500].mean()
