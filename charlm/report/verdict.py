"""How a run went, from its validations, its training loss and its schedule, and what to change in the next one.

Pure functions of a finished run's record: they read no file. Losses are in nats per character.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from charlm.config import Config
from charlm.models.architecture import architecture_of
from charlm.options import Value, flag, seconds
from charlm.report.words import duration
from charlm.storage.records import Result, Validation
from charlm.training.divergence import LOWER

_NOISE: Final = 0.004  # nats: validation losses this close are the same
_SHORT: Final = 100  # steps after which nothing can be said yet
_ENOUGH: Final = 400  # steps of a run that can be judged
_GAP: Final = 0.25  # nats between training and validation loss from which memory outweighs learning
_WOBBLE: Final = 0.1  # nats: what one validation may be above the one before it, where memory does not outweigh
_RISE: Final = 0.1  # nats: the training loss of a few steps varies by less
_LONGEST: Final = 10_000 * 3600  # seconds that --time may be
_MOST: Final = 10**9  # of --steps and --epochs
Changes = Mapping[str, Value]


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a run went: `kind` in one word, `words` in sentences.

    `changes` are options for the next run by their names, and `how` says what they do; none: nothing to change.
    """

    kind: str
    words: str = ""
    how: str = ""
    changes: Changes = field(default_factory=dict)

    @property
    def lines(self) -> list[str]:
        """One paragraph on how it went, one on what to do next."""
        options = ", ".join(f"{flag(name)} {_text(value)}" for name, value in self.changes.items())
        following = f"The command below {self.how} ({options})." if options else ""
        return [line for line in (self.words, following) if line]


def _text(value: Value) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def judge(
    history: Sequence[Validation], result: Result, config: Config, vocabulary: int, rollbacks: int = 0
) -> Verdict:
    """How a finished run went, which diverged `rollbacks` times; the next one takes the learning rate that held."""
    if not rollbacks:
        return _judge(history, result, config, vocabulary)
    held = float(f"{config.optim.lr * LOWER**rollbacks:.2g}")
    found = _judge(history, result, replace(config, optim=replace(config.optim, lr=held)), vocabulary)
    times = "once" if rollbacks == 1 else f"{rollbacks} times"
    said = f"It diverged {times}, and was rolled back to a learning rate of {held:g}. {found.words}".strip()
    return replace(found, words=said, changes={"lr": held, **found.changes} if found.changes else {})


def _judge(history: Sequence[Validation], result: Result, config: Config, vocabulary: int) -> Verdict:
    """How it went, whatever happened on the way; `vocabulary` is the number of the run's tokens.

    What is measured comes first. A loss that falls while the learning rate falls to 0 says little of a longer run, so
    that is not called improvement; and a model overfits only if its training loss fell while the validation loss rose.
    """
    losses = [row.val_loss for row in history]
    if result.val_loss is None:
        return Verdict("unjudged")
    if config.data.tokenizer == "char" and result.train_loss > 1.2 * math.log(vocabulary):
        return _useless(result, config, vocabulary)
    if len(losses) < 3 or result.steps < _SHORT:
        return _short(result, config)
    best = history[losses.index(min(losses))]
    rise, wobbles = losses[-1] - best.val_loss, losses[-2] == best.val_loss and _gap(result) < _GAP
    if rise > (_WOBBLE if wobbles else _NOISE):
        return (_overfitting if result.train_loss < best.train_loss else _unstable)(best, losses[-1], result, config)
    if result.train_loss > min(row.train_loss for row in history) + _RISE:
        return _unstable(best, losses[-1], result, config)
    back = max(2, len(losses) // 4)  # the learning rate falls to 0, so the very last validations are always close
    falls = losses[-1 - back] - losses[-1] > _NOISE and not result.stopped
    return _falling(losses, best, result, config) if falls else _flat(best, result, config)


def _useless(result: Result, config: Config, vocabulary: int) -> Verdict:
    uniform = f"{math.log(vocabulary):.3f}"
    said = f"Its training loss, {result.train_loss:.3f} nats, is above that of a uniform guess, {uniform}: it diverged."
    return Verdict("useless", said, "takes a lower learning rate", _lower_rate(config))


def _short(result: Result, config: Config) -> Verdict:
    changes = _longer(config, max(4, math.ceil(_ENOUGH / max(1, result.steps))))
    return Verdict("short", "The run was too short to say how it went.", "trains for longer", changes)


def _overfitting(best: Validation, last: float, result: Result, config: Config) -> Verdict:
    said = (
        f"It has been overfitting since step {best.step:,} ({duration(best.seconds)} in): the validation loss rose "
        f"from {best.val_loss:.3f} to {last:.3f} while the training loss fell from {best.train_loss:.3f} to "
        f"{result.train_loss:.3f}.{_stopped(result, config)} best.safetensors holds the model from step {best.step:,}."
    )
    return Verdict("overfitting", said, _REGULARISES, _regularised(config))


def _unstable(best: Validation, last: float, result: Result, config: Config) -> Verdict:
    said = f"The training loss rose to {result.train_loss:.3f}"
    if last > best.val_loss + _NOISE:
        said = (
            f"The validation loss rose from {best.val_loss:.3f} at step {best.step:,} to {last:.3f}, and the training "
            f"loss from {best.train_loss:.3f} to {result.train_loss:.3f}"
        )
    said += f": the learning rate may be too high.{_stopped(result, config)}"
    return Verdict("unstable", said, "takes a lower learning rate", _lower_rate(config))


def _falling(losses: Sequence[float], best: Validation, result: Result, config: Config) -> Verdict:
    """The validation loss is lower than a quarter of the run before."""
    kind, said = _end(losses, best, annealed=config.optim.decay != "none")
    gap, changes, how = _gap(result), _longer(config, 2), "trains for twice as long"
    if gap > _GAP:
        said = f"{said} Its training loss is {gap:.2f} nats below its validation loss already."
        changes, how = {**_regularised(config), **changes}, f"{_REGULARISES} and {how}"
    return Verdict(kind, said, how, changes)


def _end(losses: Sequence[float], best: Validation, *, annealed: bool) -> tuple[str, str]:
    """How a loss that fell behaved at the end of the run, which `annealed` says had a falling learning rate."""
    first, second, third = losses[-3:]
    last = f"{first:.3f}, {second:.3f}, {third:.3f} nats at the last three validations"
    longer = "a longer run may reach lower."
    if not first >= second >= third:
        return "uneven", f"Its validation loss went up and down ({last}) and was lowest at step {best.step:,}; {longer}"
    if annealed:
        as_usual = "as is usual while the learning rate falls to 0"
        return "falling", f"Its validation loss fell to the end ({last}), {as_usual}; {longer}"
    if first - third > _NOISE:
        return "improving", f"It was still improving: {last}."
    return "falling", f"Its validation loss hardly fell any more ({last}); {longer}"


def _flat(best: Validation, result: Result, config: Config) -> Verdict:
    said = f"It stopped improving at step {best.step:,}, at {best.val_loss:.3f} nats.{_stopped(result, config)}"
    if _gap(result) > _GAP:
        return Verdict("flat", said, _REGULARISES, _regularised(config))
    larger = min(16384, config.model.hidden * 3 // 2)
    return Verdict("flat", said, "trains a larger network for longer", {"hidden": larger, **_longer(config, 2)})


def _gap(result: Result) -> float:
    return (result.val_loss or 0.0) - result.train_loss


def _stopped(result: Result, config: Config) -> str:
    return f" It stopped early: no improvement in {config.train.patience} validations." if result.stopped else ""


_REGULARISES: Final = "regularises more"


def _regularised(config: Config) -> Changes:
    """More dropout than now, up to 0.5; then, or where dropout does not help, a smaller network."""
    model = config.model
    dropout = max(model.dropout_input, model.dropout_between, model.dropout_output)
    if dropout < 0.5 and architecture_of(model).dropout_helps(model):
        return {"dropout": round(min(0.5, dropout + 0.15), 2)}
    return {"hidden": model.hidden // 2} if model.hidden >= 32 else {}


def _lower_rate(config: Config) -> Changes:
    return {"lr": float(f"{config.optim.lr / 3:.2g}")}


def _longer(config: Config, times: int) -> Changes:
    """The run's length in its own measure, so many times."""
    train = config.train
    if train.time:
        longer = re.sub(r"[0-9.]+", lambda number: f"{times * float(number[0]):.12g}", train.time)
        return {"time": longer} if seconds(longer) <= _LONGEST else {}
    option, value = ("epochs", train.epochs) if train.epochs else ("steps", train.steps)
    return {option: times * value} if 0 < times * value <= _MOST else {}
