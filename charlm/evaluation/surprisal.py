"""Surprisal: the bits of each character of a text under a model, by character, word, line, and distance from the start.

The nats of tokens are those of `charlm.evaluation.score` in its exact pass; nothing is computed twice or differently. A
token need not be a character, so the text is divided into *units*: the smallest runs of whole characters that consist
of whole tokens. The surprisal of a unit is the sum over its tokens.

    characters      a unit is a character, and a token
    bytes           a unit is a character of one to four tokens
    SentencePiece   a unit is a piece of one or more characters, or a character of one to four byte pieces

Where the surprisal of single characters is needed, as for a word that begins inside a piece, the nats of a unit are
spread evenly over its characters. So the parts of any division of the text add up to the whole.

`Forecast` says what the model expected before each token: the entropy of its distribution over the vocabulary, and the
rank in it of what came. Both are those of the softmax, without the escape for unseen characters.

`position_losses` shows how much context helps: it cuts the text into segments, reads each in a lane of its own from the
zero state, and averages over the segments by the place within them.

Legend: N tokens, U units, C characters, k alternatives, T steps, B lanes, V vocabulary. This module knows nothing of
training, files or printing.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from charlm.evaluation.score import BlockReader, Scorable, perplexity, text_nats
from charlm.evaluation.separate import separate_nats
from charlm.storage.checkpoint import finite
from charlm.text.direction import turned_values
from charlm.text.records import end_of
from charlm.text.tokenizer import Ids, Tokenizer, utf8_sizes

SEGMENT: Final = 1024  # characters that are read from the zero state
_IDEOGRAPHS: Final = "\u3005-\u3007\u3041-\u3096\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"
Floats = NDArray[np.float64]
Places = NDArray[np.int64]
_Number = TypeVar("_Number", bound=np.generic)


@dataclass(frozen=True, slots=True)
class Part:
    """The characters from `start` to `end` (exclusive, from 0), and their nats."""

    start: int
    end: int
    nats: float

    @property
    def characters(self) -> int:
        return self.end - self.start

    @property
    def bits(self) -> float:
        return self.nats / math.log(2)

    @property
    def bits_per_character(self) -> float:
        return self.bits / self.characters if self.characters else math.nan

    @property
    def perplexity(self) -> float:
        """Per character; NaN without characters, infinite where it overflows."""
        return perplexity(self.nats, self.characters)


@dataclass(frozen=True, slots=True)
class Word:
    """A word (characters between white space): how often it occurs, and the nats of all occurrences.

    >>> word = Word("tea", 2, 12 * math.log(2))
    >>> word.bits, word.mean_bits, word.bits_per_character
    (12.0, 6.0, 2.0)
    """

    text: str
    count: int
    nats: float

    @property
    def bits(self) -> float:
        return self.nats / math.log(2)

    @property
    def mean_bits(self) -> float:
        """Mean bits of one occurrence."""
        return self.bits / self.count

    @property
    def bits_per_character(self) -> float:
        return self.mean_bits / len(self.text)


@dataclass(frozen=True, slots=True)
class PositionLoss:
    """The nats of the characters at places `first` to `last` (inclusive, from 1) of all segments."""

    first: int
    last: int
    characters: int
    nats: float

    @property
    def bits_per_character(self) -> float:
        return self.nats / self.characters / math.log(2)


@dataclass(frozen=True, slots=True)
class Likeliest:
    """The most probable tokens at the places of the first M tokens, best first: both [M, k], k <= V.

    Probabilities are (1 - e) softmax, with e the escape for unseen characters, as in scores.
    """

    ids: Ids
    probabilities: NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Forecast:
    """What the model expected before each token: both [N].

    entropy   of its distribution over the vocabulary, in bits
    rank      of the token that came: 1 + the number of likelier ones; V + 1 where it is not in the vocabulary
    """

    entropy: Floats
    rank: Places


@dataclass(frozen=True, slots=True, eq=False)
class Surprisal:
    """A text with the nats of each of its tokens, and its division into units."""

    text: str
    ids: Ids  # [N]
    nats: NDArray[np.float32]  # [N], -ln P(token | all before it)
    starts: Places  # [U + 1], the character at which each unit begins, and C
    unit_of: Places  # [N], the unit of each token
    unknown_characters: int
    likeliest: Likeliest | None = None
    forecast: Forecast | None = None
    records: str = "none"  # the kind of its records: `charlm.text.records`

    def __repr__(self) -> str:
        return f"Surprisal({len(self.text):,} characters: {self.total.bits_per_character:.4f} bits per character)"

    @property
    def total(self) -> Part:
        return Part(0, len(self.text), float(self.nats.sum(dtype=np.float64)))

    @property
    def spans(self) -> Places:
        """The first character and the end of the unit of each token, [N, 2]."""
        return np.stack([self.starts[self.unit_of], self.starts[self.unit_of + 1]], axis=1)

    @property
    def unit_nats(self) -> Floats:
        """The nats of each unit, [U]."""
        return _sum_by_unit(self.nats, self.unit_of, self.starts)

    @property
    def first_tokens(self) -> Places:
        """The place of the first token of each unit, [U]."""
        return np.searchsorted(self.unit_of, np.arange(len(self.starts) - 1))

    @property
    def character_nats(self) -> Floats:
        """The nats of each character, those of a unit spread evenly over its characters, [C]."""
        return _spread(self.unit_nats, self.starts)

    @property
    def record_edges(self) -> Places:
        """The character at which each record begins, and behind them C: [R + 1]. A text is one record."""
        end = end_of(self.records)
        found = [match.end() for match in re.finditer(end, self.text)] if end else []
        return np.unique(np.array([0, *found, len(self.text)], dtype=np.int64))

    def units(self) -> list[str]:
        """The text divided into units."""
        return [self.text[start:end] for start, end in zip(self.starts[:-1], self.starts[1:], strict=True)]

    def lines(self) -> tuple[Part, ...]:
        """The lines of the text, each with its line end; the last line of a record with that record's end."""
        end = end_of(self.records)
        ends = [match.end() for match in re.finditer(rf"[^\n{end}]*[\n{end}]|[^\n{end}]+\Z", self.text)]
        return self.parts([0, *ends][: len(ends)], ends)

    def words(self) -> tuple[Part, ...]:
        """The words, in the order of the text; white space and ends of records belong to none."""
        return self._matches(rf"[^\s{end_of(self.records)}]+")

    def _matches(self, pattern: str) -> tuple[Part, ...]:
        spans = [match.span() for match in re.finditer(pattern, self.text)]
        return self.parts([start for start, _ in spans], [end for _, end in spans])

    def record_parts(self) -> tuple[Part, ...]:
        """The records, each with its end; none where the model reads one text."""
        edges = self.record_edges.tolist() if self.records != "none" else [0]
        return self.parts(edges[:-1], edges[1:])

    def worst_words(self, count: int) -> tuple[Word, ...]:
        """The words with the most bits per character, averaged over all occurrences; of equals, the most bits.

        Of Chinese and Japanese, which are written without blanks, each ideograph and each hiragana is one.
        """
        nats: dict[str, float] = defaultdict(float)
        times: dict[str, int] = defaultdict(int)
        for part in self._matches(rf"[{_IDEOGRAPHS}]|[^\s{end_of(self.records)}{_IDEOGRAPHS}]+"):
            word = self.text[part.start : part.end]
            nats[word] += part.nats
            times[word] += 1
        words = [Word(word, times[word], total) for word, total in nats.items()]
        return tuple(sorted(words, key=lambda word: (-word.bits_per_character, -word.bits, word.text))[:count])

    def parts(self, starts: Sequence[int], ends: Sequence[int]) -> tuple[Part, ...]:
        """Parts of the text, in its order and apart from each other; none is empty."""
        if not starts:
            return ()
        cuts = np.stack([starts, ends], axis=1).ravel()
        sums = np.add.reduceat(np.append(self.character_nats, 0.0), cuts)[::2]
        return tuple(Part(*part) for part in zip(starts, ends, sums.tolist(), strict=True))

    def record(self, *, words: int = 10) -> dict[str, object]:
        """All figures for JSON: null for what is not finite; `tokens` are the units."""
        total = self.total
        bits = np.round(self.unit_nats / math.log(2), 7).tolist()  # as many digits as float32 has
        return {
            "characters": total.characters,
            "unknown_characters": self.unknown_characters,
            "nats": finite(total.nats),
            "bits_per_character": finite(total.bits_per_character),
            "tokens": [[unit, finite(value)] for unit, value in zip(self.units(), bits, strict=True)],
            "lines": [
                {
                    "line": number,
                    "characters": line.characters,
                    "bits": finite(line.bits),
                    "bits_per_character": finite(line.bits_per_character),
                }
                for number, line in enumerate(self.lines(), 1)
            ],
            "records": [
                {
                    "record": number,
                    "characters": part.characters,
                    "bits": finite(part.bits),
                    "bits_per_character": finite(part.bits_per_character),
                }
                for number, part in enumerate(self.record_parts(), 1)
            ],
            "worst_words": [
                {
                    "word": word.text,
                    "count": word.count,
                    "bits": finite(word.bits),
                    "mean_bits": finite(word.mean_bits),
                    "bits_per_character": finite(word.bits_per_character),
                }
                for word in self.worst_words(words)
            ],
        }


def surprisal(
    model: Scorable,
    tokenizer: Tokenizer,
    text: str,
    *,
    likeliest: int = 0,
    within: int | None = None,
    forecast: bool = False,
    records: str = "none",
    device: torch.device | None = None,
) -> Surprisal:
    """The surprisal of a text, read in one exact pass, or record by record.

    `likeliest` is the number of alternatives to keep at the place of each token, or of the first `within` tokens;
    `forecast` keeps entropy and rank. They are found chunk by chunk, so that the distributions of the whole text [N, V]
    are never in memory.
    """
    encoded = tokenizer.encode(text)
    count = len(encoded.ids)
    best = _TopTokens(tokenizer, likeliest, count if within is None else min(within, count)) if likeliest else None
    expected = _Expectations(tokenizer, count) if forecast else None
    watchers = [watcher for watcher in (best, expected) if watcher is not None]
    nats = text_nats(model, tokenizer, encoded, exact=True, records=records, device=device, watchers=watchers)
    starts, unit_of = _units(tokenizer, encoded.ids, text)
    return Surprisal(
        text,
        encoded.ids,
        nats,
        starts,
        unit_of,
        len(encoded.escaped),
        likeliest=None if best is None else best.found,
        forecast=None if expected is None else expected.found,
        records=records,
    )


def turned_surprisal(judged: Surprisal, text: str, within: int | None = None) -> Surprisal:
    """What was judged of a text that was turned (`charlm.text.direction`), for the text itself; tokens are characters.

    The alternatives are those of the first `within` characters.
    """
    best, expected = judged.likeliest, judged.forecast

    def back(values: NDArray[_Number]) -> NDArray[_Number]:
        return turned_values(values, text, judged.records)

    return replace(
        judged,
        text=text,
        ids=back(judged.ids),
        nats=back(judged.nats),
        likeliest=best and Likeliest(back(best.ids)[:within], back(best.probabilities)[:within]),
        forecast=expected and Forecast(back(expected.entropy), back(expected.rank)),
    )


class SurprisalReader:
    """The surprisal of a long text, block by block, with forecasts (`charlm.evaluation.score.BlockReader`)."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer, self._reader = tokenizer, BlockReader(tokenizer)

    def read(self, model: Scorable, text: str, *, device: torch.device | None = None) -> Surprisal:
        """The surprisal of the next block."""
        encoded = self._tokenizer.encode(text)
        expected = _Expectations(self._tokenizer, len(encoded.ids))
        nats = self._reader.nats(model, encoded.ids, device=device, watchers=[expected])
        starts, unit_of = _units(self._tokenizer, encoded.ids, text)
        return Surprisal(text, encoded.ids, nats, starts, unit_of, len(encoded.escaped), forecast=expected.found)


class _TopTokens:
    """A watcher that keeps the k most probable tokens at each of the first `count` places."""

    def __init__(self, tokenizer: Tokenizer, k: int, count: int) -> None:
        shape = count, min(k, tokenizer.size)
        self._known = 1 - tokenizer.escape
        self.found = Likeliest(np.zeros(shape, dtype=np.int32), np.zeros(shape, dtype=np.float32))

    def __call__(
        self,
        logits_TBV: Tensor,
        targets_TB: Places,  # noqa: ARG002 - of no use here
        places_TB: Places,
        scored_TB: NDArray[np.bool_],
    ) -> None:
        count, k = self.found.ids.shape
        wanted = scored_TB & (places_TB < count)
        if not wanted.any():
            return
        best = torch.softmax(_where(logits_TBV, wanted), -1).topk(k, sorted=True)
        self.found.ids[places_TB[wanted]] = best.indices.to("cpu", torch.int32).numpy()
        self.found.probabilities[places_TB[wanted]] = (best.values * self._known).cpu().numpy()


class _Expectations:
    """A watcher that keeps the entropy before each of `count` tokens, and the token's rank."""

    def __init__(self, tokenizer: Tokenizer, count: int) -> None:
        self._size = tokenizer.size
        self.found = Forecast(np.zeros(count), np.zeros(count, dtype=np.int64))

    def __call__(self, logits_TBV: Tensor, targets_TB: Places, places_TB: Places, scored_TB: NDArray[np.bool_]) -> None:
        logits, targets, places = _where(logits_TBV, scored_TB), targets_TB[scored_TB], places_TB[scored_TB]
        own = torch.from_numpy(np.minimum(targets, self._size - 1)).to(logits.device)
        better = ~(logits <= logits.gather(1, own[:, None]))  # what is not a number is no better than any
        rank = 1 + better.sum(-1).cpu().numpy()
        self.found.rank[places] = np.where(targets < self._size, rank, self._size + 1)
        self.found.entropy[places] = torch.special.entr(torch.softmax(logits, -1)).sum(-1).cpu().numpy() / math.log(2)


def _where(logits_TBV: Tensor, wanted_TB: NDArray[np.bool_]) -> Tensor:
    """The logits [n, V] of the n places that are wanted, in fp32."""
    if wanted_TB.all():
        return logits_TBV.float().flatten(0, 1)
    return logits_TBV[torch.from_numpy(wanted_TB).to(logits_TBV.device)].float()


def cold_nats(
    model: Scorable,
    tokenizer: Tokenizer,
    text: str,
    *,
    window: int = SEGMENT,
    backward: bool = False,
    device: torch.device | None = None,
) -> Floats:
    """-ln P of each character [C], where every `window` characters are read from zero state, as a text of their own.

    A `backward` model reads the same windows, each from its last character to its first.

    Their mean is the loss that models of fixed context report (nanoGPT's `estimate_loss`), but that here the first
    character of a window is predicted, too. The last window may be shorter.
    """
    way = -1 if backward else 1
    parts = [text[at : at + window][::way] for at in range(0, len(text), window)]
    ids = [tokenizer.encode(part).ids for part in parts]
    found = [np.zeros(0)]
    for part, own, nats in zip(parts, ids, separate_nats(model, tokenizer, ids, device=device), strict=True):
        starts, unit_of = _units(tokenizer, own, part)
        found.append(_spread(_sum_by_unit(nats, unit_of, starts), starts)[::way])
    return np.concatenate(found)


def position_losses(
    model: Scorable,
    tokenizer: Tokenizer,
    text: str,
    *,
    segment: int = SEGMENT,
    records: str = "none",
    device: torch.device | None = None,
) -> tuple[PositionLoss, ...]:
    """Losses at places 1, 2, 3-4, 5-8, ... after the zero state, over all segments of the text.

    Segments have `segment` characters, the last one perhaps fewer; in a corpus of records they are the records.
    """
    places = np.arange(len(text)) % segment
    if end_of(records):
        judged = surprisal(model, tokenizer, text, records=records, device=device)
        nats, edges_R = judged.character_nats, judged.record_edges
        places = np.arange(len(text)) - np.repeat(edges_R[:-1], np.diff(edges_R))
    else:
        nats = cold_nats(model, tokenizer, text, window=segment, device=device)
    length = int(places.max()) + 1 if len(text) else 0
    sums, counts = np.bincount(places, nats, minlength=length), np.bincount(places, minlength=length)
    edges = [0, *(2**power for power in range(length.bit_length()) if 2**power < length), length] if length else []
    return tuple(
        PositionLoss(first + 1, last, int(counts[first:last].sum()), float(sums[first:last].sum()))
        for first, last in pairwise(edges)
    )


def _units(tokenizer: Tokenizer, ids: Ids, text: str) -> tuple[Places, Places]:
    """The character at which each unit begins [U + 1], and the unit of each token [N].

    A unit ends where both a token and a character end. A token without bytes, if there is one, joins the unit before.
    """
    if tokenizer.one_per_character:
        return np.arange(len(text) + 1), np.arange(len(text))
    lengths = np.array([len(piece) for piece in tokenizer.pieces], dtype=np.int64)
    token_ends = np.cumsum(lengths[ids])
    character_ends = np.cumsum(utf8_sizes(text))
    ends = np.intersect1d(token_ends, character_ends)
    starts = np.append(0, np.searchsorted(character_ends, ends) + 1)
    return starts, np.searchsorted(ends, token_ends)


def _sum_by_unit(nats: NDArray[np.float32], unit_of: Places, starts: Places) -> Floats:
    return np.bincount(unit_of, nats, minlength=len(starts) - 1).astype(np.float64, copy=False)


def _spread(unit_nats: Floats, starts: Places) -> Floats:
    lengths = np.diff(starts)
    return np.repeat(unit_nats / lengths, lengths)
