"""Report of `charlm runs`: a table of all runs, whose columns are those that the terminal has room for."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final, NamedTuple

from rich.cells import cell_len

from charlm.report.console import Console, Verbatim, facts, paragraphs, table
from charlm.report.words import age, bits, duration, figure, file_size, one_line, short
from charlm.storage.checkpoint import Outline
from charlm.storage.listing import FINISHED, INTERRUPTED, Listed
from charlm.storage.records import CorpusRecord

_NAME: Final = 24  # cells that the column of names has at least, if it needs them
_GAP: Final = 2
_COMMANDS: Final = 3  # that are listed below the table on a terminal


class _Column(NamedTuple):
    """A column: its header, its cells, and how much it matters (1: the last to be left out)."""

    header: str
    cells: list[str]
    rank: int
    left: bool = False


def runs_report(out: Console, runs: Sequence[Listed], commands: Sequence[str | None], now: float) -> None:
    """The table, and how to go on with what was interrupted; `commands` are the runs' own, `now` is as `changed`."""
    columns = _chosen(_columns(runs, now), out.width if out.is_terminal else None)
    lefts = [number for number, column in enumerate(columns) if column.left]
    rows = list(zip(*(column.cells for column in columns), strict=True))
    table(out, [column.header for column in columns], rows, left=lefts)
    going_on = [command for run, command in zip(runs, commands, strict=True) if run.state == INTERRUPTED and command]
    shown = going_on[:_COMMANDS] if out.is_terminal else going_on
    if shown:
        facts(out, [("" if number else "resume with", Verbatim(command)) for number, command in enumerate(shown)])
    if more := len(going_on) - len(shown):
        paragraphs(out, [f"and {more:,} more that were interrupted: charlm runs --json has all commands"])


def _columns(runs: Sequence[Listed], now: float) -> list[_Column]:
    """All columns in their order."""
    tested = any(run.test_loss is not None for run in runs)
    test = [_Column("test bits", [_bits(run.test_loss) for run in runs], 6)] if tested else []
    return [
        _Column("run", [run.run.folder.name for run in runs], 0, left=True),
        _Column("state", [_state(run) for run in runs], 1, left=True),
        _Column("text", [_text(run) for run in runs], 9, left=True),
        _Column("model", [_model(run) for run in runs], 7, left=True),
        _Column("parameters", [short(run.outline.parameters) if run.outline else "-" for run in runs], 10),
        _Column("validation loss", [figure(run.val_loss) for run in runs], 11),
        _Column("validation bits", [_bits(run.val_loss) for run in runs], 2),
        *test,
        _Column("steps", [f"{run.step:,}" if run.outline else "-" for run in runs], 5),
        _Column("time", [duration(run.seconds) if run.outline else "-" for run in runs], 8),
        _Column("size", [file_size(run.size) for run in runs], 4),
        _Column("age", [age(now - run.changed) for run in runs], 3),
    ]


def _chosen(columns: list[_Column], width: int | None) -> list[_Column]:
    """The columns that matter most, as many as fit; all of them in a pipe."""
    if width is None:
        return columns
    room, chosen = width + _GAP, list[_Column]()
    for column in sorted(columns, key=lambda column: column.rank):
        wide = _width(column)
        needed = min(wide, _NAME) if not column.rank else wide
        if needed + _GAP <= room:
            room -= needed + _GAP
            chosen.append(column)
    return [column for column in columns if column in chosen]


def _width(column: _Column) -> int:
    """Cells that a column takes; its header wraps between words."""
    words = max(map(cell_len, column.header.split(" ")))
    return max([words, *(cell_len(one_line(cell)) for cell in column.cells)])


def _state(run: Listed) -> str:
    """The state, and how far the run is."""
    if run.state == FINISHED or run.progress is None:
        return run.state
    return f"{run.state} {min(0.99, run.progress):.0%}"


def _text(run: Listed) -> str:
    """The first file of the training text, how many more there are, and how long all of it is."""
    if run.outline is None:
        return "-"
    corpus = run.outline.corpus
    more = len(corpus.training_sources) - 1
    name = text_name(corpus) or "no file"
    return f"{name}{f' +{more}' if more > 0 else ''}, {short(characters(corpus))}"


def text_name(corpus: CorpusRecord) -> str:
    """The name of the first file that was trained on; empty where there is none."""
    sources = corpus.training_sources
    return sources[0].path.replace("\\", "/").rsplit("/", 1)[-1] if sources else ""


def characters(corpus: CorpusRecord) -> int:
    """Of all parts of the text."""
    return corpus.train_characters + corpus.val_characters + corpus.test_characters


def _model(run: Listed) -> str:
    if run.outline is None:
        return "-"
    model = run.outline.config.model
    return f"{model.kind} {model.layers} x {model.hidden}"


def _bits(nats: float | None) -> str:
    return figure(None if nats is None else bits(nats), 3)


def run_record(run: Listed, command: str | None, now: float) -> dict[str, object]:
    """The figures of a run for `--json`."""
    outline = run.outline
    changed = datetime.fromtimestamp(run.changed, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    return {
        "name": run.run.folder.name,
        "folder": str(run.run.folder),
        "state": run.state,
        "steps": run.step,
        "total_steps": run.total,
        "progress": run.progress,
        "val_loss": run.val_loss,
        "val_bits_per_character": None if run.val_loss is None else bits(run.val_loss),
        "test_loss": run.test_loss,
        "test_bits_per_character": None if run.test_loss is None else bits(run.test_loss),
        "seconds": run.seconds,
        "bytes": run.size,
        "changed": changed,
        "age": max(0.0, now - run.changed),
        "text": _text_record(outline.corpus) if outline else None,
        "model": _model_record(outline) if outline else None,
        "command": command,
        "problem": run.problem or None,
    }


def _text_record(corpus: CorpusRecord) -> dict[str, object]:
    return {
        "name": text_name(corpus) or None,
        "files": len(corpus.training_sources),
        "train_characters": corpus.train_characters,
        "val_characters": corpus.val_characters,
        "test_characters": corpus.test_characters,
    }


def _model_record(outline: Outline) -> dict[str, object]:
    model = outline.config.model
    return {
        "model": model.model,
        "cell": model.cell,
        "layers": model.layers,
        "hidden": model.hidden,
        "embedding": model.embedding,
        "tokenizer": outline.config.data.tokenizer,
        "parameters": outline.parameters,
    }
