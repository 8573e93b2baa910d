"""charlm novelty"""

from __future__ import annotations

from typing import Annotated

import typer

from charlm.cli.command import CheckpointArgument, CorpusOption, FolderOption, JsonOption, command
from charlm.cli.help import WHICH
from charlm.cli.outputs import Screen
from charlm.config import DEFAULT_FOLDER


def register(app: typer.Typer) -> None:
    command(app, "novelty")(novelty)


def novelty(
    screen: Screen,
    text: Annotated[
        str, typer.Option(help="text to check, - for standard input", metavar="FILE", rich_help_panel=WHICH)
    ],
    checkpoint: CheckpointArgument = None,
    corpus: CorpusOption = None,
    checkpoints: FolderOption = DEFAULT_FOLDER,
    as_json: JsonOption = False,
) -> None:
    """Find what a text copies from the training text of a model.

    Shows what fraction of the text occurs verbatim in the training text, and the longest passages that do. --json lists
    all of them.
    """
    from charlm import api
    from charlm.storage.provenance import training_index
    from charlm.text.large import open_text
    from charlm.text.portion import beginning_of_text

    content, cut = beginning_of_text(text, open_text(text))
    model = api.open_model(checkpoint, checkpoints=checkpoints)
    screen.note_model(checkpoint, model.path)
    index = training_index(model.checkpoint, model.path, corpus or ())
    remarks = [remark for remark in (cut, index.remark) if remark]
    found = index.novelty(content)
    if as_json:
        screen.json("novelty", checkpoint=str(model.path), text=text, remarks=remarks, **found.record())
        return
    from charlm.report.overlap import novelty_report

    novelty_report(screen.out, found, remarks)
