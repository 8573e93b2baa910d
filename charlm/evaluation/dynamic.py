"""Dynamic evaluation: a network that goes on learning from the text that it is scored on.

Krause, Kahembwe, Murray and Renals (2018), "Dynamic evaluation of neural sequence models", in its RMS form. The text is
read once, in one stream, in segments of a few tokens. A segment is scored with the weights as they are; only then do
they follow its gradient g, and are drawn back to the trained weights w0:

    w <- w - lr g / (s + epsilon) + d (w0 - w)      d = min(decay s / mean of s, 1)      s = sqrt(mean square of g)

Each token is so predicted from what stands before it and nothing else: its nats are those of a probability model, and
compare with the static ones.

s is the usual size of each weight's gradient. In the paper it comes from the training text, where `gradient_squares`
gathers it. Without that it is taken over the segments read so far, the present one included, which needs nothing but
the text and gains almost as much.

This module knows nothing of files or printing.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from charlm.evaluation.score import charged
from charlm.models.network import Network, detach_state
from charlm.text.tokenizer import Ids, Tokenizer

Tensors = list[Tensor] | tuple[Tensor, ...]  # one for each parameter of a network, in their order

SAMPLE: Final = 20_000  # tokens of a training text that gradients are gathered from
_STRETCH: Final = 1024  # of them in a row


@dataclass(frozen=True, slots=True, kw_only=True)
class Adaptation:
    """How weights follow what was read."""

    segment: int = 32  # tokens from one update to the next
    lr: float = 2e-4  # what a weight moves where its gradient is as large as usual
    decay: float = 0.002  # the share of its way back that a weight of mean s goes with each update
    epsilon: float = 1e-4  # added to s, in nats a token; for weights that hardly ever have a gradient


DEFAULT: Final = Adaptation()


def dynamic_nats(
    network: Network,
    tokenizer: Tokenizer,
    ids: Ids,
    *,
    adaptation: Adaptation = DEFAULT,
    squares: Tensors | None = None,
) -> NDArray[np.float32]:
    """-ln P of each token [N] under a network that learns as it reads; the network that is given stays as it is.

    `squares` are those of `gradient_squares`. The device is the network's. All is done in order, so that time grows
    with the length of the text.
    """
    learner = _learner(network)
    weights: list[Tensor] = list(learner.parameters())
    return _read(learner, tokenizer, ids, adaptation.segment, _Rule(weights, adaptation, squares).step)


def gradient_squares(
    network: Network, tokenizer: Tokenizer, ids: Ids, *, segment: int = DEFAULT.segment, sample: int = SAMPLE
) -> list[Tensor]:
    """The mean square of the gradient of a segment's loss, for each of the network's parameters.

    It is gathered over at most about `sample` tokens in stretches from all over a training text's ids [N], read in a
    row. What is wanted is its order of magnitude.
    """
    learner = _learner(network)
    sums = [torch.zeros_like(weight) for weight in learner.parameters()]
    if not len(ids):
        return sums
    read = _stretches(ids, sample)

    def add(gradients: Tensors) -> None:
        torch._foreach_addcmul_(sums, gradients, gradients)

    _read(learner, tokenizer, read, segment, add)
    return list(torch._foreach_div(sums, -(-len(read) // segment)))


def _stretches(ids: Ids, sample: int) -> Ids:
    if len(ids) <= max(sample, _STRETCH):
        return ids
    starts = np.linspace(0, len(ids) - _STRETCH, max(1, sample // _STRETCH)).astype(np.int64)
    return np.concatenate([ids[start : start + _STRETCH] for start in starts])


def _learner(network: Network) -> Network:
    """A copy that gradients can go through, without dropout: cuDNN has none for recurrent layers in evaluation mode."""
    learner = copy.deepcopy(network).eval().requires_grad_()
    learner.rnn.train()
    return learner


@torch.enable_grad()
def _read(
    network: Network, tokenizer: Tokenizer, ids: Ids, segment: int, learn: Callable[[Tensors], None]
) -> NDArray[np.float32]:
    """-ln P of each token [N]; `learn` gets the gradient of each segment's mean after the segment was scored."""
    weights, state, nats = list(network.parameters()), network.init_state(1), []
    stream = torch.from_numpy(np.concatenate([[tokenizer.start], ids]).astype(np.int64)).to(network.device)
    for at in range(0, len(ids), segment):
        inputs, targets = stream[:-1][at : at + segment, None], stream[1:][at : at + segment, None]
        logits, after = network(inputs, state)
        state = detach_state(after)
        charge = charged(logits, targets, tokenizer)[:, 0]
        nats.append(charge.detach())
        learn(torch.autograd.grad(charge.mean(), weights))
    return torch.cat(nats).cpu().numpy() if nats else np.zeros(0, dtype=np.float32)


class _Rule:
    """The update above over some weights, in place."""

    def __init__(self, weights: list[Tensor], adaptation: Adaptation, squares: Tensors | None) -> None:
        self.weights, self.adaptation = weights, adaptation
        self.trained = [weight.detach().clone() for weight in weights]
        self.running, self.steps = squares is None, 0
        self.sums = [torch.zeros_like(weight) for weight in weights] if squares is None else []
        if squares is not None:
            self._measure(squares)

    @torch.no_grad()
    def step(self, gradients: Tensors) -> None:
        if self.running:
            self.steps += 1
            torch._foreach_addcmul_(self.sums, gradients, gradients)
            self._measure(torch._foreach_div(self.sums, self.steps))
        torch._foreach_lerp_(self.weights, self.trained, self.pull)
        torch._foreach_addcdiv_(self.weights, gradients, self.size, -self.adaptation.lr)

    def _measure(self, squares: Tensors) -> None:
        """s + epsilon and d of each weight, from the mean squares of its gradients."""
        size = torch._foreach_sqrt(squares)
        mean = torch.stack([part.sum() for part in size]).sum() / sum(part.numel() for part in size)
        self.pull = torch._foreach_mul(size, self.adaptation.decay / mean.clamp(min=1e-30))
        torch._foreach_clamp_max_(self.pull, 1.0)
        self.size = torch._foreach_add(size, self.adaptation.epsilon)
