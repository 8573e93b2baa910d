"""Generating text: from a prime to samples, by the loop around a decoder.

Sample k at position t uses the uniform number u(seed, k, t) of the counter-based generator in `charlm.runtime.random`,
so that samples do not depend on each other, nor on how many tokens are sampled at once. They are generated in parallel,
but only so far ahead of the first that what a reader in order has to hold is bounded. This module knows nothing of
training and prints nothing.

After the start input alone a text may go on anywhere, also inside a word, since the lanes of training begin anywhere.
So where no prime is given, a line end is read after it, and the sample begins where a line does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from charlm.config import LEFT_OUT, SampleConfig
from charlm.generation.decoder import Decoder, DecoderState
from charlm.generation.sampling import Floats, SamplingParameters, distribution
from charlm.runtime.random import Purpose, fresh_seed, uniforms
from charlm.text.tokenizer import Stream, Tokenizer

LENGTH: Final = 500  # characters, where no length is given
LONGEST: Final = 100_000  # characters of a record that does not end, where no length is given
_LINES: Final = 1e-4  # probability of a line end after the start input; below it the text seems to have no lines
_MOST: Final = 64  # tokens of each sample that are sampled in one call
_AHEAD: Final = 2**24  # tokens of all samples together that are generated in parallel; then the samples go on in turn


@dataclass(frozen=True, slots=True)
class Piece:
    """New text of one sample, by its number from 0; `done` if the sample ends with it.

    It is `stopped` where one of the stop texts would follow, and otherwise cut off at its length.
    """

    sample: int
    text: str
    done: bool = False
    stopped: bool = False


def completed(config: SampleConfig, length: int = LENGTH) -> SampleConfig:
    """The same options with what was left out: this length, and a fresh seed.

    >>> completed(SampleConfig(seed=7)).length, completed(SampleConfig(length=3)).seed < 10**9
    (500, True)
    """
    return replace(
        config,
        length=length if config.length == LEFT_OUT else config.length,
        seed=fresh_seed() if config.seed == LEFT_OUT else config.seed,
    )


def generate(
    decoder: Decoder,
    tokenizer: Tokenizer,
    config: SampleConfig,
    *,
    prime: str | None = None,
    stops: Sequence[str] = (),
    first: int = 0,
) -> Iterator[Piece]:
    """`config.count` samples of `config.length` characters, yielded as they are generated.

    The prime is read, unseen characters as the mean embedding, and not returned. Without one the samples begin where a
    line does; with an empty one, wherever the start input leads. A sample ends before the first of the texts `stops`:
    text that might be the beginning of one is held back until that is decided. A character of several tokens is yielded
    when it is complete. The samples are those from number `first` on, and called 0, 1, ... here.
    """
    config = completed(config)
    if config.length == 0:
        yield from (Piece(k, "", done=True) for k in range(config.count))
        return
    logits, state = _read(decoder, tokenizer, prime)
    logits = np.repeat(logits, config.count, axis=0)
    state = [tuple(np.repeat(part, config.count, axis=0) for part in layer) for layer in state]
    ends = [stop for stop in stops if stop]
    texts = [_Sample(k, config.length, ends, Stream(tokenizer)) for k in range(config.count)]
    groups = [_Group(texts, logits, state)]
    while groups:
        group = groups.pop()
        yield from group.run(decoder, config, first)
        groups += reversed(group.split())


def _read(decoder: Decoder, tokenizer: Tokenizer, prime: str | None) -> tuple[Floats, DecoderState]:
    """Logits [1, V] and state after the start input and the prime."""
    start = decoder.init_state(1)
    if prime is not None:
        return decoder.after(np.concatenate([[tokenizer.start], tokenizer.encode(prime).ids])[:, None], start)
    logits, state = decoder.step([tokenizer.start], start)
    ids = tokenizer.encode("\n").ids
    if len(ids) == 1 and ids[0] < tokenizer.size and distribution(logits[0])[ids[0]] >= _LINES:
        return decoder.step(ids, state)
    return logits, state


class _Group:
    """Samples that are generated in parallel: a lane for each, with its logits [B, V] and its state."""

    def __init__(
        self, samples: Sequence[_Sample], logits: Floats, state: DecoderState, position: int = 0, steps: int = 1
    ) -> None:
        self._samples, self._logits, self._state = samples, logits, state
        self._position, self._steps = position, steps  # one token first, so that the first character appears at once

    def run(self, decoder: Decoder, config: SampleConfig, first: int) -> Iterator[Piece]:
        """New text until all samples are done; of several, at most until they are far enough ahead.

        Sample 0 has the random numbers of stream `first`.
        """
        settings = SamplingParameters(config.temperature, config.top_k, config.top_p, config.min_p)
        several = len(self._samples) > 1
        while left := self._left():
            if several and self._position * config.count >= _AHEAD:
                return
            if 2 * len(left) <= len(self._samples):  # those that have ended are computed no longer
                self._keep(left)
            place = (Purpose.SAMPLE, self._position, self._steps, config.count, first)
            uniforms_TB = uniforms(config.seed, *place)[:, [sample.number for sample in self._samples]]
            tokens, self._logits, self._state = decoder.sample(self._logits, self._state, uniforms_TB, settings)
            yield from self._pieces(tokens)
            self._position += self._steps
            self._steps = min(2 * self._steps, _MOST, max(sample.left for sample in self._samples))

    def _left(self) -> list[int]:
        """The lanes of samples that are not done."""
        return [lane for lane, sample in enumerate(self._samples) if not sample.done]

    def _keep(self, lanes: list[int]) -> None:
        """These lanes alone."""
        self._samples = [self._samples[lane] for lane in lanes]
        self._state = [tuple(part[lanes] for part in layer) for layer in self._state]
        self._logits = self._logits[lanes]

    def _pieces(self, tokens: NDArray[np.int64]) -> Iterator[Piece]:
        for row in tokens.tolist():
            for sample, token in zip(self._samples, row, strict=True):
                if not sample.done:
                    text = sample.push(token)
                    if text or sample.done:
                        yield Piece(sample.number, text, sample.done, sample.stopped)

    def split(self) -> list[_Group]:
        """What is left to do: the first sample that is not done, and after it the others."""
        left = self._left()
        return [self._part(lanes) for lanes in (left[:1], left[1:]) if lanes]

    def _part(self, lanes: list[int]) -> _Group:
        part = copy(self)
        part._keep(lanes)
        return part


class _Sample:
    """The text of one sample so far: counts its characters and looks for the texts that end it."""

    def __init__(self, number: int, length: int, stops: Sequence[str], stream: Stream) -> None:
        self.number = number
        self.left, self._stops, self._stream = length, stops, stream
        self._held = ""
        self.done = self.stopped = False

    def push(self, token: int) -> str:
        """The text that can be shown after this token."""
        fresh = self._stream.push(token)[: self.left]
        self.left -= len(fresh)
        self._held += fresh
        if found := [at for stop in self._stops if (at := self._held.find(stop)) >= 0]:
            self.done = self.stopped = True
            return self._held[: min(found)]
        self.done = self.left == 0
        keep = 0 if self.done else max((overlap(self._held, stop) for stop in self._stops), default=0)
        shown, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return shown


def overlap(text: str, stop: str) -> int:
    """The length of the longest suffix of `text` that is a proper prefix of `stop`."""
    return next((size for size in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:size])), 0)


def in_order(pieces: Iterator[Piece]) -> Iterator[Piece]:
    """The pieces sample by sample: the first sample's as they come, those of the others held until it is their turn."""
    turn, held = 0, dict[int, list[Piece]]()
    for piece in pieces:
        held.setdefault(piece.sample, []).append(piece)
        while (own := held.pop(turn, None)) is not None:
            yield from own
            turn += own[-1].done


def together(pieces: Iterator[Piece], *, keep: bool = True) -> Iterator[Piece]:
    """Each sample as one piece, from pieces in order; without its text unless it is to `keep`."""
    written: list[str] = []
    for piece in pieces:
        written += [piece.text] * keep
        if piece.done:
            yield replace(piece, text="".join(written))
            written.clear()


def collect(pieces: Iterator[Piece], count: int) -> Sequence[str]:
    """The complete samples, in the order of their numbers: `count` of them, or as many as there are."""
    texts: list[list[str]] = [[] for _ in range(count)]
    done = 0
    for piece in pieces:
        texts[piece.sample].append(piece.text)
        done += piece.done
    return list(map("".join, texts[:done]))
