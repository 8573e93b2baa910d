"""What a model's page shows of its inside and its training: cells, gradients, memory, samples; without a browser."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from oracles import synthetic_text
from test_model_page import HOSTILE, LEARNED, checkpoint, place, written

from charlm.cli.main import run
from charlm.config import DataConfig, ModelConfig
from charlm.inspection.features import FEATURES
from charlm.inspection.gradients import log_norms
from charlm.inspection.overview import overview
from charlm.inspection.subject import open_network, reading
from charlm.report.page.samples import samples_list
from charlm.report.reaches import power
from charlm.report.words import figure
from charlm.storage.checkpoint import Checkpoint, save_checkpoint
from charlm.storage.records import CorpusRecord, TrainingSample
from charlm.storage.runs import Run
from charlm.text.large import open_corpus

__all__ = ["place"]


def with_text(place: Path, model: Checkpoint, text: str) -> None:
    """A run of this model, whose corpus has this text for validation."""
    (place / "train.txt").write_text(LEARNED, encoding="utf-8")
    (place / "val.txt").write_text(text, encoding="utf-8")
    data = replace(model.config.data, val="val.txt")
    corpus = CorpusRecord.of(open_corpus(["train.txt"], "val.txt"))
    known = replace(model, config=replace(model.config, data=data), corpus=corpus)
    save_checkpoint(place / "checkpoints/novel/best.safetensors", known)


@pytest.mark.parametrize("cell", ["lstm", "mingru"])
def test_what_is_inside_is_what_charlm_inspect_finds(
    place: Path, capsys: pytest.CaptureFixture[str], cell: str
) -> None:
    model = checkpoint(ModelConfig(cell=cell, hidden=8, layers=2, embedding=4))
    text = synthetic_text(1500, seed=72)
    with_text(place, model, text)
    reader = written("novel")
    assert run(["inspect", "cells", "novel", "--json", "-q"]) == 0
    expected = json.loads(capsys.readouterr().out)
    data = json.loads(reader.inside["script"][0])
    found = sorted((one for one in expected["features"] if one["found"]), key=lambda one: -abs(one["correlation"]))
    assert [f"{layer}:{unit}" for layer, unit, _ in data["cells"]["found"]] == list(
        dict.fromkeys(one["unit"] for one in found)
    )
    assert found
    assert data["cells"]["state"] == expected["state"] == ("c" if cell == "lstm" else "h")
    words = reader.words
    assert "Cells were looked for in the first 1,500 characters of the validation text." in words
    for one in expected["features"]:
        at = words.index(FEATURES[one["feature"]].about)
        if one["unit"] is None:
            assert words[at + 1] == "does not vary here"
        else:
            assert words[at + 1].removeprefix("none (best ").removesuffix(")") == one["unit"]
            assert words[at + 2] == figure(one["correlation"], 2)
            assert words[at + 5] == figure(one["p"], 5)
    looked = overview(model.config.model, model.weights, model.open_tokenizer(), text)
    assert not isinstance(looked.gradients, str)
    assert not isinstance(looked.memory, str)
    network = open_network(model.config.model, model.weights, np.float64)
    reaches = log_norms(
        network, reading(text, model.open_tokenizer()), distance=200, places=looked.gradients.places
    ).mean(axis=-1)
    for reach in looked.gradients.reaches:
        at = words.index(f"{reach.layer}: {reach.state}", words.index("How gradients fall"))
        own = reaches[reach.layer - 1, network.cell.states.index(reach.state)]
        assert words[at + 3] == power(own[100] - own[0])
    lines = [known for tag, known in reader.elements if tag == "polyline"]
    assert len(lines) == 2 * len(network.cell.states) + 1  # and that of memory
    for row in looked.memory.rows:
        assert figure(row.bits, 3) in words
    links = [known["href"] for tag, known in reader.elements if tag == "a"]
    assert links == [f"#{name}" for name in ("write", "surprisal", "cells", "gradients", "memory", "model")]


def test_what_cannot_be_measured_is_left_out_and_why(place: Path) -> None:
    words = " ".join(written("novel").words)
    assert words.count("The run has no validation text: this is measured on another with charlm page --text FILE.") == 3
    (place / "short.txt").write_text("ab")
    words = " ".join(written("novel", "--text", "short.txt").words)
    assert "Cells are looked for in 500 characters or more, and this text has 2." in words
    assert words.count("A text of 2 characters is too short.") == 2
    (place / "long.txt").write_text(LEARNED)
    assert "characters of long.txt." in " ".join(written("novel", "--text", "long.txt").words)
    save_checkpoint(place / "checkpoints/novel/best.safetensors", checkpoint(data=DataConfig(records="line")))
    words = " ".join(written("novel", "--text", "long.txt").words)
    assert words.count("The model reads records, each from the initial state") == 2
    assert "Cells were looked for in the first" in words
    plain = written("novel", "--no-inspect", "--text", "long.txt")
    assert not {"gradients", "memory"} & {known.get("id") for _, known in plain.elements}
    assert json.loads(plain.inside["script"][0])["cells"] == {"state": "c", "found": []}


def test_the_text_of_a_run_that_is_missing_is_not_named_with_its_folder(place: Path) -> None:
    with_text(place, checkpoint(), LEARNED)
    (place / "val.txt").unlink()
    page = written("novel")
    assert "The run's validation text was not found" in " ".join(page.words)
    assert str(place) not in (place / "page.html").read_text(encoding="utf-8")


def test_samples_of_training_stand_in_the_page_and_command_nothing(place: Path) -> None:
    folder = Run(place / "checkpoints/novel")
    texts = [HOSTILE, "\x1b[31m\ud800", *(f"text {number}" for number in range(100))]
    for step, text in enumerate(texts, 1):
        folder.append_sample(TrainingSample(step=10 * step, seconds=15.0 * step, text=text))
    reader, plain = written("novel"), (place / "page.html").read_text(encoding="utf-8")
    shown = [text for text in reader.words if text.startswith("Step ")]
    assert len(shown) == 40
    assert (shown[0], shown[-1]) == ("Step 10, after 15.0 s", "Step 1,020, after 25:30")
    assert "40 of 102 of them" in " ".join(reader.words)
    assert HOSTILE.replace("\u202e", "⟨U+202E⟩") in reader.words
    assert "text 99" in reader.words
    assert "\u202e" not in plain
    assert "<script>alert" not in plain
    assert ("section", {"id": "training", "aria-labelledby": "training-title"}) in reader.elements
    assert samples_list([]) == ""
    one = samples_list([TrainingSample(step=1, seconds=1.0, text="\ud800")])
    assert "⟨U+D800⟩" in one
    assert one.count("<li>") == 1
