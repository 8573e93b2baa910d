"""Random numbers that depend on where they are used, not on what was drawn before.

Philox4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", SC 2011) turns a 128-bit
counter and a 64-bit key into four 32-bit words. It needs only 32-bit multiplication, so any language can
reproduce a sample; the known answers of the authors' Random123 library are in the tests.

How charlm uses it: the key is the seed; counter words 0 and 1 are a position (low word first), word 2 a number that
tells users of one seed apart (the number of a sample), word 3 the purpose below.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

Word = TypeVar("Word", int, NDArray[np.uint64])  # a word, or many that are treated alike
Words = tuple[int, int, int, int]

_MULTIPLIERS: Final = (0xD2511F53, 0xCD9E8D57)
_WEYL: Final = (0x9E3779B9, 0xBB67AE85)
_MASK: Final = 0xFFFFFFFF


class Purpose(IntEnum):
    """Counter word 3: keeps the streams of one seed apart."""

    SAMPLE = 0
    SHIFT = 1
    DROPOUT = 2
    WEIGHTS = 3
    STATE = 4


def philox(counter: tuple[Word, Word, Word, Word], key: tuple[int, int]) -> tuple[Word, Word, Word, Word]:
    """Four random 32-bit words for a counter of four and a key of two.

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
    """The four words of one place; `seed` and `position` have 64 bits, `stream` 32."""
    return philox(
        (position & _MASK, position >> 32 & _MASK, stream & _MASK, purpose), (seed & _MASK, seed >> 32 & _MASK)
    )


def uniform(seed: int, purpose: Purpose, position: int, stream: int = 0) -> float:
    """A number in [0, 1) with 53 random bits: (w0 >> 5) * 2**26 + (w1 >> 6), over 2**53."""
    w0, w1, _, _ = words(seed, purpose, position, stream)
    return ((w0 >> 5) * 67108864 + (w1 >> 6)) / 9007199254740992


def uniforms(seed: int, purpose: Purpose, first: int, positions: int, streams: int) -> NDArray[np.float64]:
    """`uniform` at so many positions from the first [T], in streams 0 to B - 1: [T, B]."""
    position = np.arange(first, first + positions, dtype=np.uint64)[:, None]
    stream = np.arange(streams, dtype=np.uint64)[None, :]
    low, high, number = np.broadcast_arrays(position & _MASK, position >> 32, stream)
    w0, w1, _, _ = philox((low, high, number, np.full_like(low, purpose)), (seed & _MASK, seed >> 32 & _MASK))
    return ((w0 >> 5) * 67108864 + (w1 >> 6)) / 9007199254740992


def integer(seed: int, purpose: Purpose, position: int, stream: int = 0) -> int:
    """63 random bits, for seeding a library's own generator."""
    w0, w1, _, _ = words(seed, purpose, position, stream)
    return (w0 << 32 | w1) >> 1
