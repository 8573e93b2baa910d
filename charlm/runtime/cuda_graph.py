"""CUDA graphs: work that is recorded once and then launched as a whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Generic, TypeVar

import torch

Results = TypeVar("Results")
_WARM: Final = 3  # runs before the recording, in which libraries set up what a recording may not


class Captured(Generic[Results]):
    """What `work` computes from tensors that it finds in place, into the tensors of its `results`.

    Random numbers are those of `noise`, which is to be seeded before each replay. Raises RuntimeError where something
    in `work` cannot be recorded; `noise` is then of no more use.
    """

    def __init__(self, work: Callable[[], Results], device: torch.device, noise: torch.Generator | None = None) -> None:
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(device):
            aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):  # around the recording as well, which leaves its stream behind if it fails
                for _ in range(_WARM):
                    work()
                if noise:
                    self._graph.register_generator_state(noise)
                with torch.cuda.graph(self._graph, stream=aside):
                    self.results = work()
            torch.cuda.current_stream().wait_stream(aside)

    def replay(self) -> Results:
        """Compute again; what stood in the results is gone."""
        self._graph.replay()
        return self.results
