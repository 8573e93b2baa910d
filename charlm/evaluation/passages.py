"""Passages: consecutive characters of a text, with all that rows for characters and words are made of.

A short text is one passage. A long one has many, which follow each other, so that it is never in memory as a whole;
`WholeWords` cuts them again, so that no word is in two.

Legend: C characters, R records.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from charlm.evaluation.surprisal import Floats, Places, Surprisal


@dataclass(frozen=True, slots=True, eq=False)
class Passage:
    """Consecutive characters, and what a model said of each: `nats`, `entropy` and `rank` are [C].

    begin       how many characters of the text are before it
    edges       the character at which each record begins, and behind them C: [R + 1]
    records     their kind; a text is one record, and so is each of its passages
    unknown     how many characters are not in the vocabulary
    """

    text: str
    nats: Floats  # those of a unit are spread evenly over its characters
    entropy: Floats  # before its unit, in bits; NaN without a forecast
    rank: Places  # of its unit's first token; 0 without a forecast
    edges: Places
    records: str = "none"
    begin: int = 0
    unknown: int = 0

    def part(self, begin: int, end: int) -> Passage:
        """These characters of a text; their number of unknown ones is left out."""
        own, text = slice(begin, end), self.text[begin:end]
        return Passage(
            text, self.nats[own], self.entropy[own], self.rank[own], _edges(len(text)), begin=self.begin + begin
        )

    def followed_by(self, other: Passage) -> Passage:
        """This passage of a text and the next one, as one."""
        nats, entropy = np.append(self.nats, other.nats), np.append(self.entropy, other.entropy)
        text = self.text + other.text
        return Passage(text, nats, entropy, np.append(self.rank, other.rank), _edges(len(text)), begin=self.begin)


def passage_of(judged: Surprisal, begin: int = 0) -> Passage:
    """What was judged, as one passage."""
    lengths, forecast = np.diff(judged.starts), judged.forecast
    entropy, rank = np.full(len(lengths), np.nan), np.zeros(len(lengths), dtype=np.int64)
    if forecast is not None:
        entropy, rank = forecast.entropy[judged.first_tokens], forecast.rank[judged.first_tokens]
    return Passage(
        judged.text,
        judged.character_nats,
        np.repeat(entropy, lengths),
        np.repeat(rank, lengths),
        judged.record_edges,
        judged.records,
        begin,
        judged.unknown_characters,
    )


class WholeWords:
    """Cuts the passages of a text between two words: before the blanks there where `blank` is before, else behind them.

    So each passage has a word, and what is counted with a word is in the same passage.
    """

    def __init__(self, blank: str) -> None:
        self._before = blank == "before"
        self._kept: Passage | None = None

    def push(self, passage: Passage) -> Passage | None:
        """What is complete with this passage; None where nothing is."""
        whole = passage if self._kept is None else self._kept.followed_by(passage)
        cut = self._place(whole.text)
        self._kept = whole.part(cut, len(whole.text)) if cut else whole
        return whole.part(0, cut) if cut else None

    def close(self) -> Passage | None:
        """What is left at the end of the text."""
        kept, self._kept = self._kept, None
        return kept

    def _place(self, text: str) -> int:
        """Where a text is cut, before its last word; 0 where it has fewer than two."""
        head, *last = text.rsplit(None, 1) or [""]
        if not last:
            return 0
        return len(head) if self._before else len(text.rstrip()) - len(last[0])


def _edges(characters: int) -> Places:
    return np.unique(np.array([0, characters], dtype=np.int64))
