"""charlm compress and charlm decompress"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from charlm.cli.command import FolderOption, Screen, command
from charlm.config import SAMPLE_OPTIONS
from charlm.errors import ConfigError, StorageError
from charlm.options import Value, check_all

if TYPE_CHECKING:
    from charlm.api import LanguageModel

_KEPT = "nothing was written"
_ENGINE = {"engine": replace(SAMPLE_OPTIONS["engine"], offers=("auto", "compiled", "numpy"))}  # a GPU sums as it likes
_Model = Annotated[str, typer.Option(help="file, run folder or run name", metavar="CHECKPOINT")]
_Output = Annotated[str, typer.Option(help="where to write it; a file that is there is replaced", metavar="OUT")]
_Json = Annotated[bool, typer.Option("--json", help="print the figures as JSON")]


def register(app: typer.Typer) -> None:
    command(app, "compress", _ENGINE, {"engine": "auto"})(compress)
    command(app, "decompress", _ENGINE, {"engine": "the file's own"})(decompress)


def compress(
    screen: Screen,
    options: dict[str, Value],
    file: Annotated[str, typer.Argument(help="text to compress, - for standard input", metavar="FILE")],
    model: _Model,
    output: _Output,
    checkpoints: FolderOption = "checkpoints",
    as_json: _Json = False,
) -> None:
    """Compress a text with a model's probabilities, to about the bits that the model charges for it.

    It takes the same model, engine and machine to get the text back, exactly.
    """
    engine = str(check_all(options, _ENGINE).get("engine", "auto"))
    _check_output(file, output)

    from charlm import compression
    from charlm.storage.checkpoint import finite
    from charlm.text.corpus import read_text

    text = read_text(file)
    opened = _opened(model, checkpoints, output)
    done = compression.compress(opened.checkpoint, text, engine=engine)
    screen.write_file(output, done.data)
    if as_json:
        screen.json(
            "compress",
            text=file,
            checkpoint=str(opened.path),
            output=output,
            characters=done.characters,
            bytes=done.bytes,
            compressed_bytes=len(done.data),
            bits_per_character=done.bits_per_character,
            nats=finite(done.nats),
            tokens=done.tokens,
            engine=done.engine,
        )
        return
    bits = done.bits_per_character
    rate = "" if bits is None else f", {bits:.4f} bits per character"
    print(f"{done.bytes:,} bytes of text in {len(done.data):,}{rate}")  # noqa: T201


def decompress(
    screen: Screen,
    options: dict[str, Value],
    file: Annotated[str, typer.Argument(help="what compress wrote, - for standard input", metavar="FILE")],
    model: _Model,
    output: _Output,
    checkpoints: FolderOption = "checkpoints",
    as_json: _Json = False,
) -> None:
    """Get back the text that was compressed, with the same model; nothing is written unless it is that text exactly."""
    engine = str(check_all(options, _ENGINE).get("engine", "auto"))
    _check_output(file, output)

    from charlm import compression
    from charlm.text.corpus import read_bytes

    data = read_bytes(file)
    opened = _opened(model, checkpoints, output)
    text = compression.decompress(opened.checkpoint, data, engine=engine)
    raw = text.encode()
    screen.write_file(output, raw)
    if as_json:
        screen.json(
            "decompress",
            file=file,
            checkpoint=str(opened.path),
            output=output,
            characters=len(text),
            bytes=len(raw),
            compressed_bytes=len(data),
        )


def _check_output(file: str, output: str) -> None:
    """Refuse what could only fail, or destroy something, after all has been computed."""
    real = os.path.realpath(output)
    if file != "-" and real == os.path.realpath(file):
        raise ConfigError(f"{output} is to be read and to be written", kept=_KEPT, hint="choose another name")
    if not os.path.isdir(os.path.dirname(real)):
        raise StorageError(f"cannot write {output}: no such folder", kept=_KEPT, hint="make it, or choose another")
    if os.path.isdir(real):
        raise StorageError(f"cannot write {output}: it is a folder", kept=_KEPT, hint="name a file in it")


def _opened(model: str, checkpoints: str, output: str) -> LanguageModel:
    from charlm import api

    opened = api.load(model, checkpoints=checkpoints)
    if os.path.realpath(opened.path) == os.path.realpath(output):
        raise ConfigError(f"{output} is the model itself", kept=_KEPT, hint="choose another name")
    return opened
