"""The rows of `--csv` and `--words-tsv`, written as the text is read, so that a text of any length can be scored."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from charlm.config import WordConfig
from charlm.evaluation.columns import characters_in, words_in
from charlm.evaluation.passages import Passage, WholeWords
from charlm.report.character_csv import csv_header, csv_rows
from charlm.report.word_tsv import tsv_header, tsv_rows
from charlm.report.words import one_line
from charlm.text.records import end_of

Write = Callable[[bytes], object]


@dataclass(slots=True)
class Totals:
    """What one model needed for one text, summed as it was read."""

    name: str
    characters: int = 0
    unknown: int = 0
    nats: float = 0.0

    def add(self, passage: Passage) -> None:
        """Count one more passage."""
        self.characters += len(passage.text)
        self.unknown += passage.unknown
        self.nats += float(passage.nats.sum())


class RowWriter:
    """Writes the rows of texts for models of these names; `csv` and `tsv` take the bytes of each file, where wanted."""

    def __init__(
        self, config: WordConfig, names: Sequence[str], csv: Write | None, tsv: Write | None, *, several: bool
    ) -> None:
        self._config, self._csv, self._tsv, self._several = config, csv, tsv, several
        if csv:
            csv(csv_header(names, several=several).encode())
        if tsv:
            tsv(tsv_header(names, several=several).encode())

    def write(self, name: str, passages: Iterable[Sequence[Passage]]) -> list[Totals]:
        """Write one text, whose passages are those of each model side by side; the totals of each model."""
        named, words, totals = [one_line(name)] * self._several, _Words(self._config), list[Totals]()
        for some in passages:
            totals = totals or [Totals(name) for _ in some]
            for total, passage in zip(totals, some, strict=True):
                total.add(passage)
            if self._csv:
                for rows in csv_rows([characters_in(passage) for passage in some], named, some[0].begin):
                    self._csv(rows.encode())
            if self._tsv:
                self._tsv(words.push(some, named).encode())
        if self._tsv:
            self._tsv(words.close(named).encode())
        return totals


class _Words:
    """The rows of the words of a text. Its passages are cut again between words, for all models in the same places."""

    def __init__(self, config: WordConfig) -> None:
        self._config, self._number, self._cutters = config, 0, list[WholeWords]()

    def push(self, passages: Sequence[Passage], name: Sequence[str]) -> str:
        """The rows that are complete with these passages."""
        if end_of(passages[0].records):  # a corpus of records is one passage
            return self._rows(passages, name)
        self._cutters = self._cutters or [WholeWords(self._config.blank) for _ in passages]
        return self._rows([cut.push(passage) for cut, passage in zip(self._cutters, passages, strict=True)], name)

    def close(self, name: Sequence[str]) -> str:
        """The rows that are left at the end of the text."""
        return self._rows([cutter.close() for cutter in self._cutters], name)

    def _rows(self, passages: Sequence[Passage | None], name: Sequence[str]) -> str:
        tables = [words_in(passage, self._config) for passage in passages if passage is not None]
        if not tables:
            return ""
        rows = tsv_rows([replace(table, number=table.number + self._number) for table in tables], name)
        self._number += len(tables[0])
        return rows
