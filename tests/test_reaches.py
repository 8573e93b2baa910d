"""How far gradients reach back: against autograd over a loop, and against the closed form of a linear network."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from inspected import write_models
from numpy.typing import NDArray
from oracles import input_vector, pytorch_step, random_network
from processes import TEXT

from charlm.cli.main import run
from charlm.config import CELLS, ModelConfig
from charlm.errors import CharlmError, DataError
from charlm.inspection.fresh import XAVIER, Start, fresh_network, plain_starts, random_text, varied_starts
from charlm.inspection.gradients import Reach, log_norms, places_of, reaches
from charlm.inspection.subject import RecurrentNetwork, open_network, reading
from charlm.models.cells import Cell
from charlm.models.network import export_weights, named_weights
from charlm.models.sizing import parameters_of
from charlm.text.tokenizer import CharTokenizer

TOKENIZER = CharTokenizer.train("abcdef")
LINE = "abcfedbacfdeabcdeffedcbaabdcbefabcdef"


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
@pytest.mark.parametrize(("layers", "embedding", "skip"), [(1, 4, False), (2, 4, True), (2, 0, False)])
def test_norms_are_those_of_autograd_over_the_textbooks_loop(
    cell: str, layers: int, embedding: int, skip: bool
) -> None:
    """Each state of the loop is asked for its own gradient, all at once, with the whole graph in memory."""
    config = ModelConfig(cell=cell, layers=layers, hidden=5, embedding=embedding, skip=skip)
    network = random_network(config, TOKENIZER.size, seed=layers).double()
    read, distance = reading(LINE, TOKENIZER), 20
    places = places_of(read, TOKENIZER.size, distance, 3).tolist()
    found = log_norms(open_network(config, export_weights(network), np.float64), read, distance=distance, places=3)
    weights = {name: weight.detach() for name, weight in named_weights(network).items()}
    assert len(places) == 3
    for lane, place in enumerate(places):
        begin = place - places[-1]  # each place has as many inputs before it as the first of the text
        seen = looped(cell, config, weights, read.inputs[begin : place + 1].tolist(), int(read.targets[place]))
        for k in range(distance + 1):
            for layer, parts in enumerate(seen[-1 - k]):
                for number, part in enumerate(parts):
                    assert part.grad is not None
                    assert found[layer, number, k, lane] == pytest.approx(math.log(part.grad.norm()), abs=1e-9)


def looped(
    cell: str, config: ModelConfig, weights: dict[str, torch.Tensor], ids: list[int], target: int
) -> list[list[tuple[torch.Tensor, ...]]]:
    """The states after each of these ids, with the gradients of the loss behind the last."""
    zeros = (torch.zeros(1, config.hidden, dtype=torch.float64).requires_grad_(),) * len(CELLS[cell].states)
    state, seen = [zeros] * config.layers, []
    for token in ids:
        x, following = input_vector(weights, token)[None], []
        for layer, before in enumerate(state):
            after = pytorch_step(cell, x, before, weights, layer)
            for part in after:
                part.retain_grad()
            following.append(after)
            x = x + after[0] if config.skip and layer else after[0]
        state = following
        seen.append(state)
    logits = x @ weights["head.weight"].T + weights["head.bias"]
    torch.nn.functional.cross_entropy(logits, torch.tensor([target])).backward()  # type: ignore[no-untyped-call]
    return seen


def linear_values(x: Any, product: Any, states: Any, others: Any) -> Any:  # noqa: ARG001
    return (x + product,)


def linear_update(gates: Any, states: Any, others: Any) -> Any:  # noqa: ARG001
    return gates


def where_values(x: Any, product: Any, states: Any, others: Any) -> Any:  # noqa: ARG001
    return (np.where(x > 0, x, product),)


@pytest.fixture
def linear() -> Iterator[None]:
    CELLS.add("linear-test", Cell(gates=("h",), values=linear_values, update=linear_update, layer=torch.nn.RNN))
    CELLS.add("where-test", Cell(gates=("h",), values=where_values, update=linear_update, layer=torch.nn.RNN))
    yield
    CELLS.remove("linear-test")
    CELLS.remove("where-test")


def linear_network(
    recurrent: NDArray[np.float64], head: NDArray[np.float64], *, inputs: float = 1.0
) -> RecurrentNetwork:
    hidden, rng = len(recurrent), np.random.default_rng(3)
    config = ModelConfig(cell="linear-test", layers=1, hidden=hidden, embedding=3)
    weights = {
        "embedding.weight": inputs * rng.normal(size=(TOKENIZER.size + 1, 3)),
        "rnn.0.weight_ih": rng.normal(size=(hidden, 3)),
        "rnn.0.weight_hh": recurrent,
        "rnn.0.bias_ih": np.zeros(hidden),
        "rnn.0.bias_hh": np.zeros(hidden),
        "head.weight": head,
        "head.bias": np.zeros(TOKENIZER.size),
    }
    return open_network(config, weights, np.float64)


@pytest.mark.usefixtures("linear")
def test_a_linear_network_has_powers_of_its_matrix() -> None:
    """dJ/dh_{t-k} = (W^T)^k dJ/dh_t, and dJ/dh_t = W_y^T (p - y)."""
    rng = np.random.default_rng(1)
    W, head = 0.4 * rng.normal(size=(4, 4)), rng.normal(size=(TOKENIZER.size, 4))
    network, read = linear_network(W, head), reading(LINE, TOKENIZER)
    found = log_norms(network, read, distance=30, places=1)[0, 0, :, 0]
    h = np.zeros(4)
    for token in read.inputs[:-1]:
        h = network.rows[token] @ network.layers[0].w_ih + W @ h
    p = np.exp(head @ h) / np.exp(head @ h).sum()
    gradient = head.T @ (p - np.eye(TOKENIZER.size)[read.targets[-2]])
    for k in range(31):
        assert found[k] == pytest.approx(math.log(np.linalg.norm(np.linalg.matrix_power(W.T, k) @ gradient)), abs=1e-9)


@pytest.mark.usefixtures("linear")
@pytest.mark.parametrize("value", [0.97, 0.1, 1.05])
def test_along_an_eigenvector_the_norm_is_a_power_of_its_value_however_small(value: float) -> None:
    """0.1^400 is no float64; its logarithm is right. Half-life and factor are ln 2 / -ln value, and the value."""
    rng = np.random.default_rng(2)
    vectors = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    W = vectors @ np.diag([value, 0.5 * value, -0.2 * value]) @ vectors.T
    network = linear_network(W, np.outer(rng.normal(size=TOKENIZER.size), vectors[:, 0]), inputs=0)
    (reach,) = reaches(network, reading(LINE * 20, TOKENIZER), distance=400, places=5)
    np.testing.assert_allclose(np.diff(reach.log_norms), math.log(value), rtol=1e-6, atol=1e-8)
    assert reach.factor == pytest.approx(value, rel=1e-6)
    expected = None if value > 1 else pytest.approx(math.log(2) / -math.log(value), rel=1e-5)
    assert reach.half_life == expected
    assert reach.relative(3) == pytest.approx(value**3)


def test_a_half_life_lies_between_two_distances() -> None:
    assert Reach(1, "h", np.log([8.0, 8.0, 2.0, 1.0])).half_life == pytest.approx(1.5)
    assert Reach(1, "h", np.log([8.0, 7.0, 5.0])).half_life is None
    assert Reach(1, "h", np.array([0.0, -math.inf, -math.inf])).half_life == 1.0
    assert Reach(1, "h", np.array([0.0, -math.inf, -math.inf])).factor is None


def test_fresh_networks_are_of_one_size_and_begin_as_they_say() -> None:
    starts = varied_starts(ModelConfig(layers=1), 20_000, 20)
    assert [start.config.cell for start in starts] == ["rnn", "rnn", "gru", "gru", "lstm", "lstm", "lstm", "lstm"]
    assert len({start.name for start in starts}) == len(starts)
    for start in starts:
        assert parameters_of(start.config, 20) == pytest.approx(20_000, rel=0.1)
        network = fresh_network(start, 20, seed=1)
        H, layer = start.config.hidden, network.layers[0]
        for block in np.split(layer.w_hh, layer.w_hh.shape[1] // H, axis=1):
            gram = block.T @ block
            if start.recurrent == XAVIER:
                assert 0.95 * math.sqrt(3 / H) < np.abs(block).max() <= math.sqrt(3 / H)
                assert np.abs(gram - np.eye(H)).max() > 0.1
            else:
                np.testing.assert_allclose(gram, np.eye(H), atol=1e-5)
        if start.config.cell == "lstm":
            assert (layer.bias[H : 2 * H] == start.config.forget_bias).all()


@pytest.mark.parametrize(
    ("cell", "bias", "expected"),
    [("gru", 1.0, 0.75), ("lstm", 0.0, 0.75), ("lstm", 1.0, 1 / (1 + math.exp(-1)) + 0.25)],
)
def test_small_weights_forget_as_fast_as_their_gates_say(cell: str, bias: float, expected: float) -> None:
    """Near zero states a GRU has h' = h/2 + U h/4, an LSTM c' = f c + U c/4; all eigenvalues of U have modulus 1."""
    (start,) = (one for one in plain_starts(ModelConfig(layers=1), 20_000, 65) if one.config.cell == cell)
    start = Start(ModelConfig(cell=cell, layers=1, hidden=start.config.hidden, forget_bias=bias))
    tokenizer = CharTokenizer.train(random_text(5000, 1))
    read = reading(random_text(2000, 1), tokenizer)
    for reach in reaches(fresh_network(start, tokenizer.size, 1), read, distance=80, places=4):
        assert reach.factor == pytest.approx(expected, rel=0.02)


def test_what_has_no_gradient_is_refused() -> None:
    config = ModelConfig(cell="rnn", layers=1, hidden=3, embedding=2)
    network = open_network(config, export_weights(random_network(config, TOKENIZER.size, seed=1)), np.float64)
    with pytest.raises(DataError, match=r"text of 6 tokens is too short for a distance of 10; .* --distance 5"):
        reaches(network, reading("abcdef", TOKENIZER), distance=10, places=1)
    assert len(reaches(network, reading("abcdef", TOKENIZER), distance=5, places=9)[0].log_norms) == 6
    with pytest.raises(DataError, match="too short"):
        reaches(network, reading("☃" * 30, TOKENIZER), distance=3, places=1)  # nothing known to predict


@pytest.mark.usefixtures("linear")
def test_a_cell_whose_step_has_no_counterpart_is_refused() -> None:
    config = ModelConfig(cell="where-test", layers=1, hidden=3, embedding=2)
    rng = np.random.default_rng(1)
    shapes = CELLS["rnn"].shapes(2, 3)
    weights = {f"rnn.0.{name}": rng.normal(size=shape) for name, shape in shapes.items()}
    weights |= {"embedding.weight": rng.normal(size=(7, 2)), "head.weight": np.ones((6, 3)), "head.bias": np.ones(6)}
    with pytest.raises(CharlmError, match=r"gradient of the cell where-test cannot be computed: .* numpy\.where"):
        reaches(open_network(config, weights, np.float64), reading(LINE, TOKENIZER), distance=3, places=1)


# the command


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_models(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


SHORT = ("--distance", "20", "--places", "2", "--parameters", "2000")


def test_the_command_shows_runs_beside_fresh_networks(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    assert (
        run(
            [
                "inspect",
                "gradients",
                "lstm.safetensors",
                "back.safetensors",
                "--text",
                "sums.txt",
                *SHORT,
                "-o",
                "reach.png",
            ]
        )
        == 0
    )
    shown = capsys.readouterr()
    assert (here / "reach.png").read_bytes().startswith(b"\x89PNG")
    rows = [line.split("  ")[0] for line in shown.out.splitlines()[1:-1]]
    assert [rows.count(name) for name in ("lstm.safetensors", "back.safetensors")] == [
        4,
        2,
    ]  # h and c of two layers; h of two
    assert "half-life" in shown.out
    assert "reads backward" in shown.err
    assert sum(row.startswith("fresh") for row in rows) == 2 + 2 + 4


@pytest.mark.usefixtures("here")
def test_its_json_has_every_norm(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["inspect", "gradients", *SHORT, "--text", "sums.txt", "--json", "-q"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["schema"], record["distance"], len(record["networks"])) == ("charlm.inspect/1", 20, 8)
    for network in record["networks"]:
        assert all(len(reach["log10_norms"]) == 21 for reach in network["reaches"])


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("window.safetensors",), 2, "has no recurrent cells to look into"),
        (("names.safetensors",), 2, "reads records (line)"),
        (("lstm.safetensors", "--text", "short.txt"), 3, "too short for a distance of 1,000"),
        (("lstm.safetensors", "--distance", "1001"), 2, "--distance must be an integer from 1 to 1000"),
        (("lstm.safetensors", "-o", "reach.txt"), 2, "--output must end in .png, .svg or .pdf"),
        (("nothing",), 4, "nothing"),
        (("lstm.safetensors", "./lstm.safetensors"), 2, "lstm.safetensors is given twice"),
        (("--text", "one.txt", "-q"), 3, "a text of one character has no gradient"),
    ],
)
def test_bad_input_is_one_line(
    here: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], code: int, said: str
) -> None:
    (here / "short.txt").write_text(TEXT[:200])
    (here / "one.txt").write_text("a" * 400)
    assert run(["inspect", "gradients", *words]) == code
    shown = capsys.readouterr()
    assert shown.out == ""
    assert said in shown.err
    assert shown.err.count("\n") == 1
    assert not (here / "reach.txt").exists()
