"""charlm pairs"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from charlm.cli.command import CheckpointArgument, FolderOption, JsonOption, command
from charlm.cli.evaluate import SETTINGS
from charlm.cli.help import OUTPUT, WHICH
from charlm.cli.outputs import Screen, check_outputs
from charlm.cli.texts import given_text
from charlm.config import DEFAULT_FOLDER, SCORING, EvalConfig
from charlm.errors import ConfigError

if TYPE_CHECKING:
    from charlm.evaluation.pairs import PairScores
    from charlm.text.pairs import PairList


def register(app: typer.Typer) -> None:
    command(app, "pairs", SETTINGS)(pairs)


def pairs(
    screen: Screen,
    config: EvalConfig,
    checkpoint: CheckpointArgument = None,
    file: Annotated[
        str | None,
        typer.Argument(
            metavar="FILE",
            help="pairs, - for standard input, or agreement: 50 pairs that come with charlm (required)",
            rich_help_panel=WHICH,
        ),
    ] = None,
    checkpoints: FolderOption = DEFAULT_FOLDER,
    per_character: Annotated[
        bool,
        typer.Option(
            "--per-character", help="decide by bits per character instead of all bits", rich_help_panel=SCORING
        ),
    ] = False,
    end: Annotated[
        str | None,
        typer.Option(
            help="what follows each text and is charged, perhaps '' (default: a line end, or the end of a record)",
            metavar="TEXT",
            rich_help_panel=SCORING,
        ),
    ] = None,
    group: Annotated[
        str | None,
        typer.Option(
            help="field of JSON objects to group by (default: UID, linguistics_term or field)",
            metavar="FIELD",
            rich_help_panel=SCORING,
        ),
    ] = None,
    tsv: Annotated[
        str | None,
        typer.Option(
            help="write a row for each pair with the bits of both texts; - for standard output",
            metavar="FILE",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Judge minimal pairs: which of two texts is likelier.

    FILE has a pair a line: the better text, a tab, the worse one, and perhaps a tab and the pair's group. BLiMP's JSON
    lines are read as well. Each text is read by itself; the one with fewer bits is the likelier one, and a tie counts
    half. agreement has subjects and verbs in groups by the number of attractors, nouns of the other number between the
    two; a file of that name is ./agreement.
    """
    if file is None:
        checkpoint, file = None, checkpoint
    if file is None:
        raise ConfigError("charlm pairs needs FILE", kept="nothing was scored", hint="see charlm pairs --help")
    outputs = [] if tsv is None else [tsv]
    check_outputs(outputs, [file], as_json=as_json, options=["--tsv"])
    screen = screen.beside(outputs)
    found = _read(file, group)
    frame_end = found.end if end is None else given_text(screen, "--end", end)

    from charlm import api

    model = api.open_model(checkpoint, config, checkpoints=checkpoints)
    screen.note_model(checkpoint, model.path)
    if config.engine == "decoder":
        screen.note_engine("auto", model.config.model)
    scores = model.pairs(found.pairs, per_character=per_character, end=frame_end)
    _note(screen, scores)
    if tsv is not None:
        from charlm.report.pairs import pairs_tsv

        screen.write_file(tsv, pairs_tsv(scores.judged, found.lines).encode())
    if as_json:
        screen.json(
            "pairs", checkpoint=str(model.path), text=file, per_character=per_character, end=scores.frame.end,
            **scores.record(),
        )  # fmt: skip
    elif not (screen.data and screen.quiet):
        from charlm.report.pairs import pairs_report

        pairs_report(screen.out, scores, file)


def _read(file: str, group: str | None) -> PairList:
    from charlm.text.corpus import read_text
    from charlm.text.pairs import AGREEMENT, agreement_pairs, read_pairs

    if file != AGREEMENT:
        return read_pairs(read_text(file), file, group)
    if group is not None:
        raise ConfigError(
            f"{AGREEMENT} has its groups, so that --group {group} names none",
            kept="nothing was scored",
            hint=f"leave it out, or give ./{AGREEMENT} for a file of that name",
        )
    return agreement_pairs()


def _note(screen: Screen, scores: PairScores) -> None:
    """Say how the texts were read, and that some of their characters are new to the model."""
    from charlm.report.pairs import describe_frame

    screen.note(f"each text is read {describe_frame(scores.frame)}")
    if count := scores.unknown_characters:
        screen.note(
            f"{count:,} character{'s' * (count != 1)} of the texts {'do' if count != 1 else 'does'} not occur in the "
            "training text: each is charged the escape probability, whichever it is"
        )
