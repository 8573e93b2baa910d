"""A token stream as B parallel lanes, read window by window; where reading stands is a value that can be saved.

The stream is rotated by the epoch's shift and cut into B contiguous lanes whose lengths differ by one at most, so
that an epoch predicts every token exactly once. Row b of one window continues row b of the window before: the state
carried between them is true history. A lane's first input is the start token.

    stream "abcdefgh", 2 lanes, windows of 2 (^ is the start token)

        window 1                      window 2
        inputs ^a  targets ab         inputs bc  targets cd
               ^e          ef                fg          gh

Legend: T window, B lanes. This module knows nothing of models.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from charlm.runtime.random import Purpose, uniform
from charlm.text.tokenizer import Ids

IGNORE: Final = -100  # a target that is not scored: the end of a lane that is one shorter than the others


class Position(NamedTuple):
    """Where reading stands: `offset` tokens into every lane, in the epoch's rotation by `shift`."""

    epoch: int = 0
    shift: int = 0
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Window:
    """Inputs and targets [T, B]; `fresh` windows begin an epoch, so from the zero state; `next` is where to go on."""

    inputs: NDArray[np.int64]
    targets: NDArray[np.int64]
    fresh: bool
    next: Position


class Lanes:
    """
    >>> lanes = Lanes(np.arange(8, dtype=np.int32), start=8, batch=2, seed=0)
    >>> window = lanes.read(Position(), 2)
    >>> window.inputs.T.tolist(), window.targets.T.tolist()
    ([[8, 0], [8, 4]], [[0, 1], [4, 5]])
    >>> lanes.read(window.next, 2).inputs.T.tolist()
    [[1, 2], [5, 6]]
    """

    def __init__(self, ids: Ids, *, start: int, batch: int, seed: int) -> None:
        self._ids, self._start, self._seed = ids, start, seed
        self.batch = batch = min(batch, len(ids))
        edges = np.arange(batch + 1, dtype=np.int64) * len(ids) // batch
        self._begin, self._length = edges[:-1], np.diff(edges)
        self.longest = int(self._length.max())

    def read(self, position: Position, bptt: int) -> Window:
        """The window at `position`, of `bptt` tokens a lane; what is left of an epoch and is less than half of that is
        read with the window before it, so that no update follows from a handful of tokens."""
        epoch, shift, offset = position
        stop = offset + bptt if self.longest - offset - bptt >= bptt / 2 else self.longest
        place = np.arange(offset - 1, stop, dtype=np.int64)[:, None]
        tokens = self._ids[(self._begin[None, :] + place + shift) % len(self._ids)].astype(np.int64)
        inputs, targets = tokens[:-1], tokens[1:].copy()
        if offset == 0:
            inputs = inputs.copy()
            inputs[0] = self._start
        targets[place[1:] >= self._length[None, :]] = IGNORE
        following = Position(epoch, shift, stop) if stop < self.longest else self._epoch(epoch + 1, bptt)
        return Window(inputs, targets, offset == 0, following)

    def windows(self, bptt: int) -> int:
        """How many windows an epoch has."""
        whole, rest = divmod(self.longest, bptt)
        return max(1, whole + (rest >= bptt / 2))

    def _epoch(self, number: int, bptt: int) -> Position:
        """Each epoch after the first cuts the text elsewhere; a text that fits into one window is left whole."""
        if self.longest <= bptt:
            return Position(number)
        return Position(number, int(uniform(self._seed, Purpose.SHIFT, number) * len(self._ids)))
