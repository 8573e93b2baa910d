"""Minimal pairs: two texts that differ in one point, the first of which is the better one.

    The letters from the general are<TAB>The letters from the general is
    The letters from the general are<TAB>The letters from the general is<TAB>1 attractor

A file has a pair a line, the two texts parted by a tab, and perhaps a third column with the pair's group; there is no
header, and no quotes. Or it has a JSON object a line, as BLiMP's files do (Warstadt et al. 2020): `sentence_good`,
`sentence_bad`, and the group in the first of `GROUPS` that all have. Lines without a visible character are passed over.

The pairs of subject and verb in agreement.tsv are ours; their groups are the numbers of attractors, nouns of the other
number that stand between subject and verb (Linzen, Dupoux and Goldberg 2016).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Final, NamedTuple

from charlm.errors import DataError

AGREEMENT: Final = "agreement"  # the name of the pairs that come with charlm
GROUPS: Final = ("UID", "linguistics_term", "field")  # of BLiMP's objects, from the narrowest
_KEPT: Final = "nothing was scored"


class MinimalPair(NamedTuple):
    """Two texts; a model should find the first the likelier one."""

    better: str
    worse: str
    group: str = ""


@dataclass(frozen=True, slots=True)
class PairList:
    """The pairs of a file, and the line of each, from 1."""

    pairs: tuple[MinimalPair, ...]
    lines: tuple[int, ...]
    end: str | None = None  # what follows each text, if not what the model's texts end with


def agreement_pairs() -> PairList:
    """50 beginnings of sentences up to the verb, which is right or wrong in number; a blank ends the verb.

    >>> agreement_pairs().pairs[0]
    MinimalPair(better='The old general is', worse='The old general are', group='0 attractors')
    """
    found = resources.files("charlm.text").joinpath("agreement.tsv").read_text("utf-8")
    read = read_pairs(found, AGREEMENT)
    return PairList(read.pairs, read.lines, " ")


def read_pairs(text: str, name: str = "the text", group: str | None = None) -> PairList:
    """The pairs of a file's text; `group` is the field of JSON objects that names the group.

    Raises DataError, which names the line, for what is no pair: another number of columns, no such fields, an empty
    text, equal texts; and where there are no pairs.

    >>> read_pairs("it is\\tit are\\n").pairs
    (MinimalPair(better='it is', worse='it are', group=''),)
    >>> read_pairs('{"sentence_good": "It is.", "sentence_bad": "It are.", "UID": "copula"}').pairs
    (MinimalPair(better='It is.', worse='It are.', group='copula'),)
    """
    lines = list(_lines(text))
    if not lines:
        raise DataError(f"{name} has no pairs", kept=_KEPT, hint="write two texts a line, parted by a tab")
    if lines[0].text.lstrip().startswith("{"):
        pairs = _of_objects([(line.number, _object(line, name)) for line in lines], name, group)
    elif group is not None:
        raise DataError(
            f"{name} has no JSON objects, so that there is no field {group!r} to group by",
            kept=_KEPT,
            hint="put the group in a third column",
        )
    else:
        pairs = list(_of_columns(lines, name))
    for line, pair in zip(lines, pairs, strict=True):
        _check(pair, f"line {line.number} of {name}")
    return PairList(tuple(pairs), tuple(line.number for line in lines))


class _Line(NamedTuple):
    number: int
    text: str


def _lines(text: str) -> Iterator[_Line]:
    """The lines with anything on them."""
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), 1):
        if line.strip():
            yield _Line(number, line.removesuffix("\r"))


def _of_columns(lines: Sequence[_Line], name: str) -> Iterator[MinimalPair]:
    columns = lines[0].text.count("\t") + 1
    for number, text in lines:
        parts = text.split("\t")
        if len(parts) not in (2, 3):
            raise DataError(
                f"line {number} of {name} has {len(parts)} columns, not two texts parted by a tab",
                kept=_KEPT,
                hint="write BETTER<tab>WORSE, or BETTER<tab>WORSE<tab>GROUP, on each line",
            )
        if len(parts) != columns:
            raise DataError(
                f"line {number} of {name} has {len(parts)} columns, but line {lines[0].number} has {columns}",
                kept=_KEPT,
                hint="give every pair a group, or none",
            )
        yield MinimalPair(*parts)


def _object(line: _Line, name: str) -> dict[str, object]:
    try:
        found = json.loads(line.text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise DataError(
            f"line {line.number} of {name} is no JSON object",
            kept=_KEPT,
            hint="write an object a line, with sentence_good and sentence_bad",
        )
    return found


def _of_objects(objects: Sequence[tuple[int, dict[str, object]]], name: str, group: str | None) -> list[MinimalPair]:
    own = group or next((field for field in GROUPS if all(field in found for _, found in objects)), None)
    pairs = []
    for number, found in objects:
        where = f"line {number} of {name}"
        better, worse = (_field(found, field, where) for field in ("sentence_good", "sentence_bad"))
        pairs.append(MinimalPair(better, worse, _field(found, own, where) if own else ""))
    return pairs


def _field(found: dict[str, object], field: str, where: str) -> str:
    value = found.get(field)
    if isinstance(value, str):
        return value
    if isinstance(value, int | float):
        return json.dumps(value)
    what = "no text as" if field in found else "no"
    raise DataError(f"{where} has {what} {field}", kept=_KEPT, hint=f"its fields are {', '.join(found) or 'none'}")


def check_pairs(pairs: Iterable[MinimalPair]) -> None:
    """Raise DataError if there are no pairs, or for one whose texts are equal, or one of them empty."""
    number = 0
    for number, pair in enumerate(pairs, 1):
        _check(pair, f"pair {number}")
    if not number:
        raise DataError("there are no pairs", kept=_KEPT)


def _check(pair: MinimalPair, where: str) -> None:
    if not (pair.better.strip() and pair.worse.strip()):
        raise DataError(f"{where} has an empty text", kept=_KEPT, hint="give it two texts, or remove it")
    if any("\ud800" <= character <= "\udfff" for text in pair[:2] for character in text):
        raise DataError(f"{where} is no Unicode text: lone surrogate", kept=_KEPT, hint="remove it, or the pair")
    if pair.better == pair.worse:
        raise DataError(
            f"{where} has two equal texts: {pair.better[:60]!r}", kept=_KEPT, hint="change one, or remove the pair"
        )
