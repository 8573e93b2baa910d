"""When a GPU's memory runs out: which batch would have fitted, found by trying with the network itself."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from charlm.errors import CharlmError
from charlm.models.network import Network
from charlm.runtime.device import Runtime
from charlm.text.lanes import Chunk
from charlm.training.gradient import gradient


def fitting_batch(try_batch: Callable[[int], None], batch: int) -> int:
    """The first of batch, batch/2, batch/4 ... 1 that `try_batch` takes without running out of memory; 0 if none.

    >>> def at_most_100(batch: int) -> None:
    ...     if batch > 100:
    ...         raise torch.OutOfMemoryError
    >>> fitting_batch(at_most_100, 1000), fitting_batch(at_most_100, 0)
    (62, 0)
    """
    while batch:
        try:
            try_batch(batch)
        except torch.OutOfMemoryError as error:
            _forget(error)
        else:
            return batch
        batch //= 2
    return 0


@contextmanager
def fitting(network: Network, runtime: Runtime, *, batch: int, bptt: int, processes: int = 1) -> Iterator[None]:
    """A step in this block that does not fit into the GPU's memory raises a CharlmError with the batch that does.

    Each of many processes has its share of the batch.
    """
    try:
        yield
        return
    except torch.OutOfMemoryError as error:
        _forget(error)
    fits = fitting_batch(lambda smaller: _try_step(network, runtime, -(-smaller // processes), bptt), batch // 2)
    raise CharlmError(
        f"--batch {batch} does not fit into the memory of {runtime.device}",
        kept="what was saved is unchanged",
        hint=f"--batch {fits} would fit: start again with --force" if fits else "try a smaller --bptt or --hidden",
    )


def _try_step(network: Network, runtime: Runtime, batch: int, bptt: int) -> None:
    """Forward and backward for so many lanes, beside what is kept of each weight: two moments, and an average."""
    network.zero_grad(set_to_none=True)
    kept = [torch.empty_like(weight) for weight in network.parameters() for _ in range(3)]
    ids = torch.zeros(bptt, batch, dtype=torch.long, device=runtime.device)
    gradient(network, runtime, Chunk.of(ids, ids), network.init_state(batch))
    network.zero_grad(set_to_none=True)
    del kept


def _forget(error: BaseException) -> None:
    """Give back what the frames of a failed try hold, and what torch keeps for later."""
    traceback.clear_frames(error.__traceback__)
    torch.cuda.empty_cache()
