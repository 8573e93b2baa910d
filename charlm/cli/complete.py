"""What the shell offers for a value: the choices of an option, names of runs, corpora and presets, commands.

Nothing here may import torch: each press of the Tab key starts a process. Where nothing fits, shells offer file names.
"""

from __future__ import annotations

from collections.abc import Callable
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
    """Names of the runs in the folder that the command line names so far."""
    folder = Path(ctx.params.get("checkpoints") or DEFAULT_FOLDER)
    if not folder.is_dir():
        return []
    return sorted(path.name for path in folder.iterdir() if any(path.glob("*.safetensors")))


def corpora() -> list[str]:
    """Names of known corpora."""
    from charlm.text.known import KNOWN

    return list(KNOWN)


def presets() -> list[str]:
    """Names of presets."""
    from charlm.training.defaults import PRESETS

    return list(PRESETS)
