"""One step: the gradient of a chunk, clipped, and the update of the weights that follows from it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from charlm.config import Config
from charlm.models.network import Network, State, trained_weights, zero_lanes
from charlm.runtime.device import Runtime
from charlm.runtime.group import ALONE, Group
from charlm.runtime.random import Purpose, uniforms
from charlm.runtime.threads import Threads
from charlm.storage.records import TrainState
from charlm.text.lanes import Chunk
from charlm.training.average import Average
from charlm.training.divergence import Divergence
from charlm.training.gradient import Gradient
from charlm.training.optim import LossScale, WeightUpdate, clip

Arrays = Mapping[str, NDArray[np.float32]]


class StepResult(NamedTuple):
    """What came of a step."""

    loss: float  # mean over the chunk's targets, nats a token
    grad_norm: float  # before clipping
    after: State  # the carried state behind the chunk


class Stepper:
    """Learns from one chunk after another: forward, backward, clip, update, average.

    Chunks have B lanes, of which each process of a group learns from its share: the gradients are added up, and every
    process makes the same update. `tell` hears what a user should know of how the gradient is computed.
    """

    def __init__(
        self,
        config: Config,
        network: Network,
        runtime: Runtime,
        lanes: int,
        tell: Callable[[str], None],
        group: Group = ALONE,
    ) -> None:
        weights = trained_weights(network)
        self._weights = list(weights.values())
        self.config, self.network, self.runtime, self.group = config, network, runtime, group
        self.lanes = group.share(lanes)
        shape = config.train.bptt, len(self.lanes)
        self.gradient = Gradient(network, runtime, shape, config.train.seed, tell)
        self.optimizer = WeightUpdate(config.optim, weights, config.model.hidden, runtime.type, group)
        self.average = Average(weights, config.optim.average)
        self.scale = LossScale(runtime.scales_loss)
        self.threads = Threads(runtime.threads, follow=runtime.follows)

    def step(self, chunk: Chunk, carried: State, state: TrainState, rate: float) -> StepResult:
        """One update at this share of the peak learning rate; raises Divergence where something is not finite.

        `chunk` is the whole one, on all processes; `carried` is the state of this process's lanes.
        """
        with self.threads.at_work(*chunk.inputs.shape, longer=self.optimizer.takes_longer(state.step)):
            before = self._before(chunk, carried, state.step)
            while True:  # more than once only after an overflow of fp16, whose loss is then scaled less
                loss, after = self._backward(chunk, before, state.step)
                weights = self._weights
                self.scale.unscale(weights)
                norm = float(clip(weights, self.config.optim.clip, self.config.optim.clip_mode))
                if self._update(loss, norm, state, rate):
                    return StepResult(loss, norm, after)

    def _before(self, chunk: Chunk, carried: State, step: int) -> State:
        """The carried state of this process's lanes, but zeros in those that begin anew or are reset."""
        reset_B, train = chunk.begins, self.config.train
        if train.drop_state and not reset_B.all():
            reset_B = reset_B | (uniforms(train.seed, Purpose.STATE, step, 1, len(reset_B))[0] < train.drop_state)
        own_B = reset_B[self.lanes.start : self.lanes.stop]
        if own_B.all():
            return self.network.init_state(len(own_B))
        return zero_lanes(carried, own_B) if own_B.any() else carried

    def _backward(self, chunk: Chunk, before: State, step: int) -> tuple[float, State]:
        """Mean loss over the chunk's targets (nats per token) and the state after it; gradients are in the weights.

        A process computes the mean over the targets of its own lanes, which counts by their number.
        """
        own = chunk if self.group.size == 1 else chunk.of_lanes(self.lanes)
        share = own.scored / chunk.scored
        loss, after = self.gradient(own, before, step, self.scale.scale * share)
        loss = loss * share
        self.group.sum_([*(weight.grad for weight in self._weights if weight.grad is not None), loss])
        return loss.item(), after

    def _update(self, loss: float, norm: float, state: TrainState, rate: float) -> bool:
        """Change the weights; False after an overflow of fp16: the chunk is to be read again."""
        finite = math.isfinite(loss) and math.isfinite(norm)
        skip = self.scale.update(finite)
        state.loss_scale, state.good_steps = self.scale.scale, self.scale.good
        if finite:
            with self.runtime.arithmetic():
                self.optimizer.step(rate, state.step)
            self.average.update(state.step + 1)
        elif not skip:
            raise Divergence(state.step + 1, f"loss {loss:g}, gradient norm {norm:g}")
        return finite

    def export(self) -> dict[str, NDArray[np.float32]]:
        """What is remembered of the weights, by name: optimizer.* and, where weights are averaged, iterate.*."""
        return {**self.optimizer.export(), **self.average.export()}

    def restore(self, tensors: Arrays, state: TrainState) -> None:
        """The inverse of `export`, once the network has the checkpoint's weights."""
        self.average.restore(tensors)
        self.optimizer.restore(tensors)
        if self.optimizer.has_begun:
            self.average.begin()  # unless it was restored: averaging may have been chosen since
        self.scale = LossScale(self.scale.enabled, state.loss_scale, state.good_steps)
