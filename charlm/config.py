"""Every option of charlm: its name, range, default and meaning, written once; and which options exclude or need others.

The command line, `--config` files, the Python API, checkpoints and the reference in docs/cli.md are all made from the
dataclasses below. What a user leaves out is chosen by `charlm.training.defaults`; a `Config` is the outcome, complete
and immutable.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import Field, asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

from charlm.errors import ConfigError, StorageError
from charlm.options import UNTOUCHED, Option, Registry, Value, check, check_all, flag, option

# What can be chosen by name. A new architecture, optimizer, tokenizer or decoder is one file, and one line here; a new
# cell is one object, and one line.
MODELS: Final = Registry(
    recurrent="charlm.models.cells:RECURRENT",
    window="charlm.models.window:WINDOW",
    dilated="charlm.models.dilated:DILATED",
    transformer="charlm.models.transformer:TRANSFORMER",
    echo="charlm.models.echo:ECHO",
    jordan="charlm.models.jordan:JORDAN",
)
CELLS: Final = Registry(
    lstm="charlm.models.cells:LSTM",
    gru="charlm.models.cells:GRU",
    rnn="charlm.models.cells:RNN",
    leaky="charlm.models.cells:LEAKY",
    mingru="charlm.models.cells:MINGRU",
)
OPTIMIZERS: Final = Registry(
    muon="charlm.models.optimizers:MUON",
    adamw="charlm.models.optimizers:ADAMW",
    rmsprop="charlm.models.optimizers:RMSPROP",
)
TOKENIZERS: Final = Registry(
    char="charlm.text.tokenizer:CharTokenizer",
    byte="charlm.text.tokenizer:ByteTokenizer",
    sentencepiece="charlm.text.sentencepiece:SentencePieceTokenizer",
)
ENGINES: Final = Registry(
    auto="charlm.generation.engine:open_fastest",
    compiled="charlm.generation.compiled:open_compiled",
    numpy="charlm.generation.layered:open_numpy",
    cuda="charlm.generation.cuda:open_cuda",
)
EXPORTS: Final = Registry(
    onnx="charlm.export.model:ONNX",
    card="charlm.report.card:CARD",
)

RECORDS: Final = ("none", "line", "paragraph", "file")  # what they are, `charlm.text.records` says
FORWARD, BACKWARD = DIRECTIONS = ("forward", "backward")  # what these are, `charlm.text.direction` says

DEFAULT_FOLDER: Final = "checkpoints"  # of all runs
LEFT_OUT: Final = -1  # a number of sampling that nobody has given: `charlm.generation.generate.completed` fills it in

MODEL: Final = "The model"
TEXT: Final = "What to train on"
REGULARISATION: Final = "Regularisation"
OPTIMIZER: Final = "The optimizer"
LENGTH: Final = "Length of training"
RUN: Final = "The run"
MACHINE: Final = "The machine"
SAMPLING: Final = "Sampling"
SCORING: Final = "Scoring"
INSPECTION: Final = "Inspection"
GAP: Final = "Gap and candidates"
EXPORT: Final = "Output"
TASK: Final = "The task"


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """The network: embedding, layers, output layer."""

    model: str = option("recurrent", Option(str, "architecture of the network", offers=MODELS, group=MODEL))
    cell: str = option("lstm", Option(str, "recurrent cell", offers=CELLS, group=MODEL))
    layers: int = option(
        2,
        Option(
            int,
            "number of layers (default: 2; dilated 8, transformer 4, window, echo and jordan 1)",
            1,
            64,
            group=MODEL,
        ),
    )
    hidden: int = option(512, Option(int, "units per layer", 1, 16384, group=MODEL))
    embedding: int = option(64, Option(int, "embedding width; 0 for one-hot input", 0, 16384, group=MODEL))
    forget_bias: float = option(
        1.0, Option(float, "initial forget-gate bias, b_ih + b_hh (lstm only)", -100, 100, group=MODEL)
    )
    skip: bool = option(
        False,
        Option(bool, "add the input of each layer but the first to its output (residual connections)", group=MODEL),
    )
    context: int = option(
        16,
        Option(
            int, "characters that a layer reads (default: 16 of a window, 128 of a transformer)", 1, 65536, group=MODEL
        ),
    )
    heads: int = option(
        0, Option(int, "heads of a transformer's attention (default: of 32 units each)", 1, 1024, group=MODEL)
    )
    radius: float = option(0.9, Option(float, "spectral radius of the reservoir (echo only)", 0, 100, group=MODEL))
    dropout_input: float = option(0.0, Option(float, "dropout after the embedding", 0, 0.99, group=REGULARISATION))
    dropout_between: float = option(0.0, Option(float, "dropout between layers", 0, 0.99, group=REGULARISATION))
    dropout_output: float = option(0.0, Option(float, "dropout before the output layer", 0, 0.99, group=REGULARISATION))

    @property
    def kind(self) -> str:
        """What the network is called: by its cell where it is recurrent."""
        return self.cell if self.model == "recurrent" else self.model


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """How a text becomes tokens, and which parts of it are held out for validation and for the test."""

    tokenizer: str = option("char", Option(str, "unit of text to predict", offers=TOKENIZERS, group=TEXT))
    vocab_size: int = option(0, Option(int, "vocabulary size (sentencepiece only)", 260, 65536, group=TEXT))
    sentencepiece: str = option(
        "unigram", Option(str, "SentencePiece algorithm", offers=("unigram", "bpe"), group=TEXT)
    )
    val: str = option(
        "0.1",
        Option(
            str,
            "validation text, to choose the best model: a file, or the fraction to hold out; 0: none",
            loose=True,
            group=TEXT,
        ),
    )
    test: str = option(
        "0",
        Option(
            str,
            "test text, seen by no choice and scored once: a file, or the fraction to hold out; 0: none",
            loose=True,
            group=TEXT,
        ),
    )
    encoding: str = option("utf-8", Option(str, "encoding of the corpus", form="encoding", group=TEXT))
    records: str = option(
        "none",
        Option(
            str,
            "independent texts in the corpus, each read by itself: lines, paragraphs or files",
            offers=RECORDS,
            group=TEXT,
        ),
    )
    direction: str = option(
        FORWARD,
        Option(
            str,
            "predict each character from those before it or, backward, from those that follow it (char only)",
            offers=DIRECTIONS,
            group=TEXT,
        ),
    )
    include: str = option("", Option(str, "files to read of folders, by patterns as in '*.txt,*.md'", group=TEXT))
    exclude: str = option("", Option(str, "files of folders to pass over, by patterns", group=TEXT))


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimConfig:
    """How weights follow gradients."""

    optimizer: str = option("adamw", Option(str, "optimizer", offers=OPTIMIZERS, group=OPTIMIZER))
    lr: float = option(0.005, Option(float, "peak learning rate", 0, 100, above=True, group=OPTIMIZER))
    weight_decay: float = option(
        0.01, Option(float, "decoupled weight decay of the matrices", 0, 10, group=REGULARISATION)
    )
    warmup: int = option(50, Option(int, "steps of linear warm-up", 0, 10**9, group=OPTIMIZER))
    decay: str = option(
        "linear",
        Option(str, "learning rate schedule after the warm-up", offers=("linear", "cosine", "none"), group=OPTIMIZER),
    )
    average: float = option(
        0.0, Option(float, "weight averaging horizon as a fraction of the run; 0 disables", 0, 1, group=REGULARISATION)
    )
    clip: float = option(1.0, Option(float, "gradient clipping threshold; 0 disables", 0, 1e9, group=OPTIMIZER))
    clip_mode: str = option(
        "norm", Option(str, "clip the global norm or each value", offers=("norm", "value"), group=OPTIMIZER)
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """How long, in what pieces, and where."""

    batch: int = option(16, Option(int, "batch size: lanes of text read in parallel", 1, 65536, group=OPTIMIZER))
    bptt: int = option(64, Option(int, "chunk length of truncated BPTT, in tokens", 1, 65536, group=OPTIMIZER))
    shuffle: int = option(
        0,
        Option(
            int,
            "read the text in segments of about N tokens, in random order; 0: from its beginning to its end",
            0,
            10**9,
            group=OPTIMIZER,
        ),
    )
    drop_state: float = option(
        0.0, Option(float, "probability of resetting a lane's state before a chunk", 0, 1, group=REGULARISATION)
    )
    epochs: int = option(0, Option(int, "passes through the training text", 1, 10**9, group=LENGTH))
    steps: int = option(0, Option(int, "weight updates", 1, 10**9, group=LENGTH))
    time: str = option(
        "",
        Option(str, "time budget, first step to last; the closing scores come after it", form="duration", group=LENGTH),
    )
    patience: int = option(
        5,
        Option(
            int,
            "stop after N validations without improvement; 0 disables (default: 5, or 0 if the length is given)",
            0,
            10**9,
            group=LENGTH,
        ),
    )
    checkpoint_every: str = option(
        "60s", Option(str, "steps or time between checkpoints", form="every", loose=True, group=RUN)
    )
    device: str = option("auto", Option(str, "device to compute on", form="device", group=MACHINE))
    precision: str = option(
        "auto",
        Option(str, "numeric precision of training", offers=("auto", "fp32", "tf32", "bf16", "fp16"), group=MACHINE),
    )
    threads: int = option(0, Option(int, "CPU threads (default: what is fastest)", 1, 1024, group=MACHINE))
    seed: int = option(0, Option(int, "random seed", 0, 2**63 - 1, group=RUN))


@dataclass(frozen=True, kw_only=True, slots=True)
class LogConfig:
    """What is written of a run besides its own files: no part of what defines it, so that a resume may change it."""

    log: str = option(
        "none",
        Option(
            str,
            "also log metrics and samples in the run's folder, for TensorBoard",
            offers=("none", "tensorboard"),
            group=RUN,
        ),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleConfig:
    """How the next character is sampled."""

    length: int = option(
        LEFT_OUT,
        Option(int, "characters to generate (default: 500; records: to their end)", 0, 10**12, group=SAMPLING),
    )
    temperature: float = option(1.0, Option(float, "softmax temperature; 0 is greedy", 0, 1e9, group=SAMPLING))
    top_k: int = option(0, Option(int, "keep only the K most probable tokens; 0 disables", 0, 10**9, group=SAMPLING))
    top_p: float = option(
        1.0,
        Option(float, "keep the smallest set of tokens with this total probability", 0, 1, above=True, group=SAMPLING),
    )
    min_p: float = option(
        0.0, Option(float, "keep tokens with at least this fraction of the highest probability", 0, 1, group=SAMPLING)
    )
    count: int = option(1, Option(int, "number of samples, generated in parallel", 1, 65536, group=SAMPLING))
    seed: int = option(
        LEFT_OUT, Option(int, "random seed (default: a fresh one, which is named)", 0, 2**63 - 1, group=SAMPLING)
    )
    precision: str = option(
        "fp32", Option(str, "precision of the weights; int8 is faster", offers=("fp32", "int8"), group=MACHINE)
    )
    engine: str = option(
        "auto",
        Option(
            str,
            "decoder; auto uses compiled if possible, otherwise numpy",
            offers=ENGINES,
            group=MACHINE,
        ),
    )
    threads: int = option(0, Option(int, "CPU threads (default: tuned while sampling)", 1, 1024, group=MACHINE))


@dataclass(frozen=True, kw_only=True, slots=True)
class FillConfig:
    """Which candidates are tried for a gap, and how they are scored (`charlm.generation.fill`)."""

    length: int = option(
        LEFT_OUT, Option(int, "characters of the gap (default: unknown, see the next two)", 1, 1000, group=GAP)
    )
    min_length: int = option(1, Option(int, "fewest characters of a gap of unknown length", 1, 1000, group=GAP))
    max_length: int = option(12, Option(int, "most characters of a gap of unknown length", 1, 1000, group=GAP))
    candidates: int = option(
        200, Option(int, "how many the forward model proposes, half by beam search, half sampled", 2, 10**6, group=GAP)
    )
    look: int = option(
        16, Option(int, "characters beyond the gap that either model goes on to read", 0, 1000, group=GAP)
    )
    weight: float = option(0.7, Option(float, "weight of the backward model, from 0 to 1", 0, 1, group=GAP))
    temperature: float = option(1.0, Option(float, "softmax temperature of sampled candidates", 0, 1e9, group=GAP))
    count: int = option(5, Option(int, "how many of the most probable ones to show", 1, 10**6, group=GAP))
    seed: int = option(0, Option(int, "random seed", 0, 2**63 - 1, group=GAP))
    precision: str = option(
        "fp32", Option(str, "precision of the weights; int8 is faster", offers=("fp32", "int8"), group=MACHINE)
    )
    engine: str = option(
        "numpy", Option(str, "decoder; numpy is the fastest for many candidates", offers=ENGINES, group=MACHINE)
    )
    threads: int = option(0, Option(int, "CPU threads (default: tuned while sampling)", 1, 1024, group=MACHINE))

    @property
    def lengths(self) -> range:
        """How many characters the gap may have."""
        if self.length != LEFT_OUT:
            return range(self.length, self.length + 1)
        return range(self.min_length, self.max_length + 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class EvalConfig:
    """Where and in what arithmetic a text is scored."""

    device: str = option("auto", Option(str, "device to compute on", form="device", group=MACHINE))
    engine: str = option(
        "network",
        Option(
            str,
            "score with the training network or the decoder of charlm sample",
            offers=("network", "decoder"),
            group=MACHINE,
        ),
    )
    precision: str = option(
        "fp32",
        Option(
            str,
            "numeric precision of scoring (int8: decoder only)",
            offers=("fp32", "bf16", "fp16", "int8"),
            group=MACHINE,
        ),
    )
    threads: int = option(0, Option(int, "CPU threads (default: as in training)", 1, 1024, group=MACHINE))
    records: str = option(
        "",
        Option(
            str,
            "independent texts, each read by itself (default: as trained)",
            offers=RECORDS,
            group=SCORING,
        ),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class WordConfig:
    """What a word is, and which blanks its surprisal includes (`charlm.evaluation.columns`)."""

    words_by: str = option(
        "space",
        Option(
            str,
            "in tables of words, part them at white space only, or at punctuation, too",
            offers=("space", "punctuation"),
            group=SCORING,
        ),
    )
    blank: str = option(
        "none",
        Option(
            str,
            "in tables of words, add to a word's bits those of blanks before it, after it, or of none",
            offers=("before", "after", "none"),
            group=SCORING,
        ),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportConfig:
    """What a checkpoint is written as, for other programs and readers."""

    format: str = option(
        "",
        Option(
            str,
            "onnx: the network; card: a model card (default: by the name of the output, .onnx or .md)",
            offers=EXPORTS,
            group=EXPORT,
        ),
    )
    licence: str = option(
        "", Option(str, "licence of the model, such as mit (card only; default: none)", form="licence", group=EXPORT)
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class LagConfig:
    """Which networks learn which synthetic task over which lags (`charlm.inspection.lags`), and how."""

    task: str = option(
        "recall",
        Option(
            str,
            "recall a symbol, add two marked digits, or close a bracket, N characters later",
            offers=("recall", "adding", "brackets"),
            group=TASK,
        ),
    )
    lags: str = option(
        "10,30,100,300,1000", Option(str, "lags N in characters, each 1 to 10,000", group=TASK, placeholder="N,N,...")
    )
    cells: str = option(
        "lstm,gru,rnn", Option(str, "recurrent cells, each in networks of its own", group=MODEL, placeholder="CELL,...")
    )
    seeds: int = option(3, Option(int, "networks of each cell, seeded 0, 1, ...", 1, 100, group=MODEL))
    hidden: int = option(64, Option(int, "units of the one layer", 1, 4096, group=MODEL))
    forget_bias: float = option(1.0, Option(float, "initial forget-gate bias (lstm only)", -100, 100, group=MODEL))
    recurrent_init: str = option(
        "orthogonal",
        Option(
            str,
            "recurrent matrices: orthogonal, or uniform within 1/sqrt(hidden) as in PyTorch",
            offers=("orthogonal", "uniform"),
            group=MODEL,
        ),
    )
    curriculum: bool = option(
        True,
        Option(
            bool,
            "learn short lags first, from one lag to the next; with --no-curriculum each lag has a new network",
            group=OPTIMIZER,
        ),
    )
    optimizer: str = option("adamw", Option(str, "optimizer", offers=OPTIMIZERS, group=OPTIMIZER))
    lr: float = option(0.001, Option(float, "learning rate", 0, 100, above=True, group=OPTIMIZER))
    clip: float = option(1.0, Option(float, "largest norm of the gradient; 0 disables", 0, 1e9, group=OPTIMIZER))
    batch: int = option(32, Option(int, "sequences of a step", 1, 4096, group=OPTIMIZER))
    time: str = option("60s", Option(str, "time budget of each network for each lag", form="duration", group=LENGTH))
    steps: int = option(0, Option(int, "weight updates instead of a time budget", 1, 10**9, group=LENGTH))


Section = (
    ModelConfig
    | DataConfig
    | OptimConfig
    | TrainConfig
    | LogConfig
    | SampleConfig
    | FillConfig
    | EvalConfig
    | WordConfig
    | ExportConfig
    | LagConfig
)
SectionType = TypeVar("SectionType", bound=Section)
TRAIN_SECTIONS: Final = (ModelConfig, DataConfig, OptimConfig, TrainConfig)
DROPOUTS: Final = ("dropout_input", "dropout_between", "dropout_output")
# Shorthands: one option of the user's that sets several of the config's.
SHORTHANDS: Final = {"dropout": Option(float, "dropout at all three places below", 0, 0.99, group=REGULARISATION)}
LENGTHS: Final = ("epochs", "steps", "time")


def options_of(*sections: type[Section]) -> dict[str, Option]:
    """Every option of these sections by name, in order."""
    return {f.name: f.metadata["option"] for section in sections for f in _fields(section)}


def _fields(section: type[Section]) -> Iterator[Field[Any]]:
    yield from fields(section)


# Chosen by charlm.training.defaults and the machine: the values above are only where a bare Config starts.
AUTOMATIC: Final = frozenset(
    ["hidden", "embedding", "heads", *DROPOUTS, "vocab_size", "optimizer", "lr", "weight_decay", "average", "warmup"]
) | {"batch", "bptt", "shuffle", "drop_state", *LENGTHS, "patience", "threads"}
TRAIN_OPTIONS: Final = {**SHORTHANDS, **options_of(*TRAIN_SECTIONS, LogConfig)}
SAMPLE_OPTIONS: Final = options_of(SampleConfig)
FILL_OPTIONS: Final = options_of(FillConfig)
EVAL_OPTIONS: Final = options_of(EvalConfig)
WORD_OPTIONS: Final = options_of(WordConfig)
EXPORT_OPTIONS: Final = options_of(ExportConfig)
LAG_OPTIONS: Final = options_of(LagConfig)


class Need(NamedTuple):
    """An option makes sense only where another, `default` if it is not given, has a value that `holds`."""

    option: str
    default: str
    holds: Callable[[str], bool]
    refused: bool = True  # elsewhere; or it has no effect there

    def words(self, name: str, value: object) -> str:
        """What is wrong where the other option has this value."""
        allowed = " or ".join(filter(self.holds, TRAIN_OPTIONS[self.option].choices))
        return f"{flag(name)} applies only to {flag(self.option)} {allowed}, not to {value}"


def _has_forget_gate(cell: str) -> bool:
    return cell not in CELLS or "f" in CELLS[cell].gates  # an unknown cell is refused elsewhere


def _taken(registry: Registry, option: str) -> Callable[[str], bool]:
    """Whether what has this name in a registry has this option."""
    return lambda name: name not in registry or option in registry[name].options


OF_MODELS: Final = (  # options that only some architectures have
    "cell",
    "skip",
    "context",
    "heads",
    "radius",
)
NEEDS: Final = {
    **{name: (Need("model", "recurrent", _taken(MODELS, name)),) for name in OF_MODELS},
    "forget_bias": (Need("model", "recurrent", _taken(MODELS, "cell")), Need("cell", "lstm", _has_forget_gate)),
    "vocab_size": (Need("tokenizer", "char", _taken(TOKENIZERS, "vocab_size")),),
    "sentencepiece": (Need("tokenizer", "char", _taken(TOKENIZERS, "sentencepiece"), refused=False),),
}


def _unmet(name: str, values: Mapping[str, object]) -> Iterator[Need]:
    """What an option needs and does not find beside it."""
    for need in NEEDS.get(name, ()):
        if not need.holds(str(values.get(need.option, need.default))):
            yield need


def applies(name: str, values: Mapping[str, object]) -> bool:
    """Whether this option makes sense beside these others.

    >>> applies("forget_bias", {"cell": "gru"}), applies("forget_bias", {}), applies("vocab_size", {})
    (False, True, False)
    """
    return not any(_unmet(name, values))


def check_train(given: Mapping[str, object]) -> dict[str, Value]:
    """What a user gave for a training run, checked and with shorthands spelled out.

    >>> check_train({"dropout": 0.5, "dropout_input": 0.1})
    {'dropout_input': 0.1, 'dropout_between': 0.5, 'dropout_output': 0.5}
    """
    values = check_all(given, TRAIN_OPTIONS)
    lengths = [flag(name) for name in LENGTHS if name in values]
    if len(lengths) > 1:
        raise ConfigError(f"{' and '.join(lengths)} cannot be combined", kept=UNTOUCHED, hint="give one of them")
    for name in values:
        for need in _unmet(name, values):
            if need.refused:
                raise ConfigError(need.words(name, values.get(need.option, need.default)), kept=UNTOUCHED)
    if "dropout" in values:
        everywhere = values.pop("dropout")
        values = {**dict.fromkeys(DROPOUTS, everywhere), **values}
    check_shares(str(values.get("val", "0")), str(values.get("test", "0")))
    check_direction(values)
    return values


def check_direction(values: Mapping[str, object]) -> None:
    """Raise ConfigError where a text is to be read backward in tokens that are no characters.

    >>> check_direction({"direction": "backward", "tokenizer": "char"})
    """
    kind = str(values.get("tokenizer", DataConfig().tokenizer))
    if values.get("direction") == BACKWARD and kind in TOKENIZERS and not TOKENIZERS[kind].one_per_character:
        raise ConfigError(
            f"--direction backward needs tokens that are characters, and --tokenizer {kind} has others",
            kept=UNTOUCHED,
            hint="leave out --tokenizer",
        )


def check_sample(given: Mapping[str, object]) -> SampleConfig:
    """The sampling options that a user gave, checked, and defaults for the others; no seed may be given as None."""
    given = {name: value for name, value in given.items() if (name, value) != ("seed", None)}
    return SampleConfig(**check_all(given, SAMPLE_OPTIONS))  # type: ignore[arg-type]


def check_fill(given: Mapping[str, object]) -> FillConfig:
    """The options of filling a gap that a user gave, checked, and defaults for the others."""
    values = check_all(given, FILL_OPTIONS)
    if "length" in values and (other := next((name for name in ("min_length", "max_length") if name in values), "")):
        raise ConfigError(f"--length and {flag(other)} cannot be combined", kept=UNTOUCHED, hint="give one of them")
    config = FillConfig(**values)  # type: ignore[arg-type]
    if not config.lengths:
        raise ConfigError(
            f"--min-length {config.min_length} is more than --max-length {config.max_length}", kept=UNTOUCHED
        )
    return config


def check_eval(given: Mapping[str, object]) -> EvalConfig:
    """The scoring options that a user gave, checked, and defaults for the others."""
    options = check_all(given, EVAL_OPTIONS)
    if options.get("precision") == "int8":
        options.setdefault("engine", "decoder")  # nothing else has it
    config = EvalConfig(**options)  # type: ignore[arg-type]
    precisions = {"network": ("fp32", "bf16", "fp16"), "decoder": ("fp32", "int8")}[config.engine]
    if config.precision not in precisions:
        raise ConfigError(
            f"--engine {config.engine} supports {' or '.join(precisions)}, not {config.precision}", kept=UNTOUCHED
        )
    return config


def check_words(given: Mapping[str, object]) -> WordConfig:
    """The options of words that a user gave, checked, and defaults for the others."""
    return WordConfig(**check_all(given, WORD_OPTIONS))  # type: ignore[arg-type]


def check_export(given: Mapping[str, object]) -> ExportConfig:
    """The options of an export that a user gave, checked, and defaults for the others."""
    return ExportConfig(**check_all(given, EXPORT_OPTIONS))  # type: ignore[arg-type]


def check_lags(given: Mapping[str, object]) -> LagConfig:
    """The options of `charlm lags` that a user gave, checked, and defaults for the others."""
    values = check_all(given, LAG_OPTIONS)
    if "time" in values and "steps" in values:
        raise ConfigError("--time and --steps cannot be combined", kept=UNTOUCHED, hint="give one of them")
    config = LagConfig(**values)  # type: ignore[arg-type]
    numbers_of("lags", config.lags, 1, 10_000)
    names = config.cells.split(",")
    for cell in names:
        check("cells", cell, Option(str, "", offers=CELLS))
    if twice := [cell for cell in names if names.count(cell) > 1]:
        raise ConfigError(f"--cells has {twice[0]} twice", kept=UNTOUCHED)
    if "forget_bias" in values and not any(map(_has_forget_gate, names)):
        raise ConfigError("--forget-bias is for lstm, which --cells does not name", kept=UNTOUCHED)
    return config


def numbers_of(name: str, text: str, low: int, high: int) -> list[int]:
    """The numbers of a list such as 10,30,100, each once and in order; ConfigError where one is not in the range.

    >>> numbers_of("lags", "30,10,30", 1, 100)
    [10, 30]
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(re.fullmatch("[0-9]{1,9}", part) and low <= int(part) <= high for part in parts):
        raise ConfigError(
            f"{flag(name)} must be numbers from {low:,} to {high:,}, parted by commas, not {text[:100]!r}",
            kept=UNTOUCHED,
        )
    return sorted(set(map(int, parts)))


HELD: Final = ("val", "test")  # the options that hold a part of the text out
Shares = tuple[float | None, float | None]
_MOST_HELD: Final = 0.9


def val_share(val: str, name: str = "val") -> float | None:
    """The share that `--val` (or the option of this name) holds out of a text, or None when it is the path of a file.

    >>> val_share("0.1"), val_share("later.txt")
    (0.1, None)
    """
    try:
        share = float(val)
    except ValueError:
        return None
    if not 0 <= share <= _MOST_HELD:
        raise ConfigError(
            f"{flag(name)} must be a fraction from 0 to {_MOST_HELD} or a file, not {val!r}", kept=UNTOUCHED
        )
    return share


def check_shares(val: str, test: str) -> Shares:
    """The shares that `--val` and `--test` hold out of a text, None for each that is the path of a file.

    >>> check_shares("0.1", "later.txt")
    (0.1, None)
    """
    shares = val_share(val), val_share(test, "test")
    if (shares[0] or 0) + (shares[1] or 0) > _MOST_HELD + 1e-9:
        raise ConfigError(
            f"--val {val} and --test {test} hold out too much: at most {_MOST_HELD} of the text together",
            kept=UNTOUCHED,
        )
    return shares


def read_toml(path: Path) -> dict[str, object]:
    """The options in a `--config` file, by their names with `-` or `_`; not yet checked."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8-sig"))  # a byte order mark is no TOML
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}", kept="nothing was written") from error
    except (ValueError, RecursionError) as error:  # not TOML, not UTF-8, or numbers and nesting beyond all measure
        raise ConfigError(f"{path} is not TOML: {error}", kept=UNTOUCHED) from error
    if twice := next((name for name in table if "-" in name and name.replace("-", "_") in table), None):
        both = f"{twice} and {twice.replace('-', '_')}"
        raise ConfigError(f"{path}: {both} are the same option", kept=UNTOUCHED, hint="give it once")
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
    touched = {name for name, needs in NEEDS.items() if any(need.option in given for need in needs)}
    undone |= {name for name in touched if not applies(name, given)}
    return {**{name: value for name, value in table.items() if name not in undone}, **given}


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """All that defines a training run besides its text."""

    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()

    def flat(self) -> dict[str, Value]:
        """Every option by its name."""
        return {name: value for section in asdict(self).values() for name, value in section.items()}

    @classmethod
    def of(cls, values: Mapping[str, Value]) -> Config:
        """The inverse of `flat`, for values that have been checked; options that are missing keep their defaults.

        >>> Config.of(Config().flat()) == Config()
        True
        """
        return cls(
            model=section(ModelConfig, values),
            data=section(DataConfig, values),
            optim=section(OptimConfig, values),
            train=section(TrainConfig, values),
        )

    @classmethod
    def checked(cls, values: Mapping[str, object]) -> Config:
        """The same for values from outside, such as a checkpoint's; what is no option is left out.

        Raises ConfigError. A section's own default passes, also where no user may give it, as 0 steps.
        """
        defaults = cls().flat()
        known = {name: value for name, value in values.items() if name in defaults}
        return cls.of(
            {
                name: defaults[name] if same(value, defaults[name]) else check(name, value, TRAIN_OPTIONS[name])
                for name, value in known.items()
            }
        )


# What each option of a training run is where nothing else is given or chosen.
TRAIN_DEFAULTS: Final[Mapping[str, Value]] = {**Config().flat(), **asdict(LogConfig())}


def same(value: object, default: Value) -> bool:
    """Whether two values are equal and of one type: 1 and True are not."""
    return type(value) is type(default) and value == default


def section(kind: type[SectionType], values: Mapping[str, Value]) -> SectionType:
    """A section with those of these values that are its options."""
    return kind(**{name: values[name] for name in options_of(kind) if name in values})  # type: ignore[arg-type]
