"""A chunk's gradient, replayed from a graph: the GPU is played here, by running again what a capture recorded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from played import Replayed
from torch import Tensor

from charlm.config import ModelConfig
from charlm.models.network import Network, initialise
from charlm.runtime.device import Runtime
from charlm.text.lanes import IGNORE, Chunk
from charlm.training import gradient as module
from charlm.training.gradient import Gradient

HERE = Runtime(torch.device("cpu"), "fp32", 1, "")
WINDOW, LANES, VOCABULARY = 5, 3, 7
LATEST: list[Network] = []


def network() -> Network:
    net = Network(ModelConfig(hidden=6, embedding=4, dropout_input=0.3, dropout_output=0.5), VOCABULARY)
    initialise(net, 1)
    LATEST.append(net)
    return net.train()


class Recorded(Replayed):
    """Gradients, too, keep the memory that they were recorded with."""

    def __init__(self, work: Callable[[], Any], device: torch.device, noise: torch.Generator | None = None) -> None:
        super().__init__(work, device, noise)
        assert noise is not None, "masks would be the same at each replay"
        self._network = LATEST[-1]
        self._gradients = [weight.grad for weight in self._network.parameters()]

    def replay(self) -> Any:
        super().replay()
        for own, weight in zip(self._gradients, self._network.parameters(), strict=True):
            assert own is not None
            assert weight.grad is not None
            own.copy_(weight.grad)
            weight.grad = None  # a graph writes to its own memory and knows nothing of a weight's attribute
        return self.results


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "Captured", Recorded)


def steps(compute: Gradient, net: Network) -> Iterator[list[Tensor]]:
    """Loss, state and gradients of chunks in a row, some of which have another shape; states are looked at late."""
    state, kept = net.init_state(LANES), []
    for step in range(7):
        generator = torch.Generator().manual_seed(step)
        length = 2 if step in (3, 4) else WINDOW
        ids = torch.randint(VOCABULARY, (length, LANES), generator=generator)
        targets = torch.randint(VOCABULARY, (length, LANES), generator=generator)
        targets[-1, 0] = IGNORE
        loss, state = compute(Chunk.of(ids, targets), state, step, 2.0**step)
        found = [loss.clone(), *(weight.grad.clone() for weight in net.parameters() if weight.grad is not None)]
        kept.append((found, state))
        with torch.no_grad():
            for weight in net.parameters():
                assert weight.grad is not None
                weight.sub_(weight.grad, alpha=0.01 / 2.0**step)
    for found, state in kept:
        yield [*found, *(part for layer in state for part in layer)]


@pytest.mark.usefixtures("gpu")
def test_windows_of_any_shape_come_out_of_a_graph_as_they_do_without() -> None:
    plain, captured = network(), network()
    by_kernel = Gradient(plain, HERE, (WINDOW, LANES), 5, pytest.fail)
    by_graph = Gradient(captured, HERE, (WINDOW, LANES), 5, pytest.fail)
    by_graph.capture = True
    count = 0
    for one, other in zip(steps(by_kernel, plain), steps(by_graph, captured), strict=True):
        for left, right in zip(one, other, strict=True):
            assert torch.equal(left, right)
            count += 1
    assert count == 7 * (1 + 1 + 2 * 4 + 2 + 2 * 2)  # loss, embedding, layers, head, states


def test_where_no_graph_can_be_made_that_is_told_once_and_steps_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("operation not permitted when stream is capturing\nand more")

    monkeypatch.setattr(module, "Captured", refuse)
    plain, captured = network(), network()
    told: list[str] = []
    by_graph = Gradient(captured, HERE, (WINDOW, LANES), 5, told.append)
    by_graph.capture = True
    by_kernel = Gradient(plain, HERE, (WINDOW, LANES), 5, pytest.fail)
    for one, other in zip(steps(by_kernel, plain), steps(by_graph, captured), strict=True):
        assert all(torch.equal(left, right) for left, right in zip(one, other, strict=True))
    assert [text.split(": ")[1] for text in told] == ["operation not permitted when stream is capturing"]


def test_memory_that_runs_out_while_capturing_is_for_the_caller_to_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(module, "Captured", refuse)
    net = network()
    compute = Gradient(net, HERE, (WINDOW, LANES), 5, pytest.fail)
    compute.capture = True
    with pytest.raises(torch.OutOfMemoryError):
        next(steps(compute, net))
