"""charlm plot"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Final

import typer

from charlm.cli import complete
from charlm.cli.command import FolderOption, JsonOption, Settings, command
from charlm.cli.help import OUTPUT, WHICH
from charlm.cli.outputs import Screen, check_outputs, check_picture, check_replaced_picture, picture_kind
from charlm.config import DEFAULT_FOLDER
from charlm.errors import CheckpointError, ConfigError
from charlm.options import Option, check_all

if TYPE_CHECKING:
    from charlm.report.run_curves import Curve
    from charlm.storage.runs import Run

_KINDS: Final = (".png", ".svg", ".pdf")
_KEPT: Final = "nothing was drawn"
_OPTIONS: Final = {
    "x": Option(
        str, "draw against training time, steps or characters", offers=("seconds", "steps", "characters"), group=OUTPUT
    )
}
_SETTINGS: Final = Settings(
    _OPTIONS, lambda given: str(check_all(given, _OPTIONS).get("x", "seconds")), {"x": "seconds"}
)


def register(app: typer.Typer) -> None:
    command(app, "plot", _SETTINGS)(plot)


def plot(
    screen: Screen,
    x: str,
    output: Annotated[
        str,
        typer.Option(
            "-o",
            "--output",
            help="picture to write, as its name ends: .png, .svg or .pdf; - for a PNG on standard output",
            metavar="FILE",
            rich_help_panel=OUTPUT,
        ),
    ],
    run: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RUN",
            help="run folders or names (default: the newest run)",
            autocompletion=complete.runs,
            rich_help_panel=WHICH,
        ),
    ] = None,
    checkpoints: FolderOption = DEFAULT_FOLDER,
    as_json: JsonOption = False,
) -> None:
    """Draw the losses of runs in one picture.

    Each run has a colour: a thick line for its validation loss, a thin one for its training loss. They are read from
    metrics.jsonl, so that runs which are still training can be drawn, too: charlm plot checkpoints/* -o all.png draws
    all runs.
    """
    check_outputs([output], as_json=as_json, options=["--output"])
    check_picture("--output", output, _KINDS)
    check_replaced_picture(output)
    screen = screen.beside([output])

    from charlm.report.run_curves import run_curves
    from charlm.storage.runs import find_run

    found = [find_run(what, checkpoints) for what in run or (None,)]
    if not run:
        screen.note_model(None, found[0].folder)
    curves = _curves(found)
    screen.write_file(output, run_curves(curves, x, picture_kind(output)))
    if as_json:
        records = [_record(one, curve) for one, curve in zip(found, curves, strict=True)]
        screen.json("plot", picture=output, x=x, runs=records)


def _curves(runs: Sequence[Run]) -> list[Curve]:
    """The rows of metrics of all runs, under names that are told apart."""
    from charlm.report.run_curves import Curve

    places = [one.folder.resolve() for one in runs]
    for number, one in enumerate(runs):
        if places[number] in places[:number]:
            raise ConfigError(f"{one.folder} is given twice", kept=_KEPT)
    rows = [one.read_metrics() for one in runs]
    for one, own in zip(runs, rows, strict=True):
        if not own:
            raise CheckpointError(f"{one.folder} has no metrics yet", kept=_KEPT, hint="wait for its first steps")
    names = [place.name for place in places]
    told = [name if names.count(name) == 1 else str(one.folder) for name, one in zip(names, runs, strict=True)]
    return [Curve(name, own) for name, own in zip(told, rows, strict=True)]


def _record(run: Run, curve: Curve) -> dict[str, object]:
    last, best = curve.rows[-1], curve.best
    return {
        "run": str(run.folder),
        "rows": len(curve.rows),
        "validations": len(curve.validations),
        "steps": last.step,
        "characters_seen": last.characters_seen,
        "seconds": last.seconds,
        "train_loss": last.train_loss,
        "best_val_loss": best.val_loss if best else None,
        "best_step": best.step if best else None,
    }
