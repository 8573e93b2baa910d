"""charlm compare: the same text and options for all, resumed where it was, and what the differences are worth."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from processes import charlm as run_command

import charlm
from charlm.compare import Contest, members, names, of_equal_size, train_member
from charlm.config import CELLS, MODELS
from charlm.errors import ConfigError, StoppedError, StorageError
from charlm.evaluation.comparison import Row
from charlm.evaluation.score import Score
from charlm.report.standings import Standing, describe_standings
from charlm.storage.checkpoint import load_checkpoint

TEXT = "".join(f"{n} and {n} make {2 * n}.\n" for n in range(120))
OPTIONS: dict[str, Any] = {"steps": 6, "hidden": 8, "batch": 4, "bptt": 16, "threads": 1, "precision": "fp32"}
WORDS = [f"--{name}={value}" for name, value in OPTIONS.items()]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "sums.txt"
    path.write_text(TEXT)
    return path


def test_every_cell_and_architecture_can_be_compared() -> None:
    assert set(names()) == {*CELLS, *MODELS, "ngram"} - {"recurrent"}
    for name in set(names()) - {"ngram"}:
        (member,) = members(name)
        charlm.config.check_train(member.options)


@pytest.mark.parametrize(
    ("listed", "words"),
    [
        ("lstm,perceptron", "there is no model 'perceptron'.*known: lstm"),
        ("gru, gru", "--models has gru twice"),
        ("ngram", "at least one network"),
        (" , ", "at least one network"),
    ],
)
def test_a_list_that_cannot_be_meant_is_refused(listed: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        members(listed)


@pytest.mark.parametrize("parameters", [60_000, 300_000])
def test_networks_of_equal_size_have_about_as_many_parameters(corpus: Path, parameters: int) -> None:
    chosen = of_equal_size(members("lstm,gru,rnn,window,ngram"), parameters, 20, {})
    assert chosen[-1].options == {}
    for member in chosen[:-1]:
        given: dict[str, Any] = {**OPTIONS, **member.options, "steps": 1}
        trained = charlm.train(corpus, name=member.name, checkpoints=corpus.parent / "runs", **given)
        assert trained.parameters == pytest.approx(parameters, rel=0.1)


def test_a_member_goes_on_where_it_was(corpus: Path) -> None:
    """Stopped after three steps it ends like one that never was, and its memory is known."""
    (member,) = members("gru")
    folder = corpus.parent / "contest"
    asked = iter(range(100))
    given: dict[str, Any] = {**OPTIONS, **member.options, "checkpoints": folder}
    charlm.train(corpus, name="gru", stop=lambda: "stop" if next(asked) == 3 else None, **given)
    contest = Contest(folder, (str(corpus),), (member,), OPTIONS)
    train_member(contest, member, lambda: None, quiet=True)
    whole = charlm.train(corpus, name="whole", **given)
    assert load_checkpoint(folder / "gru/last.safetensors").state_sha256 == load_checkpoint(whole.run.last).state_sha256
    assert contest.peaks()["gru"] > 10**7


def test_a_signal_ends_the_member_at_work_saved(corpus: Path) -> None:
    (member,) = members("rnn")
    contest = Contest(corpus.parent / "contest", (str(corpus),), (member,), {**OPTIONS, "steps": 10**6})
    run = contest.run(member)

    def after_some_steps() -> str | None:
        return "SIGTERM" if run.metrics.exists() and run.metrics.stat().st_size else None

    with pytest.raises(StoppedError, match=r"interrupted while rnn was trained; .*goes on"):
        train_member(contest, member, after_some_steps, quiet=True)
    assert load_checkpoint(run.last).state.step > 0


def test_the_command_compares_on_the_same_text_and_goes_on(corpus: Path) -> None:
    command = ["compare", str(corpus), "--models", "lstm,window,ngram", *WORDS, "--json", "--quiet"]
    first = run_command(*command, cwd=corpus.parent)
    assert first.returncode == 0, first.stderr
    found = json.loads(first.stdout)
    assert found["schema"] == "charlm.compare/1"
    named = {one["name"]: one for one in found["models"]}
    assert set(named) >= {"lstm", "window"}
    assert [one["bits_per_character"] for one in found["models"]] == sorted(
        one["bits_per_character"] for one in found["models"]
    )
    for name in ("lstm", "window"):
        own = corpus.parent / found["folder"] / name
        last = load_checkpoint(own / "last.safetensors")
        assert last.result is not None
        assert named[name]["bits_per_character"] == pytest.approx(last.result.val_bits_per_character, abs=1e-3)
        assert named[name]["steps"] == OPTIONS["steps"]
    (counted,) = (one for one in found["models"] if one["parameters"] is None)
    assert counted["name"].split()[0] in ("kneser-ney", "witten-bell", "add-delta", "backoff")
    again = json.loads(run_command(*command, cwd=corpus.parent).stdout)
    assert [one["bits_per_character"] for one in again["models"]] == [
        one["bits_per_character"] for one in found["models"]
    ]
    other = run_command(*command, "--lr", "0.5", cwd=corpus.parent)
    assert other.returncode == ConfigError.exit_code
    assert "--lr" in other.stderr
    assert "could not be trained" in other.stderr


def test_options_are_checked_before_anything_is_trained(corpus: Path) -> None:
    for wrong, words in (
        (["--dropout", "2"], "--dropout must be"),
        (["--parameters", "5000"], "--hidden cannot be"),
        (["--val", "0"], "--val 0"),
    ):
        done = run_command("compare", str(corpus), *WORDS, *wrong, cwd=corpus.parent)
        assert done.returncode == ConfigError.exit_code
        assert words in done.stderr
        assert done.stderr.count("\n") == 1


def test_a_text_that_is_not_there_is_refused_as_by_train(corpus: Path) -> None:
    done = run_command("compare", "missing.txt", "--models", "rnn", *WORDS, cwd=corpus.parent)
    assert done.returncode == StorageError.exit_code
    assert "cannot read missing.txt" in done.stderr
    assert done.stderr.endswith("rnn could not be trained, so nothing was compared; nothing was trained\n")
    assert not (corpus.parent / "checkpoints").exists()


def row(name: str, bits: float, means: list[float] | None) -> Row:
    score = Score(nats=bits * np.log(2) * 100, characters=100, bytes=100, words=9, tokens=100, unknown_characters=0)
    return Row("validation text", 0, name, name, "network", score, None if means is None else np.array(means))


def test_differences_are_called_what_they_are_worth() -> None:
    steady = [2.0 + k / 1000 for k in range(40)]
    standings = [
        Standing(name="a", row=row("a", 2.0, steady)),
        Standing(name="b", row=row("b", 2.1, [value + 0.1 for value in steady])),
        Standing(name="c", row=row("c", 2.1, [value + (-1) ** k for k, value in enumerate(steady)])),
        Standing(name="d", row=row("d", 2.1, None)),
    ]
    best, sure, unsure, short = describe_standings(standings)
    assert best.startswith("a predicts the validation text best, with 2.0000 bits")
    assert sure.endswith("more than chance.")
    assert unsure.endswith("no difference that this text can show.")
    assert "too short" in short
