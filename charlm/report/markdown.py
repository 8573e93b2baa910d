"""Foreign text in Markdown and YAML, so that it is shown and can do nothing else."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from charlm.report.words import one_line


def code(text: str) -> str:
    """A text as a code span, in which nothing is a link, a tag or emphasis.

    >>> print(code("a|b"), code("x`y"), code(""))
    `a|b` ``x`y`` (empty)
    """
    shown = one_line(text)
    if not shown:
        return "(empty)"
    ticks = "`" * (1 + max((len(run) for run in re.findall("`+", shown)), default=0))
    space = " " if shown[0] in " `" or shown[-1] in " `" else ""  # one on each side belongs to the span
    return f"{ticks}{space}{shown}{space}{ticks}"


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown; cells are Markdown already, in which a | is escaped."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def yaml(value: Mapping[str, object]) -> str:
    """Nested tables and lists of texts and numbers as YAML; texts are quoted, and shown on one line.

    >>> print(yaml({"tags": ["a", "b: c"], "results": [{"task": {"n": 1}, "x": 0.5}]}))
    tags:
    - "a"
    - "b: c"
    results:
    - task:
        n: 1
      x: 0.500000
    """
    return "\n".join(_yaml(value))


def _yaml(value: object) -> Iterator[str]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            if isinstance(inner, (Mapping, list)):
                yield f"{name}:"
                yield from (f"{'  ' * isinstance(inner, Mapping)}{line}" for line in _yaml(inner))
            else:
                yield f"{name}: {_scalar(inner)}"
    elif isinstance(value, list):
        for item in value:
            for number, line in enumerate(_yaml(item)):
                yield f"{' ' if number else '-'} {line}"
    else:
        yield _scalar(value)


def _scalar(value: object) -> str:
    return f"{value:.6f}" if isinstance(value, float) else json.dumps(_plain(value), ensure_ascii=False)


def _plain(value: object) -> object:
    return one_line(value) if isinstance(value, str) else value
