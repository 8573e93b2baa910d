"""What people see of `charlm fill`: the most probable candidates, each between its contexts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from charlm.generation.fill import Filling
from charlm.report.console import Console, table
from charlm.report.tables import cut_end
from charlm.report.words import one_line

_SHOWN: Final = 24  # characters of either context


def fill_report(out: Console, fillings: Sequence[Filling], before: str, after: str) -> None:
    """A row for each candidate: its probability, its bits from either side, and the text with it."""
    both = any(one.backward is not None for one in fillings)
    columns = ["probability", "forward bits", *(["backward bits"] * both), "text"]
    table(out, columns, [_row(one, before, after) for one in fillings], left=len(columns) - 1, cut=cut_end)


def _row(one: Filling, before: str, after: str) -> list[str]:
    bits = [one.forward, *([] if one.backward is None else [one.backward])]
    figures = [f"{one.probability:.3f}", *(f"{side.total:.2f}" for side in bits)]
    return [*figures, one_line(shown(before, one.text, after))]


def shown(before: str, text: str, after: str) -> str:
    """A candidate in brackets, and what stands next to it.

    >>> shown("It was the ", "best", " of times")
    'It was the [best] of times'
    """
    left = "…" + before[-_SHOWN:] if len(before) > _SHOWN else before
    right = after[:_SHOWN] + "…" if len(after) > _SHOWN else after
    return f"{left}[{text}]{right}"
