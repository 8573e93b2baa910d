"""Surprisal: the bits of each character of a text under a model, by character, word, line, and distance from the start.

The nats of tokens are those of `charlm.evaluation.score` in its exact pass; nothing is computed twice or differently. A
token need not be a character, so the text is divided into *units*: the smallest runs of whole characters that consist
of whole tokens. The surprisal of a unit is the sum over its tokens.

    characters      a unit is a character, and a token
    bytes           a unit is a character of one to four tokens
    SentencePiece   a unit is a piece of one or more characters, or a character of one to four byte pieces

Where the surprisal of single characters is needed, as for a word that begins inside a piece, the nats of a unit are
spread evenly over its characters. So the parts of any division of the text add up to the whole.

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
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from charlm.evaluation.score import (
    LANES,
    Scorable,
    add_escape,
    cross_entropy,
    exact_nats,
    fit_chunk,
    perplexity,
    text_nats,
)
from charlm.storage.checkpoint import finite
from charlm.text.records import end_of, record_edges
from charlm.text.tokenizer import Ids, Tokenizer, utf8_sizes

SEGMENT: Final = 1024  # characters that are read from the zero state
_WORD: Final = re.compile(r"\S+")

Floats = NDArray[np.float64]
Places = NDArray[np.int64]


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
class Surprisal:
    """A text with the nats of each of its tokens, and its division into units."""

    text: str
    ids: Ids  # [N]
    nats: NDArray[np.float32]  # [N], -ln P(token | all before it)
    starts: Places  # [U + 1], the character at which each unit begins, and C
    unit_of: Places  # [N], the unit of each token
    unknown_characters: int
    likeliest: Likeliest | None = None

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

    def units(self) -> list[str]:
        """The text divided into units."""
        return [self.text[start:end] for start, end in zip(self.starts[:-1], self.starts[1:], strict=True)]

    def lines(self) -> tuple[Part, ...]:
        """The lines of the text, each with its line end."""
        ends = [match.end() for match in re.finditer(r"[^\n]*\n|[^\n]+\Z", self.text)]
        return self._parts([0, *ends][: len(ends)], ends)

    def words(self) -> tuple[Part, ...]:
        """The words, in the order of the text; white space belongs to none."""
        spans = [match.span() for match in _WORD.finditer(self.text)]
        return self._parts([start for start, _ in spans], [end for _, end in spans])

    def worst_words(self, count: int) -> tuple[Word, ...]:
        """The words with the most bits per character, averaged over all occurrences; of equals, the most bits."""
        nats: dict[str, float] = defaultdict(float)
        times: dict[str, int] = defaultdict(int)
        for part in self.words():
            word = self.text[part.start : part.end]
            nats[word] += part.nats
            times[word] += 1
        words = [Word(word, times[word], total) for word, total in nats.items()]
        return tuple(sorted(words, key=lambda word: (-word.bits_per_character, -word.bits, word.text))[:count])

    def _parts(self, starts: Sequence[int], ends: Sequence[int]) -> tuple[Part, ...]:
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
    records: str = "none",
    device: torch.device | None = None,
) -> Surprisal:
    """The surprisal of a text, read in one exact pass, or record by record.

    `likeliest` is the number of alternatives to keep at the place of each token, or of the first `within` tokens. They
    are selected chunk by chunk, so that the distributions of the whole text [N, V] are never in memory.
    """
    encoded = tokenizer.encode(text)
    recorder = _TopTokens(model, tokenizer, likeliest, len(encoded.ids) if within is None else within)
    if likeliest:
        edges = record_edges(encoded.ids, tokenizer, records)
        parts = np.split(encoded.ids, edges[1:-1])  # one lane: alternatives are kept in the order of the text
        nats = np.concatenate([exact_nats(recorder, tokenizer, part, device=device) for part in parts])
    else:
        nats = text_nats(model, tokenizer, encoded.ids, exact=True, records=records, device=device)
    starts, unit_of = _units(tokenizer, encoded.ids, text)
    return Surprisal(
        text, encoded.ids, nats, starts, unit_of, len(encoded.escaped), recorder.alternatives() if likeliest else None
    )


class _TopTokens:
    """A model that also records the k most probable tokens after each id that it reads, in one lane."""

    def __init__(self, model: Scorable, tokenizer: Tokenizer, k: int, places: int) -> None:
        self._model, self._k, self._left = model, min(k, tokenizer.size), places
        self._known = 1 - tokenizer.escape
        self._ids = [np.zeros((0, self._k), dtype=np.int32)]
        self._probabilities = [np.zeros((0, self._k), dtype=np.float32)]

    def init_state(self, lanes: int) -> Any:
        return self._model.init_state(lanes)

    def __call__(self, ids_TB: Tensor, state: Any) -> tuple[Tensor, Any]:
        logits, state = self._model(ids_TB, state)
        if self._left:
            best = torch.softmax(logits[: self._left, 0].float(), -1).topk(self._k, sorted=True)
            self._ids.append(best.indices.to("cpu", torch.int32).numpy())
            self._probabilities.append((best.values * self._known).cpu().numpy())
            self._left -= len(best.indices)
        return logits, state

    def alternatives(self) -> Likeliest:
        return Likeliest(np.concatenate(self._ids), np.concatenate(self._probabilities))


def cold_nats(
    model: Scorable, tokenizer: Tokenizer, text: str, *, window: int = SEGMENT, device: torch.device | None = None
) -> Floats:
    """-ln P of each character [C], where every `window` characters are read from zero state, as a text of their own.

    Their mean is the loss that models of fixed context report (nanoGPT's `estimate_loss`), but that here the first
    character of a window is predicted, too. The last window may be shorter.
    """
    parts = [text[at : at + window] for at in range(0, len(text), window)]
    found = []
    for at in range(0, len(parts), LANES):
        ids = [tokenizer.encode(part).ids for part in parts[at : at + LANES]]
        nats_TB = _cold_nats(model, tokenizer, ids, device)
        for lane, part in enumerate(parts[at : at + LANES]):
            starts, unit_of = _units(tokenizer, ids[lane], part)
            found.append(_spread(_sum_by_unit(nats_TB[: len(ids[lane]), lane], unit_of, starts), starts))
    return np.concatenate(found) if found else np.zeros(0)


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
    if end := end_of(records):
        nats = surprisal(model, tokenizer, text, records=records, device=device).character_nats
        points = np.frombuffer(text.encode("utf-32-le"), dtype="<u4")
        begins = np.concatenate([[0], np.flatnonzero(points[:-1] == ord(end)) + 1])[: len(text)]
        places = np.arange(len(text)) - np.repeat(begins, np.diff([*begins, len(text)]))
    else:
        nats = cold_nats(model, tokenizer, text, window=segment, device=device)
    length = int(places.max()) + 1 if len(text) else 0
    sums, counts = np.bincount(places, nats, minlength=length), np.bincount(places, minlength=length)
    edges = [0, *(2**power for power in range(length.bit_length()) if 2**power < length), length] if length else []
    return tuple(
        PositionLoss(first + 1, last, int(counts[first:last].sum()), float(sums[first:last].sum()))
        for first, last in pairwise(edges)
    )


@torch.inference_mode()
def _cold_nats(
    model: Scorable, tokenizer: Tokenizer, ids: Sequence[Ids], device: torch.device | None
) -> NDArray[np.float32]:
    """-ln P of each token [T, B] of B texts, from the zero state; values after the end of a text mean nothing."""
    tokens = np.full((max(map(len, ids)) + 1, len(ids)), tokenizer.start, dtype=np.int64)
    for lane, own in enumerate(ids):
        tokens[1 : len(own) + 1, lane] = own
    inputs, targets = tokens[:-1], np.where(tokens[1:] == tokenizer.start, 0, tokens[1:])
    chunk = fit_chunk(len(ids), tokenizer.size)
    nats, state = [], model.init_state(len(ids))
    for at in range(0, len(inputs), chunk):
        logits, state = model(torch.from_numpy(inputs[at : at + chunk]).to(device), state)
        nats.append(cross_entropy(logits, torch.from_numpy(targets[at : at + chunk]).to(device)).cpu().numpy())
    return add_escape(np.concatenate(nats), targets, tokenizer)


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
