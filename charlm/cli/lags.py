"""charlm lags"""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Final

import typer

from charlm.cli.command import JsonOption, Settings, command
from charlm.cli.help import OUTPUT
from charlm.cli.outputs import Screen, beside_picture, picture_kind
from charlm.config import LAG_OPTIONS, LagConfig, check_lags

_SETTINGS: Final = Settings(LAG_OPTIONS, check_lags, {**asdict(LagConfig()), "steps": ""})


def register(app: typer.Typer) -> None:
    command(app, "lags", _SETTINGS)(lags)


def lags(
    screen: Screen,
    config: LagConfig,
    output: Annotated[
        str | None,
        typer.Option(
            "-o",
            "--output",
            help="draw right answers against lags (.png or .svg); - for a PNG on standard output",
            metavar="FILE",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure which lags small networks learn to bridge.

    Networks of one layer learn a synthetic task whose answer depends on what came N characters before, and are asked
    about 1,000 new sequences. A network learns short lags first, and each lag has a time budget; it goes on as soon as
    99 % of its answers are right. What it has not learned within the budget ends its training. Nothing is read, and
    nothing is kept.
    """
    screen = beside_picture(screen, output, as_json=as_json)

    from charlm.inspection.lags import trials
    from charlm.inspection.tasks import TASKS
    from charlm.report.lags import lag_curves, lags_report, note

    found, task = [], TASKS[config.task]
    for one in trials(config):
        found.append(one)
        screen.note(note(one))
    if output is not None:
        screen.write_file(output, lag_curves(found, task, f"charlm lags: {config.task}", picture_kind(output)))
    if as_json:
        options = {name: value for name, value in asdict(config).items() if value not in ("", 0)}
        screen.json("lags", options=options, chance=task.chance, trials=[one.record() for one in found])
    elif not (screen.data and screen.quiet):
        lags_report(screen.out, found, task)
