"""What a user asks to have trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from charlm.config import DEFAULT_FOLDER, LogConfig
from charlm.errors import ConfigError
from charlm.options import Value
from charlm.storage.runs import Run, default_name, newest_run, open_run
from charlm.text.corpus import STDIN
from charlm.text.files import stem
from charlm.training.defaults import preset


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingRequest:
    """A training run as a user asked for it, with options that are already checked.

    options      those that were given, as `charlm.config.check_train` returns them
    init_from    a checkpoint or run whose weights to start from
    """

    corpus: tuple[str, ...] = ()
    options: Mapping[str, Value] = field(default_factory=dict)
    name: str | None = None
    checkpoints: str = DEFAULT_FOLDER
    preset: str | None = None
    init_from: str | None = None
    resume: bool = False
    force: bool = False
    allow_data_change: bool = False

    def __post_init__(self) -> None:
        if self.resume and self.force:
            raise ConfigError("--resume and --force cannot be combined", kept="nothing was changed")
        preset(self.preset)  # raises ConfigError if there is none of this name

    @property
    def given(self) -> dict[str, Value]:
        """The options that were given, by the preset or in place of the preset's."""
        return {**preset(self.preset).options, **self.options}

    @property
    def log(self) -> str:
        """What the run is logged for besides its own files: nothing, or tensorboard."""
        return str(self.options.get("log", LogConfig().log))

    @property
    def departures(self) -> tuple[str, ...]:
        """Where the preset differs from what it is named after."""
        return preset(self.preset).departures

    @property
    def run(self) -> Run:
        """The run that is meant: by name, by the first corpus's stem, or for a bare `resume` the newest."""
        if self.name is None and not self.corpus and self.resume:
            return newest_run(Path(self.checkpoints))
        first = self.corpus[0] if self.corpus else STDIN
        name = "stdin" if first == STDIN else default_name(stem(Path(first).resolve()))
        return open_run(self.name if self.name is not None else name, self.checkpoints)
