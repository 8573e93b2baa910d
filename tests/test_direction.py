"""Models that read backward: forward models of the reversed text, whose figures stand where the characters do."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coded import packed, unpacked
from hypothesis import given
from hypothesis import strategies as st

import charlm
from charlm.cli.main import run
from charlm.compression import compress
from charlm.errors import ConfigError, DataError
from charlm.harness import Requests
from charlm.storage.checkpoint import load_checkpoint
from charlm.text import large, stored
from charlm.text.direction import turned, turned_values
from charlm.text.large import StoredCorpus, open_corpus

TEXT = "".join(f"{n} and {n} make {2 * n}, ża\u0301.\r\n" for n in range(120))
TINY: dict[str, Any] = {
    "steps": 12,
    "hidden": 12,
    "layers": 2,
    "batch": 4,
    "bptt": 16,
    "precision": "fp32",
    "threads": 1,
}
BACK: dict[str, Any] = {**TINY, "direction": "backward"}


def trained(folder: Path, name: str, text: str, **options: Any) -> charlm.LanguageModel:
    path = folder / f"{name}.txt"
    path.write_bytes(text.encode())
    made = charlm.train(path, name=name, checkpoints=folder, device="cpu", progress=False, **options)
    return charlm.load(made.checkpoint, device="cpu")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[charlm.LanguageModel, charlm.LanguageModel]:
    """A backward model of a text, and a forward model of the reversed text."""
    folder = tmp_path_factory.mktemp("direction")
    (folder / "val.txt").write_bytes(TEXT[:900].encode())
    (folder / "lav.txt").write_bytes(TEXT[:900][::-1].encode())
    backward = trained(folder, "backward", TEXT, val=folder / "val.txt", **BACK)
    return backward, trained(folder, "forward", TEXT[::-1], val=folder / "lav.txt", **TINY)


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> tuple[charlm.LanguageModel, charlm.LanguageModel]:
    """The same of records: each is reversed by itself."""
    folder, names = tmp_path_factory.mktemp("lines"), [f"{n} {n * n}" for n in range(300)]
    backward = trained(folder, "backward", "\n".join(names), records="line", val=0, **BACK)
    reverse = "\n".join(name[::-1] for name in names)
    return backward, trained(folder, "forward", reverse, records="line", val=0, **TINY)


@given(st.text("ab\n\x03", max_size=30), st.sampled_from(["none", "line", "paragraph", "file"]))
def test_turning_twice_gives_the_text_and_values_follow_their_characters(text: str, records: str) -> None:
    there = turned(text, records)
    assert turned(there, records) == text
    points = np.array([ord(character) for character in there], dtype=np.int64)
    assert "".join(map(chr, turned_values(points, text, records))) == text
    if records == "line":
        assert there.split("\n") == [line[::-1] for line in text.split("\n")]


def test_a_backward_model_is_the_forward_model_of_the_reversed_text(
    pair: tuple[charlm.LanguageModel, charlm.LanguageModel],
) -> None:
    backward, forward = pair
    assert backward.backward
    assert not forward.backward
    for name, weight in backward.checkpoint.weights.items():
        assert np.array_equal(weight, forward.checkpoint.weights[name])
    ours, theirs = backward.checkpoint.result, forward.checkpoint.result
    assert ours
    assert theirs
    assert ours.val_loss == theirs.val_loss
    assert backward.score(backward.validation_text()).loss == pytest.approx(ours.val_loss, rel=1e-6)


def test_records_are_reversed_one_by_one(lines: tuple[charlm.LanguageModel, charlm.LanguageModel]) -> None:
    backward, forward = lines
    for name, weight in backward.checkpoint.weights.items():
        assert np.array_equal(weight, forward.checkpoint.weights[name])
    own, other = backward.nats("17 289\n3 9"), forward.nats("982 71\n9 3")
    assert own == pytest.approx(np.concatenate([other[:6][::-1], other[6:7], other[7:10][::-1], other[10:]]), rel=1e-5)
    names = backward.samples(count=4, seed=3, length=12)
    assert names == tuple(name[::-1] for name in forward.samples(count=4, seed=3, length=12))
    new = backward.samples(count=3, seed=1, novel=True, unique=True, rank=True, prime="0")
    assert not {name + "0" for name in new} & backward.training_records()


def test_figures_stand_at_the_characters_in_reading_order(
    pair: tuple[charlm.LanguageModel, charlm.LanguageModel],
) -> None:
    """The surprisal of a character is given by what follows it: the last one stands alone."""
    backward, forward = pair
    text = "17 and 17 mäke 34, ża\u0301.\r\n" * 3
    nats = backward.nats(text, exact=True)
    assert nats == pytest.approx(forward.nats(text[::-1], exact=True)[::-1], rel=1e-5)
    assert nats[-1] == pytest.approx(forward.nats(text[-1])[0], rel=1e-5)
    assert backward.score(text).characters == len(text)
    ours, theirs = (
        model.surprisal(t, likeliest=2, within=5, forecast=True)
        for model, t in ((backward, text), (forward, text[::-1]))
    )
    every = forward.surprisal(text[::-1], likeliest=2)
    assert ours.text == text
    assert ours.unknown_characters == 3
    assert ours.character_nats == pytest.approx(theirs.character_nats[::-1])
    assert ours.forecast and theirs.forecast and ours.likeliest and every.likeliest  # noqa: PT018 - for the types
    assert ours.forecast.rank.tolist() == theirs.forecast.rank[::-1].tolist()
    assert ours.likeliest.ids.tolist() == every.likeliest.ids[::-1][:5].tolist()
    assert "".join(row for row in backward.characters(text).character) == text
    assert sum(word.bits for word in ours.words()) < ours.total.bits
    for own, other in zip(backward.separate_nats([text, "1"]), forward.separate_nats([text[::-1], "1"]), strict=True):
        assert own == pytest.approx(other[::-1], rel=1e-5)
    cold = backward.cold_nats(text, 10)
    assert cold[:10] == pytest.approx(backward.nats(text[:10], exact=True), rel=1e-4)
    assert cold[-5:] == pytest.approx(backward.nats(text[-5:], exact=True), rel=1e-4)
    assert backward.nats(text, dynamic=True) == pytest.approx(forward.nats(text[::-1], dynamic=True)[::-1], rel=1e-4)


def test_minimal_pairs_charge_the_line_end_before_a_text(
    pair: tuple[charlm.LanguageModel, charlm.LanguageModel],
) -> None:
    backward, forward = pair
    (own,), (other,) = backward.pairs([("1 and", "dna 2")]).judged, forward.pairs([("dna 1", "2 and")]).judged
    assert [own.better.bits, own.worse.bits] == pytest.approx([other.better.bits, other.worse.bits], rel=1e-5)
    with pytest.raises(ConfigError, match="--end goes forward"):
        backward.pairs([("1", "2")], end="")


def test_samples_come_in_reading_order_before_what_follows(
    pair: tuple[charlm.LanguageModel, charlm.LanguageModel], capsys: pytest.CaptureFixture[str]
) -> None:
    backward, forward = pair
    options: dict[str, Any] = {"seed": 5, "count": 2, "length": 30}
    ours = backward.samples(prime="34.", **options)
    assert ours == tuple(text[::-1] for text in forward.samples(prime=".43", **options))
    assert backward.sample(prime="34.", stop=" ", seed=5) == forward.sample(prime=".43", stop=" ", seed=5)[::-1]
    assert run(["sample", str(backward.path), "--prime", "34.", "--seed", "5", "--length", "30", "--count", "2"]) == 0
    assert capsys.readouterr().out == "\0".join(text + "34." for text in ours)
    assert run(["sample", str(backward.path), "--prime", "34.", "--seed", "5", "--length", "30", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["samples"] == [ours[0] + "34."]


def test_compression_restores_the_text(
    pair: tuple[charlm.LanguageModel, charlm.LanguageModel], lines: tuple[charlm.LanguageModel, charlm.LanguageModel]
) -> None:
    for model, text in ((pair[0], TEXT[:200] + "ü"), (lines[0], "17 289\n3 9\n"), (lines[0], "no end\n\n3")):
        assert unpacked(model.checkpoint, packed(model.checkpoint, text).data) == text
    done = packed(pair[0].checkpoint, TEXT[:200]).done
    assert done.nats == pytest.approx(float(pair[0].nats(TEXT[:200], exact=True).sum()), rel=1e-4)


@pytest.mark.parametrize("block", [1, 20, 41])
def test_a_backward_model_compresses_block_by_block(
    pair: tuple[charlm.LanguageModel, charlm.LanguageModel], monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(compress, "_CHARACTERS", block)
    checkpoint, text = pair[0].checkpoint, TEXT[:60] + "ü\n" + TEXT[60:90]
    assert unpacked(checkpoint, packed(checkpoint, text).data) == text


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["sample", "--interactive"], "--interactive goes forward through a text"),
        (["eval", "--mix"], "--mix needs a forward model"),
    ],
)
def test_what_goes_forward_only_is_refused(
    pair: tuple[charlm.LanguageModel, charlm.LanguageModel],
    capsys: pytest.CaptureFixture[str],
    command: list[str],
    words: str,
) -> None:
    assert run([command[0], str(pair[0].path), *command[1:]]) == 2
    assert words in capsys.readouterr().err
    with pytest.raises(ConfigError, match="the lm-evaluation-harness goes forward"):
        Requests(pair[0])


@pytest.mark.parametrize("tokenizer", ["byte", "sentencepiece"])
def test_tokens_that_are_no_characters_are_not_read_backward(tmp_path: Path, tokenizer: str) -> None:
    with pytest.raises(ConfigError, match="needs tokens that are characters"):
        trained(tmp_path, "t", TEXT, tokenizer=tokenizer, **BACK)
    assert not (tmp_path / "t").exists()


def test_the_direction_is_the_runs_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is resumed exactly, contradicted in vain, adopted by --init-from, and named by info."""
    whole = trained(tmp_path, "whole", TEXT, **BACK)
    stops = iter([None] * 7 + ["now"] * 9)
    options = {**BACK, "name": "parts", "checkpoints": tmp_path, "device": "cpu", "progress": False}
    charlm.train(tmp_path / "whole.txt", stop=lambda: next(stops), **options)
    with pytest.raises(ConfigError, match="--direction forward contradicts the run"):
        charlm.train(name="parts", checkpoints=tmp_path, resume=True, direction="forward")
    charlm.train(name="parts", checkpoints=tmp_path, resume=True, progress=False)
    ends = [load_checkpoint(tmp_path / name / "last.safetensors") for name in ("whole", "parts")]
    assert ends[0].state_sha256 == ends[1].state_sha256
    assert trained(tmp_path, "child", TEXT, init_from=whole.path, steps=1, threads=1).backward
    with pytest.raises(ConfigError, match="--direction forward contradicts --init-from"):
        trained(tmp_path, "other", TEXT, init_from=whole.path, direction="forward")
    assert run(["info", str(whole.path)]) == 0
    assert "backward" in capsys.readouterr().out


def test_a_text_on_the_disk_is_read_backward_as_in_memory(
    tmp_path: Path, pair: tuple[charlm.LanguageModel, charlm.LanguageModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    in_memory = trained(tmp_path, "memory", TEXT, **BACK)
    monkeypatch.setattr(large, "LARGE", 1000)
    monkeypatch.setattr(stored, "BLOCK", 700)
    (tmp_path / "more.txt").write_bytes(TEXT[:500].encode())
    corpus = open_corpus([str(tmp_path / "memory.txt"), str(tmp_path / "more.txt")], "0.1")
    assert isinstance(corpus, StoredCorpus)
    text, back = str(corpus.train), turned(corpus.train)
    assert str(back) == text[::-1]
    assert str(turned(back)) == text
    assert back[3:2500] == text[::-1][3:2500]
    assert back.name != corpus.train.name
    places = np.arange(0, len(text), 7)[:, None]
    assert back.codes.at(places).tolist() == corpus.train.codes.at(len(text) - 1 - places).tolist()
    on_disk = trained(tmp_path, "disk", TEXT, **BACK)
    for name, weight in on_disk.checkpoint.weights.items():
        assert np.array_equal(weight, in_memory.checkpoint.weights[name])
    cells = np.zeros(5)
    found = pair[0].score_stored(corpus.train, cells)
    assert found.nats == pytest.approx(pair[0].score(text).nats, rel=1e-4)
    assert math.isclose(cells[-1], pair[0].nats(text)[-len(text) // 5 :].sum(), rel_tol=0.01)
    with pytest.raises(DataError, match="records of more than 8 MiB cannot be read backward"):
        trained(tmp_path, "records", TEXT, records="line", **BACK)
    assert not (tmp_path / "records").exists()
