"""Bits by context against texts read one by one, n-gram models on the whole text, and the command."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from oracles import random_network

import charlm
from charlm.cli.main import run
from charlm.config import ModelConfig
from charlm.errors import ConfigError, DataError
from charlm.evaluation.bootstrap import resampled_means
from charlm.evaluation.score import add_escape
from charlm.inspection.memory import (
    HIGHEST_ORDER,
    Memory,
    Row,
    context_nats,
    memory,
    ngram_nats,
    spread_places,
)
from charlm.models.architecture import architecture_of
from charlm.models.ngram import Counts, KneserNey
from charlm.report.memory import describe_memory
from charlm.text.tokenizer import CharTokenizer

TOKENIZER = CharTokenizer.train("abcdefg" * 5 + "h")  # h once, so that there is an escape
V = TOKENIZER.size


def some_ids(count: int, *, seed: int = 1, highest: int = V) -> NDArray[np.int32]:
    return np.random.default_rng(seed).integers(highest, size=count).astype(np.int32)


@pytest.mark.parametrize("context", [1, 2, 7, 40])
def test_each_place_is_read_from_the_start_input_and_its_context_alone(context: int) -> None:
    network, ids = random_network(ModelConfig(layers=2, hidden=6, embedding=3), V, seed=2).double(), some_ids(700)
    ids[[100, 300]] = TOKENIZER.unseen
    places = spread_places(700, 600, 40)  # more than a block of lanes
    found = context_nats(network, TOKENIZER, ids, places, context)
    for row in range(0, 600, 29):
        place = int(places[row])
        text = torch.tensor([[V], *([int(i)] for i in ids[place - context : place])])
        with torch.no_grad():
            p = torch.softmax(network(text, network.init_state(1))[0][-1, 0], dim=0)
        expected = -math.log((1 - TOKENIZER.escape) * float(p[int(ids[place])]))
        assert found[row] == pytest.approx(expected, rel=1e-5)  # cross-entropy is computed in fp32
    unseen = context_nats(network, TOKENIZER, ids, np.array([100, 300]), context)
    assert unseen.tolist() == pytest.approx([TOKENIZER.unseen_nats] * 2)


@pytest.mark.parametrize("model", ["window", "dilated", "transformer"])
def test_contexts_beyond_the_receptive_field_change_nothing(model: str) -> None:
    config = ModelConfig(model=model, layers=1 if model != "dilated" else 3, hidden=6, embedding=3, context=6, heads=1)
    network, ids = random_network(config, V, seed=3).double(), some_ids(400)
    reach = architecture_of(config).receptive_field(config)
    assert reach
    places = spread_places(400, 50, 60)
    within, exact, beyond = (
        context_nats(network, TOKENIZER, ids, places, context) for context in (reach - 1, reach, 60)
    )
    np.testing.assert_allclose(exact, beyond, rtol=1e-6)
    assert np.abs(within - beyond).max() > 1e-4  # the start input still is in it


def test_ngram_models_give_each_place_what_they_give_it_in_the_whole_text() -> None:
    training, ids = some_ids(3000, seed=4, highest=5), some_ids(500, seed=5, highest=6)
    places = spread_places(500, 90, HIGHEST_ORDER)
    model = KneserNey(Counts(training, V, HIGHEST_ORDER), HIGHEST_ORDER)
    whole = [add_escape(nats, ids, TOKENIZER)[places] for nats in model.nats_by_order(ids)]
    found = ngram_nats(training, TOKENIZER, ids, places)
    assert len(found) == HIGHEST_ORDER
    np.testing.assert_allclose(found, whole, rtol=1e-12)


def test_rows_have_bits_and_paired_intervals() -> None:
    network, ids = random_network(ModelConfig(layers=1, hidden=6, embedding=3), V, seed=6), some_ids(500)
    places = spread_places(500, 200, 20)
    found = memory(network, TOKENIZER, ids, places, contexts=(20, 3), training=some_ids(900, seed=7))
    assert [row.context for row in found.rows] == [3, 20]
    series = [context_nats(network, TOKENIZER, ids, places, context) / math.log(2) for context in (3, 20)]
    assert [row.bits for row in found.rows] == pytest.approx([one.mean() for one in series])
    gain, edges = found.gain(found.rows[0])
    assert gain == pytest.approx(series[0].mean() - series[1].mean())
    means = resampled_means(series[0] - series[1])
    assert means is not None
    assert edges == pytest.approx(np.quantile(means, [0.025, 0.975]).tolist())
    assert found.gain(found.rows[1])[0] == 0
    assert found.ngram(3) is found.ngrams[3]
    assert found.ngram(20) is None


def made_up(bits: list[float], receptive_field: int | None = None) -> Memory:
    """Contexts 1, 10, 100, ...; of a hundred resampled texts ten gain 0.02 less from every context but the last."""
    rows = []
    for number, value in enumerate(bits):
        means = np.full(100, value)
        if number < len(bits) - 1:
            means[:10] -= 0.02
        rows.append(Row(10**number, value, means))
    return Memory(np.arange(100), tuple(rows), (), receptive_field)


def test_the_reach_is_the_context_from_which_no_longer_one_gains_a_hundredth() -> None:
    found = made_up([3.0, 2.0, 1.5, 1.495])
    assert (found.reach, found.is_beyond) == (100, False)
    assert "looks back 100 characters" in next(describe_memory(found, "character"))
    late = made_up([3.0, 1.505, 1.51, 1.49])  # 10 gain nothing over 100, but 1,000 do
    assert (late.reach, late.is_beyond) == (1000, True)
    assert late.reach_interval == (10, 1000)
    assert "more than 100 characters" in next(describe_memory(late, "character"))
    assert any(
        "receptive field is 16 characters" in line for line in describe_memory(made_up([2.0, 1.0], 16), "character")
    )


def test_a_text_that_is_too_short_is_refused() -> None:
    assert spread_places(1001, 500, 1000).tolist() == [1000]
    with pytest.raises(DataError, match=r"context of 1,000 needs a text of more than 1,000, and this one has 1,000"):
        spread_places(1000, 500, 1000)


def test_a_trained_model_gains_from_context_and_its_corpus_gives_ngram_models(
    small_model: charlm.LanguageModel,
) -> None:
    text = small_model.validation_text()
    found = small_model.memory(text, contexts=[1, 5, 40], positions=300)
    assert found.rows[0].bits > found.rows[1].bits + 0.2
    assert not found.ngrams
    weighed = small_model.saliency(text, positions=40)
    assert weighed.mean_occlusion[0] > 10 * weighed.mean_occlusion[40:].mean()
    assert weighed.correlation is not None
    assert weighed.correlation > 0.3
    assert small_model.saliency(text, at=77).places.tolist() == [77]


def test_a_backward_model_and_one_of_records_are_refused(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("ada\nemma\nann\n" * 60)
    given: tuple[dict[str, Any], ...] = ({"direction": "backward"}, {"records": "line"})
    for options in given:
        trained = charlm.train(
            tmp_path / "t.txt", checkpoints=tmp_path, progress=False, force=True, steps=1, hidden=4, layers=1, **options
        )
        model = charlm.load(trained.checkpoint, device="cpu")
        with pytest.raises(ConfigError, match="inspect memory"):
            model.memory("ada\n" * 400)


def test_the_command_reports_draws_and_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("sums.txt").write_text("".join(f"{a} times {b} is {a * b}.\n" for a in range(40) for b in range(12)))
    charlm.train("sums.txt", progress=False, steps=40, hidden=12, layers=1, threads=1, precision="fp32")
    quick = ["--contexts", "1,5,60", "--positions", "40"]
    assert run(["inspect", "memory", *quick, "-o", "memory.svg", "--at", "70"]) == 0
    out, err = capfd.readouterr()
    assert "using the newest run" in err
    for words in ("n-gram", "The model looks back", "kneser-ney", "occlusion", "position 70", "Rank correlation"):
        assert words in out
    assert "kneser-ney" in Path("memory.svg").read_text()
    assert run(["inspect", "memory", "sums", "--json", "-q", *quick]) == 0
    record = json.loads(capfd.readouterr().out)
    assert [row["context"] for row in record["contexts"]] == [1, 5, 60]
    assert [row["order"] for row in record["ngrams"]] == list(range(1, 12))
    assert len(record["attribution"]["occlusion"]) == len(record["example"]["before"]) == 50

    Path("sums.txt").rename("moved.txt")
    assert run(["inspect", "memory", "sums", "--text", "moved.txt", "--json", *quick]) == 0
    out, err = capfd.readouterr()
    assert json.loads(out)["ngrams"] == []
    assert "no n-gram models, as the training text was not found" in err
    assert run(["inspect", "memory", "sums", "--text", "moved.txt", "--corpus", "moved.txt", "--json", *quick]) == 0
    assert len(json.loads(capfd.readouterr().out)["ngrams"]) == 11


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--text", "short.txt"], 3, "needs a text of more than 1,000, and this one has 120"),
        (["--text", "short.txt", "--contexts", "1,0"], 2, "--contexts must be numbers from 1"),
        (["--text", "short.txt", "--contexts", "5", "--positions", "3"], 2, "--positions must be an integer from 20"),
        (["--text", "short.txt", "--contexts", "5", "--at", "120"], 3, "position 120 is not between 50 and 119"),
        (["--text", "nowhere.txt"], 74, "nowhere.txt"),
        (["--text", "short.txt", "-o", "picture.txt"], 2, "must end in .png, .svg or .pdf"),
    ],
)
def test_a_mistake_is_one_line(
    small_model: charlm.LanguageModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("short.txt").write_text("a straße is " * 10)
    assert run(["inspect", "memory", str(small_model.path), *arguments, "-q"]) == code
    out, err = capfd.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert words in err
