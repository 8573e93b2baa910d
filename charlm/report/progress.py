"""Follows a training run: a live display on a terminal, plain lines in a pipe."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any, Final

from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from charlm.config import DROPOUTS, Config
from charlm.models.architecture import architecture_of
from charlm.options import Value, flag
from charlm.report.console import Console, facts, heading, paragraphs
from charlm.report.words import bits, duration, one_line, visible
from charlm.training.events import (
    Event,
    Finished,
    Recorded,
    Remark,
    Resumed,
    RolledBack,
    Sampled,
    Saved,
    Settled,
    Started,
    Stepped,
    Validated,
    Writing,
)

_REFRESH: Final = 0.2  # seconds between redraws
_PLAIN: Final = 10.0  # seconds between lines in a pipe
_BAR: Final = 40  # cells


class Progress:
    """Follows a training run: a live display on a terminal, plain lines in a pipe, nothing when quiet."""

    def __init__(self, err: Console, *, quiet: bool) -> None:
        self._err, self._quiet = err, quiet
        self._live: Live | None = None
        self._sample = ""
        self._drawn = self._said = 0.0
        self._patience = 0

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
                self._patience = event.config.train.patience
                show_start(self._err, event)
            case Remark():
                self._say(Text(f"note: {one_line(event.text)}", style="yellow"))
            case Resumed():
                self._say(Text(format_resumed(event)))
            case Settled():
                self._say(Text(format_settled(event)))
            case Stepped():
                self._show_step(event)
            case Validated():
                self._said = time.monotonic()
                self._say(format_validation(event))
            case Sampled():
                self._sample = event.text
            case Finished():
                self._show_end(event)
            case Writing() | Saved() | Recorded() | RolledBack():
                pass

    def _say(self, line: Text) -> None:
        self._err.print(line)

    def _show_step(self, event: Stepped) -> None:
        now = time.monotonic()
        if self._live is not None and now - self._drawn >= _REFRESH:
            self._drawn = now
            self._live.update(self._display(event), refresh=True)
        elif self._live is None and now - self._said >= _PLAIN:
            self._said = now
            self._say(Text(f"{_place(event)}: {_figures(event)}  {_speed(event)}  {duration(event.left)} left"))

    def _display(self, event: Stepped) -> Group:
        """The bar and what stands beside it, the figures, and the text that the network wrote last."""
        done = event.step / event.total if event.total else 0.0
        bar = Table.grid(padding=(0, 1))
        bar.add_row(
            ProgressBar(total=1.0, completed=done, width=min(_BAR, self._err.width // 3)),
            Text(f"{done:4.0%}"),
            Text(f"{duration(event.left)} left", style="cyan"),
            Text(_speed(event)),
        )
        parts: list[Any] = [bar, Text(f"{_place(event)}: {_figures(event)}")]
        if self._sample:
            parts.append(Rule("sample", style="dim", align="left"))
            parts.append(Text(visible(self._sample), style="italic dim", overflow="fold"))
        return Group(*parts)

    def _show_end(self, event: Finished) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None
        how = {
            "done": "finished",
            "patience": f"stopped early (no improvement in {self._patience} validations)",
        }.get(event.reason, f"stopped by {event.reason} (checkpoint saved)")
        self._say(Text(f"{how} after {event.steps:,} steps, {duration(event.seconds)}"))


def show_start(out: Console, event: Started) -> None:
    """What will be trained, on what and where; then the options that were chosen automatically, with reasons."""
    heading(out, event.name)
    text = f"{event.train_characters:,} characters for training, {event.val_characters:,} for validation"
    text += f", {event.test_characters:,} for the test" if event.test_characters else ""
    facts(
        out,
        [
            ("  text", f"{text}; vocabulary of {event.vocabulary:,}"),
            ("  model", f"{_format_model(event.config)}, {event.parameters:,} parameters"),
            ("  training", _format_training(event.config)),
            ("  machine", event.runtime),
        ],
    )
    if event.reasons:
        paragraphs(out, ["automatic:"])
        facts(out, [(f"  {names}", reason) for names, reason in _group_by_reason(event)])
    if event.departures:
        paragraphs(out, ["differs from the original:", *(f"  {departure}" for departure in event.departures)])


def _format_model(config: Config) -> str:
    model = config.model
    reach = architecture_of(model).receptive_field(model)
    field = f", receptive field of {reach:,} token{'s' * (reach != 1)}" if reach else ""
    return f"{model.kind}, {model.layers} layer{'s' * (model.layers != 1)} of {model.hidden}{field}"


def _format_training(config: Config) -> str:
    train, optim = config.train, config.optim
    unit = "characters" if config.data.tokenizer == "char" else "tokens"
    length = f"{train.epochs:g} epoch{'s' * (train.epochs != 1)}" if train.epochs else f"{train.steps:,} steps"
    return (
        f"{train.time or length}, batch {train.batch} x {train.bptt} {unit}, "
        f"{optim.optimizer}, learning rate {optim.lr:g}"
    )


def _group_by_reason(event: Started) -> list[tuple[str, str]]:
    """Options with the same reason on one line, with their values; three equal dropouts are one."""
    values, by_reason = event.config.flat(), dict[str, list[str]]()
    chosen = _with_shorthand({name: values[name] for name in event.reasons})
    for name, value in chosen.items():
        reason = event.reasons[DROPOUTS[0] if name == "dropout" else name]
        by_reason.setdefault(reason, []).append(f"{flag(name)} {value}")
    return [(" ".join(names), reason) for reason, names in by_reason.items()]


def _with_shorthand(options: Mapping[str, Value]) -> dict[str, Value]:
    """The same options, three equal dropouts as one, at the end."""
    if len({options.get(name) for name in DROPOUTS}) > 1 or DROPOUTS[0] not in options:
        return dict(options)
    others = {name: value for name, value in options.items() if name not in DROPOUTS}
    return {**others, "dropout": options[DROPOUTS[0]]}


def format_settled(event: Settled) -> str:
    chosen = " ".join(f"{flag(name)} {value}" for name, value in _with_shorthand(event.options).items())
    return f"steps are timed: {event.total:,} planned, {event.passes:.2g} passes through the text, so {chosen}"


def format_resumed(event: Resumed) -> str:
    how = "bit-exact: same text, torch, device and threads" if event.exact else "not bit-exact"
    return f"resuming at step {event.step:,} from {one_line(str(event.path))}, {how}"


def format_validation(event: Validated) -> Text:
    place = f"step {event.step:,}/{event.total:,}, {duration(event.seconds)}"
    losses = f"training loss {event.train_loss:.4f}, validation {event.val_loss:.4f} ({bits(event.val_loss):.3f} bpc)"
    return Text(f"{place}: {losses}").append(", best" if event.best else "", style="green")


def _place(event: Stepped) -> str:
    return f"step {event.step:,}" + (f"/{event.total:,}" if event.total else "")


def _speed(event: Stepped) -> str:
    return f"{event.characters_per_second:,.0f} char/s"


def _figures(event: Stepped) -> str:
    return (
        f"loss {event.loss:.4f} ({bits(event.loss):.3f} bpc), "
        f"gradient norm {event.grad_norm:.3f}, learning rate {event.lr:.2g}"
    )
