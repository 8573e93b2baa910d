"""A GPU whose memory runs out: the error says which batch would fit. Memory is played here, by counting lanes."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
from torch import Tensor

from charlm.config import ModelConfig
from charlm.errors import CharlmError
from charlm.models.network import Network, Rows, State
from charlm.runtime.device import Runtime
from charlm.training.memory import fitting, fitting_batch

HERE = Runtime(torch.device("cpu"), "fp32", 1, "")


class Narrow(Network):
    """A network on a device that holds so many lanes; it remembers which were tried, and what a failed try held."""

    def __init__(self, lanes: int) -> None:
        super().__init__(ModelConfig(hidden=4, embedding=4, layers=1), 5)
        self.lanes, self.tried = lanes, list[int]()
        self.held: list[weakref.ref[Tensor]] = []

    def forward(self, ids_TB: Tensor, state: State, of: Rows | None = None) -> tuple[Tensor, State]:
        self.tried.append(ids_TB.shape[1])
        out = super().forward(ids_TB, state, of)
        if ids_TB.shape[1] > self.lanes:
            self.held.append(weakref.ref(out[0]))
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return out


def step(network: Narrow, batch: int) -> None:
    network(torch.zeros(3, batch, dtype=torch.long), network.init_state(batch))


@pytest.mark.fault(42)
@pytest.mark.parametrize(("lanes", "fits"), [(100, 62), (999, 500), (1, 1), (0, 0)])
def test_the_batch_that_would_fit_is_found_by_halving_and_named(lanes: int, fits: int) -> None:
    network = Narrow(lanes)
    with pytest.raises(CharlmError) as raised, fitting(network, HERE, batch=1000, bptt=3):
        step(network, 1000)
    assert raised.value.exit_code == 1
    assert "--batch 1000 does not fit into the memory of cpu" in str(raised.value)
    assert (f"--batch {fits} would fit" if fits else "try a smaller --bptt") in str(raised.value)
    assert network.tried == [1000 >> n for n in range(len(network.tried))]
    assert all(weight.grad is None for weight in network.parameters())


@pytest.mark.fault(42)
def test_what_a_failed_try_held_is_free_before_the_next() -> None:
    network = Narrow(0)
    alive = []

    def try_batch(batch: int) -> None:
        alive.append(sum(held() is not None for held in network.held))
        step(network, batch)

    assert fitting_batch(try_batch, 8) == 0
    assert alive == [0, 0, 0, 0]


def test_a_step_that_fits_and_other_errors_pass() -> None:
    network = Narrow(8)
    with fitting(network, HERE, batch=8, bptt=3):
        step(network, 8)
    mistake: Any = ValueError("a bug")
    with pytest.raises(ValueError, match="a bug"), fitting(network, HERE, batch=8, bptt=3):
        raise mistake
    assert network.tried == [8]
