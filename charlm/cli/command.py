"""Commands made from declarations: every option of `charlm.config` becomes one of the command line, and every command
gets the options that all share. Nothing here, nor in the modules that declare commands, may import torch."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Final

import typer

from charlm.cli import complete
from charlm.cli.help import GENERAL, OUTPUT, WHICH, Command, alias_of
from charlm.cli.outputs import Screen
from charlm.options import Option, flag, parse

CheckpointArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="CHECKPOINT",
        help="file, run folder, run name or hf:OWNER/NAME (default: the newest run)",
        autocompletion=complete.runs,
        rich_help_panel=WHICH,
    ),
]
CorpusOption = Annotated[
    list[str] | None,
    typer.Option(
        help="current path of the run's corpus, if it was moved; may be repeated", metavar="FILE", rich_help_panel=WHICH
    ),
]
FolderOption = Annotated[str, typer.Option(help="folder of all runs", metavar="DIR", rich_help_panel=WHICH)]
JsonOption = Annotated[bool, typer.Option("--json", help="print the results as JSON", rich_help_panel=OUTPUT)]
_SHARED: Final = {
    "quiet": (bool, typer.Option("-q", "--quiet", help="print only results and errors", rich_help_panel=GENERAL)),
    "no_color": (
        bool,
        typer.Option("--no-color", help="print without colour (or set NO_COLOR)", rich_help_panel=GENERAL),
    ),
    "traceback": (
        bool,
        typer.Option("--traceback", help="print the traceback of an error", rich_help_panel=GENERAL),
    ),
}


@dataclass(frozen=True, slots=True)
class Settings:
    """The options that a command takes from `charlm.config`: how they are checked, and what help gives as defaults."""

    options: Mapping[str, Option]
    check: Callable[[Mapping[str, object]], Any]
    defaults: Mapping[str, object] = field(default_factory=dict)


def command(
    app: typer.Typer, name: str, settings: Settings | None = None, *, aliases: tuple[str, ...] = ()
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register `function(screen, config, **own)`; `config` is what `settings.check` makes of the options given.

    Without settings there is no `config`. The function's docstring is the help, its first paragraph the summary.
    """
    specs = settings.options if settings else {}
    leading = 2 if settings else 1

    def register(function: Callable[..., None]) -> Callable[..., None]:
        own = list(inspect.signature(function, eval_str=True).parameters.values())[leading:]

        def run(**values: Any) -> None:
            if values["quiet"]:
                os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"  # of downloads from the Hub
            screen = Screen(values.pop("quiet"), not values.pop("no_color") and not os.environ.get("NO_COLOR"))
            del values["traceback"]
            texts = {option: values.pop(option) for option in specs}
            given = {option: parse(text, specs[option]) for option, text in texts.items() if text is not None}
            config = (settings.check(given),) if settings else ()
            function(screen, *config, **values)

        defaults = settings.defaults if settings else {}
        made = [_parameter(option, spec, defaults.get(option)) for option, spec in specs.items()]
        shared = [_keyword(option, Annotated[kind, info], False) for option, (kind, info) in _SHARED.items()]
        parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own] + made + shared
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        text = inspect.getdoc(function)
        app.command(name, cls=Command, help=text)(run)
        for alias in aliases:
            app.command(alias, cls=alias_of(name), help=text, hidden=True)(run)
        return function

    return register


def _parameter(name: str, spec: Option, default: object) -> inspect.Parameter:
    """A text to typer, or a flag: `charlm.options.parse` converts it, and `Settings.check` checks it."""
    is_flag = spec.type is bool
    stated = is_flag or default in (None, "") or "(default" in spec.help
    info = typer.Option(
        f"{flag(name)}/{flag('no_' + name)}" if is_flag else flag(name),
        help=spec.help if stated else f"{spec.help} (default: {default})",
        metavar=spec.metavar or None,
        autocompletion=complete.choices(spec),
        rich_help_panel=spec.group or None,
    )
    kind: Any = bool if is_flag else str
    return _keyword(name, Annotated[kind | None, info], None)


def _keyword(name: str, annotation: Any, default: object) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
