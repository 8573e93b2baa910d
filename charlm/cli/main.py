"""All commands, and the one boundary at which errors become a line and an exit code."""

from __future__ import annotations

import re
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated

import typer

from charlm import __version__
from charlm.cli import compress, data, doctor, evaluate, info, novelty, sample, score, signals, streams, train
from charlm.errors import CharlmError, StorageError
from charlm.report.words import one_line

app = typer.Typer(
    name="charlm",
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"charlm {__version__}")  # noqa: T201
        raise typer.Exit


@app.callback()
def charlm(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="show the version")
    ] = False,
) -> None:
    """A character-level language-model workbench: train, sample and score recurrent networks on your own text."""


for module in (train, sample, evaluate, score, info, novelty, compress, data, doctor):
    module.register(app)


def run(arguments: Sequence[str]) -> int:  # noqa: PLR0911 - one for each way to end
    """Run one command line; returns the exit code. Whatever goes wrong is one line on standard error."""
    show = "--traceback" in arguments
    try:
        code = app(args=list(arguments) or ["--help"], prog_name="charlm", standalone_mode=False)
        sys.stdout.flush()
        return int(code or 0)
    except SystemExit as end:
        if isinstance(end.__context__, OSError):  # typer's answer to a reader that has gone
            return _output_failed(end.__context__, show)
        return end.code if isinstance(end.code, int) else CharlmError.exit_code
    except CharlmError as error:
        return _fail(error, str(error), error.exit_code, show)
    except typer.TyperException as error:
        return _fail(error, f"{error.format_message().rstrip('.')}; charlm --help lists all", error.exit_code, show)
    except OSError as error:
        return _output_failed(error, show)
    except Exception as error:  # noqa: BLE001 - the last boundary
        return _fail(error, _unforeseen(error), CharlmError.exit_code, show)


def _output_failed(error: OSError, show: bool) -> int:
    """Nobody reads what standard output says, or it cannot be written; what is left in its buffer is let go."""
    streams.drop_output()
    if streams.reader_has_gone(error):
        return 0
    return _fail(error, f"input or output failed: {error}", StorageError.exit_code, show)


def _unforeseen(error: Exception) -> str:
    """Memory that ran out, on the processor or on a GPU, or else a bug of ours, in one line."""
    if isinstance(error, MemoryError) or re.search("out of memory|can't allocate memory", str(error)):
        return "there is not enough memory; for training, try a smaller --batch, --bptt or --hidden"
    return f"this is a bug of charlm's: {type(error).__name__}: {error}; --traceback shows where"


def _fail(error: BaseException, text: str, code: int, show: bool) -> int:
    signals.settle()  # this is the last word
    if show:
        traceback.print_exception(error)
    print(f"charlm: {one_line(text)}", file=sys.stderr)  # noqa: T201
    return code
