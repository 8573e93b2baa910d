"""`charlm page`: one file that admits only itself, holds the model exactly, and says what it is; without a browser."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
from numpy.typing import NDArray
from oracles import random_network, synthetic_text

from charlm.cli.main import run
from charlm.config import Config, DataConfig, ModelConfig
from charlm.generation.decoder import quantize
from charlm.models.network import export_weights
from charlm.report.page import model_page
from charlm.report.page.bundle import bundle, digest
from charlm.report.page.curves import curves
from charlm.report.page.weights import PackedWeights, pack_weights
from charlm.storage.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from charlm.storage.records import CorpusRecord, Metrics, Result, Validation
from charlm.text.files import Source
from charlm.text.tokenizer import train_tokenizer

LEARNED: Final = synthetic_text(3000, seed=71)
HOSTILE: Final = "</script><script>alert(1)</script>&<!--\u202e"
SMALL: Final = ModelConfig(hidden=8, layers=2, embedding=4)


class Reader(HTMLParser):
    """A page's elements: tags with attributes, the content of scripts and style, and its visible text."""

    def __init__(self, content: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.inside: dict[str, list[str]] = {"script": [], "style": [], "h1": [], "h2": []}
        self.words: list[str] = []
        self._last = ""
        self.feed(content)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        self._last = tag
        self.inside.get(tag, []).append("")

    def handle_data(self, data: str) -> None:
        if self.inside.get(self._last):
            self.inside[self._last][-1] += data
        if self._last not in ("script", "style"):
            self.words.append(data)

    def handle_endtag(self, tag: str) -> None:
        if tag in ("script", "style"):
            self._last = ""

    @property
    def policy(self) -> dict[str, str]:
        content = next(known["content"] for tag, known in self.elements if tag == "meta" and "http-equiv" in known)
        return {name: rest for name, _, rest in (rule.strip().partition(" ") for rule in content.split(";"))}


def checkpoint(
    config: ModelConfig = SMALL, data: DataConfig | None = None, *, seed: int = 1, text: str = LEARNED
) -> Checkpoint:
    data = data or DataConfig()
    tokenizer = train_tokenizer(data, text)
    return Checkpoint(
        config=Config(model=config, data=data),
        tokenizer=tokenizer.state(),
        weights=export_weights(random_network(config, tokenizer.size, seed=seed)),
    )


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a run called "novel"."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "checkpoints/novel").mkdir(parents=True)
    save_checkpoint(tmp_path / "checkpoints/novel/best.safetensors", checkpoint())
    return tmp_path


def written(*arguments: str) -> Reader:
    assert run(["page", *arguments, "-o", "page.html", "-q"]) == 0
    return Reader(Path("page.html").read_text(encoding="utf-8"))


def arrays(packed: PackedWeights) -> dict[str, NDArray[Any]]:
    """The arrays of packed weights, read from their bytes as the script does."""
    found, at = {}, 0
    for tensor in packed.tensors:
        kind = np.dtype({"f32": "<f4", "i8": "i1"}[tensor["type"]])
        assert at % kind.itemsize == 0
        count = int(np.prod(tensor["shape"]))
        found[tensor["name"]] = np.frombuffer(packed.data, kind, count, at).reshape(tensor["shape"])
        at += count * kind.itemsize
    assert at == len(packed.data)
    return found


@pytest.mark.parametrize("cell", ["lstm", "gru", "mingru"])
def test_weights_come_back_from_their_bytes(cell: str) -> None:
    model = checkpoint(ModelConfig(cell=cell, hidden=8, layers=2, embedding=4))
    found = arrays(pack_weights(model.config.model, model.weights))
    weights = model.weights
    np.testing.assert_array_equal(found["embedding"][:-1], weights["embedding.weight"])
    np.testing.assert_allclose(found["embedding"][-1], weights["embedding.weight"][:-1].mean(axis=0), rtol=1e-5)
    for layer in (0, 1):
        np.testing.assert_array_equal(found[f"{layer}.input"], weights[f"rnn.{layer}.weight_ih"])
        if cell == "mingru":
            assert found[f"{layer}.recurrent"].shape == (0, 8)
        else:
            np.testing.assert_array_equal(found[f"{layer}.recurrent"], weights[f"rnn.{layer}.weight_hh"])
    np.testing.assert_array_equal(found["head"], weights["head.weight"])
    np.testing.assert_array_equal(found["head.bias"], weights["head.bias"])


def test_8_bit_weights_are_a_quarter_and_those_of_the_decoder() -> None:
    model = checkpoint(ModelConfig(hidden=64, layers=2, embedding=4))
    full, packed = (pack_weights(model.config.model, model.weights, kind) for kind in ("fp32", "int8"))
    assert len(packed.data) < 0.3 * len(full.data)
    found = arrays(packed)
    rows, scale = quantize(model.weights["rnn.1.weight_hh"])
    np.testing.assert_array_equal(found["1.recurrent"], rows)
    np.testing.assert_array_equal(found["1.recurrent.scale"], scale)
    assert found["embedding"].dtype == found["0.input"].dtype == np.float32


def test_the_page_admits_its_own_script_and_style_alone() -> None:
    reader = written()
    data, weights, script = reader.inside["script"]
    (style,) = reader.inside["style"]
    policy = reader.policy
    assert policy["default-src"] == policy["connect-src"] == policy["base-uri"] == policy["form-action"] == "'none'"
    assert policy["script-src"] == f"'{digest(script)}' 'wasm-unsafe-eval'"
    assert policy["style-src"] == f"'{digest(style)}'"
    assert re.fullmatch(r"sha256-[\w+/]{43}=", digest(script))
    keys = {name for _, known in reader.elements for name in known}
    assert not {name for name in keys if name.startswith("on") or name in ("src", "style")}
    assert all(known["href"].startswith("#") for _, known in reader.elements if "href" in known)
    foreign = r"https?:|//\w|url\(|@import|\beval\(|\bFunction\(|innerHTML|insertAdjacent|document\.write|fetch\("
    assert not re.search(foreign, script + style)
    assert data.isascii()
    assert not set(data + weights) & set("<>&")


def test_links_lead_to_parts_and_controls_have_names() -> None:
    reader = written()
    ids = [known["id"] for _, known in reader.elements if "id" in known]
    assert len(set(ids)) == len(ids)
    assert {known["href"][1:] for tag, known in reader.elements if tag == "a"} <= set(ids)
    assert {known[key] for _, known in reader.elements for key in known if key == "aria-labelledby"} <= set(ids)
    controls = sum(tag in ("input", "textarea", "select") for tag, _ in reader.elements)
    assert sum(tag == "label" for tag, _ in reader.elements) == controls == 9
    assert ("html", {"lang": "en"}) in reader.elements


def test_the_page_holds_the_model_and_its_vocabulary(place: Path) -> None:
    reader = written()
    data = json.loads(reader.inside["script"][0])
    model = load_checkpoint(place / "checkpoints/novel/best.safetensors")
    packed = PackedWeights(data["network"]["tensors"], base64.b64decode(reader.inside["script"][1]))
    np.testing.assert_array_equal(arrays(packed)["1.recurrent"], model.weights["rnn.1.weight_hh"])
    tokenizer = model.open_tokenizer()
    assert data["tokenizer"] == {
        "kind": "char",
        "vocabulary": "".join(sorted(set(LEARNED))),
        "escape": tokenizer.escape,
    }
    assert data["run"] == "novel"
    assert reader.inside["h1"][0].strip() == ""
    assert "novel" in reader.words


def test_names_and_texts_stay_what_they_are(place: Path) -> None:
    """Whatever a name, a vocabulary or a text holds, the page has the same elements."""
    folder = place / "checkpoints/evil<script>&"
    folder.mkdir()
    sources = (Source("/secret/place/<b>x.txt", bytes=3000, characters=3000, sha256="0" * 64),)
    evil = replace(checkpoint(text=HOSTILE * 9), corpus=CorpusRecord(train_characters=3000, sources=sources))
    save_checkpoint(folder / "best.safetensors", evil)
    (place / "evil.txt").write_text(HOSTILE, encoding="utf-8")
    reader = written(str(folder), "--text", "evil.txt")
    harmless = written("novel")
    assert [tag for tag, _ in reader.elements] == [tag for tag, _ in harmless.elements]
    assert reader.inside["script"][2] == harmless.inside["script"][2]
    data = json.loads(reader.inside["script"][0])
    assert data["text"] == HOSTILE
    assert data["tokenizer"]["vocabulary"] == "".join(sorted(set(HOSTILE)))
    assert "<b>x.txt" in reader.words
    assert "secret" not in (place / "page.html").read_text(encoding="utf-8")


def test_what_the_model_is_stands_in_the_page(place: Path) -> None:
    model = checkpoint()
    result = Result(
        steps=40,
        characters_seen=4000,
        train_loss=2.0,
        val_loss=2.1,
        val_bits_per_character=3.03,
        val_perplexity=8.2,
        best_val_loss=2.1,
        test_loss=2.2,
        seconds=75.0,
        characters_per_second=50,
        temperature=0.7,
        stopped=False,
    )
    save_checkpoint(place / "checkpoints/novel/best.safetensors", replace(model, result=result))
    reader = written("novel")
    words = reader.words
    for fact in (
        "2 x 8 lstm, embedding 4",
        "2.1000 nats, 3.0297 bits per character",
        "2.2000 nats, 3.1739 bits per character",
    ):
        assert fact in words
    fields = {known["name"]: known.get("value") for tag, known in reader.elements if tag == "input"}
    assert fields == {"temperature": "0.7", "top_k": "0", "top_p": "1", "min_p": "0", "length": "500", "seed": None}
    assert "forget-bias" in words


def row(step: int, train: float, val: float | None = None) -> Metrics:
    return Metrics(
        step=step,
        characters_seen=10 * step,
        train_loss=train,
        seconds=1.0,
        characters_per_second=9,
        val_loss=val,
        grad_norm=None,
        lr=0.1,
    )


def test_curves_are_the_metrics(place: Path) -> None:
    """In the picture's own coordinates, steps and losses lie on one straight line each."""
    rows = [row(step, 4 - step / 100, 3.5 - step / 200 if step % 50 == 0 else None) for step in range(0, 201, 10)]
    (place / "checkpoints/novel/metrics.jsonl").write_text(
        "".join(json.dumps({name: getattr(one, name) for name in one.__slots__}) + "\n" for one in rows)
    )
    reader = written("novel")
    lines = {known["class"]: known["points"] for tag, known in reader.elements if tag == "polyline"}
    points = {name: np.array([pair.split(",") for pair in line.split()], dtype=float) for name, line in lines.items()}
    known = {
        "train": [(one.step, one.train_loss) for one in rows],
        "val": [(one.step, one.val_loss) for one in rows if one.val_loss is not None],
    }
    places = np.concatenate([points["train"], points["val"]])
    values = np.array([*known["train"], *known["val"]])
    for axis in (0, 1):
        slope, offset = np.polyfit(values[:, axis], places[:, axis], 1)
        np.testing.assert_allclose(places[:, axis], slope * values[:, axis] + offset, atol=0.06)
        assert bool(slope > 0) is (axis == 0)
    label = next(known["aria-label"] for tag, known in reader.elements if tag == "svg")
    assert label == (
        "training loss from 4.000 at step 0 to 2.000 at step 200; "
        "validation loss from 3.500 at step 0 to 2.500 at step 200"
    )
    assert "3.2500" in reader.words
    many = curves([row(step, 1 / (step + 1)) for step in range(5000)])
    assert many.count(",") < 1000


def test_without_metrics_the_validations_are_drawn_and_one_is_no_curve() -> None:
    kept = [Validation(step=step, train_loss=2.0, val_loss=2.5 - step / 100, seconds=1.0) for step in (10, 20)]
    assert curves(kept).count("<polyline") == 2
    assert curves([row(1, float("nan")), row(2, 1.0)]) == curves([]) == ""
    assert "<polyline" in curves([row(1, 2.0), row(2, 2.0)])


@pytest.mark.parametrize(
    ("config", "data", "words"),
    [
        (ModelConfig(model="window", layers=1, hidden=8, embedding=4), DataConfig(), "window"),
        (ModelConfig(model="jordan", layers=1, hidden=8, embedding=4), DataConfig(), "jordan"),
        (SMALL, DataConfig(tokenizer="sentencepiece", vocab_size=320), "sentencepiece tokens"),
        (SMALL, DataConfig(direction="backward"), "backward"),
    ],
)
def test_what_a_page_cannot_run_is_refused(
    place: Path, capsys: pytest.CaptureFixture[str], config: ModelConfig, data: DataConfig, words: str
) -> None:
    save_checkpoint(place / "other.safetensors", checkpoint(config, data))
    assert run(["page", "other.safetensors", "-o", "page.html"]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert "nothing was written" in error
    assert not (place / "page.html").exists()


def test_a_model_that_is_too_large_is_told_its_size_and_what_to_do(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save_checkpoint(place / "large.safetensors", checkpoint(ModelConfig(hidden=64, layers=2, embedding=4)))
    monkeypatch.setattr(model_page, "MOST", 100_000)
    assert run(["page", "large.safetensors", "-o", "page.html"]) == 2
    error = capsys.readouterr().err
    assert "looking for cells" not in error  # which takes seconds
    sizes = re.search(r"has ([\d.]+) kB of weights in fp32, which would be a page of ([\d.]+) kB", error)
    assert sizes is not None
    assert float(sizes[2]) == pytest.approx(float(sizes[1]) * 4 / 3, rel=0.01)
    assert "--precision int8 makes that" in error
    assert not (place / "page.html").exists()
    assert run(["page", "large.safetensors", "-o", "page.html", "--precision", "int8", "-q"]) == 0
    monkeypatch.setattr(model_page, "MOST", 1000)
    assert run(["page", "large.safetensors", "-o", "page.html", "--precision", "int8"]) == 2
    assert "charlm sample" in capsys.readouterr().err


def test_a_text_that_is_too_long_is_refused(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "long.txt").write_text("a" * 101)
    monkeypatch.setattr(model_page, "LONGEST_TEXT", 100)
    assert run(["page", "-o", "page.html", "--text", "long.txt"]) == 2
    assert "101 characters; a page reads at most 100" in capsys.readouterr().err


def test_outputs_are_treated_as_by_other_commands(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An existing file is replaced, an input is not; the newest run is named; JSON says what was written."""
    (place / "page.html").write_text("before")
    assert run(["page", "-o", "page.html"]) == 0
    assert "using the newest run: checkpoints/novel" in capsys.readouterr().err
    size = (place / "page.html").stat().st_size
    assert size > 10_000
    assert run(["page", "novel", "-o", "checkpoints/novel/best.safetensors"]) == 2
    assert run(["page", "novel", "-o", "nowhere/page.html"]) == 74
    assert run(["page", "nothing", "-o", "page.html"]) == 4
    capsys.readouterr()
    assert run(["page", "novel", "-o", "page.html", "--json", "-q"]) == 0
    found = json.loads(capsys.readouterr().out)
    model = load_checkpoint(place / "checkpoints/novel/best.safetensors")
    assert (found["schema"], found["bytes"], found["parameters"]) == ("charlm.page/1", size, model.parameters)
    assert found["precision"] == "fp32"


def test_the_page_goes_to_standard_output(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    monkeypatch.setattr(sys, "stdout", out)
    assert run(["page", "novel", "-o", "-", "-q"]) == 0
    assert out.buffer.getvalue().startswith(b"<!DOCTYPE html>")


def test_another_checkpoint_of_a_run_is_called_by_its_file(place: Path) -> None:
    save_checkpoint(place / "checkpoints/novel/last.safetensors", checkpoint(seed=2))
    save_checkpoint(place / "alone.safetensors", checkpoint(seed=2))
    assert (
        json.loads(written("checkpoints/novel/last.safetensors").inside["script"][0])["run"] == "novel/last.safetensors"
    )
    assert json.loads(written("alone.safetensors").inside["script"][0])["run"] == "alone.safetensors"


def test_a_page_needs_no_torch() -> None:
    code = "import sys, charlm.report.page.model_page; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


@pytest.mark.parametrize("main", ["main", "score", "inspected"])
def test_modules_become_one_script(main: str, tmp_path: Path) -> None:
    script = bundle(main)
    assert not re.search(r"^\s*(import|export)\b", script, re.MULTILINE)
    modules = re.findall(r"^const _(\w+) = \(\(\) => \{$", script, re.MULTILINE)
    assert modules[-1] == main
    used = {name: script.index(f" = _{name};") for name in modules[:-1]}
    assert all(script.index(f"const _{name} = ") < at for name, at in used.items())  # each is there when it is needed
    if node := shutil.which("node"):
        (tmp_path / "page.js").write_text(script, encoding="utf-8")
        subprocess.run([node, "--check", str(tmp_path / "page.js")], check=True)
