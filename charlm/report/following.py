"""The command for the run after this one: that of this run, with a few options changed."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Final

from charlm.config import AUTOMATIC, DEFAULT_FOLDER, DROPOUTS, LENGTHS, Config, applies, merge
from charlm.errors import CharlmError
from charlm.options import Value, flag
from charlm.storage.checkpoint import load_checkpoint
from charlm.storage.runs import Run, Trained, open_run
from charlm.text.corpus import STDIN
from charlm.training.request import TrainingRequest

_FILES: Final = 5  # that a command may name


def sampling_command(run: Run) -> str:
    """Samples from the run's model."""
    return shlex.join(["charlm", "sample", _argument(str(run.folder))])


def training_command(trained: Trained, request: TrainingRequest, changes: Mapping[str, Value]) -> str | None:
    """Trains again, under a new name, on the same text with these changes to the options that were given.

    None where nothing is to change, or where the text cannot be named: many files of a run that was resumed.
    """
    corpus = _corpus(trained, request)
    if not changes or not corpus:
        return None
    folder = str(trained.run.folder.parent)
    words = ["charlm", "train", *map(_argument, corpus), *_new_name(trained.run)]
    words += ["--checkpoints", _argument(folder)] * (folder != DEFAULT_FOLDER)
    words += ["--preset", str(request.preset)] * bool(request.preset)
    words += ["--init-from", _argument(str(request.init_from))] * bool(request.init_from)
    return shlex.join([*words, *_options(merge(_given(trained, request), changes))])


def _given(trained: Trained, request: TrainingRequest) -> dict[str, object]:
    """The options that made this run what it is: those of the request, or of a resumed run all that it has."""
    if not request.resume:
        return dict(request.options)
    flat, usual = trained.config.flat(), Config().flat()
    known = {name: value for name, value in flat.items() if value != usual[name] or name in AUTOMATIC}
    unset = [name for name in (*LENGTHS, "threads", "vocab_size") if not flat[name]]
    return {name: value for name, value in known.items() if name not in unset and applies(name, flat)}


def _options(values: Mapping[str, object]) -> Iterator[str]:
    """Options as a command line has them, the three places of dropout as one where they are equal."""
    dropouts = {values.get(name) for name in DROPOUTS}
    together = len(dropouts) == 1 and None not in dropouts
    for name, value in {**values, **({"dropout": dropouts.pop()} if together else {})}.items():
        if not (together and name in DROPOUTS):
            text = f"{value:.12g}" if isinstance(value, float) else str(value)
            yield from (flag(name), text) if not text.startswith("-") else (f"{flag(name)}={text}",)


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
    return tuple(source.path for source in sources) if len(sources) <= _FILES else ()


def _new_name(run: Run) -> list[str]:
    """A name that no run has: novel, novel-2, novel-3."""
    base = re.sub(r"-[2-9]$", "", run.folder.name)
    names = (f"{base}-{number}" for number in count(2))
    try:
        return ["--name", next(name for name in names if not open_run(name, str(run.folder.parent)).exists)]
    except CharlmError:  # longer than a name may be
        return ["--name", run.folder.name, "--force"]


def _argument(path: str) -> str:
    """A path that cannot be taken for an option."""
    return str(Path(".") / path) if not path.startswith("-") else f"./{path}"
