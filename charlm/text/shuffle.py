"""Random orders of records, or of segments of a text: functions of (seed, epoch), in memory of a few bytes each."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from charlm.runtime.random import Purpose, uniforms, uniforms_of
from charlm.text.stored import Places

Small = NDArray[Any]  # integers of the smallest type that they fit

_BLOCK: Final = 2**16  # items that are dealt with at once


def shuffled(seed: int, epoch: int, count: int) -> Small:
    """The numbers 0, 1, ... of so many items, in the order of a uniform number that each has in this epoch.

    Many are sorted into ranges of these numbers first, and then range by range, so that the numbers of all are never in
    memory.
    """
    order = np.empty(count, dtype=np.min_scalar_type(count))
    if count <= _BLOCK:
        order[:] = np.argsort(uniforms(seed, Purpose.SHUFFLE, epoch, 1, count)[0], kind="stable")
        return order
    ranges = 1 << (count // _BLOCK).bit_length()  # a power of two: the product below is exact
    sizes = np.zeros(ranges, dtype=np.int64)
    for _, found in _ranges_of(seed, epoch, count, ranges):
        sizes += np.bincount(found, minlength=ranges)
    edges = np.concatenate([[0], np.cumsum(sizes)])
    free = edges[:-1].copy()
    for block, found in _ranges_of(seed, epoch, count, ranges):
        order[in_turn(free, found)] = np.arange(block.start, block.stop)
    for begin, end in pairwise(edges.tolist()):
        some = order[begin:end]
        some[:] = some[np.argsort(uniforms_of(seed, Purpose.SHUFFLE, epoch, some), kind="stable")]
    return order


def blocks(count: int) -> Iterator[slice]:
    """0 to `count`, in pieces of at most 2^16."""
    return (slice(at, min(at + _BLOCK, count)) for at in range(0, count, _BLOCK))


def in_turn(free: Places, group: Places) -> Places:
    """A place for each member of a group, in turn, from the group's next free one on; `free` moves on.

    >>> free = np.array([0, 10])
    >>> in_turn(free, np.array([1, 0, 1])).tolist(), free.tolist()
    ([10, 0, 11], [1, 12])
    """
    by, sizes = np.argsort(group, kind="stable"), np.bincount(group, minlength=len(free))
    found = np.empty(len(group), dtype=np.int64)
    found[by] = np.arange(len(group)) + np.repeat(free - (np.cumsum(sizes) - sizes), sizes)
    free += sizes
    return found


def _ranges_of(seed: int, epoch: int, count: int, ranges: int) -> Iterator[tuple[slice, Places]]:
    """The range that the uniform number of each item is in, in blocks."""
    for block in blocks(count):
        found = uniforms(seed, Purpose.SHUFFLE, epoch, 1, block.stop - block.start, block.start)[0]
        yield block, (found * ranges).astype(np.int64)
