"""A decoder on a GPU, through torch: drawing and reading sixteen tokens in a row is one CUDA graph.

A token is some twenty kernels of a few microseconds, which a processor launches one by one no faster than it would
compute them itself; a graph is launched once. Without CUDA the same lines run on a processor, where tests hold them to
the other engines.

Legend: T steps, B streams, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from charlm.config import ModelConfig
from charlm.errors import ConfigError
from charlm.generation.decoder import Decoder, DecoderState, Weights
from charlm.generation.sampling import Cut, Floats
from charlm.models.cells import cell_of
from charlm.models.network import Network, State, copied, import_weights, overwrite, run_layer
from charlm.runtime.cuda_graph import Captured
from charlm.runtime.device import choose_device, choose_runtime

_CHUNK: Final = 16  # tokens to a graph
Drawn = tuple[Tensor, Tensor, State]  # tokens [T, B]; logits [B, V] and the state after the last


class TorchDecoder(Decoder):
    """A network whose layers take one step at a time, in fp32."""

    def __init__(self, config: ModelConfig, weights: Weights, device: torch.device) -> None:
        self.config, self.width, self.vocabulary = config, config.hidden, len(weights["head.bias"])
        self._cell = cell_of(config).load_torch()
        self._device = device
        self._network = Network(config, self.vocabulary)
        import_weights(self._network, weights)
        self._network.to_device(device).eval()
        with torch.no_grad():
            self._table: Tensor = self._network.embedding(torch.arange(self.vocabulary + 2, device=device))
        self._graph: tuple[tuple[int, Cut], _Graph] | None = None

    @torch.no_grad()
    def read(self, ids_TB: NDArray[np.integer[Any]], state: DecoderState) -> tuple[Floats, DecoderState]:
        inner, logits = self._state(state), []
        for ids in self._ids(ids_TB):
            at, inner = self._step(ids, inner)
            logits.append(at)
        return torch.stack(logits).cpu().numpy(), _arrays(inner)

    @torch.no_grad()
    def after(self, ids_TB: NDArray[np.integer[Any]], state: DecoderState) -> tuple[Floats, DecoderState]:
        inner = self._state(state)
        for ids in self._ids(ids_TB):
            at, inner = self._step(ids, inner)
        return at.cpu().numpy(), _arrays(inner)

    @torch.no_grad()
    def draw(
        self, logits: Floats, state: DecoderState, draws_TB: NDArray[np.float64], cut: Cut
    ) -> tuple[NDArray[np.int64], Floats, DecoderState]:
        at, inner, draws, drawn = self._tensor(logits), self._state(state), self._tensor(draws_TB), []
        for chunk in torch.split(draws, _CHUNK):
            run = self._captured(cut, at, inner, chunk) if self._whole(chunk) else self._run
            tokens, at, inner = run(at, inner, chunk, cut)
            drawn.append(tokens)
        return torch.cat(drawn).cpu().numpy(), at.cpu().numpy(), _arrays(inner)

    def _whole(self, draws_TB: Tensor) -> bool:
        return self._device.type == "cuda" and len(draws_TB) == _CHUNK

    def _captured(self, cut: Cut, logits: Tensor, state: State, draws_TB: Tensor) -> Callable[..., Drawn]:
        """The graph for so many streams and this cut; the last one is kept."""
        key = draws_TB.shape[1], cut
        if self._graph is None or self._graph[0] != key:
            self._graph = key, _Graph(self._run, self._device, logits, state, draws_TB, cut)
        return self._graph[1]

    def _run(self, logits: Tensor, state: State, draws_TB: Tensor, cut: Cut) -> Drawn:
        tokens = []
        for draws in draws_TB:
            tokens.append(choose(logits, draws, cut))
            logits, state = self._step(tokens[-1], state)
        return torch.stack(tokens), logits, state

    def _step(self, ids: Tensor, state: State) -> tuple[Tensor, State]:
        x = self._table[ids]
        following = []
        for layer, before in zip(self._network.rnn, state, strict=True):
            following.append(self._stepped(layer, x, before))
            x = following[-1][0]
        return self._network.head(x), tuple(following)

    def _stepped(self, layer: torch.nn.Module, x_BE: Tensor, before: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """A layer's states [B, H] after one input."""
        if self._cell is None:
            return run_layer(layer, x_BE[None], before)[1]
        after = self._cell(x_BE, before if len(before) > 1 else before[0], *layer.parameters())
        return after if isinstance(after, tuple) else (after,)

    def _ids(self, ids_TB: NDArray[np.integer[Any]]) -> Tensor:
        return self._tensor(ids_TB.astype(np.int64))

    def _tensor(self, array: NDArray[np.generic]) -> Tensor:
        return torch.tensor(array, device=self._device)

    def _state(self, state: DecoderState) -> State:
        return tuple(tuple(self._tensor(part) for part in layer) for layer in state)


class _Graph:
    """`run` on tensors of its own, recorded."""

    def __init__(
        self, run: Callable[..., Drawn], device: torch.device, logits: Tensor, state: State, draws_TB: Tensor, cut: Cut
    ) -> None:
        self._logits, self._state, self._draws = logits.clone(), copied(state), draws_TB.clone()
        self._captured = Captured(lambda: run(self._logits, self._state, self._draws, cut), device)

    def __call__(self, logits: Tensor, state: State, draws_TB: Tensor, _: Cut) -> Drawn:
        self._logits.copy_(logits)
        overwrite(self._state, state)
        self._draws.copy_(draws_TB)
        tokens, at, after = self._captured.replay()
        return tokens.clone(), at.clone(), copied(after)  # the next replay writes over the graph's own


def choose(logits_BV: Tensor, draws_B: Tensor, cut: Cut) -> Tensor:
    """`charlm.generation.sampling.next_token` for each of B streams [B], without a word to the processor."""
    place = torch.arange(logits_BV.shape[1], device=logits_BV.device)
    most = logits_BV.amax(dim=1, keepdim=True)
    if cut.temperature == 0:
        return torch.where(logits_BV == most, place, len(place)).amin(dim=1)
    p = ((logits_BV.double() - most.double()) / cut.temperature).softmax(dim=1)
    if cut.top_k or cut.top_p < 1 or cut.min_p:
        p = _cut(p, place, cut)
    cumulative = p.cumsum(dim=1)
    token = (cumulative <= draws_B[:, None] * cumulative[:, -1:]).sum(dim=1)
    return torch.minimum(token, torch.where(p > 0, place, 0).amax(dim=1))


def _cut(p: Tensor, place: Tensor, cut: Cut) -> Tensor:
    """What `charlm.generation.sampling.distribution` keeps, renormalised."""
    ranked, order = p.sort(dim=1, descending=True, stable=True)
    keep = torch.full_like(order[:, :1], cut.top_k or len(place))
    if cut.top_p < 1:
        within = torch.where(place < keep, ranked, 0)
        within = within / within.sum(dim=1, keepdim=True)
        keep = torch.minimum(keep, (within.cumsum(dim=1) < cut.top_p).sum(dim=1, keepdim=True) + 1)
    if cut.min_p:
        keep = torch.minimum(keep, (ranked >= cut.min_p * ranked[:, :1]).sum(dim=1, keepdim=True))
    kept = torch.where(place < keep, ranked, 0)
    result = torch.zeros_like(p).scatter(1, order, kept)
    return result / result.sum(dim=1, keepdim=True)


def _arrays(state: State) -> DecoderState:
    return [tuple(part.cpu().numpy() for part in layer) for layer in state]


def open_cuda(config: ModelConfig, weights: Weights, precision: str, threads: int) -> Decoder:  # noqa: ARG001
    """The decoder on the first GPU; raises ConfigError where there is none, and for precisions other than fp32."""
    problem = f"computes in fp32, not in {precision}" if precision != "fp32" else "needs a GPU that torch can use"
    if precision != "fp32" or not torch.cuda.is_available():
        raise ConfigError(f"--engine cuda {problem}", kept="nothing was written", hint="use --engine auto")
    device = choose_device("cuda")
    choose_runtime(device, precision, 1)
    return TorchDecoder(config, weights, device)
