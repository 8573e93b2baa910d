"""On a real GPU: steps as one graph, exact resumption, and agreement with a processor. Skipped where there is none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from oracles import random_network
from test_architectures import SMALL
from test_architectures import V as SMALL_V
from test_decoder import CELLS, SETTINGS, V, decoder_of, log_softmax, random_ids, steady_network
from torch import Tensor

import charlm
from charlm.config import ModelConfig
from charlm.generation.cuda import TorchDecoder
from charlm.generation.sampling import SamplingParameters
from charlm.models.network import Network, export_weights, import_weights, initialise, zero_lanes
from charlm.runtime.device import Runtime, choose_device, choose_runtime
from charlm.storage.checkpoint import load_checkpoint
from charlm.text.lanes import Chunk
from charlm.text.position import Position
from charlm.text.record_lanes import RecordLanes
from charlm.training.gradient import Gradient

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
GPU = torch.device("cuda")
OPTIONS: dict[str, Any] = {"device": "cuda", "hidden": 128, "batch": 8, "bptt": 16, "dropout": 0.2, "steps": 24}


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("It was the best of times, it was the worst of times, " * 400)
    return path


@pytest.fixture(autouse=True)
def alike() -> None:
    """What a run sets before it computes: deterministic kernels, and fp32 that is fp32."""
    choose_runtime(choose_device("cuda"), "fp32", 1)


def test_a_program_keeps_its_random_state_and_its_switches(text: Path) -> None:
    torch.backends.cudnn.deterministic, torch.backends.cudnn.allow_tf32 = False, True
    torch.cuda.manual_seed_all(5)
    torch.rand(3, device=GPU)
    before = torch.cuda.get_rng_state_all()
    trained = charlm.train(text, checkpoints=text.parent, **OPTIONS)
    charlm.load(trained.checkpoint, device="cuda").score("It was the best")
    assert all(torch.equal(one, other) for one, other in zip(before, torch.cuda.get_rng_state_all(), strict=True))
    assert (torch.backends.cudnn.deterministic, torch.backends.cudnn.allow_tf32) == (False, True)


def four_chunks(network: Network, precision: str, chunk: int, lanes: int, *, capture: bool) -> list[Tensor]:
    """The loss of each of four chunks, the third of another length, and the gradients."""
    initialise(network, 1)
    network.to_device(GPU).train()
    compute = Gradient(network, Runtime(GPU, precision, 1, ""), (chunk, lanes), 2, pytest.fail)
    compute.capture = capture
    state, values = network.init_state(lanes), []
    for step, length in enumerate((chunk, chunk, 3, chunk)):
        ids = torch.tensor(random_ids(length, lanes, network.vocabulary, seed=step), device=GPU)
        loss, state = compute(Chunk.of(ids, ids), state, step, 1.0)
        gradients = [weight.grad for weight in network.parameters() if weight.grad is not None]
        values += [loss, *(gradient.clone() for gradient in gradients)]
    return [value.cpu() for value in values]


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16", "fp16"])
@pytest.mark.parametrize(("hidden", "chunk", "lanes"), [(64, 9, 4), (256, 64, 64)])
def test_a_graph_computes_what_its_kernels_do(cell: str, precision: str, hidden: int, chunk: int, lanes: int) -> None:
    """The larger sizes take other kernels, of cuDNN's layers and of the embedding's gradient."""
    config = ModelConfig(cell=cell, hidden=hidden, embedding=32, dropout_input=0.2, dropout_output=0.2)
    found = [four_chunks(Network(config, V), precision, chunk, lanes, capture=capture) for capture in (False, True)]
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("name", SMALL)
def test_a_graph_of_every_architecture_computes_what_its_kernels_do(name: str, precision: str) -> None:
    config = replace(SMALL[name], dropout_input=0.2)
    found = [four_chunks(Network(config, SMALL_V), precision, 9, 4, capture=capture) for capture in (False, True)]
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16", "fp16"])
@pytest.mark.parametrize("optimizer", ["muon", "adamw", "rmsprop"])
@pytest.mark.parametrize("larger", [{}, {"hidden": 256, "batch": 64, "bptt": 64}])
def test_a_run_that_is_interrupted_ends_like_one_that_is_not(
    text: Path, precision: str, optimizer: str, larger: dict[str, Any]
) -> None:
    """The larger sizes take kernels that are deterministic only if they are told to be."""
    options = {**OPTIONS, "precision": precision, "optimizer": optimizer, "checkpoints": text.parent, **larger}
    asked = iter(range(1000))
    whole = charlm.train(text, name="whole", **options)
    charlm.train(text, name="halves", stop=lambda: "half" if next(asked) == 9 else None, **options)
    halves = charlm.train(text, name="halves", resume=True, **options)
    assert load_checkpoint(whole.run.last).state_sha256 == load_checkpoint(halves.run.last).state_sha256


def assert_computes_what_a_processor_does(here: Network) -> None:
    """Within 1e-4 of the largest logit: cuDNN's recurrent kernels approximate by 2e-5 of it, TF32 would by 1e-3."""
    here.eval()
    there = Network(here.config, here.vocabulary)
    import_weights(there, export_weights(here))
    there.to_device(GPU).eval()
    ids = torch.tensor(random_ids(40, 4, here.vocabulary))
    with torch.inference_mode():
        expected = here(ids, here.init_state(4))[0]
        found = there(ids.cuda(), there.init_state(4))[0].cpu()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 * expected.abs().max().item())


@pytest.mark.parametrize("cell", CELLS)
def test_it_computes_what_a_processor_does(cell: str) -> None:
    assert_computes_what_a_processor_does(steady_network(cell, 2, 7, hidden=64))


@pytest.mark.parametrize("name", SMALL)
def test_every_architecture_computes_what_a_processor_does(name: str) -> None:
    assert_computes_what_a_processor_does(random_network(SMALL[name], SMALL_V, seed=1))


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("cell", CELLS)
def test_its_decoder_writes_what_a_processor_writes(cell: str, settings: SamplingParameters) -> None:
    network = steady_network(cell, 2, 7)
    decoder, other = TorchDecoder(network.config, export_weights(network), GPU), decoder_of(network, "numpy")
    for lanes in (1, 3, 1):
        uniforms = np.random.default_rng(lanes).random((40, lanes))
        start = random_ids(4, lanes)
        mine = decoder.sample(*decoder.after(start, decoder.init_state(lanes)), uniforms, settings)
        theirs = other.sample(*other.after(start, other.init_state(lanes)), uniforms, settings)
        np.testing.assert_array_equal(mine[0], theirs[0])
        torch.testing.assert_close(log_softmax(mine[1]), log_softmax(theirs[1]), rtol=0, atol=1e-4)


@pytest.mark.parametrize("cell", CELLS)
def test_a_text_is_scored_while_the_network_learns_from_it(text: Path, cell: str) -> None:
    """No warning either: cuDNN has one for weights that do not lie in one piece of memory, as after a copy."""
    trained = charlm.train(text, checkpoints=text.parent, cell=cell, **OPTIONS)
    here, there = (charlm.load(trained.checkpoint, device=device) for device in ("cpu", "cuda"))
    passage = "It was the worst of times, it was the best of times. " * 20
    assert there.nats(passage, dynamic=True).mean() == pytest.approx(here.nats(passage, dynamic=True).mean(), abs=0.01)


@pytest.mark.parametrize("cell", CELLS)
def test_records_teach_a_gpu_what_they_teach_a_processor(cell: str) -> None:
    config = ModelConfig(cell=cell, hidden=64, embedding=16)
    ids = np.random.default_rng(1).integers(0, V, 200).astype(np.int32)
    edges, found = np.array([0, 5, 6, 40, 77, 90, 91, 140, 200]), []
    for device in ("cpu", "cuda"):
        network = Network(config, V)
        initialise(network, 1)
        network.to_device(torch.device(device)).train()
        lanes = RecordLanes(ids, edges, start=V, batch=4, bptt=32, seed=2, device=torch.device(device))
        compute = Gradient(network, Runtime(torch.device(device), "fp32", 1, ""), (32, lanes.batch), 2, pytest.fail)
        state, position, values = network.init_state(lanes.batch), Position(), []
        while position.epoch == 0:
            chunk = lanes.read(position)
            loss, state = compute(chunk, zero_lanes(state, chunk.begins), position.offset, 1.0)
            gradients = [weight.grad for weight in network.parameters() if weight.grad is not None]
            values += [loss.cpu(), *(gradient.clone().cpu() for gradient in gradients)]
            position = chunk.next
        found.append(values)
    torch.testing.assert_close(*found, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("records", ["none", "line"])
def test_entropy_rank_and_alternatives_are_those_of_a_processor(text: Path, records: Literal["none", "line"]) -> None:
    trained = charlm.train(text, checkpoints=text.parent, **OPTIONS)
    read = "It was the best\nof times\n" * 40
    here, there = (
        charlm.load(trained.checkpoint, device=device, records=records).surprisal(read, likeliest=2, forecast=True)
        for device in ("cuda", "cpu")
    )
    assert here.forecast is not None
    assert there.forecast is not None
    assert here.likeliest is not None
    assert there.likeliest is not None
    np.testing.assert_allclose(here.forecast.entropy, there.forecast.entropy, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(here.likeliest.probabilities, there.likeliest.probabilities, rtol=1e-3, atol=1e-5)
    assert (here.forecast.rank == there.forecast.rank).mean() > 0.99


def test_a_run_over_records_that_is_interrupted_ends_like_one_that_is_not(tmp_path: Path) -> None:
    names = tmp_path / "names.txt"
    names.write_text("".join(f"{a}{b}{c}\n" for a in "bdfgkl" for b in "aeiou" for c in ("n", "nna", "ssandra")))
    options: dict[str, Any] = {**OPTIONS, "records": "line", "checkpoints": tmp_path}
    whole = charlm.train(names, name="whole", **options)
    asked = iter(range(100))
    charlm.train(names, name="parts", **options, stop=lambda: "stop" if next(asked) == 9 else None)
    parts = charlm.train(names, name="parts", **options, resume=True)
    hashes = [load_checkpoint(trained.run.last).state_sha256 for trained in (whole, parts)]
    assert hashes[0] == hashes[1]
