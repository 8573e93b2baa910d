"""Generating text: from a prime to samples, by the loop around a decoder.

Sample k at position t uses the uniform number u(seed, k, t) of the counter-based generator in `charlm.runtime.random`,
so that samples do not depend on each other, nor on how many tokens are sampled at once. This module knows nothing of
training and prints nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from charlm.config import SampleConfig
from charlm.generation.decoder import Decoder
from charlm.generation.sampling import SamplingParameters
from charlm.runtime.random import Purpose, uniforms
from charlm.text.tokenizer import Stream, Tokenizer

_MOST: Final = 64  # tokens of each sample that are sampled in one call


@dataclass(frozen=True, slots=True)
class Piece:
    """New text of one sample, by its number from 0; `done` if the sample ends with it."""

    sample: int
    text: str
    done: bool = False


def generate(
    decoder: Decoder, tokenizer: Tokenizer, config: SampleConfig, *, prime: str = "", stop: str = ""
) -> Iterator[Piece]:
    """`config.count` samples of `config.length` characters, yielded as they are generated.

    The prime is read, unseen characters as the mean embedding, and not returned. A sample ends before the text `stop`,
    if one is given: text that might be the beginning of it is held back until that is decided. A character of several
    tokens is yielded when it is complete.
    """
    texts = [_Sample(config.length, stop, Stream(tokenizer)) for _ in range(config.count)]
    if config.length == 0:
        yield from (Piece(k, "", done=True) for k in range(config.count))
        return
    settings = SamplingParameters(config.temperature, config.top_k, config.top_p, config.min_p)
    read = np.concatenate([[tokenizer.start], tokenizer.encode(prime).ids])
    logits, state = decoder.after(read[:, None], decoder.init_state(1))
    logits = np.repeat(logits, config.count, axis=0)
    state = [tuple(np.repeat(part, config.count, axis=0) for part in layer) for layer in state]
    position, steps = 0, 1  # one token first, so that the first character appears at once
    while True:
        uniforms_TB = uniforms(config.seed, Purpose.SAMPLE, position, steps, config.count)
        tokens, logits, state = decoder.sample(logits, state, uniforms_TB, settings)
        for row in tokens.tolist():
            for k, token in enumerate(row):
                if not texts[k].done:
                    text = texts[k].push(token)
                    if text or texts[k].done:
                        yield Piece(k, text, texts[k].done)
            if all(sample.done for sample in texts):
                return
        position, steps = position + steps, min(2 * steps, _MOST, max(sample.left for sample in texts))


class _Sample:
    """The text of one sample so far: counts its characters and looks for the stop text."""

    def __init__(self, length: int, stop: str, stream: Stream) -> None:
        self.left, self._stop, self._stream = length, stop, stream
        self._held = ""
        self.done = False

    def push(self, token: int) -> str:
        """The text that can be shown after this token."""
        fresh = self._stream.push(token)[: self.left]
        self.left -= len(fresh)
        self._held += fresh
        if self._stop and self._stop in self._held:
            self.done = True
            return self._held[: self._held.index(self._stop)]
        self.done = self.left == 0
        keep = 0 if self.done else _overlap(self._held, self._stop)
        shown, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return shown


def _overlap(text: str, stop: str) -> int:
    """The length of the longest suffix of `text` that is a proper prefix of `stop`."""
    return next((size for size in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:size])), 0)


def collect(pieces: Iterator[Piece], count: int) -> Sequence[str]:
    """The complete samples, in the order of their numbers."""
    texts = [""] * count
    for piece in pieces:
        texts[piece.sample] += piece.text
    return texts
