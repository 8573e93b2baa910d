"""The command for the run after this one: that of this run, with a few options changed."""

from __future__ import annotations

from collections.abc import Mapping

from charlm.config import merge
from charlm.errors import CharlmError, quoted
from charlm.options import Value
from charlm.storage.checkpoint import load_checkpoint
from charlm.storage.runs import Trained
from charlm.text.corpus import STDIN
from charlm.training.again import FILES, own_options, train_again
from charlm.training.request import TrainingRequest


def sampling_command(trained: Trained) -> str:
    """Samples from the run's model, at the temperature that was found to suit it."""
    command = f"charlm sample {quoted(trained.run.folder)}"
    temperature = trained.result.temperature
    return f"{command} --temperature {temperature:g}" if temperature else command


def training_command(trained: Trained, request: TrainingRequest, changes: Mapping[str, Value]) -> str | None:
    """Trains again, under a new name, on the same text with these changes to the options that were given.

    None where nothing is to change, or where the text cannot be named: many files of a run that was resumed.
    """
    corpus = _corpus(trained, request)
    if not changes or not corpus:
        return None
    return train_again(
        trained.run,
        corpus,
        merge(_given(trained, request), changes),
        preset=request.preset,
        init_from=str(request.init_from or ""),
    )


def _given(trained: Trained, request: TrainingRequest) -> dict[str, object]:
    """The options that made this run what it is: those of the request, or of a resumed run all that it has."""
    if not request.resume:
        return dict(request.options)
    return own_options(trained.config)


def _corpus(trained: Trained, request: TrainingRequest) -> tuple[str, ...]:
    """Where the text is; nowhere where that would be many files."""
    if STDIN in request.corpus:
        return (str(trained.run.corpus),) if len(request.corpus) == 1 else ()
    if request.corpus:
        return request.corpus
    try:
        sources = load_checkpoint(trained.checkpoint).corpus.training_sources
    except CharlmError:
        return ()
    return tuple(source.path for source in sources) if len(sources) <= FILES else ()
