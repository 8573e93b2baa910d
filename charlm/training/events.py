"""What a training run reports while it goes on: events for a callback. It prints nothing itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from charlm.config import Config
from charlm.options import Value
from charlm.storage.records import Metrics


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """What will be trained; `reasons` says why, for each option that was chosen automatically."""

    name: str
    config: Config
    reasons: Mapping[str, str]
    parameters: int
    vocabulary: int
    train_characters: int
    val_characters: int
    test_characters: int = 0
    runtime: str
    departures: tuple[str, ...] = ()  # where a preset differs from the original


@dataclass(frozen=True, slots=True, kw_only=True)
class Remark:
    """Something about the text or the run that a user should know."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Resumed:
    """Going on from a checkpoint; `exact` when all that the result depends on is as it was."""

    step: int
    path: Path
    exact: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """The steps of a time budget have been timed: so many are planned, and these options follow from their number."""

    step: int
    total: int
    passes: float  # through the training text
    options: Mapping[str, Value]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stepped:
    """One update; `total` is 0 while a time budget is not yet measured, `left` is the seconds that remain."""

    step: int
    total: int
    loss: float  # nats per character over the last steps
    grad_norm: float
    lr: float
    characters_per_second: float
    seconds: float
    left: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Validated:
    """A validation, on a subset of the validation text."""

    step: int
    total: int
    train_loss: float
    val_loss: float
    best: bool
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """A row has been added to metrics.jsonl."""

    row: Metrics


@dataclass(frozen=True, slots=True, kw_only=True)
class RolledBack:
    """Training diverged, and goes on from an earlier step; rows and samples after it are gone from the record."""

    step: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampled:
    """A short text that the network writes as it is now; it has been added to samples.jsonl."""

    step: int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Writing:
    """From here on the run's folder is written to: to end the process, ask training to stop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved:
    """A checkpoint is on the disk."""

    step: int
    path: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """The end of a run; `reason` is `done`, `patience` or the name of a signal."""

    reason: str
    steps: int
    seconds: float


Event = (
    Started
    | Remark
    | Resumed
    | Settled
    | Stepped
    | Recorded
    | RolledBack
    | Validated
    | Sampled
    | Writing
    | Saved
    | Finished
)
Emit = Callable[[Event], None]


def ignore(event: Event) -> None:
    """Do nothing."""
