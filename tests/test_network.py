"""The network against the textbook: equations, initialisation, dropout, ids beyond the vocabulary, names."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from oracles import Parts, Weights, input_vector, lecture_step, pytorch_step, random_network, random_state, stack
from torch import Tensor

from charlm.config import ModelConfig
from charlm.models.architecture import weight_shapes
from charlm.models.cells import cell_of
from charlm.models.network import (
    Dropout,
    Network,
    export_state,
    export_weights,
    import_state,
    import_weights,
    initialise,
    named_weights,
)

V = 8  # 1 / V is exact in every precision
CELLS = ("lstm", "gru", "rnn")
GATED_BLOCKS = {"lstm": 4, "gru": 3, "rnn": 1}


def small(cell: str, *, layers: int = 2, embedding: int = 3, forget_bias: float = 1.0) -> ModelConfig:
    return ModelConfig(cell=cell, layers=layers, hidden=4, embedding=embedding, forget_bias=forget_bias)


def some_ids(steps: int, lanes: int, *, seed: int, highest: int = V + 1) -> Tensor:
    return torch.randint(0, highest + 1, (steps, lanes), generator=torch.Generator().manual_seed(seed))


def flat(state: tuple[Parts, ...]) -> list[Tensor]:
    return [part for layer in state for part in layer]


# equations


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("layers", [2, 3])
@pytest.mark.parametrize("embedding", [0, 3])
def test_stack_and_its_gradients_equal_the_textbook_loop(cell: str, layers: int, embedding: int) -> None:
    """Two chunks in float64: the second starts from the state of the first, whose gradient flows back into it."""
    network = random_network(small(cell, layers=layers, embedding=embedding), V, seed=layers).double()
    weights: Weights = named_weights(network)
    chunks = some_ids(6, 3, seed=1), some_ids(5, 3, seed=2)
    probe = torch.Generator().manual_seed(3)
    begin = random_state(network, 3, seed=4)

    def losses(ours: bool) -> tuple[list[Tensor], Tensor]:
        state, outputs = begin, []
        for ids in chunks:
            logits, state = network(ids, state) if ours else stack(cell, weights, ids, state)
            outputs.append(logits)
        probe.manual_seed(3)
        parts = [*outputs, *flat(state)]
        return parts, torch.stack(
            [(part * torch.randn(part.shape, dtype=part.dtype, generator=probe)).sum() for part in parts]
        ).sum()

    found, loss = losses(ours=True)
    expected, reference = losses(ours=False)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    gradients = torch.autograd.grad(loss, list(weights.values()))
    references = torch.autograd.grad(reference, list(weights.values()))
    for name, ours, theirs in zip(weights, gradients, references, strict=True):
        assert theirs.abs().max() > 1e-3, f"{name} has no gradient to compare"
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11, msg=name)


@pytest.mark.parametrize("cell", ["lstm", "rnn"])
def test_lstm_and_rnn_equal_the_lecture_with_one_bias(cell: str) -> None:
    network = random_network(small(cell), V, seed=5).double()
    ids, state = some_ids(7, 2, seed=6), random_state(network, 2, seed=7)
    ours, _ = network(ids, state)
    torch.testing.assert_close(ours, stack(cell, named_weights(network), ids, state, lecture_step)[0])


def lecture_gru_weights(network: Network) -> dict[str, Tensor]:
    """PyTorch's z is the share of the old state, the lecture's that of the candidate: sigmoid(-a) = 1 - sigmoid(a)."""
    weights = {name: weight.detach().clone() for name, weight in named_weights(network).items()}
    for name, weight in weights.items():
        if name.startswith("rnn."):
            weight[4:8] *= -1
    return weights


def test_gru_equals_the_lecture_when_its_reset_gates_are_open_and_only_then() -> None:
    network = random_network(small("gru"), V, seed=8).double()
    ids, state = some_ids(7, 2, seed=9), random_state(network, 2, seed=10)
    with torch.no_grad():
        differing = network(ids, state)[0] - stack("gru", lecture_gru_weights(network), ids, state, lecture_step)[0]
        assert differing.abs().max() > 0.01
        for layer in range(2):
            named_weights(network)[f"rnn.{layer}.bias_ih"][:4] = 100  # sigmoid(100) is 1 in float64
        lecture, _ = stack("gru", lecture_gru_weights(network), ids, state, lecture_step)
        torch.testing.assert_close(network(ids, state)[0], lecture, rtol=0, atol=1e-12)
        unexchanged, _ = stack("gru", named_weights(network), ids, state, lecture_step)
        assert (network(ids, state)[0] - unexchanged).abs().max() > 0.01


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("cut", [1, 7, 19])
def test_state_carried_over_chunks_equals_one_long_chunk(cell: str, cut: int) -> None:
    network = random_network(small(cell, layers=3), V, seed=11).double()
    ids, begin = some_ids(20, 3, seed=12), network.init_state(3)
    whole, last = network(ids, begin)
    first, between = network(ids[:cut], begin)
    second, end = network(ids[cut:], between)
    torch.testing.assert_close(torch.cat([first, second]), whole, rtol=0, atol=1e-13)
    torch.testing.assert_close(flat(end), flat(last), rtol=0, atol=1e-13)


# initialisation


@pytest.mark.parametrize("forget_bias", [-2.0, 0.0, 1.0, 3.5])
def test_total_bias_is_forget_bias_at_forget_gates_and_zero_elsewhere(forget_bias: float) -> None:
    network = Network(small("lstm", forget_bias=forget_bias), V)
    initialise(network, seed=1)
    weights = named_weights(network)
    for layer in range(2):
        total = weights[f"rnn.{layer}.bias_ih"] + weights[f"rnn.{layer}.bias_hh"]
        assert total.tolist() == [0.0] * 4 + [forget_bias] * 4 + [0.0] * 8  # i f g o
    assert not weights["head.bias"].any()


@pytest.mark.parametrize("cell", ["gru", "rnn"])
def test_cells_without_a_forget_gate_start_with_zero_biases(cell: str) -> None:
    network = Network(small(cell, forget_bias=1.0), V)
    initialise(network, seed=1)
    assert not any(weight.any() for name, weight in named_weights(network).items() if "bias" in name)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("embedding", [0, 20])
def test_recurrent_blocks_are_orthogonal_and_input_blocks_xavier_gate_by_gate(cell: str, embedding: int) -> None:
    hidden, vocabulary = 64, 40
    network = Network(ModelConfig(cell=cell, layers=2, hidden=hidden, embedding=embedding), vocabulary)
    initialise(network, seed=2)
    weights = export_weights(network)
    for layer in range(2):
        recurrent, inputs = weights[f"rnn.{layer}.weight_hh"], weights[f"rnn.{layer}.weight_ih"]
        for gate in range(GATED_BLOCKS[cell]):
            block = recurrent[gate * hidden : (gate + 1) * hidden]
            np.testing.assert_allclose(block @ block.T, np.eye(hidden), atol=1e-5)
            block = inputs[gate * hidden : (gate + 1) * hidden]
            bound = math.sqrt(6 / (hidden + block.shape[1]))  # fan-in and fan-out of one gate, not of the stack
            assert 0.98 * bound < np.abs(block).max() <= bound
            assert block.var() == pytest.approx(bound**2 / 3, rel=0.1)  # uniform
    bound = math.sqrt(6 / (hidden + vocabulary))
    assert 0.98 * bound < np.abs(weights["head.weight"]).max() <= bound


def test_initialisation_follows_from_the_seed_and_from_nothing_else() -> None:
    def weights(seed: int) -> bytes:
        network = Network(small("lstm"), V)
        torch.rand(seed + 1)  # torch's own generator is elsewhere each time
        initialise(network, seed)
        return b"".join(array.tobytes() for array in export_weights(network).values())

    assert weights(3) == weights(3) != weights(4)


# ids beyond the vocabulary, names, shapes


@pytest.mark.parametrize("embedding", [0, 3])
def test_unseen_character_reads_the_mean_and_start_its_own_input(embedding: int) -> None:
    network = random_network(small("lstm", embedding=embedding), V, seed=13)
    weights = {name: weight.detach() for name, weight in named_weights(network).items()}
    read = network.embedding(torch.arange(V + 2)).detach()
    torch.testing.assert_close(read, torch.stack([input_vector(weights, token) for token in range(V + 2)]))
    if embedding:
        torch.testing.assert_close(read[V + 1], weights["embedding.weight"][:V].mean(0))
        assert torch.equal(read[V], weights["embedding.weight"][V])
    else:
        assert read[V + 1].tolist() == [pytest.approx(1 / V)] * V
        assert not read[V].any()


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("embedding", [0, 3])
def test_names_and_shapes_are_the_documented_ones(cell: str, embedding: int) -> None:
    config = small(cell, layers=3, embedding=embedding)
    found = {name: array.shape for name, array in export_weights(Network(config, V)).items()}
    assert found == weight_shapes(config, V)
    assert len(cell_of(config).gates) == GATED_BLOCKS[cell]


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("embedding", [0, 3])
def test_exported_weights_and_state_come_back_bit_for_bit(cell: str, embedding: int) -> None:
    config = small(cell, embedding=embedding)
    one, other = random_network(config, V, seed=14), random_network(config, V, seed=15)
    ids, state = some_ids(4, 2, seed=16), random_state(one, 2, seed=17)
    arrays = export_state(state, config)
    assert set(arrays) == {f"state.{k}.{name}" for k in range(2) for name in ("h", "c")[: 2 if cell == "lstm" else 1]}
    restored = import_state(arrays, config, torch.device("cpu"))
    assert all(map(torch.equal, flat(restored), flat(state)))
    assert not torch.equal(one(ids, state)[0], other(ids, state)[0])
    import_weights(other, export_weights(one))
    assert torch.equal(one(ids, state)[0], other(ids, restored)[0])


def test_exported_arrays_are_copies() -> None:
    """A checkpoint being written must not change under further training."""
    network = random_network(small("gru"), V, seed=18)
    before = export_weights(network)
    kept = {name: array.copy() for name, array in before.items()}
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(1)
    assert all(np.array_equal(before[name], kept[name]) for name in kept)


# dropout


@pytest.mark.parametrize("p", [2.0**-18, 1e-4, 0.1, 0.5, 0.99])
def test_dropout_gives_zero_or_the_scaled_value_with_the_right_frequency(p: float) -> None:
    layer = Dropout(p, torch.Generator().manual_seed(19))
    x = torch.linspace(1, 2, 400_001).view(1, 400_001, 1)  # no multiple of four values
    y = layer(x)
    dropped = y == 0
    torch.testing.assert_close(y[~dropped], x[~dropped] / (1 - p))
    share, deviation = dropped.double().mean().item(), math.sqrt(p * (1 - p) / x.numel())
    assert abs(share - p) < 4 * deviation + 2**-16


@pytest.mark.parametrize(("p", "training"), [(0.0, True), (0.0, False), (0.9, False)])
def test_dropout_is_the_identity_without_p_or_in_evaluation(p: float, training: bool) -> None:
    x = torch.randn(5, 6, 7, generator=torch.Generator().manual_seed(20))
    assert torch.equal(Dropout(p, torch.Generator()).train(training)(x), x)


def test_dropout_masks_follow_from_seed_and_step() -> None:
    network = random_network(replace(small("lstm"), dropout_between=0.5, dropout_output=0.5), V, seed=21).train()
    ids, state = some_ids(9, 4, seed=22, highest=V), network.init_state(4)

    def logits(seed: int, step: int) -> Tensor:
        network.reseed(seed, step)
        result: Tensor = network(ids, state)[0]
        return result

    assert torch.equal(logits(1, 5), logits(1, 5))
    assert not torch.equal(logits(1, 5), logits(1, 6))
    assert not torch.equal(logits(1, 5), logits(2, 5))


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("place", range(4))
def test_dropout_at_each_place_leaves_the_recurrent_path_untouched(cell: str, place: int) -> None:
    """A layer that cannot hear its inputs evolves from its state alone: under 0.99 everywhere as without dropout."""
    everywhere = replace(small(cell, layers=4), dropout_input=0.99, dropout_between=0.99, dropout_output=0.99)
    network = random_network(everywhere, V, seed=23)
    ids, begin = some_ids(12, 3, seed=24, highest=V), random_state(network, 3, seed=25)
    with torch.no_grad():
        named_weights(network)[f"rnn.{place}.weight_ih"].zero_()
        evaluated = network(ids, begin)[1]
        trained = network.train()(ids, begin)[1]
    for layer in range(4):
        same = all(map(torch.equal, trained[layer], evaluated[layer]))
        assert same == (layer == place), f"layer {layer}"


@pytest.mark.parametrize("cell", CELLS)
def test_each_layer_follows_its_recurrence_on_the_masked_inputs_it_receives(cell: str) -> None:
    """What hooks saw at every mask's two sides: a layer reads the masked values, and passes on its unmasked state."""
    everywhere = replace(small(cell, layers=3), dropout_input=0.5, dropout_between=0.6, dropout_output=0.7)
    network = random_network(everywhere, V, seed=26).double().train()
    seen: list[tuple[Tensor, Tensor]] = []
    for mask in network.dropout:
        mask.register_forward_hook(lambda _, given, result: seen.append((given[0], result)))
    ids, begin = some_ids(99, 9, seed=27, highest=V), random_state(network, 9, seed=28)
    with torch.no_grad():
        logits, last = network(ids, begin)
    weights = {name: weight.detach() for name, weight in named_weights(network).items()}
    torch.testing.assert_close(
        seen[0][0], torch.stack([torch.stack([input_vector(weights, i) for i in row]) for row in ids.tolist()])
    )
    for layer in range(3):
        state = begin[layer]
        for x, h in zip(seen[layer][1], seen[layer + 1][0], strict=True):
            state = pytorch_step(cell, x, state, weights, layer)
            torch.testing.assert_close(h, state[0], rtol=0, atol=1e-12)
        torch.testing.assert_close(last[layer], state, rtol=0, atol=1e-12)
    torch.testing.assert_close(logits, seen[-1][1] @ weights["head.weight"].T + weights["head.bias"])
    assert [(after == 0).double().mean().item() for _, after in seen] == pytest.approx([0.5, 0.6, 0.6, 0.7], abs=0.03)
