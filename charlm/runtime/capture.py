"""CUDA graphs: work that is recorded once and then launched as a whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Generic, TypeVar

import torch

Results = TypeVar("Results")
_WARM: Final = 3  # runs before the recording, in which libraries set up what a recording may not


class Captured(Generic[Results]):
    """What `work` computes from tensors that it finds in place, into the tensors of its `results`.

    Random numbers are those of `noise`, which may be seeded between replays and is left as it was found. Raises
    RuntimeError where something in `work` cannot be recorded.
    """

    def __init__(self, work: Callable[[], Results], device: torch.device, noise: torch.Generator | None = None) -> None:
        before = noise.get_state() if noise else None
        self._graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.device(device):
                aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
                aside.wait_stream(torch.cuda.current_stream())
                with torch.cuda.stream(aside):
                    for _ in range(_WARM):
                        work()
                torch.cuda.current_stream().wait_stream(aside)
                if noise:
                    self._graph.register_generator_state(noise)
                with torch.cuda.graph(self._graph):
                    self.results = work()
        finally:
            if noise and before is not None:
                noise.set_state(before)

    def replay(self) -> Results:
        """Compute again; what stood in the results is gone."""
        self._graph.replay()
        return self.results
