"""From a prime to samples of text: the loop around a decoder.

Sample k at position t uniforms with u(seed, k, t) from the counter-based generator of `charlm.runtime.random`, so
that a sample depends on nothing that was sampled before. This module knows nothing of training and prints nothing.
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

_MOST: Final = 64  # tokens of each sample that are sampled in one go


@dataclass(frozen=True, slots=True)
class Piece:
    """A bit of text that belongs to one sample; `done` when that sample has ended."""

    sample: int
    text: str
    done: bool = False


def generate(
    decoder: Decoder, tokenizer: Tokenizer, config: SampleConfig, *, prime: str = "", stop: str = ""
) -> Iterator[Piece]:
    """`config.count` samples of `config.length` characters, token by token, as they are sampled.

    The prime is read (its unseen characters as the mean embedding) and not returned. A sample ends before `stop`, if
    given: text that could become the stop text is held back until it is known not to. Tokens that are less than a
    character yield once it is whole.
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
    position, steps = 0, 1  # the first character is not kept waiting
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
    """One sample's text on its way out: counts characters and watches for the stop text."""

    def __init__(self, length: int, stop: str, stream: Stream) -> None:
        self.left, self._stop, self._stream = length, stop, stream
        self._held = ""
        self.done = False

    def push(self, token: int) -> str:
        """What can be shown now that this token is sampled."""
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
    """The longest end of `text` that is a beginning of `stop`."""
    return next((size for size in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:size])), 0)


def collect(pieces: Iterator[Piece], count: int) -> Sequence[str]:
    """Whole samples, in order."""
    texts = [""] * count
    for piece in pieces:
        texts[piece.sample] += piece.text
    return texts
