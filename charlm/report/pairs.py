"""What people see of `charlm pairs`: how often the better text is the likelier one; and a table of all pairs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from charlm.evaluation.pairs import Accuracy, Frame, JudgedPair, PairScores
from charlm.report.console import Console, paragraphs, table

_COLUMNS = ("line", "group", "better", "worse", "better_bits", "worse_bits", "better_characters", "worse_characters")


def pairs_report(out: Console, scores: PairScores, name: str) -> None:
    """The accuracy over all pairs and in each group, and what it means in a sentence."""
    rows = [_row(name, scores.total), *(_row(group or "(none)", found) for group, found in scores.by_group.items())]
    table(out, ["", "pairs", "correct", "accuracy", "95 % interval"], rows)
    paragraphs(out, [describe_accuracy(scores.total)])


def _row(name: str, found: Accuracy) -> tuple[str, ...]:
    low, high = found.interval
    return (
        name,
        f"{found.pairs:,}",
        f"{found.correct:,.10g}",
        f"{100 * found.accuracy:.1f} %",
        f"{100 * low:.1f} to {100 * high:.1f} %",
    )


def describe_accuracy(found: Accuracy) -> str:
    """
    >>> describe_accuracy(Accuracy(pairs=50, correct=40.0, ties=0))
    'The better text is the likelier one in 40 of 50 pairs: more often than by guessing, which gives 50 %.'
    """
    low, high = found.interval
    more = "more often than" if low > 0.5 else "less often than" if high < 0.5 else "not significantly different from"
    won = found.correct - found.ties / 2
    tied = f", and as likely as the other in {found.ties:,}" if found.ties else ""
    guessing = "guessing" if low <= 0.5 <= high else "by guessing"
    return (
        f"The better text is the likelier one in {won:,.0f} of {found.pairs:,} pairs{tied}: {more} {guessing}, which "
        "gives 50 %."
    )


def describe_frame(frame: Frame) -> str:
    """How each text was read, in words.

    >>> describe_frame(Frame("\\n", "\\n")), describe_frame(Frame("", "")), describe_frame(Frame("", " "))
    ('by itself, after a line end; its end, a line end, is charged', 'by itself; no end is charged', \
'by itself; its end, a blank, is charged')
    """
    before = ", after a line end" if frame.before else ""
    charged = f"its end, {_named(frame.end)}, is charged" if frame.end else "no end is charged"
    return f"by itself{before}; {charged}"


def _named(end: str) -> str:
    return {"\n": "a line end", " ": "a blank", "\x03": "the end of a record"}.get(end, repr(end))


def pairs_tsv(judged: Sequence[JudgedPair], lines: Sequence[int]) -> str:
    """A row a pair: its line, group and texts, the bits and characters of both, and whether it is judged correctly.

    Characters are those that are charged. In texts, a backslash, a tab and a line end are written as in Python.
    """
    rows = [[*_COLUMNS, "correct"], *(_cells(one, line) for one, line in zip(judged, lines, strict=True))]
    return "".join("\t".join(row) + "\n" for row in rows)


def _cells(one: JudgedPair, line: int) -> Iterator[str]:
    yield from (str(line), _written(one.pair.group), _written(one.pair.better), _written(one.pair.worse))
    yield from (f"{text.bits:.9g}" for text in (one.better, one.worse))
    yield from (str(text.characters) for text in (one.better, one.worse))
    yield f"{one.correct:g}"


def _written(text: str) -> str:
    """
    >>> _written("a\\tb\\\\")
    'a\\\\tb\\\\\\\\'
    """
    for character, sign in (("\\", "\\\\"), ("\t", "\\t"), ("\n", "\\n"), ("\r", "\\r")):
        text = text.replace(character, sign)
    return text
