"""From a text and options to a trained run: a new one, or one that goes on.

The steps before training (read, split, tokenise, choose, build) happen here, in the order in which a mistake costs
least: whatever can be refused is refused before a folder is touched.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Final

from charlm.config import HELD, Config, DataConfig, section
from charlm.errors import CheckpointError, ConfigError, DataError
from charlm.models.network import Network, initialise
from charlm.options import Value
from charlm.runtime.device import Runtime, choose_device, choose_runtime, set_threads, training_speed
from charlm.runtime.precision import CUDA_ONLY, check_precision
from charlm.runtime.processor import is_crowded
from charlm.storage.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from charlm.storage.hub import origin
from charlm.storage.provenance import find_corpus, keep_stdin
from charlm.storage.records import CorpusRecord, Result
from charlm.storage.runs import Run, Trained, find_checkpoint, remove_empty
from charlm.text.corpus import Corpus, load_corpus
from charlm.text.records import record_edges, seem_independent
from charlm.text.tokenizer import Tokenizer, Tokens, tokenize, train_tokenizer
from charlm.training.agreement import agree
from charlm.training.defaults import Facts, choose, choose_vocabulary
from charlm.training.events import Emit, Remark, Resumed, Started, Writing
from charlm.training.footprint import refuse_too_large
from charlm.training.request import TrainingRequest
from charlm.training.trainer import Stop, Task, Trainer
from charlm.training.trial import StepTrial, may_follow
from charlm.training.warmstart import adopt_weights, adopted_options

_LONG_LEARNING: Final = 50_000  # characters from which learning a vocabulary takes seconds,
_LONG_WORD: Final = 50  # and characters without a space with which it may take minutes
_TWO_THREADS: Final = 40_000  # batch x hidden^2 from which a second thread gains something


def start_run(run: Run, request: TrainingRequest, emit: Emit, stop: Stop) -> Trained:
    """Train a run that does not exist yet, or is to be replaced; its lock is held meanwhile."""
    _refuse_existing(run, request.force)
    given, donor = _options(run, request, emit)
    device = choose_device(str(given.get("device", "auto")))
    check_precision(device, str(given.get("precision", "auto")))
    threads = set_threads(int(given.get("threads", 0)))
    data = section(DataConfig, given)
    corpus = load_corpus(request.corpus, data.val, data.test, encoding=data.encoding, records=data.records)
    if data.records == "none" and (why := seem_independent(corpus.train)):
        emit(Remark(text=f"{why}: if they are independent, --records line reads each by itself"))
    given = choose_vocabulary(given, corpus.train)
    tokenizer = _tokenizer(given, donor, corpus.train, emit)
    train = tokenize(tokenizer, corpus.train)
    facts = Facts(
        len(corpus.train),
        len(train.ids),
        tokenizer.size,
        device.type,
        training_speed(device),
        records=len(record_edges(train.ids, tokenizer, data.records)) - 1,
    )
    config, reasons = choose(given, facts)
    refuse_too_large(config, tokenizer.size, on_gpu=device.type == "cuda")
    network = _new_network(config, tokenizer, donor, emit).to_device(device)
    if not config.train.threads and config.train.batch * config.model.hidden**2 < _TWO_THREADS:
        threads = set_threads(1)
    runtime = choose_runtime(device, config.train.precision, threads, StepTrial(config, network))
    runtime = _following(config, network, runtime)
    emit(Writing())
    with run.locked():
        try:
            _refuse_existing(run, request.force)
            run.clear()
            corpus = keep_stdin(corpus, run, data.encoding)
            task = Task(config, tokenizer, train, corpus.val, CorpusRecord.of(corpus), corpus.test)
            _announce(run, task, corpus, network, runtime, emit, reasons, request.departures)
            trainer = Trainer(task, network, runtime, run, emit=emit, stop=stop)
            trainer.journal.init_from = donor.state_sha256 if donor else ""
            return _trained(run, trainer)
        finally:
            remove_empty(run)  # while it is held: the lock of another trainer is not ours to remove


def resume_run(run: Run, request: TrainingRequest, emit: Emit, stop: Stop) -> Trained:
    """Go on where the run stopped; its lock is held meanwhile. A finished run is handed back as it ended."""
    with run.locked():
        checkpoint, path = _restored(run, emit)
        agree(checkpoint, request, run)
        if checkpoint.result is not None:
            if request.corpus:  # given again, it has to agree like any option
                _corpus_of(checkpoint, request, run)
            emit(Remark(text=f"{run.folder} has finished: there is nothing left to do"))
            return _finished(run, checkpoint, checkpoint.result)
        emit(Writing())
        trainer, differences = _resumed_trainer(run, request, checkpoint, emit, stop)
        if path != run.last:  # or the next save would put what cannot be used in place of `previous`
            save_checkpoint(run.last, checkpoint)
        emit(Resumed(step=trainer.state.step, path=path, exact=not differences))
        return _trained(run, trainer, save_first=bool(differences))


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


def _options(run: Run, request: TrainingRequest, emit: Emit) -> tuple[dict[str, Value], Checkpoint | None]:
    """What was given, by a preset too, and with --init-from the donor, whose architecture is given as well."""
    given = request.given
    if not request.init_from:
        return given, None
    path = find_checkpoint(request.init_from, str(run.folder.parent))
    donor = load_checkpoint(path)
    emit(Remark(text=f"starting from the weights of {origin(path) or path}"))
    return adopted_options(donor, given), donor


def _tokenizer(given: Mapping[str, Value], donor: Checkpoint | None, text: str, emit: Emit) -> Tokenizer:
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


def _new_network(config: Config, tokenizer: Tokenizer, donor: Checkpoint | None, emit: Emit) -> Network:
    """A network with its first weights, or a donor's."""
    network = Network(config.model, tokenizer.size)
    initialise(network, config.train.seed)
    if donor is not None:
        known = adopt_weights(network, tokenizer, donor)
        emit(Remark(text=f"the --init-from model knows {known} of the {tokenizer.size} tokens of this text"))
    return network


def _restored(run: Run, emit: Emit) -> tuple[Checkpoint, Path]:
    """The newest whole training state, and its file."""
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
    run: Run, request: TrainingRequest, checkpoint: Checkpoint, emit: Emit, stop: Stop
) -> tuple[Trainer, list[str]]:
    """A trainer where the checkpoint left it, and what is not as it was then and costs exactness."""
    config, tokenizer = checkpoint.config, checkpoint.open_tokenizer()
    corpus = _corpus_of(checkpoint, request, run)
    train = _known_tokens(tokenizer, corpus.train)
    corpus = keep_stdin(corpus, run, config.data.encoding)
    network, runtime = _same_runtime(checkpoint, request, tokenizer.size)
    same = corpus.fingerprint == checkpoint.corpus.fingerprint
    record = checkpoint.corpus if same else CorpusRecord.of(corpus)
    task = Task(config, tokenizer, train, corpus.val, record, corpus.test)
    _announce(run, task, corpus, network, runtime, emit, {}, request.departures)
    trainer = Trainer(task, network, runtime, run, emit=emit, stop=stop)
    trainer.restore(checkpoint, same_text=same)
    differences = list(_differences(checkpoint, runtime, same_text=same))
    for difference in differences:
        emit(Remark(text=f"{difference}: the run continues, but is not bit-exact"))
        trainer.journal.inexact.append(f"{difference} at step {trainer.state.step}")
    return trainer, differences


def _known_tokens(tokenizer: Tokenizer, text: str) -> Tokens:
    """The tokens of a text that may have changed; raises DataError where it has characters that are new."""
    tokens = tokenize(tokenizer, text)
    if tokens.unknown_characters:
        raise DataError(
            f"the text now has {tokens.unknown_characters} characters that the run's vocabulary lacks",
            kept="nothing was changed",
            hint="train on from its weights with --init-from",
        )
    return tokens


def _corpus_of(checkpoint: Checkpoint, request: TrainingRequest, run: Run) -> Corpus:
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
    )


def _same_runtime(checkpoint: Checkpoint, request: TrainingRequest, vocabulary: int) -> tuple[Network, Runtime]:
    """An empty network where the run computed before, unless told otherwise, and with what.

    A precision that this machine lacks becomes fp32.
    """
    before, config = checkpoint.environment, checkpoint.config
    device = choose_device(str(request.given.get("device", before.device)))
    threads = set_threads(int(request.given.get("threads", 0)), at_most=before.threads)
    refuse_too_large(config, vocabulary, on_gpu=device.type == "cuda")
    network = Network(config.model, vocabulary).to_device(device)
    precision, lacking = before.precision, before.precision in CUDA_ONLY and device.type != "cuda"
    if lacking or not StepTrial(config, network).works(precision):
        precision = "fp32"
    runtime = replace(choose_runtime(device, precision, threads), reason=before.reason)
    return network, runtime if request.given.get("threads") else _following(config, network, runtime)


def _following(config: Config, network: Network, runtime: Runtime) -> Runtime:
    """The same runtime, whose threads may follow what is fastest unless their number was given."""
    free = runtime.device.type == "cpu" and runtime.threads > 1 and not config.train.threads
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
    corpus: Corpus,
    network: Network,
    runtime: Runtime,
    emit: Emit,
    reasons: Mapping[str, str],
    departures: tuple[str, ...],
) -> None:
    for remark in corpus.remarks:
        emit(Remark(text=remark))
    fixed = runtime.device.type == "cpu" and runtime.threads > 1 and not runtime.follows
    if fixed and is_crowded():
        emit(Remark(text="other programs are using the CPU, so threads may wait for each other: try --threads 1"))
    parameters = sum(weight.numel() for weight in network.parameters())
    threads = f"{'up to ' * runtime.follows}{runtime.threads} thread{'s' * (runtime.threads != 1)}"
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
