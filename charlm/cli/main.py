"""All commands, and the one place where errors become a line on standard error and an exit code."""

from __future__ import annotations

import os
import re
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated, Final

import typer

from charlm import __version__
from charlm.cli import (
    compare,
    complete,
    compress,
    data,
    doctor,
    evaluate,
    export,
    fill,
    info,
    inspect,
    lags,
    novelty,
    page,
    pairs,
    plot,
    push,
    runs,
    sample,
    score,
    signals,
    streams,
    train,
)
from charlm.cli.help import Command, Group, show
from charlm.errors import CharlmError, StoppedError, StorageError
from charlm.report.words import one_line
from charlm.runtime import processes

EXAMPLES: Final = """\
Examples:
  charlm train corpus.txt --time 2m
  charlm sample --prime "Once upon a time"
  charlm eval --baselines
  charlm help train"""

app = typer.Typer(
    name="charlm",
    cls=Group,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=EXAMPLES,
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
    """A workbench for character-level language models: train, sample and score recurrent networks on your own text."""


for module in (
    *(train, sample, fill, evaluate, score, pairs, novelty, compress, compare),
    *(info, runs, plot, inspect, lags, page, export, push, data, doctor),
):
    module.register(app)
app.command("help", cls=Command)(show)


def run(arguments: Sequence[str]) -> int:  # noqa: PLR0911 - one for each way to end
    """Run one command line and return its exit code. Any failure is one line on standard error."""
    traced = "--traceback" in arguments
    complete.join_assignments(os.environ)
    try:
        code = app(args=list(arguments) or ["--help"], prog_name="charlm", standalone_mode=False)
        sys.stdout.flush()
        return int(code or 0)
    except SystemExit as end:
        if isinstance(end.__context__, OSError):  # typer's answer to a reader that has gone
            return _output_failed(end.__context__, traced)
        return end.code if isinstance(end.code, int) else CharlmError.exit_code
    except CharlmError as error:
        return _fail(error, str(error), error.exit_code, traced)
    except typer.TyperException as error:
        from charlm.cli import suggest

        return _fail(error, suggest.explain(error), error.exit_code, traced)
    except OSError as error:
        return _output_failed(error, traced)
    except Exception as error:  # noqa: BLE001 - the last boundary
        return _fail(error, _unforeseen(error), CharlmError.exit_code, traced)


def _output_failed(error: OSError, traced: bool) -> int:
    """Standard output failed: discard what is left of it. That its reader has closed it is no error."""
    streams.drop_output()
    if streams.reader_has_gone(error):
        return 0
    return _fail(error, f"input or output failed: {error}", StorageError.exit_code, traced)


def _unforeseen(error: Exception) -> str:
    """An exception that no code expected: out of memory, on the processor or a GPU, or a bug."""
    if isinstance(error, typer.Abort) and isinstance(error.__cause__, EOFError):
        error = error.__cause__  # which typer takes for the end of a user's input
    if isinstance(error, MemoryError) or re.search("out of memory|can't allocate memory", str(error)):
        return "there is not enough memory; for training, try a smaller --batch, --bptt or --hidden"
    return f"internal error (please report): {type(error).__name__}: {error}; --traceback shows where"


def _fail(error: BaseException, text: str, code: int, traced: bool) -> int:
    signals.settle()  # no signal may interrupt the last line
    here = processes.place()
    if not (here.is_first if isinstance(error, StoppedError) else processes.speaks()):
        return code  # of many processes one says it
    if traced:
        traceback.print_exception(error)
    print(f"charlm: {here.prefix}{one_line(text)}", file=sys.stderr)  # noqa: T201
    return code
