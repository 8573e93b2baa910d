"""GRU and tanh layers against PyTorch's own: values, gradients, precisions, chunks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from charlm.models.recurrence import GRU, LSTM, RNN

Layer = nn.GRU | nn.RNN
PAIRS = [pytest.param(GRU, nn.GRU, id="gru"), pytest.param(RNN, nn.RNN, id="rnn")]
CELLS = [pytest.param(GRU, id="gru"), pytest.param(RNN, id="rnn")]


def filled(cell: type[Layer], inputs: int, hidden: int, dtype: torch.dtype = torch.float32) -> Layer:
    """A layer none of whose weights is zero or equal to another; the same for PyTorch's class and ours."""
    layer = cell(inputs, hidden).to(dtype)
    generator = torch.Generator().manual_seed(inputs + hidden)
    with torch.no_grad():
        for weight in layer.parameters():
            weight.normal_(0, 0.8 / weight.shape[-1] ** 0.5, generator=generator)
    return layer


def given(T: int, B: int, E: int, H: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Inputs [T, B, E] and a state [1, B, H], both of which want gradients."""
    generator = torch.Generator().manual_seed(T * B)
    x, h = (torch.randn(shape, generator=generator, dtype=dtype) for shape in ((T, B, E), (1, B, H)))
    return x.requires_grad_(), h.tanh().requires_grad_()


def loss(y: Tensor, last: Tensor) -> Tensor:
    """A number that depends on every element in a way of its own."""
    parts = torch.cat([y.flatten(), last.flatten()]).double()
    return parts @ torch.linspace(-1, 2, len(parts), dtype=torch.float64)


def outcome(layer: Layer, x: Tensor, h: Tensor, *, bf16: bool = False) -> dict[str, Tensor]:
    """States, last state and all gradients, as a training step has them."""
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        y, last = layer(x, h)
    wanted = {"x": x, "h": h, **dict(layer.named_parameters())}
    gradients = torch.autograd.grad(loss(y, last), list(wanted.values()))
    return {"y": y.detach(), "last": last.detach(), **dict(zip(wanted, gradients, strict=True))}


@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
@pytest.mark.parametrize("shape", [(12, 3, 5, 7), (1, 3, 5, 7), (12, 1, 5, 7), (1, 1, 1, 1), (9, 4, 40, 32)], ids=str)
@pytest.mark.parametrize(("dtype", "within"), [(torch.float64, 1e-10), (torch.float32, 1e-5)], ids=str)
def test_values_and_gradients_are_those_of_pytorch(
    ours: type[Layer], theirs: type[Layer], shape: tuple[int, int, int, int], dtype: torch.dtype, within: float
) -> None:
    x, h = given(*shape, dtype)
    found, expected = (outcome(filled(cell, *shape[2:], dtype), x, h) for cell in (ours, theirs))
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=within, atol=within, msg=name)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("shape", [(3, 2, 2, 3), (1, 1, 2, 2)], ids=str)
def test_gradients_are_those_of_finite_differences(cell: type[Layer], shape: tuple[int, int, int, int]) -> None:
    layer = filled(cell, *shape[2:], torch.float64)

    def read(x: Tensor, h: Tensor, *weights: Tensor) -> tuple[Tensor, Tensor]:
        named = dict(zip(dict(layer.named_parameters()), weights, strict=True))
        result: tuple[Tensor, Tensor] = torch.func.functional_call(layer, named, (x, h))
        return result

    assert torch.autograd.gradcheck(read, (*given(*shape, torch.float64), *layer.parameters()))


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("cut", [1, 4, 8])
def test_state_passed_between_chunks_carries_value_and_gradient(cell: type[Layer], cut: int) -> None:
    layer, (x, h) = filled(cell, 5, 7, torch.float64), given(9, 3, 5, 7, torch.float64)
    wanted = [x, h, *layer.parameters()]
    y, last = layer(x, h)
    first, between = layer(x[:cut], h)
    second, end = layer(x[cut:], between)
    torch.testing.assert_close(torch.cat([first, second]), y, rtol=0, atol=1e-13)
    torch.testing.assert_close(end, last, rtol=0, atol=1e-13)
    whole, parts = (torch.autograd.grad(result.pow(2).sum(), wanted) for result in (last, end))  # y has no gradient
    torch.testing.assert_close(parts, whole, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
def test_bf16_is_as_close_to_fp32_as_that_of_pytorch_and_keeps_state_and_gradients_in_fp32(
    ours: type[Layer], theirs: type[Layer]
) -> None:
    x, h = given(20, 8, 24, 32)
    exact = outcome(filled(ours, 24, 32), x, h)
    found, reference = (outcome(filled(cell, 24, 32), x, h, bf16=True) for cell in (ours, theirs))
    for name, value in exact.items():
        assert found[name].dtype == torch.float32, name
        error, usual = ((other[name] - value).norm() / value.norm() for other in (found, reference))
        assert 1e-5 < error < max(0.02, 1.5 * usual.item()), name
        torch.testing.assert_close(found[name], reference[name].float(), rtol=0, atol=0.1 * value.abs().max().item())


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("bf16", [False, True])
def test_repetition_and_reading_without_gradients_change_no_bit(cell: type[Layer], bf16: bool) -> None:
    layer, (x, h) = filled(cell, 5, 16), given(9, 4, 5, 16)
    one, other = (outcome(layer, x, h, bf16=bf16) for _ in range(2))
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        with torch.inference_mode():
            inferred = layer(x, h)
        with torch.no_grad():
            ungraded = layer(x, h)
    assert all(torch.equal(one[name], other[name]) for name in one)
    for y, last in (inferred, ungraded):
        assert torch.equal(y, one["y"])
        assert torch.equal(last, one["last"])
        assert not y.requires_grad


@pytest.mark.parametrize("cell", CELLS)
def test_a_backward_pass_can_be_repeated_and_leaves_its_inputs(cell: type[Layer]) -> None:
    layer, (x, h) = filled(cell, 5, 7), given(6, 3, 5, 7)
    y, _ = layer(x, h)
    dy = torch.linspace(-1, 1, y.numel()).view_as(y)
    kept, wanted = [tensor.detach().clone() for tensor in (x, h, y, dy)], [x, h, *layer.parameters()]
    once, again = (torch.autograd.grad(y, wanted, dy, retain_graph=True) for _ in range(2))
    assert all(map(torch.equal, once, again))
    assert all(map(torch.equal, kept, (x, h, y, dy)))
    spread = torch.autograd.grad(y.sum(), wanted, retain_graph=True)  # one element's memory for all of dy
    torch.testing.assert_close(spread, torch.autograd.grad(y, wanted, torch.ones_like(y)))


@pytest.mark.parametrize("cell", CELLS)
def test_inputs_and_matrices_that_want_no_gradient_get_none(cell: type[Layer]) -> None:
    layer, (x, h) = filled(cell, 5, 7), given(6, 3, 5, 7)
    full, weights = outcome(layer, x, h), dict(layer.named_parameters())
    frozen = weights.pop("weight_hh_l0").requires_grad_(False)
    loss(*layer(x.detach(), h.detach())).backward()  # type: ignore[no-untyped-call]
    assert frozen.grad is None
    for name, weight in weights.items():
        assert weight.grad is not None
        assert torch.equal(weight.grad, full[name]), name


@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
def test_saturated_units_stay_finite(ours: type[Layer], theirs: type[Layer]) -> None:
    x, h = given(6, 3, 5, 7)
    x = (x.detach() * 1e4).requires_grad_()
    found, expected = (outcome(filled(cell, 5, 7), x, h) for cell in (ours, theirs))
    for name in expected:
        assert found[name].isfinite().all(), name
        torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=1e-4, msg=name)


@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
def test_weights_are_named_and_shaped_as_in_pytorch(ours: type[Layer], theirs: type[Layer]) -> None:
    mine, other = ours(5, 7).state_dict(), theirs(5, 7).state_dict()
    assert [(name, weight.shape) for name, weight in mine.items()] == [(n, w.shape) for n, w in other.items()]


@pytest.mark.parametrize("cell", CELLS)
def test_on_other_devices_pytorch_computes(cell: type[Layer], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("charlm.models.recurrence._read_chunk", None)
    y, last = cell(5, 7).to("meta")(torch.empty(6, 3, 5, device="meta"), torch.empty(1, 3, 7, device="meta"))
    assert (y.shape, last.shape, y.device.type) == ((6, 3, 7), (1, 3, 7), "meta")


@pytest.mark.parametrize("cell", CELLS)
def test_the_last_state_does_not_keep_the_chunk_in_memory(cell: type[Layer]) -> None:
    x, h = given(50, 3, 5, 7)
    y, last = filled(cell, 5, 7)(x, h)
    assert torch.equal(last[0], y[-1])
    assert last.untyped_storage().nbytes() == last.nbytes


@pytest.mark.parametrize("cell", [LSTM, GRU, RNN], ids=["lstm", "gru", "rnn"])
def test_a_chunk_of_one_token_is_learned_from(cell: type[LSTM | GRU | RNN]) -> None:
    layer = cell(3, 4)
    state = tuple(torch.zeros(1, 4) for _ in range(2 if cell is LSTM else 1))
    y, _ = layer.read_packed(torch.ones(1, 3), [1], state)
    y.sum().backward()  # type: ignore[no-untyped-call]
    packed = state[0].unsqueeze(0) if len(state) == 1 else tuple(part.unsqueeze(0) for part in state)
    whole, _ = layer(torch.ones(1, 1, 3), packed)
    torch.testing.assert_close(y, whole[0])
