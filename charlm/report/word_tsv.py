"""The surprisal of every word as tab-separated values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from charlm.config import WordConfig
from charlm.evaluation.columns import WordTable, word_table
from charlm.report.character_csv import cells_of, headings
from charlm.report.surprisal import Scored
from charlm.report.words import escaped, one_line


def word_tsv(config: WordConfig, *models: Sequence[Scored], names: Sequence[str] = ()) -> str:
    """A row for each word, and for each end of a record, of the texts that one or several models have scored.

    `charlm.evaluation.columns` defines the columns. Several models have bits, entropy and rank each, headed by their
    names; several texts have their names behind. Words are `escaped` and never quoted.
    """
    texts = list(zip(*models, strict=True))
    found = [tsv_header(names if len(models) > 1 else [""], several=len(texts) > 1)]
    for text in texts:
        name = [one_line(text[0].name)] * (len(texts) > 1)
        found.append(tsv_rows([word_table(one.surprisal, config) for one in text], name))
    return "".join(found)


def tsv_header(names: Sequence[str], *, several: bool) -> str:
    """The first line, for models of these names, and for one text or several."""
    figures = headings(names) if len(names) > 1 else ["bits", "entropy", "rank"]
    return "\t".join(["record", "number", "word", "characters", *figures, *["text"] * several]) + "\n"


def tsv_rows(tables: Sequence[WordTable], name: Sequence[str]) -> str:
    """The lines of these words; `tables` has one for each model, and `name` is that of the text, or empty."""
    return "".join("\t".join([*row, *name]) + "\n" for row in _rows(tables))


def _rows(tables: Sequence[WordTable]) -> Iterator[list[str]]:
    first = tables[0]
    leading = zip(
        first.record.tolist(), first.number.tolist(), first.word.tolist(), first.characters.tolist(), strict=True
    )
    figures = zip(*map(cells_of, tables), strict=True)
    for (record, number, word, characters), cells in zip(leading, figures, strict=True):
        yield [str(record), str(number), escaped(word), str(characters), *(cell for own in cells for cell in own)]
