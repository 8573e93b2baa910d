"""charlm page"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from charlm.cli.command import CheckpointArgument, FolderOption, JsonOption, Settings, command
from charlm.cli.help import OUTPUT, WHICH
from charlm.cli.outputs import Screen, check_outputs
from charlm.config import DEFAULT_FOLDER
from charlm.options import Option, check_all

if TYPE_CHECKING:
    from charlm.report.page.curves import Row
    from charlm.storage.checkpoint import Checkpoint

_OPTIONS: Final = {
    "precision": Option(
        str, "precision of the weights; int8 makes a smaller file", offers=("fp32", "int8"), group=OUTPUT
    )
}
_SETTINGS: Final = Settings(
    _OPTIONS, lambda given: str(check_all(given, _OPTIONS).get("precision", "fp32")), {"precision": "fp32"}
)


def register(app: typer.Typer) -> None:
    command(app, "page", _SETTINGS)(page)


def page(
    screen: Screen,
    precision: str,
    output: Annotated[
        str,
        typer.Option(
            "-o",
            "--output",
            help="HTML file to write, - for standard output; an existing one is replaced",
            metavar="FILE",
            rich_help_panel=OUTPUT,
        ),
    ],
    checkpoint: CheckpointArgument = None,
    checkpoints: FolderOption = DEFAULT_FOLDER,
    text: Annotated[
        str | None,
        typer.Option(
            help="text whose surprisal the page shows first, - for standard input",
            metavar="FILE",
            rich_help_panel=WHICH,
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write a web page that runs a recurrent model.

    The page is one file that needs neither a server nor a network. In it the model writes, with the options of charlm
    sample and the same text for the same seed; the distribution of the next character can be chosen from; a text that
    is pasted is coloured by surprisal; and what the model is and how it was trained is shown.

    Up to 20 MB of weights fit in a page: 5 million parameters in fp32, 20 million in int8. docs/page.md says more.
    """
    check_outputs([output], [text] if text is not None else [], as_json=as_json)
    screen = screen.beside([output])

    from charlm.report.page.model_page import Source, model_page
    from charlm.storage.checkpoint import load_checkpoint
    from charlm.storage.runs import find_checkpoint
    from charlm.text.large import open_text

    content = "" if text is None else str(open_text(text))
    path = find_checkpoint(checkpoint, checkpoints)
    check_outputs([output], [path])
    screen.note_model(checkpoint, path)
    loaded = load_checkpoint(path)
    made = model_page(
        Source(
            name=_name(checkpoint, path),
            path=path,
            checkpoint=loaded,
            rows=_rows(path, loaded),
            text=content,
            precision=precision,
        )
    )
    data = made.content.encode()
    screen.write_file(output, data)
    if as_json:
        screen.json(
            "page",
            checkpoint=str(path),
            output=output,
            bytes=len(data),
            weights=made.weights,
            parameters=loaded.parameters,
            precision=precision,
            text=text,
        )


def _name(what: str | None, path: Path) -> str:
    """What the page calls the model, without the folders in which it lies here: as `charlm sample` finds it."""
    from charlm.storage.hub import origin
    from charlm.storage.runs import Run

    run = Run(path.parent)
    if what and origin(path):
        return what
    files = (run.best, run.last, run.previous)  # in the order in which a run's name leads to them
    if path not in files:
        return path.name
    folder = run.folder.resolve().name
    return folder if path == next(file for file in files if file.exists()) else f"{folder}/{path.name}"


def _rows(path: Path, checkpoint: Checkpoint) -> Sequence[Row]:
    """The metrics of the run that the checkpoint lies in; of another one, its validations."""
    from charlm.storage.runs import Run

    run = Run(path.parent)
    own = path in (run.best, run.last, run.previous)
    return (run.read_metrics() if own else []) or checkpoint.history
