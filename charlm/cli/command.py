"""Commands made from specifications: every option of `charlm.config` becomes one of the command line, and every
command gets the options that all share. Nothing here, nor in the modules that declare commands, may import torch."""

from __future__ import annotations

import inspect
import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from charlm.cli import signals
from charlm.errors import StorageError
from charlm.options import Option, flag, parse

if TYPE_CHECKING:
    from charlm.report.console import Console

CheckpointArgument = Annotated[
    str | None,
    typer.Argument(help="file, run folder or run name (default: the newest run)", show_default=False),
]
CorpusOption = Annotated[
    list[str] | None,
    typer.Option(
        help="where the run's own text is now, if it moved; may be repeated", metavar="FILE", show_default=False
    ),
]
FolderOption = Annotated[str, typer.Option(help="folder of all runs", metavar="DIR")]
_SHARED = {
    "quiet": (bool, typer.Option("-q", "--quiet", help="say nothing but results and errors")),
    "no_color": (bool, typer.Option("--no-color", help="no colours (NO_COLOR does the same)")),
    "traceback": (bool, typer.Option("--traceback", help="show where an error came from")),
}


@dataclass(frozen=True, slots=True)
class Screen:
    """Where a command writes: results to `out`, everything else to `err`."""

    quiet: bool
    color: bool

    @property
    def out(self) -> Console:
        from charlm.report.console import console

        return console(sys.stdout, color=self.color)

    @property
    def err(self) -> Console:
        from charlm.report.console import console

        return console(sys.stderr, color=self.color)

    def note(self, text: str) -> None:
        from charlm.report.words import one_line

        if not self.quiet:
            print(one_line(text), file=sys.stderr)  # noqa: T201

    def note_newest(self, path: Path) -> None:
        """Which checkpoint a command takes where the user named none."""
        self.note(f"the newest run is meant: {path}")

    def json(self, command: str, **content: Any) -> None:
        """The one JSON object of a command that reports."""
        print(json.dumps({"schema": f"charlm.{command}/1", **content}, allow_nan=False))  # noqa: T201

    def write_file(self, name: str, data: bytes) -> None:
        """Whole or not at all; what is no file, such as a pipe, is written to as it is."""
        from charlm.storage.durable import write_durably

        path = Path(name)
        if path.exists() and not path.is_file():
            try:
                path.write_bytes(data)
            except OSError as error:
                raise StorageError(f"cannot write {name}: {error.strerror}", hint="choose another name") from error
        else:
            with signals.held():
                write_durably(Path(os.path.realpath(name)), data)
        self.note(f"wrote {name}, {len(data):,} bytes")


def command(
    app: typer.Typer, name: str, specs: Mapping[str, Option] | None = None, defaults: Mapping[str, object] | None = None
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register `function(screen, options, **own)`; `options` holds what the user gave of `specs`, checked."""
    known = dict(specs or {})

    def register(function: Callable[..., None]) -> Callable[..., None]:
        own = list(inspect.signature(function, eval_str=True).parameters.values())[2:]

        def run(**values: Any) -> None:
            screen = Screen(values.pop("quiet"), not values.pop("no_color") and not os.environ.get("NO_COLOR"))
            del values["traceback"]
            texts = {option: values.pop(option) for option in known}
            options = {option: parse(text, known[option]) for option, text in texts.items() if text is not None}
            function(screen, options, **values)

        made = [_parameter(option, spec, (defaults or {}).get(option)) for option, spec in known.items()]
        shared = [_keyword(option, Annotated[kind, info], False) for option, (kind, info) in _SHARED.items()]
        parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own] + made + shared
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        run.__doc__ = function.__doc__
        app.command(name, help=inspect.getdoc(function))(run)
        return function

    return register


def _parameter(name: str, spec: Option, default: object) -> inspect.Parameter:
    """Typer sees a text: what it has to look like is for `charlm.config.parse` to say."""
    text = spec.help if default in (None, "") else f"{spec.help} (default: {default})"
    info = typer.Option(flag(name), help=text, metavar=spec.metavar, show_default=False)
    return _keyword(name, Annotated[str | None, info], None)


def _keyword(name: str, annotation: Any, default: object) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
