"""The report of `charlm compare`: a table of the models, what the differences are worth, and their curves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from charlm.config import ModelConfig
from charlm.evaluation.comparison import Pair, Row
from charlm.report.comparison import span
from charlm.report.console import Console, paragraphs, table
from charlm.report.words import duration, figure, file_size, short
from charlm.storage.checkpoint import finite

_ONE_SEED = (
    "Intervals are 95 % confidence intervals, by block bootstrap over the passages of the validation text. They do not "
    "cover another seed: each model was trained once, and it was chosen by the text that it is judged on here."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How one model did; what an n-gram model does not have is None.

    row             its score of the validation text
    parameters      of the network, those that are not trained included
    seconds         of training, validations included
    training_speed  characters a second that training read, without validations
    sampling_speed  characters a second that `charlm sample` writes, one text at a time
    memory          bytes that the training process took at most
    """

    name: str
    row: Row
    model: ModelConfig | None = None
    parameters: int | None = None
    steps: int | None = None
    seconds: float | None = None
    training_speed: int | None = None
    sampling_speed: float | None = None
    memory: int | None = None

    def record(self) -> dict[str, object]:
        """The standing for JSON: null for what there is not."""
        model = self.model
        return {
            "name": self.name,
            "layers": model.layers if model else None,
            "hidden": model.hidden if model else None,
            "bits_per_character": finite(self.row.bits_per_character),
            "interval": None if self.row.interval is None else list(self.row.interval),
            "parameters": self.parameters,
            "steps": self.steps,
            "seconds": self.seconds,
            "training_characters_per_second": self.training_speed,
            "sampling_characters_per_second": None if self.sampling_speed is None else round(self.sampling_speed),
            "memory_bytes": self.memory,
        }


def standings_report(out: Console, standings: Sequence[Standing]) -> None:
    """The table, the best model first, and each difference to the best in words."""
    columns = ("", "bits per character", "95 % interval", "size", "parameters", "steps", "time")
    speeds = ("training, char/s", "sampling, char/s", "memory")
    table(out, [*columns, *speeds], [_line(one) for one in standings])
    paragraphs(out, ["", *describe_standings(standings), _ONE_SEED])


def _line(one: Standing) -> tuple[str, ...]:
    size = f"{one.model.layers} x {one.model.hidden}" if one.model else "-"
    return (
        one.name,
        figure(one.row.bits_per_character),
        span(one.row.interval),
        size,
        "-" if one.parameters is None else short(one.parameters),
        "-" if one.steps is None else f"{one.steps:,}",
        "-" if one.seconds is None else duration(one.seconds),
        figure(one.training_speed, 0),
        figure(one.sampling_speed, 0),
        "-" if one.memory is None else file_size(one.memory),
    )


def describe_standings(standings: Sequence[Standing]) -> list[str]:
    """What the differences to the best model are worth, a sentence for each other one.

    A difference is worth something where the interval of the paired difference excludes 0.
    """
    best, *others = standings
    lines = [
        f"{best.name} predicts the validation text best, with {figure(best.row.bits_per_character)} bits per character."
    ]
    for one in others:
        pair = Pair(best.row, one.row)
        more = f"{one.name} needs {figure(pair.difference)} more"
        if pair.interval is None:
            lines.append(f"{more}; the text is too short to say whether that is more than chance.")
        elif pair.sure:
            lines.append(f"{more} (95 % interval: {span(pair.interval)}): more than chance.")
        else:
            lines.append(f"{more} (95 % interval: {span(pair.interval)}): no difference that this text can show.")
    return lines
