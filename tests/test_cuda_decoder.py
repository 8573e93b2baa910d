"""The decoder of a GPU, on a processor: against NumPy's, its sampling against `next_token`, its graph against none."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from played import Replayed
from test_decoder import CELLS, SETTINGS, V, decoder_of, log_softmax, random_ids, steady_network

from charlm.errors import ConfigError
from charlm.generation import cuda as module
from charlm.generation.cuda import TokenSampler, TorchDecoder
from charlm.generation.sampling import SamplingParameters, next_token
from charlm.models.network import Network, export_weights

CPU = torch.device("cpu")
PROFILE = settings(derandomize=True, deadline=None, max_examples=300, database=None)


def torch_decoder(network: Network) -> TorchDecoder:
    return TorchDecoder(network.config, export_weights(network), CPU)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize(("layers", "embedding"), [(1, 0), (3, 7)])
def test_it_reads_what_the_other_engines_read(cell: str, layers: int, embedding: int) -> None:
    network = steady_network(cell, layers, embedding, hidden=21)
    decoder, other = torch_decoder(network), decoder_of(network, "numpy")
    ids = random_ids(60, 5, V + 2)
    mine, end = decoder.read(ids, decoder.init_state(5))
    theirs, other_end = other.read(ids, other.init_state(5))
    torch.testing.assert_close(log_softmax(mine), log_softmax(theirs), rtol=0, atol=1e-5)
    np.testing.assert_allclose(np.stack(end), np.stack(other_end), rtol=0, atol=1e-5)
    state = decoder.init_state(5)
    for row, whole in zip(ids, mine, strict=True):
        logits, state = decoder.step(row, state)
        np.testing.assert_array_equal(logits, whole)


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("captured", [False, True])
def test_it_samples_what_the_other_engines_sample(
    monkeypatch: pytest.MonkeyPatch, cell: str, settings: SamplingParameters, captured: bool
) -> None:
    """Forty tokens are two graphs of sixteen and a rest; then other lanes, and the first again."""
    monkeypatch.setattr(module, "Captured", Replayed)
    monkeypatch.setattr(module, "_CHUNK", 16)
    network = steady_network(cell, 2, 7)
    decoder, other = torch_decoder(network), decoder_of(network, "numpy")
    if captured:
        monkeypatch.setattr(TorchDecoder, "_fits_graph", lambda _, uniforms: len(uniforms) == 16)
    for lanes, seed in ((3, 1), (2, 2), (3, 3)):
        ids = random_ids(4, lanes)
        uniforms = np.random.default_rng(seed).random((40, lanes))
        logits, state = decoder.after(ids, decoder.init_state(lanes))
        kept = logits.copy(), np.stack(state)
        tokens, last, end = decoder.sample(logits, state, uniforms, settings)
        expected, *_ = other.sample(*other.after(ids, other.init_state(lanes)), uniforms, settings)
        np.testing.assert_array_equal(tokens, expected)
        np.testing.assert_array_equal(logits, kept[0])
        np.testing.assert_array_equal(np.stack(state), kept[1])
        again, *_ = decoder.read(tokens, state)
        np.testing.assert_allclose(again[-1], last, rtol=0, atol=1e-6)
        np.testing.assert_array_equal(decoder.sample(logits, state, uniforms, settings)[0], tokens)
        assert not np.array_equal(np.stack(end), kept[1])


@PROFILE
@given(
    st.lists(st.integers(-40, 40), min_size=1, max_size=12),
    st.floats(0, 1, exclude_max=True),
    st.sampled_from([0.0, 1e-308, 1e-9, 0.3, 1.0, 7.0]),
    st.integers(0, 13),
    st.sampled_from([0.1, 0.5, 0.9, 1.0]),
    st.sampled_from([0.0, 0.01, 0.5, 1.0]),
)
def test_a_sampled_token_is_that_of_next_token(
    quarters: list[int], u: float, temperature: float, top_k: int, top_p: float, min_p: float
) -> None:
    """Small whole numbers make many ties."""
    logits = np.array(quarters, dtype=np.float32) / 4
    settings = SamplingParameters(temperature, top_k, top_p, min_p)
    rows = torch.from_numpy(np.stack([logits, logits[::-1]]))
    found = TokenSampler(settings, rows)(rows, torch.tensor([u, u], dtype=torch.float64)).tolist()
    assert found == [next_token(row.numpy(), u, **settings._asdict()) for row in rows]


def test_without_a_gpu_the_engine_says_so() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(ConfigError, match="--engine cuda needs a GPU that torch can use"):
        decoder_of(steady_network("lstm", 1, 7), "cuda")


def test_it_has_no_8_bit_weights() -> None:
    with pytest.raises(ConfigError, match="--engine cuda computes in fp32, not in int8"):
        decoder_of(steady_network("lstm", 1, 7), "cuda", precision="int8")
