"""charlm train"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from charlm.cli import signals
from charlm.cli.command import Screen, command
from charlm.config import AUTOMATIC, TRAIN_OPTIONS, Config, check_train, merge, read_toml
from charlm.errors import ConfigError
from charlm.report.words import one_line

if TYPE_CHECKING:
    from charlm.api import Trained

_FOLDER = "checkpoints"


def register(app: typer.Typer) -> None:
    defaults = {name: value for name, value in Config().flat().items() if name not in AUTOMATIC}

    @command(app, "train", TRAIN_OPTIONS, defaults)
    def train(
        screen: Screen,
        options: dict[str, object],
        corpus: Annotated[
            list[str] | None,
            typer.Argument(help="files, folders (recursively), or - for standard input", show_default=False),
        ] = None,
        name: Annotated[
            str | None, typer.Option(help="name of the run (default: the first corpus's stem)", metavar="NAME")
        ] = None,
        checkpoints: Annotated[
            str | None, typer.Option(help="folder of all runs (default: checkpoints)", metavar="DIR")
        ] = None,
        preset: Annotated[str | None, typer.Option(help="a named set of options", metavar="josef-k")] = None,
        resume: Annotated[bool, typer.Option("--resume", help="go on where the run stopped, exactly")] = False,
        init_from: Annotated[
            str | None, typer.Option(help="start from another model's weights", metavar="CHECKPOINT")
        ] = None,
        config: Annotated[
            str | None, typer.Option(help="options by name in a TOML file; the command line wins", metavar="FILE")
        ] = None,
        force: Annotated[bool, typer.Option("--force", help="replace a run of that name")] = False,
        allow_data_change: Annotated[
            bool, typer.Option("--allow-data-change", help="resume although the text has changed")
        ] = False,
        as_json: Annotated[bool, typer.Option("--json", help="print the final record as JSON")] = False,
    ) -> None:
        """Train a model on text. What is not set is chosen by the text's length and the machine, with reasons."""
        own: dict[str, str | None] = {
            "name": name,
            "checkpoints": checkpoints,
            "preset": preset,
            "init_from": init_from,
        }
        switches = {"resume": resume, "force": force, "allow_data_change": allow_data_change}
        if config is not None:
            table = read_toml(Path(config))
            texts = {key: _typed(key, table.pop(key, None), str) for key in own}
            own = {key: value if value is not None else texts[key] for key, value in own.items()}
            switches = {key: on or bool(_typed(key, table.pop(key, None), bool)) for key, on in switches.items()}
            options = merge(table, options)
        checked = check_train(options)

        from charlm import api
        from charlm.report.progress import Progress
        from charlm.training.events import Event, Saved, Writing

        progress = Progress(screen.err, quiet=screen.quiet)
        with signals.training(progress.abandon) as stop, progress:

            def follow(event: Event) -> None:
                progress(event)
                if isinstance(event, Writing):
                    stop.writing()
                if isinstance(event, Saved):
                    stop.saved(one_line(f"step {event.step:,} is saved in {event.path}"), _again(event.path.parent))

            request = api.TrainingRequest(
                corpus=tuple(corpus or ()),
                options=checked,
                name=own["name"],
                checkpoints=own["checkpoints"] or _FOLDER,
                preset=own["preset"],
                init_from=own["init_from"],
                **switches,
            )
            trained = api.run(request, on_event=follow, stop=stop)
        _report(screen, trained, as_json)


def _report(screen: Screen, trained: Trained, as_json: bool) -> None:
    """Draw the curves, then the closing record or the verdict in words."""
    from charlm.report import plots
    from charlm.report.train import closing_table, verdict
    from charlm.storage.checkpoint import load_checkpoint
    from charlm.storage.durable import write_durably

    picture = plots.curves(trained.run.folder.name, trained.run.read_metrics())
    if picture is None:
        screen.note("no curves.png: matplotlib is not installed (pip install matplotlib)")
    else:
        with signals.held():
            write_durably(trained.run.curves, picture)
    closing = {name: value for name, value in trained.result.items() if name != "stopped"}
    if as_json:
        screen.json("train", **closing, parameters=trained.parameters, checkpoint=str(trained.checkpoint))
        return
    from charlm.report.console import facts, paragraphs

    checkpoint = load_checkpoint(trained.checkpoint)
    closing_table(screen.out, closing)
    paragraphs(
        screen.out,
        verdict(checkpoint.config, trained.result, trained.history, checkpoint.open_tokenizer().size),
    )
    rows = [("model", str(trained.checkpoint)), ("curves", str(trained.run.curves) if picture else "not drawn")]
    facts(screen.out, [*rows, ("next", f"charlm sample {trained.run.folder}")])


def _again(folder: Path) -> str:
    """How to go on with a run."""
    where = "" if str(folder.parent) == _FOLDER else f" --checkpoints {shlex.quote(str(folder.parent))}"
    return one_line(f"go on with charlm train --resume --name {shlex.quote(folder.name)}{where}")


_T = TypeVar("_T")


def _typed(key: str, value: object, kind: type[_T]) -> _T | None:
    """An entry of a file that is no option of the model's."""
    if value is not None and not isinstance(value, kind):
        wanted = "a text" if kind is str else "true or false"
        raise ConfigError(f"{key} must be {wanted}, not {value!r}", kept="nothing was read or written")
    return value
