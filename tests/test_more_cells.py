"""The cells that PyTorch does not have, against their equations written as loops: logits, states and gradients.

Legend: T tokens of a chunk, B lanes, H hidden units, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from oracles import Parts, Weights, random_network, random_state, sigmoid, stack
from torch import Tensor

from charlm.config import ModelConfig
from charlm.models.modules.scan import doubled, scan, stepped
from charlm.models.network import Network, export_weights, initialise, named_weights

V = 7
CELLS = (
    "leaky",
    "mingru",
)


def leaky(x: Tensor, h: Tensor, w: Mapping[str, Tensor]) -> Tensor:
    """A leaky integrator (Jaeger et al. 2007, equation 2, with a step of 1): the share a of a unit is new."""
    a = sigmoid(w["rate"])
    return (1 - a) * h + a * torch.tanh(w["weight_ih"] @ x + w["weight_hh"] @ h + w["bias_ih"])


def mingru(x: Tensor, h: Tensor, w: Mapping[str, Tensor]) -> Tensor:
    """Feng et al. (2024), the step that is not in log space."""
    of_gate, candidate = (w["weight_ih"] @ x + w["bias_ih"]).chunk(2)
    z = sigmoid(of_gate)
    return (1 - z) * h + z * candidate


EQUATIONS = {
    "leaky": leaky,
    "mingru": mingru,
}


def textbook_step(cell: str, x: Tensor, state: Parts, w: Weights, layer: int) -> Parts:
    own = {name.removeprefix(f"rnn.{layer}."): weight for name, weight in w.items()}
    return (torch.stack([EQUATIONS[cell](fed, h, own) for fed, h in zip(x, state[0], strict=True)]),)


def small(cell: str, *, dtype: torch.dtype = torch.float64) -> Network:
    config = ModelConfig(cell=cell, layers=2, hidden=4, embedding=3)
    return random_network(config, V, seed=2).to(dtype).train()


def some_ids(steps: int, lanes: int) -> Tensor:
    return torch.randint(0, V + 1, (steps, lanes), generator=torch.Generator().manual_seed(steps))


def outcome(network: Network, ids: Tensor, state: tuple[Parts, ...], *, ours: bool) -> dict[str, Tensor]:
    """Logits, last states, and the gradients of a number that depends on all of them."""
    weights = named_weights(network)
    with torch.enable_grad():
        network.requires_grad_()
        read = network(ids, state) if ours else stack(network.config.cell, weights, ids, state, textbook_step)
        logits, after = read
        parts = torch.cat([logits.flatten(), *(part.flatten() for layer in after for part in layer)])
        loss = parts @ torch.linspace(-1, 2, len(parts), dtype=parts.dtype)
        gradients = torch.autograd.grad(loss, list(weights.values()))
    return {"all": parts.detach(), **dict(zip(weights, gradients, strict=True))}


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize(("dtype", "within"), [(torch.float64, 1e-12), (torch.float32, 1e-5)], ids=str)
def test_values_and_gradients_are_those_of_the_equations(cell: str, dtype: torch.dtype, within: float) -> None:
    network, ids = small(cell, dtype=dtype), some_ids(11, 3)
    state = random_state(network, 3, seed=4)
    found, expected = (outcome(network, ids, state, ours=ours) for ours in (True, False))
    for name, value in expected.items():
        scale = max(1.0, value.abs().max().item())
        torch.testing.assert_close(found[name], value, rtol=0, atol=within * scale * 10, msg=name)


@pytest.mark.parametrize("cell", CELLS)
def test_rows_of_different_lengths_have_the_gradients_of_each_by_itself(cell: str) -> None:
    network, lengths = small(cell), [6, 4, 4, 1]
    rows = [sum(length > t for length in lengths) for t in range(6)]
    ids, state = some_ids(6, 4), random_state(network, 4, seed=5)
    packed = torch.cat([ids[t, :count] for t, count in enumerate(rows)])
    with torch.enable_grad():
        network.requires_grad_()
        weights = list(network.parameters())
        logits, after = network.forward_packed(packed, rows, state)
        found = torch.autograd.grad(logits.square().sum() + after[1][0].sum(), weights)
        loss = logits.new_zeros(())
        for row, length in enumerate(lengths):
            before = tuple(tuple(part[row : row + 1] for part in layer) for layer in state)
            own, last = network(ids[:length, row : row + 1], before)
            loss = loss + own.square().sum() + last[1][0].sum()
        expected = torch.autograd.grad(loss, weights)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("cell", CELLS)
def test_bf16_is_near_fp32_and_keeps_states_and_gradients_in_fp32(cell: str) -> None:
    network, ids = small(cell, dtype=torch.float32), some_ids(11, 3)
    exact = outcome(network, ids, network.init_state(3), ours=True)
    with torch.autocast("cpu", torch.bfloat16):
        logits, after = network(ids, network.init_state(3))
        rough = outcome(network, ids, network.init_state(3), ours=True)
    assert logits.dtype == torch.bfloat16
    assert after[0][0].dtype == torch.float32
    for name, value in exact.items():
        if name != "all":
            assert rough[name].dtype == torch.float32
            assert (rough[name] - value).norm() < 0.15 * value.norm(), name


@pytest.mark.parametrize("cell", CELLS)
def test_the_last_state_does_not_keep_the_chunk_in_memory(cell: str) -> None:
    network = small(cell)
    state = network(some_ids(30, 3), network.init_state(3))[1]
    assert all(part.untyped_storage().nbytes() == part.nbytes for layer in state for part in layer)


@pytest.mark.parametrize(("cell", "rates"), [("leaky", "rate"), ("mingru", "bias_ih")])
def test_units_begin_with_time_constants_from_one_character_to_a_word(cell: str, rates: str) -> None:
    network = Network(ModelConfig(cell=cell, hidden=64, layers=1), V)
    initialise(network, 1)
    constants = 1 / torch.from_numpy(export_weights(network)[f"rnn.0.{rates}"][:64]).sigmoid()
    assert 1 < constants.min() < 1.1
    assert 8 < constants.max() < 9
    ratios = (constants[1:] - 1) / (constants[:-1] - 1)
    torch.testing.assert_close(ratios, ratios[:1].expand(63), rtol=1e-3, atol=0)  # geometric, but for the 1


def test_a_unit_with_the_share_one_is_a_tanh_unit() -> None:
    network = small("leaky")
    plain = random_network(ModelConfig(cell="rnn", layers=2, hidden=4, embedding=3), V, seed=9).double()
    with torch.no_grad():
        for name, weight in named_weights(plain).items():
            weight.copy_(named_weights(network)[name]) if "bias_hh" not in name else weight.zero_()
        for layer in (0, 1):
            named_weights(network)[f"rnn.{layer}.rate"].fill_(100.0)
    ids = some_ids(9, 2)
    ours, theirs = (net.eval()(ids, net.init_state(2))[0] for net in (network, plain))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


# the scan of minGRU


def factors(T: int, *, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """a near 0, near 1 and between; b; and a state before, for 3 lanes of 5 units."""
    generator = torch.Generator().manual_seed(T)
    a, b, h = (torch.randn(shape, generator=generator, dtype=dtype) for shape in ((T * 3, 5), (T * 3, 5), (3, 5)))
    return (8 * a).sigmoid().requires_grad_(), b.requires_grad_(), h.requires_grad_()


@pytest.mark.parametrize("T", [1, 2, 3, 7, 8, 64, 100])
@pytest.mark.parametrize(("dtype", "within"), [(torch.float64, 1e-12), (torch.float32, 1e-5)], ids=str)
@pytest.mark.parametrize("parallel", [False, True])
def test_states_of_a_scan_and_gradients_are_those_of_a_loop(
    monkeypatch: pytest.MonkeyPatch, T: int, dtype: torch.dtype, within: float, parallel: bool
) -> None:
    a, b, h = factors(T, dtype=dtype)
    states, state = [], h
    for t in range(T):
        state = a[3 * t : 3 * t + 3] * state + b[3 * t : 3 * t + 3]
        states.append(state)
    looped = torch.cat(states)
    monkeypatch.setattr("charlm.models.modules.scan._is_parallel", lambda *_: parallel)
    ours = scan(a, b, h, [3] * T)
    torch.testing.assert_close(ours, looped, rtol=0, atol=within)
    probe = torch.linspace(-1, 1, ours.numel(), dtype=dtype).view_as(ours)
    found, expected = (torch.autograd.grad((y * probe).sum(), (a, b, h)) for y in (ours, looped))
    torch.testing.assert_close(found, expected, rtol=within * 10, atol=within * 10)


def test_a_scan_of_saturated_gates_is_finite_in_every_form() -> None:
    """Units that never change and units that forget at once, over a long chunk: where sums of logarithms overflow."""
    a = torch.tensor([0.0, 1e-38, 1.0, 1 - 2**-24]).repeat(5000, 1)
    b, h = torch.full_like(a, 1e-3), torch.ones(1, 4)
    one, other = stepped(a, b, h, [1] * 5000), doubled(a, b, h)
    assert one.isfinite().all()
    torch.testing.assert_close(one, other, rtol=5000 * 2**-24, atol=0)  # a rounding for each of 5,000 sums
