"""What a finished run's numbers mean, in words: where it stands, how it went, what to try next."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from charlm.config import Config
from charlm.report.console import Console, facts
from charlm.report.words import bits, duration, figure

_NOISE: Final = 0.004  # nats: checks this close are the same
_SHORT: Final = 100  # steps after which nothing can be said yet
_GAP: Final = 0.25  # nats between training and held-out loss from which memory outweighs learning


def verdict(
    config: Config, result: Mapping[str, Any], history: Sequence[Mapping[str, Any]], vocabulary: int
) -> list[str]:
    """One sentence a line; `vocabulary` is the number of different tokens."""
    if result["val_loss"] is None:
        return _memorised(result)
    return [_meaning(config, result, vocabulary), *_course(config, result, history)]


def _meaning(config: Config, result: Mapping[str, Any], vocabulary: int) -> str:
    needs = f"On text it has not seen the model needs {result['val_bits_per_character']:.2f} bits a character"
    if config.data.tokenizer != "char":
        return f"{needs}: it is as unsure as if it chose among {figure(result['val_perplexity'], 1)} characters."
    nothing = math.log2(vocabulary)
    if result["val_bits_per_character"] > nothing:
        return (
            f"{needs}, more than knowing nothing does ({nothing:.2f} bits for {vocabulary} characters): it has learned "
            "too little yet, or the held-out text is very short or full of characters that training never showed."
        )
    return (
        f"{needs}: it is as unsure as if it chose among {figure(result['val_perplexity'], 1)} equally likely "
        f"characters, where knowing nothing means {vocabulary:,} ({nothing:.2f} bits)."
    )


def _memorised(result: Mapping[str, Any]) -> list[str]:
    loss = float(result["train_loss"])
    return [
        f"Nothing was held out, so only the text itself was measured: {loss:.4f} nats ({bits(loss):.3f} bits) "
        "a character.",
        "That says how well it is known by heart, not how well the model would do on other text; --val 0.1 would tell.",
    ]


def _course(config: Config, result: Mapping[str, Any], history: Sequence[Mapping[str, Any]]) -> list[str]:
    losses = [float(row["val_loss"]) for row in history]
    if len(losses) < 3 or result["steps"] < _SHORT:
        return ["The run was too short to say whether it was still improving; give it more with --time or --epochs."]
    best = min(range(len(losses)), key=losses.__getitem__)
    gap = float(result["val_loss"]) - float(result["train_loss"])
    if losses[-1] > losses[best] + _NOISE:
        row = history[best]
        stop = " and stopped for want of patience" if result["stopped"] else ""
        return [
            f"It has been overfitting since step {row['step']:,} ({duration(row['seconds'])} in): the loss on held-out "
            f"text rose from {losses[best]:.3f} to {losses[-1]:.3f} while training went on to "
            f"{result['train_loss']:.3f}{stop}. best.safetensors is the model before that.",
            _more_regularisation(config),
        ]
    back = max(2, len(losses) // 4)  # the rate falls to nothing, so the very last checks are always close
    if losses[-1 - back] - losses[-1] > _NOISE:
        lines = [
            f"It was still improving: {losses[-3]:.3f}, {losses[-2]:.3f}, {losses[-1]:.3f} nats "
            "at its last three checks."
        ]
        if gap > _GAP:
            return [
                *lines,
                f"But it already does {gap:.2f} nats better on what it has read. {_more_regularisation(config)}",
            ]
        return [*lines, _more_training(config)]
    lines = [f"It had stopped improving by step {history[best]['step']:,}, at {losses[best]:.3f} nats."]
    return [*lines, _more_regularisation(config) if gap > _GAP else _more_capacity(config)]


def _more_training(config: Config) -> str:
    train = config.train
    if train.time:
        longer = re.sub(r"[0-9.]+", lambda number: f"{2 * float(number[0]):g}", train.time)
        return f"Train it anew for longer: the same command with --force --time {longer}."
    option, value = ("epochs", train.epochs) if train.epochs else ("steps", train.steps)
    return f"Train it anew for longer: the same command with --force --{option} {2 * value}."


def _more_regularisation(config: Config) -> str:
    dropout = max(config.model.dropout_input, config.model.dropout_between, config.model.dropout_output)
    if dropout < 0.5:
        return f"Try --dropout {min(0.5, dropout + 0.15):.2f}, a smaller --hidden, or more text."
    return f"Try --hidden {max(16, config.model.hidden // 2)}, or more text."


def _more_capacity(config: Config) -> str:
    return f"Try a larger network with more time: --hidden {config.model.hidden * 3 // 2}."


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
