"""The decoder in C: kernel.c, compiled for this processor and called with a model's weights.

Most machines that run PyTorch have a C compiler, and the result is smaller and loads faster than any library that could
replace it (docs/log.md has the measurements). Without a compiler, `charlm.generation.engine` uses NumPy.
"""

from __future__ import annotations

import ctypes
import time
from ctypes import POINTER, Structure, c_double, c_int32, c_int64, c_void_p, pointer
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from charlm.config import ModelConfig
from charlm.errors import ConfigError
from charlm.generation.build import Kernel, NoKernel, kernel
from charlm.generation.decoder import STEPS, Decoder, DecoderState, Weights, input_table, quantize, vectors
from charlm.generation.sampling import Floats, SamplingParameters
from charlm.models.architecture import architecture_of
from charlm.models.cells import Recurrent, cell_of
from charlm.runtime import processor
from charlm.runtime.threads import ThreadTuner

_MULTIPLE: Final = 16  # of units: whole blocks, and whole steps of kernel.c's loops over columns
_READ: Final = 4096  # steps of one call; Ctrl-C takes effect between calls
_SHARE: Final = 200_000  # bytes of weights for each additional thread
_MOST: Final = 4  # threads at most


# the structures of kernel.c, whose comments explain the fields


class _Matrix(Structure):
    _fields_ = (("weights", c_void_p), ("scale", c_void_p), ("excess", c_void_p))


class _Layer(Structure):
    _fields_ = (("input", _Matrix), ("recurrent", _Matrix), ("bias", c_void_p), ("inner", c_void_p))


class _Model(Structure):
    _fields_ = (
        *((name, c_int32) for name in ("cell", "gates", "layers", "units", "vocabulary", "bytes")),
        ("table", c_void_p),
        ("layer", POINTER(_Layer)),
        ("head", _Matrix),
        ("head_bias", c_void_p),
    )


class _SamplingParameters(Structure):
    _fields_ = (("temperature", c_double), ("top_p", c_double), ("min_p", c_double), ("top_k", c_int64))


class _Work(Structure):
    _fields_ = (
        ("model", POINTER(_Model)),
        ("lanes", c_int32),
        ("threads", c_int32),
        ("steps", c_int64),
        ("ids", c_void_p),
        ("uniforms", c_void_p),
        ("settings", POINTER(_SamplingParameters)),
        *((name, c_void_p) for name in ("sampled", "h", "c", "logits")),
        ("every", c_int32),
    )


def kernel_for(config: ModelConfig) -> Kernel:
    """The kernel, if it has what the model consists of; raises NoKernel."""
    recurrent = isinstance(architecture_of(config), Recurrent)
    if not recurrent or cell_of(config).compiled is None:
        raise NoKernel(f"kernel.c does not have the {'cell' if recurrent else 'model'} {config.kind}")
    if config.skip:
        raise NoKernel("kernel.c does not have residual connections")
    return kernel()


class CompiledDecoder(Decoder):
    """The decoder in C; raises NoKernel if it cannot be compiled or does not have the cell.

    `precision` is fp32 or int8; with `threads` 0 the fastest number is found while decoding.
    """

    def __init__(self, config: ModelConfig, weights: Weights, precision: str = "fp32", threads: int = 0) -> None:
        compiled = kernel_for(config)
        self._run, self._width = compiled.code.charlm_run, compiled.width
        self.config, self.vocabulary, self._units = config, len(weights["head.bias"]), _padded(config.hidden)
        self._int8 = precision == "int8"
        self._kept: list[NDArray[Any]] = []  # arrays that the C structures point to
        gates = len(cell_of(config).gates)
        layers = (_Layer * config.layers)()
        for place, layer in enumerate(layers):
            bias, inner = vectors(config, weights, place)
            layer.recurrent = self._matrix(weights[f"rnn.{place}.weight_hh"], gates)
            if place:
                layer.input = self._matrix(weights[f"rnn.{place}.weight_ih"], gates)
                layer.bias = self._address(self._rows(bias[None], gates))
            else:
                table = self._address(self._rows(input_table(config, weights) + bias, gates))
            layer.inner = self._address(self._rows(np.resize(inner, (1, config.hidden)), 1)) if len(inner) else None
        self._model = _Model(
            cell=cell_of(config).compiled,
            gates=gates,
            layers=config.layers,
            units=self._units,
            vocabulary=self.vocabulary,
            bytes=self._int8,
            table=table,
            layer=layers,
            head=self._matrix(weights["head.weight"], 1),
            head_bias=self._address(self._rows(weights["head.bias"][None], 1)),
        )
        size = sum(weight.nbytes for name, weight in weights.items() if "weight_" in name) // (4 if self._int8 else 1)
        most = max(1, min(processor.available_threads(), size // _SHARE, _MOST))
        doubling = [1 << number for number in reversed(range(most.bit_length()))]
        self._tuner = ThreadTuner([threads] if threads else doubling)

    def _address(self, array: NDArray[Any]) -> int:
        self._kept.append(np.ascontiguousarray(array))
        return self._kept[-1].ctypes.data

    def _rows(self, values: NDArray[Any], gates: int) -> NDArray[Any]:
        """[N, gates * units] rearranged to [N, blocks, gates, width], padded with zeros."""
        units = values.shape[1] // gates
        padded = np.zeros((len(values), gates, _padded(units)), dtype=values.dtype)
        padded[:, :, :units] = values.reshape(len(values), gates, units)
        return padded.reshape(len(values), gates, -1, self._width).transpose(0, 2, 1, 3)

    def _matrix(self, weight: NDArray[Any], gates: int) -> _Matrix:
        """A matrix [gates * units, columns] as [blocks, gates, columns, width]; int8 [.., columns / 4, width, 4]."""
        if not self._int8:
            return _Matrix(self._address(self._columns(weight.astype(np.float32), gates).transpose(1, 2, 0, 3)))
        whole, scale = quantize(weight)
        by_four = self._columns(whole, gates)
        by_four = by_four.reshape(-1, 4, *by_four.shape[1:]).transpose(2, 3, 0, 4, 1)
        excess = (STEPS + 1) * whole.sum(axis=1, dtype=np.int32)
        return _Matrix(
            self._address(by_four),
            self._address(self._rows(scale[None] / np.float32(STEPS), gates)),
            self._address(self._rows(excess[None], gates)),
        )

    def _columns(self, weight: NDArray[Any], gates: int) -> NDArray[Any]:
        """A matrix [gates * units, columns] as [columns, blocks, gates, width], padded with zeros."""
        columns = np.zeros((self._units, len(weight)), dtype=weight.dtype)
        columns[: weight.shape[1]] = weight.T
        return self._rows(columns, gates)

    def init_state(self, lanes: int) -> DecoderState:
        """The zero state, padded to whole blocks of units."""
        zero = np.zeros((lanes, self._units), dtype=np.float32)
        return [(zero,) * len(cell_of(self.config).states) for _ in range(self.config.layers)]

    def after(self, ids_TB: NDArray[np.integer[Any]], state: DecoderState) -> tuple[Floats, DecoderState]:
        logits = np.empty((ids_TB.shape[1], self.vocabulary), dtype=np.float32)
        for begin in range(0, len(ids_TB), _READ):
            state = self._work(logits, state, ids=self._check_ids(ids_TB[begin : begin + _READ]))
        return logits, state

    def read(self, ids_TB: NDArray[np.integer[Any]], state: DecoderState) -> tuple[Floats, DecoderState]:
        logits = np.empty((*ids_TB.shape, self.vocabulary), dtype=np.float32)
        for begin in range(0, len(ids_TB), _READ):
            ids = self._check_ids(ids_TB[begin : begin + _READ])
            state = self._work(logits[begin : begin + _READ], state, ids=ids, every=True)
        return logits, state

    def _check_ids(self, ids_TB: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
        if not 0 <= ids_TB.min() <= ids_TB.max() < self.vocabulary + 2:
            raise IndexError(f"ids must lie in 0..{self.vocabulary + 1}")
        return np.ascontiguousarray(ids_TB, dtype=np.int64)

    def sample(
        self, logits: Floats, state: DecoderState, uniforms_TB: NDArray[np.float64], settings: SamplingParameters
    ) -> tuple[NDArray[np.int64], Floats, DecoderState]:
        logits = np.array(logits, dtype=np.float32, order="C")
        sampled = np.empty(uniforms_TB.shape, dtype=np.int64)
        structure = _SamplingParameters(settings.temperature, settings.top_p, settings.min_p, settings.top_k)
        uniforms = np.ascontiguousarray(uniforms_TB, dtype=np.float64)
        return sampled, logits, self._work(logits, state, sampled=sampled, uniforms=uniforms, structure=structure)

    def _work(
        self,
        logits: Floats,
        state: DecoderState,
        *,
        ids: NDArray[np.int64] | None = None,
        every: bool = False,
        sampled: NDArray[np.int64] | None = None,
        uniforms: NDArray[np.float64] | None = None,
        structure: _SamplingParameters | None = None,
    ) -> DecoderState:
        """Read ids or sample them: returns the state after that, and writes logits and tokens into their arrays."""
        h, *c = (np.stack(parts) for parts in zip(*state, strict=True))
        steps = sum(len(array) for array in (ids, sampled) if array is not None)
        lanes = h.shape[1]
        threads = self._tuner.threads(steps, lanes)
        work = _Work(
            model=pointer(self._model),
            lanes=lanes,
            threads=threads,
            steps=steps,
            ids=_data(ids),
            uniforms=_data(uniforms),
            settings=pointer(structure) if structure else None,
            sampled=_data(sampled),
            h=_data(h),
            c=_data(c[0]) if c else None,
            logits=_data(logits),
            every=every,
        )
        began = time.perf_counter()
        if self._run(ctypes.addressof(work)):
            raise MemoryError("no memory for the decoder's state")
        self._tuner.record(steps, lanes, threads, time.perf_counter() - began)
        return list(zip(h, *c, strict=True))


def open_compiled(config: ModelConfig, weights: Weights, precision: str, threads: int) -> Decoder:
    """The compiled decoder, for `charlm.config.ENGINES`; raises ConfigError if it is not available."""
    try:
        return CompiledDecoder(config, weights, precision, threads)
    except NoKernel as problem:
        raise ConfigError(
            f"--engine compiled: {problem}", kept="nothing was written", hint="use --engine numpy"
        ) from problem


def _data(array: NDArray[Any] | None) -> int | None:
    return None if array is None else array.ctypes.data


def _padded(units: int) -> int:
    return -(-units // _MULTIPLE) * _MULTIPLE
