"""The one definition of loss, bits per character and perplexity.

A text's nats are the sum over its tokens of -ln P(token | everything before), with the state carried from its first
character to its last; figures divide that sum once, by *characters*, so that characters, bytes and SentencePiece
compare. Every character is charged, unseen ones through the tokenizer's escape.

`exact` is that one pass. The default cuts the text into lanes that are read side by side. Each lane first reads the
`CONTEXT` tokens before its own without scoring them, so that the state it starts from is nearly the true one. What
comes out is within 0.0005 bits a character of the exact pass, which is watched where the lanes overlap.

This module knows nothing of training, files or printing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from charlm.generation.decoder import Decoder, DecoderState
from charlm.text.tokenizer import Ids, Tokenizer, Tokens

CONTEXT: Final = 256  # tokens that each lane reads unscored; docs/log.md has the measurement behind it
LANES: Final = 64
_DRIFT: Final = 1e-4  # nats a token at the end of the contexts; a third of what the promise of 0.0005 bpc allows
_CHUNK: Final = 256
_LOGITS: Final = 2**24  # numbers of one chunk's logits: bounds memory for large vocabularies


class Scorable(Protocol):
    """What can be scored: ids [T, B] and a state to logits [T, B, V] and the next state."""

    def init_state(self, lanes: int) -> Any: ...

    def __call__(self, ids_TB: Tensor, state: Any) -> tuple[Tensor, Any]: ...


class ScorableDecoder:
    """A decoder where a network is expected: what sampling writes with, scored like it."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder

    def init_state(self, lanes: int) -> DecoderState:
        return self._decoder.init_state(lanes)

    def __call__(self, ids_TB: Tensor, state: DecoderState) -> tuple[Tensor, DecoderState]:
        logits, state = self._decoder.read(ids_TB.numpy(), state)
        return torch.from_numpy(logits), state


@dataclass(frozen=True, slots=True)
class Score:
    """Totals over a text, in natural-log units; every figure follows from them.

    >>> score = Score(nats=2 * math.log(4), characters=2, bytes=2, words=1, tokens=2, unknown_characters=0)
    >>> score.bits_per_character, score.perplexity, round(score.word_perplexity, 9)
    (2.0, 4.0, 16.0)
    """

    nats: float
    characters: int
    bytes: int
    words: int
    tokens: int
    unknown_characters: int

    @classmethod
    def of(cls, nats: float, tokens: Tokens) -> Score:
        return cls(
            nats=nats,
            characters=tokens.characters,
            bytes=tokens.bytes,
            words=tokens.words,
            tokens=len(tokens.ids),
            unknown_characters=tokens.unknown_characters,
        )

    def __repr__(self) -> str:
        each = f"{self.loss:.4f} nats or {self.bits_per_character:.4f} bits per character"
        return f"Score({self.characters:,} characters: {each}, perplexity {self.perplexity:.2f})"

    @property
    def loss(self) -> float:
        """Nats per character."""
        return self.nats / self.characters if self.characters else math.nan

    @property
    def bits_per_character(self) -> float:
        return self.loss / math.log(2)

    @property
    def bits_per_byte(self) -> float:
        return self.nats / self.bytes / math.log(2) if self.bytes else math.nan

    @property
    def perplexity(self) -> float:
        """Per character: exp(loss)."""
        return perplexity(self.nats, self.characters)

    @property
    def word_perplexity(self) -> float:
        """exp(nats / words); NaN without words, infinite where it overflows."""
        return perplexity(self.nats, self.words)


def perplexity(nats: float, count: int) -> float:
    """exp(nats / count), per character or per word; NaN where there are none, infinite where it overflows.

    >>> perplexity(2 * math.log(4), 2), perplexity(1.0, 0), perplexity(1e6, 1)
    (4.0, nan, inf)
    """
    if not count:
        return math.nan
    mean = nats / count
    return math.inf if mean > 709 else math.exp(mean)  # NaN stays NaN


def score(
    model: Scorable,
    tokenizer: Tokenizer,
    tokens: Tokens,
    *,
    exact: bool = False,
    device: torch.device | None = None,
) -> Score:
    """The score of a tokenised text; see the module for `exact`. Arithmetic is fp32 unless the caller autocasts."""
    read = exact_nats if exact else lane_nats
    nats = read(model, tokenizer, tokens.ids, device=device)
    return Score.of(float(nats.sum(dtype=np.float64)), tokens)


def exact_nats(
    model: Scorable, tokenizer: Tokenizer, ids: Ids, *, chunk: int = _CHUNK, device: torch.device | None = None
) -> NDArray[np.float32]:
    """-ln P of each token [N], read in one pass."""
    return token_nats(model, tokenizer, ids, lanes=1, context=0, chunk=chunk, device=device)[0]


def lane_nats(
    model: Scorable, tokenizer: Tokenizer, ids: Ids, *, device: torch.device | None = None
) -> NDArray[np.float32]:
    """-ln P of each token [N], read in lanes whose contexts are long enough for this model on this text.

    A model that remembers for very long shows a drift; it is read again with a longer context, at last in one pass.
    """
    context = CONTEXT
    while True:
        nats, drift = token_nats(model, tokenizer, ids, lanes=LANES, context=context, device=device)
        if drift <= _DRIFT:
            return nats
        context *= 4


@torch.inference_mode()
def token_nats(
    model: Scorable,
    tokenizer: Tokenizer,
    ids: Ids,
    *,
    lanes: int,
    context: int,
    chunk: int = _CHUNK,
    device: torch.device | None = None,
) -> tuple[NDArray[np.float32], float]:
    """-ln P of each token [N] in the order of the text, and how far the lanes' beginnings are from true history.

    That drift is the mean difference, in nats a token, between what a lane makes of the last quarter of its context and
    what the lane before it, which scored the same tokens, made of them; 0 for one lane. There are as many lanes as
    asked for if each is at least twice as long as its context; without a context there is one.
    """
    nats, cold = np.zeros(len(ids), dtype=np.float32), np.full(len(ids), np.nan, dtype=np.float32)
    if not len(ids):
        return nats, 0.0
    lanes = max(1, min(lanes, len(ids) // (2 * context))) if context else 1
    stride, total = _segments(len(ids), lanes, context)
    begin = np.arange(lanes, dtype=np.int64)[None, :] * stride
    chunk = fit_chunk(lanes, tokenizer.size, chunk)
    state = model.init_state(lanes)
    stream = np.concatenate([[tokenizer.start], ids]).astype(np.int64)
    for at in range(0, total, chunk):
        offset = np.arange(at, min(at + chunk, total))[:, None]
        place = begin + offset
        inputs = torch.from_numpy(stream[np.minimum(place, len(ids) - 1)]).to(device)
        targets = torch.from_numpy(stream[np.minimum(place + 1, len(ids))]).to(device)
        logits, state = model(inputs, state)
        values = charged(logits, targets, tokenizer).cpu().numpy()
        first, inside = begin == 0, place < len(ids)
        scored = inside & ((offset >= context) | first)
        nats[place[scored]] = values[scored]
        warming = inside & (offset >= context * 3 // 4) & (offset < context) & ~first
        cold[place[warming]] = values[warming]
    warmed = ~np.isnan(cold)
    return nats, float(np.abs(cold - nats)[warmed].mean()) if warmed.any() else 0.0


def fit_chunk(lanes: int, vocabulary: int, most: int = _CHUNK) -> int:
    """How many tokens of each lane are read at once: `most`, or fewer where their logits would take too much memory."""
    return max(1, min(most, _LOGITS // (lanes * vocabulary)))


def _segments(tokens: int, lanes: int, context: int) -> tuple[int, int]:
    """Distance between the lanes' beginnings, and the length of each.

    Lane 0 scores all that it reads, the others all after their context.
    """
    if lanes == 1:
        return tokens, tokens
    stride = -(-(tokens - context) // lanes)
    return stride, stride + context


def charged(logits_TBV: Tensor, targets_TB: Tensor, tokenizer: Tokenizer) -> Tensor:
    """-ln P of each target [T, B]: cross-entropy and the escape's price."""
    known = targets_TB < tokenizer.size
    flat = F.cross_entropy(logits_TBV.float().flatten(0, 1), (targets_TB * known).flatten(), reduction="none")
    if not tokenizer.escape:
        return flat.view_as(targets_TB)
    return torch.where(known, flat.view_as(targets_TB) + tokenizer.known_nats, tokenizer.unseen_nats)
