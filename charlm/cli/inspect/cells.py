"""charlm inspect cells"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Final, NamedTuple

import typer

from charlm.cli.command import CheckpointArgument, FolderOption, JsonOption, Settings, command
from charlm.cli.help import OUTPUT
from charlm.cli.inspect.shared import KEPT, LENGTH, LENGTH_DEFAULTS, TextOption, names_of, opened
from charlm.cli.outputs import Screen, check_outputs, is_stdout
from charlm.config import DEFAULT_FOLDER, INSPECTION
from charlm.errors import ConfigError
from charlm.options import Option, check_all

_MOST: Final = 200_000  # characters at which the states of all units are in memory


class _Cells(NamedTuple):
    length: int
    show: int


_CELL_OPTIONS: Final = {
    "length": replace(LENGTH["length"], high=_MOST),
    "show": Option(int, "characters to show coloured in a terminal", 0, 10**6, group=OUTPUT),
}
_CELL_DEFAULTS: Final = {**LENGTH_DEFAULTS, "show": 1500}
_CELLS: Final = Settings(
    _CELL_OPTIONS,
    lambda given: _Cells(**{**_CELL_DEFAULTS, **check_all(given, _CELL_OPTIONS)}),  # type: ignore[arg-type]
    _CELL_DEFAULTS,
)


def register(group: typer.Typer) -> None:
    command(group, "cells", _CELLS)(cells)


def cells(
    screen: Screen,
    config: _Cells,
    run: CheckpointArgument = None,
    text: TextOption = None,
    unit: Annotated[
        str | None,
        typer.Option(
            help="look at this unit alone, both counted from 1 (default: find units among all)",
            metavar="LAYER:NUMBER",
            rich_help_panel=INSPECTION,
        ),
    ] = None,
    checkpoints: FolderOption = DEFAULT_FOLDER,
    output: Annotated[
        str | None,
        typer.Option(
            "-o", "--output", help="HTML page to write, with the text coloured", metavar="FILE", rich_help_panel=OUTPUT
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Find cells that follow quotation, brackets, lines, indentation and words.

    A cell is c of an LSTM, h of any other network. For each feature the unit is taken that follows it most closely in
    the first half of the text. The second half scores it, and decides by a permutation test over all units whether that
    is luck. Then the cell is held at its mean: what this costs is what it is good for. In a terminal the text is
    coloured by the clearest cell, or by --unit.
    """
    outputs = [] if output is None else [output]
    check_outputs(outputs, [] if text is None else [text], as_json=as_json)
    if output is not None and not (output.lower().endswith(".html") or is_stdout(output)):
        raise ConfigError(f"--output must end in .html, not {output}", kept=KEPT)
    screen = screen.beside(outputs)
    model, read = opened(screen, run, checkpoints, text, config.length)

    from charlm.inspection.cells import Activity, find_cells, unit_of
    from charlm.inspection.subject import open_network
    from charlm.report.cells import cells_report, coloured, title_of
    from charlm.report.page.cells_page import cells_page

    network = open_network(model.config.model, model.checkpoint.weights)
    named = None if unit is None else unit_of(network, unit, str(model.path))
    activity = Activity(network, read)
    findings, costs = find_cells(activity, activity.units if named is None else [named])
    state = network.cell.states[-1]
    shown = {one: activity.of([one])[:, 0] for one in costs}
    if output is not None:
        name = names_of([model])[0]
        screen.write_file(output, cells_page(name, read.text, state, findings, costs, shown).encode())
    if as_json:
        screen.json(
            "inspect",
            checkpoint=str(model.path),
            state=state,
            characters=len(read.text),
            units=len(activity.units) if named is None else 1,
            features=[one.record() for one in findings],
            costs=[{"unit": str(one), "bits_per_character": cost} for one, cost in costs.items()],
            activity=None if named is None else shown[named].astype(float).tolist(),
        )
    elif not (screen.data and screen.quiet):
        clearest = max((one for one in findings if one.found), key=lambda one: abs(one.correlation or 0), default=None)
        seen = named or (clearest and clearest.unit)
        if seen is not None and config.show and output is None:
            coloured(screen.out, title_of(seen, state, findings), read.text, shown[seen], config.show)
        cells_report(screen.out, findings, costs)
