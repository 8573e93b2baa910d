"""Rows of figures that a benchmark keeps in a JSON file, so that its table can be filled row by row."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol, TypeVar


class Record(Protocol):
    """A NamedTuple."""

    def _asdict(self) -> dict[str, Any]: ...


Kept = TypeVar("Kept", bound=Record)


def read_rows(path: Path, kind: type[Kept]) -> list[Kept]:
    """What is there; nothing where there is no file yet."""
    return [kind(**row) for row in json.loads(path.read_text())] if path.exists() else []


def write_rows(path: Path, rows: Iterable[Record]) -> None:
    """Keep these rows, in this order, in the place of what was there."""
    path.write_text(json.dumps([row._asdict() for row in rows], indent=1) + "\n")
