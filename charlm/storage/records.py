"""What a checkpoint and a run's metrics hold besides tensors, as typed records.

`charlm.storage.schema` checks the JSON that they are read from; docs/checkpoint.md describes it. Losses are in nats per
character, times in seconds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from itertools import pairwise
from typing import Any, Final, TypeVar

from charlm.options import Value
from charlm.storage.schema import Table
from charlm.text.corpus import Corpus, Source
from charlm.text.large import StoredCorpus
from charlm.text.position import Position
from charlm.text.split import CHARACTERS

UNKNOWN: Final = 10**12  # total steps of a plan that has not been measured yet
_MEASURED: Final = 1e-5  # progress that no plan has which has not been measured
RECENT: Final = 100  # steps whose losses are remembered, so that reported losses do not jump from chunk to chunk
Json = dict[str, object]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Plan:
    """Progress from 0 to 1, piecewise linear in the step. Knots are (step, progress); the last is (total, 1).

    A plan is recorded before it is used, so that a resumed run follows the same learning rates to the bit.

    >>> plan = Plan.of(100).revised(50, 150)
    >>> [plan.progress(step) for step in (0, 25, 50, 100, 150)]
    [0.0, 0.25, 0.5, 0.75, 1.0]
    """

    knots: tuple[tuple[int, float], ...]

    @classmethod
    def of(cls, total: int) -> Plan:
        """A straight line to 1 at step `total`."""
        return cls(((0, 0.0), (total, 1.0)))

    @property
    def total(self) -> int:
        return self.knots[-1][0]

    @property
    def measured(self) -> bool:
        """Whether the number of steps is known: under a time budget only after the first steps."""
        return self.total < UNKNOWN

    @property
    def planned(self) -> int:
        """The total of the first plan that was measured, which is where its line leads; later ones may differ."""
        lines = ((low, high) for low, high in pairwise(self.knots) if high[1] > _MEASURED)
        (begin, before), (end, after) = next(lines)
        return begin + round((1 - before) * (end - begin) / (after - before))

    def progress(self, step: int) -> float:
        if step >= self.total:
            return 1.0
        number = next(i for i in range(len(self.knots) - 2, -1, -1) if self.knots[i][0] <= step)
        (begin, low), (end, high) = self.knots[number : number + 2]
        return low + (high - low) * (step - begin) / (end - begin)

    def revised(self, step: int, total: int) -> Plan:
        """The same up to `step`, then straight to 1 at `total`."""
        past = tuple(knot for knot in self.knots[:-1] if knot[0] < step)
        return Plan((*past, (step, self.progress(step)), (max(total, step), 1.0)))


@dataclass(slots=True, kw_only=True)
class ModelState:
    """What a model alone, such as `best`, tells of the training that it comes from."""

    step: int = 0  # updates so far
    best: float | None = None  # lowest validation loss so far

    def to_json(self) -> Json:
        return {"step": self.step, "best": self.best}


@dataclass(slots=True, kw_only=True)
class TrainState(ModelState):
    """All that a resumed run needs and that is no tensor; `state_sha256` covers it.

    Random numbers are functions of (seed, step), so they need no place here.
    """

    plan: Plan = field(default_factory=lambda: Plan.of(UNKNOWN))
    checks: int = 0  # evenly spaced validations in the plan
    validation_characters: int = 0  # that they score; 0: as many as usual
    position: Position = field(default_factory=Position)
    tokens_seen: int = 0
    recent: list[tuple[float, int]] = field(default_factory=list)  # nats and tokens of the last steps
    start: float = 0.0  # the first step's loss, nats per token, where it was far above a uniform guess; else 0
    best_step: int = 0
    bad_checks: int = 0  # validations since the best
    loss_scale: float = 1.0
    good_steps: int = 0
    stopped: bool = False  # by patience
    unsettled: tuple[str, ...] = ()  # chosen options that are an estimate until the first steps are timed
    rollbacks: list[tuple[int, int]] = field(default_factory=list)  # the step that diverged, the one rolled back to
    seed: int = 0
    optimizer: Mapping[str, Value] = field(default_factory=dict)  # its options: the steps to come depend on them
    omitted: frozenset[str] = frozenset()  # of the entries above, those that an early checkpoint does not have

    @property
    def finished(self) -> bool:
        return self.stopped or self.step >= self.plan.total

    def recent_loss(self, steps: int) -> float:
        """Nats per token over the last steps, as many as are remembered; NaN before the first."""
        last = self.recent[-min(steps, RECENT) :]
        return sum(nats for nats, _ in last) / sum(tokens for _, tokens in last) if last else math.nan

    def to_json(self) -> Json:
        table = {
            **{entry.name: getattr(self, entry.name) for entry in fields(self)},
            "plan": [list(knot) for knot in self.plan.knots],
            "position": self.position._asdict(),
            "recent": [list(step) for step in self.recent],
            "unsettled": list(self.unsettled),
            "rollbacks": [list(rollback) for rollback in self.rollbacks],
            "optimizer": dict(self.optimizer),
        }
        unused = [name for name in ("validation_characters", "start", "unsettled") if not table[name]]
        left_out = {"omitted", *self.omitted, *unused}  # so that the hash of an early checkpoint stays what it was
        return {name: value for name, value in table.items() if name not in left_out}

    @classmethod
    def from_json(cls, table: Table) -> TrainState:
        return picked(
            cls,
            {
                **table,
                "plan": Plan(tuple((int(step), float(progress)) for step, progress in table["plan"])),
                "position": Position(**table["position"]),
                "recent": _pairs(table["recent"]),
                "unsettled": tuple(table.get("unsettled", ())),
                "rollbacks": _pairs(table.get("rollbacks", ())),
                "omitted": frozenset({"rollbacks", "seed", "optimizer"} - table.keys()),
            },
        )


def _pairs(rows: Sequence[Sequence[Any]]) -> list[tuple[Any, Any]]:
    return [(first, second) for first, second in rows]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bookkeeping:
    """What is restored with a run but is no part of what it computes."""

    seconds: float = 0.0
    metrics_length: int = 0  # of metrics.jsonl, in bytes
    samples_length: int = 0  # of samples.jsonl
    inexact: tuple[str, ...] = ()  # why the run is not what it would be without an interruption
    init_from: str = ""  # state_sha256 of the model whose weights it began with (--init-from)


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    """One validation during training."""

    step: int
    characters_seen: int = 0
    train_loss: float  # over the last steps
    seconds: float
    characters_per_second: int = 0
    val_loss: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """A row of metrics.jsonl: every few steps, and at each validation."""

    step: int
    characters_seen: int
    train_loss: float  # over the last steps
    seconds: float
    characters_per_second: int
    val_loss: float | None
    grad_norm: float | None  # before clipping; None where it is not finite
    lr: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSample:
    """A row of samples.jsonl: what the network wrote after so many steps and seconds."""

    step: int
    seconds: float
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The closing figures of a finished run: of the validation text, which chose the model, and of the test text.

    Those of a text that there was not are None; so are the test's, the temperature, the planned steps and the
    closing seconds of a run that an early charlm finished.
    """

    steps: int
    planned_steps: int | None = None  # when the first steps had been timed, or from the start
    characters_seen: int
    train_loss: float  # over the last twentieth of the steps
    val_loss: float | None
    val_bits_per_character: float | None = None
    val_perplexity: float | None = None  # None, too, where it overflows
    best_val_loss: float | None
    test_loss: float | None = None
    test_bits_per_character: float | None = None
    seconds: float  # from the first step to the last, with the validations between them
    closing_seconds: float | None = None  # after that, for the closing scores and the temperature
    characters_per_second: int | None = None
    temperature: float | None = None  # of those tried, the one whose samples are most like the validation text
    stopped: bool  # by patience

    def figures(self) -> dict[str, float | int | None]:
        """The figures by name: all but `stopped`."""
        return {name: value for name, value in asdict(self).items() if name != "stopped"}

    def __getitem__(self, name: str) -> float | int | None:
        """An entry by its name: result["val_loss"]."""
        entry: float | int | None = asdict(self)[name]
        return entry


def loss_in_words(result: Result | None, history: Sequence[Validation]) -> str:
    """How good a model is, in nats per character: the closing loss, or the best so far of a run that has not ended."""
    if result is not None and result.val_loss is not None:
        return f"validation loss {result.val_loss:.4f} nats"
    if history:
        return f"validation loss {min(row.val_loss for row in history):.4f} nats so far"
    if result is None or math.isnan(result.train_loss):
        return ""
    return f"training loss {result.train_loss:.4f} nats"


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusRecord:
    """What is known of a run's text: enough to find it again and to tell whether it is the same."""

    fingerprint: str = ""
    train_characters: int = 0
    val_characters: int = 0
    test_characters: int = 0
    split: str = CHARACTERS  # which is how the first checkpoints, which do not say, were split
    sources: tuple[Source, ...] = ()

    @classmethod
    def of(cls, corpus: Corpus | StoredCorpus) -> CorpusRecord:
        return cls(
            fingerprint=corpus.fingerprint,
            train_characters=len(corpus.train),
            val_characters=len(corpus.val),
            test_characters=len(corpus.test),
            split=corpus.split,
            sources=corpus.sources,
        )

    def to_json(self) -> Json:
        """As a checkpoint holds it; that a source is no test text need not be said 100,000 times."""
        table = asdict(self)
        for source in table["sources"]:
            if not source["test"]:
                del source["test"]
        return table

    @classmethod
    def from_json(cls, table: Table) -> CorpusRecord:
        return picked(cls, {**table, "sources": tuple(picked(Source, source) for source in table["sources"])})

    @property
    def training_sources(self) -> tuple[Source, ...]:
        """The files that were trained on, at least their beginnings."""
        return tuple(source for source in self.sources if not source.held_out)


def picked(kind: type[T], table: Table) -> T:
    """A record from those entries of a table that it knows; what later versions add is passed over."""
    return kind(**{entry.name: table[entry.name] for entry in fields(kind) if entry.name in table})  # type: ignore[arg-type]
