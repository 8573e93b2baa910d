"""What a step begins with: a chunk's loss, and its gradient in the weights.

On a CUDA GPU that is one graph, launched as a whole: a chunk is hundreds of small kernels, which a processor cannot
launch as fast as the GPU runs them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from charlm.models.network import Network, State, copy_state, detach_state, overwrite_state
from charlm.runtime.cuda_graph import Captured
from charlm.runtime.device import Runtime
from charlm.text.lanes import IGNORE


def gradient(
    network: Network,
    runtime: Runtime,
    inputs_TB: Tensor,
    targets_TB: Tensor,
    before: State,
    scale: float | Tensor = 1.0,
) -> tuple[Tensor, State]:
    """Mean loss over the targets (nats a token) and the state after the chunk.

    The gradient of `scale` times that loss is in the weights afterwards, in place of any before.
    """
    with runtime.arithmetic():
        with runtime.autocast():
            logits_TBV, after = network(inputs_TB, before)
        loss = F.cross_entropy(logits_TBV.float().flatten(0, 1), targets_TB.flatten(), ignore_index=IGNORE)
        network.zero_grad(set_to_none=True)
        (loss * scale).backward()  # type: ignore[no-untyped-call]
    return loss.detach(), detach_state(after)


class Gradient:
    """`gradient` for one network, most of whose chunks have one shape [T, B].

    Dropout masks follow from (seed, step) alone. With `capture`, as on a GPU, chunks of that shape replay a graph,
    made at the first of them; where none can be made, `tell` hears of it, and they are computed like the others.
    """

    def __init__(
        self, network: Network, runtime: Runtime, shape: tuple[int, int], seed: int, tell: Callable[[str], None]
    ) -> None:
        self._network, self._runtime, self._shape, self._seed, self._tell = network, runtime, shape, seed, tell
        self.capture = runtime.device.type == "cuda"
        self._graph: _Graph | None = None

    def __call__(
        self, inputs_TB: Tensor, targets_TB: Tensor, before: State, step: int, scale: float
    ) -> tuple[Tensor, State]:
        usual = self.capture and inputs_TB.shape == self._shape
        if usual and self._graph is None:
            self._graph = self._captured(inputs_TB, targets_TB, before)
        self._network.reseed(self._seed, step)
        if usual and self._graph is not None:
            return self._graph(inputs_TB, targets_TB, before, scale)
        return gradient(self._network, self._runtime, inputs_TB, targets_TB, before, scale)

    def _captured(self, inputs_TB: Tensor, targets_TB: Tensor, before: State) -> _Graph | None:
        try:
            return _Graph(self._network, self._runtime, inputs_TB, targets_TB, before)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            self.capture = False
            self._network.to_device(self._runtime.device)  # with a generator that no recording has touched
            reason = str(error).splitlines()[0]
            self._tell(f"no CUDA graph could be captured, so kernels are launched one by one: {reason}")
            return None


class _Graph:
    """`gradient` on tensors of its own, recorded."""

    def __init__(
        self, network: Network, runtime: Runtime, inputs_TB: Tensor, targets_TB: Tensor, before: State
    ) -> None:
        self._inputs, self._targets, self._before = inputs_TB.clone(), targets_TB.clone(), copy_state(before)
        self._scale = torch.ones((), device=runtime.device)
        self._captured = Captured(
            lambda: gradient(network, runtime, self._inputs, self._targets, self._before, self._scale),
            runtime.device,
            network.noise,
        )
        self._weights = list(network.parameters())
        self._gradients = [weight.grad for weight in self._weights]

    def __call__(self, inputs_TB: Tensor, targets_TB: Tensor, before: State, scale: float) -> tuple[Tensor, State]:
        self._inputs.copy_(inputs_TB)
        self._targets.copy_(targets_TB)
        overwrite_state(self._before, before)
        self._scale.fill_(scale)
        loss, after = self._captured.replay()
        for weight, own in zip(self._weights, self._gradients, strict=True):
            weight.grad = own  # a chunk of another shape has put its own there
        return loss.clone(), copy_state(after)  # the next replay writes over the graph's own
