"""charlm score"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated, Final, NamedTuple

import typer

from charlm.cli import complete
from charlm.cli.command import FolderOption, JsonOption, Settings, command
from charlm.cli.evaluate import SETTINGS
from charlm.cli.help import OUTPUT, WHICH
from charlm.cli.outputs import Screen, check_outputs, check_picture, picture_kind
from charlm.config import DEFAULT_FOLDER, WORD_OPTIONS, EvalConfig, WordConfig, check_words
from charlm.errors import ConfigError
from charlm.options import Option, check_all, flag

if TYPE_CHECKING:
    from charlm.language_model import LanguageModel
    from charlm.report.row_writer import Totals
    from charlm.report.surprisal import Scored
    from charlm.text.stored import Text

_KEPT = "nothing was read or written"
_SHOWN: Final = 2**24  # characters of a text that is shown, drawn or printed as JSON


class _Files(NamedTuple):
    """The files to write."""

    html: str | None
    csv: str | None
    words_tsv: str | None
    plot: str | None

    @property
    def names(self) -> list[str]:
        """Their names."""
        return [path for path in self if path is not None]

    @property
    def options(self) -> list[str]:
        """The options that named them."""
        return [flag(option) for option, path in self._asdict().items() if path is not None]

    @property
    def needs_forecast(self) -> bool:
        """Whether entropy and rank are written."""
        return self.csv is not None or self.words_tsv is not None


class _Config(NamedTuple):
    """The options, checked."""

    evaluation: EvalConfig
    words: int
    word: WordConfig
    only_for_words: tuple[str, ...]  # options that were given, and mean nothing without --words-tsv


_WORDS: Final = {"words": Option(int, "number of least expected words to list", 0, 1000, group=OUTPUT)}


def _check_options(given: Mapping[str, object]) -> _Config:
    """Check the options of `charlm eval`, how many words to list, and what a word is."""
    words = check_all(_of(given, _WORDS), _WORDS)
    word = _of(given, WORD_OPTIONS)
    others = {name: value for name, value in given.items() if name not in _WORDS and name not in WORD_OPTIONS}
    return _Config(SETTINGS.check(others), int(words.get("words", 10)), check_words(word), tuple(map(flag, word)))


def _of(given: Mapping[str, object], known: Mapping[str, Option]) -> dict[str, object]:
    return {name: value for name, value in given.items() if name in known}


def register(app: typer.Typer) -> None:
    options = {**SETTINGS.options, **WORD_OPTIONS, **_WORDS}
    defaults = {**SETTINGS.defaults, **asdict(WordConfig()), "words": 10}
    command(app, "score", Settings(options, _check_options, defaults))(score)


def score(
    screen: Screen,
    config: _Config,
    text: Annotated[
        list[str],
        typer.Option(
            help="text to score, - for standard input; may be repeated", metavar="FILE", rich_help_panel=WHICH
        ),
    ],
    checkpoint: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="CHECKPOINT",
            help="file, run folder, run name or hf:OWNER/NAME; several with --csv or --words-tsv "
            "(default: the newest run)",
            autocompletion=complete.runs,
            rich_help_panel=WHICH,
        ),
    ] = None,
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
    words_tsv: Annotated[
        str | None,
        typer.Option(
            help="write a row for each word, tab-separated; - for standard output",
            metavar="FILE",
            rich_help_panel=OUTPUT,
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
    line in a pipe. Totals and the least expected words follow. With --html, --csv, --words-tsv or --plot the text
    itself is not printed; each of them may be - for standard output, and the report then goes to standard error.

    --csv and --words-tsv also have the entropy of what the model expected, and the rank in it of what came. With
    several models they have these columns for each. Texts are scored in one pass, records each by itself. Where
    only these rows are wanted, a text of more than 8 MiB is scored in blocks, within 0.0005 bits of that, and is never
    in memory as a whole.
    """
    files = _Files(html, csv, words_tsv, plot)
    _check(text, files, config, as_json=as_json)
    _check_several(checkpoint or (), files, as_json=as_json)
    screen = screen.beside(files.names)

    from charlm import api
    from charlm.text.large import open_text

    given = [(name, open_text(name)) for name in text]
    models = [api.open_model(what, config.evaluation, checkpoints=checkpoints) for what in checkpoint or (None,)]
    _check_alike(models)
    for what, model in zip(checkpoint or (None,), models, strict=True):
        screen.note_model(what, model.path)
    if config.evaluation.engine == "decoder":
        screen.note_engine("auto", models[0].config.model)
    if _only_rows(files, as_json=as_json) and not all(isinstance(content, str) for _, content in given):
        _write_rows(screen, models, given, files, config)
        return
    texts = [(name, _in_memory(name, content, files, as_json=as_json)) for name, content in given]
    scored = [_scored(model, texts, files, as_json=as_json) for model in models]
    _write(screen, models, scored, files, config)
    if as_json:
        results = [_record(one, config.words) for one in scored[0]]
        screen.json("score", checkpoint=str(models[0].path), results=results)
    elif not (screen.data and screen.quiet):
        from charlm.report.surprisal import surprisal_report

        shown = scored[0] if len(models) == 1 else _named(models, scored)
        surprisal_report(screen.out, shown, words=config.words, show_text=not any(files))


def _only_rows(files: _Files, *, as_json: bool) -> bool:
    """Whether nothing is wanted but rows, which are written as the text is read."""
    return files.needs_forecast and files.html is None and files.plot is None and not as_json


def _in_memory(name: str, text: Text, files: _Files, *, as_json: bool) -> str:
    """A text that is shown as a whole; raises ConfigError where it is too long for that."""
    if len(text) > _SHOWN:
        shown = {"--html": files.html is not None, "--plot": files.plot is not None, "--json": as_json}
        what = next((option for option, wanted in shown.items() if wanted), "the report")
        raise ConfigError(
            f"{name} has {len(text):,} characters; {what} shows at most {_SHOWN:,}",
            kept="nothing was written",
            hint="use --csv FILE or --words-tsv FILE and no other output, or charlm eval --text",
        )
    return str(text)


def _write_rows(
    screen: Screen,
    models: Sequence[LanguageModel],
    texts: Sequence[tuple[str, Text]],
    files: _Files,
    config: _Config,
) -> None:
    """Write rows as the texts are read, and print the totals."""
    from charlm.report.row_writer import RowWriter
    from charlm.report.surprisal import totals_report

    found: list[Totals] = []
    with ExitStack() as stack:
        csv, tsv = (path and stack.enter_context(screen.writing(path)) for path in (files.csv, files.words_tsv))
        writer = RowWriter(config.word, _names(models), csv or None, tsv or None, several=len(texts) > 1)
        for name, text in texts:
            passages = zip(*(model.passages(text) for model in models), strict=True)
            found += _with_names(writer.write(name, passages), _names(models), several=len(texts) > 1)
    if not (screen.data and screen.quiet):
        totals_report(screen.out, found)
        screen.note("the least expected words are listed for texts of up to 8 MiB")


def _with_names(totals: Sequence[Totals], models: Sequence[str], *, several: bool) -> list[Totals]:
    """The totals of all models under the names of the model, where there are several, and the text."""
    if len(models) == 1:
        return list(totals)
    named = zip(totals, models, strict=True)
    return [replace(one, name=f"{one.name}, {model}" if several else model) for one, model in named]


def _check(texts: Sequence[str], files: _Files, config: _Config, *, as_json: bool) -> None:
    """Refuse, before anything is computed, outputs that would fail or destroy an input."""
    if texts.count("-") > 1:
        raise ConfigError("standard input (-) can be read only once", kept=_KEPT)
    if config.only_for_words and files.words_tsv is None:
        raise ConfigError(
            f"{config.only_for_words[0]} is for the rows of --words-tsv", kept=_KEPT, hint="add --words-tsv FILE"
        )
    check_outputs(files.names, texts, as_json=as_json, options=files.options)
    if files.plot is not None:
        check_picture("--plot", files.plot)


def _check_several(checkpoints: Sequence[str], files: _Files, *, as_json: bool) -> None:
    """Refuse several models where they cannot stand side by side."""
    if len(checkpoints) < 2:
        return
    if twice := [name for name in checkpoints if checkpoints.count(name) > 1]:
        raise ConfigError(f"{twice[0]} is given twice", kept=_KEPT)
    alone = ["--html"] * (files.html is not None) + ["--plot"] * (files.plot is not None) + ["--json"] * as_json
    if alone:
        raise ConfigError(f"{alone[0]} shows one model, not {len(checkpoints)}", kept=_KEPT, hint="name one")
    if not files.needs_forecast:
        raise ConfigError(
            f"{len(checkpoints)} models stand side by side in a file only",
            kept=_KEPT,
            hint="add --csv FILE or --words-tsv FILE; charlm eval compares models",
        )


def _check_alike(models: Sequence[LanguageModel]) -> None:
    """Refuse models that read a text in different ways, so that their rows differ, and one that is there twice."""
    first = models[0]
    for number, model in enumerate(models):
        if model.path in [other.path for other in models[:number]]:
            raise ConfigError(f"{model.path} is given twice", kept=_KEPT)
        if model.records != first.records:
            raise ConfigError(
                f"{first.path} reads {_what(first)}, but {model.path} {_what(model)}: their rows would differ",
                kept=_KEPT,
                hint="--records has all models read the text in one way",
            )


def _what(model: LanguageModel) -> str:
    return "one text" if model.records == "none" else f"records ({model.records})"


def _scored(model: LanguageModel, texts: Sequence[tuple[str, str]], files: _Files, *, as_json: bool) -> list[Scored]:
    from charlm.report.page.page import ALTERNATIVES, LIMIT
    from charlm.report.surprisal import Scored

    scored, left = [], LIMIT
    losses = bool(files.html or files.plot or as_json)
    for name, content in texts:
        judged = model.surprisal(
            content,
            likeliest=0 if files.html is None else ALTERNATIVES,
            within=left,
            forecast=files.needs_forecast,
        )
        left = max(0, left - len(judged.ids))
        scored.append(Scored(name, judged, model.position_losses(content) if losses else ()))
    return scored


def _names(models: Sequence[LanguageModel]) -> list[str]:
    from charlm.report.evaluation import run_names

    return list(run_names(str(model.path) for model in models).values())


def _named(models: Sequence[LanguageModel], scored: Sequence[Sequence[Scored]]) -> list[Scored]:
    """The scores of all models, text by text, under the names of the model and, if there are several, the text."""
    named = [
        [one._replace(name=f"{one.name}, {name}" if len(own) > 1 else name) for one in own]
        for name, own in zip(_names(models), scored, strict=True)
    ]
    return [one for text in zip(*named, strict=True) for one in text]


def _write(
    screen: Screen,
    models: Sequence[LanguageModel],
    scored: Sequence[Sequence[Scored]],
    files: _Files,
    config: _Config,
) -> None:
    if files.html is not None:
        from charlm.report.page.page import page

        content = page(str(models[0].path), scored[0], models[0].tokenizer, words=config.words)
        screen.write_file(files.html, content.encode())
    if files.csv is not None:
        from charlm.report.character_csv import character_csv

        screen.write_file(files.csv, character_csv(*scored, names=_names(models)).encode())
    if files.words_tsv is not None:
        from charlm.report.word_tsv import word_tsv

        screen.write_file(files.words_tsv, word_tsv(config.word, *scored, names=_names(models)).encode())
    if files.plot is not None:
        from charlm.report.surprisal_plot import surprisal_curves

        screen.write_file(files.plot, surprisal_curves(scored[0], picture_kind(files.plot)))


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
