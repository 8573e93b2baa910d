"""charlm inspect gates"""

from __future__ import annotations

from typing import Final

import typer

from charlm.cli.command import CheckpointArgument, FolderOption, JsonOption, Settings, command
from charlm.cli.inspect.shared import LENGTH, LENGTH_DEFAULTS, PictureOption, TextOption, checked, names_of, opened
from charlm.cli.outputs import Screen, picture_kind
from charlm.config import DEFAULT_FOLDER
from charlm.options import check_all

_GATES: Final = Settings(
    LENGTH, lambda given: int({**LENGTH_DEFAULTS, **check_all(given, LENGTH)}["length"]), LENGTH_DEFAULTS
)


def register(group: typer.Typer) -> None:
    command(group, "gates", _GATES)(gates)


def gates(
    screen: Screen,
    length: int,
    run: CheckpointArgument = None,
    text: TextOption = None,
    checkpoints: FolderOption = DEFAULT_FOLDER,
    output: PictureOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show how often each gate is open or shut, by layer and unit.

    A gate is low in the lowest tenth of its range and high in the highest: a sigmoid below 0.1 or above 0.9, a tanh
    below -0.8 or above 0.8. The picture has a point for each unit (Karpathy, Johnson and Fei-Fei 2015).
    """
    screen = checked(screen, output, text, as_json=as_json)
    model, read = opened(screen, run, checkpoints, text, length)

    from charlm.inspection.saturation import saturation
    from charlm.inspection.subject import open_network
    from charlm.report.gates import gates_picture, gates_report

    found = saturation(open_network(model.config.model, model.checkpoint.weights), read)
    if output is not None:
        screen.write_file(output, gates_picture(names_of([model])[0], found, picture_kind(output)))
    if as_json:
        screen.json(
            "inspect",
            checkpoint=str(model.path),
            characters=len(read.text),
            gates=[one.record() for one in found],
        )
    elif not (screen.data and screen.quiet):
        gates_report(screen.out, found)
