"""charlm runs"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import typer

from charlm.cli.command import FolderOption, JsonOption, command
from charlm.cli.outputs import Screen
from charlm.config import DEFAULT_FOLDER
from charlm.errors import ConfigError, quoted

if TYPE_CHECKING:
    from charlm.storage.listing import Listed, Skipped

_LISTED: Final = 3  # folders that a remark names


def register(app: typer.Typer) -> None:
    command(app, "runs")(runs)


def runs(screen: Screen, checkpoints: FolderOption = DEFAULT_FOLDER, as_json: JsonOption = False) -> None:
    """List all runs, the newest first.

    Each with its state, its text and model, how far it is, its validation loss in bits per character, its training
    time, its size on disk, and the time since it last changed. A table that is wider than the terminal leaves out
    columns; --json has all figures, and a command that goes on with a run or trains another like it.
    """
    from charlm.storage.listing import list_runs

    first = checkpoints == DEFAULT_FOLDER and not os.path.lexists(checkpoints)  # nothing has been trained here yet
    found, skipped = ([], []) if first else list_runs(Path(checkpoints))
    commands, now = [_command(run) for run in found], time.time()
    if as_json:
        from charlm.report.runs import run_record

        records = [run_record(run, words, now) for run, words in zip(found, commands, strict=True)]
        left_out = [{"folder": str(folder), "reason": reason} for folder, reason in skipped]
        screen.json("runs", checkpoints=checkpoints, runs=records, skipped=left_out)
    elif found:
        from charlm.report.runs import runs_report

        runs_report(screen.out, found, commands, now)
    else:
        from charlm.report.console import paragraphs

        paragraphs(screen.out, [f"There is no run in {checkpoints}; {_first_command(checkpoints)} trains one."])
    _note(screen, found, skipped)


def _command(run: Listed) -> str | None:
    """The command that goes on with an interrupted run, or trains another like it; None where there is none."""
    from charlm.storage.listing import INTERRUPTED
    from charlm.storage.runs import open_run
    from charlm.training.again import go_on, train_like

    if run.outline is None:
        return None
    if run.state != INTERRUPTED:
        return train_like(run.run, run.outline.config, run.outline.corpus)
    try:
        open_run(run.run.folder.name)
    except ConfigError:  # a folder that was renamed to what is no name of a run
        return None
    return go_on(run.run)


def _first_command(folder: str) -> str:
    return "charlm train CORPUS" + (f" --checkpoints {quoted(folder)}" if folder != DEFAULT_FOLDER else "")


def _note(screen: Screen, found: Sequence[Listed], skipped: Sequence[Skipped]) -> None:
    """Say what cannot be read, and which folders are no runs."""
    for run in found:
        if run.problem:
            screen.note(f"note: {run.problem}")
    if skipped:
        named = ", ".join(f"{folder.name} ({reason})" for folder, reason in skipped[:_LISTED])
        more = f" and {len(skipped) - _LISTED:,} more" if len(skipped) > _LISTED else ""
        screen.note(f"note: left out: {named}{more}")
