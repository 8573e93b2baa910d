"""charlm score"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Final, NamedTuple

import typer

from charlm.cli.command import CheckpointArgument, FolderOption, JsonOption, Settings, command
from charlm.cli.evaluate import SETTINGS
from charlm.cli.help import OUTPUT, WHICH
from charlm.cli.outputs import Screen, check_outputs, check_picture, picture_kind
from charlm.config import DEFAULT_FOLDER, EvalConfig
from charlm.errors import ConfigError
from charlm.options import Option, check_all

if TYPE_CHECKING:
    from charlm.api import LanguageModel
    from charlm.report.surprisal import Scored

_KEPT = "nothing was read or written"


class _Files(NamedTuple):
    """The files to write."""

    html: str | None
    csv: str | None
    plot: str | None

    @property
    def names(self) -> list[str]:
        """Their names."""
        return [path for path in self if path is not None]

    @property
    def options(self) -> list[str]:
        """The options that named them."""
        return [f"--{option}" for option, path in self._asdict().items() if path is not None]


class _Config(NamedTuple):
    """The options, checked."""

    evaluation: EvalConfig
    words: int


_WORDS: Final = {"words": Option(int, "number of least expected words to list", 0, 1000, group=OUTPUT)}


def _check_options(given: Mapping[str, object]) -> _Config:
    """Check the options of `charlm eval`, and how many words to list."""
    words = check_all({name: value for name, value in given.items() if name in _WORDS}, _WORDS)
    others = {name: value for name, value in given.items() if name not in _WORDS}
    return _Config(SETTINGS.check(others), int(words.get("words", 10)))


def register(app: typer.Typer) -> None:
    settings = Settings({**SETTINGS.options, **_WORDS}, _check_options, {**SETTINGS.defaults, "words": 10})
    command(app, "score", settings)(score)


def score(
    screen: Screen,
    config: _Config,
    text: Annotated[
        list[str],
        typer.Option(
            help="text to score, - for standard input; may be repeated", metavar="FILE", rich_help_panel=WHICH
        ),
    ],
    checkpoint: CheckpointArgument = None,
    checkpoints: FolderOption = DEFAULT_FOLDER,
    html: Annotated[
        str | None,
        typer.Option(
            help="write a self-contained HTML page with each character's bits and likeliest alternatives",
            metavar="FILE",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    csv: Annotated[
        str | None,
        typer.Option(
            help="write a row for each character; - for standard output", metavar="FILE", rich_help_panel=OUTPUT
        ),
    ] = None,
    plot: Annotated[
        str | None,
        typer.Option(
            help="draw bits along the text and by length of context (.png or .svg)",
            metavar="FILE",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show the surprisal of every character of a text.

    Surprisal is the character's negative log2-probability under the model, in bits: coloured in a terminal, summed by
    line in a pipe. Totals and the least expected words follow. With --html, --csv or --plot the text itself is not
    printed; each of them may be - for standard output, and the report then goes to standard error. Texts are always
    scored in one pass.
    """
    files = _Files(html, csv, plot)
    _check(text, files, as_json=as_json)
    screen = screen.beside(files.names)

    from charlm import api
    from charlm.text.corpus import read_text

    texts = [(name, read_text(name)) for name in text]
    model = api.open_model(checkpoint, config.evaluation, checkpoints=checkpoints)
    if checkpoint is None:
        screen.note_newest(model.path)
    if config.evaluation.engine == "decoder":
        screen.note_engine("auto", model.config.model)
    scored = _scored(model, texts, alternatives=html is not None, losses=bool(html or plot or as_json))
    _write(screen, model, scored, files, config.words)
    if as_json:
        screen.json("score", checkpoint=str(model.path), results=[_record(one, config.words) for one in scored])
    elif not (screen.data and screen.quiet):
        from charlm.report.surprisal import surprisal_report

        surprisal_report(screen.out, scored, words=config.words, show_text=not any(files))


def _check(texts: Sequence[str], files: _Files, *, as_json: bool) -> None:
    """Refuse, before anything is computed, outputs that would fail or destroy an input."""
    if texts.count("-") > 1:
        raise ConfigError("standard input (-) can be read only once", kept=_KEPT)
    check_outputs(files.names, texts, as_json=as_json, options=files.options)
    if files.plot is not None:
        check_picture("--plot", files.plot)


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


def _write(screen: Screen, model: LanguageModel, scored: Sequence[Scored], files: _Files, words: int) -> None:
    if files.html is not None:
        from charlm.report.page.page import page

        screen.write_file(files.html, page(str(model.path), scored, model.tokenizer, words=words).encode())
    if files.csv is not None:
        from charlm.report.character_csv import character_csv

        screen.write_file(files.csv, character_csv(scored).encode())
    if files.plot is not None:
        from charlm.report.surprisal_plot import surprisal_curves

        screen.write_file(files.plot, surprisal_curves(scored, picture_kind(files.plot)))


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
