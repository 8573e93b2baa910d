"""CUDA graphs: kernels that are recorded once and then launched together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Generic, TypeVar

import torch

Results = TypeVar("Results")
_WARM: Final = 3  # runs before the capture, in which libraries do the setup that a capture does not allow


class Captured(Generic[Results]):
    """A captured function: `work` reads tensors whose values the caller overwrites, and writes the tensors `results`.

    Random numbers come from `noise`, which the caller seeds before each replay. Raises RuntimeError if `work` cannot be
    captured; `noise` must not be used after that.
    """

    def __init__(self, work: Callable[[], Results], device: torch.device, noise: torch.Generator | None = None) -> None:
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(device):
            side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):  # also around the capture, which leaves its stream current if it fails
                for _ in range(_WARM):
                    work()
                if noise:
                    self._graph.register_generator_state(noise)
                with torch.cuda.graph(self._graph, stream=side):
                    self.results = work()
            torch.cuda.current_stream().wait_stream(side)

    def replay(self) -> Results:
        """Run the captured kernels again, overwriting the results."""
        self._graph.replay()
        return self.results
