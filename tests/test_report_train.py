"""The closing words follow from the numbers: what the score means, how training went, or no validation text."""

from __future__ import annotations

import math
from pathlib import Path

from charlm.config import Config, ModelConfig, TrainConfig
from charlm.report.train import summarise
from charlm.report.verdict import Verdict
from charlm.storage.records import Result, Validation
from charlm.storage.runs import Run, Trained

TIMED = Config(model=ModelConfig(hidden=200), train=TrainConfig(time="10m"))
VERDICT = Verdict("flat", "It is flat.", "trains for longer", {"time": "20m"})


def said(
    losses: list[float],
    *,
    train: float = 1.5,
    vocabulary: int = 64,
    test: float | None = None,
    temperature: float | None = None,
) -> str:
    """The summary of a run whose validations, 100 steps and 90 seconds apart, found these losses; the best is final."""
    history = [Validation(step=100 * n, seconds=90.0 * n, train_loss=1.5, val_loss=x) for n, x in enumerate(losses, 1)]
    best = min(losses, default=None)
    result = Result(
        steps=100 * len(losses),
        characters_seen=1,
        train_loss=train,
        val_loss=best,
        val_bits_per_character=None if best is None else best / math.log(2),
        val_perplexity=None if best is None else math.exp(best),
        best_val_loss=best,
        test_loss=test,
        test_bits_per_character=None if test is None else test / math.log(2),
        seconds=1.0,
        temperature=temperature,
        stopped=False,
    )
    run = Run(Path("checkpoints/run"))
    return "\n".join(
        summarise(
            Trained(
                run=run,
                reason="done",
                checkpoint=run.best,
                result=result,
                history=tuple(history),
                config=TIMED,
                parameters=1,
                vocabulary=vocabulary,
            ),
            VERDICT,
        )
    )


def test_the_first_sentence_says_what_the_loss_means() -> None:
    first = said([math.log(8)], vocabulary=64).splitlines()[0]
    assert first.startswith("On its validation text, the model needs 3.00 bits per character")
    assert "among 8.0 equally likely characters" in first
    assert "a uniform guess is one among 64 (6.00 bits)" in first


def test_without_validation_text_only_memorisation_is_reported() -> None:
    lines = said([], train=0.5).splitlines()
    assert lines[0].startswith("There is no validation text")
    assert "0.5000 nats (0.721 bits)" in lines[0]
    assert "--val 0.1" in lines[1]


def test_only_a_test_text_is_one_that_no_choice_has_seen() -> None:
    """The best model is chosen by its validation loss, which says so; the headline is the test's, if there is one."""
    alone = said([2.0, 1.8, math.log(8)])
    assert "no choice" not in alone
    assert "not seen" not in alone
    lines = said([2.0, 1.8, math.log(8)], test=math.log(16)).splitlines()
    assert lines[0].startswith("On its test text, which no choice has seen, the model needs 4.00 bits per character")
    assert "among 16.0 equally likely characters" in lines[0]
    assert lines[1:] == alone.splitlines()[1:]


def test_a_test_text_without_a_validation_text_is_reported_too() -> None:
    lines = said([], test=math.log(16)).splitlines()
    assert lines[0].startswith("On its test text")
    assert "the last" in lines[1]
    assert "memorisation" not in "".join(lines)


def test_the_verdict_follows_and_names_the_options_of_the_command_below() -> None:
    assert said([2.0]).splitlines()[1:] == ["It is flat.", "The command below trains for longer (--time 20m)."]


def test_a_verdict_without_changes_names_no_command() -> None:
    assert Verdict("flat", "It is flat.").lines == ["It is flat."]
    assert Verdict("unjudged").lines == []


def test_a_temperature_that_was_tried_is_explained() -> None:
    assert "from 0.5 to 1, 0.7 writes the text" in said([2.0], temperature=0.7)
    assert "temperature" not in said([2.0])
