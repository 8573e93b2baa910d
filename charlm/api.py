"""charlm as a Python library: train, load, sample, score. The command line is a thin layer over this module.

>>> import charlm, pathlib, tempfile
>>> folder = pathlib.Path(tempfile.mkdtemp())
>>> _ = (folder / "hello.txt").write_text("hello")
>>> trained = charlm.train(folder / "hello.txt", checkpoints=folder, val="0", seed=1)
>>> trained.result.train_loss < 0.01
True
>>> model = charlm.load(trained.checkpoint)
>>> model.sample(length=5, temperature=0)
'hello'
>>> model.score("hello").perplexity > 2  # 3.5/6 of every probability is kept for characters never seen
True
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from charlm.config import DEFAULT_FOLDER, Config, EvalConfig, SampleConfig, check_eval, check_sample, check_train
from charlm.errors import ConfigError, DataError
from charlm.generation.decoder import Decoder
from charlm.generation.engine import open_decoder
from charlm.generation.generate import Piece, collect, generate
from charlm.options import Value
from charlm.storage.checkpoint import Checkpoint, load_checkpoint
from charlm.storage.provenance import own_corpus
from charlm.storage.runs import Run, find_checkpoint, newest_run, open_run
from charlm.storage.runs import Trained as Trained  # noqa: PLC0414 - part of the API
from charlm.text.corpus import STDIN
from charlm.text.tokenizer import Ids, Tokenizer, tokenize

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from charlm.evaluation.score import Scorable, Score
    from charlm.evaluation.surprisal import PositionLoss, Surprisal
    from charlm.runtime.device import Runtime
    from charlm.training.events import Emit

PathLike = str | os.PathLike[str]
Stop = Callable[[], str | None]


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingRequest:
    """A training run as a user asked for it, with options that are already checked.

    `options` are those that were given, as `charlm.config.check_train` returns them.
    """

    corpus: tuple[str, ...] = ()
    options: Mapping[str, Value] = field(default_factory=dict)
    name: str | None = None
    checkpoints: str = DEFAULT_FOLDER
    preset: str | None = None
    init_from: str | None = None
    resume: bool = False
    force: bool = False
    allow_data_change: bool = False

    def __post_init__(self) -> None:
        if self.resume and self.force:
            raise ConfigError("--resume and --force exclude each other", kept="nothing was changed")

    @property
    def run(self) -> Run:
        """The run that is meant: by name, by the first corpus's stem, or for a bare `resume` the newest."""
        if self.name is None and not self.corpus and self.resume:
            return newest_run(Path(self.checkpoints))
        first = self.corpus[0] if self.corpus else STDIN
        stem = "stdin" if first == STDIN else Path(first).resolve().stem
        return open_run(self.name if self.name is not None else stem, self.checkpoints)


def train(
    *corpus: PathLike,
    name: str | None = None,
    checkpoints: PathLike = DEFAULT_FOLDER,
    preset: str | None = None,
    resume: bool = False,
    init_from: PathLike | None = None,
    force: bool = False,
    allow_data_change: bool = False,
    on_event: Emit | None = None,
    stop: Stop = lambda: None,
    **options: object,
) -> Trained:
    """Train a run on files, folders or "-"; `options` are those of `charlm train`, with `_` for `-`.

    What is not given is chosen by `charlm.training.defaults`. `on_event` is told of every step
    (`charlm.training.events`); `stop` is asked before each, and a text that it returns ends training there, saved.

    Raises ConfigError, DataError, CheckpointError, DivergedError or StorageError; a run that exists is left as it is
    unless `resume` or `force` says otherwise.
    """
    request = TrainingRequest(
        corpus=tuple(os.fspath(path) for path in corpus),
        options=check_train(options),
        name=name,
        checkpoints=os.fspath(checkpoints),
        preset=preset,
        init_from=os.fspath(init_from) if init_from else None,
        resume=resume,
        force=force,
        allow_data_change=allow_data_change,
    )
    return run(request, on_event=on_event, stop=stop)


def run(request: TrainingRequest, *, on_event: Emit | None = None, stop: Stop = lambda: None) -> Trained:
    """`train`, for a request whose options have been checked."""
    from charlm.training.defaults import preset
    from charlm.training.events import ignore
    from charlm.training.session import Request, resume_run, start_run

    folder, emit = request.run, on_event or ignore
    order = Request(
        request.corpus,
        request.options,
        preset(request.preset),
        request.init_from,
        request.force,
        request.allow_data_change,
    )
    if request.resume and folder.saved:
        return resume_run(folder, order, emit, stop)
    if not request.corpus:
        raise ConfigError("no corpus was named", kept="nothing was changed", hint="charlm train FILE")
    return start_run(folder, order, emit, stop)


def load(
    checkpoint: PathLike | None = None, *, checkpoints: PathLike = DEFAULT_FOLDER, **options: object
) -> LanguageModel:
    """A trained model: from a file, a run's folder or name, or (None) the newest run.

    `options` say where and how to score: `device`, `precision`, `threads`, as for `charlm eval`.
    Raises CheckpointError when there is none, or when it is not whole.
    """
    return open_model(checkpoint, check_eval(options), checkpoints=checkpoints)


def open_model(
    checkpoint: PathLike | None = None,
    config: EvalConfig = EvalConfig(),  # noqa: B008 - frozen
    *,
    checkpoints: PathLike = DEFAULT_FOLDER,
) -> LanguageModel:
    """`load`, with options that have been checked."""
    path = find_checkpoint(os.fspath(checkpoint) if checkpoint is not None else None, os.fspath(checkpoints))
    return LanguageModel(path, load_checkpoint(path), config)


class LanguageModel:
    """A checkpoint, ready to write and to judge text. torch is imported by the first score, not by sampling."""

    def __init__(self, path: Path, checkpoint: Checkpoint, config: EvalConfig) -> None:
        self.path, self.checkpoint, self._config = path, checkpoint, config
        self._opened: tuple[tuple[str, str, int], Decoder] | None = None
        self.tokenizer: Tokenizer = checkpoint.open_tokenizer()

    @property
    def config(self) -> Config:
        return self.checkpoint.config

    def held_out(self, corpus: Sequence[str] = ()) -> str:
        """The text that this run held out, from its old place or from `corpus`; its fingerprint must match."""
        found = own_corpus(self.checkpoint, self.path, corpus).val
        if not found:
            raise DataError(
                f"{self.path} held no text out (--val 0)", kept="nothing was scored", hint="name one with --text FILE"
            )
        return found

    def was_trained_on(self, text: str) -> bool:
        """Whether this is, as a whole, one of the files that the run was given to learn from."""
        digest = sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
        return any(source.sha256 == digest for source in self.checkpoint.corpus.training_sources)

    def sample(self, *, prime: str = "", stop: str = "", **options: object) -> str:
        """A text of `length` characters (default 500), without the prime; options are those of `charlm sample`."""
        return self.samples(prime=prime, stop=stop, **options)[0]

    def samples(self, *, prime: str = "", stop: str = "", **options: object) -> tuple[str, ...]:
        """`count` samples, generated side by side; sample k is the same for any count, up to rounding."""
        config = check_sample(options)
        return tuple(collect(self.stream(config, prime=prime, stop=stop), config.count))

    def stream(self, config: SampleConfig, *, prime: str = "", stop: str = "") -> Iterator[Piece]:
        """Pieces of text as they are generated."""
        decoder = self._decoder(config.engine, config.precision, config.threads)
        return generate(decoder, self.tokenizer, config, prime=prime, stop=stop)

    def score(self, text: str, *, exact: bool = False) -> Score:
        """Loss, bits per character and perplexity of a text; `exact` reads it in one pass instead of in lanes."""
        from charlm.evaluation.score import score

        tokens = tokenize(self.tokenizer, text)
        with self._scoring() as (model, device):
            return score(model, self.tokenizer, tokens, exact=exact, device=device)

    def nats(self, text: str, *, exact: bool = False, dynamic: bool = False) -> NDArray[np.float32]:
        """-ln P of each of the text's tokens [N], whose sum is the score's.

        With `dynamic` the network goes on learning from what it has read (`charlm.evaluation.dynamic`), in fp32 and in
        one pass; it is afterwards what it was. Raises ConfigError where the model was loaded for the decoder.
        """
        from charlm.evaluation.score import exact_nats, lane_nats

        ids = self.tokenizer.encode(text).ids
        if dynamic:
            return self._dynamic_nats(ids)
        read = exact_nats if exact else lane_nats
        with self._scoring() as (model, device):
            return read(model, self.tokenizer, ids, device=device)

    def _dynamic_nats(self, ids: Ids) -> NDArray[np.float32]:
        from charlm.evaluation.dynamic import dynamic_nats
        from charlm.models.network import Network
        from charlm.runtime.device import set_threads

        check_dynamic(self._config)
        runtime, model = self._scorer
        set_threads(runtime.threads)
        return dynamic_nats(cast("Network", model), self.tokenizer, ids)

    def surprisal(self, text: str, *, likeliest: int = 0, within: int | None = None) -> Surprisal:
        """What each character costs, and (of the tokens `within` so many) the likeliest alternatives in its place."""
        from charlm.evaluation.surprisal import surprisal

        with self._scoring() as (model, device):
            return surprisal(model, self.tokenizer, text, likeliest=likeliest, within=within, device=device)

    def cold_nats(self, text: str, window: int = 256) -> NDArray[np.float64]:
        """-ln P of each character [C], with every `window` characters read from zero state."""
        from charlm.evaluation.surprisal import cold_nats

        with self._scoring() as (model, device):
            return cold_nats(model, self.tokenizer, text, window=window, device=device)

    def position_losses(self, text: str) -> tuple[PositionLoss, ...]:
        """Loss by place since a cold start: how much context helps."""
        from charlm.evaluation.surprisal import position_losses

        with self._scoring() as (model, device):
            return position_losses(model, self.tokenizer, text, device=device)

    @contextmanager
    def _scoring(self) -> Iterator[tuple[Scorable, torch.device]]:
        """The model, its device, and its threads and precision while it scores."""
        from charlm.runtime.device import set_threads

        runtime, model = self._scorer
        set_threads(runtime.threads)
        with runtime.autocast():
            yield model, runtime.device

    def prepare(self) -> None:
        """Do now what the first score would do: import torch and build the network."""
        _ = self._scorer

    def _decoder(self, engine: str, precision: str, threads: int) -> Decoder:
        """The last one is kept: packing the weights takes longer than a few characters."""
        if self._opened is None or self._opened[0] != (engine, precision, threads):
            decoder = open_decoder(
                self.config.model, self.checkpoint.weights, engine=engine, precision=precision, threads=threads
            )
            self._opened = ((engine, precision, threads), decoder)
        return self._opened[1]

    @cached_property
    def _scorer(self) -> tuple[Runtime, Scorable]:
        from charlm.evaluation.score import ScorableDecoder
        from charlm.models.network import Network, import_weights
        from charlm.runtime.device import choose_device, choose_runtime, set_threads

        config = self._config
        threads = set_threads(config.threads, at_most=self.checkpoint.environment.threads)
        if config.engine == "decoder":
            decoder = self._decoder("auto", config.precision, threads)
            return choose_runtime(choose_device("cpu"), "fp32", threads), ScorableDecoder(decoder)
        runtime = choose_runtime(choose_device(config.device), config.precision, threads)
        network = Network(self.checkpoint.config.model, self.tokenizer.size)
        import_weights(network, self.checkpoint.weights)
        return runtime, network.to_device(runtime.device).eval()


def check_dynamic(config: EvalConfig) -> None:
    """Raise ConfigError where a model that is loaded so has no gradients to learn from."""
    if config.engine == "decoder":
        raise ConfigError(
            "--dynamic needs a network that can learn, and --engine decoder only reads",
            kept="nothing was scored",
            hint="leave out --engine decoder, or --precision int8",
        )


def doctor() -> dict[str, Any]:
    """What a run here would compute with, and whether an interrupted run ends like a whole one (tried, in a second)."""
    from charlm.doctor import examine

    return examine(lambda folder, **options: train(folder / "text.txt", checkpoints=folder, **options))
