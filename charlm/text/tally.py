"""How often each number occurs among many that are read block by block."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]

_BYTES: Final = 2**8
_PAIRED: Final = 2**14  # bytes from which counting pairs is faster, in spite of its larger table


class Tally:
    """Counts the numbers from 0 to `size` - 1, of which there are 256 at least, beginning from these counts.

    Bytes are counted two at a time, and what the pairs consist of is added up where it is asked for.

    >>> tally = Tally(256)
    >>> tally.push(np.array([1, 2, 1], dtype=np.uint8))
    >>> tally.counts[:3].tolist()
    [0, 2, 1]
    """

    def __init__(self, size: int, counts: Counts | Sequence[int] = ()) -> None:
        self._counts = np.zeros(size, dtype=np.int64)
        self._counts[: len(counts)] = counts
        self._pairs = np.zeros(_BYTES**2, dtype=np.int64)
        self._paired = False

    def push(self, numbers: NDArray[Any]) -> None:
        """The next block."""
        if numbers.dtype == np.uint8 and len(numbers) >= _PAIRED:
            even = len(numbers) // 2 * 2
            self._pairs += np.bincount(numbers[:even].view(np.uint16), minlength=len(self._pairs))
            numbers, self._paired = numbers[even:], True
        self._counts += np.bincount(numbers, minlength=len(self._counts))

    @property
    def counts(self) -> Counts:
        """How often each has occurred up to now [size]; a copy."""
        if self._paired:
            first, second = (self._pairs.reshape(_BYTES, _BYTES).sum(axis) for axis in (0, 1))
            self._counts[:_BYTES] += first + second
            self._pairs[:], self._paired = 0, False
        return self._counts.copy()
