"""Every option of a run: its name, its range and its meaning, written once.

The command line, `--config` files, the Python API, the checkpoint and the reference in docs/cli.md are all made
from the dataclasses below. Values are checked when they are given (`check`), before anything is read, and an error
names the option and its range. What a user leaves out is chosen by `charlm.training.recipe`; a `Config` is what came
of it, complete and immutable.
"""

from __future__ import annotations

import os
import re
import reprlib
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import Field, asdict, dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final, NamedTuple

from charlm.errors import ConfigError, StorageError

Value = int | float | str | bool


class Spec(NamedTuple):
    """What may stand in one option. Bounds are inclusive unless `above` says that the lower one is not."""

    type: type[int] | type[float] | type[str]
    help: str
    low: float = float("-inf")
    high: float = float("inf")
    above: bool = False
    choices: tuple[str, ...] = ()
    form: str = ""  # the name of a pattern in FORMS, for texts with a shape of their own
    loose: bool = False  # a text that may be given as a number or a path

    @property
    def metavar(self) -> str:
        """What stands for a value in help."""
        if self.choices:
            return "|".join(self.choices)
        if self.form:
            return FORMS[self.form].metavar
        return {int: "N", float: "X", str: "SHARE|FILE" if self.loose else "TEXT"}[self.type]

    @property
    def range(self) -> str:
        """The values that are allowed, in words.

        >>> Spec(int, "", 1, 64).range
        'an integer from 1 to 64'
        """
        if self.choices:
            return "one of " + ", ".join(self.choices)
        if self.form:
            return FORMS[self.form].words
        if self.type is str:
            return "a text"
        noun = "an integer" if self.type is int else "a number"
        lower = f"above {self.low:g}" if self.above else f"from {self.low:g}"
        return f"{noun} {lower} to {self.high:g}" if not self.above else f"{noun} {lower}, at most {self.high:g}"


class Form(NamedTuple):
    """A text with a shape of its own: what it must match, in words, and as help shows it."""

    pattern: re.Pattern[str]
    words: str
    metavar: str


FORMS: Final = {
    "duration": Form(
        re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,12})?)(s|m|h)"),
        "a duration above 0 such as 90s, 10m or 2h, at most 10000h",
        "90s|10m|2h",
    ),
    "every": Form(
        re.compile(r"([0-9]{1,12})|([0-9]{1,12}(?:\.[0-9]{1,12})?)(s|m|h)"),
        "a number of steps from 1, or a duration such as 60s",
        "N|60s",
    ),
    "device": Form(
        re.compile(r"auto|cpu|mps|cuda(:(0|[1-9][0-9]{0,2}))?"),
        "one of auto, cpu, cuda, cuda:N, mps",
        "auto|cpu|cuda|cuda:N|mps",
    ),
}
_UNIT: Final = {"s": 1, "m": 60, "h": 3600}
_LONGEST: Final = 10_000 * 3600.0


def seconds(text: str) -> float:
    """A duration in seconds.

    >>> seconds("90s"), seconds("10m"), seconds("2h")
    (90.0, 600.0, 7200.0)
    """
    match = FORMS["duration"].pattern.fullmatch(text)
    if match is None:
        raise ValueError(text)
    return float(match[1]) * _UNIT[match[2]]


def every(text: str) -> tuple[int, float]:
    """An interval as (steps, seconds), one of them 0.

    >>> every("100"), every("60s")
    ((100, 0.0), (0, 60.0))
    """
    return (int(text), 0.0) if text.isdigit() else (0, seconds(text))


def option(default: Value, spec: Spec) -> Any:
    """A dataclass field with its specification; `default` is what the recipe starts from."""
    return field(default=default, metadata={"spec": spec})


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """The network: embedding, recurrent stack, head."""

    cell: str = option("lstm", Spec(str, "recurrent cell", choices=("lstm", "gru", "rnn")))
    layers: int = option(2, Spec(int, "recurrent layers", 1, 64))
    hidden: int = option(512, Spec(int, "units in each layer", 1, 16384))
    embedding: int = option(64, Spec(int, "width of a character's embedding; 0 feeds it one-hot", 0, 16384))
    forget_bias: float = option(1.0, Spec(float, "total bias of the forget gates at the start (lstm only)", -100, 100))
    dropout_input: float = option(0.0, Spec(float, "dropout on the embedding's output", 0, 0.99))
    dropout_between: float = option(0.0, Spec(float, "dropout between layers", 0, 0.99))
    dropout_output: float = option(0.0, Spec(float, "dropout before the head", 0, 0.99))


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """How a text becomes tokens, and which part of it is held out."""

    tokenizer: str = option("char", Spec(str, "what a token is", choices=("char", "byte", "sentencepiece")))
    vocab_size: int = option(0, Spec(int, "number of pieces (sentencepiece only)", 260, 65536))
    sentencepiece: str = option("unigram", Spec(str, "kind of sentencepiece model", choices=("unigram", "bpe")))
    val: str = option("0.1", Spec(str, "held-out share of each file (its end), 0 for none, or a file", loose=True))


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimConfig:
    """How weights follow gradients."""

    optimizer: str = option("adamw", Spec(str, "update rule", choices=("muon", "adamw", "rmsprop")))
    lr: float = option(0.005, Spec(float, "highest learning rate", 0, 100, above=True))
    weight_decay: float = option(0.01, Spec(float, "decoupled weight decay of the matrices", 0, 10))
    warmup: int = option(50, Spec(int, "steps over which the rate rises", 0, 10**9))
    decay: str = option("linear", Spec(str, "how the rate falls after that", choices=("linear", "cosine", "none")))
    average: float = option(
        0.0, Spec(float, "the model averages weights, reaching back over this share of the steps; 0: the last", 0, 1)
    )
    clip: float = option(1.0, Spec(float, "clipping threshold of the gradient; 0 disables", 0, 1e9))
    clip_mode: str = option("norm", Spec(str, "clip the global norm, or each value", choices=("norm", "value")))


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """How long, in what pieces, and where."""

    batch: int = option(16, Spec(int, "lanes read side by side", 1, 65536))
    bptt: int = option(64, Spec(int, "window: tokens through which the gradient goes back", 1, 65536))
    drop_state: float = option(0.0, Spec(float, "chance that a lane begins a window from zero", 0, 1))
    epochs: int = option(0, Spec(int, "passes through the training text", 1, 10**9))
    steps: int = option(0, Spec(int, "updates of the weights", 1, 10**9))
    time: str = option("", Spec(str, "time to train, from the first step to the last", form="duration"))
    patience: int = option(
        5,
        Spec(
            int,
            "stop after this many checks without a better one; 0: never (default: 5, or 0 when the length is given)",
            0,
            10**9,
        ),
    )
    checkpoint_every: str = option(
        "60s", Spec(str, "save after so many steps or so much time", form="every", loose=True)
    )
    device: str = option("auto", Spec(str, "where to compute", form="device"))
    precision: str = option(
        "auto", Spec(str, "arithmetic of training", choices=("auto", "fp32", "tf32", "bf16", "fp16"))
    )
    threads: int = option(0, Spec(int, "processor threads (default: all cores)", 1, 1024))
    seed: int = option(0, Spec(int, "seed of every random number", 0, 2**63 - 1))


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleConfig:
    """How the next character is drawn."""

    length: int = option(500, Spec(int, "characters to generate", 0, 10**12))
    temperature: float = option(1.0, Spec(float, "0 takes the likeliest, 1 the model's own distribution", 0, 1e9))
    top_k: int = option(0, Spec(int, "only the K likeliest; 0: all", 0, 10**9))
    top_p: float = option(1.0, Spec(float, "only the smallest set that holds this probability", 0, 1, above=True))
    min_p: float = option(0.0, Spec(float, "only what has this share of the likeliest's probability", 0, 1))
    count: int = option(1, Spec(int, "samples, generated side by side", 1, 65536))
    seed: int = option(0, Spec(int, "seed of the draws", 0, 2**63 - 1))
    precision: str = option("fp32", Spec(str, "weights as they are, or in 8 bits: faster", choices=("fp32", "int8")))
    engine: str = option(
        "auto",
        Spec(str, "what computes; auto: compiled where it can be", choices=("auto", "compiled", "numpy", "cuda")),
    )
    threads: int = option(0, Spec(int, "processor threads (default: as many as pay)", 1, 1024))


@dataclass(frozen=True, kw_only=True, slots=True)
class EvalConfig:
    """Where and in what arithmetic a text is scored."""

    device: str = option("auto", Spec(str, "where to compute", form="device"))
    engine: str = option(
        "network", Spec(str, "the network as in training, or what `sample` writes with", choices=("network", "decoder"))
    )
    precision: str = option(
        "fp32", Spec(str, "arithmetic of scoring; int8: of the decoder", choices=("fp32", "bf16", "fp16", "int8"))
    )
    threads: int = option(0, Spec(int, "processor threads (default: as many as training had)", 1, 1024))


Section = ModelConfig | DataConfig | OptimConfig | TrainConfig | SampleConfig | EvalConfig
TRAIN_SECTIONS: Final = (ModelConfig, DataConfig, OptimConfig, TrainConfig)
DROPOUTS: Final = ("dropout_input", "dropout_between", "dropout_output")
# Shorthands: one option of the user's that sets several of the config's.
SHORTHANDS: Final = {"dropout": Spec(float, "dropout at all three places below", 0, 0.99)}
LENGTHS: Final = ("epochs", "steps", "time")


def specs(*sections: type[Section]) -> dict[str, Spec]:
    """Name and specification of every option of these sections, in order."""
    return {f.name: f.metadata["spec"] for section in sections for f in _fields(section)}


def _fields(section: type[Section]) -> Iterator[Field[Any]]:
    yield from fields(section)


# What charlm.training.recipe and the machine settle: the values above are only where a bare Config starts.
SETTLED: Final = frozenset(
    ["hidden", "embedding", *DROPOUTS, "vocab_size", "optimizer", "lr", "weight_decay", "average", "warmup"]
) | {"batch", "bptt", "drop_state", *LENGTHS, "patience", "threads"}
TRAIN_OPTIONS: Final = {**SHORTHANDS, **specs(*TRAIN_SECTIONS)}
SAMPLE_OPTIONS: Final = specs(SampleConfig)
EVAL_OPTIONS: Final = specs(EvalConfig)


def flag(name: str) -> str:
    """
    >>> flag("dropout_input")
    '--dropout-input'
    """
    return "--" + name.replace("_", "-")


def parse(name: str, text: str, spec: Spec) -> Value:
    """A value as it stands on a command line, checked."""
    try:
        return check(name, spec.type(text), spec)
    except ValueError:
        return check(name, text, spec)


_QUOTE: Final = reprlib.Repr()
_QUOTE.maxstring = _QUOTE.maxother = _QUOTE.maxlong = 500  # what is not an option need not be quoted whole


def check(name: str, value: object, spec: Spec) -> Value:
    """`value` in the option's own type, or a `ConfigError` that names the option and its range."""
    if spec.loose and isinstance(value, (int, float, os.PathLike)) and not isinstance(value, bool):
        value = str(value)
    if spec.type is float and isinstance(value, int) and not isinstance(value, bool) and _allowed(value, spec):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, spec.type) or not _allowed(value, spec):
        raise ConfigError(
            f"{flag(name)} must be {spec.range}, not {_QUOTE.repr(value)}", kept="nothing was read or written"
        )
    return value


def _allowed(value: int | float | str, spec: Spec) -> bool:
    if isinstance(value, str):
        if spec.form:
            return FORMS[spec.form].pattern.fullmatch(value) is not None and _positive(value, spec.form)
        return not spec.choices or value in spec.choices
    above_low = spec.low < value if spec.above else spec.low <= value
    return above_low and value <= spec.high  # NaN fails both comparisons


def _positive(value: str, form: str) -> bool:
    if form == "device":
        return True
    return int(value) >= 1 if value.isdigit() else 0 < seconds(value) <= _LONGEST


def check_train(given: Mapping[str, object]) -> dict[str, Value]:
    """What a user gave for a training run, checked and with shorthands spelled out.

    >>> check_train({"dropout": 0.5, "dropout_input": 0.1})
    {'dropout_input': 0.1, 'dropout_between': 0.5, 'dropout_output': 0.5}
    """
    values = _check_all(given, TRAIN_OPTIONS)
    lengths = [flag(name) for name in LENGTHS if name in values]
    if len(lengths) > 1:
        raise ConfigError(
            f"{' and '.join(lengths)} exclude each other", kept="nothing was read or written", hint="give one of them"
        )
    if "forget_bias" in values and values.get("cell", "lstm") != "lstm":
        raise ConfigError(f"--forget-bias is for --cell lstm; --cell {values['cell']} has no forget gate")
    if "vocab_size" in values and values.get("tokenizer") != "sentencepiece":
        raise ConfigError("--vocab-size is for --tokenizer sentencepiece; other vocabularies follow from the text")
    if "dropout" in values:
        everywhere = values.pop("dropout")
        values = {**dict.fromkeys(DROPOUTS, everywhere), **values}
    val_share(str(values.get("val", "0")))
    return values


def check_sample(given: Mapping[str, object]) -> SampleConfig:
    return SampleConfig(**_check_all(given, SAMPLE_OPTIONS))  # type: ignore[arg-type]


def check_eval(given: Mapping[str, object]) -> EvalConfig:
    options = _check_all(given, EVAL_OPTIONS)
    if options.get("precision") == "int8":
        options.setdefault("engine", "decoder")  # nothing else has it
    config = EvalConfig(**options)  # type: ignore[arg-type]
    precisions = {"network": ("fp32", "bf16", "fp16"), "decoder": ("fp32", "int8")}[config.engine]
    if config.precision not in precisions:
        raise ConfigError(
            f"--engine {config.engine} computes in {' or '.join(precisions)}, not in {config.precision}",
            kept="nothing was read or written",
        )
    return config


def _check_all(given: Mapping[str, object], known: Mapping[str, Spec]) -> dict[str, Value]:
    for name in given:
        if name not in known:
            near = get_close_matches(name, known, 1)
            hint = f"did you mean {flag(near[0])}?" if near else "docs/cli.md and --help list them"
            raise ConfigError(f"there is no option {flag(name)}", kept="nothing was read or written", hint=hint)
    return {name: check(name, value, known[name]) for name, value in given.items()}


def val_share(val: str) -> float | None:
    """The share that `--val` holds out of each file, or None when it is the path of a file.

    >>> val_share("0.1"), val_share("later.txt")
    (0.1, None)
    """
    try:
        share = float(val)
    except ValueError:
        return None
    if not 0 <= share <= 0.9:
        raise ConfigError(
            f"--val must be a share from 0 to 0.9 or a file, not {val!r}", kept="nothing was read or written"
        )
    return share


def read_toml(path: Path) -> dict[str, object]:
    """The options in a `--config` file, by their names with `-` or `_`; not yet checked."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}", kept="nothing was written") from error
    except (ValueError, RecursionError) as error:  # not TOML, not UTF-8, or numbers and nesting beyond all measure
        raise ConfigError(f"{path} is not TOML: {error}", kept="nothing was read or written") from error
    if twice := next((name for name in table if "-" in name and name.replace("-", "_") in table), None):
        both = f"{twice} and {twice.replace('-', '_')}"
        raise ConfigError(f"{path}: {both} are one option", kept="nothing was read or written", hint="give it once")
    return {name.replace("-", "_"): value for name, value in table.items()}


def merge(table: Mapping[str, object], given: Mapping[str, object]) -> dict[str, object]:
    """The options of a file under those of the command line, which also undo what they exclude in the file.

    >>> merge({"time": "10m", "dropout_between": 0.3, "hidden": 64}, {"steps": 5, "dropout": 0.5})
    {'hidden': 64, 'steps': 5, 'dropout': 0.5}
    """
    undone: set[str] = set()
    if any(name in given for name in LENGTHS):
        undone |= set(LENGTHS)
    if "dropout" in given:
        undone |= set(DROPOUTS)
    if given.get("tokenizer", "sentencepiece") != "sentencepiece":
        undone |= {"vocab_size", "sentencepiece"}
    if given.get("cell", "lstm") != "lstm":
        undone.add("forget_bias")
    return {**{name: value for name, value in table.items() if name not in undone}, **given}


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """All that defines a training run beside its text."""

    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()

    def flat(self) -> dict[str, Value]:
        """Every option by its name."""
        return {name: value for section in asdict(self).values() for name, value in section.items()}

    @classmethod
    def from_flat(cls, values: Mapping[str, object]) -> Config:
        """The inverse of `flat`; options that are missing keep their defaults, values are checked.

        >>> Config.from_flat(Config().flat()) == Config()
        True
        """

        def section(kind: type[Any]) -> Any:
            known = specs(kind)
            default = asdict(kind())
            given = {n: v for n, v in values.items() if n in known and v != default[n]}
            return kind(**{name: check(name, value, known[name]) for name, value in given.items()})

        return cls(
            model=section(ModelConfig),
            data=section(DataConfig),
            optim=section(OptimConfig),
            train=section(TrainConfig),
        )
