"""Cells that follow a feature: a planted one is found, noise is not, and what holding one costs is what it costs."""

from __future__ import annotations

import base64
import io
import json
import math
import re
from html import unescape
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from inspected import write_models
from oracles import networks_by_tokenizer, random_network, sigmoid, synthetic_text
from processes import TEXT

from charlm.cli.main import run
from charlm.config import ModelConfig
from charlm.errors import ConfigError, DataError
from charlm.evaluation.score import text_nats
from charlm.inspection.cells import (
    Activity,
    Finding,
    Unit,
    auc,
    chance,
    correlations,
    find_cells,
    lane_nats,
    unit_of,
)
from charlm.inspection.features import FEATURES, feature
from charlm.inspection.subject import RecurrentNetwork, open_network, reading
from charlm.models.network import Network, export_weights, named_weights
from charlm.report.cells import coloured
from charlm.report.console import Console
from charlm.report.page.cells_page import cells_page
from charlm.storage.checkpoint import load_checkpoint
from charlm.text.tokenizer import CharTokenizer

# Features


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("quotation", 'a "b"', [0, 0, 1, 1, 0]),
        ("quotation", "“a” «b»", [1, 1, 0, 0, 1, 1, 0]),
        ("quotation", '"a\n\nb', [1, 1, 1, 0, 0]),  # a blank line ends what was forgotten
        ("quotation", '"a\n \nb', [1, 1, 1, 1, 0, 0]),
        ("brackets", "f((x)]", [0, 1, 2, 2, 1, 0]),
        ("brackets", ")(", [0, 1]),
        ("line", "ab\nc", [1, 2, 0, 1]),
        ("indentation", "  a b\n\tc", [1, 2, 2, 2, 2, 0, 1, 1]),
        ("word", "to 2be!", [1, 2, 0, 1, 2, 3, 0]),
        ("word length", "to 2be!", [2, 2, 0, 3, 3, 3, 0]),
    ],
)
def test_a_feature_holds_once_its_character_has_been_read(name: str, text: str, expected: list[int]) -> None:
    assert feature(name, text).tolist() == expected


def test_every_feature_has_a_number_for_each_character() -> None:
    for name in FEATURES:
        assert len(feature(name, synthetic_text(500, seed=1))) == 500
        assert len(feature(name, "")) == 0


# Statistics


def test_correlation_is_pearsons() -> None:
    rng = np.random.default_rng(1)
    activity, values = rng.normal(size=(50, 3)), rng.normal(size=50)
    expected = [np.corrcoef(column, values)[0, 1] for column in activity.T]
    np.testing.assert_allclose(correlations(activity, values), expected, atol=1e-12)
    assert correlations(np.full((50, 1), 0.3, np.float32), values).tolist() == [0]


def test_auc_counts_pairs() -> None:
    rng = np.random.default_rng(2)
    values, positive = rng.integers(0, 6, 60).astype(float), rng.random(60) < 0.4
    pairs = [(one > other) + 0.5 * (one == other) for one in values[positive] for other in values[~positive]]
    assert auc(values, positive) == pytest.approx(np.mean(pairs))


def test_all_shifts_at_once_are_the_shifts_one_by_one() -> None:
    rng = np.random.default_rng(3)
    activity, values = rng.normal(size=(41, 70)), rng.normal(size=41)  # more units than one batch
    best = [np.abs(correlations(activity, np.roll(values, shift))).max() for shift in range(41)]
    for reached in (0.2, 0.35, 0.5, best[0]):
        expected = (1 + sum(one >= reached for one in best[1:])) / 41
        assert chance(activity, values, reached) == pytest.approx(expected)
    assert chance(activity, values, -0.9) == 1


def test_noise_is_rarely_below_a_level() -> None:
    """Slow noise against a slow feature, which an ordinary test of a correlation takes for a find every time."""
    rng, kernel = np.random.default_rng(4), np.ones(30)
    p = []
    for _ in range(60):
        noise = np.stack([np.convolve(rng.normal(size=829), kernel, "valid") for _ in range(9)], axis=1)
        activity, values = noise[:, :8], noise[:, 8]
        p.append(chance(activity, values, float(np.abs(correlations(activity, values)).max())))
    assert np.mean(np.array(p) <= 0.1) < 0.2
    assert 0.35 < np.median(p) < 0.65


# Cells

QUOTED = CharTokenizer.train("abc“” \n")


def latch(other: int) -> RecurrentNetwork:
    """Tanh units: the first is 1 inside quotation marks and -1 outside, the others are noise of the present character.

    The output layer prefers a inside and b outside, by the first unit alone.
    """
    V, H = QUOTED.size, 1 + other
    rng = np.random.default_rng(5)
    w_ih, w_hh, head = rng.normal(size=(H, V)), np.zeros((H, H)), np.zeros((V, H))
    opening, closing, a, b = (int(QUOTED.encode(c).ids[0]) for c in "“”ab")
    w_ih[0], w_hh[0, 0] = 0, 4
    w_ih[0, opening], w_ih[0, closing] = 20, -20
    head[a, 0], head[b, 0] = 1.5, -1.5
    config = ModelConfig(cell="rnn", layers=1, hidden=H, embedding=0)
    layer = {"weight_ih": w_ih, "weight_hh": w_hh, "bias_ih": np.zeros(H), "bias_hh": np.zeros(H)}
    weights = {f"rnn.0.{name}": array for name, array in layer.items()}
    return open_network(config, {**weights, "head.weight": head, "head.bias": np.zeros(V)}, np.float64)


def quoted_text(length: int) -> str:
    rng = np.random.default_rng(6)
    parts: list[str] = []
    while sum(map(len, parts)) < length:
        inside, outside = ("".join(rng.choice(list(letters), rng.integers(3, 25))) for letters in ("aaac", "bbbc"))
        parts.append(f"{outside}“{inside}”")
    return "".join(parts)[:length]


def test_a_planted_cell_is_found_and_its_cost_is_that_of_the_network_without_it() -> None:
    network, text = latch(6), quoted_text(1600)
    activity = Activity(network, reading(text, QUOTED))
    findings, costs = find_cells(activity, activity.units)
    quotation = next(one for one in findings if one.feature == "quotation")
    assert (quotation.unit, quotation.found) == (Unit(1, 1), True)
    assert quotation.correlation == pytest.approx(1, abs=0.01)
    assert quotation.auc == pytest.approx(1, abs=0.01)
    assert quotation.p == 1 / 800
    assert quotation.character is not None
    assert 0.5 < quotation.character < 0.95  # a and b give it away, c does not

    inside = np.array([0, *feature("quotation", text)])[:-1]  # before each character
    h = np.tanh(4 * np.where(inside > 0, 1.0, -1.0))
    begun = text.index("“") + 1  # until then the unit is 0, in the first half
    mean = activity.of([Unit(1, 1)])[:800, 0].astype(np.float64).mean()
    assert begun < 800

    def bits(state: Any) -> float:
        logits = network.head[0] * state[:, None]
        ids = QUOTED.encode(text).ids[800:]
        return float((np.log2(np.exp(logits).sum(1)) - logits[np.arange(800), ids] / math.log(2)).mean())

    expected = bits(np.full(800, mean)) - bits(h[800:])
    assert expected > 0.3
    assert costs[Unit(1, 1)] == pytest.approx(expected, abs=2e-3)


def test_a_cell_that_is_no_better_than_luck_is_none() -> None:
    """Letters are drawn alike inside and outside, and to all units but the first a mark is one of them."""
    rng = np.random.default_rng(7)
    text = "".join(rng.choice(list("abc")) if letter in "abc" else letter for letter in quoted_text(1600))
    network = latch(6)
    opening, closing, c = (int(QUOTED.encode(character).ids[0]) for character in "“”c")
    network.layers[0].w_ih[opening, 1:] = network.layers[0].w_ih[closing, 1:] = network.layers[0].w_ih[c, 1:]
    activity = Activity(network, reading(text, QUOTED))
    finding = activity.find("quotation", activity.units[1:])
    assert finding.unit in activity.units[1:]
    assert not finding.found
    assert finding.p is not None
    assert finding.p > 0.05
    planted = activity.find("quotation", activity.units)
    assert planted.found
    assert planted.unit == Unit(1, 1)


def test_a_feature_that_does_not_vary_has_no_cell() -> None:
    activity = Activity(latch(2), reading("abc" * 300, QUOTED))
    assert activity.find("quotation", activity.units) == Finding("quotation")
    assert activity.find("brackets", activity.units) == Finding("brackets")


@pytest.mark.parametrize("cell", ["lstm", "gru", "leaky", "mingru"])
def test_activities_are_the_states_in_reading_order(cell: str) -> None:
    tokenizer = CharTokenizer.train(TEXT)
    config = ModelConfig(cell=cell, layers=2, hidden=4, embedding=3)
    network = open_network(config, export_weights(random_network(config, tokenizer.size, seed=1)))
    forward = Activity(network, reading(TEXT[:600], tokenizer))
    turned = Activity(network, reading(TEXT[:600][::-1], tokenizer, backward=True))
    assert [str(unit) for unit in forward.units] == ["1:1", "1:2", "1:3", "1:4", "2:1", "2:2", "2:3", "2:4"]
    np.testing.assert_array_equal(forward.of([Unit(2, 3)]), turned.of([Unit(2, 3)])[::-1])
    assert unit_of(network, "2:3", "m") == Unit(2, 3)
    for wrong in ("3:1", "0:1", "1:5", "1", "1:x", "-1:1", ""):
        with pytest.raises(
            ConfigError, match=rf"there is no unit {wrong}: m has layers 1 to 2 of units 1 to 4; nothing"
        ):
            unit_of(network, wrong, "m")


@pytest.mark.parametrize("kind", ["char", "byte", "sentencepiece"])
def test_bits_are_those_of_the_score_with_every_tokenizer(kind: str) -> None:
    text = synthetic_text(900, seed=2)
    network, tokenizer = networks_by_tokenizer(text + synthetic_text(3000, seed=3), seed=2)[kind]
    read = reading(text, tokenizer)
    opened = open_network(network.config, export_weights(network))
    nats = text_nats(network, tokenizer, tokenizer.encode(text), exact=True) - tokenizer.known_nats
    everything = lane_nats(opened, read, [], 1, np.ones(len(read.inputs), dtype=np.bool_))
    assert everything.tolist() == pytest.approx([nats.sum(dtype=np.float64)], rel=1e-5)

    activity, half = Activity(opened, read), 450
    assert activity.of(activity.units).shape == (900, 12)
    (cost,) = activity.costs([Unit(1, 4)]).values()
    tokens = np.unique(read.token_of[half:]) - 1  # without the start input
    mean = float(activity.of([Unit(1, 4)])[:half].mean())
    clamped = clamped_nats(network, read.inputs, 3, mean)
    assert cost == pytest.approx((clamped[tokens] - nats[tokens]).sum() / math.log(2) / half, abs=2e-4)


def clamped_nats(network: Network, inputs: Any, unit: int, value: float) -> Any:
    """-ln P of each token of an LSTM of one layer, of which a unit of c is held, token by token in torch."""
    w = {name.removeprefix("rnn.0."): weight.detach().double() for name, weight in named_weights(network).items()}
    h = c = torch.zeros(network.config.hidden, dtype=torch.float64)
    found = []
    for token, following in pairwise(inputs.tolist()):
        x = w["embedding.weight"][token]
        i, f, g, o = (w["weight_ih"] @ x + w["bias_ih"] + w["weight_hh"] @ h + w["bias_hh"]).chunk(4)
        c = sigmoid(f) * c + sigmoid(i) * torch.tanh(g)
        c[unit] = value
        h = sigmoid(o) * torch.tanh(c)
        found.append(-torch.log_softmax(w["head.weight"] @ h + w["head.bias"], 0)[following].item())
    return np.array(found)


def test_a_short_text_is_refused() -> None:
    with pytest.raises(DataError, match="a text of 3 characters is too short to find cells; nothing was"):
        Activity(latch(1), reading("abc", QUOTED))


# the command


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_models(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


WORDS = ("--text", "sums.txt", "--length", "800")


@pytest.mark.usefixtures("here")
def test_the_command_names_a_cell_or_none_for_each_feature(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["inspect", "cells", "lstm.safetensors", *WORDS]) == 0
    shown = capsys.readouterr().out
    for one in FEATURES.values():
        assert re.search(rf"^{one.about} +(\d:\d|none \(best \d:\d\)|does not vary here) ", shown, re.MULTILINE)


def test_a_page_has_the_text_escaped_and_whole_and_what_the_unit_does(here: Path) -> None:
    (here / "odd.txt").write_text('2 <b>times</b> "2" & \x1b3.\n' * 30, encoding="utf-8")
    words = ["--text", "odd.txt", "--unit", "2:5"]
    assert run(["inspect", "cells", "lstm.safetensors", *words, "-o", "cells.html", "-q"]) == 0
    page = (here / "cells.html").read_text(encoding="utf-8")
    lines = re.findall(r'<div class="line"[^>]*>(.*?)</div>', page, re.DOTALL)
    plain = "".join(unescape(re.sub(r"</?b\b[^>]*>", "", line)) for line in lines)
    text = (here / "odd.txt").read_text(encoding="utf-8")
    assert plain == text.replace("\x1b", "␛").replace("\n", "↵")
    assert not re.search("\x1b|<b>times", page)
    assert "default-src 'none'" in page
    assert not re.search(r"https?:|innerHTML|insertAdjacent", page)
    data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page)[1])  # type: ignore[index]
    assert data["state"] == "c"
    (cell,) = data["cells"]
    assert (cell["layer"], cell["unit"]) == (2, 5)
    model = load_checkpoint(here / "lstm.safetensors")
    activity = Activity(open_network(model.config.model, model.weights), reading(text, model.open_tokenizer()))
    shown = np.frombuffer(base64.b64decode(cell["packed"]), "<f4")
    np.testing.assert_array_equal(shown, activity.of([Unit(2, 5)])[:, 0])


def test_a_page_without_a_cell_says_so() -> None:
    findings = [Finding("line")]
    page = cells_page("m<i>", "abc", "h", findings, {}, {})
    assert "No cell follows a feature of this text." in page
    assert "does not vary here" in page
    assert "m&lt;i&gt;" in page
    assert "m<i>" not in page
    shown = cells_page("m", "a\nb\x03c", "h", findings, {}, {Unit(1, 1): np.zeros(5)})
    assert re.findall(r'data-unit="(\d+)"', shown) == ["0", "2", "4"]


def test_a_terminal_shows_the_text_in_colours_and_a_pipe_does_not() -> None:
    text, values = "ab[red]\x1b\ncd", np.array([-1.0, -1.0, 0, 0, 0, 0, 0, 0, 1.0, 1.0, 1.0])
    for terminal in (True, False):
        written = io.StringIO()
        out = Console(file=written, force_terminal=terminal, color_system="truecolor" if terminal else None, width=80)
        coloured(out, "h of unit 1:1", text, values, 10)
        shown = written.getvalue()
        assert bool(shown) == terminal
    _, line, rest = (written_line for written_line in terminal_lines(text, values))
    plain = re.sub(r"\x1b\[[0-9;]*m", "", line)
    assert plain == "ab[red]␛↵"
    assert "38;2;255;255;255;48;2;0;95;175mab" in line  # the lowest level
    assert re.sub(r"\x1b\[[0-9;]*m", "", rest) == "c"
    assert "48;2;175;0;0mc" in rest


def terminal_lines(text: str, values: Any) -> list[str]:
    """The legend and the first two lines of the text, of which ten characters are shown."""
    written = io.StringIO()
    out = Console(file=written, force_terminal=True, color_system="truecolor", width=80)
    coloured(out, "", text, values, 10)
    return written.getvalue().splitlines()[:3]


@pytest.mark.usefixtures("here")
def test_json_has_the_activity_of_a_unit(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["inspect", "cells", "back.safetensors", *WORDS, "--unit", "1:2", "--json"]) == 0
    shown = capsys.readouterr()
    record = json.loads(shown.out)
    assert "reads backward" in shown.err
    assert (record["state"], record["units"], len(record["activity"])) == ("h", 1, 800)
    assert {one["unit"] for one in record["costs"]} == {"1:2"}
    assert {one["unit"] for one in record["features"]} == {"1:2", None}


@pytest.mark.usefixtures("here")
def test_records_are_read_each_by_itself(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["inspect", "cells", "names.safetensors", *WORDS, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["units"] == 16


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("window.safetensors", *WORDS), 2, "has no recurrent cells to look into"),
        (("lstm.safetensors", *WORDS, "--unit", "3:1"), 2, "there is no unit 3:1"),
        (("lstm.safetensors", "--text", "sums.txt", "--length", "100"), 3, "too short to find cells"),
        (("lstm.safetensors", *WORDS, "-o", "cells.png"), 2, "--output must end in .html"),
    ],
)
def test_bad_input_is_one_line(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...], code: int, said: str
) -> None:
    assert run(["inspect", "cells", *words]) == code
    shown = capsys.readouterr()
    assert shown.out == ""
    assert said in shown.err
    assert shown.err.count("\n") == 1
