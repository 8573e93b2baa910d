"""Filling a gap between two contexts: candidates of a forward model, scored by it and by a backward one.

Let l be the text before the gap, g what fills it, and r the text after it, of which r' are the first M characters and
l' the last M characters of l. By the chain rule, from the left and from the right,

    P(g, r' | l) = P(g | l) P(r' | l g)        a forward model: it writes g, and reads on into r'
    P(g, l' | r) = P(g | r) P(l' | g r)        a backward model: the same from the other side

As functions of g both are proportional to what is asked for, P(g | l, r), as far as M characters tell. The two models
err in different places, so that their weighted geometric mean is better than either (a logarithmic opinion pool; its
nats are the weighted means of theirs):

    P(g) = P_f(g, r' | l)^(1 - w) P_b(g, l' | r)^w / sum over all candidates

For a gap of one character the candidates are the whole vocabulary of the forward model, and this is exact. For longer
ones half of them are found by beam search and half are sampled, both from the forward model, so that P is among those.
Gaps of different lengths are compared as they are: M characters beyond the gap are charged whatever its length.

Tokens are characters. In models of records the contexts are those of one record, whose end is part of what follows.

Legend: K candidates, T steps, B lanes, W texts of a beam, V vocabulary. This module knows nothing of files or printing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from charlm.config import FillConfig
from charlm.errors import ConfigError, DataError
from charlm.generation.choice import charged
from charlm.generation.decoder import Decoder, DecoderState
from charlm.generation.sampling import Floats, SamplingParameters
from charlm.runtime.random import Purpose, uniforms
from charlm.text.tokenizer import Ids, Tokenizer

_LOGITS: Final = 2**22  # of one call of the decoder, about
_NONE: Final = -1  # for a token behind the end of a text
_LN2: Final = float(np.log(2))


class Side(NamedTuple):
    """A model that reads towards a gap from one side; `end` is that of its records, if it reads any."""

    decoder: Decoder
    tokenizer: Tokenizer
    end: str = ""
    backward: bool = False


class Bits(NamedTuple):
    """-log2 P of a candidate from one side: of itself, and of the characters beyond the gap after it."""

    gap: float
    beyond: float

    @property
    def total(self) -> float:
        return self.gap + self.beyond


@dataclass(frozen=True, slots=True)
class Filling:
    """What may stand in a gap: its probability among all candidates, and its bits from either side.

    It is `proposed` by the model, or only by whoever asks.
    """

    text: str
    probability: float
    forward: Bits
    backward: Bits | None = None
    proposed: bool = True

    def record(self) -> dict[str, object]:
        """The figures for JSON."""
        backward = self.backward and {"gap": self.backward.gap, "beyond": self.backward.beyond}
        forward = {"gap": self.forward.gap, "beyond": self.forward.beyond}
        return {"text": self.text, "probability": self.probability, "forward": forward, "backward": backward}


def split_at(text: str, mark: str) -> tuple[str, str]:
    """The texts before and after a gap that is marked; raises ConfigError unless there is one.

    >>> split_at("so ___ goes", "___")
    ('so ', ' goes')
    """
    before, found, after = text.partition(mark) if mark else (text, "", "")
    again = mark in after if found else False
    if found and not again:
        return before, after
    raise ConfigError(
        f"the text has {'more than one gap' if again else 'no gap'}: {mark!r} must stand in it once",
        kept="nothing was filled",
        hint="--gap TEXT names another mark",
    )


def fill(
    before: str,
    after: str,
    forward: Side,
    backward: Side | None,
    config: FillConfig,
    also: Sequence[str] = (),
) -> list[Filling]:
    """All candidates for the gap between two texts, the most probable first; `also` are further ones.

    Raises DataError where both texts are empty, or one is not of one record.
    """
    _check(before, after, forward.end)
    reader = _Expert(forward, before, after, config.look)
    proposed = dict.fromkeys(reader.candidates(config), True)
    texts = list({**dict.fromkeys(also, False), **proposed})
    ours = reader.judge(texts)
    theirs: Sequence[Bits | None] = [None] * len(texts)
    total = np.array([bits.total for bits in ours])
    if backward is not None:
        judged = _Expert(backward, before, after, config.look).judge(texts)
        total = (1 - config.weight) * total + config.weight * np.array([bits.total for bits in judged])
        theirs = judged
    found = zip(texts, probabilities(total).tolist(), ours, theirs, (text in proposed for text in texts), strict=True)
    return sorted((Filling(*one) for one in found), key=lambda one: -one.probability)


def probabilities(bits: NDArray[np.float64]) -> NDArray[np.float64]:
    """What these bits [K] are as probabilities that add up to 1.

    >>> probabilities(np.array([10.0, 11.0, 11.0])).tolist()
    [0.5, 0.25, 0.25]
    """
    terms = np.exp2(bits.min() - bits)
    found: NDArray[np.float64] = terms / terms.sum()
    return found


def _check(before: str, after: str, end: str) -> None:
    if not before and not after:
        raise DataError("there is no text before the gap, nor after it", kept="nothing was filled")
    if end and end in before + after:
        raise DataError(
            f"the text has {end!r} in it, which ends a record: the model knows nothing of what is beyond",
            kept="nothing was filled",
            hint="give the record alone that has the gap",
        )


class _Expert:
    """A model that has read the text on its side of the gap."""

    def __init__(self, side: Side, before: str, after: str, look: int) -> None:
        self._decoder, self._tokenizer, self._way = side.decoder, side.tokenizer, -1 if side.backward else 1
        near, beyond = (after[::-1], before[::-1]) if side.backward else (before, after)
        self._beyond = side.tokenizer.encode((beyond + side.end)[:look]).ids
        self._end = int(side.tokenizer.encode(side.end).ids[0]) if side.end else _NONE
        read = np.concatenate([[side.tokenizer.start], side.tokenizer.encode(near).ids])
        self._logits, self._state = side.decoder.after(read[:, None], side.decoder.init_state(1))

    def candidates(self, config: FillConfig) -> Iterator[str]:
        """Texts that the model may write: for one character all, else those of a beam search, and samples."""
        lengths = config.lengths
        if 1 in lengths:
            yield from self._texts(np.arange(self._tokenizer.size)[:, None])
        share = max(2, config.candidates // len(lengths))
        for texts in self._beam(lengths.stop - 1, share // 2):
            if texts.shape[1] in lengths:
                yield from self._texts(texts)
        sampled = self._sampled(lengths.stop - 1, share - share // 2, config)
        for length in lengths:
            yield from self._texts(sampled[:, :length])

    def _texts(self, ids_KT: NDArray[np.int64]) -> Iterator[str]:
        """Texts of these ids, in reading order, but for those in which a record ends."""
        pieces = [piece.decode() for piece in self._tokenizer.pieces]
        for row in ids_KT.tolist():
            if self._end not in row:
                yield "".join(pieces[token] for token in row)[:: self._way]

    def _beam(self, longest: int, width: int) -> Iterator[NDArray[np.int64]]:
        """The likeliest texts of 1, 2, ... characters [W, T] of those that begin with the likeliest before."""
        texts, nats = np.zeros((1, 0), dtype=np.int64), np.zeros(1)
        logits, state = self._logits, self._state
        for _ in range(longest):
            every = nats[:, None] + _nats(logits)
            if self._end != _NONE:
                every[:, self._end] = np.inf
            best = np.argsort(every, axis=None, kind="stable")[:width]
            row, token = np.unravel_index(best, every.shape)
            texts, nats = np.concatenate([texts[row], token[:, None]], axis=1), every[row, token]
            yield texts
            logits, state = self._decoder.step(token, _rows(state, row))

    def _sampled(self, longest: int, count: int, config: FillConfig) -> NDArray[np.int64]:
        """Samples of so many characters [K, T]."""
        lanes = np.zeros(count, dtype=np.int64)
        numbers = uniforms(config.seed, Purpose.SAMPLE, 0, longest, count)
        settings = SamplingParameters(config.temperature)
        return self._decoder.sample(self._logits[lanes], _rows(self._state, lanes), numbers, settings)[0].T

    def judge(self, texts: Sequence[str]) -> list[Bits]:
        """The bits of each candidate, and of what is beyond the gap after it."""
        read = [self._tokenizer.encode(text[:: self._way]).ids for text in texts]
        longest = max(map(len, read), default=0) + len(self._beyond)
        lanes = max(1, _LOGITS // (max(1, longest) * self._tokenizer.size))
        return [bits for at in range(0, len(read), lanes) for bits in self._judged(read[at : at + lanes])]

    def _judged(self, gaps: Sequence[Ids]) -> Iterator[Bits]:
        """The same of B texts, read side by side; what follows a shorter one is read and not counted."""
        longest = max(map(len, gaps)) + len(self._beyond)
        targets_TB = np.full((longest, len(gaps)), _NONE)
        for lane, gap in enumerate(gaps):
            targets_TB[: len(gap) + len(self._beyond), lane] = np.concatenate([gap, self._beyond])
        lanes = np.zeros(len(gaps), dtype=np.int64)
        logits = np.repeat(self._logits[None], len(gaps), axis=1)
        if longest > 1:
            inputs_TB = np.where(targets_TB == _NONE, self._tokenizer.start, targets_TB)[:-1]
            logits = np.concatenate([logits, self._decoder.read(inputs_TB, _rows(self._state, lanes))[0]])
        bits_TB = charged(logits[:longest], targets_TB, self._tokenizer) / _LN2
        for lane, gap in enumerate(gaps):
            yield Bits(float(bits_TB[: len(gap), lane].sum()), float(bits_TB[len(gap) :, lane].sum()))


def _rows(state: DecoderState, rows: NDArray[np.int64]) -> DecoderState:
    """The states of these lanes."""
    return [tuple(part[rows] for part in layer) for layer in state]


def _nats(logits_BV: Floats) -> NDArray[np.float64]:
    """-ln softmax of each row [B, V]."""
    scores = logits_BV.astype(np.float64)
    scores -= scores.max(axis=1, keepdims=True)
    found: NDArray[np.float64] = np.log(np.exp(scores).sum(axis=1, keepdims=True)) - scores
    return found
