"""charlm train"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from charlm.cli import complete, signals
from charlm.cli.command import JsonOption, Settings, command
from charlm.cli.outputs import Screen
from charlm.config import (
    AUTOMATIC,
    DEFAULT_FOLDER,
    RUN,
    TEXT,
    TRAIN_DEFAULTS,
    TRAIN_OPTIONS,
    check_train,
    merge,
    read_toml,
)
from charlm.errors import ConfigError
from charlm.report.words import one_line
from charlm.runtime.processes import place

if TYPE_CHECKING:
    from charlm.api import Trained, TrainingRequest
    from charlm.storage.runs import Run

_SETTINGS = Settings(
    TRAIN_OPTIONS,
    dict,  # checked when the options of --config are beside them
    {name: value for name, value in TRAIN_DEFAULTS.items() if name not in AUTOMATIC},
)


def register(app: typer.Typer) -> None:
    command(app, "train", _SETTINGS)(train)


def train(
    screen: Screen,
    options: dict[str, object],
    corpus: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="CORPUS",
            help="text files, folders of them (searched recursively), or - for standard input",
            rich_help_panel=TEXT,
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(
            help="name of the run (default: file name of the first corpus, without suffix)",
            metavar="NAME",
            autocompletion=complete.runs,
            rich_help_panel=RUN,
        ),
    ] = None,
    checkpoints: Annotated[
        str | None,
        typer.Option(help=f"folder of all runs (default: {DEFAULT_FOLDER})", metavar="DIR", rich_help_panel=RUN),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            help="named set of options: the network of the Josef K. lecture demo, or all of the demo (see README)",
            metavar="josef-k|josef-k-2017",
            autocompletion=complete.presets,
            rich_help_panel=RUN,
        ),
    ] = None,
    config: Annotated[
        str | None,
        typer.Option(
            help="TOML file of options by name; the command line wins", metavar="FILE.toml", rich_help_panel=RUN
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="continue a run exactly where it stopped", rich_help_panel=RUN)
    ] = False,
    init_from: Annotated[
        str | None,
        typer.Option(
            help="start from the weights of another model, perhaps hf:OWNER/NAME (fine-tuning)",
            metavar="CHECKPOINT",
            autocompletion=complete.runs,
            rich_help_panel=RUN,
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="replace an existing run of the same name", rich_help_panel=RUN)
    ] = False,
    allow_data_change: Annotated[
        bool,
        typer.Option("--allow-data-change", help="resume even if the text has changed", rich_help_panel=RUN),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Train a model on text.

    Options for which no default is given below are chosen to suit the text and the machine; the run starts by printing
    them with the reasons. Without --epochs, --steps or --time, training takes at most ten minutes, and stops early when
    the validation loss no longer improves.

    Many processes train one run together where torchrun starts them: torchrun --nproc-per-node 2 -m charlm train
    corpus.txt. The lanes of --batch are shared out among them, and with --max-restarts a run goes on by itself where a
    process has died.
    """
    own: dict[str, str | None] = {
        "name": name,
        "checkpoints": checkpoints,
        "preset": preset,
        "init_from": init_from,
    }
    switches = {"resume": resume, "force": force, "allow_data_change": allow_data_change}
    if config is not None:
        own, switches, options = _with_file(Path(config), own, switches, options)
    checked = check_train(options)

    from charlm import api

    request = api.TrainingRequest(
        corpus=tuple(corpus or ()),
        options=checked,
        name=own["name"],
        checkpoints=own["checkpoints"] or DEFAULT_FOLDER,
        preset=own["preset"],
        init_from=own["init_from"],
        **switches,
    )
    trained = _run(screen, request)
    if place().is_first:
        _report(screen, trained, request, as_json)


def _with_file(
    path: Path, own: dict[str, str | None], switches: dict[str, bool], options: dict[str, object]
) -> tuple[dict[str, str | None], dict[str, bool], dict[str, object]]:
    """Complete the options of the command line with those of a --config file."""
    table = read_toml(path)
    texts = {key: _typed(key, table.pop(key, None), str) for key in own}
    flags = {key: bool(_typed(key, table.pop(key, None), bool)) for key in switches}
    return (
        {key: value if value is not None else texts[key] for key, value in own.items()},
        {key: on or flags[key] for key, on in switches.items()},
        merge(table, options),
    )


def _run(screen: Screen, request: TrainingRequest) -> Trained:
    """Train and show progress. A signal ends training after the current step, with a checkpoint."""
    from charlm import api
    from charlm.report.progress import Progress
    from charlm.storage.runs import Run
    from charlm.training.events import Event, Saved, Writing

    progress = Progress(screen.err, quiet=screen.quiet or not place().is_first)
    with signals.training(progress.abandon) as stop, progress:

        def follow(event: Event) -> None:
            progress(event)
            if isinstance(event, Writing):
                stop.writing()
            if isinstance(event, Saved):
                stop.saved(*_going_on(Run(event.path.parent), event.step, request.log))

        trained = api.run(request, on_event=follow, stop=stop)
        stop.finish(*_going_on(trained.run, trained.result.steps, request.log), trained.reason)
    return trained


def _report(screen: Screen, trained: Trained, request: TrainingRequest, as_json: bool) -> None:
    """Draw the curves, then the closing record or a summary in words."""
    from charlm.report.following import sampling_command, training_command
    from charlm.report.verdict import judge

    drawn = _draw_curves(screen, trained)
    verdict = judge(trained.history, trained.result, trained.config, trained.vocabulary, trained.rollbacks)
    following = training_command(trained, request, verdict.changes)
    if as_json:
        more = {"parameters": trained.parameters, "checkpoint": str(trained.checkpoint), "next": following}
        screen.json("train", **trained.result.figures(), **more)
        return
    from charlm.report.console import Verbatim, facts, paragraphs
    from charlm.report.train import closing_facts, summarise

    facts(screen.out, closing_facts(trained.result))
    paragraphs(screen.out, summarise(trained, verdict if following else replace(verdict, changes={})))
    curves = Verbatim(trained.run.curves) if drawn else "not drawn"
    rows = [("model", Verbatim(trained.checkpoint)), ("curves", curves)]
    rows.append(("sample", Verbatim(sampling_command(trained))))
    facts(screen.out, [*rows, *([("next", Verbatim(following))] if following else [])])


def _draw_curves(screen: Screen, trained: Trained) -> bool:
    """Draw the run's curves into its folder; returns whether that could be done."""
    from charlm.report import plots

    return screen.draw(trained.run.curves, lambda: plots.curves(trained.run.folder.name, trained.run.read_metrics()))


def _going_on(run: Run, step: int, log: str) -> tuple[str, str]:
    """What has been saved, and the command that continues from there."""
    from charlm.training.again import go_on

    return one_line(f"step {step:,} is saved in {run.last}"), one_line(f"resume with {go_on(run, log)}")


_T = TypeVar("_T")


def _typed(key: str, value: object, kind: type[_T]) -> _T | None:
    """An entry of the --config file that is an option of this command alone."""
    if value is not None and not isinstance(value, kind):
        wanted = "a string" if kind is str else "true or false"
        raise ConfigError(f"{key} must be {wanted}, not {value!r}", kept="nothing was read or written")
    return value
