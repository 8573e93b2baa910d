"""charlm sample"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Final

import typer

from charlm.cli import streams
from charlm.cli.command import CheckpointArgument, CorpusOption, FolderOption, JsonOption, Settings, command
from charlm.cli.help import OUTPUT
from charlm.cli.outputs import Screen
from charlm.cli.texts import given_text
from charlm.config import DEFAULT_FOLDER, SAMPLE_OPTIONS, SAMPLING, SampleConfig, check_sample
from charlm.errors import ConfigError
from charlm.report.words import visible

if TYPE_CHECKING:
    from charlm.api import LanguageModel
    from charlm.generation.generate import Piece
    from charlm.text.overlap import Novelty

_SETTINGS: Final = Settings(SAMPLE_OPTIONS, check_sample, asdict(SampleConfig()))


def register(app: typer.Typer) -> None:
    command(app, "sample", _SETTINGS)(sample)


def sample(
    screen: Screen,
    config: SampleConfig,
    checkpoint: CheckpointArgument = None,
    checkpoints: FolderOption = DEFAULT_FOLDER,
    corpus: CorpusOption = None,
    prime: Annotated[
        str | None, typer.Option(help="text to continue", metavar="TEXT", rich_help_panel=SAMPLING)
    ] = None,
    prime_file: Annotated[
        str | None,
        typer.Option(
            help="file with the text to continue, - for standard input", metavar="FILE", rich_help_panel=SAMPLING
        ),
    ] = None,
    stop: Annotated[
        str | None, typer.Option(help="end the sample before this text", metavar="TEXT", rich_help_panel=SAMPLING)
    ] = None,
    interactive: Annotated[
        bool,
        typer.Option(
            "-i",
            "--interactive",
            help="continue each line that you enter; :help lists commands",
            rich_help_panel=SAMPLING,
        ),
    ] = False,
    no_echo: Annotated[
        bool, typer.Option("--no-echo", help="do not print the prime before the sample", rich_help_panel=OUTPUT)
    ] = False,
    raw: Annotated[
        bool, typer.Option("--raw", help="print control characters unchanged in a terminal", rich_help_panel=OUTPUT)
    ] = False,
    novelty: Annotated[
        bool,
        typer.Option(
            "--novelty", help="also show how much the sample copies from the training text", rich_help_panel=OUTPUT
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Generate text, one character at a time.

    Text is printed as it is generated. Several samples are printed one after another, separated by NUL bytes in a pipe
    and by a horizontal rule in a terminal. A model of records (train --records) ends each sample by itself: lines are
    printed as lines, and paragraphs with a blank line between them.

    With --interactive you and the model write in turns. What you enter is read after the text so far, as it is: the
    text goes on where it stopped. An empty line lets the model go on, a line that ends in \\ goes on in the next one,
    with a line end between them, and a line that begins with : is a command. Ctrl-C stops a continuation and keeps what
    is written; Ctrl-D ends. Standard output has the continuations alone where it is no terminal.
    """
    if interactive:
        from charlm.cli.interactive import check_interactive

        check_interactive(count=config.count, as_json=as_json, novelty=novelty, prime_file=prime_file)
    text = _prime(given_text(screen, "--prime", prime) if prime is not None else None, prime_file)
    end = given_text(screen, "--stop", stop or "")

    from charlm import api
    from charlm.generation.generate import collect, in_order
    from charlm.storage.provenance import training_index
    from charlm.text.records import printed_end

    model = api.open_model(checkpoint, checkpoints=checkpoints)
    if checkpoint is None:
        screen.note_newest(model.path)
    _note_unseen(screen, model, text)
    screen.note_engine(config.engine, model.config.model)
    if interactive:
        from charlm.cli.interactive import converse

        converse(screen, model, config, prime=text, stop=end, echo=not no_echo, raw=raw)
        return
    index = training_index(model.checkpoint, model.path, corpus or ()) if novelty else None
    echo = "" if no_echo else text
    pieces = model.stream(config, prime=text, stop=end)
    if as_json:
        samples = list(collect(pieces, config.count))
        novelties = [index.novelty(generated) for generated in samples] if index else None
        _print_json(screen, model, config, text, [echo + generated for generated in samples], novelties)
        return
    novelties = []
    for generated in _printed(in_order(pieces), echo, printed_end(model.records), raw=raw, keep=novelty):
        if index:
            novelties.append(index.novelty(generated))
    for found in novelties:
        from charlm.report.overlap import novelty_report

        novelty_report(screen.err, found)


def _note_unseen(screen: Screen, model: LanguageModel, prime: str) -> None:
    """How many characters of the prime the model has never seen."""
    if unseen := len(model.tokenizer.encode(prime).escaped):
        verb = "s of the prime are" if unseen > 1 else " of the prime is"
        screen.note(f"{unseen} character{verb} not in the vocabulary; read as the mean embedding")


def _print_json(
    screen: Screen,
    model: LanguageModel,
    config: SampleConfig,
    prime: str,
    samples: list[str],
    novelties: list[Novelty] | None,
) -> None:
    found = {} if novelties is None else {"novelty": [novelty.record() for novelty in novelties]}
    options = {name: value for name, value in asdict(config).items() if name != "count"}
    screen.json("sample", checkpoint=str(model.path), prime=prime, samples=samples, **found, **options)


def _prime(text: str | None, path: str | None) -> str:
    """The text to continue."""
    if text is not None and path is not None:
        raise ConfigError("--prime and --prime-file cannot be combined", kept="nothing was read")
    if path is None:
        return text or ""
    from charlm.text.corpus import read_text

    return read_text(path).removeprefix("\ufeff")  # a byte order mark, which an editor has added


def _write(text: str, *, raw: bool) -> None:
    """Write text: unchanged to a pipe; to a terminal with its control characters shown instead of obeyed."""
    if sys.stdout.isatty() and not raw:
        text = visible(text)
    streams.write_data(text.encode())


def _printed(pieces: Iterator[Piece], echo: str, end: str, *, raw: bool, keep: bool) -> Iterator[str]:
    """Print samples as they are generated; those to `keep` are returned, each when it is complete.

    Records are followed by their `end`. Texts have none: in a pipe they are separated by NUL, on a terminal by a line.
    """
    terminal, begins, written = sys.stdout.isatty(), False, list[str]()
    _write(echo, raw=raw)  # before the model has read it
    for piece in pieces:
        if begins and end:
            pass
        elif begins and terminal:
            print("\n" + "─" * 40)  # noqa: T201
        elif begins:
            _write("\0", raw=True)
        _write(echo * begins + piece.text, raw=raw)
        written += [piece.text] * keep
        begins = piece.done
        if begins:
            _write(end, raw=True)
            yield "".join(written)
            written.clear()
    if terminal and not end:
        _write("\n", raw=raw)
