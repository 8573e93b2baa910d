"""charlm as a Python library: train, load, sample, score. The command line is a thin layer over this module,
and `charlm.language_model` is what it loads.

>>> import charlm, pathlib, tempfile
>>> folder = pathlib.Path(tempfile.mkdtemp())
>>> corpus = folder / "clock.txt"
>>> _ = corpus.write_text("tick, tock, " * 300)
>>> trained = charlm.train(corpus, checkpoints=folder, steps=150, hidden=32, seed=1)
>>> trained.result.val_loss < 0.1  # nats per character
True
>>> model = charlm.load(trained.checkpoint)
>>> model.sample(prime="tick, ", length=16, temperature=0)
'tock, tick, tock'
>>> model.score("tick, tock, tick").perplexity < model.score("tick, tick, tick").perplexity
True
>>> words = model.words("tick, tock, tick, tick", blank="before")
>>> least = words.bits[1:].argmax() + 1  # the least expected after the first, for which there is no context
>>> words.word[least], int(words.number[least])
('tick', 4)
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from charlm.config import (
    DEFAULT_FOLDER,
    EVAL_OPTIONS,
    TRAIN_DEFAULTS,
    TRAIN_OPTIONS,
    EvalConfig,
    check_eval,
    check_train,
)
from charlm.errors import ConfigError
from charlm.keywords import EvalOptions, TrainOptions, documented
from charlm.language_model import LanguageModel as LanguageModel  # noqa: PLC0414 - part of the API
from charlm.report.tensorboard import logged
from charlm.report.watch import watched
from charlm.storage import hub
from charlm.storage.checkpoint import load_checkpoint
from charlm.storage.hub import Pushed as Pushed  # noqa: PLC0414 - part of the API
from charlm.storage.runs import Run, find_checkpoint
from charlm.storage.runs import Trained as Trained  # noqa: PLC0414 - part of the API
from charlm.text.corpus import STDIN
from charlm.training.request import TrainingRequest as TrainingRequest  # noqa: PLC0414 - part of the API

if TYPE_CHECKING:
    from charlm.training.events import Emit, Event

PathLike = str | os.PathLike[str]
Stop = Callable[[], str | None]


def _never() -> None:
    """For `stop`: train to the end."""


@documented(TrainOptions, TRAIN_OPTIONS, TRAIN_DEFAULTS)
def train(
    *corpus: PathLike,
    name: str | None = None,
    checkpoints: PathLike = DEFAULT_FOLDER,
    preset: str | None = None,
    resume: bool = False,
    init_from: PathLike | None = None,
    force: bool = False,
    allow_data_change: bool = False,
    progress: bool | None = None,
    on_event: Callable[[Event], None] | None = None,
    stop: Callable[[], str | None] | None = None,
    **options: Unpack[TrainOptions],
) -> Trained:
    """Train a model on text, and write it to `checkpoints/NAME`.

    Options that you leave out are chosen by the length of the text and the
    speed of the machine. Without `epochs`, `steps` or `time` training takes
    at most ten minutes.

        trained = charlm.train("corpus.txt", time="3m", seed=1)
        print(trained.result.val_loss)  # nats per character
        model = charlm.load(trained.checkpoint)

    After an interruption (Ctrl-C, a crash, `stop`), a run continues from its
    last checkpoint with `resume=True` and ends as it would have without the
    interruption.

    Afterwards, torch's number of threads, its settings and random state, and
    the environment are restored. The command line also lets the C library
    keep freed memory, which cannot be undone; a script that wants that speed
    calls `charlm.runtime.processor.own_process()`.

    In a script that torchrun has started several times, all of its processes
    train the one run together: each calls `train` with the same arguments.

    Raises ConfigError (an option), DataError (the text), CheckpointError,
    DivergedError or StorageError (a file), all of them CharlmError. A run
    that exists is left as it is unless `resume` or `force` is given.

    Parameters:
        corpus            files and folders of text, or "-" for standard input
        name              name of the run (default: that of the first corpus)
        checkpoints       folder of all runs
        preset            a named set of options: josef-k, or josef-k-2017 with
                          the demo's own optimizer
        resume            continue a run exactly where it stopped; its options
                          may be left out
        init_from         a checkpoint, run or hf:OWNER/NAME whose weights to
                          start from
        force             replace an existing run of the same name
        allow_data_change resume even if the text has changed
        progress          show progress on standard error
                          (default: in a terminal or a notebook)
        on_event          called with each event of `charlm.training.events`
        stop              called before each step and during the closing score;
                          returns None to go on, or the reason to save and end
                          training there
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
    with watched(progress, on_event) as emit:
        return run(request, on_event=emit, stop=stop or _never)


def run(request: TrainingRequest, *, on_event: Emit, stop: Stop = _never) -> Trained:
    """`train`, for a request whose options have been checked; shows nothing.

    Processes that torchrun has started train one run together; if it has started them again, they resume it.
    """
    from charlm.runtime.group import joined
    from charlm.runtime.settings import computing
    from charlm.training.session import resume_run, start_run

    with computing(), joined() as group:
        run = Run(Path(group.first(lambda: str(request.run.folder))))
        if group.size > 1 and STDIN in request.corpus:
            raise ConfigError(
                f"standard input cannot be read by {group.size} processes",
                kept="nothing was changed",
                hint="save the text in a file",
            )
        goes_on = request.resume or group.noted(str(run.folder))
        with logged(request.log if group.is_first else "none", run, on_event) as emit:
            if goes_on and group.first(lambda: run.saved):
                return resume_run(run, replace(request, resume=True, force=False), emit, stop, group)
            if not request.corpus:
                raise ConfigError("no corpus was given", kept="nothing was changed", hint="charlm train FILE")
            return start_run(run, request, emit, stop, group)


@documented(EvalOptions, EVAL_OPTIONS, asdict(EvalConfig()))
def load(
    checkpoint: PathLike | None = None,
    *,
    checkpoints: PathLike = DEFAULT_FOLDER,
    **options: Unpack[EvalOptions],
) -> LanguageModel:
    """A trained model, to sample from and to score text with.

        model = charlm.load("corpus")
        print(model.sample(length=200, temperature=0.8))

    The options set the device and the precision for scoring.

    Raises CheckpointError when there is no such checkpoint or it is damaged,
    ConfigError for an option, StorageError when the Hub cannot be reached.

    Parameters:
        checkpoint        a file, the folder of a run, its name, or a model on
                          the Hugging Face Hub: hf:OWNER/NAME, perhaps with
                          @REVISION (default: the newest run)
        checkpoints       folder of all runs
    """
    return open_model(checkpoint, check_eval(options), checkpoints=checkpoints)


def open_model(
    checkpoint: PathLike | None = None,
    config: EvalConfig = EvalConfig(),  # noqa: B008 - frozen
    *,
    checkpoints: PathLike = DEFAULT_FOLDER,
) -> LanguageModel:
    """`load`, for options that have been checked."""
    path = find_checkpoint(_named(checkpoint), os.fspath(checkpoints))
    return LanguageModel(path, load_checkpoint(path), config)


def push(
    checkpoint: PathLike | None,
    repository: str,
    *,
    checkpoints: PathLike = DEFAULT_FOLDER,
    private: bool = False,
    branch: str = "",
    message: str = "",
    force: bool = False,
) -> Pushed:
    """Upload a model to the Hugging Face Hub, with a card that describes it.

        charlm.push("novel", "ada/novel")
        model = charlm.load("hf:ada/novel")

    What is uploaded is `model.safetensors`, the model alone, in which paths
    are shortened to file names, and `README.md`. Your token is that of the
    library huggingface_hub: `hf auth login`, or HF_TOKEN.

    Raises ConfigError where the repository may not be written to, or holds
    something else, CheckpointError, and StorageError where the network fails.

    Parameters:
        checkpoint        a file, the folder of a run or its name
                          (None: the newest run)
        repository        OWNER/NAME; it is created if there is none
        checkpoints       folder of all runs
        private           create a private repository
        branch            branch to push to, created if there is none
                          (default: main)
        message           commit message
        force             push to a repository that holds something else
    """
    from charlm.report.card import repository_card

    model = load_checkpoint(find_checkpoint(_named(checkpoint), os.fspath(checkpoints)))
    return hub.push(
        model,
        repository,
        card=partial(repository_card, repository=repository),
        private=private,
        branch=branch,
        message=message,
        force=force,
    )


def _named(checkpoint: PathLike | None) -> str | None:
    return None if checkpoint is None else os.fspath(checkpoint)


def doctor() -> dict[str, object]:
    """Versions, devices and precision here; and whether a resumed run ends in the same state, tested in a second."""
    from charlm.doctor import examine
    from charlm.runtime.settings import computing

    with computing():
        return examine(lambda folder, **given: train(folder / "text.txt", checkpoints=folder, progress=False, **given))
