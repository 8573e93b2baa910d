"""charlm score"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from charlm.cli.command import CheckpointArgument, FolderOption, Screen, command
from charlm.config import EVAL_OPTIONS, EvalConfig, check_eval
from charlm.errors import CharlmError, ConfigError, StorageError
from charlm.options import Value

if TYPE_CHECKING:
    from charlm.api import LanguageModel
    from charlm.report.surprisal import Scored

_STDOUT = "-"
_KEPT = "nothing was read or written"


def register(app: typer.Typer) -> None:
    command(app, "score", EVAL_OPTIONS, asdict(EvalConfig()) | {"threads": None})(score)


def score(
    screen: Screen,
    options: dict[str, Value],
    text: Annotated[
        list[str],
        typer.Option(help="text to score, - for standard input; may be repeated", metavar="FILE", show_default=False),
    ],
    checkpoint: CheckpointArgument = None,
    html: Annotated[
        str | None, typer.Option(help="write one self-contained page, with the likeliest characters", metavar="FILE")
    ] = None,
    csv: Annotated[
        str | None, typer.Option(help="write each character's bits; - for standard output", metavar="FILE")
    ] = None,
    plot: Annotated[
        str | None,
        typer.Option(help="draw bits along the text, and by place since a cold start (.png, .svg)", metavar="FILE"),
    ] = None,
    words: Annotated[int, typer.Option(help="how many of the worst words to list", metavar="N", min=0)] = 10,
    checkpoints: FolderOption = "checkpoints",
    as_json: Annotated[bool, typer.Option("--json", help="print all figures as JSON")] = False,
) -> None:
    """Tell how many bits each character of a text costs a model: coloured on a terminal, by line in a pipe.

    Totals and the worst words follow. Where a file is written, the text itself is not printed. Texts are read in one
    exact pass.
    """
    check_eval(options)
    _check_outputs(text, html, csv, plot, as_json=as_json)

    from charlm import api
    from charlm.text.corpus import read_text

    texts = [(name, read_text(name)) for name in text]
    model = api.load(checkpoint, checkpoints=checkpoints, **options)
    if checkpoint is None:
        screen.note_newest(model.path)
    scored = _scored(model, texts, alternatives=html is not None, losses=bool(html or plot or as_json))
    _write_files(screen, model, scored, html, csv, plot, words)
    if as_json:
        screen.json("score", checkpoint=str(model.path), results=[_record(one, words) for one in scored])
    elif csv == _STDOUT:
        from charlm.report.surprisal import character_csv

        print(character_csv(scored), end="")  # noqa: T201
    else:
        from charlm.report.surprisal import surprisal_report

        surprisal_report(screen.out, scored, words=words, show_text=not (html or csv or plot))


def _check_outputs(texts: Sequence[str], html: str | None, csv: str | None, plot: str | None, *, as_json: bool) -> None:
    """Refuse what could only fail, or destroy something, after all has been computed."""
    if list(texts).count("-") > 1:
        raise ConfigError("standard input (-) can be read only once", kept=_KEPT)
    if as_json and csv == _STDOUT:
        raise ConfigError("--json and --csv - both want standard output", kept=_KEPT, hint="give --csv a file")
    outputs = [path for path in (html, None if csv == _STDOUT else csv, plot) if path is not None]
    known = [os.path.realpath(path) for path in outputs]
    if len(set(known)) < len(known):
        raise ConfigError(f"two outputs have the same name: {', '.join(outputs)}", kept=_KEPT)
    for path, real in zip(outputs, known, strict=True):
        if real in (os.path.realpath(name) for name in texts if name != "-"):
            raise ConfigError(f"{path} is to be read and to be written", kept=_KEPT, hint="choose another name")
        if not os.path.isdir(os.path.dirname(real)):
            raise StorageError(f"cannot write {path}: no such folder", kept=_KEPT, hint="make it, or choose another")
        if os.path.isdir(real):
            raise StorageError(f"cannot write {path}: it is a folder", kept=_KEPT, hint="name a file in it")
    if plot is not None:
        if _kind(plot) not in ("png", "svg"):
            raise ConfigError(f"--plot must end in .png or .svg, not {plot}", kept=_KEPT)
        from charlm.report import plots

        if not plots.available():
            raise CharlmError(
                f"no {plot}: matplotlib is not installed", kept="nothing was written", hint="pip install matplotlib"
            )


def _kind(plot: str) -> str:
    return Path(plot).suffix.lower().removeprefix(".")


def _scored(
    model: LanguageModel, texts: Sequence[tuple[str, str]], *, alternatives: bool, losses: bool
) -> list[Scored]:
    from charlm.report.page.page import ALTERNATIVES, LIMIT
    from charlm.report.surprisal import Scored

    scored, left = [], LIMIT
    for name, content in texts:
        judged = model.surprisal(content, likeliest=ALTERNATIVES if alternatives else 0, within=left)
        left = max(0, left - len(judged.ids))
        scored.append(Scored(name, judged, model.position_losses(content) if losses else ()))
    return scored


def _write_files(
    screen: Screen,
    model: LanguageModel,
    scored: Sequence[Scored],
    html: str | None,
    csv: str | None,
    plot: str | None,
    words: int,
) -> None:
    if html is not None:
        from charlm.report.page.page import page

        screen.write_file(html, page(str(model.path), scored, model.tokenizer, words=words).encode())
    if csv is not None and csv != _STDOUT:
        from charlm.report.surprisal import character_csv

        screen.write_file(csv, character_csv(scored).encode())
    if plot is not None:
        from charlm.report.plots import surprisal_curves

        screen.write_file(plot, surprisal_curves(scored, _kind(plot)) or b"")


def _record(one: Scored, words: int) -> dict[str, object]:
    from charlm.storage.checkpoint import finite

    context = [
        {
            "first": row.first,
            "last": row.last,
            "characters": row.characters,
            "bits_per_character": finite(row.bits_per_character),
        }
        for row in one.losses
    ]
    return {"text": one.name, **one.surprisal.record(words=words), "since_cold_start": context}
