"""What people see of `charlm novelty`: how much of a text occurs in the training text, and which passages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from charlm.report.console import Console, excerpt, facts, paragraphs
from charlm.text.overlap import Novelty

_SHOWN: Final = 10  # passages


def novelty_report(out: Console, novelty: Novelty, remarks: Sequence[str] = ()) -> None:
    """Lengths and shares, what they mean in a sentence, and the longest passages, each cut to a line.

    `remarks` say where less than a whole text was read.
    """
    longest = "none" if novelty.longest is None else _characters(novelty.longest.length)
    rows = [
        (f"in overlaps of {length} characters or more", f"{100 * share:.1f} %")
        for length, share in novelty.shares.items()
    ]
    facts(out, [("text", _characters(novelty.characters)), ("longest overlap", longest), *rows])
    paragraphs(out, [describe_novelty(novelty)])
    for overlap in novelty.passages[:_SHOWN]:
        place = f"from character {overlap.offset + 1:,}: {overlap.file}, line {overlap.line:,}"
        excerpt(out, f"{_characters(overlap.length)} {place}", overlap.passage)
    left = len(novelty.passages) - _SHOWN
    if left > 0:
        paragraphs(out, [f"and {left:,} more passage{'s' * (left != 1)}; --json lists all"])
    paragraphs(out, [f"Less than all: {remark}." for remark in remarks])


def _characters(count: int) -> str:
    return f"{count:,} character{'s' * (count != 1)}"


def describe_new(new: int, records: int) -> str:
    """The share of whole records that are not in the training text.

    >>> describe_new(74, 100), describe_new(0, 1)
    ('74 % of 100 records are not in the training text.', 'The record is in the training text.')
    """
    if not records:
        return "No record was written to its end: there was nothing to look for."
    if records == 1:
        return f"The record is{' not' * new} in the training text."
    return f"{100 * new / records:.0f} % of {records:,} records are not in the training text."


def describe_novelty(novelty: Novelty) -> str:
    """What the figures mean, in a sentence.

    >>> describe_novelty(Novelty(9, None, {20: 0.0, 50: 0.0, 100: 0.0}, ()))
    'No 20 characters in a row of this text occur in the training text.'
    """
    if not novelty.characters:
        return "The text is empty: there was nothing to look for."
    shortest, middle, long = novelty.shares
    if not novelty.passages:
        return f"No {shortest} characters in a row of this text occur in the training text."
    if novelty.shares[long]:
        percent = f"{100 * novelty.shares[long]:.1f} %"
        where = f"in passages of {long} characters or more"
        return f"{percent} of this text occurs word for word in the training text, {where}."
    if novelty.shares[middle]:
        return f"This text shares sentences with the training text, but no {long} characters in a row."
    return (
        f"This text shares turns of phrase with the training text, but no {middle} characters in a row; "
        "two parts of the same book overlap about as much."
    )
