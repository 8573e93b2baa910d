"""Dynamic evaluation: the network continues to learn from the text on which it is scored.

Krause, Kahembwe, Murray and Renals (2018), "Dynamic evaluation of neural sequence models", in the RMS form. The text is
read once, from its first token to its last, in segments of a few tokens. Each segment is scored with the current
weights w. Only then are the weights updated with its gradient g, and moved back towards the trained weights w0:

    w <- w - lr g / (s + epsilon) + d (w0 - w)      d = min(decay s / mean of s, 1)      s = sqrt(mean square of g)

So each token is predicted from the tokens before it and nothing else: its negative log-likelihood is that of a
probability model and can be compared with the static one.

s is the typical size of the gradient of each weight. In the paper it is measured on the training text, as
`gradient_squares` does. Without that it is the root mean square over the segments read so far, the current one
included; this needs only the text and is almost as good.

Legend: N tokens. This module knows nothing of files or printing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from charlm.evaluation.score import Score, add_escape, add_to_cells, cross_entropy
from charlm.models.network import Network, State, detach_state, trained_weights
from charlm.runtime.threads import RepeatableThreads
from charlm.text.stored import StoredIds
from charlm.text.tokenizer import Ids, StoredTokens, Tokenizer

Tensors = list[Tensor] | tuple[Tensor, ...]  # one for each weight of a network that training changes, in their order

SAMPLE: Final = 20_000  # tokens of the training text on which gradients are measured
_STRETCH: Final = 1024  # consecutive tokens among them


@dataclass(frozen=True, slots=True, kw_only=True)
class Adaptation:
    """The parameters of dynamic evaluation."""

    segment: int = 32  # tokens from one update to the next
    lr: float = 2e-4  # the change of a weight whose gradient has its typical size
    decay: float = 0.002  # the share of w0 - w that is added at each update, for a weight of mean s
    epsilon: float = 1e-4  # added to s; for weights whose gradient is almost always 0


DEFAULT: Final = Adaptation()


def dynamic_nats(
    network: Network,
    tokenizer: Tokenizer,
    ids: Ids,
    *,
    adaptation: Adaptation = DEFAULT,
    squares: Tensors | None = None,
    threads: int = 1,
) -> NDArray[np.float32]:
    """-ln P of each token [N] in nats, under a copy of the network that learns as it reads.

    `squares` come from `gradient_squares`; without them s is measured on the text. Computes on the device of the
    network, segment by segment in order, with up to `threads` threads; with 1, as many as torch has.
    """
    read = _adapting(network, tokenizer, ids, adaptation, squares, threads)
    nats = [nll for _, nll in read]
    return add_escape(torch.cat(nats).cpu().numpy(), ids, tokenizer) if nats else np.zeros(0, dtype=np.float32)


def dynamic_score(
    network: Network,
    tokenizer: Tokenizer,
    tokens: StoredTokens,
    *,
    cells: NDArray[np.float64] | None = None,
    threads: int = 1,
) -> Score:
    """The score of the same for a text on the disk, in memory that does not depend on its length.

    `cells` become the sums of pieces of the text, as in `charlm.evaluation.score.score_stored`.
    """
    nats, at, sums = 0.0, 0, np.zeros(1) if cells is None else cells
    sums[:] = 0
    for ids, nll in _adapting(network, tokenizer, tokens.ids, DEFAULT, None, threads):
        values = add_escape(nll.cpu().numpy(), ids, tokenizer)
        nats += float(values.sum(dtype=np.float64))
        add_to_cells(sums, np.arange(at, at + len(ids)), values, len(tokens.ids))
        at += len(ids)
    return Score.of(nats, tokens)


def _adapting(
    network: Network,
    tokenizer: Tokenizer,
    ids: Ids | StoredIds,
    adaptation: Adaptation,
    squares: Tensors | None,
    threads: int,
) -> Iterator[tuple[Ids, Tensor]]:
    """Ids and nats of each segment, without the escape, under a copy of the network that learns as it reads."""
    learner = _learner(network)
    weights = _weights(learner)
    update = _Update(weights, adaptation, squares)
    return _read(learner, tokenizer, ids, adaptation.segment, update.step, RepeatableThreads(threads))


def gradient_squares(
    network: Network, tokenizer: Tokenizer, ids: Ids, *, segment: int = DEFAULT.segment, sample: int = SAMPLE
) -> list[Tensor]:
    """The mean square of the gradient of a segment's loss, in the shape of each of the network's parameters.

    It is measured on at most about `sample` tokens, in stretches from all over the ids of a training text [N]; only its
    order of magnitude matters.
    """
    learner = _learner(network)
    sums = [torch.zeros_like(weight) for weight in _weights(learner)]
    if not len(ids):
        return sums
    tokens = _stretches(ids, sample)

    def add(gradients: Tensors) -> None:
        torch._foreach_addcmul_(sums, gradients, gradients)

    for _ in _read(learner, tokenizer, tokens, segment, add, RepeatableThreads(1)):
        pass  # `add` has what is wanted
    return list(torch._foreach_div(sums, -(-len(tokens) // segment)))


def _stretches(ids: Ids, sample: int) -> Ids:
    if len(ids) <= max(sample, _STRETCH):
        return ids
    starts = np.linspace(0, len(ids) - _STRETCH, max(1, sample // _STRETCH)).astype(np.int64)
    return np.concatenate([ids[start : start + _STRETCH] for start in starts])


def _learner(network: Network) -> Network:
    """A copy to learn with, without dropout. cuDNN has no gradient for recurrent layers in evaluation mode."""
    learner = network.copy().eval().requires_grad_()
    learner.layers.train()
    return learner


def _weights(network: Network) -> list[Tensor]:
    return list(trained_weights(network).values())


@torch.enable_grad()
def _read(
    network: Network,
    tokenizer: Tokenizer,
    ids: Ids | StoredIds,
    segment: int,
    learn: Callable[[Tensors], None],
    threads: RepeatableThreads,
) -> Iterator[tuple[Ids, Tensor]]:
    """Ids of each segment and their -ln P, without the escape; before, `learn` got the gradient of its mean loss."""
    weights, state, before = _weights(network), network.init_state(1), tokenizer.start

    def read(inputs: Tensor, targets: Tensor, before: State) -> tuple[Tensor, State, Tensors]:
        logits, after = network(inputs, before)
        nll = cross_entropy(logits, targets)[:, 0]
        return nll.detach(), detach_state(after), torch.autograd.grad(nll.mean(), weights)

    for at in range(0, len(ids), segment):
        own = ids[at : at + segment]
        tokens = torch.from_numpy(np.concatenate([[before], own]).astype(np.int64)).to(network.device)[:, None]
        nll, state, gradients = threads(len(own), 1, partial(read, tokens[:-1], tokens[1:], state))
        threads.use_all()  # the sums of an update depend on the number
        learn(gradients)
        yield own, nll
        before = int(own[-1])


class _Update:
    """The update of the module's docstring, on these weights in place."""

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
