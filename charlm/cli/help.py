"""The text of --help: options grouped by what a person looks for, in lines that fit the terminal.

Written here rather than by typer, whose pages name Python types, cut summaries off, and import rich for colours. Typer
hands over its parameters; their `rich_help_panel` is the heading.
"""

from __future__ import annotations

import inspect
import re
import shutil
from collections.abc import Iterator, Sequence
from textwrap import fill, wrap
from typing import Annotated, Any, Final

import typer
from typer.core import TyperCommand, TyperGroup

from charlm.config import (
    GAP,
    INSPECTION,
    LENGTH,
    MACHINE,
    MODEL,
    OPTIMIZER,
    REGULARISATION,
    RUN,
    SAMPLING,
    SCORING,
    TASK,
    TEXT,
)

WHICH: Final = "Model and text"
OUTPUT: Final = "Output"
GENERAL: Final = "General"
HEADINGS: Final = (
    *(TASK, TEXT, MODEL, REGULARISATION, OPTIMIZER, LENGTH),  # of `train`, and of `lags`
    *(WHICH, GAP, SAMPLING, SCORING, INSPECTION),
    *(RUN, MACHINE, OUTPUT, GENERAL),
)
_GROUPED: Final = 10  # options above which a command's are grouped
_WIDEST: Final = 100  # columns: longer lines are hard to read
_TERM: Final = 24  # columns of the longest term that its explanation may stand beside
_REQUIRED: Final = "(required)"  # in the help of an argument that follows an optional one, which no parser can require
_OWN_WORDS: Final = {
    "help": "show this help",
    "install_completion": "install completion for this shell",
    "show_completion": "print the completion script of this shell",
}
Row = tuple[str, str]


class Command(TyperCommand):
    """A command whose help and usage errors are charlm's own."""

    alias_of = ""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        formatter.write(page(ctx))

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        ctx.allow_extra_args = True
        try:
            rest = super().parse_args(ctx, args)
        except typer.TyperException as error:
            error.ctx = ctx  # type: ignore[attr-defined] # typer's parser does not always say whose the error is
            raise
        if rest and not ctx.resilient_parsing:
            ctx.fail(f"unexpected argument {rest[0]!r}")
        return rest


def alias_of(name: str) -> type[Command]:
    """The class of a command that is another name of this one, and is listed beside it."""
    return type("Alias", (Command,), {"alias_of": name})


class Group(TyperGroup):
    """A group of commands whose help and usage errors are charlm's own."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        formatter.write(page(ctx))

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        found = self.get_command(ctx, args[0])
        if found is None and not ctx.resilient_parsing:
            from charlm.cli import suggest

            ctx.fail(suggest.unknown_command(args[0], ctx))
        return (args[0] if found else None), found, args[1:]


def page(ctx: Any) -> str:
    """The whole help of a context's command."""
    width = max(20, min(shutil.get_terminal_size().columns, _WIDEST) - 1)
    command = ctx.command
    parts = [fill(_usage(ctx), width, subsequent_indent=" " * 7, break_on_hyphens=False)]
    parts += [fill(paragraph, width) for paragraph in _paragraphs(command.help)]
    for sections in (_commands(ctx), _options(ctx)):
        terms = [len(name) for _, rows in sections for name, _ in rows]
        column = 4 + max((length for length in terms if length <= _TERM), default=0)
        parts += [f"{heading}:\n" + "\n".join(_rows(rows, column, width)) for heading, rows in sections]
    if command.epilog:
        parts.append(command.epilog)  # examples: as they are
    return "\n\n".join(parts)


def _usage(ctx: Any) -> str:
    """The usage line: arguments, required options, the rest."""
    required = [term(p) for p in ctx.command.params if p.required and p.param_type_name == "option"]
    arguments = [
        term(p) if p.required or _REQUIRED in (p.help or "") else f"[{term(p)}]" for p in _arguments(ctx.command.params)
    ]
    rest = ["COMMAND", "..."] if isinstance(ctx.command, TyperGroup) else [*arguments, *required, "[OPTIONS]"]
    return " ".join(["Usage:", ctx.command_path, *rest])


def _paragraphs(text: str | None) -> list[str]:
    """Paragraphs of a docstring, each on one line."""
    return [" ".join(part.split()) for part in inspect.cleandoc(text or "").split("\n\n") if part.strip()]


def _arguments(params: Sequence[Any]) -> list[Any]:
    return [p for p in params if p.param_type_name == "argument"]


def _options(ctx: Any) -> list[tuple[str, list[Row]]]:
    """Arguments and options under their headings."""
    params = [p for p in ctx.command.get_params(ctx) if not p.hidden]
    if len(params) - len(_arguments(params)) <= _GROUPED:
        arguments = _arguments(params)
        sections = {"Arguments": arguments, "Options": [p for p in params if p not in arguments]}
    else:
        sections = {}
        for param in sorted(params, key=lambda param: param.param_type_name):  # arguments first
            sections.setdefault(param.rich_help_panel or GENERAL, []).append(param)
        sections = dict(sorted(sections.items(), key=lambda item: HEADINGS.index(item[0])))
    return [(heading, [(term(p), _explanation(p)) for p in listed]) for heading, listed in sections.items() if listed]


def _commands(ctx: Any) -> list[tuple[str, list[Row]]]:
    """The commands of a group, each with its aliases and its summary."""
    if not isinstance(ctx.command, TyperGroup):
        return []
    rows = []
    for name, command in sorted(ctx.command.commands.items(), key=lambda item: item[0] == "help"):  # which comes last
        if not command.hidden:
            same = [n for n, other in ctx.command.commands.items() if getattr(other, "alias_of", "") == name]
            rows.append((", ".join([name, *same]), summary(command)))
    return [("Commands", rows)]


def summary(command: Any) -> str:
    """The first paragraph of a command's help, without its full stop."""
    return next(iter(_paragraphs(command.help)), "").rstrip(".")


def term(param: Any) -> str:
    """An argument or option as it is written: `FILE...`, `-q, --quiet`, `--hidden N`."""
    metavar = str(param.metavar or param.name.upper())
    if param.param_type_name == "argument":
        return f"{metavar}..." if param.nargs == -1 else metavar
    names = ", ".join(sorted(param.opts, key=len))
    return names if param.is_flag else f"{names} {metavar}"


def _explanation(param: Any) -> str:
    text = _OWN_WORDS.get(param.name) or param.help or ""
    if param.required:
        return f"{text} {_REQUIRED}" if param.param_type_name == "option" else text
    if param.default in (None, False) or "(default" in text:
        return text
    return f"{text} (default: {param.default})"


def _rows(rows: Sequence[Row], column: int, width: int) -> Iterator[str]:
    """Lines of terms and explanations in two columns; a long term has a line of its own."""
    indent = " " * column
    for name, text in rows:
        first = f"  {name}"
        lines = _lines(text, max(20, width - column))
        if len(first) > column - 2:
            yield first
            first = ""
        yield (first.ljust(column) + (lines[0] if lines else "")).rstrip()
        yield from (indent + line for line in lines[1:])


def _lines(text: str, width: int) -> list[str]:
    """Wrap an explanation, without breaking a word or a short default.

    >>> _lines("units per layer (default: 512)", 22)
    ['units per layer', '(default: 512)']
    """
    kept = re.sub(r"\(default: [^)]{,24}\)", lambda match: match[0].replace(" ", "\0"), text)
    lines = wrap(kept, width, break_long_words=False, break_on_hyphens=False)
    return [line.replace("\0", " ") for line in lines]


def _names(ctx: typer.Context) -> list[str]:
    """Complete `charlm help`: the commands of the group that its words so far name."""
    found: Any = ctx.find_root().command
    for word in ctx.params.get("command") or ():
        found = getattr(found, "commands", {}).get(word)
    return [name for name, command in getattr(found, "commands", {}).items() if not command.hidden]


def show(
    ctx: typer.Context,
    command: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="COMMAND",
            help="a command, such as train or data get (default: an overview)",
            autocompletion=_names,
        ),
    ] = None,
) -> None:
    """Show the help of a command.

    The same text as COMMAND --help.
    """
    at: Any = ctx.find_root()
    for word in command or ():
        if not isinstance(at.command, Group):
            at.fail(f"{at.command_path} has no command {word!r}")
        name, found, _ = at.command.resolve_command(at, [word])
        at = at.__class__(found, info_name=name, parent=at)
    typer.echo(page(at))
