"""A token sequence read as B parallel lanes, chunk by chunk, for truncated backpropagation through time.

A lane is one row of the batch. The sequence is rotated by the epoch's shift and split into B contiguous lanes whose
lengths differ by at most one, so that an epoch predicts every token exactly once. Row b of one chunk continues row b of
the chunk before, so the state carried between them has seen the true history. Each lane's first input of an epoch is
the start token.

With `shuffle`, lanes are cut into segments of so many tokens, which an epoch deals out in random order: a lane that has
read a segment goes on with another one, anywhere in the text, from the start token and the zero state. In a text that
is read in order, the last weights know best what was read last, one part of the text in each lane.

    tokens "abcdefgh", 2 lanes, chunks of 2 (^ is the start token)

        chunk 1                       chunk 2
        inputs ^a  targets ab         inputs bc  targets cd
               ^e          ef                fg          gh

The position in the text is a value that a checkpoint can save. The tokens are kept on the device that reads them, so no
chunk has to be copied there; those of a large text stay on the disk.

Legend: T tokens of a chunk, B lanes. This module knows nothing of models.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from charlm.runtime.random import Purpose, uniform
from charlm.text.position import Position
from charlm.text.shuffle import Small, shuffled
from charlm.text.stored import StoredIds
from charlm.text.tokenizer import Ids

IGNORE: Final = -100  # a target that is not scored: the last place of a lane that is one token shorter than the others


@dataclass(frozen=True, slots=True)
class Chunk:
    """Inputs and targets, token ids [T, B] each; `scored` targets are not `IGNORE`.

    Where `begins` [B] is true, a lane begins from the zero state. `next` is the position after the chunk. Where lanes
    are of different lengths, `lengths` [B] says how many tokens of each are read, and the others are no tokens at all.
    Of some lanes of a larger chunk, that one is `whole`, and `first` is the number there of the first of them.
    """

    inputs: Tensor
    targets: Tensor
    scored: int
    begins: NDArray[np.bool_]
    next: Position
    lengths: NDArray[np.int64] | None = None
    whole: Chunk | None = None
    first: int = 0

    @classmethod
    def of(cls, inputs: Tensor, targets: Tensor) -> Chunk:
        """A chunk by itself: of these ids, all of them tokens, in lanes that begin here."""
        return cls(inputs, targets, targets.numel(), np.full(inputs.shape[1], True), Position())

    def of_lanes(self, lanes: range) -> Chunk:
        """The same chunk of these lanes alone."""
        part = slice(lanes.start, lanes.stop)
        inputs, targets = self.inputs[:, part], self.targets[:, part]
        all_scored = self.scored == self.targets.numel()
        scored = targets.numel() if all_scored else int((targets != IGNORE).sum())
        lengths = None if self.lengths is None else self.lengths[part]
        return Chunk(inputs, targets, scored, self.begins[part], self.next, lengths, self, lanes.start)


class Held:
    """The ids of a text [N], where they are read from: the device, or the disk if they are stored there.

    `places` is the device on which places are computed; `scattered`: they are anywhere, not in a few lanes.
    """

    def __init__(self, ids: Ids | StoredIds, device: torch.device | None, *, scattered: bool = False) -> None:
        self.device, self._scattered = device or torch.device("cpu"), scattered
        self._ids = ids if isinstance(ids, StoredIds) else torch.tensor(ids, device=device)
        self.places = torch.device("cpu") if isinstance(ids, StoredIds) else self.device

    def __len__(self) -> int:
        return len(self._ids)

    def at(self, places: Tensor) -> Tensor:
        """The ids at these places, int64, on the device."""
        if isinstance(self._ids, StoredIds):
            return torch.from_numpy(self._ids.at(places.numpy(), scattered=self._scattered)).to(self.device).long()
        return self._ids[places.to(self.places)].long()


class Lanes:
    """The lanes of a text of ids [N]; `batch` is at most N.

    With `shuffle` > 0 they are read in segments of about as many tokens, a whole number of chunks. What remains of each
    lane behind its segments comes last.

    >>> lanes = Lanes(torch.arange(8).numpy(), start=8, batch=2, bptt=2, seed=0)
    >>> chunk = lanes.read(Position())
    >>> chunk.inputs.T.tolist(), chunk.targets.T.tolist()
    ([[8, 0], [8, 4]], [[0, 1], [4, 5]])
    >>> lanes.read(chunk.next).inputs.T.tolist()
    [[1, 2], [5, 6]]
    """

    def __init__(
        self,
        ids: Ids | StoredIds,
        *,
        start: int,
        batch: int,
        bptt: int,
        seed: int,
        shuffle: int = 0,
        device: torch.device | None = None,
    ) -> None:
        self._ids, self._start, self._seed, self._bptt = Held(ids, device), start, seed, bptt
        self.batch = batch = min(batch, len(ids))
        edges = torch.arange(batch + 1, device=self._ids.places) * len(ids) // batch
        self._begin, self._length = edges[:-1], edges.diff()
        self.longest = -(-len(ids) // batch)
        self._shorter = -len(ids) % batch  # lanes that are one token shorter than the longest
        self._segment = max(1, round(shuffle / bptt)) * bptt if shuffle else self.longest
        # Segments of each lane: no chunk, the last and longer one included, crosses the end of one.
        self._segments = max(0, int((self.longest - bptt / 2) // self._segment))
        self._order: tuple[int, Small] | None = None  # of which epoch, and its segments in that order [segments, B]

    def read(self, position: Position) -> Chunk:
        """The chunk at `position`, of `bptt` tokens a lane.

        If less than half a chunk would remain of the epoch after it, the chunk takes the rest too: no update is
        computed from a handful of tokens.
        """
        (epoch, shift, offset), bptt = position, self._bptt
        last = self.longest - offset - bptt < bptt / 2
        stop = self.longest if last else offset + bptt
        place = torch.arange(offset - 1, stop, device=self._ids.places)[:, None]
        tokens = self._ids.at((self._lane_begins(epoch, offset) + place + shift) % len(self._ids))
        inputs, targets = tokens[:-1], tokens[1:].clone()
        number, within = divmod(offset, self._segment)
        if fresh := within == 0 and number <= self._segments:
            inputs[0] = self._start
        if last:
            targets[(place[1:] >= self._length).to(targets.device)] = IGNORE
        following = self._epoch(epoch + 1) if last else Position(epoch, shift, stop)
        begins = np.full(self.batch, fresh)
        return Chunk(inputs, targets, targets.numel() - last * self._shorter, begins, following)

    def _lane_begins(self, epoch: int, offset: int) -> Tensor:
        """Where each lane would begin [B], for its token at `offset` to be that of the segment that it reads there."""
        number = offset // self._segment
        if number >= self._segments:
            return self._begin
        if self._order is None or self._order[0] != epoch:
            self._order = epoch, shuffled(self._seed, epoch, self._segments * self.batch).reshape(-1, self.batch)
        segment = torch.from_numpy(self._order[1][number].astype(np.int64)).to(self._ids.places)
        return self._begin[segment % self.batch] + (segment // self.batch - number) * self._segment

    def has(self, position: Position) -> bool:
        """Whether this is a position in the text."""
        return position.offset < self.longest

    @property
    def chunk_tokens(self) -> float:
        """How many tokens a chunk has."""
        return self.batch * self._bptt

    @property
    def chunks(self) -> int:
        """Number of chunks in an epoch."""
        whole, rest = divmod(self.longest, self._bptt)
        return max(1, whole + (rest >= self._bptt / 2))

    def _epoch(self, number: int) -> Position:
        """The start of an epoch. Each epoch after the first has a shift of its own, so that lanes begin elsewhere; a
        text that fits into one chunk is never shifted."""
        if self.longest <= self._bptt:
            return Position(number)
        return Position(number, int(uniform(self._seed, Purpose.SHIFT, number) * len(self._ids)))
