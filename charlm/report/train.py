"""What a finished run's numbers mean, in words: the closing figures, how training went, what to try next."""

from __future__ import annotations

import math
import re
from typing import Final

from charlm.config import Config
from charlm.evaluation.score import perplexity
from charlm.report.words import bits, duration, figure
from charlm.storage.records import Result
from charlm.storage.runs import Trained

_NOISE: Final = 0.004  # nats: validation losses this close are the same
_SHORT: Final = 100  # steps after which nothing can be said yet
_GAP: Final = 0.25  # nats between training and validation loss from which memory outweighs learning


def closing_facts(result: Result) -> list[tuple[str, str]]:
    """The closing figures, each with its name."""
    trained = f"{result.steps:,} steps, {result.characters_seen:,} characters, {duration(result.seconds)}"
    tested = [] if result.test_loss is None else [("test loss", _loss(result.test_loss))]
    validation = "none (no validation text)" if result.val_loss is None else _loss(result.val_loss)
    return [
        *tested,
        ("validation loss", validation),
        ("training loss", f"{result.train_loss:.4f} nats per character"),
        ("trained", trained),
    ]


def _loss(nats: float) -> str:
    return f"{nats:.4f} nats, {bits(nats):.4f} bits per character, perplexity {figure(perplexity(nats, 1), 3)}"


def summarise(trained: Trained) -> list[str]:
    """What the figures mean and what to try next; one sentence a line.

    `best` is the model with the lowest validation loss, so only a test text is one that no choice has seen.
    """
    result = trained.result
    course = _memorisation(result) if result.val_loss is None else _course(trained)
    if result.test_loss is not None:
        return [_meaning(trained, "its test text, which no choice has seen", result.test_loss), *course]
    if result.val_loss is not None:
        return [_meaning(trained, "its validation text", result.val_loss), *course]
    return course


def _meaning(trained: Trained, text: str, loss: float) -> str:
    bits_needed = bits(loss)
    needs = f"On {text}, the model needs {bits_needed:.2f} bits per character"
    choices = figure(perplexity(loss, 1), 1)
    if trained.config.data.tokenizer != "char":
        return f"{needs}: it is as uncertain as a choice among {choices} characters."
    uniform = math.log2(trained.vocabulary)
    if bits_needed > uniform:
        return (
            f"{needs}, more than a uniform guess ({uniform:.2f} bits for {trained.vocabulary} characters): it has "
            "not learned enough yet, or that text is very short or full of characters not in the vocabulary."
        )
    return (
        f"{needs}: it is as uncertain as a choice among {choices} equally likely characters; a uniform guess is one "
        f"among {trained.vocabulary:,} ({uniform:.2f} bits)."
    )


def _memorisation(result: Result) -> list[str]:
    """Without a validation text: the best model is the last one, and how training went is not known."""
    if result.test_loss is not None:
        return ["There is no validation text to choose the best model by: it is the last. --val 0.1 holds one out."]
    return [
        f"There is no validation text, so only the loss on the training text is known: {result.train_loss:.4f} nats "
        f"({bits(result.train_loss):.3f} bits) per character.",
        "This measures memorisation, not generalisation; --val 0.1 holds out a validation text.",
    ]


def _course(trained: Trained) -> list[str]:
    result, config = trained.result, trained.config
    losses = [row.val_loss for row in trained.history]
    if len(losses) < 3 or result.steps < _SHORT:
        return ["The run was too short to say whether it was still improving; give it more with --time or --epochs."]
    best = min(range(len(losses)), key=losses.__getitem__)
    gap = (result.val_loss or 0.0) - result.train_loss
    if losses[-1] > losses[best] + _NOISE:
        return _overfitting(trained, best)
    back = max(2, len(losses) // 4)  # the learning rate falls to 0, so the very last validations are always close
    if losses[-1 - back] - losses[-1] > _NOISE:
        last = ", ".join(f"{loss:.3f}" for loss in losses[-3:])
        still = f"It was still improving: {last} nats at its last three validations."
        if gap > _GAP:
            return [
                still,
                f"But its training loss is already {gap:.2f} nats below its validation loss.",
                _more_regularisation(config),
            ]
        return [still, _more_training(config)]
    flat = f"It stopped improving at step {trained.history[best].step:,}, at {losses[best]:.3f} nats."
    return [flat, _more_regularisation(config) if gap > _GAP else _more_capacity(config)]


def _overfitting(trained: Trained, best: int) -> list[str]:
    row, last, result = trained.history[best], trained.history[-1].val_loss, trained.result
    patience = trained.config.train.patience
    stop = f" It stopped early: no improvement in {patience} validations." if result.stopped else ""
    return [
        f"It has been overfitting since step {row.step:,} ({duration(row.seconds)} in): the validation loss rose from "
        f"{row.val_loss:.3f} to {last:.3f} while the training loss reached {result.train_loss:.3f}.{stop} "
        f"best.safetensors holds the model from step {row.step:,}.",
        _more_regularisation(trained.config),
    ]


def _more_training(config: Config) -> str:
    train = config.train
    if train.time:
        longer = re.sub(r"[0-9.]+", lambda number: f"{2 * float(number[0]):g}", train.time)
        return f"Train again for longer: the same command with --force --time {longer}."
    option, value = ("epochs", train.epochs) if train.epochs else ("steps", train.steps)
    return f"Train again for longer: the same command with --force --{option} {2 * value}."


def _more_regularisation(config: Config) -> str:
    dropout = max(config.model.dropout_input, config.model.dropout_between, config.model.dropout_output)
    if dropout < 0.5:
        return f"Try --dropout {min(0.5, dropout + 0.15):.2f}, a smaller --hidden, or more text."
    return f"Try --hidden {max(16, config.model.hidden // 2)}, or more text."


def _more_capacity(config: Config) -> str:
    return f"Try a larger network with more time: --hidden {config.model.hidden * 3 // 2}."
