"""The surprisal of every character as CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Sequence
from typing import Final

from charlm.evaluation.columns import CharacterTable, WordTable, character_table
from charlm.report.surprisal import Scored
from charlm.report.words import escaped, one_line

_ROWS: Final = 2**16  # that are in memory at once
Cells = tuple[str, str, str]


def character_csv(*models: Sequence[Scored], names: Sequence[str] = ()) -> str:
    """A row for each character of the texts that one or several models have scored.

    One model's columns are the offset from 0, the character, its bits; with several texts also the text's name; the
    number of the record from 1, entropy and rank (`charlm.evaluation.columns`). Several models have bits, entropy and
    rank each, headed by their names. Characters are `escaped`; figures that are not finite are left out.
    """
    texts = list(zip(*models, strict=True))
    several = len(texts) > 1
    found = [csv_header(names if len(models) > 1 else [""], several=several)]
    for text in texts:
        name = [one_line(text[0].name)] * several
        found += csv_rows([character_table(one.surprisal) for one in text], name)
    return "".join(found)


def csv_header(names: Sequence[str], *, several: bool) -> str:
    """The first line, for models of these names, and for one text or several."""
    if len(names) == 1:
        return _lines([["offset", "character", "bits", *["text"] * several, "record", "entropy", "rank"]])
    return _lines([["offset", "character", "record", *headings(names), *["text"] * several]])


def csv_rows(tables: Sequence[CharacterTable], name: Sequence[str], begin: int = 0) -> Iterator[str]:
    """The lines of a text, or of a passage of it behind `begin` characters, some at a time.

    `tables` has one for each model; `name` is that of the text, or empty.
    """
    for at in range(0, len(tables[0]), _ROWS):
        some = [table.part(at, at + _ROWS) for table in tables]
        yield _lines([_row(leading, figures, name) for leading, figures in _rows(some, begin + at)])


def _lines(rows: Sequence[Sequence[object]]) -> str:
    written = io.StringIO()
    csv.writer(written, lineterminator="\n").writerows(rows)
    return written.getvalue()


def _row(leading: tuple[int, str, int], figures: Sequence[Cells], name: Sequence[str]) -> list[object]:
    if len(figures) == 1:
        (bits, entropy, rank), (offset, character, record) = figures[0], leading
        return [offset, character, bits, *name, record, entropy, rank]
    return [*leading, *(cell for cells in figures for cell in cells), *name]


def _rows(tables: Sequence[CharacterTable], begin: int) -> Iterator[tuple[tuple[int, str, int], tuple[Cells, ...]]]:
    """Of each character the offset, itself and its record; and each model's figures."""
    characters = tables[0].character.tolist()
    known = {character: escaped(character) for character in set(characters)}
    offsets = range(begin, begin + len(characters))
    leading = zip(offsets, map(known.__getitem__, characters), tables[0].record.tolist(), strict=True)
    yield from zip(leading, zip(*map(cells_of, tables), strict=True), strict=True)


def headings(names: Sequence[str]) -> list[str]:
    """The headings of several models' figures."""
    return [f"{figure}_{one_line(name)}" for name in names for figure in ("bits", "entropy", "rank")]


def cells_of(table: CharacterTable | WordTable) -> Iterator[Cells]:
    """Bits, entropy and rank of each row; nothing for what is not finite or was not computed."""
    for bits, entropy, rank in zip(table.bits.tolist(), table.entropy.tolist(), table.rank.tolist(), strict=True):
        yield _number(bits), _number(entropy), str(rank or "")


def _number(value: float) -> str:
    return f"{value:.9g}" if math.isfinite(value) else ""
