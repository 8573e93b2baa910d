"""Counter-based random numbers: each is a function of the seed and of where it is used, with no state between calls.

A usual generator has a state that each call moves on, so the n-th number depends on how many were taken before.
Philox4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", SC 2011) has none: like a
block cipher it turns a 128-bit counter and a 64-bit key into four 32-bit words. The number for position 1000 of
sample 3 can be computed at once, in any order, after a resume, and on any number of threads. It needs only 32 x 32-bit
multiplication, so that it is easily reproduced in other languages; the tests have the known answers of the authors'
Random123 library.

charlm fills the 192 bits as follows:

    key 0, 1        the seed, low 32 bits first
    counter 0, 1    the position (a token's place, an epoch, a step), low 32 bits first
    counter 2       the stream: the number of a sample or a lane
    counter 3       the purpose, one of `Purpose`
"""

from __future__ import annotations

import os
from enum import IntEnum
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

Word = TypeVar("Word", int, NDArray[np.uint64])  # one word, or an array of words
Words = tuple[int, int, int, int]

_MULTIPLIERS: Final = (0xD2511F53, 0xCD9E8D57)
_WEYL: Final = (0x9E3779B9, 0xBB67AE85)
_MASK: Final = 0xFFFFFFFF
_SEEDS: Final = 10**9  # from which a fresh one is taken


class Purpose(IntEnum):
    """What a random number is for (counter word 3): different purposes of one seed have independent numbers."""

    SAMPLE = 0
    SHIFT = 1
    DROPOUT = 2
    WEIGHTS = 3
    STATE = 4
    SHUFFLE = 5


def philox(counter: tuple[Word, Word, Word, Word], key: tuple[int, int]) -> tuple[Word, Word, Word, Word]:
    """Four random 32-bit words for a counter of four words and a key of two.

    Each of ten rounds multiplies x0 and x2 by constants, with 64-bit products p0 and p1. The low halves become the new
    x3 and x1. The high halves, combined with the old x3 and x1 and the key by exclusive or, become the new x2 and x0.
    Then the key changes by a Weyl sequence: k0 and k1 grow by odd constants, modulo 2**32, so that rounds differ.

    >>> [f"{word:08x}" for word in philox((0, 0, 0, 0), (0, 0))]
    ['6627e8d5', 'e169c58d', 'bc57ac4c', '9b00dbd8']
    """
    x0, x1, x2, x3 = counter
    k0, k1 = key
    for _ in range(10):
        p0 = x0 * _MULTIPLIERS[0]
        p1 = x2 * _MULTIPLIERS[1]
        x0, x1, x2, x3 = (p1 >> 32) ^ x1 ^ k0, p1 & _MASK, (p0 >> 32) ^ x3 ^ k1, p0 & _MASK  # type: ignore[assignment]
        k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
    return x0, x1, x2, x3


def words(seed: int, purpose: Purpose, position: int, stream: int = 0) -> Words:
    """The four random words for a seed and position of 64 bits each and a stream of 32 bits."""
    return philox(
        (position & _MASK, position >> 32 & _MASK, stream & _MASK, purpose), (seed & _MASK, seed >> 32 & _MASK)
    )


def uniform(seed: int, purpose: Purpose, position: int, stream: int = 0) -> float:
    """A uniform number in [0, 1) with 53 random bits: 27 of the first word and 26 of the second."""
    w0, w1, _, _ = words(seed, purpose, position, stream)
    return ((w0 >> 5) * 67108864 + (w1 >> 6)) / 9007199254740992


def uniforms(
    seed: int, purpose: Purpose, first: int, positions: int, streams: int, first_stream: int = 0
) -> NDArray[np.float64]:
    """`uniform` at `positions` positions from `first` on, in `streams` streams from `first_stream` on: [T, B]."""
    position = np.arange(first, first + positions, dtype=np.uint64)[:, None]
    stream = np.arange(first_stream, first_stream + streams, dtype=np.uint64)[None, :]
    return _uniforms(seed, purpose, *np.broadcast_arrays(position & _MASK, position >> 32, stream))


def uniforms_of(seed: int, purpose: Purpose, position: int, streams: NDArray[Any]) -> NDArray[np.float64]:
    """`uniform` at one position, in each of these streams [S]."""
    number = streams.astype(np.uint64)
    low, high = (np.full_like(number, word) for word in (position & _MASK, position >> 32 & _MASK))
    return _uniforms(seed, purpose, low, high, number)


def _uniforms(
    seed: int, purpose: Purpose, low: NDArray[np.uint64], high: NDArray[np.uint64], number: NDArray[np.uint64]
) -> NDArray[np.float64]:
    w0, w1, _, _ = philox((low, high, number, np.full_like(low, purpose)), (seed & _MASK, seed >> 32 & _MASK))
    return ((w0 >> 5) * 67108864 + (w1 >> 6)) / 9007199254740992


def fresh_seed() -> int:
    """A seed that nobody can foresee, short enough to be typed: below 10**9."""
    return int.from_bytes(os.urandom(8), "little") % _SEEDS


def integer(seed: int, purpose: Purpose, position: int, stream: int = 0) -> int:
    """63 random bits, to seed the generator of a library."""
    w0, w1, _, _ = words(seed, purpose, position, stream)
    return (w0 << 32 | w1) >> 1
