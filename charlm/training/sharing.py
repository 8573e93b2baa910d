"""What the processes of a run hand to each other besides gradients: checkpoints, and the states of their lanes.

Only the first process reads and writes the run's folder, so the others need not see it. A checkpoint travels as the
bytes of its file, which are checked like a file's.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from charlm.models.network import State
from charlm.runtime.group import Group
from charlm.storage.checkpoint import Checkpoint, parse_checkpoint


def shared(group: Group, load: Callable[[], Checkpoint | None]) -> Checkpoint | None:
    """The checkpoint that the first process loads, on all of them."""
    if group.size == 1:
        return load()
    data = group.first_bytes(lambda: found.to_bytes() if (found := load()) is not None else b"")
    return parse_checkpoint(data) if data else None


def gather_lanes(group: Group, state: State, lanes: int) -> State:
    """The states of all lanes of a chunk, in their order, where each process has those of its share."""
    if group.size == 1:
        return state
    parts = [part for layer in state for part in layer]
    rows = group.gather(torch.cat(parts, dim=1), group.shares(lanes))
    found = iter(torch.split(rows, [part.shape[1] for part in parts], dim=1))
    return tuple(tuple(next(found) for _ in layer) for layer in state)
