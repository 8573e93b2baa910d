"""charlm novelty"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from charlm.cli.command import CheckpointArgument, CorpusOption, FolderOption, Screen, command


def register(app: typer.Typer) -> None:
    @command(app, "novelty")
    def novelty(
        screen: Screen,
        options: dict[str, Any],  # noqa: ARG001
        text: Annotated[str, typer.Option(help="text to look at, - for standard input", metavar="FILE")],
        checkpoint: CheckpointArgument = None,
        corpus: CorpusOption = None,
        checkpoints: FolderOption = "checkpoints",
        as_json: Annotated[bool, typer.Option("--json", help="print the report as JSON, with all passages")] = False,
    ) -> None:
        """Tell how much of a text stands word for word in the text that a model was trained on, and where."""
        from charlm import api
        from charlm.storage.provenance import training_index
        from charlm.text.corpus import read_text

        content = read_text(text)
        model = api.load(checkpoint, checkpoints=checkpoints)
        if checkpoint is None:
            screen.note_newest(model.path)
        found = training_index(model.checkpoint, model.path, corpus or ()).novelty(content)
        if as_json:
            screen.json("novelty", checkpoint=str(model.path), text=text, **found.record())
            return
        from charlm.report.overlap import novelty_report

        novelty_report(screen.out, found)
