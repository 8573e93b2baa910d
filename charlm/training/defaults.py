"""What `charlm train corpus.txt` chooses where the user says nothing, and why: functions of the text and the machine.

The figures behind the choices are in docs/log.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from charlm.config import DROPOUTS, LENGTHS, OPTIMIZERS, Config, applies
from charlm.errors import ConfigError
from charlm.models.optimizers import OptimizerSpec
from charlm.options import Value, seconds

DEFAULT_TIME: Final = "10m"
_TINY: Final = 2000  # characters
_FULL_PASSES: Final = 500
_UPDATES: Final = 4000  # to which Muon's rate belongs; it falls with the root of their number, within a factor of two
_LANES: Final = {"cpu": 16, "cuda": 64}
_REGULARISATION: Final = (
    (2.5, 0.0, 0.01),
    (6.0, 0.0, 0.05),
    (18.0, 0.05, 0.1),
    (40.0, 0.3, 0.1),
    (math.inf, 0.5, 0.1),
)  # passes below, dropout, weight decay
_DROP_STATE: Final = 0.02
_AVERAGED: Final = (5000, 0.05)  # updates from which an average has not been worse than the last weights, its reach
_FEW: Final = 256  # tokens that a narrow embedding tells apart
_HIDDEN: Final = (
    (1.4e13, 192, "a short time"),
    (1.2e14, 256, "reaches the lowest loss in minutes"),
)  # FLOP below, units


@dataclass(frozen=True, slots=True)
class Facts:
    """What choices depend on."""

    characters: int  # to train on
    tokens: int
    vocabulary: int
    device: str  # cpu, cuda, mps
    speed: float  # FLOP a second that training reaches


@dataclass(frozen=True, slots=True)
class Preset:
    """A named set of options, and where it parts from what it is named after."""

    options: Mapping[str, Value]
    departures: tuple[str, ...]


PRESETS: Final = {
    "josef-k": Preset(
        {
            "cell": "lstm",
            "layers": 2,
            "hidden": 512,
            "embedding": 0,
            "forget_bias": 1.0,
            "dropout_input": 0.0,
            "dropout_between": 0.5,
            "dropout_output": 0.0,
            "optimizer": "adamw",
            "weight_decay": 0.0,  # AdamW without decay is Adam
            "lr": 0.001,
            "warmup": 0,
            "decay": "none",
            "average": 0.0,
            "batch": 64,
            "bptt": 100,
            "drop_state": 0.0,
        },
        (
            "the state is carried from window to window; the demo begins each window of 100 from zero (--drop-state 1)",
            "every character of a window is predicted; the demo predicts the one after it",
            "a fresh dropout mask for each character",
            "the gradient's norm is clipped at 1",
        ),
    )
}


def preset(name: str | None) -> Preset:
    """The preset of this name, or an empty one for None."""
    if name is None:
        return Preset({}, ())
    if name not in PRESETS:
        raise ConfigError(
            f"--preset must be one of {', '.join(PRESETS)}, not {name!r}", kept="nothing was read or written"
        )
    return PRESETS[name]


def choose_vocabulary(given: Mapping[str, Value], text: str) -> dict[str, Value]:
    """The options of the text, complete.

    SentencePiece gets what it must have (the 256 bytes, a piece for unknowns, the text's own characters) and a piece
    for every 250 characters beyond that, from 100 to 4,000.
    """
    if "vocab_size" not in given and applies("vocab_size", given):
        return {**given, "vocab_size": 257 + len(set(text)) + max(100, min(4000, len(text) // 250))}
    return dict(given)


def choose(given: Mapping[str, Value], facts: Facts) -> tuple[Config, dict[str, str]]:
    """A complete configuration, and the reason for each choice that was left to the recipe."""
    values: dict[str, Any] = dict(given)
    reasons: dict[str, str] = {}

    def settle(name: str, value: Value, reason: str) -> None:
        if name not in values:
            values[name] = value
            reasons[name] = reason

    length, why = _length(facts)
    if any(name in values for name in LENGTHS):
        settle("patience", 0, "the length was given")
    else:
        settle(*length, why)
    settle("optimizer", "muon", "learns more from each character than AdamW")
    settle("bptt", min(64, facts.tokens), "short windows make more updates" if facts.tokens > 64 else "the whole text")
    lanes = max(1, min(_LANES.get(facts.device, 16), facts.tokens // (4 * values["bptt"])))
    settle("batch", lanes, "few lanes make more updates" if lanes > 1 else "the text is too short for more")
    settle("drop_state", _DROP_STATE, "scoring and sampling begin from zero too")
    hidden, why = _hidden(values, facts)
    settle("hidden", hidden, why)
    few = facts.vocabulary <= _FEW and facts.device == "cpu"  # a GPU's fast kernels want multiples of 128
    why = "tells so few tokens apart, and is cheap" if few else "as wide as the layers, at most 256"
    settle("embedding", min(values["hidden"], 64 if few else 256), why)
    updates = _characters(values, facts) * facts.tokens / facts.characters / (values["batch"] * values["bptt"])
    settle("lr", _rate(values["optimizer"], updates), f"suits {values['optimizer']} and {updates:,.0f} updates")
    settle("warmup", min(50, int(updates / 10)), "lets the optimizer find its scale")
    least, reach = _AVERAGED
    many = updates >= least
    settle("average", reach if many else 0.0, "evens out the last weights" if many else "would reach back too far")
    passes = _characters(values, facts) / facts.characters
    dropout, decay = _regularisation(passes, facts)
    for name, value in (*((name, dropout) for name in DROPOUTS), ("weight_decay", decay)):
        settle(name, value, f"about {passes:.2g} passes through the text to be expected")
    return Config.of(values), reasons


def _length(facts: Facts) -> tuple[tuple[str, Value], str]:
    if facts.characters < _TINY:
        return ("epochs", _FULL_PASSES), "a tiny text has nothing more to teach"
    return (
        "time",
        DEFAULT_TIME,
    ), "ten minutes unless --time, --epochs or --steps says otherwise; stops earlier when it no longer improves"


def _hidden(values: Mapping[str, Any], facts: Facts) -> tuple[int, str]:
    """Small texts overfit a large network, short budgets cannot feed one."""
    if facts.characters < _TINY:
        return 64, "a tiny text"
    if facts.characters < 100_000:
        return 128, "a short text"
    if facts.device != "cpu":
        return 512, f"{facts.device} has the speed for it"
    budget = facts.speed * (seconds(values["time"]) if "time" in values else 180.0)
    return next(((units, why) for limit, units, why in _HIDDEN if budget < limit), (384, "there is time for it"))


def _rate(optimizer: str, updates: float) -> float:
    """Few updates have to be large ones."""
    spec: OptimizerSpec = OPTIMIZERS[optimizer]
    rate = spec.default_lr
    if not spec.lr_follows_updates:
        return rate
    return float(f"{rate * min(2.0, max(0.5, math.sqrt(_UPDATES / max(updates, 1.0)))):.2g}")


def _characters(values: Mapping[str, Any], facts: Facts) -> float:
    """How many characters a run will have read at its end, roughly."""
    if "steps" in values:
        return float(values["steps"] * values["batch"] * values["bptt"]) * facts.characters / facts.tokens
    if "epochs" in values:
        return float(values["epochs"] * facts.characters)
    hidden, layers = values["hidden"], values.get("layers", 2)
    width = values["embedding"] or facts.vocabulary
    weights = 4 * hidden * (width + (2 * layers - 1) * hidden) + facts.vocabulary * hidden
    return float(seconds(values["time"]) * facts.speed / (6 * weights))


def _regularisation(passes: float, facts: Facts) -> tuple[float, float]:
    """Dropout and weight decay: the more often a text is read, the more of it is learned by heart.

    A tiny text is meant to be.
    """
    passes = 1.0 if facts.characters < _TINY else passes
    return next((dropout, decay) for limit, dropout, decay in _REGULARISATION if passes < limit)
