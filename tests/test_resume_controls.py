"""Each part of a checkpoint is needed: without it, a resumed run ends otherwise, and the tests of resuming fail.

A part is removed by giving it the value that it has in a run that has not begun. Where a short plain run would not
show the difference, the checkpoint first gets a value that does.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matrix import Tries
from test_resume import OPTIONS, after, corpus, outcome, train

import charlm
from charlm.storage.checkpoint import Checkpoint, load_checkpoint
from charlm.storage.records import Plan, TrainState
from charlm.storage.runs import Run
from charlm.training import optim, step

__all__ = ["corpus"]
STOP = 31  # in the second of three epochs, of 27 chunks each
CHOICES: dict[str, dict[str, Any]] = {
    "muon": {},
    "adamw": {"optimizer": "adamw", "cell": "gru"},
    "rmsprop": {"optimizer": "rmsprop", "cell": "rnn"},
    "average": {"average": 0.3},
}
TELLING: dict[str, dict[str, Any]] = {  # values of training that a plain run has only seldom
    "plan": {"plan": Plan(((0, 0.0), (25, 0.3), (60, 1.0)))},
    "checks": {"checks": 9},
    "validation_characters": {"validation_characters": 30},
    "best": {"best": 0.5},
    "best_step": {"best": 0.5, "best_step": 7},
    "bad_checks": {"best": 0.5, "bad_checks": 2},
    "loss_scale": {"loss_scale": 512.0},
    "good_steps": {"good_steps": 1990},
    "stopped": {"stopped": True},
    "rollbacks": {"rollbacks": [(9, 0)]},
}
FRESH = TrainState(plan=Plan.of(60), checks=6, loss_scale=65536.0)  # what there is before the first step


def without_tensors(checkpoint: Checkpoint, start: str) -> Checkpoint:
    found = [name for name in checkpoint.tensors if name.startswith(start)]
    assert found, start
    return replace(
        checkpoint, tensors={**checkpoint.tensors, **{n: np.zeros_like(checkpoint.tensors[n]) for n in found}}
    )


def without(part: str, checkpoint: Checkpoint, first: Checkpoint) -> Checkpoint:  # noqa: PLR0911 - one a kind
    """The checkpoint with this part as it is in the run's first."""
    kind, _, name = part.partition(" ")
    match kind:
        case "weight":
            return replace(checkpoint, weights={**checkpoint.weights, name: first.weights[name]})
        case "tensors":
            return without_tensors(checkpoint, name)
        case "position":
            position = checkpoint.state.position._replace(**{name: 0})
            return replace(checkpoint, training=replace(checkpoint.state, position=position))
        case "training":
            return replace(checkpoint, training=replace(checkpoint.state, **{name: getattr(FRESH, name)}))
        case "metrics_length":
            return replace(checkpoint, bookkeeping=replace(checkpoint.bookkeeping, metrics_length=0))
        case "history":
            return replace(checkpoint, history=())
    config = checkpoint.config
    return replace(checkpoint, config=replace(config, train=replace(config.train, seed=99)))


def parts(checkpoint: Checkpoint) -> Iterator[str]:
    """Every part by its name: each weight, each kind of tensor, each entry of the training state, and the rest."""
    yield from (f"weight {name}" for name in checkpoint.weights)
    yield from sorted({"tensors " + ".".join(name.split(".")[:2]) for name in checkpoint.tensors if "optim" in name})
    yield from (f"tensors {name}" for name in checkpoint.tensors if name.startswith(("state.", "iterate.")))
    yield from (f"position {name}" for name in checkpoint.state.position._fields)
    # The optimizer's options and the seed repeat the configuration, for the hash; `start` counts where a run diverges;
    # nothing is `unsettled` where the number of steps is given (tests/test_settling.py).
    known = {"position", "optimizer", "seed", "omitted", "start", "unsettled"}
    yield from (f"training {name}" for name in (entry.name for entry in fields(checkpoint.state)) if name not in known)
    yield from ("seed", "metrics_length", "history")


def resumed(run: Run, checkpoint: Checkpoint, name: str) -> Any:
    """How a copy of the run ends that goes on from this checkpoint; what stops it from ending is an end too."""
    copy = Run(run.folder.with_name(name))
    shutil.rmtree(copy.folder, ignore_errors=True)
    shutil.copytree(run.folder, copy.folder)
    copy.save_last(checkpoint)
    copy.previous.unlink()  # which is intact
    try:
        return outcome(charlm.train(checkpoints=copy.folder.parent, name=name, resume=True))
    except charlm.CharlmError as error:
        return str(error)


@pytest.mark.fault(18)
@pytest.mark.parametrize("choice", CHOICES)
def test_a_resume_without_any_part_of_the_state_ends_otherwise(
    corpus: Path, monkeypatch: pytest.MonkeyPatch, tries: Tries, choice: str
) -> None:
    # A loss that is scaled, as on a GPU in fp16, so that the scale is a part that counts.
    monkeypatch.setattr(step, "LossScale", lambda _, *given: optim.LossScale(True, *given))
    options = {**OPTIONS, **CHOICES[choice], "patience": 3, "steps": 60, "batch": 5}
    whole = outcome(train(corpus, "whole", **options))
    first = load_checkpoint(train(corpus, "run", **options, stop=after(0)).run.last)
    trained = train(corpus, "run", resume=True, stop=after(STOP))
    plain = load_checkpoint(trained.run.last)
    assert resumed(trained.run, plain, "intact") == whole
    ends = {"": whole}
    for part in parts(plain):
        telling = TELLING.get(part.removeprefix("training "), {})
        intact = replace(plain, training=replace(plain.state, **telling))
        key = repr(telling) if telling else ""
        if key not in ends:
            ends[key] = resumed(trained.run, intact, "intact")
        changed = without(part, intact, first)
        assert changed.to_bytes() != intact.to_bytes(), part
        assert resumed(trained.run, changed, "without") != ends[key], f"{part} makes no difference"
        tries.survived()
    assert tries.count > 25
