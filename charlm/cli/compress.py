"""charlm compress and charlm decompress"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Final

import typer

from charlm.cli import complete
from charlm.cli.command import FolderOption, JsonOption, Settings, command
from charlm.cli.help import OUTPUT, WHICH
from charlm.cli.outputs import Screen, check_outputs, check_terminal
from charlm.config import DEFAULT_FOLDER, SAMPLE_OPTIONS
from charlm.options import check_all

if TYPE_CHECKING:
    from charlm.language_model import LanguageModel

# Not cuda: a GPU need not add in the same order twice, and one bit of difference loses the text.
_ENGINE: Final = {"engine": replace(SAMPLE_OPTIONS["engine"], offers=("auto", "compiled", "numpy"))}
_Model = Annotated[
    str,
    typer.Option(
        help="file, run folder, run name or hf:OWNER/NAME",
        metavar="CHECKPOINT",
        autocompletion=complete.runs,
        rich_help_panel=WHICH,
    ),
]
_Output = Annotated[
    str,
    typer.Option(
        help="file to write, - for standard output; an existing one is replaced", metavar="OUT", rich_help_panel=OUTPUT
    ),
]


def _check_engine(given: Mapping[str, object]) -> str:
    return str(check_all(given, _ENGINE).get("engine", "auto"))


def register(app: typer.Typer) -> None:
    command(app, "compress", Settings(_ENGINE, _check_engine, {"engine": "auto"}))(compress_file)
    command(app, "decompress", Settings(_ENGINE, _check_engine, {"engine": "as compressed"}))(decompress_file)


def compress_file(
    screen: Screen,
    engine: str,
    file: Annotated[str, typer.Argument(help="text to compress, - for standard input", metavar="FILE")],
    model: _Model,
    output: _Output,
    checkpoints: FolderOption = DEFAULT_FOLDER,
    as_json: JsonOption = False,
) -> None:
    """Compress a text with the probabilities of a model.

    The file has about as many bits as the model's negative log2-likelihood of the text (entropy coding). To
    decompress it, the same model, engine and kind of machine are needed.
    """
    check_outputs([output], [file], as_json=as_json)
    check_terminal(output, "compressed data")
    screen = screen.beside([output])

    from charlm.compression.compress import compress
    from charlm.storage.checkpoint import finite
    from charlm.text.large import open_text

    text = open_text(file)
    opened = _open(screen, model, checkpoints, output)
    screen.note_engine(engine, opened.config.model)
    with screen.writing(output, whole=True) as write:
        done = compress(opened.checkpoint, text, write, engine=engine)
    if as_json:
        screen.json(
            "compress",
            text=file,
            checkpoint=str(opened.path),
            output=output,
            characters=done.characters,
            bytes=done.bytes,
            compressed_bytes=done.size,
            bits_per_character=done.bits_per_character,
            nats=finite(done.nats),
            tokens=done.tokens,
            engine=done.engine,
        )
        return
    bits = done.bits_per_character
    rate = "" if bits is None else f", {bits:.4f} bits per character"
    screen.print(f"compressed {done.bytes:,} bytes to {done.size:,}{rate}")


def decompress_file(
    screen: Screen,
    engine: str,
    file: Annotated[str, typer.Argument(help="file that compress wrote, - for standard input", metavar="FILE")],
    model: _Model,
    output: _Output,
    checkpoints: FolderOption = DEFAULT_FOLDER,
    as_json: JsonOption = False,
) -> None:
    """Restore a compressed text, with the same model.

    The text is checked against a hash in the file. Unless it is exactly the original, nothing is written.
    """
    check_outputs([output], [file], as_json=as_json)
    screen = screen.beside([output])

    from charlm.compression.compress import decompress
    from charlm.text.files import read_twice

    with read_twice(file) as data:
        opened = _open(screen, model, checkpoints, output)
        with screen.writing(output, whole=True) as write:
            done = decompress(opened.checkpoint, data, write, engine=engine)
    if as_json:
        screen.json(
            "decompress",
            file=file,
            checkpoint=str(opened.path),
            output=output,
            characters=done.characters,
            bytes=done.bytes,
            compressed_bytes=done.size,
        )


def _open(screen: Screen, model: str, checkpoints: str, output: str) -> LanguageModel:
    """Open the model, whose file must not be the output."""
    from charlm import api

    opened = api.open_model(model, checkpoints=checkpoints)
    screen.note_model(model, opened.path)
    check_outputs([output], [opened.path])
    return opened
