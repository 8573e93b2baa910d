"""The choice of a decoder for a model."""

from __future__ import annotations

from charlm.config import ENGINES, ModelConfig
from charlm.generation.build import NoKernel
from charlm.generation.compiled import CompiledDecoder, kernel_for
from charlm.generation.decoder import Decoder, Weights
from charlm.generation.layered import open_numpy


def open_decoder(
    config: ModelConfig, weights: Weights, *, engine: str = "auto", precision: str = "fp32", threads: int = 0
) -> Decoder:
    """A decoder of `charlm.config.ENGINES`; raises ConfigError if the requested one is not available."""
    decoder: Decoder = ENGINES[engine](config, weights, precision, threads)
    return decoder


def open_fastest(config: ModelConfig, weights: Weights, precision: str, threads: int) -> Decoder:
    """The compiled decoder, or NumPy's if there is no C compiler or kernel.c does not have the cell."""
    try:
        return CompiledDecoder(config, weights, precision, threads)
    except NoKernel:
        return open_numpy(config, weights, precision, threads)


def why_slower(config: ModelConfig) -> str:
    """Why the engine `auto` uses NumPy for a model; empty where it uses the compiled decoder."""
    try:
        kernel_for(config)
    except NoKernel as problem:
        return str(problem)
    return ""
