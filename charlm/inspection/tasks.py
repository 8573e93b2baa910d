"""Synthetic sequences with a long lag: what comes first decides what is right at the end, N characters later.

    recall      C b e a d ? -> C         one of 8 letters, N letters of another alphabet, a question mark
    adding      d 3 1 h 0 ? -> 3 + 7     digits, two of which are marked: the first and any other; the answer is the
                                         sum of these two (Hochreiter and Schmidhuber 1997, section 5.4, have real ones)
    brackets    [ a ( b ) ? -> ]         one of 4 brackets, N characters of letters and pairs of brackets that are
                                         closed, up to three deep; the answer closes the first one

Sequences of one length are drawn side by side. The right answers are equally likely, or, for sums, known: `chance` is
the share of right answers of whoever knows the task and has forgotten the sequence. So a network that is better than
that has bridged N characters.

Legend: T = N + 2 characters of a sequence, B sequences. This module knows nothing of networks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]
Draw = Callable[[np.random.Generator, int, int], tuple[Ids, Ids]]

_DEEP: Final = 3  # brackets that are open at once behind the first


class Task(NamedTuple):
    """A kind of sequences: their characters, the share of answers that are right by chance, and how they are drawn.

    `draw` maps a generator, the lag N >= 1 and the number B to ids [T, B] and the ids of the right answers [B].
    """

    vocabulary: str
    chance: float
    draw: Draw

    def text(self, ids: Ids) -> str:
        """Ids as characters."""
        return "".join(self.vocabulary[i] for i in ids)


_RECALL: Final = "ABCDEFGHabcdefgh?"


def _recall(generator: np.random.Generator, lag: int, count: int) -> tuple[Ids, Ids]:
    symbol = generator.integers(8, size=count)
    noise = generator.integers(8, 16, size=(lag, count))
    return np.vstack([symbol, noise, np.full(count, 16)]), symbol


_ADDING: Final = "0123456789abcdefghij?ABCDEFGHIJKLMNOPQRS"  # a to j: 0 to 9, marked; A to S: sums from 0 to 18


def _adding(generator: np.random.Generator, lag: int, count: int) -> tuple[Ids, Ids]:
    digits = generator.integers(10, size=(lag + 1, count))
    ids, lanes = digits.copy(), np.arange(count)
    second = generator.integers(1, lag + 1, size=count)
    ids[0] += 10
    ids[second, lanes] += 10
    return np.vstack([ids, np.full(count, 20)]), 21 + digits[0] + digits[second, lanes]


_BRACKETS: Final = "([{<)]}>abcd?"


def _brackets(generator: np.random.Generator, lag: int, count: int) -> tuple[Ids, Ids]:
    first, lanes = generator.integers(4, size=count), np.arange(count)
    ids = np.empty((lag + 2, count), dtype=np.int64)
    ids[0], ids[-1] = first, 12
    stack, depth = np.zeros((_DEEP + 1, count), dtype=np.int64), np.zeros(count, dtype=np.int64)
    for t in range(lag):
        left = lag - t  # characters, in which all brackets that are open have to be closed
        u = generator.random(count)
        closes = (depth > 0) & ((u < 0.25) | (depth == left))
        opens = ~closes & (u >= 0.75) & (depth < _DEEP) & (depth + 2 <= left)
        ids[t + 1] = 8 + generator.integers(4, size=count)
        ids[t + 1][closes] = 4 + stack[depth, lanes][closes]
        depth = depth + opens - closes
        kind = generator.integers(4, size=count)
        stack[depth[opens], lanes[opens]] = kind[opens]
        ids[t + 1][opens] = kind[opens]
    return ids, 4 + first


TASKS: Final[Mapping[str, Task]] = {
    "recall": Task(_RECALL, 1 / 8, _recall),
    "adding": Task(_ADDING, 1 / 10, _adding),
    "brackets": Task(_BRACKETS, 1 / 4, _brackets),
}
