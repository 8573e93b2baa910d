"""A decoder on a GPU, with torch: sampling and reading a chunk of tokens in turn is one CUDA graph.

A token takes some fourteen kernels of a few microseconds each. Launching them one by one takes a processor longer than
computing them; a graph is launched once. Copies to and from a GPU cost as much as several kernels however little they
carry, so all that a chunk needs arrives as one row of bytes, and all that it gives leaves as another. Without a GPU the
same code runs on a processor, where tests compare it with the other decoders.

Legend: T steps, B lanes, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from charlm.config import ModelConfig
from charlm.errors import ConfigError
from charlm.generation.decoder import Decoder, DecoderState, Weights
from charlm.generation.sampling import Floats, SamplingParameters
from charlm.models.architecture import adds_inputs, architecture_of, by_layer
from charlm.models.cells import Recurrent, cell_of
from charlm.models.network import Network, Parts, State, import_weights, run_layer
from charlm.runtime.cuda_graph import Captured
from charlm.runtime.device import choose_device, choose_runtime
from charlm.runtime.settings import computing

_CHUNK: Final = 64  # tokens of one graph: as many as `charlm.generation.generate` asks for at once
_COLDEST: Final = 1e-300  # a lower temperature selects the same tokens, but logits divided by it would overflow


class TorchDecoder(Decoder):
    """The training network, read one token at a time in fp32."""

    def __init__(self, config: ModelConfig, weights: Weights, device: torch.device) -> None:
        self.config, self.vocabulary = config, len(weights["head.bias"])
        self._cell = cell_of(config).load_torch() if isinstance(architecture_of(config), Recurrent) else None
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
        sampled = []
        for first in range(0, len(uniforms_TB), _CHUNK):
            tokens, logits, state = self._sample_chunk(logits, state, uniforms_TB[first : first + _CHUNK], settings)
            sampled.append(tokens)
        return np.concatenate(sampled), logits, state

    def _sample_chunk(
        self, logits: Floats, state: DecoderState, uniforms_TB: NDArray[np.float64], settings: SamplingParameters
    ) -> tuple[NDArray[np.int64], Floats, DecoderState]:
        inputs = [torch.tensor(array) for array in (uniforms_TB, logits, *(part for layer in state for part in layer))]
        run = self._capture(inputs, settings) if self._fits_graph(uniforms_TB) else self._run
        row = run(_join(inputs).to(self._device), inputs, settings).to("cpu", copy=True)  # the graph keeps its own
        tokens, at, *parts = (part.numpy() for part in _split(row, [inputs[0].long(), *inputs[1:]]))
        return tokens, at, by_layer(parts, self.config)

    def _fits_graph(self, uniforms_TB: NDArray[np.float64]) -> bool:
        return self._device.type == "cuda" and len(uniforms_TB) == _CHUNK

    def _capture(self, inputs: Sequence[Tensor], settings: SamplingParameters) -> Callable[..., Tensor]:
        """The graph for so many lanes and these parameters; the last one is kept."""
        key = inputs[0].shape[1], settings
        if self._graph is None or self._graph[0] != key:
            self._graph = key, _Graph(self._run, self._device, inputs, settings)
        return self._graph[1]

    def _run(self, row: Tensor, like: Sequence[Tensor], settings: SamplingParameters) -> Tensor:
        """From uniform numbers [T, B], logits and the state, joined, to the tokens [T, B], logits and the state."""
        uniforms_TB, logits, *parts = _split(row, like)
        state: State = tuple(by_layer(parts, self.config))
        sample, tokens = TokenSampler(settings, logits), []
        for uniforms in uniforms_TB:
            tokens.append(sample(logits, uniforms))
            logits, state = self._step(tokens[-1], state)
        return _join([torch.stack(tokens), logits, *(part for layer in state for part in layer)])

    def _step(self, ids: Tensor, state: State) -> tuple[Tensor, State]:
        x = self._table[ids]
        following = []
        for number, (layer, before) in enumerate(zip(self._network.layers, state, strict=True)):
            y, after = self._step_layer(layer, x, before)
            x = x + y if adds_inputs(self.config, number) else y
            following.append(after)
        return self._network.head(x), tuple(following)

    def _step_layer(self, layer: torch.nn.Module, x_BE: Tensor, before: Parts) -> tuple[Tensor, Parts]:
        """The output [B, H] of a layer after one input [B, E], and its states."""
        if self._cell is None:
            y_1BH, parts = run_layer(layer, x_BE[None], before)
            return y_1BH[0], parts
        after = self._cell(x_BE, before if len(before) > 1 else before[0], *layer.parameters())
        parts = after if isinstance(after, tuple) else (after,)
        return parts[0], parts

    def _ids(self, ids_TB: NDArray[np.integer[Any]]) -> Tensor:
        return self._tensor(ids_TB.astype(np.int64))

    def _tensor(self, array: NDArray[np.generic]) -> Tensor:
        return torch.tensor(array, device=self._device)

    def _state(self, state: DecoderState) -> State:
        return tuple(tuple(self._tensor(part) for part in layer) for layer in state)


class _Graph:
    """`run`, captured as a CUDA graph, on a row of its own."""

    def __init__(
        self,
        run: Callable[..., Tensor],
        device: torch.device,
        like: Sequence[Tensor],
        settings: SamplingParameters,
    ) -> None:
        self._row = _join(like).to(device)
        self._captured = Captured(lambda: run(self._row, like, settings), device)

    def __call__(self, row: Tensor, *_: object) -> Tensor:
        self._row.copy_(row)
        return self._captured.replay()


def _join(parts: Sequence[Tensor]) -> Tensor:
    """The bytes of all of these, in one row."""
    return torch.cat([part.contiguous().flatten().view(torch.uint8) for part in parts])


def _split(row: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """The parts of a row of bytes, of the same shapes and types as `like`; the widest type is the first."""
    sizes = [prod(part.shape) * part.element_size() for part in like]
    return [piece.view(part.dtype).view(part.shape) for piece, part in zip(torch.split(row, sizes), like, strict=True)]


class TokenSampler:
    """`charlm.generation.sampling.next_token` for each lane, as tensors on the device of these logits [B, V]."""

    def __init__(self, settings: SamplingParameters, logits_BV: Tensor) -> None:
        self._settings = settings
        self._truncates = bool(settings.top_k or settings.top_p < 1 or settings.min_p)
        self._place = torch.arange(logits_BV.shape[1], device=logits_BV.device)
        # As an array it makes the quotient fp64 in one kernel.
        self._temperature = logits_BV.new_full((1,), max(settings.temperature, _COLDEST), dtype=torch.float64)

    def __call__(self, logits_BV: Tensor, uniforms_B: Tensor) -> Tensor:
        """The tokens [B] that uniform numbers [B] in [0, 1) select."""
        if self._settings.temperature == 0:
            most = logits_BV.amax(dim=1, keepdim=True)
            return torch.where(logits_BV == most, self._place, len(self._place)).amin(dim=1)
        p = (logits_BV / self._temperature).softmax(dim=1)
        if self._truncates:
            p = _truncate(p, self._place, self._settings)
        cumulative = p.cumsum(dim=1)
        token = torch.searchsorted(cumulative, uniforms_B[:, None] * cumulative[:, -1:], right=True).squeeze(1)
        if self._truncates:  # sums of the same numbers in different orders differ: keep to tokens that are left
            token = torch.minimum(token, torch.where(p > 0, self._place, 0).amax(dim=1))
        return token


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
