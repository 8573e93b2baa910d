"""A command that trains another run like one that there is, which can be pasted into a shell."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from itertools import count

from charlm.config import DEFAULT_FOLDER, DROPOUTS
from charlm.errors import CharlmError, quoted
from charlm.options import flag
from charlm.storage.runs import Run, open_run


def train_again(
    run: Run, corpus: Sequence[str], options: Mapping[str, object], *, preset: str | None = None, init_from: str = ""
) -> str:
    """`charlm train` on these files with these options, under a name that no run beside this one has."""
    folder = str(run.folder.parent)
    words = ["charlm", "train", *map(quoted, corpus), *_new_name(run)]
    words += ["--checkpoints", quoted(folder)] * (folder != DEFAULT_FOLDER)
    words += ["--preset", str(preset)] * bool(preset)
    words += ["--init-from", quoted(init_from)] * bool(init_from)
    return " ".join([*words, *_options(options)])


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
        if not (together and name in DROPOUTS):
            text = f"{value:.12g}" if isinstance(value, float) else str(value)
            yield f"{flag(name)} {quoted(text)}" if not text.startswith("-") else f"{flag(name)}={shlex.quote(text)}"
