"""From a text and options to a trainer that is ready to go, for a new run and for one that goes on.

The steps in between (read, split, tokenise, choose, build) happen here, in the order in which a mistake costs least:
whatever can be refused is refused before a folder is touched.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import prod
from typing import Any, Final

import torch

from charlm.config import Config, DataConfig, section, val_share
from charlm.errors import CheckpointError, ConfigError, DataError
from charlm.models.cells import weight_shapes
from charlm.models.network import Network, initialise
from charlm.options import Value, flag
from charlm.runtime.device import (
    CUDA_ONLY,
    Probe,
    Runtime,
    check_precision,
    choose_device,
    choose_runtime,
    set_threads,
    timed,
    training_speed,
)
from charlm.runtime.processor import available_threads, other_work
from charlm.storage.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from charlm.storage.provenance import find_corpus, keep_stdin, record
from charlm.storage.runs import Run, find_checkpoint, remove_empty
from charlm.text.corpus import Corpus, load_corpus
from charlm.text.tokenizer import Tokenizer, Tokens, tokenize, train_tokenizer
from charlm.training.defaults import Facts, Preset, choose, choose_vocabulary
from charlm.training.events import Chosen, Emit, Remark, Resumed, Writing
from charlm.training.gradient import Gradient
from charlm.training.trainer import Task, Trainer
from charlm.training.warmstart import adopt_weights, adopted_options

GLANCE: Final = 200_000  # characters of the held-out text that checks look at
_MAY_CHANGE: Final = ("device", "threads")
Stop = Callable[[], str | None]


@dataclass(frozen=True, slots=True)
class Order:
    """What a user asked for."""

    corpus: tuple[str, ...]
    given: Mapping[str, Value]
    preset: Preset
    init_from: str | None = None
    force: bool = False
    allow_data_change: bool = False


@contextmanager
def new_run(run: Run, order: Order, emit: Emit, stop: Stop) -> Iterator[Trainer]:
    """A trainer for a run that does not exist yet or is to be replaced, holding the run's lock."""
    refuse_existing(run, order.force)
    given: dict[str, Value] = {**order.preset.options, **order.given}
    donor = None
    if order.init_from:
        path = find_checkpoint(order.init_from, str(run.folder.parent))
        donor = load_checkpoint(path)
        given = adopted_options(donor, given)
    device = choose_device(str(given.get("device", "auto")))
    check_precision(device, str(given.get("precision", "auto")))
    threads = set_threads(int(given.get("threads", 0)))
    corpus = load_corpus(order.corpus, str(given.get("val", DataConfig().val)))
    given = choose_vocabulary(given, corpus.train)
    tokenizer = (
        donor.open_tokenizer().adapt(corpus.train)
        if donor is not None
        else train_tokenizer(section(DataConfig, given), corpus.train)
    )
    train = tokenize(tokenizer, corpus.train)
    speed = training_speed(device)
    config, reasons = choose(given, Facts(len(corpus.train), len(train.ids), tokenizer.size, device.type, speed))
    _refuse_too_large(config, tokenizer.size)
    network = Network(config.model, tokenizer.size)
    initialise(network, config.train.seed)
    if donor is not None:
        known = adopt_weights(network, tokenizer, donor)
        emit(
            Remark(f"starting from the weights of {path}, which knew {known} of the {tokenizer.size} different tokens")
        )
    network.to_device(device)
    runtime = choose_runtime(device, config.train.precision, threads, step_probe(config, network))
    emit(Writing())
    with run.locked():
        try:
            refuse_existing(run, order.force)
            run.clear()
            corpus = keep_stdin(corpus, run)
            task = _task(config, tokenizer, train, corpus, record(corpus))
            _announce(run, task, corpus, network, runtime, emit, reasons, order.preset)
            yield Trainer(task, network, runtime, run, emit=emit, stop=stop)
        finally:
            remove_empty(run)  # while it is held: the lock of another trainer is not ours to remove


@contextmanager
def old_run(run: Run, order: Order, emit: Emit, stop: Stop) -> Iterator[Trainer | Checkpoint]:
    """A trainer that goes on where the run stopped, holding its lock; the checkpoint itself when it has finished."""
    with run.locked():
        found = run.restore()
        if found is None:
            raise CheckpointError(
                f"{run.folder} has no checkpoint to go on from",
                kept="nothing was changed",
                hint="train it anew with --force",
            )
        checkpoint, path = found
        if path != run.last:
            emit(Remark(f"{run.last} cannot be used; going on from {path}"))
        _agree(checkpoint.config, order)
        if checkpoint.result:
            if order.corpus:  # given again, it has to agree like any option
                _corpus_of(checkpoint, order, run)
            emit(Remark(f"{run.folder} has finished: there is nothing left to do"))
            yield checkpoint
            return
        config, tokenizer = checkpoint.config, checkpoint.open_tokenizer()
        corpus = _corpus_of(checkpoint, order, run)
        train = tokenize(tokenizer, corpus.train)
        if train.unknown_characters:
            raise DataError(
                f"the text now has {train.unknown_characters} characters that the run's vocabulary lacks",
                kept="nothing was changed",
                hint="start another run from its weights with --init-from",
            )
        corpus = keep_stdin(corpus, run)
        runtime = _same_runtime(checkpoint, order)
        network = Network(config.model, tokenizer.size).to_device(runtime.device)
        same = corpus.fingerprint == checkpoint.corpus["fingerprint"]
        task = _task(config, tokenizer, train, corpus, checkpoint.corpus if same else record(corpus))
        _announce(run, task, corpus, network, runtime, emit, {}, order.preset)
        trainer = Trainer(task, network, runtime, run, emit=emit, stop=stop)
        trainer.restore(checkpoint, same_text=same)
        if path != run.last:
            save_checkpoint(
                run.last, checkpoint
            )  # or the next save would put what cannot be used in place of `previous`
        differences = list(_differences(checkpoint, runtime, same_text=same))
        for difference in differences:
            emit(Remark(f"{difference}: the run goes on, but is not bit-exact"))
            trainer.state.inexact.append(f"{difference} from step {trainer.state.step} on")
        trainer.changed = bool(differences)
        emit(Resumed(trainer.state.step, path, not differences))
        yield trainer


def _corpus_of(checkpoint: Checkpoint, order: Order, run: Run) -> Corpus:
    """The run's own text, from where the order says that it is now or from where it was."""
    return find_corpus(
        checkpoint.corpus,
        checkpoint.config.data.val,
        order.corpus,
        held_out=str(order.given["val"]) if "val" in order.given else None,
        beside=run.folder,
        allow_change=order.allow_data_change,
    )


def _same_runtime(checkpoint: Checkpoint, order: Order) -> Runtime:
    """Where the run computed before, unless told otherwise."""
    before = checkpoint.environment
    device = choose_device(str(order.given.get("device", before["device"])))
    threads = set_threads(int(order.given.get("threads", 0)), at_most=int(before["threads"]))
    precision = str(before["precision"])
    if precision in CUDA_ONLY and device.type != "cuda":
        precision = "fp32"
    return replace(choose_runtime(device, precision, threads), reason=str(before["reason"]))


def _differences(checkpoint: Checkpoint, runtime: Runtime, *, same_text: bool) -> Iterator[str]:
    """What has changed since the checkpoint was made that costs exactness."""
    before = checkpoint.environment
    for name, now in runtime.environment.items():
        if now != before.get(name):
            yield f"{name} was {before.get(name)} and is {now}"
    if not same_text:
        yield "the text has changed"


def _announce(
    run: Run,
    task: Task,
    corpus: Corpus,
    network: Network,
    runtime: Runtime,
    emit: Emit,
    reasons: Mapping[str, str],
    preset: Preset,
) -> None:
    for remark in corpus.remarks:
        emit(Remark(remark))
    if runtime.device.type == "cpu" and runtime.threads > 1 and other_work() > 0.4 * available_threads():
        emit(
            Remark("other work keeps the processor busy; threads that wait for each other suffer most: try --threads 1")
        )
    parameters = sum(weight.numel() for weight in network.parameters())
    where = f"{runtime.device}, {runtime.threads} threads, {runtime.precision} ({runtime.reason})"
    emit(
        Chosen(
            run.folder.name,
            task.config,
            reasons,
            parameters,
            task.tokenizer.size,
            len(corpus.train),
            len(corpus.val),
            where,
            preset.departures,
        )
    )


def refuse_existing(run: Run, force: bool) -> None:
    if run.exists and not force:
        raise ConfigError(
            f"run {run.folder} exists",
            kept="nothing was changed",
            hint="go on with --resume, replace it with --force, or choose another --name",
        )


def _refuse_too_large(config: Config, vocabulary: int) -> None:
    """Weights, gradients, two moments of each and an average have to fit into the machine's memory."""
    needed = (20 if config.optim.average else 16) * sum(
        prod(shape) for shape in weight_shapes(config.model, vocabulary).values()
    )
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > there:
        raise ConfigError(
            f"--layers {config.model.layers} of --hidden {config.model.hidden} need {needed / 1e9:,.0f} GB "
            f"to train; this machine has {there / 1e9:,.0f} GB",
            kept="nothing was written",
            hint="give smaller ones",
        )


def _agree(config: Config, order: Order) -> None:
    """Options given again on resume must be those of the run; where it computes may change."""
    flat = config.flat()
    for name, value in {**order.preset.options, **order.given}.items():
        if name == "val" and val_share(str(value)) is None is val_share(str(flat[name])):
            continue  # a held-out file, which may have moved: its fingerprint is what counts
        if name not in _MAY_CHANGE and flat[name] != value:
            raise ConfigError(
                f"{flag(name)} {value} contradicts the run, which has {flat[name]}",
                kept="nothing was changed",
                hint="leave the option out, or start another run with --name",
            )


def _task(config: Config, tokenizer: Tokenizer, train: Tokens, corpus: Corpus, record: Mapping[str, Any]) -> Task:
    val = tokenize(tokenizer, corpus.val) if corpus.val else None
    glance = tokenize(tokenizer, corpus.val[:GLANCE]) if len(corpus.val) > GLANCE else val
    return Task(config, tokenizer, train, val, glance, record)


def step_probe(config: Config, network: Network) -> Probe:
    """Measures the seconds of a forward and backward pass of this network, as a trainer would compute it."""
    made: dict[str, Gradient] = {}
    shape = config.train.bptt, config.train.batch

    def probe(runtime: Runtime) -> float:
        compute = made.setdefault(runtime.precision, Gradient(network, runtime, shape, 0, lambda _: None))
        ids = torch.randint(network.vocabulary, shape, device=runtime.device)
        before = network.train().init_state(config.train.batch)
        seconds = timed(lambda: compute(ids, ids, before, 0, 1.0), runtime.device)
        network.zero_grad()
        return seconds

    return probe
