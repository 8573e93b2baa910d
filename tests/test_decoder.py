"""The decoders against the torch network, and the compiled one against NumPy's: step by step, lane by lane."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from oracles import fresh_kernel, random_network

import charlm
from charlm.config import ModelConfig
from charlm.errors import ConfigError
from charlm.generation.build import NoKernel, kernel
from charlm.generation.decoder import Decoder, quantize
from charlm.generation.engine import open_decoder
from charlm.generation.sampling import Floats, SamplingParameters, next_token
from charlm.models.network import Network, export_weights, named_weights

V = 11
CELLS = ("lstm", "gru", "rnn")
ENGINES = ("numpy", "compiled")
SETTINGS = (
    SamplingParameters(),
    SamplingParameters(0.0),
    SamplingParameters(0.7, top_k=4),
    SamplingParameters(1.3, top_p=0.8),
    SamplingParameters(0.9, min_p=0.2),
    SamplingParameters(1.0, 7, 0.9, 0.05),
)


def steady_network(cell: str, layers: int, embedding: int, hidden: int = 16) -> Network:
    """Predictions move a good deal, but recurrent matrices contract: a chaotic network would magnify rounding."""
    config = ModelConfig(cell=cell, layers=layers, hidden=hidden, embedding=embedding)
    network = random_network(config, V, seed=layers, scale=0.6)
    with torch.no_grad():
        for name, weight in named_weights(network).items():
            if name.endswith("weight_hh"):
                weight.mul_(1 / 3)
    return network


def decoder_of(network: Network, engine: str, **options: Any) -> Decoder:
    return open_decoder(network.config, export_weights(network), engine=engine, **options)


def log_softmax(logits: Floats) -> torch.Tensor:
    return torch.from_numpy(logits).double().log_softmax(-1)


def random_ids(steps: int, lanes: int, most: int = V, seed: int = 3) -> NDArray[np.int64]:
    return np.random.default_rng(seed).integers(0, most, (steps, lanes))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("embedding", [0, 7])
def test_decoder_equals_the_network_over_200_steps(engine: str, cell: str, layers: int, embedding: int) -> None:
    """Streams of random ids, each of which begins with the start input and meets unseen characters on its way.

    Seven lanes are a block of four and three by themselves; 21 units are a block of 16 and one with room to spare.
    """
    network = steady_network(cell, layers, embedding, hidden=21)
    decoder = decoder_of(network, engine)
    ids = torch.randint(0, V + 2, (200, 7), generator=torch.Generator().manual_seed(1))
    ids[0] = V
    assert all((ids == V + 1).any(dim=0))
    with torch.inference_mode():
        reference, _ = network(ids, network.init_state(7))
    expected = reference.double().log_softmax(-1)
    together, end = decoder.read(ids.numpy(), decoder.init_state(7))
    torch.testing.assert_close(log_softmax(together), expected, rtol=0, atol=1e-5)
    state = decoder.init_state(7)
    for row, whole in zip(ids.numpy(), together, strict=True):
        logits, state = decoder.step(row, state)
        np.testing.assert_array_equal(logits, whole)
    np.testing.assert_array_equal(np.stack(state), np.stack(end))
    np.testing.assert_array_equal(decoder.after(ids.numpy(), decoder.init_state(7))[0], together[-1])
    assert reference.std(dim=0).mean() > 0.05, "a model whose predictions hardly change would prove little"


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("cell", CELLS)
def test_lanes_do_not_affect_each_other(engine: str, precision: str, cell: str) -> None:
    decoder = decoder_of(steady_network(cell, 2, 7), engine, precision=precision)
    ids = random_ids(30, 5)
    together, _ = decoder.read(ids, decoder.init_state(5))
    for stream in range(5):
        single, _ = decoder.read(ids[:, stream : stream + 1], decoder.init_state(1))
        np.testing.assert_allclose(
            single[:, 0], together[:, stream], rtol=0, atol=1e-5 if precision == "fp32" else 1e-2
        )


@pytest.mark.compiler
@pytest.mark.parametrize("cell", CELLS)
def test_both_engines_read_many_lanes_alike(cell: str) -> None:
    """71 lanes are 16 groups of four, one more and three by themselves; of 70 units 64 meet all groups first."""
    network = steady_network(cell, 2, 7, hidden=70)
    ids = random_ids(20, 71)
    decoders = [decoder_of(network, engine) for engine in ENGINES]
    one, other = (decoder.read(ids, decoder.init_state(71))[0] for decoder in decoders)
    np.testing.assert_allclose(one, other, rtol=0, atol=1e-5 * np.abs(other).max())  # sums have other orders


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("cell", CELLS)
def test_a_step_changes_neither_the_state_that_it_is_given_nor_the_weights(engine: str, cell: str) -> None:
    """A caller may branch: read on from one state twice."""
    network = steady_network(cell, 2, 7)
    weights = export_weights(network)
    decoder = open_decoder(network.config, weights, engine=engine)
    logits, state = decoder.step([V, 3], decoder.init_state(2))
    kept, seen = [tuple(part.copy() for part in layer) for layer in state], logits.copy()
    once, _ = decoder.step([1, 2], state)
    twice, _ = decoder.step([1, 2], state)
    decoder.sample(logits, state, np.full((3, 2), 0.5), SamplingParameters())
    np.testing.assert_array_equal(once, twice)
    np.testing.assert_array_equal(logits, seen)
    for layer, before in zip(state, kept, strict=True):
        np.testing.assert_array_equal(np.stack(layer), np.stack(before))
    assert all(np.array_equal(weights[name], array) for name, array in export_weights(network).items())


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("cell", CELLS)
def test_saturated_gates_stay_finite(engine: str, precision: str, cell: str) -> None:
    """Large weights drive a sigmoid's argument to where exp overflows in float32; warnings are errors here."""
    network = random_network(ModelConfig(cell=cell, layers=2, hidden=16, embedding=7), V, seed=5, scale=200.0)
    decoder = decoder_of(network, engine, precision=precision)
    logits, _ = decoder.read(np.arange(V)[:, None], decoder.init_state(1))
    assert np.isfinite(logits).all()


# sampling


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("settings", SETTINGS)
def test_sampling_is_next_token_and_a_step_in_turn(engine: str, settings: SamplingParameters) -> None:
    """As many lanes as one block and one more; no number here lies on the boundary between two tokens."""
    decoder = decoder_of(steady_network("gru", 2, 7), engine)
    uniforms = np.random.default_rng(7).random((40, 5))
    logits, state = decoder.step([V] * 5, decoder.init_state(5))
    tokens, last, end = decoder.sample(logits, state, uniforms, settings)
    for row, chosen in zip(uniforms, tokens, strict=True):
        assert [next_token(x, u, **settings._asdict()) for x, u in zip(logits, row, strict=True)] == chosen.tolist()
        logits, state = decoder.step(chosen, state)
    np.testing.assert_array_equal(last, logits)
    np.testing.assert_array_equal(np.stack(end), np.stack(state))


@pytest.mark.compiler
@pytest.mark.parametrize("settings", SETTINGS)
def test_both_engines_sample_alike_from_any_distribution(settings: SamplingParameters) -> None:
    """One sample from each of many random rows, ties among them, and numbers at both ends of the unit interval."""
    network = steady_network("rnn", 1, 7)
    random = np.random.default_rng(11)
    rows = np.round(random.normal(0, 3, (400, V)), random.integers(0, 3)).astype(np.float32)
    uniforms = random.random((1, 400))
    uniforms[0, :50], uniforms[0, 50:100] = 0, 1 - 2**-53
    by_numpy, compiled = (decoder_of(network, engine) for engine in ENGINES)
    expected, _, _ = by_numpy.sample(rows, by_numpy.init_state(400), uniforms, settings)
    sampled, _, _ = compiled.sample(rows, compiled.init_state(400), uniforms, settings)
    np.testing.assert_array_equal(sampled, expected)


# eight bits


def test_rounded_rows_are_within_half_a_step_of_the_weights() -> None:
    weight = np.random.default_rng(1).normal(0, 2, (9, 30)).astype(np.float32)
    weight[4] = 0
    whole, scale = quantize(weight)
    assert whole.dtype == np.int8
    assert (np.abs(whole).max(axis=1)[[0, 1, 2, 3, 5, 6, 7, 8]] == 127).all()
    assert (np.abs(whole * scale[:, None] - weight) <= scale[:, None] * 0.5001).all()


@pytest.mark.compiler
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("hidden", [16, 37])
def test_eight_bits_are_the_same_in_both_engines_and_near_the_network(cell: str, hidden: int) -> None:
    """A state within rounding of a byte's boundary may fall to either side; on the whole there is no difference."""
    network = steady_network(cell, 2, 7, hidden)
    ids = random_ids(120, 5)
    read = []
    for engine in ENGINES:
        decoder = decoder_of(network, engine, precision="int8")
        read.append(decoder.read(ids, decoder.init_state(5))[0])
    difference = np.abs(read[0] - read[1])
    assert np.median(difference) < 1e-5
    assert difference.max() < 0.1
    with torch.inference_mode():
        reference, _ = network(torch.from_numpy(ids), network.init_state(5))
    error = np.abs(read[1] - reference.numpy()).mean() / reference.std().item()
    assert 1e-4 < error < 0.05, "rounding shows, and little"


@pytest.fixture(params=["-mno-avx512f", "-mno-avx512f -mno-avx2"])
def fewer_instructions(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[None]:
    """The kernel that is compiled for an x86 processor without these instructions."""
    monkeypatch.setenv("CC", f"{os.environ.get('CC', 'cc')} {request.param}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with fresh_kernel():
        try:
            kernel()
        except NoKernel as problem:
            pytest.skip(f"another compiler or processor: {problem}")
        yield


@pytest.mark.compiler
@pytest.mark.usefixtures("fewer_instructions")
def test_kernels_for_other_processors_agree_with_numpy() -> None:
    for cell, hidden, lanes in product(CELLS, (8, 21, 40), (1, 7)):
        network, ids = steady_network(cell, 2, 7, hidden), random_ids(60, lanes, V + 2)
        for precision, most in (("fp32", 1e-5), ("int8", 0.1)):
            decoders = [decoder_of(network, engine, precision=precision) for engine in ENGINES]
            one, other = (each.read(ids, each.init_state(lanes))[0] for each in decoders)
            difference = np.abs(one - other)
            assert np.median(difference) < 1e-5
            assert difference.max() < most


@pytest.mark.compiler
@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("cell", CELLS)
def test_the_number_of_threads_changes_no_bit(precision: str, cell: str) -> None:
    """More threads than blocks, too: some have nothing to do."""
    network = steady_network(cell, 3, 7, hidden=70)
    ids, uniforms = random_ids(50, 6), np.random.default_rng(2).random((50, 6))
    ends = []
    for threads in (1, 2, 3, 8):
        decoder = decoder_of(network, "compiled", precision=precision, threads=threads)
        logits, state = decoder.read(ids, decoder.init_state(6))
        ends.append((logits, *decoder.sample(logits[-1], state, uniforms, SamplingParameters())[:2]))
    for end in ends[1:]:
        for one, other in zip(ends[0], end, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.compiler
def test_eight_bit_sums_do_not_depend_on_the_number_of_lanes() -> None:
    """Sums of whole numbers are exact, so that groups of lanes and one by itself agree to the bit."""
    network = steady_network("lstm", 2, 7, hidden=40)
    decoder = decoder_of(network, "compiled", precision="int8")
    ids = random_ids(30, 71)
    together, _ = decoder.read(ids, decoder.init_state(71))
    for stream in range(71):
        single, _ = decoder.read(ids[:, stream : stream + 1], decoder.init_state(1))
        np.testing.assert_array_equal(single[:, 0], together[:, stream])


@pytest.mark.compiler
def test_ids_out_of_range_are_refused_before_they_are_looked_up() -> None:
    decoder = decoder_of(steady_network("lstm", 1, 7), "compiled")
    for token in (-1, V + 2):
        with pytest.raises(IndexError):
            decoder.step([token], decoder.init_state(1))


@pytest.mark.compiler
def test_api_writes_alike_with_both_engines_and_scores_with_the_one_that_writes(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("to be or not to be, that is the question\n" * 60)
    run = charlm.train(text, checkpoints=tmp_path, steps=60, hidden=24, seed=1)
    model = charlm.load(run.checkpoint)
    written = {e: model.sample(length=200, seed=3, engine=e) for e in ENGINES}
    assert written["numpy"] == written["compiled"]
    whole = model.score("to be or not to be, that is the question\n" * 20).bits_per_character
    for precision, bound in (("fp32", 1e-5), ("int8", 0.005)):
        fast = precision == "int8"
        decoder = (
            charlm.load(run.checkpoint, precision="int8") if fast else charlm.load(run.checkpoint, engine="decoder")
        )
        found = decoder.score("to be or not to be, that is the question\n" * 20).bits_per_character
        assert found == pytest.approx(whole, abs=bound)
    with pytest.raises(ConfigError, match="--engine network supports fp32 or bf16 or fp16, not int8"):
        charlm.load(run.checkpoint, engine="network", precision="int8")
    with pytest.raises(ConfigError, match="--engine decoder supports fp32 or int8, not bf16"):
        charlm.load(run.checkpoint, engine="decoder", precision="bf16")
