"""What a step begins with: a chunk's loss, and its gradient in the weights.

On a CUDA GPU that is one graph, launched as a whole: a chunk is hundreds of small kernels, which a processor cannot
launch as fast as the GPU runs them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from charlm.models.network import (
    Network,
    Rows,
    State,
    copy_state,
    detach_state,
    overwrite_state,
    place_lanes,
    select_lanes,
    trained_weights,
)
from charlm.runtime.cuda_graph import Captured
from charlm.runtime.device import Runtime
from charlm.text.lanes import IGNORE, Chunk

Places = NDArray[np.int64]


def gradient(
    network: Network, runtime: Runtime, chunk: Chunk, before: State, scale: float | Tensor = 1.0
) -> tuple[Tensor, State]:
    """Mean loss over the chunk's targets (nats a token) and the state after it.

    The gradient of `scale` times that loss is in the weights afterwards, in place of any before. Some lanes of a larger
    chunk get the dropout masks that they have in that one.
    """
    if not chunk.scored:  # of many processes, one may have only lanes that rest
        return _nothing(network, chunk)
    with runtime.arithmetic():
        if chunk.lengths is None:
            loss, after = _read(network, runtime, chunk, before)
        else:
            loss, after = _read_packed(network, runtime, chunk, chunk.lengths, before)
        network.zero_grad(set_to_none=True)
        (loss * scale).backward()  # type: ignore[no-untyped-call]
    return loss.detach(), detach_state(after)


def _nothing(network: Network, chunk: Chunk) -> tuple[Tensor, State]:
    """No loss, no gradient, and the zero state: lanes without a token begin anew."""
    for weight in trained_weights(network).values():
        weight.grad = torch.zeros_like(weight)
    lanes = chunk.inputs.shape[1]
    return network.head.weight.new_zeros(()), network.init_state(lanes)


def _read(network: Network, runtime: Runtime, chunk: Chunk, before: State) -> tuple[Tensor, State]:
    with runtime.autocast():
        logits_TBV, after = network(chunk.inputs, before, _columns(chunk))
    return _cross_entropy(logits_TBV.flatten(0, 1), chunk.targets.flatten()), after


def _read_packed(
    network: Network, runtime: Runtime, chunk: Chunk, lengths: NDArray[np.int64], before: State
) -> tuple[Tensor, State]:
    """The same for lanes of different lengths, of which nothing is computed that is no token."""
    time, lane, order = _packed(lengths)
    lanes = torch.from_numpy(order).to(chunk.inputs.device)
    place = torch.from_numpy(time * len(lengths) + lane).to(chunk.inputs.device)
    with runtime.autocast():
        logits_NV, after = network.forward_packed(
            chunk.inputs.flatten()[place],
            np.bincount(time).tolist(),
            select_lanes(before, lanes),
            _packed_rows(chunk, time, lane),
        )
    loss = _cross_entropy(logits_NV, chunk.targets.flatten()[place])
    return loss, place_lanes(after, lanes, len(lengths))


def _packed(lengths: Places) -> tuple[Places, Places, Places]:
    """Time and lane of each token [N] of lanes of these lengths [B], time by time; and the lanes' order in each time.

    They lie from the longest to the shortest, without those that are empty.
    """
    order = np.argsort(-lengths, kind="stable")[: np.count_nonzero(lengths)]
    time, row = np.nonzero(np.arange(lengths.max())[:, None] < lengths[order])
    return time, order[row], order


def _columns(chunk: Chunk) -> Rows | None:
    """The places of a chunk's inputs, time by time, in the chunk of which it has some lanes."""
    if chunk.whole is None:
        return None
    times, lanes = chunk.inputs.shape
    width, device = chunk.whole.inputs.shape[1], chunk.inputs.device
    first = torch.arange(times, device=device)[:, None] * width + chunk.first
    return Rows(times * width, (first + torch.arange(lanes, device=device)).flatten())


def _packed_rows(chunk: Chunk, time: Places, lane: Places) -> Rows | None:
    """The same for lanes of different lengths, whose tokens here are at these times and lanes."""
    if chunk.whole is None or chunk.whole.lengths is None:
        return None
    of_whole, width = _packed(chunk.whole.lengths), len(chunk.whole.lengths)
    number = np.empty(chunk.whole.inputs.numel(), dtype=np.int64)
    number[of_whole[0] * width + of_whole[1]] = np.arange(len(of_whole[0]))
    places = torch.from_numpy(number[time * width + chunk.first + lane])
    return Rows(len(of_whole[0]), places.to(chunk.inputs.device))


def _cross_entropy(logits_NV: Tensor, targets_N: Tensor) -> Tensor:
    """The mean over the targets that are scored, in nats, computed in fp32 at least."""
    logits_NV = logits_NV.to(torch.promote_types(logits_NV.dtype, torch.float32))
    return F.cross_entropy(logits_NV, targets_N, ignore_index=IGNORE)


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

    def __call__(self, chunk: Chunk, before: State, step: int, scale: float) -> tuple[Tensor, State]:
        usual = self.capture and chunk.inputs.shape == self._shape and chunk.lengths is None and chunk.scored > 0
        if usual and self._graph is None:
            self._graph = self._captured(chunk, before)
        self._network.reseed(self._seed, step)
        if usual and self._graph is not None:
            return self._graph(chunk, before, scale)
        return gradient(self._network, self._runtime, chunk, before, scale)

    def _captured(self, chunk: Chunk, before: State) -> _Graph | None:
        try:
            return _Graph(self._network, self._runtime, chunk, before)
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

    def __init__(self, network: Network, runtime: Runtime, chunk: Chunk, before: State) -> None:
        self._own = replace(chunk, inputs=chunk.inputs.clone(), targets=chunk.targets.clone())
        self._before, self._scale = copy_state(before), torch.ones((), device=runtime.device)
        self._captured = Captured(
            lambda: gradient(network, runtime, self._own, self._before, self._scale),
            runtime.device,
            network.noise,
        )
        self._weights = list(trained_weights(network).values())
        self._gradients = [weight.grad for weight in self._weights]

    def __call__(self, chunk: Chunk, before: State, scale: float) -> tuple[Tensor, State]:
        self._own.inputs.copy_(chunk.inputs)
        self._own.targets.copy_(chunk.targets)
        overwrite_state(self._before, before)
        self._scale.fill_(scale)
        loss, after = self._captured.replay()
        for weight, own in zip(self._weights, self._gradients, strict=True):
            weight.grad = own  # a chunk of another shape has put its own there
        return loss.clone(), copy_state(after)  # the next replay writes over the graph's own
