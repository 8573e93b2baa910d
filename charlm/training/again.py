"""Commands that can be pasted into a shell: they go on with a run, repeat it, or train another like it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Final

from charlm.config import AUTOMATIC, DEFAULT_FOLDER, DROPOUTS, HELD, LENGTHS, Config, applies
from charlm.errors import CharlmError, quoted
from charlm.models.architecture import architecture_of
from charlm.options import flag
from charlm.storage.checkpoint import Checkpoint
from charlm.storage.records import CorpusRecord
from charlm.storage.runs import Run, open_run

FILES: Final = 5  # of a text that a command may name


def go_on(run: Run, log: str = "none") -> str:
    """`charlm train` that resumes this run; what it logs beside its metrics is no option of the run."""
    words = ["charlm", "train", "--resume", "--name", quoted(run.folder.name), *_folder(run)]
    return " ".join([*words, *(["--log", log] if log != "none" else [])])


def train_like(run: Run, config: Config, corpus: CorpusRecord) -> str | None:
    """`charlm train` with the options and the text of this run; None where its text is in more than five files."""
    sources = corpus.training_sources
    if not 0 < len(sources) <= FILES:
        return None
    options = {**own_options(config), **held_out(config, corpus)}
    return train_again(run, [source.path for source in sources], options)


def own_options(config: Config) -> dict[str, object]:
    """The options that make a run what it is: those that are not the usual ones."""
    flat, usual = config.flat(), Config().flat()
    chosen = AUTOMATIC.union(architecture_of(config.model).defaults)
    known = {name: value for name, value in flat.items() if value != usual[name] or name in chosen}
    unset = [name for name in (*LENGTHS, "threads", "vocab_size") if not flat[name]]
    return {name: value for name, value in known.items() if name not in unset and applies(name, flat)}


def held_out(config: Config, corpus: CorpusRecord) -> dict[str, object]:
    """The run's own --val and --test, if not the usual ones; files by the path from which they were read."""
    found, usual = dict[str, object](), Config().flat()
    named = [source.path for source in corpus.sources if source.held_out]
    for name in HELD:
        if (value := str(config.flat()[name])) != usual[name]:
            files = [path for path in named if Path(path).name == Path(value).name]
            found[name] = files[-1] if files else value
    return found


def train_again(
    run: Run, corpus: Sequence[str], options: Mapping[str, object], *, preset: str | None = None, init_from: str = ""
) -> str:
    """`charlm train` on these files with these options, under a name that no run beside this one has."""
    words = ["charlm", "train", *map(quoted, corpus), *_new_name(run), *_folder(run)]
    words += ["--preset", str(preset)] * bool(preset)
    words += ["--init-from", quoted(init_from)] * bool(init_from)
    return " ".join([*words, *_options(options)])


def repeat_run(
    checkpoint: Checkpoint, name: str, corpus: Sequence[str], held: Mapping[str, str], init_from: str = ""
) -> str:
    """`charlm train` as it made this checkpoint: every option that it had, and where it computed.

    `corpus` are the files, and `held` those that `--val` and `--test` name instead of a share. The run is repeated
    exactly by the same versions of PyTorch and charlm on the same kind of machine, unless it had a time budget.
    """
    environment, flat = checkpoint.environment, checkpoint.config.flat()
    flat |= {"device": environment.device, "threads": environment.threads, "precision": environment.precision, **held}
    options = {
        name: value
        for name, value in flat.items()
        if applies(name, flat) and (value or name not in (*LENGTHS, "vocab_size"))
    }
    words = ["charlm", "train", *map(quoted, corpus), "--name", quoted(name)]
    words += ["--init-from", quoted(init_from)] * bool(init_from)
    return " ".join([*words, *_options(options)])


def _folder(run: Run) -> list[str]:
    """The folder of a run's folder, where it is not the usual one."""
    folder = str(run.folder.parent)
    return ["--checkpoints", quoted(folder)] if folder != DEFAULT_FOLDER else []


def _new_name(run: Run) -> list[str]:
    """A name that no run has: novel, novel-2, novel-3."""
    base = re.sub(r"-[2-9]$", "", run.folder.name)
    names = (f"{base}-{number}" for number in count(2))
    try:
        return ["--name", quoted(next(name for name in names if not open_run(name, str(run.folder.parent)).exists))]
    except CharlmError:  # longer than a name may be
        return ["--name", shlex.quote(run.folder.name), "--force"]


def _options(values: Mapping[str, object]) -> Iterator[str]:
    """Options as a command line has them, the three places of dropout as one where they are equal."""
    dropouts = {values.get(name) for name in DROPOUTS}
    together = len(dropouts) == 1 and None not in dropouts
    for name, value in {**values, **({"dropout": dropouts.pop()} if together else {})}.items():
        if isinstance(value, bool):
            yield flag(name if value else f"no_{name}")
        elif not (together and name in DROPOUTS):
            text = _shortest(value) if isinstance(value, float) else str(value)
            yield f"{flag(name)} {quoted(text)}" if not text.startswith("-") else f"{flag(name)}={shlex.quote(text)}"


def _shortest(value: float) -> str:
    """A number that is read as exactly this one.

    >>> _shortest(1.0), _shortest(0.1 + 0.2)
    ('1', '0.30000000000000004')
    """
    short = f"{value:.12g}"
    return short if float(short) == value else repr(value)
