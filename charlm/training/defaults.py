"""The defaults of `charlm train`: what is chosen where the user says nothing, and why, from the text and the machine.

The figures behind the choices are in docs/log.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from charlm.config import DROPOUTS, LENGTHS, OPTIMIZERS, Config, TrainConfig, applies
from charlm.errors import ConfigError
from charlm.models.architecture import architecture_of
from charlm.models.optimizers import OptimizerSpec
from charlm.options import Value, seconds
from charlm.text.stored import Text, characters_of

DEFAULT_TIME: Final = "10m"
_TINY: Final = 2000  # characters
_FULL_PASSES: Final = 500
_BPTT: Final = 64
_UPDATES: Final = 4000  # for which Muon's default learning rate is meant; it falls with the root of their number
_BATCH: Final = {"cpu": 16, "cuda": 64}
_REGULARISATION: Final = (
    (1.5, 0.0, 0.01),
    (4.0, 0.0, 0.05),
    (10.0, 0.05, 0.1),
    (27.0, 0.3, 0.1),
    (60.0, 0.5, 0.1),
)  # passes, dropout, weight decay; between two rows, linear in the logarithm of the passes
_DROP_STATE: Final = 0.02
_AVERAGED: Final = (5000, 0.05)  # updates from which averaging has not been worse than the raw weights, its horizon
_FEW: Final = 256  # tokens: a vocabulary for which a narrow embedding is enough
_HIDDEN: Final = (
    (1.4e13, 192, "a short time budget"),
    (1.2e14, 256, "lowest loss within minutes"),
)  # FLOP below, units


@dataclass(frozen=True, slots=True)
class Facts:
    """What defaults depend on."""

    characters: int  # to train on
    tokens: int
    vocabulary: int
    device: str  # cpu, cuda, mps
    speed: float  # FLOP a second that training reaches
    records: int = 0  # that the text consists of; 0: it is one text


@dataclass(frozen=True, slots=True)
class Preset:
    """A named set of options, and where it differs from the original."""

    options: Mapping[str, Value]
    departures: tuple[str, ...]


_JOSEF_K: Final[Mapping[str, Value]] = {
    "cell": "lstm",
    "layers": 2,
    "hidden": 512,
    "embedding": 0,
    "forget_bias": 1.0,
    "dropout_input": 0.0,
    "dropout_between": 0.5,
    "dropout_output": 0.0,
}
_CARRIED: Final = (
    "the state is carried from chunk to chunk; the demo starts each window of 100 from zero (--drop-state 1)",
    "every character of a chunk is predicted; the demo predicts the one after each window",
    "a fresh dropout mask for each character",
    "the gradient norm is clipped at 1",
)
PRESETS: Final = {
    "josef-k": Preset(
        _JOSEF_K,
        (
            "optimizer, batch, chunk length and schedule are charlm's; --preset josef-k-2017 has the demo's own",
            *_CARRIED,
        ),
    ),
    "josef-k-2017": Preset(
        {
            **_JOSEF_K,
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
        _CARRIED,
    ),
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


def choose_vocabulary(given: Mapping[str, Value], text: Text) -> dict[str, Value]:
    """The options of the text, complete.

    SentencePiece gets what it must have (the 256 bytes, a piece for unknown words, the text's own characters) and
    beyond that a piece for every 250 characters, from 100 to 4,000.
    """
    if "vocab_size" not in given and applies("vocab_size", given):
        return {**given, "vocab_size": 257 + len(characters_of(text)) + max(100, min(4000, len(text) // 250))}
    return dict(given)


class _Draft:
    """The options so far: those given, and those chosen, each with its reason."""

    def __init__(self, given: Mapping[str, Value]) -> None:
        self.values, self.reasons = dict(given), dict[str, str]()

    def choose(self, name: str, value: Value, reason: str) -> None:
        """Choose an option unless it was given."""
        if name not in self.values:
            self.values[name], self.reasons[name] = value, reason

    @property
    def config(self) -> Config:
        return Config.of(self.values)


def choose(given: Mapping[str, Value], facts: Facts) -> tuple[Config, dict[str, str]]:
    """A complete configuration, and the reason for each option that was chosen automatically."""
    draft = _Draft(given)
    _choose_architecture(draft)
    _choose_length(draft, facts)
    _choose_batch(draft, facts)
    _choose_size(draft, facts)
    _choose_optimizer(draft, facts)
    _choose_regularisation(draft, facts)
    return Config.checked(draft.values), draft.reasons  # what was chosen has to be in range, too


def _choose_architecture(draft: _Draft) -> None:
    model = draft.config.model
    for name, value in architecture_of(model).defaults.items():
        draft.choose(name, value, f"for --model {model.model}")


def _choose_length(draft: _Draft, facts: Facts) -> None:
    if any(name in draft.values for name in LENGTHS):
        draft.choose("patience", 0, "the length of training was given")
    elif facts.characters < _TINY:
        draft.choose("epochs", _FULL_PASSES, "enough for a tiny text")
    else:
        why = "ten minutes by default; stops early without improvement"
        draft.choose("time", DEFAULT_TIME, why)


def _choose_batch(draft: _Draft, facts: Facts) -> None:
    draft.choose("optimizer", "muon", "lower loss per update than AdamW")
    short = facts.tokens > _BPTT
    draft.choose("bptt", min(_BPTT, facts.tokens), "short chunks: more updates" if short else "the whole text")
    bptt, wanted = draft.config.train.bptt, _BATCH.get(facts.device, 16)
    if facts.records:
        length = _lane_tokens(draft.config.train, facts)
        batch = max(1, min(round(wanted * bptt / length), facts.records // 4))
        draft.choose("batch", batch, f"so many records, of about {length:.0f} tokens each")
        draft.choose("drop_state", 0.0, "each record starts from the zero state")
        return
    batch = max(1, min(wanted, facts.tokens // (4 * bptt)))
    draft.choose("batch", batch, "small batch: more updates" if batch > 1 else "text too short for a larger batch")
    draft.choose("drop_state", _DROP_STATE, "scoring and sampling start from the zero state too")


def _lane_tokens(train: TrainConfig, facts: Facts) -> float:
    """How many tokens a lane has in a chunk: where records are shorter than that, as many as they have."""
    return min(train.bptt, facts.tokens / facts.records) if facts.records else float(train.bptt)


def _step_tokens(train: TrainConfig, facts: Facts) -> float:
    return train.batch * _lane_tokens(train, facts)


def _choose_size(draft: _Draft, facts: Facts) -> None:
    draft.choose("hidden", *_hidden(draft.config, facts))
    few = facts.vocabulary <= _FEW and facts.device == "cpu"  # a GPU's fast kernels want multiples of 128
    why = f"enough for a vocabulary of {facts.vocabulary}" if few else "as wide as the layers, at most 256"
    draft.choose("embedding", min(draft.config.model.hidden, 64 if few else 256), why)


def _hidden(config: Config, facts: Facts) -> tuple[int, str]:
    """A large network overfits a small text, and learns too little in a short time."""
    if facts.characters < _TINY:
        return 64, "a tiny text"
    if facts.characters < 100_000:
        return 128, "a short text"
    if facts.device != "cpu":
        return 512, f"{facts.device} is fast enough"
    budget = facts.speed * (seconds(config.train.time) if config.train.time else 180.0)
    return next(((units, why) for limit, units, why in _HIDDEN if budget < limit), (384, "a long time budget"))


def _choose_optimizer(draft: _Draft, facts: Facts) -> None:
    train, optimizer = draft.config.train, draft.config.optim.optimizer
    updates = _characters(draft.config, facts) * facts.tokens / facts.characters / _step_tokens(train, facts)
    draft.choose("lr", _rate(optimizer, updates), f"for {optimizer} and {updates:,.0f} updates")
    draft.choose("warmup", min(50, int(updates / 10)), "lets the optimizer's moments settle")
    least, horizon = _AVERAGED
    many = updates >= least
    draft.choose(
        "average",
        horizon if many else 0.0,
        "averages the weights of the last steps" if many else "run too short to average",
    )


def _rate(optimizer: str, updates: float) -> float:
    """A run of few updates wants a larger learning rate; within a factor of two."""
    spec: OptimizerSpec = OPTIMIZERS[optimizer]
    rate = spec.default_lr
    if not spec.lr_follows_updates:
        return rate
    return float(f"{rate * min(2.0, max(0.5, math.sqrt(_UPDATES / max(updates, 1.0)))):.2g}")


def _characters(config: Config, facts: Facts) -> float:
    """How many characters a run will have read at its end, roughly."""
    train, model = config.train, config.model
    if train.steps:
        return train.steps * _step_tokens(train, facts) * facts.characters / facts.tokens
    if train.epochs:
        return float(train.epochs * facts.characters)
    width = model.embedding or facts.vocabulary
    weights = 4 * model.hidden * (width + (2 * model.layers - 1) * model.hidden) + facts.vocabulary * model.hidden
    return float(seconds(train.time) * facts.speed / (6 * weights))


def _choose_regularisation(draft: _Draft, facts: Facts) -> None:
    passes = _characters(draft.config, facts) / facts.characters
    dropout, decay = _regularisation(passes, facts)
    for name, value in (*((name, dropout) for name in DROPOUTS), ("weight_decay", decay)):
        draft.choose(name, value, f"for about {passes:.2g} passes through the text")


def _regularisation(passes: float, facts: Facts) -> tuple[float, float]:
    """Dropout and weight decay: the more often a text is read, the more of it is memorised.

    A tiny text is meant to be memorised.
    """
    passes = 0.0 if facts.characters < _TINY else passes
    (least, *first), (most, *last) = _REGULARISATION[0], _REGULARISATION[-1]
    if not least < passes < most:
        dropout, decay = first if passes <= least else last
        return dropout, decay
    low, high = next(pair for pair in pairwise(_REGULARISATION) if passes <= pair[1][0])
    share = math.log(passes / low[0]) / math.log(high[0] / low[0])
    dropout, decay = (round(a + share * (b - a), 3) for a, b in zip(low[1:], high[1:], strict=True))
    return dropout, decay
