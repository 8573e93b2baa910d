"""What a trainer tells whoever watches it. It prints nothing itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from charlm.config import Config


@dataclass(frozen=True, slots=True)
class Chosen:
    """What will be trained; `reasons` says why, for each option that the user did not set."""

    name: str
    config: Config
    reasons: Mapping[str, str]
    parameters: int
    vocabulary: int
    train_characters: int
    val_characters: int
    runtime: str
    departures: tuple[str, ...] = ()  # where a preset parts from what it is named after


@dataclass(frozen=True, slots=True)
class Remark:
    """Something about the text or the run that a user should know."""

    text: str


@dataclass(frozen=True, slots=True)
class Resumed:
    """Going on from a checkpoint; `exact` when all that the result depends on is as it was."""

    step: int
    path: Path
    exact: bool


@dataclass(frozen=True, slots=True)
class Stepped:
    """One update; `total` is 0 while a time budget is not yet measured, `left` the seconds that remain."""

    step: int
    total: int
    loss: float  # nats per character over the last steps
    grad_norm: float
    lr: float
    characters_per_second: float
    seconds: float
    left: float


@dataclass(frozen=True, slots=True)
class Checked:
    """A look at the held-out text."""

    step: int
    total: int
    train_loss: float
    val_loss: float | None
    best: bool
    seconds: float


@dataclass(frozen=True, slots=True)
class Wrote:
    """A short text of the network as it is now."""

    step: int
    text: str


@dataclass(frozen=True, slots=True)
class Writing:
    """From here on the run's folder is written to: a bad moment to end the process."""


@dataclass(frozen=True, slots=True)
class Saved:
    step: int
    path: Path


@dataclass(frozen=True, slots=True)
class Finished:
    """The end of a run; `reason` is `done`, `patience` or the name of a signal."""

    reason: str
    steps: int
    seconds: float


Event = Chosen | Remark | Resumed | Stepped | Checked | Wrote | Writing | Saved | Finished
Emit = Callable[[Event], None]


def ignore(event: Event) -> None:
    """For whoever does not watch."""
