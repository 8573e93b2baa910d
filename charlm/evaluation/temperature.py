"""Which temperature writes text that is as new, and as familiar, as a text that the model has not seen.

At a low temperature a model repeats what is frequent; at a high one it writes what no text of its kind holds. So pieces
of N tokens that occur in the training text grow rarer as the temperature rises, and those of a held-out text say how
rare they should be. N is chosen so that about half of the held-out pieces are known: shorter ones are all known, longer
ones hardly ever, and neither tells temperatures apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from charlm.config import SampleConfig
from charlm.generation.decoder import Decoder
from charlm.generation.generate import collect, generate
from charlm.text.records import end_of
from charlm.text.stored import StoredIds, Text
from charlm.text.tokenizer import Ids, Tokenizer

TRIED: Final = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
FEWEST: Final = 2000  # characters of a held-out text that says something
_MOST: Final = 2**20  # tokens of the training text that are looked at
_HELD_OUT: Final = 20_000  # characters
_LONGEST: Final = 12  # tokens of a piece
_WRITTEN: Final = 3200  # characters at each temperature,
_LENGTH: Final = 100  # in samples of so many
_FACTOR: Final = np.uint64(0x9E3779B97F4A7C15)  # odd, so that every token of a piece changes its hash


class Likeness(NamedTuple):
    """A temperature, and shares of pieces of `tokens` tokens that are in the training text."""

    temperature: float
    known: float  # of what was written at this temperature
    held_out: float
    tokens: int


def suitable_temperature(
    decoder: Decoder, tokenizer: Tokenizer, train: Ids | StoredIds, held_out: Text, *, records: str = "none"
) -> Likeness | None:
    """The one of `TRIED` whose text is most like the held-out text; None where that is too short to say.

    `train` are the ids of the training text [N]; `records` is one of `charlm.config.RECORDS`.
    """
    if len(held_out) < FEWEST:
        return None
    pieces, share = _telling(train[max(0, len(train) - _MOST) :], tokenizer.encode(held_out[:_HELD_OUT]).ids)

    @cache
    def likeness(number: int) -> Likeness:
        written = _write(decoder, tokenizer, TRIED[number], records)
        known = pieces.share(*(tokenizer.encode(text).ids for text in written))
        return Likeness(TRIED[number], known, share, pieces.tokens)

    first, last = 0, len(TRIED) - 1  # of the temperatures that come into question, by bisection
    while first < last:
        middle = (first + last) // 2
        if likeness(middle).known > share:  # too much is known: a higher one
            first = middle + 1
        else:
            last = middle
    return min((likeness(max(0, first - 1)), likeness(first)), key=lambda one: abs(one.known - share))


class _Pieces:
    """The pieces of N tokens of a text, as sorted hashes."""

    def __init__(self, ids: Ids, tokens: int) -> None:
        self.tokens, self._known = tokens, np.unique(_hashes(ids, tokens))

    def share(self, *texts: Ids) -> float:
        """How many of the pieces of other texts are among them; 0 where there are none."""
        other = np.concatenate([_hashes(ids, self.tokens) for ids in texts])
        place = np.searchsorted(self._known, other)
        return float(np.mean(self._known[place % len(self._known)] == other)) if len(other) else 0.0


def _telling(train: Ids, held_out: Ids) -> tuple[_Pieces, float]:
    """Pieces of the training text of the length with which nearest to half of the held-out ones are known."""
    pieces = _Pieces(train, 1)
    share = pieces.share(held_out)
    while share > 0.5 and pieces.tokens < min(_LONGEST, len(train)):
        longer = _Pieces(train, pieces.tokens + 1)
        known = longer.share(held_out)
        if abs(known - 0.5) > abs(share - 0.5):
            break
        pieces, share = longer, known
    return pieces, share


def _hashes(ids: Ids, tokens: int) -> NDArray[np.uint64]:
    """A polynomial hash, modulo 2^64, of each run of so many ids [N - tokens + 1]."""
    found = np.zeros(max(0, len(ids) - tokens + 1), dtype=np.uint64)
    for place in range(tokens):
        found = found * _FACTOR + ids[place : place + len(found)].astype(np.uint64) + np.uint64(1)
    return found


def _write(decoder: Decoder, tokenizer: Tokenizer, temperature: float, records: str) -> Sequence[str]:
    """Texts of the model's own, as `charlm sample` writes them; records make one text."""
    end = end_of(records)
    prime, stops = ("", (end,)) if end else (None, ())
    config = SampleConfig(length=_LENGTH, count=_WRITTEN // _LENGTH, temperature=temperature, seed=0)
    written = collect(generate(decoder, tokenizer, config, prime=prime, stops=stops), config.count)
    return ["".join(record + end for record in written)] if end else written
