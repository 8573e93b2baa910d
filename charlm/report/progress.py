"""Follows a training run: a live display on a terminal, plain lines in a pipe."""

from __future__ import annotations

import os
import time
from typing import Any, Final

from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from charlm.config import DROPOUTS
from charlm.options import flag
from charlm.report.console import Console
from charlm.report.words import bits, duration, one_line, visible
from charlm.training.events import (
    Event,
    Finished,
    Remark,
    Resumed,
    Sampled,
    Saved,
    Started,
    Stepped,
    Validated,
    Writing,
)

_REFRESH: Final = 0.2  # seconds between redraws
_PLAIN: Final = 10.0  # seconds between lines in a pipe
_WIDTH: Final = 100


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
            case Started():
                self._chosen(event)
            case Remark():
                self._say(Text(f"note: {one_line(event.text)}", style="yellow"))
            case Resumed():
                how = "to the bit: same text, torch, device and threads" if event.exact else "not to the bit"
                self._say(Text(f"going on from step {event.step:,}, {how} ({one_line(str(event.path))})"))
            case Stepped():
                self._step(event)
            case Validated():
                self._checked(event)
            case Sampled():
                self._sample = event.text
            case Finished():
                self._finished(event)
            case Writing() | Saved():
                pass

    def _say(self, line: Text) -> None:
        self._err.print(line)

    def _chosen(self, event: Started) -> None:
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

    def _checked(self, event: Validated) -> None:
        self._told = time.monotonic()
        loss = f", validation {event.val_loss:.4f} ({bits(event.val_loss):.3f} bpc)"
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


def _grouped(event: Started) -> list[tuple[str, str]]:
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
