"""charlm page"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from charlm.cli.command import CheckpointArgument, CorpusOption, FolderOption, JsonOption, Settings, command
from charlm.cli.help import OUTPUT, WHICH
from charlm.cli.outputs import Screen, check_outputs
from charlm.config import DEFAULT_FOLDER
from charlm.errors import DataError, StorageError
from charlm.options import Option, check_all

if TYPE_CHECKING:
    from charlm.report.page.curves import Row
    from charlm.report.page.model_page import Source
    from charlm.storage.checkpoint import Checkpoint
    from charlm.storage.records import TrainingSample
    from charlm.storage.runs import Run

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
            help="text whose surprisal and cells the page shows first, - for standard input",
            metavar="FILE",
            rich_help_panel=WHICH,
        ),
    ] = None,
    corpus: CorpusOption = None,
    no_inspect: Annotated[
        bool,
        typer.Option(
            "--no-inspect",
            help="leave out cells that follow something, gradients and memory, which take some seconds",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Write a web page that runs a recurrent model.

    The page is one file that needs neither a server nor a network. In it the model writes, with the options of charlm
    sample and the same text for the same seed; the distribution of the next character can be chosen from; a text that
    is pasted is coloured by surprisal, and by what single cells do; how far gradients and memory reach back, what the
    model is and how it was trained is shown.

    Cells, gradients and memory are those of charlm inspect, on the beginning of the run's validation text, or, where
    that is not found, of --text.

    Up to 20 MB of weights fit in a page: 5 million parameters in fp32, 20 million in int8. docs/page.md says more.
    """
    check_outputs([output], [text] if text is not None else [], as_json=as_json)
    screen = screen.beside([output])

    from charlm.report.page.model_page import Source, checked_weights, model_page
    from charlm.storage.checkpoint import load_checkpoint
    from charlm.storage.runs import find_checkpoint
    from charlm.text.large import open_text

    content = "" if text is None else str(open_text(text))
    path = find_checkpoint(checkpoint, checkpoints)
    check_outputs([output], [path])
    screen.note_model(checkpoint, path)
    loaded = load_checkpoint(path)
    source = Source(
        name=_name(checkpoint, path),
        path=path,
        checkpoint=loaded,
        rows=_rows(path, loaded),
        samples=_samples(path),
        text=content,
        precision=precision,
    )
    checked_weights(source)  # before anything that takes seconds
    made = model_page(source if no_inspect else _inspected(screen, source, corpus or (), text))
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
    run = _run_of(path)
    return (run.read_metrics() if run else []) or checkpoint.history


def _samples(path: Path) -> Sequence[TrainingSample]:
    """Those of the run that the checkpoint lies in."""
    run = _run_of(path)
    return run.read_samples() if run else []


def _run_of(path: Path) -> Run | None:
    from charlm.storage.runs import Run

    run = Run(path.parent)
    return run if path in (run.best, run.last, run.previous) else None


def _inspected(screen: Screen, source: Source, corpus: Sequence[str], given: str | None) -> Source:
    """The same, with what can be seen inside of the model."""
    from charlm.inspection.overview import LONGEST, Overview, overview
    from charlm.report.page.inside import cells_part, inside_sections
    from charlm.report.words import one_line
    from charlm.storage.provenance import own_corpus

    checkpoint = source.checkpoint
    config, tokenizer = checkpoint.config, checkpoint.open_tokenizer()
    text, called, why = "", "the validation text", "The run has no validation text"
    if checkpoint.corpus.val_characters:
        try:
            text = str(own_corpus(checkpoint, source.path, corpus).val[:LONGEST])
        except (DataError, StorageError):
            if corpus:
                raise
            why = "The run's validation text was not found"
    if not text and source.text:
        text, called = source.text, "standard input" if given == "-" else one_line(Path(given or "").name)
    if text:
        screen.note("looking for cells, gradients and memory (--no-inspect leaves them out)")
        found = overview(config.model, checkpoint.weights, tokenizer, text, config.data.records)
    else:
        nothing = f"{why}: this is measured on another with charlm page --text FILE."
        found = Overview(cells=nothing, gradients=nothing, memory=nothing)
    unit = "character" if tokenizer.one_per_character else "byte"
    return replace(source, cells=cells_part(found, called), inside=inside_sections(found, called, unit))
