"""Formats that a checkpoint can be exported to, for programs and readers other than charlm.

`charlm.config.EXPORTS` lists them. A new format is an `ExportFormat`, and a line there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from charlm.config import EXPORTS, ExportConfig
from charlm.errors import ConfigError
from charlm.export.parity import Parity
from charlm.storage.checkpoint import Checkpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What is to be written: the bytes of a file, and how far its figures are from charlm's, if it computes any."""

    data: bytes
    parity: Parity | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportFormat:
    """How a checkpoint is written in one format.

    suffix     of its files, by which it is chosen where no format is given
    text       whether it can be read on a terminal
    licence    whether it states the licence of the model
    export     the checkpoint, the path that it was read from, and the options, to a file; raises CharlmError
    """

    suffix: str
    text: bool = False
    licence: bool = False
    export: Callable[[Checkpoint, Path, ExportConfig], Exported]


def format_of(output: str, config: ExportConfig) -> str:
    """The name of the format that is meant: the one given, or that of the output's suffix; raises ConfigError."""
    formats: dict[str, ExportFormat] = {name: EXPORTS[name] for name in EXPORTS}
    found = config.format or next((name for name in formats if output.endswith(formats[name].suffix)), "")
    if not found:
        suffixes = " or ".join(kind.suffix for kind in formats.values())
        raise ConfigError(
            f"the format is not clear from the name {output}, which does not end in {suffixes}",
            kept="nothing was written",
            hint=f"give --format {' or '.join(formats)}",
        )
    if config.licence and not formats[found].licence:
        raise ConfigError(f"--licence does not apply to --format {found}", kept="nothing was written")
    return found


def export(checkpoint: Checkpoint, path: Path, name: str, config: ExportConfig) -> Exported:
    """A checkpoint, read from `path`, in the format of this name; raises CharlmError where that cannot be made."""
    kind: ExportFormat = EXPORTS[name]
    return kind.export(checkpoint, path, config)
