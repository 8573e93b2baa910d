"""Which of the records that a model writes are taken: each once, none of the training text; and the likeliest first.

Sample k is the same whichever are taken: those that are not are passed over, and the next number is tried.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from charlm.generation.decoder import Decoder
from charlm.generation.generate import Piece, in_order, together
from charlm.generation.sampling import Floats
from charlm.text.tokenizer import Ids, Tokenizer

TRIES: Final = 50  # samples for each record that is wanted, at most
_FEWEST: Final = 16  # samples that are tried together, at least
_MOST: Final = 4096
_SIDE_BY_SIDE: Final = 64  # records whose probabilities are computed together
_NONE: Final = -1  # for a token behind the end of a record
_LOGITS: Final = 2**22  # of one call of the decoder, about
Sampled = Callable[[int, int], Iterator[Piece]]  # from a first number on, so many samples


@dataclass(frozen=True, slots=True)
class Choice:
    """Whole records only: with `unique` none twice, and none of those that are `known`."""

    unique: bool = False
    known: frozenset[str] = frozenset()

    def take(self, sampled: Sampled, count: int, prime: str) -> Iterator[Piece]:
        """The first `count` samples to be taken, each as one piece and without the prime, numbered from 0.

        A record that is cut off before its end, or has no visible character, is never taken. At most `TRIES` times
        `count` samples are tried, so there may be fewer.
        """
        found, tried, taken = 0, 0, set[str]()
        while (left := min(TRIES * count - tried, max(count - found, _FEWEST), _MOST)) > 0 and found < count:
            for sample in together(in_order(sampled(tried, left))):
                record = prime + sample.text
                if not sample.stopped or not record.strip() or record in self.known or record in taken:
                    continue
                yield replace(sample, sample=found)
                found += 1
                if found == count:
                    return
                taken |= {record} if self.unique else set()
            tried += left


def bits_per_character(decoder: Decoder, tokenizer: Tokenizer, records: Sequence[str], end: str) -> NDArray[np.float64]:
    """-log2 P of each record [N] under the model as it is, its `end` counted, divided by its characters and the end."""
    found = [np.zeros(0)]
    for at in range(0, len(records), _SIDE_BY_SIDE):
        texts = [record + end for record in records[at : at + _SIDE_BY_SIDE]]
        nats = _nats(decoder, tokenizer, [tokenizer.encode(text).ids for text in texts])
        found.append(nats / np.log(2) / np.array([max(1, len(text)) for text in texts]))
    return np.concatenate(found)


def _nats(decoder: Decoder, tokenizer: Tokenizer, records: Sequence[Ids]) -> NDArray[np.float64]:
    """-ln P of each of B records, read side by side [T, B]; what follows a shorter one is read and not counted."""
    longest = max(map(len, records))
    targets_TB = np.full((longest, len(records)), _NONE)
    for lane, ids in enumerate(records):
        targets_TB[: len(ids), lane] = ids
    inputs_TB = np.vstack([np.full((1, len(records)), tokenizer.start), targets_TB[:-1]])
    inputs_TB[inputs_TB == _NONE] = tokenizer.start
    steps = max(1, _LOGITS // (len(records) * tokenizer.size))
    state = decoder.init_state(len(records))
    nats = np.zeros(len(records))
    for t in range(0, longest, steps):
        logits, state = decoder.read(inputs_TB[t : t + steps], state)
        nats += charged(logits, targets_TB[t : t + steps], tokenizer).sum(axis=0)
    return nats


def charged(logits_TBV: Floats, targets_TB: NDArray[np.int64], tokenizer: Tokenizer) -> NDArray[np.float64]:
    """-ln P of each token [T, B], the escape included; 0 where there is none, which is -1."""
    scores = logits_TBV.astype(np.float64)
    most = scores.max(axis=2)
    total = most + np.log(np.exp(scores - most[..., None]).sum(axis=2))
    known = np.clip(targets_TB, 0, tokenizer.size - 1)[..., None]
    nats = total - np.take_along_axis(scores, known, axis=2)[..., 0] + tokenizer.known_nats
    nats = np.where(targets_TB == tokenizer.unseen, tokenizer.unseen_nats, nats)
    return np.where(targets_TB == _NONE, 0.0, nats)
