"""Backpropagation through time for scripts that change the weights in ways of their own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from torch import nn
from torch.nn import functional as F

from charlm.models.network import Network, detach_state
from charlm.text.lanes import Lanes
from charlm.text.position import Position
from charlm.text.tokenizer import Tokenizer

BATCH, BPTT = 32, 32
_SEED: Final = 0


def gradients(model: nn.Module, network: Network, tokenizer: Tokenizer, text: str, steps: int) -> Iterator[float]:
    """The losses of so many chunks of a text, in nats, read one after the other with the state carried.

    At each the network's weights have its gradient, for the caller to use. `model` is the network, or computes with its
    weights.
    """
    lanes = Lanes(tokenizer.encode(text).ids, start=tokenizer.start, batch=BATCH, bptt=BPTT, seed=_SEED)
    position, zero = Position(), network.init_state(BATCH)
    state = zero
    for _ in range(steps):
        chunk = lanes.read(position)
        logits_TBV, state = model(chunk.inputs, zero if chunk.begins.all() else state)
        network.zero_grad(set_to_none=True)
        loss = F.cross_entropy(logits_TBV.flatten(0, 1), chunk.targets.flatten())
        loss.backward()  # type: ignore[no-untyped-call]
        yield loss.item()
        state, position = detach_state(state), chunk.next
