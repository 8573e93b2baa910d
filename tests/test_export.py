"""An exported model computes what the textbook says and needs no other file; a card repeats the run it describes."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
import torch
from markdown_it import MarkdownIt
from numpy.typing import NDArray
from oracles import random_network, random_state, stack, synthetic_text
from processes import TEXT
from test_openness import LeakyLayer, leaky_update, leaky_values

import charlm
from charlm.cli.main import run
from charlm.config import CELLS, EXPORTS, Config, DataConfig, ExportConfig, ModelConfig
from charlm.errors import CharlmError
from charlm.export import model as onnx_model
from charlm.export.graph import step_graph
from charlm.export.model import metadata, onnx_file
from charlm.export.parity import TOLERANCE, ExportedModel, States, check_parity
from charlm.models.architecture import weight_shapes
from charlm.models.cells import Cell
from charlm.models.network import export_weights, named_weights
from charlm.report.card import model_card
from charlm.storage.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from charlm.text.tokenizer import CharTokenizer, Tokenizer, train_tokenizer

LEARNED: Final = synthetic_text(3000, seed=21)
PAGE: Final = Path(__file__).parent.parent / "docs/export.md"
KINDS: Final = ("char", "byte", "sentencepiece")
RUN: Final[dict[str, Any]] = {
    "hidden": 16,
    "layers": 2,
    "embedding": 8,
    "batch": 4,
    "bptt": 16,
    "steps": 60,
    "dropout": 0.1,
    "test": 0.1,
    "seed": 5,
    "device": "cpu",
    "precision": "fp32",
    "threads": 1,
    "progress": False,
}
NOWHERE: Final = Path("nowhere/best.safetensors")


def checkpoint_of(tokenizer: Tokenizer, *, seed: int = 5, **options: Any) -> Checkpoint:
    config = ModelConfig(**({"hidden": 12, "layers": 1, "embedding": 6} | options))
    weights = export_weights(random_network(config, tokenizer.size, seed=seed, scale=0.3))
    return Checkpoint(config=Config(model=config), tokenizer=tokenizer.state(), weights=weights)


def tokenizer_of(kind: str) -> Tokenizer:
    return train_tokenizer(DataConfig(tokenizer=kind, vocab_size=320), LEARNED)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The best model of a run, whose text lies beside it."""
    folder = tmp_path_factory.mktemp("export")
    (folder / "sums.txt").write_text(TEXT * 3)
    return charlm.train(folder / "sums.txt", checkpoints=folder, **RUN).checkpoint


@pytest.fixture
def place(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that run, in its own folder, where the commands are run."""
    shutil.copytree(trained.parent, tmp_path / "checkpoints/sums")
    shutil.copy(trained.parent.parent / "sums.txt", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def log_softmax(logits: NDArray[Any]) -> NDArray[np.float64]:
    found: NDArray[np.float64] = torch.from_numpy(logits).double().log_softmax(-1).numpy()
    return found


# what an exported model computes


@pytest.mark.parametrize("embedding", [0, 5])
@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_it_is_the_textbooks_equations_with_the_state_carried(cell: str, layers: int, embedding: int) -> None:
    config = ModelConfig(cell=cell, layers=layers, hidden=7, embedding=embedding)
    network = random_network(config, 11, seed=3, scale=0.3)
    tokenizer = CharTokenizer.train("abcdefghijk")
    model = ExportedModel(
        onnx_file(Checkpoint(config=Config(model=config), tokenizer=tokenizer.state(), weights=export_weights(network)))
    )
    weights = {name: weight.detach().double() for name, weight in named_weights(network).items()}
    for lanes in (1, 3):
        ids = np.random.default_rng(4).integers(0, 13, (30, lanes))  # with the start input and unseen characters
        begin = random_state(network, lanes, seed=6)
        expected, last = stack(
            cell,
            weights,
            torch.from_numpy(ids),
            tuple(tuple(part.double() for part in layer) for layer in begin),
        )
        names = iter(model.init_state(lanes))
        states: States = {next(names): part.numpy() for layer in begin for part in layer}
        for row, wanted in zip(ids, expected, strict=True):
            logits, states = model.step(row, states)
            np.testing.assert_allclose(log_softmax(logits), wanted.log_softmax(-1).numpy(), atol=1e-5)
        for found, part in zip(states.values(), (part for layer in last for part in layer), strict=True):
            np.testing.assert_allclose(found, part.numpy(), atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_it_passes_its_own_gate_with_every_tokenizer(kind: str) -> None:
    checkpoint = checkpoint_of(tokenizer_of(kind), layers=2)
    parity = check_parity(onnx_file(checkpoint), checkpoint, NOWHERE)
    assert 0 < parity.difference <= TOLERANCE
    assert (parity.characters, parity.text) == (1000, "generated text")


def test_equal_checkpoints_give_equal_bytes_which_an_older_runtime_reads() -> None:
    import onnx

    first, second = (onnx_file(checkpoint_of(tokenizer_of("char"))) for _ in range(2))
    assert first == second
    found = onnx.load_from_string(first)
    assert (found.ir_version, [(one.domain, one.version) for one in found.opset_import]) == (8, [("", 17)])
    operators = {node.op_type for node in found.graph.node}
    assert operators == {"Gather", "Gemm", "Add", "Mul", "Slice", "Sigmoid", "Tanh"}
    assert not found.graph.doc_string.count("/")


def test_weights_keep_the_names_and_the_layout_of_a_checkpoint() -> None:
    checkpoint = checkpoint_of(tokenizer_of("char"), layers=2, cell="gru")
    constants = step_graph(checkpoint.config.model, checkpoint.weights).constants
    for name, array in checkpoint.weights.items():
        if "bias_" not in name:
            np.testing.assert_array_equal(constants[name][: len(array)], array)


# a cell from outside


def where_values(x: Any, product: Any, state: Any, inner: Any) -> Any:  # noqa: ARG001
    return (np.where(x > 0, x, product),)


def wider_values(x: Any, product: Any, state: Any, inner: Any) -> Any:  # noqa: ARG001
    return (x + product,)


def named_values(x: Any, product: Any, state: Any, inner: Any) -> Any:  # noqa: ARG001
    return (np.tanh(x + product).astype(np.float32),)


def no_values(x: Any, product: Any, state: Any, inner: Any) -> Any:  # noqa: ARG001
    return ()


def the_gate(gates: Any, state: Any, inner: Any) -> Any:  # noqa: ARG001
    return gates


def still_update(gates: Any, state: Any, inner: Any) -> Any:  # noqa: ARG001
    return state[1], state[1]


@pytest.fixture
def offered() -> Iterator[None]:
    cells = {
        "leaky-test": Cell(gates=("h",), values=leaky_values, update=leaky_update, layer=LeakyLayer),
        "where-test": Cell(gates=("h",), values=where_values, update=the_gate, layer=LeakyLayer),
        "wider-test": Cell(gates=("a", "b"), values=wider_values, update=the_gate, layer=LeakyLayer),
        "named-test": Cell(gates=("h",), values=named_values, update=the_gate, layer=LeakyLayer),
        "still-test": Cell(gates=("h",), states=("h", "s"), values=no_values, update=still_update, layer=LeakyLayer),
    }
    for name, cell in cells.items():
        CELLS.add(name, cell)
    yield
    for name in cells:
        CELLS.remove(name)


def of_shapes(cell: str) -> Checkpoint:
    """A model of this cell with random weights, made without its layer."""
    config, tokenizer = ModelConfig(cell=cell, layers=2, hidden=5, embedding=3), CharTokenizer.train("abc")
    rng = np.random.default_rng(1)
    shapes = weight_shapes(config, tokenizer.size)
    weights = {name: rng.normal(0, 0.4, shape).astype(np.float32) for name, shape in shapes.items()}
    return Checkpoint(config=Config(model=config), tokenizer=tokenizer.state(), weights=weights)


@pytest.mark.usefixtures("offered")
@pytest.mark.parametrize("cell", ["leaky-test", "still-test", "leaky", "mingru"])
def test_a_cell_of_other_kinds_is_exported_like_the_others(cell: str) -> None:
    checkpoint = of_shapes(cell)
    assert check_parity(onnx_file(checkpoint), checkpoint, NOWHERE).difference <= TOLERANCE


@pytest.mark.usefixtures("offered")
@pytest.mark.parametrize(
    ("cell", "why"),
    [("where-test", r"numpy\.\w+"), ("wider-test", "its states change their width"), ("named-test", "astype")],
)
def test_a_step_that_has_no_counterpart_is_refused(cell: str, why: str) -> None:
    with pytest.raises(CharlmError, match=f"the cell {cell} cannot be exported to ONNX: .*{why}.*; nothing was"):
        onnx_file(of_shapes(cell))


# the gate


def altered(monkeypatch: pytest.MonkeyPatch, name: str, change: Any) -> None:
    """From now on one constant of every graph is another."""

    def other(*arguments: Any) -> Any:
        graph = step_graph(*arguments)
        graph.constants[name] = change(graph.constants[name].copy())
        return graph

    monkeypatch.setattr(onnx_model, "step_graph", other)


def nudged(array: NDArray[np.float32]) -> NDArray[np.float32]:
    array[3] += np.float32(0.002)
    return array


def emptied(array: NDArray[np.float32]) -> NDArray[np.float32]:
    return array * np.float32(np.nan)


def other_gates(array: NDArray[np.float32]) -> NDArray[np.float32]:
    i, f, g, o = np.split(array, 4)
    return np.concatenate([i, o, f, g])


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("head.bias", nudged),
        ("rnn.1.weight_hh", nudged),
        ("head.weight", emptied),
        ("rnn.0.weight_ih", other_gates),
        ("embedding.weight", lambda array: np.concatenate([array[:-1], array[:1]])),  # of unseen characters
    ],
)
def test_a_file_that_computes_something_else_is_not_written(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, change: Any
) -> None:
    (place / "out.onnx").write_text("old")
    altered(monkeypatch, name, change)
    assert run(["export", "sums", "-o", "out.onnx"]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert "does not compute what charlm does" in said.err
    assert "nothing was written" in said.err
    assert (place / "out.onnx").read_text() == "old"
    assert not list(place.glob(".*"))


def test_the_gate_reads_the_validation_text_where_it_is_found(place: Path) -> None:
    model = charlm.load("sums")
    assert len(model.validation_text()) >= 1000
    found = model.export("out.onnx")
    assert found.parity is not None
    assert found.parity.text == "validation text"
    assert found.data == (place / "out.onnx").read_bytes()


def test_without_its_text_a_model_writes_one(trained: Path) -> None:
    checkpoint = load_checkpoint(trained)
    sources = tuple(replace(source, path="/nowhere/else.txt") for source in checkpoint.corpus.sources)
    lost = replace(checkpoint, corpus=replace(checkpoint.corpus, sources=sources))
    assert check_parity(onnx_file(lost), lost, NOWHERE).text == "generated text"


# the metadata


@pytest.mark.parametrize("kind", KINDS)
def test_a_program_needs_only_the_file_to_write_and_to_read_text(kind: str) -> None:
    tokenizer = tokenizer_of(kind)
    about = ExportedModel(onnx_file(checkpoint_of(tokenizer))).about
    pieces = [bytes.fromhex(piece) for piece in json.loads(about["pieces"])]
    ids = tokenizer.encode(LEARNED).ids
    assert b"".join(pieces[token] for token in ids).decode() == LEARNED
    assert (int(about["start_id"]), int(about["unseen_id"])) == (len(pieces), len(pieces) + 1)
    assert float(about["escape"]) == tokenizer.escape
    if kind == "char":
        points = json.loads(about["vocabulary"])
        assert [points.index(ord(character)) for character in LEARNED] == ids.tolist()
    if kind == "sentencepiece":
        from sentencepiece import SentencePieceProcessor

        processor = SentencePieceProcessor(model_proto=base64.b64decode(about["tokenizer_model"]))
        line = LEARNED.split("\n")[1]
        assert processor.encode(line, out_type=int) == tokenizer.encode(line).ids.tolist()


def test_the_metadata_say_what_it_is_and_where_it_is_from(trained: Path) -> None:
    checkpoint = load_checkpoint(trained)
    about = metadata(checkpoint)
    assert (about["format"], about["charlm"]) == ("charlm.onnx/1", charlm.__version__)
    assert (about["cell"], about["layers"], about["hidden"], about["embedding"]) == ("lstm", "2", "16", "8")
    assert json.loads(about["states"]) == ["h.0", "c.0", "h.1", "c.1"]
    assert checkpoint.result is not None
    assert float(about["validation_loss"]) == checkpoint.result.val_loss
    assert about["state_sha256"] == checkpoint.state_sha256
    assert (about["records"], "end_id" in about) == ("none", False)
    named = set(
        re.findall(r"^\| (`.+?`) \|", PAGE.read_text().split("so that it needs no other file")[1], re.MULTILINE)
    )
    assert set(re.findall(r"`(\w+)`", " ".join(named))) == about.keys() | {"tokenizer_model", "end_id"}


def test_records_have_the_id_that_ends_one(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("ada\nemma\nann\n" * 40)
    done = charlm.train(tmp_path / "names.txt", checkpoints=tmp_path, records="line", **{**RUN, "test": 0, "val": 0})
    about = metadata(load_checkpoint(done.checkpoint))
    assert bytes.fromhex(json.loads(about["pieces"])[int(about["end_id"])]) == b"\n"
    card = model_card(load_checkpoint(done.checkpoint), done.checkpoint)
    assert "lines, each read by itself" in card
    assert "model-index" not in card
    assert "Nothing was held out" in card


def test_the_hash_of_the_weights_is_what_the_page_says(trained: Path) -> None:
    checkpoint = load_checkpoint(trained)
    digest = hashlib.sha256()
    for name in sorted(checkpoint.weights):
        array = checkpoint.weights[name]
        digest.update(f"{name} <f4 {tuple(array.shape)}\n".encode() + array.tobytes())
    assert metadata(checkpoint)["weights_sha256"] == digest.hexdigest()


def test_the_program_of_the_page_samples_from_a_file(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    charlm.load("sums").export(place / "sums.onnx")
    (block,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    monkeypatch.setattr(sys, "argv", ["sample.py", "sums.onnx"])
    exec(compile(block, "export.md", "exec"), {})  # noqa: S102 - our own page
    text = capsys.readouterr().out.removesuffix("\n")
    assert len(text) == 300
    assert set(text) <= set(TEXT)


# the card


def front_matter(card: str) -> str:
    _, front, _ = card.split("---\n", 2)
    return front


def command_of(card: str) -> str:
    (command,) = re.findall(r"^charlm train .*$", card, re.MULTILINE)
    return str(command)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"cell": "gru", "tokenizer": "byte", "embedding": 0, "epochs": 1, "steps": None, "test": 0},
        {"tokenizer": "sentencepiece", "optimizer": "adamw", "lr": 0.1 + 0.2, "dropout_input": 0.0, "patience": 3},
        {"records": "line", "val": 0.2, "clip_mode": "value", "cell": "rnn"},
        {"val": "later.txt", "test": "last.txt"},
    ],
    ids=lambda options: "-".join(map(str, options)) or "plain",
)
def test_the_command_of_a_card_repeats_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    """In another folder, with nothing but the text: the same weights to the bit."""
    given = {name: value for name, value in {**RUN, "steps": 12, **options}.items() if value is not None}
    monkeypatch.setattr("charlm.cli.train._draw_curves", lambda *_: None)  # which takes longer than all the rest
    texts = {"it's sums.txt": TEXT, "later.txt": TEXT[:900], "last.txt": TEXT[900:1500]}
    for folder in ("here", "there"):
        (tmp_path / folder).mkdir()
        for name, text in texts.items():
            (tmp_path / folder / name).write_text(text)
    monkeypatch.chdir(tmp_path / "here")
    first = charlm.train("it's sums.txt", **given)
    command = shlex.split(command_of(model_card(load_checkpoint(first.checkpoint), first.checkpoint)))
    assert command[:2] == ["charlm", "train"]
    monkeypatch.chdir(tmp_path / "there")
    assert run([*command[1:], "-q"]) == 0
    again = load_checkpoint(Path(first.checkpoint))  # the same name, in the other folder
    monkeypatch.chdir(tmp_path / "here")
    before = load_checkpoint(Path(first.checkpoint))
    assert again.state_sha256 == before.state_sha256
    assert again.config.train.seed == given["seed"]


def test_the_figures_of_a_card_are_the_checkpoints(trained: Path) -> None:
    checkpoint = load_checkpoint(trained)
    result = checkpoint.result
    card = model_card(checkpoint, trained, "cc-by-4.0")
    assert result is not None
    assert result.val_loss is not None
    assert result.test_loss is not None
    values = [float(value) for value in re.findall(r"^ +value: (.+)$", front_matter(card), re.MULTILINE)]
    expected = [
        figure for loss in (result.val_loss, result.test_loss) for figure in (loss, loss / np.log(2), np.exp(loss))
    ]
    assert values == pytest.approx(expected, abs=1e-6)
    assert f"| {checkpoint.corpus.test_characters:,} | {result.test_loss:.4f} |" in card
    for row in checkpoint.history:
        assert f"| {row.step:,} | {row.characters_seen:,} | {row.train_loss:.4f} | {row.val_loss:.4f} |" in card
    for fact in (
        f"{checkpoint.parameters:,} parameters",
        checkpoint.state_sha256,
        checkpoint.corpus.fingerprint,
        checkpoint.corpus.sources[0].sha256,
        checkpoint.environment.torch,
        f"{len(set(TEXT))} characters of its training text",
        "with the same weights",
    ):
        assert fact in card, fact
    assert str(trained.parent) not in card


def test_the_front_matter_is_what_the_hub_reads(trained: Path) -> None:
    card = model_card(load_checkpoint(trained), trained, "cc-by-4.0")
    yaml = pytest.importorskip("yaml")
    found = yaml.safe_load(front_matter(card))
    assert found["license"] == "cc-by-4.0"
    assert (found["library_name"], found["pipeline_tag"]) == ("charlm", "text-generation")
    assert {"lstm", "character-level"} <= set(found["tags"])
    (index,) = found["model-index"]
    assert [result["dataset"]["split"] for result in index["results"]] == ["validation", "test"]
    for result in index["results"]:
        assert result["task"]["type"] == "text-generation"
        assert {"type", "name"} <= result["dataset"].keys()
        assert [type(metric["value"]) for metric in result["metrics"]] == [float] * 3
    assert "license" not in yaml.safe_load(front_matter(model_card(load_checkpoint(trained), trained)))


HOSTILE: Final = (
    "<script>alert(1)</script>.txt",
    "a|b `c` ``d`` [e](http://evil) ![f](http:x).txt",
    "---\nlicense: stolen\n```\n# heading\n",
    "\x1b[31m\u202e\u2066 \udc80 ' \" \\ $HOME `id`.txt",
    "`",
)


@pytest.mark.parametrize("name", HOSTILE)
def test_names_and_characters_do_no_harm_in_a_card(tmp_path: Path, name: str) -> None:
    text = "<b>|`*_[x](y)\\\u202e\x1b&amp;\u2028" * 30 + name.encode("utf-8", "replace").decode()
    (tmp_path / "plain.txt").write_text(text, encoding="utf-8")
    done = charlm.train(tmp_path / "plain.txt", checkpoints=tmp_path, **{**RUN, "steps": 2, "test": 0})
    checkpoint = load_checkpoint(done.checkpoint)
    sources = tuple(replace(source, path=f"/home/{name}") for source in checkpoint.corpus.sources)
    named = replace(
        checkpoint,
        corpus=replace(checkpoint.corpus, sources=sources, fingerprint="</code>|`"),
        environment=replace(checkpoint.environment, device_name="<img src=x>", system="`|`"),
        bookkeeping=replace(checkpoint.bookkeeping, inexact=("<i>`why`",), init_from="`<u>"),
    )
    card = model_card(named, tmp_path / name.replace("/", "_") / "best.safetensors")
    card.encode()
    assert all(line.isprintable() for line in card.splitlines())
    assert card.count("\n---\n") == 1
    assert "license:" not in card.split("\n---\n")[0].replace("␊license: stolen", "")
    html = MarkdownIt("commonmark", {"html": True}).enable("table").render(card.split("\n---\n", 1)[1])
    tags = {tag.lower() for tag in re.findall(r"<(\w+)", html)}
    assert tags <= {"h1", "h2", "p", "code", "pre", "table", "thead", "tbody", "tr", "th", "td", "ul", "li"}
    rows = re.findall(r"<tr>(.*?)</tr>", html.split("</table>")[-3], re.DOTALL)
    assert len({row.count("<t") for row in rows}) == 1  # no cell was parted
    shlex.split(command_of(card).replace("$'", "'"))


def test_a_model_that_began_with_another_says_so(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("charlm.cli.train._draw_curves", lambda *_: None)
    donor = charlm.load("sums")
    tuned = charlm.train("sums.txt", name="tuned", init_from="sums", steps=2, device="cpu", threads=1, progress=False)
    checkpoint = load_checkpoint(tuned.run.last)
    assert checkpoint.bookkeeping.init_from == donor.checkpoint.state_sha256
    charlm.train(name="tuned", resume=True, progress=False)
    card = model_card(load_checkpoint(tuned.checkpoint), tuned.checkpoint)
    assert donor.checkpoint.state_sha256 in card
    shutil.copy(donor.path, place / "donor.safetensors")
    command = shlex.split(command_of(card))
    assert run([*command[1:], "--force", "-q"]) == 0
    assert load_checkpoint(tuned.run.last).state_sha256 == checkpoint.state_sha256


def test_many_files_are_listed_but_stand_in_the_command_as_a_folder(tmp_path: Path) -> None:
    (tmp_path / "texts/sub").mkdir(parents=True)
    for number in range(25):
        (tmp_path / f"texts/sub/{number:02}.txt").write_text(f"{number} " + TEXT[: 500 + number])
    done = charlm.train(tmp_path / "texts", checkpoints=tmp_path, **{**RUN, "steps": 2})
    card = model_card(load_checkpoint(done.checkpoint), done.checkpoint)
    assert command_of(card).startswith("charlm train texts --name texts ")
    assert card.count(".txt` | ") == 25
    assert "files were held out as a whole" in card
    assert str(tmp_path) not in card


def test_a_run_that_had_a_time_budget_or_has_not_finished_promises_nothing(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text(TEXT)
    given = {name: value for name, value in RUN.items() if name not in ("steps", "test")}
    asked = iter(range(10**6))
    stopped = charlm.train(
        tmp_path / "t.txt", checkpoints=tmp_path, time="10h", stop=lambda: "x" if next(asked) == 5 else None, **given
    )
    card = model_card(load_checkpoint(stopped.run.last), stopped.run.last)
    assert "had a time budget" in card
    assert "with the same weights" not in card.replace("not with the same weights", "")
    assert "--time 10h" in command_of(card)
    bare = Checkpoint(config=Config(), tokenizer=tokenizer_of("char").state(), weights={})
    assert "Nothing was held out" in model_card(bare, Path("model.safetensors"))


# the command


def said(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str:
    """What the command prints on standard output."""
    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", out)
        assert run(list(arguments)) == 0
        out.flush()
    return out.buffer.getvalue().decode()


def test_a_figure_is_printed_and_the_newest_run_is_named(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["export", "-o", "out.onnx"]) == 0
    shown = capsys.readouterr()
    assert re.fullmatch(
        r"log-probabilities differ from charlm's by at most \S+ nats, \S+ of the largest, "
        r"over 1,000 characters of validation text\n",
        shown.out,
    )
    assert "using the newest run: checkpoints/sums/best.safetensors" in shown.err
    record = json.loads(said(monkeypatch, "export", "sums", "--output", "out", "--format", "onnx", "--json", "-q"))
    assert (record["schema"], record["format"], record["output"]) == ("charlm.export/1", "onnx", "out")
    assert 0 < record["difference"] <= record["tolerance"] == 1e-5
    assert record["difference"] <= record["nats"] < 1e-4
    assert record["bytes"] == (place / "out").stat().st_size
    assert (place / "out").read_bytes() == (place / "out.onnx").read_bytes()


def test_a_card_goes_to_standard_output(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    charlm.load("sums").export(place / "README.md", licence="mit")
    card = said(monkeypatch, "export", "sums", "-o", "-", "--format", "card", "--licence", "mit", "-q")
    assert card == (place / "README.md").read_text(encoding="utf-8")
    assert card.startswith('---\nlicense: "mit"\n')


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["-o", "out"], 2, ["--format onnx or card", "out"]),
        (["-o", "out.onnx", "--format", "gguf"], 2, ["--format", "onnx, card"]),
        (["-o", "out.onnx", "--licence", "mit"], 2, ["--licence", "onnx"]),
        (["-o", "out.md", "--licence", "My own"], 2, ["--licence", "mit"]),
        (["-o", "none/out.onnx"], 74, ["no such folder"]),
        (["-o", "checkpoints"], 2, ["--format"]),
        (["-o", "checkpoints", "--format", "card"], 74, ["is a folder"]),
        (["-o", "-", "--format", "card", "--json"], 2, ["standard output"]),
        (["-o", "checkpoints/sums/best.safetensors", "--format", "card"], 2, ["is an input and an output"]),
        (["-o", "out.onnx", "--checkpoints", "nowhere"], 4, ["nowhere"]),
        ([], 2, ["--output"]),
    ],
)
def test_what_is_refused(
    place: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, words: list[str]
) -> None:
    before = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
    name = [] if "--checkpoints" in arguments else ["sums"]
    assert run(["export", *name, *arguments]) == code
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.count("\n") == 1
    for word in words:
        assert word in shown.err
    assert {path: path.read_bytes() for path in place.rglob("*") if path.is_file()} == before


def test_the_checkpoint_itself_is_not_overwritten_from_python(place: Path) -> None:
    model = charlm.load("sums")
    with pytest.raises(charlm.ConfigError, match="is the checkpoint itself; nothing was written"):
        model.export(place / "checkpoints/sums/best.safetensors", format="card")
    with pytest.raises(charlm.StorageError, match="cannot write"):
        model.export("none/card.md")


@pytest.mark.parametrize("library", ["onnx", "onnxruntime"])
def test_a_missing_library_is_one_line_with_what_to_install(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], library: str
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    assert run(["export", "sums", "-o", "out.onnx", "-q"]) == 1
    assert re.search(
        rf"needs the library {library}, which .*nothing was written; pip install 'charlm-cli\[onnx\]'\n",
        capsys.readouterr().err,
    )
    assert not (place / "out.onnx").exists()
    assert run(["export", "sums", "-o", "out.md", "-q"]) == 0  # which needs none


def test_a_damaged_checkpoint_and_a_model_that_is_too_large_are_refused(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = place / "checkpoints/sums/best.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    for output in ("out.onnx", "out.md"):
        assert run(["export", "sums", "-o", output]) == 4
        assert "damaged" in capsys.readouterr().err
    path.write_bytes(whole)
    monkeypatch.setattr(onnx_model, "_LARGEST", 1000)
    assert run(["export", "sums", "-o", "out.onnx"]) == 1
    assert "limited to 2 GB" in capsys.readouterr().err
    assert not list(place.glob("out*"))


def test_every_format_has_a_suffix_of_its_own() -> None:
    suffixes = [EXPORTS[name].suffix for name in EXPORTS]
    assert len(set(suffixes)) == len(suffixes) == 2
    assert ExportConfig() == ExportConfig(format="", licence="")


def test_a_checkpoint_that_says_nothing_of_where_it_began_is_read_as_before(tmp_path: Path) -> None:
    checkpoint = checkpoint_of(tokenizer_of("char"))
    save_checkpoint(tmp_path / "a.safetensors", checkpoint)
    assert load_checkpoint(tmp_path / "a.safetensors").bookkeeping.init_from == ""
