"""Where results go, and the checks of outputs that come before any work.

Results go to standard output or to files, everything else to standard error. A file is written whole or not at all.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from charlm.cli import signals
from charlm.errors import CharlmError, ConfigError, StorageError

if TYPE_CHECKING:
    from charlm.config import ModelConfig
    from charlm.report.console import Console

STDOUT: Final = "-"
_KEPT: Final = "nothing was written"
_PICTURES: Final = (".png", ".svg")


@dataclass(frozen=True, slots=True)
class Screen:
    """Where a command writes: results to `out`, everything else to `err`."""

    quiet: bool
    color: bool

    @property
    def out(self) -> Console:
        from charlm.report.console import console

        return console(sys.stdout, color=self.color)

    @property
    def err(self) -> Console:
        from charlm.report.console import console

        return console(sys.stderr, color=self.color)

    def note(self, text: str) -> None:
        """One line on standard error, unless --quiet."""
        from charlm.report.words import one_line

        if not self.quiet:
            print(one_line(text), file=sys.stderr)  # noqa: T201

    def note_newest(self, path: Path) -> None:
        """Name the checkpoint that is used where the user named none."""
        self.note(f"using the newest run: {path}")

    def note_engine(self, engine: str, model: ModelConfig) -> None:
        """Say why a model is computed with NumPy where its engine is chosen automatically, and that this is slower."""
        from charlm.generation.engine import why_slower

        if engine == "auto" and (why := why_slower(model)):
            self.note(f"{why}: using NumPy, which is slower")

    def print(self, text: str, end: str = "\n") -> None:
        """Plain text on standard output."""
        print(text, end=end)  # noqa: T201

    def json(self, command: str, **content: Any) -> None:
        """The one JSON object of a command that reports."""
        self.print(json.dumps({"schema": f"charlm.{command}/1", **content}, allow_nan=False))

    def write_file(self, name: str, data: bytes) -> None:
        """Write a file whole or not at all; a pipe or a device is written to as it is. Raises StorageError."""
        from charlm.storage.durable import write_durably

        path = Path(name)
        if path.exists() and not path.is_file():
            try:
                path.write_bytes(data)
            except OSError as error:
                raise StorageError(f"cannot write {name}: {error.strerror}", hint="choose another name") from error
        else:
            with signals.held():
                write_durably(Path(os.path.realpath(name)), data)
        self.note(f"wrote {name}, {len(data):,} bytes")


def check_outputs(outputs: Sequence[str], inputs: Sequence[str | Path] = ()) -> None:
    """Refuse, before anything is computed, output files that could not be written or would destroy an input.

    Raises ConfigError where two outputs are one file or an output is an input, StorageError where there is no folder
    to write in. Paths are compared as files: links are followed. Standard input (-) is no file.
    """
    places = [os.path.realpath(path) for path in outputs]
    if len(set(places)) < len(places):
        raise ConfigError(f"two outputs have the same name: {', '.join(outputs)}", kept=_KEPT)
    read = {os.path.realpath(path) for path in inputs if path != STDOUT}
    for path, place in zip(outputs, places, strict=True):
        if place in read:
            raise ConfigError(f"{path} is an input and an output", kept=_KEPT, hint="choose another name")
        if not os.path.isdir(os.path.dirname(place)):
            raise StorageError(f"cannot write {path}: no such folder", kept=_KEPT, hint="make it, or choose another")
        if os.path.isdir(place):
            raise StorageError(f"cannot write {path}: it is a folder", kept=_KEPT, hint="name a file in it")


def check_picture(option: str, path: str) -> None:
    """Refuse a picture that could not be drawn: another format, or no matplotlib."""
    if Path(path).suffix.lower() not in _PICTURES:
        raise ConfigError(f"{option} must end in {' or '.join(_PICTURES)}, not {path}", kept=_KEPT)
    from charlm.report import picture

    if not picture.available():
        raise CharlmError(f"cannot draw {path}: matplotlib is not installed", kept=_KEPT, hint="pip install matplotlib")
