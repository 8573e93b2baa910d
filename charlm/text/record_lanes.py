"""Records read side by side in B lanes, chunk by chunk, each record from the zero state.

Each epoch shuffles the records and deals them out to the lanes anew. A lane reads one record after the other. A record
of more than T tokens is read in pieces of T, between which the lane's state is carried, and the last piece is what
remains. No piece has tokens of two records, so no gradient crosses from one to the next; and where a piece is shorter
than T, its lane has no tokens in the rest of the chunk, which costs nothing (`charlm.training.gradient`).

    records abcde$ fg$ h$, 2 lanes, chunks of 4 (^ is the start token, $ an end)

        chunk 1                      chunk 2
        inputs ^abc  targets abcd    inputs de   targets e$
               ^fg           fg$            ^h           h$

Records are dealt out from the longest to the shortest, forward and then backward through the lanes (1 2 2 1 1 2 ...),
so that all lanes have about as many pieces. Which lane a record comes to, and when, depends on (seed, epoch) alone.

Legend: R records, T tokens of a chunk, B lanes. This module knows nothing of models.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from charlm.runtime.random import Purpose, uniforms
from charlm.text.lanes import IGNORE, Chunk, Held
from charlm.text.position import Position
from charlm.text.tokenizer import Ids

Places = NDArray[np.int64]


class _Epoch(NamedTuple):
    """Pieces of records [P], those of a lane next to each other and in the order in which it reads them."""

    number: int
    begin: Places  # where each is in the text
    length: Places
    is_first: NDArray[np.bool_]  # of its record
    lane: Places  # where the pieces of each lane begin, and P behind them [B + 1]


class RecordLanes:
    """The lanes of a text of ids [N] whose records begin at `edges` [R + 1], the last of which is N.

    There are no more lanes than `batch`, than records, and than keep them equally long. `Position.offset` counts
    chunks.

    >>> lanes = RecordLanes(np.array([5, 5, 0, 6, 0]), np.array([0, 3, 5]), start=9, batch=2, bptt=4, seed=0)
    >>> chunk = lanes.read(Position())
    >>> sorted(chunk.inputs.T.tolist()), sorted(chunk.lengths.tolist()), chunk.scored
    ([[9, 5, 5], [9, 6, 0]], [2, 3], 5)
    """

    def __init__(
        self,
        ids: Ids,
        edges: Places,
        *,
        start: int,
        batch: int,
        bptt: int,
        seed: int,
        device: torch.device | None = None,
    ) -> None:
        self._ids, self._start, self._bptt, self._seed = Held(ids, device), start, bptt, seed
        self._begin, self._length = edges[:-1], np.diff(edges)
        self._pieces = -(-self._length // bptt)  # of each record
        total, longest = int(self._pieces.sum()), int(self._pieces.max())
        self.batch = min(batch, len(self._pieces), max(1, total // longest))
        self._kept: _Epoch | None = None
        self.chunks = int(np.diff(self._epoch(0).lane).max())  # in every epoch
        self.chunk_tokens = len(ids) / self.chunks

    def has(self, position: Position) -> bool:
        """Whether this is a position in the text."""
        return position.offset < self.chunks

    def read(self, position: Position) -> Chunk:
        """The chunk at `position`: the next piece of each lane that has one left in this epoch."""
        epoch = self._epoch(position.epoch)
        count = np.diff(epoch.lane)
        # A lane with fewer pieces is idle at the end, and every other one of them at the beginning: that makes no
        # chunk of an epoch much smaller than the others.
        late = (self.chunks - count) * (np.arange(self.batch) % 2)
        at = position.offset - late
        busy = (at >= 0) & (at < count)
        piece = np.where(busy, epoch.lane[:-1] + at, 0)
        lengths = np.where(busy, epoch.length[piece], 0)
        begins = epoch.is_first[piece] | ~busy
        place = np.arange(-1, lengths.max())[:, None] + epoch.begin[piece]
        inside = np.arange(len(place) - 1)[:, None] < lengths
        tokens = self._ids.at(torch.from_numpy(np.clip(place, 0, len(self._ids) - 1)))
        inputs, targets = tokens[:-1], tokens[1:].clone()
        inputs[0].masked_fill_(self._here(begins), self._start)
        outside = self._here(~inside)
        inputs.masked_fill_(outside, 0)
        targets.masked_fill_(outside, IGNORE)
        last = position.offset + 1 == self.chunks
        following = Position(position.epoch + 1) if last else position._replace(offset=position.offset + 1)
        return Chunk(inputs, targets, int(lengths.sum()), begins, following, lengths)

    def _here(self, mask: NDArray[np.bool_]) -> torch.Tensor:
        return torch.from_numpy(mask).to(self._ids.device)

    def _epoch(self, number: int) -> _Epoch:
        """The pieces of an epoch, which are the same each time they are asked for."""
        if self._kept is None or self._kept.number != number:
            self._kept = self._dealt(number)
        return self._kept

    def _dealt(self, number: int) -> _Epoch:
        """Shuffle the records, deal them out by their length, and cut each into its pieces."""
        B, R = self.batch, len(self._pieces)
        shuffled = np.argsort(uniforms(self._seed, Purpose.SHUFFLE, number, 1, R)[0], kind="stable")
        ranked = shuffled[np.argsort(-self._pieces[shuffled], kind="stable")]
        turn, seat = np.divmod(np.arange(R), B)
        lane = np.empty(R, dtype=np.int64)
        lane[ranked] = np.where(turn % 2, B - 1 - seat, seat)
        order = shuffled[np.argsort(lane[shuffled], kind="stable")]  # lane by lane, within a lane shuffled
        pieces = self._pieces[order]
        first = np.concatenate([[0], np.cumsum(pieces)])  # piece of each record, and P behind them
        part = np.arange(first[-1]) - np.repeat(first[:-1], pieces)
        begin = np.repeat(self._begin[order], pieces) + part * self._bptt
        length = np.minimum(np.repeat(self._length[order], pieces) - part * self._bptt, self._bptt)
        edges = first[np.searchsorted(lane[order], np.arange(B + 1))]
        return _Epoch(number, begin, length, part == 0, edges)
