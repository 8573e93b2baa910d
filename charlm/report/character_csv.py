"""The surprisal of every character as CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Sequence

from charlm.evaluation.columns import CharacterTable, WordTable, character_table
from charlm.report.surprisal import Scored
from charlm.report.words import escaped, one_line

Cells = tuple[str, str, str]


def character_csv(*models: Sequence[Scored], names: Sequence[str] = ()) -> str:
    """A row for each character of the texts that one or several models have scored.

    One model's columns are the offset from 0, the character, its bits; with several texts also the text's name; the
    number of the record from 1, entropy and rank (`charlm.evaluation.columns`). Several models have bits, entropy and
    rank each, headed by their names. Characters are `escaped`; figures that are not finite are left out.
    """
    texts = list(zip(*models, strict=True))
    several = len(texts) > 1
    written = io.StringIO()
    writer = csv.writer(written, lineterminator="\n")
    if len(models) == 1:
        writer.writerow(["offset", "character", "bits", *["text"] * several, "record", "entropy", "rank"])
    else:
        writer.writerow(["offset", "character", "record", *headings(names), *["text"] * several])
    for text in texts:
        name = [one_line(text[0].name)] * several
        for leading, figures in _rows([character_table(one.surprisal) for one in text]):
            offset, character, record = leading
            if len(figures) == 1:
                bits, entropy, rank = figures[0]
                writer.writerow([offset, character, bits, *name, record, entropy, rank])
            else:
                writer.writerow([*leading, *(cell for cells in figures for cell in cells), *name])
    return written.getvalue()


def _rows(tables: Sequence[CharacterTable]) -> Iterator[tuple[tuple[int, str, int], tuple[Cells, ...]]]:
    """Of each character the offset, itself and its record; and each model's figures."""
    characters = tables[0].character.tolist()
    known = {character: escaped(character) for character in set(characters)}
    leading = zip(range(len(characters)), map(known.__getitem__, characters), tables[0].record.tolist(), strict=True)
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
