"""Choosing the next token: a pure function of logits, a number in [0, 1) and the options; and the loop around it.

Sample k at position t draws with u(seed, k, t) from the counter-based generator of `charlm.runtime.random`, so
that a sample depends on nothing that was drawn before. This module knows nothing of training and prints nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from charlm.config import SampleConfig
from charlm.inference.decoder import Decoder, Floats
from charlm.runtime.random import Purpose, uniform
from charlm.text.tokenizer import Stream, Tokenizer


def next_token(
    logits: Floats, u: float, *, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0
) -> int:
    """The token that u in [0, 1) selects from the tempered, cut and renormalised distribution over logits [V].

    Tokens are laid out in the order of their ids, and the first whose cumulative probability exceeds u is taken.
    Temperature 0 is argmax (the lowest id among equals).

    >>> next_token(np.log(np.array([0.5, 0.25, 0.25], dtype=np.float32)), 0.6)
    1
    """
    if temperature == 0:
        return int(np.argmax(logits))
    cumulative = np.cumsum(distribution(logits, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p))
    return min(
        int(np.searchsorted(cumulative, u * cumulative[-1], side="right")),
        int(np.flatnonzero(np.diff(cumulative, prepend=0.0))[-1]),
    )


def distribution(
    logits: Floats, *, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0
) -> NDArray[np.float64]:
    """softmax(logits / temperature) [V], cut and renormalised.

    The cuts, in order: the K likeliest; the smallest set that holds `top_p` (nucleus, Holtzman et al. 2020); what has
    at least `min_p` of the likeliest's probability (Nguyen et al. 2024). Ties go to the lower id.
    """
    with np.errstate(over="ignore"):  # the least temperatures send all but the likeliest to -inf, whose exp is 0
        scaled = (logits.astype(np.float64) - float(logits.max())) / temperature
    p = np.exp(scaled)
    p /= p.sum()
    order = np.argsort(-p, kind="stable")
    keep = len(p)
    if top_k:
        keep = min(keep, top_k)
    if top_p < 1:
        within = p[order[:keep]] / p[order[:keep]].sum()
        keep = min(keep, int(np.searchsorted(np.cumsum(within), top_p, side="left")) + 1)
    if min_p:
        keep = min(keep, int((p >= min_p * p[order[0]]).sum()))
    if keep < len(p):
        p[order[keep:]] = 0
        p /= p.sum()
    return p


@dataclass(frozen=True, slots=True)
class Piece:
    """A bit of text that belongs to one sample; `done` when that sample has ended."""

    sample: int
    text: str
    done: bool = False


def generate(
    decoder: Decoder, tokenizer: Tokenizer, config: SampleConfig, *, prime: str = "", stop: str = ""
) -> Iterator[Piece]:
    """`config.count` samples of `config.length` characters, token by token, as they are drawn.

    The prime is read (its unseen characters as the mean embedding) and not returned. A sample ends before `stop`, if
    given: text that could become the stop text is held back until it is known not to. Tokens that are less than a
    character yield once it is whole.
    """
    texts = [_Sample(config.length, stop, Stream(tokenizer)) for _ in range(config.count)]
    if config.length == 0:
        yield from (Piece(k, "", done=True) for k in range(config.count))
        return
    logits, state = decoder.step([tokenizer.start], decoder.init_state(1))
    for token in tokenizer.encode(prime).ids:
        logits, state = decoder.step([int(token)], state)
    streams = range(config.count)
    logits = np.repeat(logits, config.count, axis=0)
    state = [tuple(np.repeat(part, config.count, axis=0) for part in layer) for layer in state]
    position = 0
    while True:
        tokens = [
            next_token(
                logits[k],
                uniform(config.seed, Purpose.SAMPLE, position, k),
                temperature=config.temperature,
                top_k=config.top_k,
                top_p=config.top_p,
                min_p=config.min_p,
            )
            for k in streams
        ]
        for k, token in enumerate(tokens):
            if not texts[k].done:
                text = texts[k].push(token)
                if text or texts[k].done:
                    yield Piece(k, text, texts[k].done)
        if all(sample.done for sample in texts):
            return
        logits, state = decoder.step(tokens, state)
        position += 1


class _Sample:
    """One sample's text on its way out: counts characters and watches for the stop text."""

    def __init__(self, length: int, stop: str, stream: Stream) -> None:
        self._left, self._stop, self._stream = length, stop, stream
        self._held = ""
        self.done = False

    def push(self, token: int) -> str:
        """What can be shown now that this token is drawn."""
        fresh = self._stream.push(token)[: self._left]
        self._left -= len(fresh)
        self._held += fresh
        if self._stop and self._stop in self._held:
            self.done = True
            return self._held[: self._held.index(self._stop)]
        self.done = self._left == 0
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
