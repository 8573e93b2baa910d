"""Tables for the pages that benchmarks write."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Lines of Markdown.

    >>> print(*table(["text", "bits"], [["alice", "1.87"]]), sep="\\n")
    | text | bits |
    | --- | --- |
    | alice | 1.87 |
    """
    for row in (head, ["---"] * len(head), *rows):
        yield f"| {' | '.join(row)} |"
