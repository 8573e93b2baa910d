"""Update rules against torch's own and their equations; clipping; loss scaling; what a checkpoint keeps of them."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from oracles import random_network
from torch import Tensor

from charlm.config import ModelConfig, OptimConfig
from charlm.models.network import named_weights
from charlm.training.optim import ADAMW_SHARE, MUON_EVERY, LossScale, Muon, WeightUpdate, clip, orthogonal

HIDDEN = 6
Weights = dict[str, torch.nn.Parameter]


def lstm_weights(seed: int = 1, embedding: int = 5) -> Weights:
    config = ModelConfig(cell="lstm", layers=2, hidden=HIDDEN, embedding=embedding)
    return named_weights(random_network(config, 7, seed=seed))


def gradients(weights: Weights, steps: int, seed: int = 2) -> Iterator[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        yield {name: torch.randn(weight.shape, generator=generator) for name, weight in weights.items()}


def follow(optimizer: WeightUpdate, gradient: dict[str, Tensor], rate: float = 1.0, number: int = 0) -> None:
    for name, weight in optimizer.weights.items():
        weight.grad = gradient[name].clone()
    optimizer.step(rate, number)


def matrices_and_vectors(weights: Weights) -> tuple[list[Tensor], list[Tensor]]:
    return [w for w in weights.values() if w.dim() == 2], [w for w in weights.values() if w.dim() == 1]


def assert_follows(
    config: OptimConfig, reference: Callable[[Weights], torch.optim.Optimizer], decay: float = 0
) -> None:
    """Twenty steps at changing rates; `decay` is applied to the reference's matrices where its rule has none."""
    ours, theirs = lstm_weights(), lstm_weights()
    optimizer, rule = WeightUpdate(config, ours, HIDDEN), reference(theirs)
    for step, gradient in enumerate(gradients(ours, 20)):
        rate = 1 - step / 40
        follow(optimizer, gradient, rate)
        for group in rule.param_groups:
            group["lr"] = config.lr * rate
        with torch.no_grad():
            for name, weight in theirs.items():
                weight.grad = gradient[name].clone()
                if weight.dim() == 2:
                    weight.mul_(1 - config.lr * rate * decay)
        rule.step()
    for name, weight in ours.items():
        torch.testing.assert_close(weight, theirs[name], rtol=1e-5, atol=1e-6, msg=name)


# rules


@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_adamw_equals_torch_with_decay_on_matrices_alone(decay: float) -> None:
    def reference(weights: Weights) -> torch.optim.Optimizer:
        matrices, vectors = matrices_and_vectors(weights)
        groups = [{"params": matrices, "weight_decay": decay}, {"params": vectors, "weight_decay": 0.0}]
        return torch.optim.AdamW(groups, lr=0.01, betas=(0.9, 0.99))

    assert_follows(OptimConfig(optimizer="adamw", lr=0.01, weight_decay=decay), reference)


@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_rmsprop_equals_torch_and_its_decay_is_decoupled(decay: float) -> None:
    assert_follows(
        OptimConfig(optimizer="rmsprop", lr=0.01, weight_decay=decay),
        lambda weights: torch.optim.RMSprop(weights.values(), lr=0.01, alpha=0.95),
        decay,
    )


@pytest.mark.parametrize(("embedding", "table"), [(5, "embedding.weight"), (0, "rnn.0.weight_ih")])
def test_under_muon_all_but_maps_of_the_layers_follow_adam_at_a_share_of_the_rate(embedding: int, table: str) -> None:
    ours, theirs, start = (lstm_weights(embedding=embedding) for _ in range(3))
    optimizer = WeightUpdate(OptimConfig(optimizer="muon", lr=0.02, weight_decay=0), ours, HIDDEN)
    others = {name: w for name, w in theirs.items() if not name.startswith("rnn.") or "bias" in name or name == table}
    rule = torch.optim.Adam(others.values(), lr=0.02 * ADAMW_SHARE, betas=(0.9, 0.99))
    for number, gradient in enumerate(gradients(ours, 2 * MUON_EVERY)):
        follow(optimizer, gradient, number=number)
        for name, weight in others.items():
            weight.grad = gradient[name].clone()
        rule.step()
    for name, weight in others.items():
        torch.testing.assert_close(ours[name], weight, rtol=1e-5, atol=1e-6)
    for name in ours.keys() - others.keys():
        moved = (ours[name] - start[name]).detach()
        norms = [float(torch.linalg.matrix_norm(block, 2)) for block in torch.split(moved, HIDDEN)]
        assert all(0.02 < norm <= 2 * MUON_EVERY * 0.02 * 1.21 for norm in norms), name  # two updates of each gate


def test_muons_decay_is_decoupled() -> None:
    """With gradients of zero there is no update, only decay, and only of matrices."""
    weights, start = lstm_weights(), lstm_weights()
    optimizer = WeightUpdate(OptimConfig(optimizer="muon", lr=0.02, weight_decay=0.5), weights, HIDDEN)
    follow(optimizer, {name: torch.zeros_like(weight) for name, weight in weights.items()}, rate=0.5)
    for name, weight in weights.items():
        share = ADAMW_SHARE if not name.startswith("rnn.") else 1
        factor = 1 - 0.02 * 0.5 * 0.5 * share if weight.dim() == 2 else 1
        torch.testing.assert_close(weight, start[name] * factor, rtol=1e-6, atol=0)


@pytest.mark.parametrize(("rows", "columns"), [(16, 16), (96, 24), (24, 96), (256, 256)])
@pytest.mark.parametrize("magnitude", [1e-5, 1.0, 1e4])
@pytest.mark.parametrize(("arithmetic", "error"), [(torch.float32, 2e-4), (torch.bfloat16, 1 / 32)])
def test_orthogonal_brings_singular_values_near_one_and_keeps_directions(
    rows: int, columns: int, magnitude: float, arithmetic: torch.dtype, error: float
) -> None:
    """For U S V^T with no singular value below a hundredth of the Frobenius norm."""
    rank, generator = min(rows, columns), torch.Generator().manual_seed(rows)
    u, _ = torch.linalg.qr(torch.randn(rows, rank, generator=generator))
    v, _ = torch.linalg.qr(torch.randn(columns, rank, generator=generator))
    singular = torch.logspace(0, -3, rank)
    singular = singular.clamp(min=0.0101 * float(singular.norm()))
    assert 0.01 <= float(singular.min() / singular.norm()) < 0.0101
    found = orthogonal((u * singular @ v.T * magnitude)[None], arithmetic)[0]
    values = torch.linalg.svdvals(found)
    expected = singular * magnitude / (singular.norm() * magnitude + 1e-7)
    for _ in range(3):  # the published quintic, on each singular value
        expected = 3.4445 * expected - 4.7750 * expected**3 + 2.0315 * expected**5
    torch.testing.assert_close(values, expected.sort(descending=True).values, rtol=0, atol=error)
    assert 0.3 < values.min() <= values.max() < 1.21
    cosine = (found * (u @ v.T)).sum() / found.norm() / math.sqrt(rank)
    assert float(singular.sum() / singular.norm()) / math.sqrt(rank) < 0.6  # the cosine that U S V^T itself has
    assert cosine > 0.9


def test_orthogonal_of_zero_is_zero() -> None:
    assert not orthogonal(torch.zeros(2, 3, 4)).any()


def test_muon_updates_each_gates_block_by_itself() -> None:
    """A stack of four equals four separate matrices, and not the orthogonalised whole."""
    generator = torch.Generator().manual_seed(4)
    stacked = torch.nn.Parameter(torch.randn(4 * HIDDEN, 9, generator=generator))
    apart = [torch.nn.Parameter(block.clone()) for block in torch.split(stacked.detach(), HIDDEN)]
    whole = torch.nn.Parameter(stacked.detach().clone())
    sizes = torch.tensor([1.0, 9.0, 0.1, 3.0]).repeat_interleave(HIDDEN)[:, None]
    rules = [
        Muon([stacked], lr=1.0, hidden=HIDDEN),
        Muon([whole], lr=1.0, hidden=4 * HIDDEN),
        *(Muon([block], lr=1.0, hidden=HIDDEN) for block in apart),
    ]
    for _ in range(3):
        gradient = torch.randn(stacked.shape, generator=generator) * sizes
        stacked.grad, whole.grad = gradient.clone(), gradient.clone()
        for block, part in zip(apart, torch.split(gradient, HIDDEN), strict=True):
            block.grad = part.clone()
        for rule in rules:
            rule.step()
    torch.testing.assert_close(stacked.detach(), torch.cat([block.detach() for block in apart]), rtol=0, atol=1e-5)
    assert (stacked - whole).abs().max() > 0.5


def test_muons_momentum_by_hand() -> None:
    """m <- 0.95 m + g; at step 0 and every fourth w <- w - 4 lr orthogonal(g + 0.95 m), between them nothing moves."""
    first, later = torch.eye(2), torch.tensor([[0.0, 3.0], [-2.0, 0.0]])
    weight = torch.nn.Parameter(torch.zeros(2, 2))
    rule = Muon([weight], lr=0.1, hidden=2)
    weight.grad = first.clone()
    rule.step()
    torch.testing.assert_close(weight.detach(), -0.4 * orthogonal(1.95 * first[None])[0])
    before = weight.detach().clone()
    momentum = first
    for number in range(1, 5):
        assert torch.equal(weight.detach(), before), number
        weight.grad = later * number
        momentum = 0.95 * momentum + later * number
        rule.step(0.5, number)
    nesterov = 4 * later + 0.95 * momentum
    torch.testing.assert_close(before - weight.detach(), 0.2 * orthogonal(nesterov[None])[0], rtol=0, atol=1e-6)


# clipping


def with_gradients(*values: list[float]) -> list[torch.nn.Parameter]:
    weights = [torch.nn.Parameter(torch.zeros(len(value))) for value in values]
    for weight, value in zip(weights, values, strict=True):
        weight.grad = torch.tensor(value)
    return [*weights, torch.nn.Parameter(torch.zeros(2))]  # the last has no gradient


def grads(weights: list[torch.nn.Parameter]) -> list[list[float]]:
    return [weight.grad.tolist() for weight in weights if weight.grad is not None]


def test_clipping_by_norm_scales_to_the_threshold_and_returns_the_norm_before() -> None:
    weights = with_gradients([3.0, 0.0], [0.0, -4.0])
    assert float(clip(weights, 2.0, "norm")) == 5.0
    np.testing.assert_allclose(grads(weights), [[1.2, 0], [0, -1.6]], rtol=1e-6)


@pytest.mark.parametrize("threshold", [5.0, 5.1, 1e9])
@pytest.mark.parametrize("mode", ["norm", "value"])
def test_gradients_within_the_threshold_keep_every_bit(threshold: float, mode: str) -> None:
    weights = with_gradients([0.1, 1 / 3, -4.9], [1e-30, -math.ulp(1.0)])
    kept = grads(weights)
    clip(weights, threshold, mode)
    assert grads(weights) == kept


def test_clipping_by_value_limits_each_entry_and_returns_the_norm_before() -> None:
    weights = with_gradients([3.0, -0.5], [0.0, -4.0])
    assert float(clip(weights, 1.0, "value")) == pytest.approx(math.sqrt(9 + 0.25 + 16))
    assert grads(weights) == [[1.0, -0.5], [0.0, -1.0]]


@pytest.mark.parametrize("mode", ["norm", "value"])
def test_a_threshold_of_zero_disables_clipping(mode: str) -> None:
    weights = with_gradients([30.0, -0.5], [0.0, -4.0])
    assert float(clip(weights, 0.0, mode)) == pytest.approx(math.sqrt(900 + 0.25 + 16))
    assert grads(weights) == [[30.0, -0.5], [0.0, -4.0]]


# loss scaling


def test_loss_scale_halves_and_skips_at_an_overflow() -> None:
    scale = LossScale(enabled=True, scale=8.0, good=1999)
    assert scale.update(finite=False)
    assert (scale.scale, scale.good) == (4.0, 0)


def test_loss_scale_doubles_after_2000_good_steps() -> None:
    scale = LossScale(enabled=True, scale=8.0)
    assert not any(scale.update(finite=True) for _ in range(1999))
    assert (scale.scale, scale.good) == (8.0, 1999)
    assert not scale.update(finite=True)
    assert (scale.scale, scale.good) == (16.0, 0)


def test_an_overflow_without_any_scaling_left_is_not_skipped() -> None:
    scale = LossScale(enabled=True, scale=4.0)
    assert [scale.update(finite=False) for _ in range(3)] == [True, True, False]


def test_unscaling_divides_gradients_by_the_scale() -> None:
    weights = with_gradients([8.0, -4.0])
    LossScale(enabled=True, scale=8.0).unscale(weights)
    assert grads(weights) == [[1.0, -0.5]]


def test_loss_scale_does_nothing_unless_enabled() -> None:
    scale, weights = LossScale(enabled=False, scale=8.0, good=7), with_gradients([8.0, -4.0])
    scale.unscale(weights)
    assert grads(weights) == [[8.0, -4.0]]
    assert not scale.update(finite=False)
    assert (scale.scale, scale.good) == (1.0, 0)


# what a checkpoint keeps


@pytest.mark.parametrize("optimizer", ["adamw", "rmsprop", "muon"])
def test_an_exported_and_restored_optimizer_goes_on_bit_for_bit(optimizer: str) -> None:
    config = OptimConfig(optimizer=optimizer, lr=0.01, weight_decay=0.1)
    whole, halves = lstm_weights(), lstm_weights()
    unbroken, first = WeightUpdate(config, whole, HIDDEN), WeightUpdate(config, halves, HIDDEN)
    steps = list(gradients(whole, 6))
    for number, gradient in enumerate(steps):
        follow(unbroken, gradient, number=number)
    for number, gradient in enumerate(steps[:3]):
        follow(first, gradient, number=number)
    exported = first.export()
    kept = {name: array.copy() for name, array in exported.items()}
    forgetful = {name: torch.nn.Parameter(weight.detach().clone()) for name, weight in halves.items()}
    resumed = {name: torch.nn.Parameter(weight.detach().clone()) for name, weight in halves.items()}
    second = WeightUpdate(config, resumed, HIDDEN)
    second.restore({**exported, "state.0.h": np.zeros((2, 2), dtype=np.float32)})
    for number, gradient in enumerate(steps[3:], 3):
        follow(first, gradient, number=number)
        follow(second, gradient, number=number)
        follow(WeightUpdate(config, forgetful, HIDDEN), gradient, number=number)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert not any(torch.equal(whole[name], forgetful[name]) for name in whole)
    assert all(np.array_equal(exported[name], kept[name]) for name in kept)  # neither optimizer shares its memory


@pytest.mark.parametrize(
    ("optimizer", "quantities"),
    [("adamw", {"exp_avg", "exp_avg_sq", "step"}), ("rmsprop", {"square_avg", "step"}), ("muon", {"momentum"})],
)
def test_state_is_named_after_the_weights(optimizer: str, quantities: set[str]) -> None:
    weights = lstm_weights()
    rule = WeightUpdate(OptimConfig(optimizer=optimizer), weights, HIDDEN)
    assert rule.export() == {}
    follow(rule, next(gradients(weights, 1)))
    names = rule.export()
    for name in ("rnn.0.weight_ih", "rnn.1.weight_hh"):
        assert {key for key in names if key.endswith("." + name)} == {f"optimizer.{q}.{name}" for q in quantities}


def test_a_step_does_not_import_torchs_compiler() -> None:
    """Which takes a second, at the start of every training."""
    code = (
        "import sys, torch; from charlm.config import OptimConfig; from charlm.training.optim import WeightUpdate; "
        "w = torch.nn.Parameter(torch.ones(2, 2)); w.grad = torch.ones(2, 2)\n"
        "for name in ('adamw', 'rmsprop', 'muon'): "
        "WeightUpdate(OptimConfig(optimizer=name), {'rnn.0.weight_hh': w, 'head.bias': w}, 2).step(1.0, 0)\n"
        "assert 'torch._dynamo' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
