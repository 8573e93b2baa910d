"""Checkpoints that an earlier charlm wrote still load, score and sample the same.

`data/` holds the last checkpoints of two runs of commit 39121a6, and what that commit made of them. The format is a
promise: a change that needs these files made anew breaks it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import charlm

DATA = Path(__file__).with_name("data")
EXPECTED: dict[str, dict[str, Any]] = json.loads((DATA / "expected.json").read_text())
TEXT = "12 and 47 make 59.\nBut what of 7?\n"


@pytest.mark.parametrize("name", EXPECTED)
def test_a_checkpoint_of_an_earlier_commit_scores_and_samples_the_same(name: str) -> None:
    expected = EXPECTED[name]
    model = charlm.load(DATA / f"{name}.safetensors", threads=1)
    assert model.checkpoint.state_sha256 == expected["state_sha256"]
    assert model.score(TEXT, exact=True).nats == pytest.approx(expected["nats"], rel=1e-5)
    assert model.sample(length=60, temperature=0, prime="3 and ", engine="numpy") == expected["greedy"]
    assert model.sample(length=60, temperature=0.8, seed=4, prime="", engine="numpy") == expected["sampled"]


@pytest.mark.parametrize("name", EXPECTED)
def test_a_checkpoint_of_an_earlier_commit_has_no_test_text_and_keeps_its_split(name: str) -> None:
    checkpoint = charlm.load(DATA / f"{name}.safetensors", threads=1).checkpoint
    assert checkpoint.result is not None
    assert (checkpoint.result["test_loss"], checkpoint.config.data.test) == (None, "0")
    assert (checkpoint.corpus.split, checkpoint.corpus.test_characters) == ("characters", 0)
    assert not any(source.test for source in checkpoint.corpus.sources)


@pytest.mark.parametrize("name", EXPECTED)
def test_a_run_of_an_earlier_commit_goes_on(name: str, tmp_path: Path) -> None:
    """It has finished, so going on is finding that out; its text is not asked for."""
    run = tmp_path / name
    run.mkdir()
    (run / "last.safetensors").write_bytes((DATA / f"{name}.safetensors").read_bytes())
    done = charlm.train(name=name, checkpoints=tmp_path, resume=True)
    assert (done.reason, done.result.steps) == ("done", 300)
