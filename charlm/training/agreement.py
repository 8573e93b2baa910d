"""Options given again on resume must be those of the run; where they are not, the error names the way on."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

from charlm.config import HELD, LENGTHS, DataConfig, LogConfig, options_of, val_share
from charlm.errors import ConfigError, quoted
from charlm.options import Value, flag
from charlm.storage.checkpoint import Checkpoint
from charlm.storage.runs import Run
from charlm.training.again import held_out, train_again
from charlm.training.request import TrainingRequest
from charlm.training.warmstart import FIXED

_MAY_CHANGE: Final = ("device", "threads", *options_of(LogConfig))
_READING: Final = ("encoding", "records", "direction", "include", "exclude")  # how a text is read
_FILES: Final = 3  # of a text that a suggested command names


def agree(checkpoint: Checkpoint, request: TrainingRequest, run: Run) -> None:
    """Raise ConfigError where a given option is not the run's; the machine's may change, and what is logged."""
    has = checkpoint.config.flat()
    for name, value in request.given.items():
        if name in HELD and val_share(str(value), name) is None is val_share(str(has[name]), name):
            continue  # a file, which may have moved: its fingerprint is what counts
        if name not in _MAY_CHANGE and has[name] != value:
            raise ConfigError(
                f"{flag(name)} {value} contradicts the run, which has {_in_words(name, has)}",
                kept="nothing was changed",
                hint=f"leave it out, or {_another(checkpoint, request, run, name)}",
            )


def _in_words(name: str, has: Mapping[str, Value]) -> str:
    """An option of the run; of the three that give its length, the one that it has."""
    names = [length for length in LENGTHS if has[length]] if name in LENGTHS else [name]
    return " ".join(f"{flag(own)} {quoted(has[own])}" for own in names) or "no length of its own"


def _another(checkpoint: Checkpoint, request: TrainingRequest, run: Run, name: str) -> str:
    """A command that trains another run with what was given, from this one's weights where they fit."""
    warm = name not in FIXED
    command = train_again(
        run,
        _text(checkpoint, request),
        {**_unusual(checkpoint, request), **request.given},
        init_from=_checkpoint(run) if warm else "",
    )
    return f"train {'on from its weights' if warm else 'another run'}: {command}"


def _checkpoint(run: Run) -> str:
    """The run's name, or its folder where a file or folder has that name too."""
    return str(run.folder if os.path.exists(run.folder.name) else run.folder.name)


def _text(checkpoint: Checkpoint, request: TrainingRequest) -> list[str]:
    """The text as it was given now, or the files that the run was trained on."""
    sources = [source.path for source in checkpoint.corpus.training_sources]
    return list(request.corpus) or (sources if len(sources) <= _FILES else []) or ["CORPUS"]


def _unusual(checkpoint: Checkpoint, request: TrainingRequest) -> dict[str, object]:
    """The run's own options of the text, if not the usual ones, where they were not given now."""
    own, usual = checkpoint.config.data, DataConfig()
    read = {name: getattr(own, name) for name in _READING if getattr(own, name) != getattr(usual, name)}
    every = {**held_out(checkpoint.config, checkpoint.corpus), **read}
    return {name: value for name, value in every.items() if name not in request.given}
