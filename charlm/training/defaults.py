"""The defaults of `charlm train`: what is chosen where the user says nothing, and why, from the text and the machine.

The figures behind the choices are in docs/log.md.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from math import prod
from typing import Final, NamedTuple

from charlm.config import DROPOUTS, LENGTHS, OPTIMIZERS, Config, ModelConfig, TrainConfig, applies
from charlm.errors import ConfigError
from charlm.models.architecture import architecture_of, weight_shapes
from charlm.models.optimizers import OptimizerSpec
from charlm.options import Value, seconds
from charlm.text.stored import Text, characters_of

DEFAULT_TIME: Final = "10m"
FOLLOWING: Final = frozenset(["warmup", "average", *DROPOUTS, "weight_decay"])  # from how much a run does
_TINY: Final = 2000  # characters
_FULL_PASSES: Final = 500
_BPTT: Final = 64
_BATCH: Final = {"cpu": 16, "cuda": 64}
_REGULARISATION: Final = (
    (1.5, 0.0, 0.01),
    (4.0, 0.0, 0.03),
    (10.0, 0.02, 0.07),
    (27.0, 0.12, 0.1),
    (60.0, 0.25, 0.1),
)  # passes, dropout, weight decay; between two rows, linear in the logarithm of the passes
_DECAYED: Final = 0.45  # passes: the least time in which decay alone, at the peak learning rate, takes weights to 1/e
_DROP_STATE: Final = 0.02
_SEGMENT: Final = 1024  # tokens
_AVERAGED: Final = (1000, 0.1)  # updates from which averaging has been better than the raw weights, its horizon
_FEW: Final = 256  # tokens: a vocabulary for which a narrow embedding is enough
_HIDDEN: Final = (
    (6e11, 64, "a very short time budget"),
    (1.2e12, 96, "a very short time budget"),
    (2e12, 128, "a short time budget"),
    (1.2e13, 192, "a short time budget"),
    (2.4e13, 256, "a time budget of a few minutes"),
    (4e13, 320, "lowest loss within minutes"),
    (1.5e14, 384, "lowest loss within minutes"),
    (4e14, 512, "a long time budget"),
)  # FLOP below, units
_LARGEST: Final = (640, "a very long time budget")


@dataclass(frozen=True, slots=True)
class Facts:
    """What defaults depend on."""

    characters: int  # to train on
    tokens: int
    vocabulary: int
    device: str  # cpu, cuda, mps
    speed: float  # FLOP a second that training is likely to reach
    records: int = 0  # that the text consists of; 0: it is one text


class Course(NamedTuple):
    """How much a run does, estimated before it or measured in it."""

    updates: float
    passes: float  # through the training text


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
            "shuffle": 0,
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


def depends_on_speed(given: Mapping[str, Value]) -> bool:
    """Whether anything that is to be chosen follows from how fast the machine is."""
    return "hidden" not in given or not ("steps" in given or "epochs" in given)


def choose(given: Mapping[str, Value], facts: Facts) -> tuple[Config, dict[str, str]]:
    """A complete configuration, and the reason for each option that was chosen automatically."""
    draft = _Draft(given)
    _choose_architecture(draft)
    _choose_length(draft, facts)
    _choose_batch(draft, facts)
    _choose_size(draft, facts)
    _choose_by_course(draft, _estimate(draft.config, facts), tiny=facts.characters < _TINY)
    config = Config.checked(draft.values)  # what was chosen has to be in range, too
    architecture_of(config.model).check(config.model)
    return config, draft.reasons


def unsettled(config: Config, reasons: Collection[str]) -> tuple[str, ...]:
    """Of the options that were chosen, those that are an estimate: under a time budget, until steps are timed."""
    if not config.train.time:
        return ()
    estimated = FOLLOWING if _dropout_helps(config.model) else FOLLOWING.difference(DROPOUTS)
    return tuple(sorted(estimated.intersection(reasons)))


def settle(config: Config, names: Collection[str], course: Course, *, step: int, characters: int) -> Config:
    """The same configuration with these options chosen anew for the course that was measured.

    `step` is the first that has them, in a text of so many characters. A warm-up that is over by then stays as it was.
    """
    again = FOLLOWING.intersection(names) - ({"warmup"} if step >= config.optim.warmup else set())
    draft = _Draft({name: value for name, value in config.flat().items() if name not in again})
    _choose_architecture(draft)
    _choose_by_course(draft, course, tiny=characters < _TINY)
    return Config.checked(draft.values)


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
    spec: OptimizerSpec = OPTIMIZERS[draft.config.optim.optimizer]
    draft.choose("lr", spec.default_lr, f"what suits {draft.config.optim.optimizer}")
    short = facts.tokens > _BPTT
    draft.choose("bptt", min(_BPTT, facts.tokens), "short chunks: more updates" if short else "the whole text")
    bptt, wanted = draft.config.train.bptt, _BATCH.get(facts.device, 16)
    if facts.records:
        length = _lane_tokens(draft.config.train, facts)
        batch = max(1, min(round(wanted * bptt / length), facts.records // 4))
        draft.choose("batch", batch, f"so many records, of about {length:.0f} tokens each")
        draft.choose("shuffle", 0, "records are shuffled anyway")
        draft.choose("drop_state", 0.0, "each record starts from the zero state")
        return
    batch = max(1, min(wanted, facts.tokens // (4 * bptt)))
    draft.choose("batch", batch, "small batch: more updates" if batch > 1 else "text too short for a larger batch")
    draft.choose("shuffle", _SEGMENT, "no part of the text is read last for long")
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
    for name, value in architecture_of(draft.config.model).by_size(draft.config.model).items():
        draft.choose(name, value, f"for --hidden {draft.config.model.hidden}")
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
    units, why = next(((units, why) for limit, units, why in _HIDDEN if budget < limit), _LARGEST)
    return _no_slower(config.model, units, facts.vocabulary), why


def _no_slower(model: ModelConfig, units: int, vocabulary: int) -> int:
    """The largest size, up to so many units, at which learning a token takes no longer than by two LSTM layers of them.

    The sizes above are those of such LSTMs. More steps are worth more than more units (docs/log.md), so networks that
    are slower at the same size are smaller, but those that are faster are not larger.
    """
    most = _effort(ModelConfig(hidden=units, embedding=model.embedding), vocabulary)
    sizes = [*(size for _, size, _ in _HIDDEN if size < units), units]
    fitting = [size for size in sizes if _effort(replace(model, hidden=size), vocabulary) <= most]
    return max(fitting, default=sizes[0])


def _choose_by_course(draft: _Draft, course: Course, *, tiny: bool) -> None:
    """All options of `FOLLOWING`."""
    updates, passes = course
    later = ", until steps are timed" if draft.config.train.time else ""
    draft.choose("warmup", min(50, int(updates / 10)), "lets the optimizer's moments settle")
    least, horizon = _AVERAGED
    many = updates >= least
    draft.choose(
        "average",
        horizon if many else 0.0,
        "averages the weights of the last steps" if many else "run too short to average",
    )
    dropout, decay = _regularisation(0.0 if tiny else passes)  # a tiny text is meant to be memorised
    decay = _lasting(decay, draft.config.optim.lr * updates / passes)
    why = f"for about {passes:.2g} passes through the text{later}"
    draft.choose("weight_decay", decay, why)
    chosen = (dropout, why) if _dropout_helps(draft.config.model) else (0.0, "it does not help networks of this kind")
    for name in DROPOUTS:
        draft.choose(name, *chosen)


def _dropout_helps(model: ModelConfig) -> bool:
    return architecture_of(model).dropout_helps(model)


def _estimate(config: Config, facts: Facts) -> Course:
    """How much a run will do: under a time budget roughly, by the speed that the machine is likely to reach."""
    train, tokens = config.train, _step_tokens(config.train, facts)
    if train.steps:
        return Course(train.steps, train.steps * tokens / facts.tokens)
    if train.epochs:
        return Course(train.epochs * facts.tokens / tokens, train.epochs)
    passes = seconds(train.time) * facts.speed / (_effort(config.model, facts.vocabulary) * facts.characters)
    return Course(passes * facts.tokens / tokens, passes)


def _effort(model: ModelConfig, vocabulary: int) -> float:
    """FLOP that an LSTM could do in the time in which this network learns a token."""
    return operations(model, vocabulary) * architecture_of(model).slowness


def operations(model: ModelConfig, vocabulary: int) -> float:
    """FLOP that learning takes for a token: six for each weight that its input is multiplied by."""
    shapes = weight_shapes(model, vocabulary)
    return 6.0 * sum(prod(shape) for name, shape in shapes.items() if len(shape) == 2 and name != "embedding.weight")


def _lasting(decay: float, rates: float) -> float:
    """This weight decay, or the largest with which weights last; `rates`: a pass adds up to so much learning rate.

    What a part of the text has taught has to last until the others have been read. Wang and Aitchison (2024), "How to
    set AdamW's weight decay as you scale model and dataset size", measure it in passes, too.
    """
    return decay if decay * rates * _DECAYED <= 1 else float(f"{1 / (rates * _DECAYED):.2g}")


def _regularisation(passes: float) -> tuple[float, float]:
    """Dropout and weight decay: the more often a text is read, the more of it is memorised."""
    (least, *first), (most, *last) = _REGULARISATION[0], _REGULARISATION[-1]
    if not least < passes < most:
        dropout, decay = first if passes <= least else last
        return dropout, decay
    low, high = next(pair for pair in pairwise(_REGULARISATION) if passes <= pair[1][0])
    share = math.log(passes / low[0]) / math.log(high[0] / low[0])
    dropout, decay = (round(a + share * (b - a), 3) for a, b in zip(low[1:], high[1:], strict=True))
    return dropout, decay
