"""Synthetic tasks against a reader of their texts, and what networks make of them within a budget of steps."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from charlm.cli.main import run
from charlm.config import check_lags
from charlm.errors import ConfigError
from charlm.inspection.lags import FRESH, Learner, Trial, longest_bridged, trials
from charlm.inspection.tasks import TASKS
from charlm.models.network import named_weights

CLOSING = dict(zip("([{<", ")]}>", strict=True))


def answer(task: str, text: str) -> str:
    """The right answer, by reading the text."""
    assert text.endswith("?")
    if task == "recall":
        assert not set(text[1:-1]) & set("ABCDEFGH")
        return text[0]
    if task == "adding":
        marked = [ord(character) - ord("a") for character in text if character.islower()]
        assert text[0].islower()
        assert len(marked) == 2
        return "ABCDEFGHIJKLMNOPQRS"[sum(marked)]
    stack = []
    for character in text:
        if character in CLOSING:
            stack.append(character)
        elif character in CLOSING.values():
            assert CLOSING[stack.pop()] == character
    assert len(stack) == 1
    return CLOSING[stack[0]]


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("lag", [1, 2, 3, 20, 101])
def test_answers_are_those_of_who_reads_the_sequence(name: str, lag: int) -> None:
    task = TASKS[name]
    ids, answers = task.draw(np.random.default_rng(lag), lag, 60)
    assert ids.shape == (lag + 2, 60)
    assert [answer(name, task.text(ids[:, lane])) for lane in range(60)] == list(task.text(answers))


@pytest.mark.parametrize("name", TASKS)
def test_who_always_gives_the_commonest_answer_is_right_by_chance(name: str) -> None:
    _, answers = TASKS[name].draw(np.random.default_rng(1), 30, 20_000)
    assert np.bincount(answers).max() / 20_000 == pytest.approx(TASKS[name].chance, abs=0.012)


def test_brackets_are_nested_up_to_three_deep_behind_the_first() -> None:
    ids, _ = TASKS["brackets"].draw(np.random.default_rng(2), 60, 40)
    depth = np.cumsum(np.where(ids < 4, 1, np.where(ids < 8, -1, 0)), axis=0)
    assert depth.max() == 4
    assert (depth[-1] == 1).all()


def test_an_lstm_learns_to_recall_within_a_few_steps_and_the_same_again() -> None:
    config = check_lags({"cells": "lstm", "lags": "10,30", "seeds": 1, "hidden": 32, "steps": 400, "lr": 0.01})
    found, again = list(trials(config)), list(trials(config))
    assert [one.learned for one in found] == [True, True]
    assert all(one.share > 0.95 for one in found)
    assert found[1].sequences == 32 * found[1].steps > found[0].sequences
    assert [(one.right, one.steps) for one in found] == [(one.right, one.steps) for one in again]


def test_a_lag_that_was_not_learned_ends_the_training() -> None:
    config = check_lags({"cells": "gru", "lags": "30,10", "seeds": 1, "hidden": 4, "steps": 2})
    shorter, longer = trials(config)
    assert (shorter.lag, shorter.trained, shorter.learned, shorter.steps) == (10, True, False, 2)
    assert (longer.lag, longer.trained, longer.learned, longer.steps) == (30, False, False, 2)
    assert longer.share < 0.3


def test_without_a_curriculum_each_lag_has_a_new_network() -> None:
    given = {"cells": "rnn", "lags": "10,30", "seeds": 2, "hidden": 4, "steps": 3, "curriculum": False}
    found = list(trials(check_lags(given)))
    assert [(one.seed, one.lag, one.steps, one.trained) for one in found] == [
        (seed, lag, 3, True) for seed in (0, 1) for lag in (10, 30)
    ]


def test_the_time_budget_ends_training() -> None:
    (one,) = trials(check_lags({"cells": "lstm", "lags": "200", "seeds": 1, "hidden": 4, "time": "0.2s"}))
    assert not one.learned
    assert one.seconds >= 0.2


def test_recurrent_matrices_are_as_the_option_says() -> None:
    for init in ("orthogonal", "uniform"):
        config = check_lags({"recurrent_init": init, "hidden": 16, "forget_bias": 2.5})
        weights = named_weights(Learner(config, "lstm", 3).network)
        block = weights["rnn.0.weight_hh"][:16].detach()
        assert np.allclose((block @ block.T).numpy(), np.eye(16), atol=1e-5) == (init == "orthogonal")
        assert (float(block.abs().max()) <= 0.25) == (init == "uniform")
        assert weights["rnn.0.bias_ih"][16:32].tolist() == [2.5] * 16


def trial(cell: str, seed: int, lag: int, right: int) -> Trial:
    return Trial(cell, seed, lag, right, True, True, 320, 10, 1.0)


def test_the_longest_lag_is_the_last_that_all_networks_bridge_without_a_gap() -> None:
    found = [trial("lstm", seed, lag, 1000) for seed in (0, 1) for lag in (10, 30, 100)]
    found += [trial("gru", 0, 10, 960), trial("gru", 1, 10, 949), trial("gru", 0, 30, 1000), trial("gru", 1, 30, 1000)]
    found += [trial("rnn", 0, 10, 1000), trial("rnn", 1, 10, 950), trial("rnn", 0, 30, 900), trial("rnn", 0, 100, 999)]
    assert longest_bridged(found) == {"lstm": 100, "gru": 0, "rnn": 10}


def test_the_interval_is_wilsons() -> None:
    """Both edges solve (share - p)^2 = z^2 p (1 - p) / n."""
    one = trial("lstm", 0, 10, 870)
    for p in one.interval:
        assert (one.share - p) ** 2 == pytest.approx(1.959964**2 * p * (1 - p) / FRESH, rel=1e-5)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"lags": "10,0"}, "--lags must be numbers from 1 to 10,000"),
        ({"lags": ""}, "--lags must be"),
        ({"lags": "10;20"}, "--lags must be"),
        ({"cells": "lstm,ltsm"}, "--cells must be one of lstm"),
        ({"cells": "gru,gru"}, "gru twice"),
        ({"task": "copying"}, "--task must be one of recall"),
        ({"steps": 5, "time": "5s"}, "cannot be combined"),
        ({"cells": "gru", "forget_bias": 2.0}, "--forget-bias is for lstm"),
    ],
)
def test_bad_options_are_refused(given: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        check_lags(given)


def test_the_command_draws_and_reports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    small = ["--steps", "3", "--hidden", "4", "--seeds", "2", "--lags", "5,8", "--cells", "lstm,rnn"]
    assert run(["lags", *small, "-o", "lags.svg"]) == 0
    out, err = capfd.readouterr()
    assert len([line for line in out.splitlines() if "not trained" in line]) == 4
    assert "By chance 12.5 % are right" in out
    assert "rnn, seed 1, lag 8" in err
    assert "chance" in Path("lags.svg").read_text()
    assert run(["lags", *small, "--task", "brackets", "--json", "-q"]) == 0
    record = json.loads(capfd.readouterr().out)
    assert record["chance"] == 0.25
    assert [(one["cell"], one["seed"], one["lag"]) for one in record["trials"]] == [
        (cell, seed, lag) for cell in ("lstm", "rnn") for seed in (0, 1) for lag in (5, 8)
    ]
    assert run(["lags", "--lags", "0"]) == 2
    assert "--lags must be numbers from 1" in capfd.readouterr().err


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The lags of the steps of a network that answers all correctly."""
    lags: list[int] = []

    def always_right(learner: Learner, lag: int) -> int:
        lags.append(lag)
        learner.steps += 1
        return learner._config.batch

    monkeypatch.setattr(Learner, "_step", always_right)
    return lags


@pytest.mark.parametrize("curriculum", [True, False])
def test_with_a_curriculum_every_other_step_has_any_shorter_lag(curriculum: bool, seen: list[int]) -> None:
    config = check_lags({"cells": "lstm", "lags": "200", "steps": 1000, "curriculum": curriculum})
    assert Learner(config, "lstm", 0).learn(200)
    if not curriculum:
        assert set(seen) == {200}
        return
    grown, between = seen[::2], seen[1::2]
    assert grown == sorted(grown)
    assert (grown[0], grown[-1]) == (5, 200)
    assert all(5 <= lag <= most for lag, most in zip(between, grown[1:], strict=False))
    assert len(set(between)) > 20


@pytest.mark.parametrize("lag", [1, 3, 5])
def test_a_lag_that_no_curriculum_begins_below_is_learned_from_sequences_of_that_lag(lag: int, seen: list[int]) -> None:
    config = check_lags({"cells": "lstm", "lags": str(lag), "steps": 1000})
    assert Learner(config, "lstm", 0).learn(lag)
    assert set(seen) == {lag}
