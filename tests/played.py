"""A CUDA graph that is played on a processor: what was captured is computed again at each replay."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor


class Replayed:
    """Stands in for `charlm.runtime.cuda_graph.Captured`: results keep their memory."""

    def __init__(self, work: Callable[[], Any], _: torch.device, __: torch.Generator | None = None) -> None:
        self._work, self.results = work, work()

    def replay(self) -> Any:
        for own, new in zip(tensors(self.results), tensors(self._work()), strict=True):
            own.copy_(new)
        return self.results


def tensors(nested: Any) -> Iterator[Tensor]:
    """All of a nest of tuples."""
    if isinstance(nested, Tensor):
        yield nested
    else:
        for part in nested:
            yield from tensors(part)
