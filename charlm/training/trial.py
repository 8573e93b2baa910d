"""Steps that are tried before a run: which precisions work, how fast they and the machine are, what threads change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from typing import Final

import torch
from torch import Tensor

from charlm.config import Config, ModelConfig, TrainConfig
from charlm.models.architecture import architecture_of
from charlm.models.network import Network
from charlm.runtime import cache
from charlm.runtime.device import Runtime, timed
from charlm.runtime.precision import choose_precision, machine_key
from charlm.runtime.threads import choices, torch_threads
from charlm.storage.records import TrainState
from charlm.text.lanes import Chunk
from charlm.training.defaults import operations
from charlm.training.gradient import Gradient
from charlm.training.step import Stepper

_STEPS: Final = 16
_KEPT: Final = "threads"
_SPEED: Final = "speed"  # the name of the file in the cache
_STARTS, _PASSES = 3, 4  # starts that time a typical network, and how often each does
_TYPICAL: Final = ModelConfig(layers=2, hidden=256, embedding=64)
_TOKENS: Final = 64  # its vocabulary
_REACHED: Final = 0.8  # of its forward and backward passes: updates, dropout and saving take the rest
_GPU: Final = 3e13


class StepTrial:
    """Forward and backward passes of a network, as a trainer would compute them (`charlm.runtime.precision.Trial`)."""

    def __init__(self, config: Config, network: Network) -> None:
        self._config, self._network = config, network
        self._made: dict[str, Gradient] = {}
        model, train = config.model, config.train
        sizes = (model.layers, model.hidden, model.embedding, network.vocabulary, train.batch, train.bptt)
        self.size = " ".join(map(str, (model.kind, *sizes)))
        self.sure: Sequence[str] = architecture_of(model).sure(model)

    def works(self, precision: str) -> bool:
        """Whether a layer like these can be computed so, tried on a tiny one: the size does not matter for that."""
        tiny = replace(self._config.model, layers=1, hidden=8, embedding=8, heads=0)
        network = Network(tiny, 8).to_device(self._network.device).train()
        for weight in network.parameters():
            torch.nn.init.zeros_(weight)
        compute = Gradient(network, self._runtime(precision), (2, 2), 0, lambda _: None)
        compute.capture = False  # for a single step
        try:
            self._pass(compute, network, (2, 2))
        except RuntimeError:  # oneDNN has no such primitive for this processor
            return False
        return True

    def seconds(self, precision: str) -> float:
        """The time of a chunk of the run's lanes; a short one, since every step of it takes the same."""
        shape = min(self._config.train.bptt, _STEPS), self._config.train.batch
        made = Gradient(self._network, self._runtime(precision), shape, 0, lambda _: None)
        compute = self._made.setdefault(precision, made)
        seconds = timed(lambda: self._pass(compute, self._network, shape), self._network.device)
        self._network.zero_grad()
        return seconds

    def _runtime(self, precision: str) -> Runtime:
        return Runtime(self._network.device, precision, torch.get_num_threads(), "")

    def _pass(self, compute: Gradient, network: Network, shape: tuple[int, int]) -> None:
        ids = torch.arange(prod(shape), device=network.device).view(shape) % network.vocabulary
        compute(Chunk.of(ids, ids), network.train().init_state(shape[1]), 0, 1.0)


def training_speed(device: torch.device, precision: str) -> float:
    """FLOP a second that training is likely to reach; on a processor by passes of a typical network in this precision.

    It is timed at the first few starts on a machine, and the fastest of them is kept: other work only ever makes a
    processor slower, and what is chosen by this should not change from run to run.
    """
    if device.type != "cpu":
        return _GPU
    config = Config(model=_TYPICAL, train=TrainConfig(batch=16, bptt=_STEPS))
    trial = StepTrial(config, Network(_TYPICAL, _TOKENS))
    chosen = choose_precision(device, precision if trial.works(precision) else "auto", trial)[0]
    key = machine_key(device, chosen, str(torch.get_num_threads()))
    match cache.recall(_SPEED, key):
        case [int(starts), float(kept)] if kept > 0:
            pass
        case _:
            starts, kept = 0, 0.0
    if starts < _STARTS:
        seconds = min(trial.seconds(chosen) for _ in range(_PASSES))
        kept = max(kept, _REACHED * operations(_TYPICAL, _TOKENS) * config.train.batch * _STEPS / seconds)
        cache.remember(_SPEED, key, [starts + 1, kept])
    return kept


def may_follow(config: Config, network: Network, runtime: Runtime) -> bool:
    """Whether a step gives the same bits with any number of threads, found out once on each machine."""
    size = StepTrial(config, network).size
    key = machine_key(runtime.device, size, config.optim.optimizer, runtime.precision, str(runtime.threads))
    kept = cache.recall(_KEPT, key)
    if not isinstance(kept, bool):
        cache.remember(_KEPT, key, kept := same_bits(config, network, runtime))
    return kept


def same_bits(config: Config, network: Network, runtime: Runtime) -> bool:
    """Whether the weights after a step of a copy of this network are the same with each number that may be chosen."""
    shape = config.train.bptt, config.train.batch
    ids = torch.arange(prod(shape)).view(shape) % network.vocabulary
    chunk = Chunk.of(ids, ids)
    found: list[list[Tensor]] = []
    for threads in choices(runtime.threads):
        with torch_threads(threads):
            learner = network.copy().train()
            stepper = Stepper(config, learner, runtime, config.train.batch, lambda _: None)
            stepper.step(chunk, learner.init_state(config.train.batch), TrainState(loss_scale=stepper.scale.scale), 1.0)
            found.append([weight.detach() for weight in learner.parameters()])
    return all(torch.equal(weights[0], weight) for weights in zip(*found, strict=True) for weight in weights)
