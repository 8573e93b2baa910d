"""What the shell offers for a value: the choices of an option, names of runs, corpora and presets, commands.

Nothing here may import torch: each press of the Tab key starts a process. Where nothing matches, shells offer files.
"""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from pathlib import Path

import typer

from charlm.config import DEFAULT_FOLDER
from charlm.options import Option


def choices(spec: Option) -> Callable[[], list[str]] | None:
    """A completion of this option's values, or None where they cannot be listed.

    >>> choices(Option(str, "", form="device"))()
    ['auto', 'cpu', 'cuda', 'mps']
    """
    words = spec.choices or tuple(word for word in spec.metavar.split("|") if word.isalpha() and word.islower())
    return (lambda: list(words)) if words else None


def runs(ctx: typer.Context) -> list[str]:
    """Names of the runs in the folder of --checkpoints."""
    folder = Path(ctx.params.get("checkpoints") or DEFAULT_FOLDER)
    if not folder.is_dir():
        return []
    return sorted(path.name for path in folder.iterdir() if any(path.glob("*.safetensors")))


def join_assignments(environ: MutableMapping[str, str]) -> None:
    """Turn `--cell = l`, into which bash splits `--cell=l`, into the `--cell l` that typer completes.

    >>> asked = {"COMP_WORDS": "charlm\\ntrain\\n--cell\\n=\\nl", "COMP_CWORD": "4"}
    >>> join_assignments(asked); asked
    {'COMP_WORDS': 'charlm\\ntrain\\n--cell\\nl', 'COMP_CWORD': '3'}
    """
    words, at = environ.get("COMP_WORDS", "").split("\n"), environ.get("COMP_CWORD", "")
    if not at.isdigit():
        return
    signs = [n for n in range(1, min(int(at), len(words))) if words[n] == "=" and words[n - 1].startswith("--")]
    kept = [word for n, word in enumerate(words) if n not in signs]
    kept, place = _joined_hub_names(kept, int(at) - len(signs))
    environ["COMP_WORDS"] = "\n".join(kept)
    environ["COMP_CWORD"] = str(place)


def _joined_hub_names(words: list[str], at: int) -> tuple[list[str], int]:
    """Join hf:OWNER/NAME@REVISION, which bash parts at : and @: its parts are no beginnings of run names.

    >>> _joined_hub_names(["charlm", "sample", "hf", ":", "ada/no"], 4)
    (['charlm', 'sample', 'hf:ada/no'], 2)
    """
    joined: list[str] = []
    for n, word in enumerate(words):
        last = joined[-1] if joined else ""
        in_name = last.startswith("hf:") and (last.endswith((":", "@")) or word == "@")
        if n <= at and ((last, word) == ("hf", ":") or in_name):
            joined[-1] += word
        else:
            joined.append(word)
    return joined, at - (len(words) - len(joined))


def corpora() -> list[str]:
    """Names of known corpora."""
    from charlm.text.known import KNOWN

    return list(KNOWN)


def presets() -> list[str]:
    """Names of presets."""
    from charlm.training.defaults import PRESETS

    return list(PRESETS)
