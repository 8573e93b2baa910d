"""From a text and options to a trained run: a new one, or one that goes on.

The steps before training (read, split, tokenise, choose, build) happen here, in the order in which a mistake costs
least: whatever can be refused is refused before a folder is touched.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import fields, replace
from hashlib import sha256
from pathlib import Path
from typing import Final

import torch

from charlm.config import HELD, Config, DataConfig, section
from charlm.errors import CheckpointError, ConfigError, DataError
from charlm.models.architecture import architecture_of
from charlm.models.network import Network, initialise
from charlm.options import Value
from charlm.runtime.device import Runtime, choose_device, choose_runtime, set_threads
from charlm.runtime.group import ALONE, Group
from charlm.runtime.precision import CUDA_ONLY, check_precision
from charlm.runtime.processor import is_crowded
from charlm.storage.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from charlm.storage.hub import origin
from charlm.storage.provenance import find_corpus, keep_stdin
from charlm.storage.records import CorpusRecord, Result
from charlm.storage.runs import Run, Trained, find_checkpoint, remove_empty
from charlm.text.corpus import Corpus
from charlm.text.direction import as_trained
from charlm.text.files import Globs
from charlm.text.large import StoredCorpus, open_corpus
from charlm.text.records import edges_of, seem_independent
from charlm.text.stored import Text
from charlm.text.tokenizer import StoredTokens, Tokenizer, Tokens, tokenize, train_tokenizer
from charlm.training.agreement import agree
from charlm.training.defaults import Facts, choose, choose_vocabulary, depends_on_speed, unsettled
from charlm.training.events import Emit, Remark, Resumed, Started, Writing
from charlm.training.footprint import refuse_too_large
from charlm.training.request import TrainingRequest
from charlm.training.sharing import shared
from charlm.training.trainer import Stop, Task, Trainer, check_lanes, in_lanes
from charlm.training.trial import StepTrial, may_follow, training_speed
from charlm.training.warmstart import adopt_weights, adopted_options

_LONG_LEARNING: Final = 50_000  # characters from which learning a vocabulary takes seconds,
_LONG_WORD: Final = 50  # and characters without a space with which it may take minutes
_LONG_SCORE: Final = 10_000_000  # characters of a validation text whose score takes minutes on a processor
_TWO_THREADS: Final = 40_000  # batch x hidden^2 of a process from which a second thread gains something
_OWN: Final = ("device", "threads", *HELD)  # options that may differ between machines: files are compared by content


def start_run(run: Run, request: TrainingRequest, emit: Emit, stop: Stop, group: Group = ALONE) -> Trained:
    """Train a run that does not exist yet, or is to be replaced; its lock is held meanwhile.

    The processes of a group train it together. What one process alone can know, such as its speed, the first decides.
    """
    if group.is_first:
        _refuse_existing(run, request.force)
    given, donor = _options(run, request, emit, group)
    device = choose_device(str(given.get("device", "auto")))
    check_precision(device, str(given.get("precision", "auto")))
    threads = set_threads(group.first(lambda: set_threads(int(given.get("threads", 0)))))
    data = section(DataConfig, given)
    corpus = group.in_turn(lambda: new_corpus(request.corpus, data))
    for remark in _remarks(corpus, data):
        emit(Remark(text=remark))
    given = choose_vocabulary(given, corpus.train)
    tokenizer = _tokenizer(given, donor, corpus.train, emit)
    _agree_on_text(corpus, tokenizer, group)
    train = tokenize(tokenizer, as_trained(corpus.train, data))
    facts = Facts(
        len(corpus.train),
        len(train.ids),
        tokenizer.size,
        device.type,
        _speed(given, device, group),
        records=_records(train, tokenizer, data.records),
    )
    config, reasons = _chosen(given, facts, group)
    for remark in (*architecture_of(config.model).remarks(config.model), *_far_sighted(given, facts)):
        emit(Remark(text=remark))
    refuse_too_large(config, tokenizer.size, on_gpu=device.type == "cuda")
    network = _new_network(config, tokenizer, donor, emit).to_device(device)
    group.same_(list(network.parameters()))
    if not config.train.threads and config.train.batch * config.model.hidden**2 < _TWO_THREADS * group.size:
        threads = set_threads(1)
    runtime = _first_runtime(config, network, device, threads, group)
    task = _task(config, tokenizer, train, corpus, CorpusRecord.of(corpus))
    if group.size > 1:
        check_lanes(in_lanes(task, device).batch, group)
    emit(Writing())
    with _locked(run, group):
        try:
            if group.is_first:
                _refuse_existing(run, request.force)
                run.clear()
                group.note(str(run.folder))
            corpus = keep_stdin(corpus, run, data.encoding)
            task = replace(task, corpus=CorpusRecord.of(corpus))
            _announce(run, task, corpus, network, runtime, emit, reasons, request.departures)
            trainer = Trainer(task, network, runtime, run, emit=emit, stop=stop, group=group)
            trainer.state.unsettled = unsettled(config, reasons)
            trainer.journal.init_from = donor.state_sha256 if donor else ""
            return _trained(run, trainer)
        finally:
            if group.is_first:
                remove_empty(run)  # while it is held: the lock of another trainer is not ours to remove


def resume_run(run: Run, request: TrainingRequest, emit: Emit, stop: Stop, group: Group = ALONE) -> Trained:
    """Go on where the run stopped; its lock is held meanwhile. A finished run is handed back as it ended.

    The number of processes may be another than before.
    """
    with _locked(run, group):
        checkpoint, path = _restored(run, emit, group)
        agree(checkpoint, request, run)
        if checkpoint.result is not None:
            if request.corpus:  # given again, it has to agree like any option
                _corpus_of(checkpoint, request, run)
            emit(Remark(text=f"{run.folder} has finished: there is nothing left to do"))
            return _finished(run, checkpoint, checkpoint.result)
        emit(Writing())
        trainer, differences = _resumed_trainer(run, request, checkpoint, emit, stop, group)
        if path != run.last and group.is_first:  # or the next save would put what cannot be used in place of `previous`
            save_checkpoint(run.last, checkpoint)
        emit(Resumed(step=trainer.state.step, path=path, exact=not differences))
        return _trained(run, trainer, save_first=bool(differences))


def _task(
    config: Config,
    tokenizer: Tokenizer,
    train: Tokens | StoredTokens,
    corpus: Corpus | StoredCorpus,
    record: CorpusRecord,
) -> Task:
    """What the trainer works on: texts as the model reads them."""
    val, test = as_trained(corpus.val, config.data), as_trained(corpus.test, config.data)
    return Task(config, tokenizer, train, val, record, test)


def _speed(given: Mapping[str, Value], device: torch.device, group: Group) -> float:
    """FLOP a second that all processes together are likely to reach; 0 where nothing depends on it."""
    if not depends_on_speed(given):
        return 0.0
    return group.first(lambda: training_speed(device, str(given.get("precision", "auto")))) * group.size


def _records(train: Tokens | StoredTokens, tokenizer: Tokenizer, kind: str) -> int:
    """How many records there are; 0 where the text is one."""
    return len(edges_of(train, tokenizer, kind)) - 1


def _trained(run: Run, trainer: Trainer, *, save_first: bool = False) -> Trained:
    """Train to the end, or until the run is stopped."""
    reason, result = trainer.train(save_first=save_first)
    return Trained(
        run=run,
        reason=reason,
        checkpoint=_model_of(run),
        result=result,
        history=tuple(trainer.journal.history),
        config=trainer.task.config,
        parameters=sum(weight.numel() for weight in trainer.network.parameters()),
        vocabulary=trainer.task.tokenizer.size,
        rollbacks=len(trainer.state.rollbacks),
    )


def _finished(run: Run, checkpoint: Checkpoint, result: Result) -> Trained:
    return Trained(
        run=run,
        reason="patience" if result.stopped else "done",
        checkpoint=_model_of(run),
        result=result,
        history=checkpoint.history,
        config=checkpoint.config,
        parameters=checkpoint.parameters,
        vocabulary=checkpoint.open_tokenizer().size,
        rollbacks=len(checkpoint.state.rollbacks),
    )


def _model_of(run: Run) -> Path:
    return run.best if run.best.exists() else run.last


def _locked(run: Run, group: Group) -> AbstractContextManager[None]:
    """The run's lock, which the first process holds for all of them."""
    return run.locked() if group.is_first else nullcontext()


def _options(
    run: Run, request: TrainingRequest, emit: Emit, group: Group
) -> tuple[dict[str, Value], Checkpoint | None]:
    """What was given, by a preset too, and with --init-from the donor, whose architecture is given as well."""
    given = request.given
    own = {name: value for name, value in given.items() if name not in _OWN}
    group.agree("other options", json.dumps([own, request.init_from], sort_keys=True))
    if not request.init_from:
        return given, None
    init_from = request.init_from
    path = Path(group.first(lambda: str(find_checkpoint(init_from, str(run.folder.parent)))))
    donor = shared(group, lambda: load_checkpoint(path))
    assert donor is not None  # noqa: S101 - or it was raised
    emit(Remark(text=f"starting from the weights of {origin(path) or path}"))
    return adopted_options(donor, given), donor


def _tokenizer(given: Mapping[str, Value], donor: Checkpoint | None, text: Text, emit: Emit) -> Tokenizer:
    """The donor's tokenizer, or one learned from this text, which is announced where it takes long."""
    if donor is not None:
        return donor.open_tokenizer().adapt(text)
    data = section(DataConfig, given)
    if data.vocab_size and len(text) >= _LONG_LEARNING:
        slow = data.sentencepiece == "unigram" and max(map(len, text[:_LONG_LEARNING].split())) > _LONG_WORD
        hint = "; with few spaces this may take minutes, but seconds with --sentencepiece bpe" if slow else ""
        emit(Remark(text=f"learning a vocabulary of {data.vocab_size:,} from {len(text):,} characters{hint}"))
    tokenizer = train_tokenizer(data, text)
    for remark in tokenizer.remarks:
        emit(Remark(text=remark))
    return tokenizer


def new_corpus(paths: Sequence[str], data: DataConfig) -> Corpus | StoredCorpus:
    """The corpus of a new run with these options."""
    return open_corpus(
        paths,
        data.val,
        data.test,
        encoding=data.encoding,
        records=data.records,
        globs=Globs.of(data.include, data.exclude),
    )


def _remarks(corpus: Corpus | StoredCorpus, data: DataConfig) -> Iterator[str]:
    """What a user might want otherwise."""
    if data.records == "none" and (why := seem_independent(corpus.train)):
        yield f"{why}: if they are independent, --records line reads each by itself"
    if len(corpus.val) > _LONG_SCORE:
        share = f"{_LONG_SCORE / (len(corpus.train) + len(corpus.val) + len(corpus.test)):.1g}"
        yield (
            f"all {len(corpus.val):,} characters of the validation text are scored at the end, which takes minutes: "
            f"--val {share} holds out fewer"
        )


def _far_sighted(given: Mapping[str, Value], facts: Facts) -> Iterator[str]:
    """What is longer than the text, so that a part of it is always empty."""
    context = int(given.get("context", 0))
    if context > facts.tokens:
        yield (
            f"--context {context:,} is longer than the training text, which has {facts.tokens:,} tokens: a shorter one "
            "sees as much, and takes less memory and time"
        )


def _agree_on_text(corpus: Corpus | StoredCorpus, tokenizer: Tokenizer, group: Group) -> None:
    """Raise DataError where the processes have not read the same files."""
    hint = "give all of them the same files"
    parts = [corpus.fingerprint, len(corpus.train), len(corpus.val), len(corpus.test)]
    group.agree("read another text", json.dumps(parts), DataError, hint=hint)
    state = tokenizer.state()
    model = sha256(state.model or b"").hexdigest()
    group.agree("learned another vocabulary", json.dumps([dict(state.table), model], sort_keys=True), DataError)


def _chosen(given: Mapping[str, Value], facts: Facts, group: Group) -> tuple[Config, Mapping[str, str]]:
    """The options that were not given, with reasons, and the others."""

    def choices() -> tuple[dict[str, Value], dict[str, str]]:
        config, reasons = choose(given, facts)
        return config.flat(), dict(reasons)

    values, reasons = group.first(choices)
    return Config.of(values), reasons


def _first_runtime(config: Config, network: Network, device: torch.device, threads: int, group: Group) -> Runtime:
    """How a new run computes; the precision is the first process's."""

    def precision() -> tuple[str, str]:
        own = replace(config, train=replace(config.train, batch=group.shares(config.train.batch)[-1]))
        chosen = choose_runtime(device, config.train.precision, threads, StepTrial(own, network))
        return chosen.precision, chosen.reason

    chosen, reason = group.first(precision)
    runtime = replace(choose_runtime(device, chosen, threads), reason=reason)
    return _following(config, network, runtime, group)


def _new_network(config: Config, tokenizer: Tokenizer, donor: Checkpoint | None, emit: Emit) -> Network:
    """A network with its first weights, or a donor's."""
    network = Network(config.model, tokenizer.size)
    initialise(network, config.train.seed)
    if donor is not None:
        known = adopt_weights(network, tokenizer, donor)
        emit(Remark(text=f"the --init-from model knows {known} of the {tokenizer.size} tokens of this text"))
    return network


def _restored(run: Run, emit: Emit, group: Group) -> tuple[Checkpoint, Path]:
    """The newest whole training state, and its file."""
    if group.size == 1:
        return _newest(run, emit)
    found: list[tuple[Checkpoint, Path]] = []

    def load() -> Checkpoint:
        found.append(_newest(run, emit))
        return found[0][0]

    checkpoint = shared(group, load)
    assert checkpoint is not None  # noqa: S101 - or it was raised
    return checkpoint, Path(group.first(lambda: str(found[0][1])))


def _newest(run: Run, emit: Emit) -> tuple[Checkpoint, Path]:
    found = run.restore()
    if found is None:
        raise CheckpointError(
            f"{run.folder} has no checkpoint to resume from",
            kept="nothing was changed",
            hint="train again with --force",
        )
    if found[1] != run.last:
        emit(Remark(text=f"{run.last} cannot be used; resuming from {found[1]}"))
    return found


def _resumed_trainer(
    run: Run, request: TrainingRequest, checkpoint: Checkpoint, emit: Emit, stop: Stop, group: Group
) -> tuple[Trainer, list[str]]:
    """A trainer where the checkpoint left it, and what is not as it was then and costs exactness."""
    config, tokenizer = checkpoint.config, checkpoint.open_tokenizer()
    corpus = _corpus_of(checkpoint, request, run)
    _agree_on_text(corpus, tokenizer, group)
    train = _known_tokens(tokenizer, as_trained(corpus.train, config.data))
    corpus = keep_stdin(corpus, run, config.data.encoding)
    network, runtime = _same_runtime(checkpoint, request, tokenizer.size, group)
    same = corpus.fingerprint == checkpoint.corpus.fingerprint
    record = checkpoint.corpus if same else CorpusRecord.of(corpus)
    task = _task(config, tokenizer, train, corpus, record)
    _announce(run, task, corpus, network, runtime, emit, {}, request.departures)
    trainer = Trainer(task, network, runtime, run, emit=emit, stop=stop, group=group)
    trainer.restore(checkpoint, same_text=same)
    trainer.state.unsettled = tuple(name for name in trainer.state.unsettled if name not in request.given)
    differences = group.first(lambda: list(_differences(checkpoint, runtime, same_text=same)))
    for difference in differences:
        emit(Remark(text=f"{difference}: the run continues, but is not bit-exact"))
        trainer.journal.inexact.append(f"{difference} at step {trainer.state.step}")
    return trainer, differences


def _known_tokens(tokenizer: Tokenizer, text: Text) -> Tokens | StoredTokens:
    """The tokens of a text that may have changed; raises DataError where it has characters that are new."""
    tokens = tokenize(tokenizer, text)
    if tokens.unknown_characters:
        raise DataError(
            f"the text now has {tokens.unknown_characters} characters that the run's vocabulary lacks",
            kept="nothing was changed",
            hint="train on from its weights with --init-from",
        )
    return tokens


def _corpus_of(checkpoint: Checkpoint, request: TrainingRequest, run: Run) -> Corpus | StoredCorpus:
    """The run's own text, from where the request says that it is now or from where it was."""
    data, now = checkpoint.config.data, {name: str(request.given[name]) for name in HELD if name in request.given}
    return find_corpus(
        checkpoint.corpus,
        data.val,
        request.corpus,
        test=data.test,
        held_out=now.get("val"),
        tested=now.get("test"),
        beside=run.folder,
        allow_change=request.allow_data_change,
        encoding=data.encoding,
        records=data.records,
        globs=Globs.of(data.include, data.exclude),
    )


def _same_runtime(
    checkpoint: Checkpoint, request: TrainingRequest, vocabulary: int, group: Group
) -> tuple[Network, Runtime]:
    """An empty network where the run computed before, unless told otherwise, and with what.

    A precision that this machine lacks becomes fp32.
    """
    before, config = checkpoint.environment, checkpoint.config
    usual = before.device.partition(":")[0] if group.size > 1 else before.device  # of many GPUs, each has its own
    device = choose_device(str(request.given.get("device", usual)))
    wanted = int(request.given.get("threads", 0))
    threads = set_threads(group.first(lambda: set_threads(wanted, at_most=before.threads)))
    refuse_too_large(config, vocabulary, on_gpu=device.type == "cuda")
    network = Network(config.model, vocabulary).to_device(device)
    precision, lacking = before.precision, before.precision in CUDA_ONLY and device.type != "cuda"
    if lacking or not group.first(lambda: StepTrial(config, network).works(precision)):
        precision = "fp32"
    runtime = replace(choose_runtime(device, precision, threads), reason=before.reason)
    return network, runtime if wanted else _following(config, network, runtime, group)


def _following(config: Config, network: Network, runtime: Runtime, group: Group) -> Runtime:
    """The same runtime, whose threads may follow what is fastest unless their number was given.

    Those of many processes do not: what one gains, another would miss.
    """
    free = runtime.device.type == "cpu" and runtime.threads > 1 and not config.train.threads and group.size == 1
    return replace(runtime, follows=free and may_follow(config, network, runtime))


def _differences(checkpoint: Checkpoint, runtime: Runtime, *, same_text: bool) -> Iterator[str]:
    """What has changed since the checkpoint was made that costs exactness."""
    before = checkpoint.environment
    for name in (field.name for field in fields(before)):
        was, now = getattr(before, name), getattr(runtime.environment, name)
        if now != was:
            yield f"{name} changed from {was} to {now}"
    if not same_text:
        yield "the text has changed"


def _announce(
    run: Run,
    task: Task,
    corpus: Corpus | StoredCorpus,
    network: Network,
    runtime: Runtime,
    emit: Emit,
    reasons: Mapping[str, str],
    departures: tuple[str, ...],
) -> None:
    for remark in corpus.remarks:
        emit(Remark(text=remark))
    many = runtime.environment.processes
    fixed = runtime.device.type == "cpu" and runtime.threads > 1 and not runtime.follows
    if fixed and many == 1 and is_crowded():
        emit(Remark(text="other programs are using the CPU, so threads may wait for each other: try --threads 1"))
    parameters = sum(weight.numel() for weight in network.parameters())
    threads = f"{'up to ' * runtime.follows}{runtime.threads} thread{'s' * (runtime.threads != 1)}"
    threads += f" in each of {many} processes" * (many > 1)
    where = f"{runtime.device}, {threads}, {runtime.precision} ({runtime.reason})"
    emit(
        Started(
            name=run.folder.name,
            config=task.config,
            reasons=reasons,
            parameters=parameters,
            vocabulary=task.tokenizer.size,
            train_characters=len(corpus.train),
            val_characters=len(corpus.val),
            test_characters=len(corpus.test),
            runtime=where,
            departures=departures,
        )
    )


def _refuse_existing(run: Run, force: bool) -> None:
    if run.exists and not force:
        raise ConfigError(
            f"run {run.folder} already exists",
            kept="nothing was changed",
            hint="resume it with --resume, replace it with --force, or choose another --name",
        )
