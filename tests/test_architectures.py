"""What every architecture promises, whatever its layers are: one text, one result, however it is read.

The equations of each are compared with loops of their own, in `test_window.py` and its like.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from oracles import random_network, validation_loss
from torch import Tensor

import charlm
from charlm.config import MODELS, Config, ModelConfig, applies, check_train
from charlm.errors import ConfigError
from charlm.generation.cuda import TorchDecoder
from charlm.generation.decoder import Decoder
from charlm.generation.layered import LayeredDecoder, open_numpy
from charlm.models.architecture import architecture_of, state_names, weight_shapes
from charlm.models.network import Network, export_weights, initialise, named_weights, select_lanes, zero_lanes
from charlm.storage.checkpoint import load_checkpoint
from charlm.training.again import own_options
from charlm.training.defaults import Facts, choose

V, HIDDEN = 7, 8
TEXT = "".join(f"{n} and {n} make {2 * n}.\n" for n in range(150))

# a small network of each, and what beside that differs from the usual
SMALL: Mapping[str, ModelConfig] = {
    "lstm": ModelConfig(hidden=HIDDEN, embedding=5),
    "lstm, skip": ModelConfig(hidden=HIDDEN, embedding=5, layers=3, skip=True),
    "gru, skip, one-hot": ModelConfig(cell="gru", hidden=HIDDEN, embedding=0, skip=True),
    "leaky": ModelConfig(cell="leaky", hidden=HIDDEN, embedding=5),
    "mingru, skip": ModelConfig(cell="mingru", hidden=HIDDEN, embedding=5, skip=True),
    "echo": ModelConfig(model="echo", hidden=HIDDEN, embedding=0, layers=1),
    "echo, two, embedding": ModelConfig(model="echo", hidden=HIDDEN, embedding=5, layers=2),
    "jordan": ModelConfig(model="jordan", hidden=HIDDEN, embedding=5, layers=1),
    "jordan, two, one-hot": ModelConfig(model="jordan", hidden=HIDDEN, embedding=0, layers=2),
    "window": ModelConfig(model="window", hidden=HIDDEN, embedding=5, layers=1, context=4),
    "window, two, one-hot": ModelConfig(model="window", hidden=HIDDEN, embedding=0, layers=2, context=3),
    "dilated": ModelConfig(model="dilated", hidden=HIDDEN, embedding=5, layers=4),
    "dilated, one-hot": ModelConfig(model="dilated", hidden=V, embedding=0, layers=3),
    "transformer": ModelConfig(model="transformer", hidden=HIDDEN, embedding=5, layers=2, context=5, heads=2),
    "transformer, one-hot": ModelConfig(model="transformer", hidden=HIDDEN, embedding=0, layers=1, context=9, heads=1),
}
each = pytest.mark.parametrize("name", SMALL)


def network_of(name: str, *, seed: int = 1) -> Network:
    return random_network(SMALL[name], V, seed=seed).double()


def some_ids(steps: int, lanes: int, *, seed: int = 2, highest: int = V + 1) -> Tensor:
    return torch.randint(0, highest + 1, (steps, lanes), generator=torch.Generator().manual_seed(seed))


def test_every_architecture_is_here() -> None:
    assert {config.model for config in SMALL.values()} == set(MODELS)


@each
def test_names_and_shapes_are_those_that_a_checkpoint_is_held_to(name: str) -> None:
    network = network_of(name)
    found = {weight: tuple(value.shape) for weight, value in named_weights(network).items()}
    assert found == weight_shapes(SMALL[name], V)
    assert all(len(shape) <= 2 for shape in found.values())  # as optimizers expect
    assert len(state_names(SMALL[name])) == sum(map(len, network.init_state(1)))


@each
def test_a_text_has_one_result_in_chunks_of_any_length(name: str) -> None:
    network, ids = network_of(name), some_ids(23, 3)
    whole, last = network(ids, network.init_state(3))
    state, parts = network.init_state(3), []
    for chunk in torch.split(ids, [1, 2, 9, 1, 10]):
        logits, state = network(chunk, state)
        parts.append(logits)
    torch.testing.assert_close(torch.cat(parts), whole, rtol=0, atol=1e-12)
    for one, other in zip(state, last, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


@each
def test_no_prediction_moves_with_what_comes_later(name: str) -> None:
    """The gradient of each logit in the embedding's later outputs is exactly zero, and in the present one is not."""
    network, ids = network_of(name), some_ids(9, 1, highest=V - 1)
    seen: list[Tensor] = []

    def keep(_: torch.nn.Module, __: object, output: Tensor) -> Tensor:
        seen.append(output.detach().requires_grad_())
        return seen[-1]

    with torch.enable_grad():
        network.requires_grad_()
        hook = network.embedding.register_forward_hook(keep)
        logits = network(ids, network.init_state(1))[0]
        hook.remove()
        for t in range(9):
            (gradient,) = torch.autograd.grad(logits[t].square().sum(), seen[0], retain_graph=True)
            assert not gradient[t + 1 :].any()
            assert gradient[t].any()


@each
def test_a_lane_is_alone(name: str) -> None:
    network, ids = network_of(name), some_ids(12, 4)
    whole = network(ids, network.init_state(4))[0]
    alone = network(ids[:, 2:3], select_lanes(network.init_state(4), slice(2, 3)))[0]
    torch.testing.assert_close(alone, whole[:, 2:3], rtol=0, atol=1e-12)


@each
def test_a_lane_that_is_reset_begins_like_a_new_text(name: str) -> None:
    network, ids = network_of(name), some_ids(12, 3)
    _, state = network(ids, network.init_state(3))
    after = network(ids, zero_lanes(state, np.array([False, True, False])))[0]
    fresh = network(ids, network.init_state(3))[0]
    torch.testing.assert_close(after[:, 1], fresh[:, 1], rtol=0, atol=1e-12)
    assert not torch.allclose(after[:, 0], fresh[:, 0])


@each
def test_rows_of_different_lengths_are_read_like_each_by_itself(name: str) -> None:
    network, lengths = network_of(name), [6, 4, 4, 1]
    texts = [some_ids(length, 1, seed=length + place) for place, length in enumerate(lengths)]
    rows = [sum(length > t for length in lengths) for t in range(6)]
    packed = torch.cat([texts[row][t] for t, count in enumerate(rows) for row in range(count)])
    logits, state = network.forward_packed(packed, rows, network.init_state(4))
    at = np.cumsum([0, *rows])
    for row, text in enumerate(texts):
        expected, last = network(text, network.init_state(1))
        own = logits[[at[t] + row for t in range(lengths[row])]]
        torch.testing.assert_close(own, expected[:, 0], rtol=0, atol=1e-12)
        for one, other in zip(select_lanes(state, slice(row, row + 1)), last, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


@each
@pytest.mark.parametrize("engine", ["numpy", "layered", "torch"])
def test_decoders_compute_what_the_network_does(name: str, engine: str) -> None:
    network, ids = network_of(name).float(), some_ids(30, 3, seed=5)
    weights = export_weights(network)
    opened: Decoder
    match engine:
        case "numpy":
            opened = open_numpy(SMALL[name], weights, "fp32", 1)
        case "layered":
            opened = LayeredDecoder(SMALL[name], weights)
        case _:  # that of a GPU
            opened = TorchDecoder(SMALL[name], weights, torch.device("cpu"))
    found, after = opened.read(ids.numpy(), opened.init_state(3))
    expected, state = network(ids, network.init_state(3))
    np.testing.assert_allclose(found, expected.detach().numpy(), atol=2e-5)
    for parts, reference in zip(after, state, strict=True):
        for part, other in zip(parts, reference, strict=True):
            np.testing.assert_allclose(part, other.detach().numpy(), atol=2e-5)


@each
def test_eight_bit_weights_cost_little(name: str) -> None:
    network, ids = network_of(name).float(), some_ids(20, 2, seed=6)
    weights = export_weights(network)
    rough, fine = (open_numpy(SMALL[name], weights, precision, 1) for precision in ("int8", "fp32"))
    one, other = (decoder.read(ids.numpy(), decoder.init_state(2))[0] for decoder in (rough, fine))
    assert 0 < np.abs(one - other).max() < 0.1


@each
def test_initial_weights_follow_from_the_seed_and_predict_about_nothing(name: str) -> None:
    networks = [Network(SMALL[name], V) for _ in range(3)]
    for network, seed in zip(networks, (1, 1, 2), strict=True):
        initialise(network, seed)
    first, same, other = (export_weights(network) for network in networks)
    assert all(np.array_equal(first[key], same[key]) for key in first)
    assert not all(np.array_equal(first[key], other[key]) for key in first)
    ids = some_ids(20, 4, highest=V - 1)
    loss = torch.nn.functional.cross_entropy(
        networks[0](ids, networks[0].init_state(4))[0].flatten(0, 1), ids.roll(-1, 0).flatten()
    )
    assert abs(loss.item() - math.log(V)) < 0.5


def options(config: ModelConfig) -> dict[str, Any]:
    """A configuration as the options that give it, for a short run."""
    own = {name: value for name, value in Config(model=config).flat().items() if name in ModelConfig.__slots__}
    model = {name: value for name, value in own.items() if applies(name, own)}
    return {**model, "hidden": 16, "batch": 4, "bptt": 24, "threads": 1, "precision": "fp32"}


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "sums.txt"
    path.write_text(TEXT)
    return path


@each
def test_it_trains_goes_on_exactly_scores_and_writes(corpus: Path, name: str) -> None:
    given: dict[str, Any] = {**options(SMALL[name]), "steps": 60, "checkpoints": corpus.parent}
    whole = charlm.train(corpus, name="whole", **given)
    assert validation_loss(whole) < math.log(whole.vocabulary) - 0.1

    asked = iter(range(10**6))
    charlm.train(corpus, name="parts", **given, stop=lambda: "stop" if next(asked) == 30 else None)
    parts = charlm.train(corpus, name="parts", **given, resume=True)
    assert load_checkpoint(parts.run.last).state_sha256 == load_checkpoint(whole.run.last).state_sha256

    model = charlm.load(whole.checkpoint)
    assert model.score(model.validation_text()).loss == pytest.approx(validation_loss(whole), abs=1e-5)
    decoded = charlm.load(whole.checkpoint, engine="decoder").score(model.validation_text(), exact=True).loss
    assert decoded == pytest.approx(validation_loss(whole), abs=1e-3)
    assert len(model.sample(length=40, seed=1)) == 40


@each
def test_it_trains_on_records_too(corpus: Path, name: str) -> None:
    given: dict[str, Any] = {**options(SMALL[name]), "steps": 40, "checkpoints": corpus.parent, "records": "line"}
    trained = charlm.train(corpus, name="lines", **given)
    assert validation_loss(trained) < math.log(trained.vocabulary) - 0.1


@each
def test_what_a_network_knows_of_a_character_goes_with_it_to_another_vocabulary(corpus: Path, name: str) -> None:
    """After training on text of more characters, ids are others; what was learned of the old ones is found again."""
    given: dict[str, Any] = {**options(SMALL[name]), "steps": 2, "checkpoints": corpus.parent}
    donor = charlm.train(corpus, name="donor", **given)
    other = corpus.with_name("other.txt")
    other.write_text("!#$%&" * 30 + TEXT)
    adopted = charlm.train(other, name="other", init_from=donor.checkpoint, **{**given, "lr": 1e-9, "steps": 1})
    one, two = (charlm.load(trained.checkpoint) for trained in (donor, adopted))
    ids = [model.tokenizer.encode("3 and 4 make 7.\n").ids for model in (one, two)]
    assert ids[0].tolist() != ids[1].tolist()
    logits = []
    for model, own in zip((one, two), ids, strict=True):
        decoder = open_numpy(model.config.model, model.checkpoint.weights, "fp32", 1)
        logits.append(
            decoder.read(own[:, None], decoder.init_state(1))[0][:, 0][:, model.tokenizer.encode("37 amk.").ids]
        )
    np.testing.assert_allclose(logits[0], logits[1], atol=1e-4)


def test_a_run_of_another_architecture_is_not_resumed_as_this_one(corpus: Path) -> None:
    given: dict[str, Any] = {"steps": 2, "checkpoints": corpus.parent, "hidden": 8, "name": "run", "threads": 1}
    charlm.train(corpus, **given, model="window", context=3)
    with pytest.raises(ConfigError, match="--model"):
        charlm.train(corpus, **given, model="recurrent", resume=True)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"model": "window", "cell": "gru"}, "--cell applies only to --model recurrent"),
        ({"model": "window", "skip": True}, "--skip applies only to --model recurrent"),
        ({"model": "window", "forget_bias": 1.0}, "--forget-bias applies only to --model recurrent"),
        ({"context": 3}, "--context applies only to --model window or transformer"),
        ({"model": "window", "heads": 2}, "--heads applies only to --model transformer"),
        ({"radius": 0.5}, "--radius applies only to --model echo"),
        ({"model": "perceptron"}, "--model must be one of"),
    ],
)
def test_options_of_another_architecture_are_refused(given: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        check_train(given)


@pytest.mark.parametrize("model", list(MODELS))
def test_defaults_are_the_architectures_own(model: str) -> None:
    facts = Facts(characters=10**6, tokens=10**6, vocabulary=60, device="cpu", speed=1e11)
    config, reasons = choose({"model": model}, facts)
    for name, value in architecture_of(config.model).defaults.items():
        assert config.flat()[name] == value
        assert model in reasons[name]
    chosen, _ = choose({"model": model, "layers": 3}, facts)
    assert chosen.model.layers == 3


def test_a_command_that_repeats_a_run_names_what_its_architecture_would_choose_otherwise() -> None:
    facts = Facts(characters=10**6, tokens=10**6, vocabulary=60, device="cpu", speed=1e11)
    config, _ = choose({"model": "window", "layers": ModelConfig().layers}, facts)
    assert own_options(config)["layers"] == ModelConfig().layers


@each
def test_a_text_with_new_characters_is_learned_from_the_weights_of_another(corpus: Path, name: str) -> None:
    """What a warm start knows: with a vocabulary in another order it predicts old text like the donor."""
    given: dict[str, Any] = {**options(SMALL[name]), "steps": 30, "checkpoints": corpus.parent}
    donor = charlm.load(charlm.train(corpus, name="donor", **given).checkpoint)
    (corpus.parent / "more.txt").write_text("#!" + TEXT)
    tiny: dict[str, Any] = {
        "steps": 1,
        "lr": 1e-12,
        "weight_decay": 0.0,
        "threads": 1,
        "precision": "fp32",
        "bptt": 24,
        "batch": 4,
    }
    started = charlm.train(
        corpus.parent / "more.txt", name="more", init_from=donor.path, checkpoints=corpus.parent, **tiny
    )
    assert started.vocabulary == donor.tokenizer.size + 2
    known = charlm.load(started.run.last).score(TEXT[:400]).loss
    assert known == pytest.approx(donor.score(TEXT[:400]).loss, abs=0.3)  # two tokens more to choose among
