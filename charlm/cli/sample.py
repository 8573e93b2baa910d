"""charlm sample"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import asdict
from typing import Annotated

import typer

from charlm.cli.command import CheckpointArgument, CorpusOption, FolderOption, Screen, command
from charlm.config import SAMPLE_OPTIONS, SampleConfig, check_sample
from charlm.errors import ConfigError
from charlm.options import Value
from charlm.report.words import visible


def register(app: typer.Typer) -> None:
    @command(app, "sample", SAMPLE_OPTIONS, asdict(SampleConfig()))
    def sample(
        screen: Screen,
        options: dict[str, Value],
        checkpoint: CheckpointArgument = None,
        prime: Annotated[str | None, typer.Option(help="text to go on from", metavar="TEXT")] = None,
        prime_file: Annotated[
            str | None, typer.Option(help="file with the text to go on from; - for standard input", metavar="FILE")
        ] = None,
        stop: Annotated[str | None, typer.Option(help="end a sample before this text", metavar="TEXT")] = None,
        no_echo: Annotated[bool, typer.Option("--no-echo", help="do not print the prime before the sample")] = False,
        raw: Annotated[
            bool, typer.Option("--raw", help="on a terminal, too, print control characters as they are")
        ] = False,
        novelty: Annotated[
            bool, typer.Option("--novelty", help="tell, too, how much of it stands in the training text")
        ] = False,
        corpus: CorpusOption = None,
        checkpoints: FolderOption = "checkpoints",
        as_json: Annotated[bool, typer.Option("--json", help="print the samples as JSON")] = False,
    ) -> None:
        """Write text, character by character, to standard output."""
        config = check_sample(options)
        text = _prime(prime, prime_file)

        from charlm import api
        from charlm.generation.generate import collect
        from charlm.storage.provenance import training_index

        model = api.load(checkpoint, checkpoints=checkpoints)
        if checkpoint is None:
            screen.note_newest(model.path)
        unseen = len(model.tokenizer.encode(text).escaped)
        if unseen:
            screen.note(
                f"{unseen} character{'s' * (unseen != 1)} of the prime never stood in the training text; "
                "each reads as an average one"
            )
        index = training_index(model.checkpoint, model.path, corpus or ()) if novelty else None
        echo = "" if no_echo else text
        pieces = model.stream(config, prime=text, stop=stop or "")
        if config.count == 1 and not as_json:
            samples = [_stream((piece.text for piece in pieces), echo, raw=raw)]
        else:
            samples = list(collect(pieces, config.count))
        judged = [index.novelty(sample) for sample in samples] if index else []
        if as_json:
            screen.json(
                "sample",
                checkpoint=str(model.path),
                prime=text,
                samples=[echo + sample for sample in samples],
                **({"novelty": [found.record() for found in judged]} if novelty else {}),
                **{k: v for k, v in asdict(config).items() if k != "count"},
            )
            return
        if config.count > 1:
            _several([echo + sample for sample in samples], raw=raw)
        for found in judged:
            from charlm.report.overlap import novelty_report

            novelty_report(screen.err, found)


def _prime(text: str | None, path: str | None) -> str:
    if text is not None and path is not None:
        raise ConfigError("--prime and --prime-file exclude each other", kept="nothing was read")
    if path is None:
        return text or ""
    from charlm.text.corpus import read_text

    return read_text(path)


def _write(text: str, *, raw: bool) -> None:
    """Exactly, in a pipe; on a terminal what would command it is shown instead, and lines end where they should."""
    if sys.stdout.isatty() and not raw:
        text = visible(text)
    sys.stdout.buffer.write(text.encode())
    sys.stdout.buffer.flush()


def _stream(pieces: Iterator[str], echo: str, *, raw: bool) -> str:
    """Write a sample as it comes; returns it."""
    _write(echo, raw=raw)
    written = []
    for piece in pieces:
        _write(piece, raw=raw)
        written.append(piece)
    if sys.stdout.isatty():
        _write("\n", raw=raw)
    return "".join(written)


def _several(samples: list[str], *, raw: bool) -> None:
    """Separated by NUL in a pipe, by a rule on a terminal."""
    terminal = sys.stdout.isatty()
    for number, sample in enumerate(samples):
        if number:
            _write("\n" + "─" * 40 + "\n" if terminal else "\0", raw=True)
        _write(sample, raw=raw)
    if terminal:
        _write("\n", raw=raw)
