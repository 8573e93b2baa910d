"""Corpora of records from end to end: how they are read and divided, trained on, resumed, sampled and scored."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coded import packed, unpacked

import charlm
from charlm.cli.main import run as command
from charlm.errors import ConfigError, DataError
from charlm.storage.checkpoint import load_checkpoint
from charlm.text.corpus import load_corpus

SMALL: dict[str, Any] = {"hidden": 16, "embedding": 8, "batch": 8, "bptt": 8, "precision": "fp32", "threads": 1}
NAMES = [f"{first}{middle}{last}" for first in "bdfgklm" for middle in "aeiou" for last in ("n", "nna", "ssandra")]


@pytest.fixture
def names(tmp_path: Path) -> Path:
    path = tmp_path / "names.txt"
    path.write_text("".join(f"{name}\n" for name in NAMES))
    return path


def lines(text: str) -> list[str]:
    return text.removesuffix("\n").split("\n") if text else []


# reading and dividing


def test_records_are_held_out_whole_and_by_what_they_are(names: Path) -> None:
    corpus = load_corpus([str(names)], "0.2", "0.2", records="line")
    parts = [lines(part) for part in (corpus.train, corpus.val, corpus.test)]
    assert sorted(record for part in parts for record in part) == sorted(NAMES)
    assert all(len(part) > 5 for part in parts)
    names.write_text("".join(f"{name}\n" for name in [*reversed(NAMES), "quentin", *NAMES[:9]]))
    again = load_corpus([str(names)], "0.2", "0.2", records="line")
    for before, now in zip(parts, (again.train, again.val, again.test), strict=True):
        assert set(before) <= set(lines(now)) <= {*before, "quentin"}  # equal ones are together, others stay


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        ("line", "ada\r\n\r\n  \nemma", "ada\nemma\n"),
        ("line", "a\x03b\nc", "a\x03b\nc\n"),
        ("paragraph", "\n\none\ntwo\n\n \t\nthree\n", "one\ntwo\x03three\x03"),
        ("paragraph", "one\r\ntwo\r\n\r\nthree", "one\r\ntwo\x03three\x03"),
    ],
)
def test_records_are_what_stands_between_line_ends_or_blank_lines(
    tmp_path: Path, kind: str, text: str, expected: str
) -> None:
    (tmp_path / "t.txt").write_bytes(text.encode())
    assert load_corpus([str(tmp_path / "t.txt")], "0", records=kind).train == expected


def test_each_file_is_a_record(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.txt").write_text(f"{name}\n\n{name}\n")
    assert load_corpus([str(tmp_path)], "0", records="file").train == "a\n\na\n\x03b\n\nb\n\x03c\n\nc\n\x03"


@pytest.mark.parametrize(
    ("kind", "text", "says", "hint"),
    [
        ("line", "only one", "needs two records at least, but the text has 1", "a line of its own"),
        ("line", "\n \n\n", "needs two records at least, but the text has 0", "a line of its own"),
        ("paragraph", "one\ntwo\nthree", "needs two records at least, but the text has 1", "--records line"),
        ("file", "one\n\ntwo", "needs two records at least, but the text has 1", "a folder"),
        ("paragraph", "one\n\ntw\x03o", "U\\+0003, which ends a record, at character 7", "--records line"),
    ],
)
def test_a_text_without_records_is_refused_with_a_way_out(
    tmp_path: Path, kind: Any, text: str, says: str, hint: str
) -> None:
    (tmp_path / "t.txt").write_text(text)
    with pytest.raises(DataError, match=says) as refused:
        charlm.train(tmp_path / "t.txt", checkpoints=tmp_path / "runs", records=kind, steps=1)
    assert hint in str(refused.value)
    assert not (tmp_path / "runs").exists()


def test_what_is_trained_on_is_left_out_of_validation_and_said_of_a_test(tmp_path: Path, names: Path) -> None:
    (tmp_path / "val.txt").write_text("quentin\nban\nzoe\nquincy\n")
    (tmp_path / "test.txt").write_text("zoe\nbanna\nyves\n")
    corpus = load_corpus([str(names)], str(tmp_path / "val.txt"), str(tmp_path / "test.txt"), records="line")
    assert (corpus.val, corpus.test) == ("quentin\nquincy\n", "zoe\nbanna\nyves\n")
    said = " ".join(corpus.remarks)
    assert "2 validation records are in the training or test text, too, and are left out" in said
    assert "1 test records are in the training text, too" in said


# training and resuming


def train(corpus: Path, name: str, **options: Any) -> charlm.Trained:
    return charlm.train(corpus, name=name, checkpoints=corpus.parent / "runs", **{**SMALL, **options})


def after(steps: int) -> Callable[[], str | None]:
    asked = count()
    return lambda: "stop" if next(asked) == steps else None


@pytest.mark.fault(20)
@pytest.mark.parametrize(
    "more",
    [
        {},
        {"cell": "gru", "optimizer": "adamw", "dropout": 0.2},
        {"cell": "rnn", "tokenizer": "byte", "drop_state": 0.3},
        {"tokenizer": "sentencepiece", "bptt": 2},
        {"bptt": 3, "average": 0.2, "test": 0.1},
    ],
)
def test_a_run_over_records_resumes_exactly(names: Path, more: dict[str, Any]) -> None:
    options = {"records": "line", "steps": 30, **more}
    whole = train(names, "whole", **options)
    train(names, "parts", **options, stop=after(7))
    train(names, "parts", **more, resume=True, stop=after(11))
    parts = train(names, "parts", **more, resume=True)
    hashes = [load_checkpoint(one.run.last).state_sha256 for one in (whole, parts)]
    assert hashes[0] == hashes[1]
    assert whole.result["val_loss"] == parts.result["val_loss"]


@pytest.mark.fault(19)
@pytest.mark.parametrize("bptt", [2, 16])
def test_going_on_from_any_step_over_records_ends_the_same(
    names: Path, bptt: int, tries: Any, many: Callable[[int, int], int]
) -> None:
    """Over the ends of epochs, of records and of lanes: in pieces of two an epoch has 40 chunks, in whole names 12."""
    options = {"records": "line", "steps": 60, "bptt": bptt}
    whole = load_checkpoint(train(names, "whole", **options).run.last).state_sha256
    for step in range(0, 61, many(11, 1)):
        train(names, f"run-{step}", **options, stop=after(step))
        found = train(names, f"run-{step}", bptt=bptt, resume=True)
        assert load_checkpoint(found.run.last).state_sha256 == whole, step
        tries.survived()


def test_the_order_of_the_records_does_not_matter_to_what_a_name_costs(names: Path) -> None:
    trained = train(names, "n", records="line", steps=60)
    model = charlm.load(trained.checkpoint)
    together = model.nats("ban\nlossandra\nmen\n")
    alone = [model.nats(name) for name in ("ban", "lossandra", "men")]
    np.testing.assert_allclose(together, np.concatenate(alone), rtol=1e-5)
    backwards = model.nats("men\nlossandra\nban\n")
    np.testing.assert_allclose(backwards, np.concatenate(alone[::-1]), rtol=1e-5)
    score = model.score("ban\nlossandra\nmen")
    assert score.characters == 4 + 10 + 4  # ends are charged
    assert score.nats == pytest.approx(together.sum(), rel=1e-6)
    assert charlm.load(trained.checkpoint, records="none").score("ban\nmen\n").nats != pytest.approx(
        model.score("ban\nmen\n").nats, rel=1e-3
    )


def test_the_validation_loss_of_a_run_is_scored_again(names: Path) -> None:
    trained = train(names, "n", records="line", steps=30, val=0.2)
    model = charlm.load(trained.checkpoint)
    assert model.score(model.validation_text()).loss == pytest.approx(trained.result["val_loss"], abs=1e-6)


def test_what_needs_one_text_is_refused(names: Path) -> None:
    model = charlm.load(train(names, "n", records="line", steps=1).checkpoint)
    with pytest.raises(ConfigError, match="--dynamic reads a text from its beginning to its end"):
        model.nats("ban", dynamic=True)
    with pytest.raises(ConfigError, match="--cold-windows reads a text"):
        model.cold_nats("ban")


# the commands


def test_names_are_sampled_line_by_line_and_scored_record_by_record(
    names: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(names.parent)
    learn = "--steps 150 --hidden 32 --embedding 8 --batch 32 --bptt 16 --precision fp32 --threads 1 --optimizer muon"
    assert command(["train", "names.txt", "--records", "line", *learn.split(), "-q"]) == 0
    capfd.readouterr()
    assert command(["sample", "names", "--count", "20", "--seed", "0", "-q"]) == 0
    written = capfd.readouterr().out
    assert written.endswith("\n")
    assert len(written.splitlines()) == 20
    assert sum(name in NAMES for name in written.splitlines()) > 5
    (names.parent / "new.txt").write_text("ban\n\n\u2603\u2603\nlossandra")
    assert command(["eval", "names", "--text", "new.txt", "--json", "-q"]) == 0
    (row,) = json.loads(capfd.readouterr().out)["results"]
    assert (row["characters"], row["unknown_characters"]) == (4 + 3 + 10, 2)
    assert command(["score", "names", "--text", "new.txt", "--json", "-q"]) == 0
    found = json.loads(capfd.readouterr().out)["results"][0]
    assert found["nats"] == pytest.approx(row["nats"], rel=1e-5)
    assert [line["characters"] for line in found["lines"]] == [4, 3, 10]


def test_lines_that_seem_independent_are_said_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "names.txt").write_text("".join(f"{name}\n" for name in NAMES * 4))
    assert command(["train", "names.txt", "--steps", "1", "--hidden", "8"]) == 0
    assert "short lines of one word each: if they are independent, --records line" in capfd.readouterr().err


def test_a_list_of_records_is_compressed_as_it_is_scored(names: Path) -> None:
    """Each name from the initial state: the file is as long as the score says, whatever the order."""
    pytest.importorskip("constriction")
    model = charlm.load(train(names, "n", records="line", steps=60, hidden=24).checkpoint)
    for text in ("ban\nlossandra\nmen\n", "\n".join(NAMES[::-3]), "ban\n\n"):
        file = packed(model.checkpoint, text, "numpy")
        assert unpacked(model.checkpoint, file.data) == text
        if text.endswith("n\n") and "\n\n" not in text:
            assert file.done.nats == pytest.approx(model.score(text).nats, rel=1e-5)


# the page


def test_the_commands_of_the_page_work(
    tmp_path: Path, names: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """As they stand there, but that training is short and that the corpus is there already."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    names.rename(tmp_path / "data/names.txt")
    (tmp_path / "friends.txt").write_text("ban\nlossandra\n")
    (tmp_path / "poems.txt").write_text("\n\n".join(f"{name},\nmy {name}!" for name in NAMES))
    (tmp_path / "letters").mkdir()
    for name in NAMES:
        (tmp_path / "letters" / f"{name}.txt").write_text(f"Dear {name},\n\nfarewell.\n")
    page = (Path(__file__).parent.parent / "docs/records.md").read_text()
    commands = [line for block in re.findall(r"```sh\n(.*?)```", page, re.DOTALL) for line in block.splitlines()]
    assert len(commands) > 5
    for line in commands:
        if "data get" not in line:
            words = re.sub(r"--time \d+m", "--steps 3 --hidden 8 --precision fp32 --threads 1", line).split()
            assert command(words[1:]) == 0, capfd.readouterr().err
            capfd.readouterr()
