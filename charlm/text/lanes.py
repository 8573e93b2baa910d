"""A token sequence read as B parallel lanes, chunk by chunk, for truncated backpropagation through time.

A lane is one row of the batch. The sequence is rotated by the epoch's shift and split into B contiguous lanes whose
lengths differ by at most one, so that an epoch predicts every token exactly once. Row b of one chunk continues row b of
the chunk before, so the state carried between them has seen the true history. Each lane's first input of an epoch is
the start token.

    tokens "abcdefgh", 2 lanes, chunks of 2 (^ is the start token)

        chunk 1                       chunk 2
        inputs ^a  targets ab         inputs bc  targets cd
               ^e          ef                fg          gh

The position in the text is a value that a checkpoint can save. The tokens are kept on the device that reads them, so no
chunk has to be copied there.

Legend: T tokens of a chunk, B lanes. This module knows nothing of models.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from charlm.runtime.random import Purpose, uniform
from charlm.text.position import Position
from charlm.text.tokenizer import Ids

IGNORE: Final = -100  # a target that is not scored: the last place of a lane that is one token shorter than the others


@dataclass(frozen=True, slots=True)
class Chunk:
    """Inputs and targets, token ids [T, B] each; `scored` targets are not `IGNORE`.

    A `fresh` chunk begins an epoch, from the zero state. `next` is the position after the chunk.
    """

    inputs: Tensor
    targets: Tensor
    scored: int
    fresh: bool
    next: Position


class Lanes:
    """The lanes of a text of ids [N]; `batch` is at most N.

    >>> lanes = Lanes(torch.arange(8).numpy(), start=8, batch=2, seed=0)
    >>> chunk = lanes.read(Position(), 2)
    >>> chunk.inputs.T.tolist(), chunk.targets.T.tolist()
    ([[8, 0], [8, 4]], [[0, 1], [4, 5]])
    >>> lanes.read(chunk.next, 2).inputs.T.tolist()
    [[1, 2], [5, 6]]
    """

    def __init__(self, ids: Ids, *, start: int, batch: int, seed: int, device: torch.device | None = None) -> None:
        self._ids, self._start, self._seed = torch.tensor(ids, device=device), start, seed
        self.batch = batch = min(batch, len(ids))
        edges = torch.arange(batch + 1, device=device) * len(ids) // batch
        self._begin, self._length = edges[:-1], edges.diff()
        self.longest = -(-len(ids) // batch)
        self._shorter = -len(ids) % batch  # lanes that are one token shorter than the longest

    def read(self, position: Position, bptt: int) -> Chunk:
        """The chunk at `position`, of `bptt` tokens a lane.

        If less than half a chunk would remain of the epoch after it, the chunk takes the rest too: no update is
        computed from a handful of tokens.
        """
        epoch, shift, offset = position
        last = self.longest - offset - bptt < bptt / 2
        stop = self.longest if last else offset + bptt
        place = torch.arange(offset - 1, stop, device=self._ids.device)[:, None]
        tokens = self._ids[(self._begin + place + shift) % len(self._ids)].long()
        inputs, targets = tokens[:-1], tokens[1:].clone()
        if offset == 0:
            inputs[0] = self._start
        if last:
            targets[place[1:] >= self._length] = IGNORE
        following = self._epoch(epoch + 1, bptt) if last else Position(epoch, shift, stop)
        return Chunk(inputs, targets, targets.numel() - last * self._shorter, offset == 0, following)

    def chunks(self, bptt: int) -> int:
        """Number of chunks in an epoch."""
        whole, rest = divmod(self.longest, bptt)
        return max(1, whole + (rest >= bptt / 2))

    def _epoch(self, number: int, bptt: int) -> Position:
        """The start of an epoch. Each epoch after the first has a shift of its own, so that lanes begin elsewhere; a
        text that fits into one chunk is never shifted."""
        if self.longest <= bptt:
            return Position(number)
        return Position(number, int(uniform(self._seed, Purpose.SHIFT, number) * len(self._ids)))
