"""The command at the end of a run can be pasted: it parses, is quoted, and asks for what the run was asked for."""

from __future__ import annotations

import io
import json
import os
import shlex
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from processes import TEXT

import charlm
from charlm.cli.main import run
from charlm.config import check_train
from charlm.options import Value
from charlm.report.following import sampling_command, training_command
from charlm.storage.runs import Run, Trained
from charlm.training.request import TrainingRequest

SMALL: dict[str, Any] = {"hidden": 4, "layers": 1, "steps": 3, "device": "cpu", "precision": "fp32", "threads": 1}


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my novel.txt").write_text(TEXT)


@pytest.fixture
def trained() -> Trained:
    return charlm.train("my novel.txt", **SMALL)


def request(*corpus: str, **more: Any) -> TrainingRequest:
    given = more.pop("options", SMALL)
    return TrainingRequest(corpus=corpus or ("my novel.txt",), options=check_train(given), **more)


def words(trained: Trained, asked: TrainingRequest, changes: Mapping[str, Value]) -> list[str]:
    command = training_command(trained, asked, changes)
    assert command is not None
    return shlex.split(command)


def test_it_has_the_options_that_were_given_and_the_change_under_a_new_name(trained: Trained) -> None:
    found = words(trained, request(), {"steps": 6})
    assert found[:5] == ["charlm", "train", "my novel.txt", "--name", "my novel-2"]
    options = dict(zip(found[5::2], found[6::2], strict=True))
    assert options == {
        "--hidden": "4",
        "--layers": "1",
        "--device": "cpu",
        "--precision": "fp32",
        "--threads": "1",
        "--steps": "6",
    }


def test_what_the_change_excludes_is_left_out(trained: Trained) -> None:
    given = {"epochs": 3, "dropout_input": 0.1, "dropout_between": 0.2}
    found = words(trained, request(options=given), {"time": "20m", "dropout": 0.35})
    assert found[5:] == ["--time", "20m", "--dropout", "0.35"]


def test_dropout_is_named_once_where_it_is_the_same_everywhere(trained: Trained) -> None:
    assert words(trained, request(options={"dropout": 0.1}), {"steps": 6})[5:] == ["--steps", "6", "--dropout", "0.1"]


def test_the_run_is_found_again_with_all_that_surrounds_it(trained: Trained) -> None:
    elsewhere = Trained(**{name: getattr(trained, name) for name in Trained.__slots__} | {"run": Run(Path("a b/-c"))})
    asked = request("-odd.txt", preset="josef-k", init_from="other run", options={"val": "-later.txt"})
    found = words(elsewhere, asked, {"lr": 0.001})
    assert found == [
        *("charlm", "train", "./-odd.txt", "--name", "-c", "--force", "--checkpoints", "a b", "--preset", "josef-k"),
        *("--init-from", "other run", "--val=-later.txt", "--lr", "0.001"),
    ]


def test_a_name_is_chosen_that_no_run_has(trained: Trained) -> None:
    charlm.train("my novel.txt", name="my novel-2", **SMALL)
    assert "my novel-3" in words(trained, request(), {"steps": 6})


def test_a_run_that_was_resumed_repeats_all_its_options(trained: Trained) -> None:
    asked = TrainingRequest(name="my novel", resume=True)
    found = words(trained, asked, {"steps": 6})
    assert found[2] == str(Path("my novel.txt").resolve())
    again = dict(zip(found[5::2], found[6::2], strict=True))
    flat = trained.config.flat()
    assert {f"--{name}" for name in ("hidden", "batch", "bptt", "lr", "optimizer")} <= again.keys()
    assert all(str(flat[name[2:].replace("-", "_")]) == value for name, value in again.items() if name == "--hidden")


def test_there_is_no_command_without_a_change_or_a_text(trained: Trained) -> None:
    assert training_command(trained, request(), {}) is None
    assert training_command(trained, request("a.txt", "-"), {"steps": 6}) is None
    assert words(trained, request("-"), {"steps": 6})[2] == "checkpoints/my novel/corpus.txt"


@pytest.mark.parametrize(("temperature", "more"), [(None, []), (0.7, ["--temperature", "0.7"])])
def test_the_run_is_sampled_at_the_temperature_that_was_found(
    trained: Trained, temperature: float | None, more: list[str]
) -> None:
    found = replace(trained, run=Run(Path("-runs/my novel")), result=replace(trained.result, temperature=temperature))
    assert shlex.split(sampling_command(found)) == ["charlm", "sample", "./-runs/my novel", *more]


def said(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str:
    """What the command prints on standard output."""
    out = io.StringIO()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", out)
        assert run(list(arguments)) == 0
    return out.getvalue()


def test_what_is_printed_last_works_when_it_is_pasted(monkeypatch: pytest.MonkeyPatch) -> None:
    small = ("--hidden=4", "--layers=1", "--steps=3", "--threads=1", "--batch=2", "--bptt=8", "-q")
    last = said(monkeypatch, "train", "my novel.txt", *small).splitlines()[-1]
    command = shlex.split(last.removeprefix("next"))
    assert command[:2] == ["charlm", "train"]
    again = json.loads(said(monkeypatch, *command[1:], "-q", "--json"))
    assert again["checkpoint"] == os.path.join("checkpoints", "my novel-2", "best.safetensors")
    assert again["steps"] == 402
    assert shlex.split(again["next"])[:5] == ["charlm", "train", "my novel.txt", "--name", "my novel-3"]
