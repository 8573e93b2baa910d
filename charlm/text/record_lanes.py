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

For each record an epoch holds two numbers, of four bytes each where there are fewer than 2^32 records and pieces: the
record that comes next, and its first piece. Everything else is computed in blocks, or read from the edges of the
records, which lie on the disk with a large text. While an epoch is dealt out, it takes a byte or two more.

Legend: R records, P pieces, T tokens of a chunk, B lanes. This module knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from charlm.text.lanes import IGNORE, Chunk, Held
from charlm.text.position import Position
from charlm.text.shuffle import Small, blocks, in_turn, shuffled
from charlm.text.stored import Loaded, Numbers, Places, StoredIds
from charlm.text.tokenizer import Ids

Edges = Places | Numbers  # where records begin among N ids, and behind them N [R + 1]


class _Epoch(NamedTuple):
    """The records in the order in which they are read, lane by lane."""

    number: int
    order: Small  # [R]
    first: Small  # the number of the first piece of each of them [R]
    lane: Places  # the first piece of each lane, and P behind them [B + 1]


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
        ids: Ids | StoredIds,
        edges: Edges,
        *,
        start: int,
        batch: int,
        bptt: int,
        seed: int,
        device: torch.device | None = None,
    ) -> None:
        self._ids, self._start, self._bptt, self._seed = Held(ids, device, scattered=True), start, bptt, seed
        self._edges = edges if isinstance(edges, Numbers) else Loaded(edges)
        self._records, total, self._most = len(edges) - 1, 0, 0
        for _, pieces in self._pieces():
            total, self._most = total + int(pieces.sum()), max(self._most, int(pieces.max()))
        self.batch = min(batch, self._records, max(1, total // self._most))
        self._total = total
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
        begin, length, is_first = self._found(epoch, np.where(busy, epoch.lane[:-1] + at, 0))
        lengths, begins = np.where(busy, length, 0), is_first | ~busy
        place = np.arange(-1, lengths.max())[:, None] + begin
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

    def _found(self, epoch: _Epoch, piece: Places) -> tuple[Places, Places, NDArray[np.bool_]]:
        """Where these pieces begin in the text, their lengths, and which are the first of their record."""
        number = np.searchsorted(epoch.first, piece.astype(epoch.first.dtype), side="right") - 1
        record = epoch.order[number].astype(np.int64)
        skipped = (piece - epoch.first[number].astype(np.int64)) * self._bptt
        begin, end = self._edges.scattered(np.stack([record, record + 1]))
        return begin + skipped, np.minimum(end - begin - skipped, self._bptt), skipped == 0

    def _here(self, mask: NDArray[np.bool_]) -> torch.Tensor:
        return torch.from_numpy(mask).to(self._ids.device)

    def _epoch(self, number: int) -> _Epoch:
        """The order of an epoch, which is the same each time it is asked for."""
        if self._kept is None or self._kept.number != number:
            self._kept = None  # its memory is needed now
            self._kept = self._dealt(number)
        return self._kept

    def _pieces(self) -> Iterator[tuple[slice, Places]]:
        """The number of pieces of each record, in blocks."""
        for block in blocks(self._records):
            yield block, -(-np.diff(self._edges.between(block.start, block.stop + 1)) // self._bptt)

    def _dealt(self, number: int) -> _Epoch:
        """Shuffle the records, and deal them out by how many pieces they have."""
        pieces = np.empty(self._records, dtype=np.min_scalar_type(self._most))
        for block, some in self._pieces():
            pieces[block] = some
        order, begins = self._in_lanes(shuffled(self._seed, number, self._records), pieces)
        first, total = np.empty(self._records, dtype=np.min_scalar_type(self._total)), 0
        for block in blocks(self._records):
            ends = total + np.cumsum(pieces[order[block]], dtype=np.int64)
            first[block], total = ends - pieces[order[block]], int(ends[-1])
        return _Epoch(number, order, first, np.append(first[begins].astype(np.int64), total))

    def _in_lanes(self, shuffled: Small, pieces: Small) -> tuple[Small, Places]:
        """The records lane by lane, within a lane shuffled [R], and where those of each lane begin [B]."""
        B, R = self.batch, len(shuffled)
        sizes = _sizes(R, B)
        begins = np.cumsum(sizes) - sizes
        lengths, counts = _counted(pieces)  # the most pieces first
        rank, seat, order = np.cumsum(counts) - counts, begins.copy(), np.empty_like(shuffled)
        for block in blocks(R):
            some = shuffled[block]
            turn, place = np.divmod(in_turn(rank, len(lengths) - 1 - np.searchsorted(lengths, pieces[some])), B)
            order[in_turn(seat, np.where(turn % 2, B - 1 - place, place))] = some
        return order, begins


def _sizes(records: int, lanes: int) -> Places:
    """How many records each lane has, where they are dealt out forward and backward.

    >>> _sizes(8, 3).tolist(), _sizes(5, 3).tolist()
    ([3, 3, 2], [1, 2, 2])
    """
    turns, rest = divmod(records, lanes)
    sizes = np.full(lanes, turns, dtype=np.int64)
    sizes[lanes - rest if turns % 2 else 0 : lanes if turns % 2 else rest] += 1
    return sizes


def _counted(pieces: Small) -> tuple[Small, Places]:
    """The different numbers of pieces, ascending, and how many records have each of them, the largest first."""
    found: dict[int, int] = {}
    for block in blocks(len(pieces)):
        for length, count in zip(*np.unique(pieces[block], return_counts=True), strict=True):
            found[int(length)] = found.get(int(length), 0) + int(count)
    lengths = sorted(found)
    return np.array(lengths, pieces.dtype), np.array([found[length] for length in reversed(lengths)], dtype=np.int64)
