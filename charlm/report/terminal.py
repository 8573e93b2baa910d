"""What people see in a terminal or read from a pipe. The only module that imports rich.

Results go to standard output, everything else to standard error; each stream by itself decides about colour and
whether something may move. Foreign text (a model's, a file's name) passes `visible` and never rich's markup.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TextIO

from rich.console import Console as Console  # noqa: PLC0414 - for whoever must not import rich
from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from charlm.config import DROPOUTS, flag
from charlm.report.plain import bits, duration, figure, one_line, visible
from charlm.training.events import Checked, Chosen, Event, Finished, Remark, Resumed, Saved, Stepped, Writing, Wrote

_REFRESH: Final = 0.2  # seconds between redraws
_PLAIN: Final = 10.0  # seconds between lines in a pipe
_WIDTH: Final = 100
Row = Sequence[str]


class _Console(Console):
    """rich ends the process when a reader has gone: that is for the command line to decide."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        raise BrokenPipeError


def console(stream: TextIO, *, color: bool = True) -> Console:
    """A console on this stream; in a pipe lines are as long as they need to be."""
    width = None if stream.isatty() else 200
    return _Console(
        file=stream, no_color=None if color else True, highlight=False, soft_wrap=not stream.isatty(), width=width
    )


def table(out: Console, title: str, columns: Sequence[str], rows: Sequence[Row]) -> None:
    """A table with its first column to the left and figures to the right."""
    grid = Table(
        title=Text(title), title_justify="left", title_style="bold", box=None, pad_edge=False, header_style="dim"
    )
    for number, column in enumerate(columns):
        grid.add_column(column, justify="right" if number else "left", overflow="fold")
    for row in rows:
        grid.add_row(*(Text(one_line(cell)) for cell in row))
    out.print(grid)


def facts(out: Console, rows: Sequence[tuple[str, str]]) -> None:
    """Names and what they are, one a line; long lines are the terminal's to wrap, so that paths can be copied."""
    width = max(len(one_line(name)) for name, _ in rows)
    for name, value in rows:
        line = Text(f"{one_line(name):<{width}}  ", style="dim")
        line.append(one_line(value), style="not dim")
        out.print(line, soft_wrap=True)


def paragraphs(out: Console, lines: Sequence[str]) -> None:
    for line in lines:
        out.print(Text(visible(line)))


class Progress:
    """Follows a training run: a live display on a terminal, plain lines in a pipe, nothing when quiet."""

    def __init__(self, err: Console, *, quiet: bool) -> None:
        self._err, self._quiet = err, quiet
        self._live: Live | None = None
        self._stepped: Stepped | None = None
        self._sample = ""
        self._drawn = self._told = 0.0

    def __enter__(self) -> Progress:
        if self._err.is_terminal and not self._quiet:
            self._live = Live(console=self._err, auto_refresh=False, transient=True)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def abandon(self) -> None:
        """The process ends on the spot: leave a terminal as it was, past the descriptor's buffers and rich's."""
        if self._live is not None:
            os.write(self._err.file.fileno(), b"\x1b[?25h")

    def __call__(self, event: Event) -> None:
        if self._quiet:
            return
        match event:
            case Chosen():
                self._chosen(event)
            case Remark():
                self._say(Text(f"note: {one_line(event.text)}", style="yellow"))
            case Resumed():
                how = "to the bit: same text, torch, device and threads" if event.exact else "not to the bit"
                self._say(Text(f"going on from step {event.step:,}, {how} ({one_line(str(event.path))})"))
            case Stepped():
                self._step(event)
            case Checked():
                self._checked(event)
            case Wrote():
                self._sample = event.text
            case Finished():
                self._finished(event)
            case Writing() | Saved():
                pass

    def _say(self, line: Text) -> None:
        self._err.print(line)

    def _chosen(self, event: Chosen) -> None:
        model, train, optim = event.config.model, event.config.train, event.config.optim
        length = (
            f"--time {train.time}"
            if train.time
            else f"--epochs {train.epochs}"
            if train.epochs
            else f"--steps {train.steps}"
        )
        text = Text()
        text.append(f"{one_line(event.name)}: ", style="bold")
        text.append(
            f"{event.train_characters:,} characters to train on, {event.val_characters:,} held out, "
            f"vocabulary {event.vocabulary:,}\n"
            f"{model.layers} x {model.hidden} {model.cell}, {event.parameters:,} parameters; "
            f"{train.batch} lanes x {train.bptt} tokens; {optim.optimizer}, rate {optim.lr:g}; {length}\n"
            f"{event.runtime}"
        )
        self._say(text)
        if event.reasons:
            rows = _grouped(event)
            width = max(len(name) for name, _ in rows)
            for name, reason in rows:
                self._say(Text(f"  {name:<{width}}  {reason}", style="dim"))
        for departure in event.departures:
            self._say(Text(f"  other than the original: {departure}", style="dim"))

    def _step(self, event: Stepped) -> None:
        self._stepped = event
        now = time.monotonic()
        if self._live is not None and now - self._drawn >= _REFRESH:
            self._drawn = now
            self._live.update(self._picture(event), refresh=True)
        elif self._live is None and now - self._told >= _PLAIN:
            self._told = now
            self._say(Text(f"{_place(event)}  {_figures(event)}  {duration(event.left)} left"))

    def _picture(self, event: Stepped) -> Group:
        done = event.step / event.total if event.total else 0.0
        width = min(self._err.width, _WIDTH) - 2
        bar = Table.grid(padding=(0, 1))
        bar.add_row(
            ProgressBar(total=1.0, completed=done, width=min(40, width // 2)),
            Text(f"{done:4.0%}"),
            Text(f"{duration(event.left)} left", style="cyan"),
        )
        parts: list[Any] = [bar, Text(f"{_place(event)}  {_figures(event)}")]
        if self._sample:
            sample = Text(visible(self._sample), style="italic dim", overflow="fold")
            parts += [Rule("it writes", style="dim", align="left"), sample]
        return Group(*parts)

    def _checked(self, event: Checked) -> None:
        self._told = time.monotonic()
        loss = "" if event.val_loss is None else f", held out {event.val_loss:.4f} ({bits(event.val_loss):.3f} bpc)"
        place = f"step {event.step:,}/{event.total:,}, {duration(event.seconds)}"
        line = Text(f"{place}: train {event.train_loss:.4f}{loss}")
        line.append(", best" if event.best else "", style="green")
        self._say(line)

    def _finished(self, event: Finished) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None
        how = {"done": "finished", "patience": "stopped: no better check for a while"}.get(
            event.reason, f"stopped by {event.reason}, saved"
        )
        self._say(Text(f"{how} after {event.steps:,} steps, {duration(event.seconds)}"))


def _grouped(event: Chosen) -> list[tuple[str, str]]:
    """Options with the same reason on one line, with their values; three equal dropouts are one."""
    values = event.config.flat()
    left = dict(event.reasons)
    if all(name in left for name in DROPOUTS) and len({values[name] for name in DROPOUTS}) == 1:
        values["dropout"] = values[DROPOUTS[0]]
        left["dropout"] = left[DROPOUTS[0]]
        left = {name: reason for name, reason in left.items() if name not in DROPOUTS}
    by_reason: dict[str, list[str]] = {}
    for name, reason in left.items():
        by_reason.setdefault(reason, []).append(f"{flag(name)} {values[name]}")
    return [(" ".join(names), reason) for reason, names in by_reason.items()]


def _place(event: Stepped) -> str:
    return f"step {event.step:,}" + (f"/{event.total:,}" if event.total else "")


def _figures(event: Stepped) -> str:
    return (
        f"loss {event.loss:.4f} ({bits(event.loss):.3f} bpc)  grad {event.grad_norm:.3f}  "
        f"rate {event.lr:.2g}  {event.characters_per_second:,.0f} char/s"
    )


def closing_table(out: Console, result: Mapping[str, Any]) -> None:
    """The closing figures of a run."""
    held = "nothing held out"
    if result["val_loss"] is not None:
        held = (
            f"{result['val_loss']:.4f} nats, {result['val_bits_per_character']:.4f} bits a character, "
            f"perplexity {figure(result['val_perplexity'], 3)}"
        )
    took = f"{result['steps']:,} steps, {result['characters_seen']:,} characters, {duration(result['seconds'])}"
    facts(
        out,
        [("held-out loss", held), ("training loss", f"{result['train_loss']:.4f} nats a character"), ("trained", took)],
    )


def score_table(out: Console, results: Sequence[Mapping[str, Any]]) -> None:
    """The report of `eval`: one column a text, one row a figure."""
    columns = ["", *(f"{one_line(str(row['text']))}" for row in results)]
    lines: list[tuple[str, Callable[[Mapping[str, Any]], str]]] = [
        ("bits per character", lambda r: figure(r["bits_per_character"])),
        ("  95 % interval", lambda r: "-" if r["interval"] is None else " to ".join(map(figure, r["interval"]))),
        ("loss (nats per character)", lambda r: figure(r["loss"])),
        ("perplexity per character", lambda r: figure(r["perplexity"], 3)),
        ("bits per byte", lambda r: figure(r["bits_per_byte"])),
        ("word perplexity", lambda r: figure(r["word_perplexity"], 1)),
        ("characters", lambda r: f"{r['characters']:,}"),
        ("  never seen in training", lambda r: f"{r['unknown_characters']:,}"),
        ("bytes", lambda r: f"{r['bytes']:,}"),
        ("words and line ends", lambda r: f"{r['words']:,}"),
        ("tokens", lambda r: f"{r['tokens']:,}"),
        ("characters per second", lambda r: figure(r["characters_per_second"], 0)),
    ]
    several = len({row["checkpoint"] for row in results}) > 1
    if several:
        lines.insert(0, ("model", lambda r: str(r["checkpoint"])))
    table(out, "", columns, [(name, *(show(row) for row in results)) for name, show in lines])


def meaning(perplexity: float | None) -> str:
    """A perplexity in words."""
    if perplexity is None:
        return "There was nothing to score."
    return f"The model is as unsure as a choice among {figure(perplexity, 1)} equally likely characters."


def excerpt(out: Console, where: str, text: str) -> None:
    """Where a text stands, and below it as much of it as fits a line."""
    out.print(Text(one_line(where), style="dim"), soft_wrap=True)
    line = Text("    " + one_line(text))
    line.truncate(out.width, overflow="ellipsis")
    out.print(line, soft_wrap=True)
