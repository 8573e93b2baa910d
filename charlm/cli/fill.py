"""charlm fill"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Final

import typer

from charlm.cli import complete
from charlm.cli.command import CheckpointArgument, FolderOption, JsonOption, Settings, command
from charlm.cli.help import WHICH
from charlm.cli.outputs import Screen
from charlm.cli.texts import given_text
from charlm.config import DEFAULT_FOLDER, FILL_OPTIONS, GAP, FillConfig, check_fill
from charlm.errors import ConfigError
from charlm.options import flag

if TYPE_CHECKING:
    from charlm.language_model import LanguageModel

_SETTINGS: Final = Settings(FILL_OPTIONS, check_fill, asdict(FillConfig()))
_MARK: Final = "___"
_KEPT: Final = "nothing was filled"


def register(app: typer.Typer) -> None:
    command(app, "fill", _SETTINGS)(fill)


def fill(
    screen: Screen,
    config: FillConfig,
    checkpoint: CheckpointArgument = None,
    backward: Annotated[
        str | None,
        typer.Argument(
            metavar="BACKWARD",
            help="a model trained with --direction backward, named likewise",
            autocompletion=complete.runs,
            rich_help_panel=WHICH,
        ),
    ] = None,
    checkpoints: FolderOption = DEFAULT_FOLDER,
    text: Annotated[str | None, typer.Option(help="text with a gap in it", metavar="TEXT", rich_help_panel=GAP)] = None,
    file: Annotated[
        str | None,
        typer.Option(
            help="file with a text with a gap in it, - for standard input", metavar="FILE", rich_help_panel=GAP
        ),
    ] = None,
    gap: Annotated[
        str, typer.Option(help="what marks the gap in that text", metavar="TEXT", rich_help_panel=GAP)
    ] = _MARK,
    before: Annotated[str | None, typer.Option(help="text before the gap", metavar="TEXT", rich_help_panel=GAP)] = None,
    before_file: Annotated[
        str | None, typer.Option(help="the same, in a file", metavar="FILE", rich_help_panel=GAP)
    ] = None,
    after: Annotated[str | None, typer.Option(help="text after the gap", metavar="TEXT", rich_help_panel=GAP)] = None,
    after_file: Annotated[
        str | None, typer.Option(help="the same, in a file", metavar="FILE", rich_help_panel=GAP)
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Fill a gap in a text.

    The text has a mark where the gap is, ___ or that of --gap, or its parts are given by --before and --after. A
    forward model proposes what may stand there; it and a backward model, if one is named, say how probable each
    candidate is between the two. Probabilities are those among all candidates; of a gap of one character, these are all
    characters.

      charlm fill novel backward-novel --text "It was the ___ of times" --length 4
    """
    whole, left = {"text": text, "file": file}, {"before": before, "before_file": before_file}
    right = {"after": after, "after_file": after_file}
    _check(whole, left, right)
    from charlm.generation.fill import split_at

    marked = _read(screen, whole)
    contexts = (_read(screen, left) or "", _read(screen, right) or "") if marked is None else split_at(marked, gap)

    from charlm import api

    model = api.open_model(checkpoint, checkpoints=checkpoints)
    screen.note_model(checkpoint, model.path)
    other = None if backward is None else api.open_model(backward, checkpoints=checkpoints)
    screen.note_engine(config.engine, model.config.model)
    found = model.fillings(*contexts, other, config)
    _note(screen, model, contexts, len(found))
    best = found[: config.count]
    if as_json:
        screen.json(
            "fill",
            checkpoint=str(model.path),
            backward=None if other is None else str(other.path),
            before=contexts[0],
            after=contexts[1],
            candidates=len(found),
            fillings=[one.record() for one in best],
            **{name: value for name, value in asdict(config).items() if name not in ("count", "candidates")},
        )
        return
    from charlm.report.fill import fill_report

    fill_report(screen.out, best, *contexts)


def _check(*groups: dict[str, str | None]) -> None:
    """Refuse two texts for one place, and none at all."""
    for given in ([name for name, value in group.items() if value is not None] for group in groups):
        if len(given) > 1:
            raise ConfigError(f"{flag(given[0])} and {flag(given[1])} cannot be combined", kept=_KEPT)
    whole, *parts = ([name for name, value in group.items() if value is not None] for group in groups)
    others = [name for names in parts for name in names]
    if whole and others:
        raise ConfigError(f"{flag(whole[0])} and {flag(others[0])} cannot be combined", kept=_KEPT)
    if not whole and not others:
        raise ConfigError(
            "charlm fill needs a text with a gap",
            kept=_KEPT,
            hint=f"--text 'with {_MARK} in it', or --before and --after",
        )


def _read(screen: Screen, given: dict[str, str | None]) -> str | None:
    """The text that was given, on the command line or in a file; None if there is none."""
    for name, value in given.items():
        if value is not None and name.endswith("file"):
            from charlm.text.corpus import read_text

            return read_text(value).removeprefix("\ufeff")  # a byte order mark, which an editor has added
        if value is not None:
            return given_text(screen, flag(name), value)
    return None


def _note(screen: Screen, model: LanguageModel, contexts: Sequence[str], candidates: int) -> None:
    """How many candidates there are, and how many characters of the contexts the model has never seen."""
    screen.note(f"probabilities are those among {candidates:,} candidates")
    if unseen := sum(len(model.tokenizer.encode(text).escaped) for text in contexts):
        verb = "s of the text are" if unseen > 1 else " of the text is"
        screen.note(f"{unseen} character{verb} not in the vocabulary; read as the mean embedding")
