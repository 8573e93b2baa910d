"""charlm compare"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from charlm.cli import signals
from charlm.cli.command import JsonOption, Settings, command
from charlm.cli.outputs import Screen
from charlm.config import (
    AUTOMATIC,
    DEFAULT_FOLDER,
    LENGTHS,
    OF_MODELS,
    RUN,
    TEXT,
    TRAIN_DEFAULTS,
    TRAIN_OPTIONS,
    check_train,
    val_share,
)
from charlm.errors import ConfigError
from charlm.options import UNTOUCHED, Value

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from charlm.compare import Contest, Member
    from charlm.report.standings import Standing

_DEFAULT_TIME: Final = "2m"
_OWN: Final = ("model", *OF_MODELS, "forget_bias", "log")  # options of single models
_OPTIONS: Final = {name: what for name, what in TRAIN_OPTIONS.items() if name not in _OWN}
_SETTINGS: Final = Settings(
    _OPTIONS,
    check_train,
    {name: value for name, value in TRAIN_DEFAULTS.items() if name in _OPTIONS and name not in AUTOMATIC},
)


def register(app: typer.Typer) -> None:
    command(app, "compare", _SETTINGS)(compare)


def compare(
    screen: Screen,
    given: dict[str, Value],
    corpus: Annotated[
        list[str],
        typer.Argument(metavar="CORPUS", help="text files, or folders of them", rich_help_panel=TEXT),
    ],
    models: Annotated[
        str,
        typer.Option(
            help="cells and architectures as for charlm train, and ngram for the best n-gram model",
            metavar="NAME,NAME,...",
            rich_help_panel=RUN,
        ),
    ] = "lstm,gru,rnn,ngram",
    parameters: Annotated[
        int | None,
        typer.Option(
            help="give every network about N parameters (default: each the size that suits its time)",
            metavar="N",
            min=1000,
            rich_help_panel=RUN,
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(
            help="folder of the runs, in that of all runs (default: compare-CORPUS)",
            metavar="NAME",
            rich_help_panel=RUN,
        ),
    ] = None,
    checkpoints: Annotated[
        str, typer.Option(help="folder of all runs", metavar="DIR", rich_help_panel=RUN)
    ] = DEFAULT_FOLDER,
    as_json: JsonOption = False,
) -> None:
    """Train several kinds of models on one text, and compare them.

    Each is trained with the same options, two minutes if nothing else is said, one after the other; what is left out is
    chosen for each. The result is a table with the bits per character on the validation text, sizes, speeds and memory,
    what the differences are worth, and a picture of all curves. The same command goes on where it was interrupted.
    """
    from charlm.compare import members, of_equal_size, standings, vocabulary_of

    chosen = members(models)
    if not any(length in given for length in LENGTHS):
        given["time"] = _DEFAULT_TIME
    if val_share(str(given.get("val", TRAIN_DEFAULTS["val"]))) == 0:
        raise ConfigError("models are compared on a validation text, and --val 0 holds none out", kept=UNTOUCHED)
    if "-" in corpus:
        raise ConfigError("a text that is read several times must be a file", kept=UNTOUCHED, hint="save it in one")
    if parameters is not None:
        if "hidden" in given:
            raise ConfigError("--parameters and --hidden cannot be combined", kept=UNTOUCHED, hint="give one of them")
        chosen = of_equal_size(chosen, parameters, vocabulary_of(corpus, given), given)
    contest = _contest(corpus, chosen, given, name, checkpoints)
    _train(screen, contest)
    found, comparison = standings(contest)
    for remark in comparison.remarks:
        screen.note(remark)
    picture = _draw(screen, contest, found)
    if as_json:
        screen.json("compare", folder=str(contest.folder), picture=picture, models=[one.record() for one in found])
        return
    from charlm.report.console import Verbatim, facts
    from charlm.report.standings import standings_report

    standings_report(screen.out, found)
    facts(screen.out, [("runs", Verbatim(contest.folder)), ("curves", Verbatim(picture) if picture else "not drawn")])


def _contest(
    corpus: Sequence[str], chosen: Sequence[Member], given: Mapping[str, Value], name: str | None, checkpoints: str
) -> Contest:
    from charlm.compare import Contest
    from charlm.storage.runs import default_name, open_run

    folder = open_run(name or f"compare-{default_name(Path(corpus[0]).stem)}", checkpoints).folder
    return Contest(folder, tuple(corpus), tuple(chosen), given)


def _train(screen: Screen, contest: Contest) -> None:
    """Train all networks in turn; a signal ends the one at work, saved."""
    from charlm.compare import train_member

    with signals.training(lambda: None) as stop:
        for number, member in enumerate(contest.networks, 1):
            screen.note(f"{member.name} ({number} of {len(contest.networks)})")
            train_member(contest, member, stop, quiet=screen.quiet)


def _draw(screen: Screen, contest: Contest, found: Sequence[Standing]) -> str | None:
    """Draw the curves of all networks, the best first; returns the picture's path, or None where it was not drawn."""
    from charlm.report.run_curves import Curve, run_curves

    networks = {member.name: contest.run(member) for member in contest.networks}
    levels = {one.name: one.row.bits_per_character for one in found if one.name not in networks}
    path = contest.folder / "compare.png"

    def picture() -> bytes:
        curves = [Curve(one.name, networks[one.name].read_metrics()) for one in found if one.name in networks]
        return run_curves(curves, levels=levels)

    return str(path) if screen.draw(path, picture) else None
