"""charlm export"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Final

import typer

from charlm.cli.command import CheckpointArgument, FolderOption, JsonOption, Settings, command
from charlm.cli.help import OUTPUT
from charlm.cli.outputs import Screen, check_outputs, check_terminal
from charlm.config import DEFAULT_FOLDER, EXPORT_OPTIONS, EXPORTS, ExportConfig, check_export

if TYPE_CHECKING:
    from charlm.export.parity import Parity

_SETTINGS: Final = Settings(EXPORT_OPTIONS, check_export)
_COMPARED: Final = ("difference", "nats", "characters", "text")  # the fields of a Parity


def register(app: typer.Typer) -> None:
    command(app, "export", _SETTINGS)(export)


def export(
    screen: Screen,
    config: ExportConfig,
    output: Annotated[
        str,
        typer.Option(
            "-o",
            "--output",
            help="file to write, - for standard output; an existing one is replaced",
            metavar="OUT",
            rich_help_panel=OUTPUT,
        ),
    ],
    checkpoint: CheckpointArgument = None,
    checkpoints: FolderOption = DEFAULT_FOLDER,
    as_json: JsonOption = False,
) -> None:
    """Export a model to ONNX, or write its model card.

    An ONNX file is one step of the network with explicit states, and has the vocabulary in its metadata, so that a
    program needs nothing else. It is run in onnxruntime over 1,000 characters first, and written only if the logarithms
    of its probabilities are within 1e-5 of charlm's, relative to the largest. docs/export.md has a program that samples
    from it.

    A card describes the model, its training text and its scores in Markdown for the Hugging Face Hub, with the command
    that repeats the run.
    """
    from charlm.export.formats import format_of

    name = format_of(output, config)
    check_outputs([output], as_json=as_json)
    if not EXPORTS[name].text:
        check_terminal(output, "an ONNX file")
    screen = screen.beside([output])

    from charlm import api
    from charlm.export.parity import TOLERANCE

    model = api.open_model(checkpoint, checkpoints=checkpoints)
    check_outputs([output], [model.path])
    screen.note_model(checkpoint, model.path)
    exported = model.exported(name, config)
    screen.write_file(output, exported.data)
    parity = exported.parity
    if as_json:
        screen.json(
            "export",
            checkpoint=str(model.path),
            format=name,
            output=output,
            bytes=len(exported.data),
            parameters=model.checkpoint.parameters,
            tolerance=parity and TOLERANCE,
            **(asdict(parity) if parity else dict.fromkeys(_COMPARED)),
        )
    elif parity:
        screen.print(_describe(parity))


def _describe(parity: Parity) -> str:
    return (
        f"log-probabilities differ from charlm's by at most {parity.nats:.2g} nats, {parity.difference:.2g} of the "
        f"largest, over {parity.characters:,} characters of {parity.text}"
    )
