"""A decoder on a GPU, with torch: sampling and reading sixteen tokens in turn is one CUDA graph.

A token takes some twenty kernels of a few microseconds each. Launching them one by one takes a processor as long as
computing the token itself; a graph is launched once. Without a GPU the same code runs on a processor, where tests
compare it with the other decoders.

Legend: T steps, B lanes, V vocabulary.
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
from charlm.generation.sampling import Floats, SamplingParameters
from charlm.models.cells import cell_of
from charlm.models.network import Network, State, copy_state, import_weights, overwrite_state, run_layer
from charlm.runtime.cuda_graph import Captured
from charlm.runtime.device import choose_device, choose_runtime
from charlm.runtime.settings import computing

_CHUNK: Final = 16  # tokens of one graph
Sampled = tuple[Tensor, Tensor, State]  # tokens [T, B]; logits [B, V] and the state after the last


class TorchDecoder(Decoder):
    """The training network, read one token at a time in fp32."""

    def __init__(self, config: ModelConfig, weights: Weights, device: torch.device) -> None:
        self.config, self.width, self.vocabulary = config, config.hidden, len(weights["head.bias"])
        self._cell = cell_of(config).load_torch()
        self._device = device
        self._network = Network(config, self.vocabulary)
        import_weights(self._network, weights)
        self._network.to_device(device).eval()
        with torch.no_grad():
            self._table: Tensor = self._network.embedding(torch.arange(self.vocabulary + 2, device=device))
        self._graph: tuple[tuple[int, SamplingParameters], _Graph] | None = None

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
    def sample(
        self, logits: Floats, state: DecoderState, uniforms_TB: NDArray[np.float64], settings: SamplingParameters
    ) -> tuple[NDArray[np.int64], Floats, DecoderState]:
        at, inner, uniforms, sampled = self._tensor(logits), self._state(state), self._tensor(uniforms_TB), []
        for chunk in torch.split(uniforms, _CHUNK):
            run = self._capture(settings, at, inner, chunk) if self._fits_graph(chunk) else self._run
            tokens, at, inner = run(at, inner, chunk, settings)
            sampled.append(tokens)
        return torch.cat(sampled).cpu().numpy(), at.cpu().numpy(), _arrays(inner)

    def _fits_graph(self, uniforms_TB: Tensor) -> bool:
        return self._device.type == "cuda" and len(uniforms_TB) == _CHUNK

    def _capture(
        self, settings: SamplingParameters, logits: Tensor, state: State, uniforms_TB: Tensor
    ) -> Callable[..., Sampled]:
        """The graph for so many lanes and this settings; the last one is kept."""
        key = uniforms_TB.shape[1], settings
        if self._graph is None or self._graph[0] != key:
            self._graph = key, _Graph(self._run, self._device, logits, state, uniforms_TB, settings)
        return self._graph[1]

    def _run(self, logits: Tensor, state: State, uniforms_TB: Tensor, settings: SamplingParameters) -> Sampled:
        tokens = []
        for uniforms in uniforms_TB:
            tokens.append(sample_tokens(logits, uniforms, settings))
            logits, state = self._step(tokens[-1], state)
        return torch.stack(tokens), logits, state

    def _step(self, ids: Tensor, state: State) -> tuple[Tensor, State]:
        x = self._table[ids]
        following = []
        for layer, before in zip(self._network.rnn, state, strict=True):
            following.append(self._step_layer(layer, x, before))
            x = following[-1][0]
        return self._network.head(x), tuple(following)

    def _step_layer(self, layer: torch.nn.Module, x_BE: Tensor, before: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The states of a layer, [B, H] each, after one input [B, E]."""
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
    """`run`, captured as a CUDA graph, on tensors of its own."""

    def __init__(
        self,
        run: Callable[..., Sampled],
        device: torch.device,
        logits: Tensor,
        state: State,
        uniforms_TB: Tensor,
        settings: SamplingParameters,
    ) -> None:
        self._logits, self._state, self._uniforms = logits.clone(), copy_state(state), uniforms_TB.clone()
        self._captured = Captured(lambda: run(self._logits, self._state, self._uniforms, settings), device)

    def __call__(self, logits: Tensor, state: State, uniforms_TB: Tensor, _: SamplingParameters) -> Sampled:
        self._logits.copy_(logits)
        overwrite_state(self._state, state)
        self._uniforms.copy_(uniforms_TB)
        tokens, at, after = self._captured.replay()
        return tokens.clone(), at.clone(), copy_state(after)  # the next replay overwrites the graph's own


def sample_tokens(logits_BV: Tensor, uniforms_B: Tensor, settings: SamplingParameters) -> Tensor:
    """`charlm.generation.sampling.next_token` for each lane, as tensors [B] on the device."""
    place = torch.arange(logits_BV.shape[1], device=logits_BV.device)
    most = logits_BV.amax(dim=1, keepdim=True)
    if settings.temperature == 0:
        return torch.where(logits_BV == most, place, len(place)).amin(dim=1)
    p = ((logits_BV.double() - most.double()) / settings.temperature).softmax(dim=1)
    if settings.top_k or settings.top_p < 1 or settings.min_p:
        p = _truncate(p, place, settings)
    cumulative = p.cumsum(dim=1)
    token = (cumulative <= uniforms_B[:, None] * cumulative[:, -1:]).sum(dim=1)
    return torch.minimum(token, torch.where(p > 0, place, 0).amax(dim=1))


def _truncate(p: Tensor, place: Tensor, settings: SamplingParameters) -> Tensor:
    """The truncation of `charlm.generation.sampling.distribution`, renormalised, for probabilities [B, V]."""
    ranked, order = p.sort(dim=1, descending=True, stable=True)
    keep = torch.full_like(order[:, :1], settings.top_k or len(place))
    if settings.top_p < 1:
        within = torch.where(place < keep, ranked, 0)
        within = within / within.sum(dim=1, keepdim=True)
        keep = torch.minimum(keep, (within.cumsum(dim=1) < settings.top_p).sum(dim=1, keepdim=True) + 1)
    if settings.min_p:
        keep = torch.minimum(keep, (ranked >= settings.min_p * ranked[:, :1]).sum(dim=1, keepdim=True))
    kept = torch.where(place < keep, ranked, 0)
    result = torch.zeros_like(p).scatter(1, order, kept)
    return result / result.sum(dim=1, keepdim=True)


def _arrays(state: State) -> DecoderState:
    return [tuple(part.cpu().numpy() for part in layer) for layer in state]


def open_cuda(config: ModelConfig, weights: Weights, precision: str, threads: int) -> Decoder:  # noqa: ARG001
    """The decoder on the first GPU; raises ConfigError without a GPU, and for precisions other than fp32."""
    problem = f"computes in fp32, not in {precision}" if precision != "fp32" else "needs a GPU that torch can use"
    if precision != "fp32" or not torch.cuda.is_available():
        raise ConfigError(f"--engine cuda {problem}", kept="nothing was written", hint="use --engine auto")
    with computing():
        device = choose_device("cuda")
        choose_runtime(device, precision, 1)
        return TorchDecoder(config, weights, device)
