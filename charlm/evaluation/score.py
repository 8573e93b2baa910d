"""The one definition of loss, bits per character and perplexity.

The negative log-likelihood of a text, in nats, is the sum over its tokens of -ln P(token | everything before), with the
state carried from its first character to its last. That sum is divided once, by *characters*, so that figures of
character, byte and SentencePiece models can be compared. Every character is scored, unseen ones with the tokenizer's
escape.

`exact` is that one pass. The default splits the text into lanes that are read in parallel. Each lane first reads the
`CONTEXT` tokens before its own without scoring them, so that it starts scoring from almost the true state. The result
is within 0.0005 bits a character of the exact pass; the difference is measured where lanes overlap.

Legend: N tokens of the text, T tokens of a chunk, B lanes, V vocabulary. This module knows nothing of training, files
or printing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, Final, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from charlm.generation.decoder import Decoder, DecoderState
from charlm.runtime.group import ALONE, Group
from charlm.text.records import edge_groups, edges_of, record_edges
from charlm.text.stored import StoredIds
from charlm.text.tokenizer import Encoded, Ids, StoredTokens, Tokenizer, Tokens

Found = TypeVar("Found")

CONTEXT: Final = 256  # tokens that each lane reads without scoring; measured in docs/log.md
LANES: Final = 64
DRIFT: Final = 1e-4  # largest drift in nats a token; a third of what 0.0005 bits a character allow
_CHUNK: Final = 256
_EACH: Final = 5e-4 * math.log(2)  # the same for the token with the largest, where each is written down
_ALONE: Final = 4096  # tokens before a block that is too short for two lanes, so that nothing is measured
_HISTORY: Final = 2**20  # tokens that the longest context of a block may have
_ALIKE: Final = 0.75  # of the longest record's length, from which one is read beside it
_RECORD_TOKENS: Final = 2**20  # of a text on the disk, whose records are read in groups
_LOGITS: Final = 2**22  # largest number of logits of a chunk: bounds memory for large vocabularies


class Scorable(Protocol):
    """A model that can be scored: it maps ids [T, B] and a state to logits [T, B, V] and the next state."""

    def init_state(self, lanes: int) -> Any: ...

    def __call__(self, ids_TB: Tensor, state: Any) -> tuple[Tensor, Any]: ...


class Watcher(Protocol):
    """What looks at the distributions that a text is scored with, chunk by chunk: together they never are in memory.

    Of logits [T, B, V] those where `scored` [T, B] are seen once for each token of the text: the token at `places`
    [T, B], whose id is in `targets` [T, B].
    """

    def __call__(
        self,
        logits_TBV: Tensor,
        targets_TB: NDArray[np.int64],
        places_TB: NDArray[np.int64],
        scored_TB: NDArray[np.bool_],
        /,
    ) -> None: ...


class ScorableDecoder:
    """A decoder with the interface of a network, to score the model exactly as it generates."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder

    def init_state(self, lanes: int) -> DecoderState:
        return self._decoder.init_state(lanes)

    def __call__(self, ids_TB: Tensor, state: DecoderState) -> tuple[Tensor, DecoderState]:
        logits, state = self._decoder.read(ids_TB.numpy(), state)
        return torch.from_numpy(logits), state


@dataclass(frozen=True, slots=True)
class Score:
    """The negative log-likelihood of a text in nats, and its counts; all figures follow from them.

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
    def of(cls, nats: float, tokens: Tokens | StoredTokens) -> Score:
        """The score of a tokenized text whose tokens have this negative log-likelihood in all, in nats."""
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
        """Cross-entropy in nats per character; NaN for the empty text."""
        return self.nats / self.characters if self.characters else math.nan

    @property
    def bits_per_character(self) -> float:
        """loss / ln 2."""
        return self.loss / math.log(2)

    @property
    def bits_per_byte(self) -> float:
        """Bits per byte of the text as UTF-8."""
        return self.nats / self.bytes / math.log(2) if self.bytes else math.nan

    @property
    def perplexity(self) -> float:
        """Perplexity per character: exp(loss)."""
        return perplexity(self.nats, self.characters)

    @property
    def word_perplexity(self) -> float:
        """Perplexity per word: exp(nats / words); NaN without words, infinite where it overflows."""
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


def uniform_loss(tokenizer: Tokenizer, counts: Score) -> float:
    """The loss, on a text with these counts, of a model to which all tokens are equally likely; nats per character."""
    known, unknown = counts.tokens - counts.unknown_characters, counts.unknown_characters
    nats = known * (math.log(tokenizer.size) + tokenizer.known_nats) + (unknown and unknown * tokenizer.unseen_nats)
    return nats / counts.characters if counts.characters else math.nan


def score(
    model: Scorable,
    tokenizer: Tokenizer,
    tokens: Tokens,
    *,
    exact: bool = False,
    drift: float = DRIFT,
    records: str = "none",
    device: torch.device | None = None,
    group: Group = ALONE,
) -> Score:
    """The score of a tokenized text; the module explains `exact`. Arithmetic is fp32 unless the caller autocasts.

    With another `drift` the mean is as exact as that, and usually a hundred times better: lanes err to both sides.

    A corpus of records, of a kind other than none, is read record by record, which is exact always. The processes of a
    group share the text out, and all of them get its score.
    """
    encoded = Encoded(tokens.ids, tokens.escaped)
    nats = text_nats(model, tokenizer, encoded, exact=exact, drift=drift, records=records, device=device, group=group)
    return Score.of(float(nats.sum(dtype=np.float64)), tokens)


def text_nats(
    model: Scorable,
    tokenizer: Tokenizer,
    encoded: Encoded,
    *,
    exact: bool = False,
    drift: float = DRIFT,
    records: str = "none",
    device: torch.device | None = None,
    watchers: Sequence[Watcher] = (),
    group: Group = ALONE,
) -> NDArray[np.float32]:
    """-ln P of each token [N] in nats, read as `score` does; `watchers` see what each token was scored with.

    Of a group of many processes, the watchers of each see what that one reads.
    """
    edges = record_edges(encoded.ids, tokenizer, records, encoded.escaped)
    if len(edges) > 1:
        return record_nats(model, tokenizer, encoded.ids, edges, device=device, watchers=watchers, group=group)
    read = exact_nats if exact else partial(lane_nats, drift=drift)
    return read(model, tokenizer, encoded.ids, device=device, watchers=watchers, group=group)


@torch.inference_mode()
def record_nats(
    model: Scorable,
    tokenizer: Tokenizer,
    ids: Ids,
    edges: NDArray[np.int64],
    *,
    device: torch.device | None = None,
    watchers: Sequence[Watcher] = (),
    group: Group = ALONE,
) -> NDArray[np.float32]:
    """-ln P of each token [N] in nats, each of the records that begin at `edges` [R + 1] read from the zero state.

    Records of about the same length are read side by side, those of a batch from the longest to the shortest. Many
    processes take the batches in turn.
    """
    nats, lengths = np.zeros(len(ids), dtype=np.float32), np.diff(edges)
    tokens = np.concatenate([[tokenizer.start], ids, [0]]).astype(np.int64)
    with group.together():
        for batch in islice(_batches(lengths), group.rank, None, group.size):
            longest = int(lengths[batch[0]])
            chunk, state = fit_chunk(len(batch), tokenizer.size), model.init_state(len(batch))
            for at in range(0, longest, chunk):
                offset = np.arange(at, min(at + chunk, longest))[:, None]
                inside = offset < lengths[batch]
                place = np.where(inside, edges[batch] + offset, len(ids))
                inputs, targets = np.where(offset, tokens[place], tokenizer.start), tokens[place + 1]
                logits, state = model(torch.from_numpy(inputs).to(device), state)
                nll = cross_entropy(logits, torch.from_numpy(targets).to(device)).cpu().numpy()
                nats[place[inside]] = add_escape(nll, targets, tokenizer)[inside]
                for watcher in watchers:
                    watcher(logits, targets, place, inside)
    group.sum_([torch.from_numpy(nats)])
    return nats


def _batches(lengths: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """The numbers of the records that are read side by side, from the longest to the shortest."""
    order = np.argsort(-lengths, kind="stable")
    while len(order):
        longest = int(lengths[order[0]])
        most = max(1, min(LANES * _CHUNK // longest, 8 * LANES))
        alike = int((lengths[order[:most]] >= _ALIKE * longest).sum())
        yield order[:alike]
        order = order[alike:]


def exact_nats(
    model: Scorable,
    tokenizer: Tokenizer,
    ids: Ids,
    *,
    chunk: int = _CHUNK,
    device: torch.device | None = None,
    watchers: Sequence[Watcher] = (),
    group: Group = ALONE,
) -> NDArray[np.float32]:
    """-ln P of each token [N] in nats, read in one pass, of many processes by one."""
    nats, _ = token_nats(
        model, tokenizer, ids, lanes=1, context=0, chunk=chunk, device=device, watchers=watchers, group=group
    )
    return nats


def lane_nats(
    model: Scorable,
    tokenizer: Tokenizer,
    ids: Ids,
    *,
    drift: float = DRIFT,
    device: torch.device | None = None,
    watchers: Sequence[Watcher] = (),
    group: Group = ALONE,
) -> NDArray[np.float32]:
    """-ln P of each token [N] in nats, read in lanes whose contexts are long enough for this model and text.

    If the lanes drift from the true history, because the model remembers for longer, the text is read again with four
    times the context, and finally in one pass. `watchers` see each reading; the last one counts.
    """
    return _without_drift(
        lambda context: token_nats(
            model, tokenizer, ids, lanes=LANES, context=context, device=device, watchers=watchers, group=group
        ),
        drift,
    )


def _without_drift(read: Callable[[int], tuple[Found, float]], most: float = DRIFT, context: int = CONTEXT) -> Found:
    """What is read with this much context, or with four times as much until lanes do not drift by more."""
    while True:
        found, drift = read(context)
        if drift <= most:
            return found
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
    watchers: Sequence[Watcher] = (),
    group: Group = ALONE,
) -> tuple[NDArray[np.float32], float]:
    """-ln P of each token [N] in nats, in the order of the text, and the lanes' drift from the true history.

    The last quarter of a lane's context was also scored by the lane before it, with a longer history. The drift is the
    mean absolute difference of the two, in nats a token; 0 for one lane. There are fewer lanes than asked for if they
    would be shorter than twice the context; without a context there is one. Each process of a group reads its share of
    the lanes.
    """
    tokens = np.concatenate([[tokenizer.start], ids]).astype(np.int64)
    nats, apart = _in_lanes(model, tokenizer, tokens, lanes, context, chunk, device, watchers, group)
    return nats, float(apart.mean()) if apart.size else 0.0


def _in_lanes(
    model: Scorable,
    tokenizer: Tokenizer,
    tokens: NDArray[np.int64],
    lanes: int,
    context: int,
    chunk: int,
    device: torch.device | None,
    watchers: Sequence[Watcher],
    group: Group = ALONE,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """-ln P of all tokens [N + 1] but the first, and by how much the lanes differ where two have the same token."""
    count = len(tokens) - 1
    nats, cold, warmed = (np.zeros(count, dtype=np.float32) for _ in range(3))
    if not count:
        return nats, cold
    lanes = _lane_count(count, lanes, context)
    plan = _Lanes(count, lanes, context, group.share(lanes))
    with group.together():
        for read in _readings(model, tokenizer, tokens.__getitem__, plan, chunk, device):
            nats[read.place[read.scored]] = read.values[read.scored]
            for watcher in watchers:
                watcher(read.logits, read.targets, read.place, read.scored)
            cold[read.place[read.warming]], warmed[read.place[read.warming]] = read.values[read.warming], 1
    group.sum_([torch.from_numpy(part) for part in (nats, cold, warmed)])
    return nats, np.abs(cold - nats)[warmed > 0]


class BlockReader:
    """Reads a long text in consecutive blocks, in memory that depends on their size only.

    A block is read in lanes, as by `lane_nats`, and the first lane has the end of the block before as its context. The
    context is four times as long, from this block on, where a token differs between two lanes by more than 0.0005 bits;
    a block that no context suffices for is read in one lane, behind the 1,048,576 tokens before it.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer, self._context = tokenizer, CONTEXT
        self._before = np.array([tokenizer.start], dtype=np.int64)

    @torch.inference_mode()
    def nats(
        self, model: Scorable, ids: Ids, *, device: torch.device | None = None, watchers: Sequence[Watcher] = ()
    ) -> NDArray[np.float32]:
        """-ln P of each token [N] of the next block, in nats; `watchers` see the places in it."""
        context = self._context
        if _lane_count(len(ids), LANES, context) == 1:
            context = max(context, _ALONE)
        while True:
            before = self._before[-context - 1 :]
            tokens, known = np.concatenate([before, ids]), len(before) - 1
            behind = [_Behind(watcher, known) for watcher in watchers]
            nats, apart = _in_lanes(model, self._tokenizer, tokens, LANES, context, _CHUNK, device, behind)
            if not apart.size or apart.max() <= _EACH:
                break
            longer = context * 4
            context = self._context = longer if _lane_count(len(tokens) - 1, LANES, longer) > 1 else _HISTORY
        self._before = np.concatenate([self._before, ids])[-_HISTORY - 1 :]
        return nats[known:]


class _Behind:
    """A watcher that shows to another one what is scored behind so many tokens."""

    def __init__(self, watcher: Watcher, known: int) -> None:
        self._watcher, self._known = watcher, known

    def __call__(
        self,
        logits_TBV: Tensor,
        targets_TB: NDArray[np.int64],
        places_TB: NDArray[np.int64],
        scored_TB: NDArray[np.bool_],
    ) -> None:
        scored = scored_TB & (places_TB >= self._known)
        if scored.any():
            self._watcher(logits_TBV, targets_TB, places_TB - self._known, scored)


def score_stored(
    model: Scorable,
    tokenizer: Tokenizer,
    tokens: StoredTokens,
    *,
    exact: bool = False,
    device: torch.device | None = None,
    cells: NDArray[np.float64] | None = None,
    records: str = "none",
    group: Group = ALONE,
) -> Score:
    """`score` of a text on the disk, in memory that does not depend on its length; of `records`, on the longest.

    `cells` [M] become the sums of M pieces of the text, in nats, with as many tokens each, give or take one.
    """
    sums = np.zeros(1) if cells is None else cells
    if records != "none":
        return Score.of(_stored_record_nats(model, tokenizer, tokens, records, device, sums, group), tokens)
    nats = _without_drift(
        lambda context: _stored_nats(model, tokenizer, tokens.ids, context, device, sums, group),
        context=0 if exact else CONTEXT,
    )
    return Score.of(nats, tokens)


def _stored_record_nats(
    model: Scorable,
    tokenizer: Tokenizer,
    tokens: StoredTokens,
    records: str,
    device: torch.device | None,
    cells: NDArray[np.float64],
    group: Group,
) -> float:
    """The sum of `record_nats`, of some records after the other."""
    nats, cells[:] = 0.0, 0
    for edges in edge_groups(edges_of(tokens, tokenizer, records), _RECORD_TOKENS):
        begin, end = int(edges[0]), int(edges[-1])
        found = record_nats(model, tokenizer, tokens.ids[begin:end], edges - begin, device=device, group=group)
        add_to_cells(cells, np.arange(begin, end), found, len(tokens.ids))
        nats += float(found.sum(dtype=np.float64))
    return nats


@torch.inference_mode()
def _stored_nats(
    model: Scorable,
    tokenizer: Tokenizer,
    ids: StoredIds,
    context: int,
    device: torch.device | None,
    cells: NDArray[np.float64],
    group: Group,
) -> tuple[float, float]:
    """The sum of `token_nats`, and the same drift: of all values only those are kept that two lanes have."""
    cells[:] = 0
    if not len(ids):
        return 0.0, 0.0
    lanes = _lane_count(len(ids), LANES, context)
    plan = _Lanes(len(ids), lanes, context, group.share(lanes))
    begin, nats, mine = context * 3 // 4, np.zeros(1), slice(plan.own.start, plan.own.stop)
    both = np.zeros((2, 2, context - begin, lanes), dtype=np.float32)  # cold, warm; whether there is one, its value

    def tokens(place: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.where(place == 0, tokenizer.start, ids.at(np.maximum(place - 1, 0))).astype(np.int64)

    with group.together():
        for read in _readings(model, tokenizer, tokens, plan, _CHUNK, device):
            nats += read.values[read.scored].sum(dtype=np.float64)
            add_to_cells(cells, read.place[read.scored], read.values[read.scored], len(ids))
            inside = read.place < len(ids)
            for (known, value), first in zip(both, (begin, begin + plan.stride), strict=True):
                rows = (read.offset[:, 0] >= first) & (read.offset[:, 0] < first + len(known))
                at = read.offset[rows, 0] - first
                known[at, mine], value[at, mine] = inside[rows], read.values[rows]
    group.sum_([torch.from_numpy(nats), torch.from_numpy(cells)])
    group.sum_([torch.from_numpy(both)])
    (cold, of_cold), (warm, of_warm) = both
    drift = np.abs(of_cold[:, 1:] - of_warm[:, :-1])[(cold[:, 1:] > 0) & (warm[:, :-1] > 0)]
    return float(nats[0]), float(drift.mean()) if drift.size else 0.0


def add_to_cells(
    cells: NDArray[np.float64], places: NDArray[np.int64], nats: NDArray[np.floating[Any]], count: int
) -> None:
    """Add the nats at these places, of so many in all, to the sums of pieces of the text that they belong to."""
    np.add.at(cells, places * len(cells) // count, nats)


class _Lanes(NamedTuple):
    """How a text of so many tokens is read: in how many lanes, with how much context, and which of them are our own."""

    tokens: int
    lanes: int
    context: int
    own: range

    @property
    def stride(self) -> int:
        return _segments(self.tokens, self.lanes, self.context)[0]


class _Reading(NamedTuple):
    """A chunk as the lanes read it; all but `offset` [T, 1] are [T, B]."""

    offset: NDArray[np.int64]
    place: NDArray[np.int64]
    values: NDArray[np.float32]  # nats, escape included
    logits: Tensor
    targets: NDArray[np.int64]
    scored: NDArray[np.bool_]  # of the lane's own tokens
    warming: NDArray[np.bool_]  # in the last quarter of its context


def _readings(
    model: Scorable,
    tokenizer: Tokenizer,
    tokens: Callable[[NDArray[np.int64]], NDArray[np.int64]],
    plan: _Lanes,
    chunk: int,
    device: torch.device | None,
) -> Iterator[_Reading]:
    """Read a text of N tokens in our own lanes; `tokens` gives those at places 0 (the start token) to N."""
    (count, lanes, context, own), (stride, total) = plan, _segments(plan.tokens, plan.lanes, plan.context)
    begin = np.arange(own.start, own.stop, dtype=np.int64)[None, :] * stride
    chunk = fit_chunk(lanes, tokenizer.size, chunk)
    state, first = model.init_state(len(own)), begin == 0
    for at in range(0, total if own else 0, chunk):
        offset = np.arange(at, min(at + chunk, total))[:, None]
        place = begin + offset
        inputs = torch.from_numpy(tokens(np.minimum(place, count - 1))).to(device)
        targets = tokens(np.minimum(place + 1, count))
        logits, state = model(inputs, state)
        nll = cross_entropy(logits, torch.from_numpy(targets).to(device)).cpu().numpy()
        inside = place < count
        yield _Reading(
            offset,
            place,
            add_escape(nll, targets, tokenizer),
            logits,
            targets,
            inside & ((offset >= context) | first),
            inside & (offset >= context * 3 // 4) & (offset < context) & ~first,
        )


def _lane_count(tokens: int, lanes: int, context: int) -> int:
    """How many lanes a text of so many tokens is read in: none shorter than twice the context."""
    return max(1, min(lanes, tokens // (2 * context))) if context else 1


def fit_chunk(lanes: int, vocabulary: int, most: int = _CHUNK) -> int:
    """The number of tokens of each lane in a chunk: `most`, or fewer if their logits would need too much memory."""
    return max(1, min(most, _LOGITS // (lanes * vocabulary)))


def _segments(tokens: int, lanes: int, context: int) -> tuple[int, int]:
    """The distance between the beginnings of lanes, and the length of a lane, in tokens.

    Lane 0 scores everything that it reads, the others everything after their context. 10 tokens in 2 lanes with a
    context of 2:

        lane 0    0 1 2 3 4 5              scores 0 to 5
        lane 1            4 5 6 7 8 9      scores 6 to 9

    >>> _segments(10, 2, 2)
    (4, 6)
    """
    if lanes == 1:
        return tokens, tokens
    stride = -(-(tokens - context) // lanes)
    return stride, stride + context


def cross_entropy(logits_TBV: Tensor, targets_TB: Tensor) -> Tensor:
    """-ln softmax(logits)[target] of each target [T, B] in nats; 0, with a zero gradient, for unseen characters."""
    known = targets_TB < logits_TBV.shape[-1]
    flat = F.cross_entropy(logits_TBV.float().flatten(0, 1), (targets_TB * known).flatten(), reduction="none")
    return torch.where(known, flat.view_as(targets_TB), 0.0)


def add_escape(nats: NDArray[Any], ids: NDArray[np.integer[Any]], tokenizer: Tokenizer) -> NDArray[Any]:
    """-ln P of tokens by their ids, from the nats that a model of the vocabulary gives them (arrays of any shape).

    P(c) is (1 - e) times the model's probability for a character in the vocabulary, and the same for all others; bytes
    and SentencePiece have no escape (`charlm.text.tokenizer`).
    """
    if not tokenizer.escape:
        return nats
    return np.where(ids < tokenizer.size, nats + tokenizer.known_nats, tokenizer.unseen_nats).astype(nats.dtype)
