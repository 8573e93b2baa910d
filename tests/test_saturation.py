"""How often gates are open or shut: a hand count, and what the command shows of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from inspected import write_models
from oracles import random_network, sigmoid

from charlm.cli.main import run
from charlm.config import CELLS, ModelConfig
from charlm.errors import ConfigError
from charlm.inspection.saturation import saturation
from charlm.inspection.subject import open_network, reading
from charlm.models.cells import Cell
from charlm.models.network import export_weights, named_weights
from charlm.text.tokenizer import CharTokenizer

TEXT = "so it goes, and 2 and 2 are 4.\n" * 20
TOKENIZER = CharTokenizer.train(TEXT)


def test_shares_are_those_of_a_hand_count() -> None:
    """An LSTM step by step in torch; the start input is read, but not counted. Blocks of 256 are less than the text."""
    config = ModelConfig(cell="lstm", layers=1, hidden=6, embedding=4)
    network = random_network(config, TOKENIZER.size, seed=1, scale=1.5).double()
    read = reading(TEXT, TOKENIZER)
    w = {name.removeprefix("rnn.0."): weight.detach() for name, weight in named_weights(network).items()}
    h = c = torch.zeros(6, dtype=torch.float64)
    counted: dict[str, list[Any]] = {name: [] for name in "ifgo"}
    for token in read.inputs.tolist():
        x = w["embedding.weight"][token]
        a = (w["weight_ih"] @ x + w["bias_ih"] + w["weight_hh"] @ h + w["bias_hh"]).chunk(4)
        gates = {"i": sigmoid(a[0]), "f": sigmoid(a[1]), "g": torch.tanh(a[2]), "o": sigmoid(a[3])}
        c = gates["f"] * c + gates["i"] * gates["g"]
        h = gates["o"] * torch.tanh(c)
        for name, value in gates.items():
            counted[name].append(value.numpy())
    found = saturation(open_network(config, export_weights(network), np.float64), read)
    assert [(one.layer, one.gate) for one in found] == [(1, "i"), (1, "f"), (1, "g"), (1, "o")]
    for one in found:
        values = np.array(counted[one.gate][1:])
        low, high = (-0.8, 0.8) if one.gate == "g" else (0.1, 0.9)
        np.testing.assert_allclose(one.low, (values < low).mean(0), atol=1e-12)
        np.testing.assert_allclose(one.high, (values > high).mean(0), atol=1e-12)
        np.testing.assert_allclose(one.mean, values.mean(0), atol=1e-6)
        assert 0 < one.low.mean() + one.high.mean() < 1


@pytest.mark.parametrize(
    ("cell", "gates"), [("gru", "rzn"), ("rnn", "h"), ("leaky", "n"), ("mingru", "z"), ("lstm", "ifgo")]
)
def test_every_cell_has_gates_with_bounds(cell: str, gates: str) -> None:
    config = ModelConfig(cell=cell, layers=2, hidden=5, embedding=3)
    network = open_network(config, export_weights(random_network(config, TOKENIZER.size, seed=2)))
    found = saturation(network, reading(TEXT[:300], TOKENIZER))
    assert [(one.layer, one.gate) for one in found] == [(layer, gate) for layer in (1, 2) for gate in gates]
    for one in found:
        assert (one.low + one.high <= 1 + 1e-12).all()
        assert (one.mean >= one.range[0]).all()
        assert (one.mean <= one.range[1]).all()


@pytest.fixture
def unbounded() -> Iterator[None]:
    CELLS.add("plain-test", Cell(gates=("h",), values=lambda x, *_: (x,), update=lambda gates, *_: gates, layer="-:-"))
    yield
    CELLS.remove("plain-test")


@pytest.mark.usefixtures("unbounded")
def test_a_cell_without_bounds_is_refused() -> None:
    config = ModelConfig(cell="plain-test", layers=1, hidden=3, embedding=2)
    rng = np.random.default_rng(1)
    weights = {f"rnn.0.{name}": rng.normal(size=shape) for name, shape in CELLS["rnn"].shapes(2, 3).items()}
    weights |= {"embedding.weight": np.ones((TOKENIZER.size + 1, 2)), "head.weight": np.ones((TOKENIZER.size, 3))}
    weights |= {"head.bias": np.ones(TOKENIZER.size)}
    with pytest.raises(ConfigError, match="the cell plain-test has no gates whose range is known; nothing was"):
        saturation(open_network(config, weights), reading("so", TOKENIZER))


# the command


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_models(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_command_has_a_row_for_each_gate_and_a_picture(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    words = ["--text", "sums.txt", "--length", "200", "-o", "gates.svg"]
    assert run(["inspect", "gates", "lstm.safetensors", *words]) == 0
    rows = [line.split()[:2] for line in capsys.readouterr().out.splitlines()[1:-1]]
    assert rows == [[layer, gate] for layer in "12" for gate in "ifgo"]
    assert b"<svg" in (here / "gates.svg").read_bytes()


def test_a_backward_model_and_unknown_characters_are_read(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "odd.txt").write_text("2 times 2 is ☃.", encoding="utf-8")
    assert run(["inspect", "gates", "back.safetensors", "--text", "odd.txt", "--json"]) == 0
    shown = capsys.readouterr()
    record = json.loads(shown.out)
    assert "reads backward" in shown.err
    assert record["characters"] == 15
    assert [one["gate"] for one in record["gates"]] == ["r", "z", "n"] * 2


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("window.safetensors", "--text", "sums.txt"), 2, "has no recurrent cells to look into"),
        (("lstm.safetensors", "--text", "none.txt"), 74, "none.txt"),
        (("lstm.safetensors",), 3, "text"),
        (("lstm.safetensors", "--text", "sums.txt", "--length", "0"), 2, "--length must be an integer from 1"),
    ],
)
def test_bad_input_is_one_line(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...], code: int, said: str
) -> None:
    assert run(["inspect", "gates", *words]) == code
    shown = capsys.readouterr()
    assert shown.out == ""
    assert said in shown.err
    assert shown.err.count("\n") == 1
