"""Which decoder runs a model: the compiled one where a compiler is, else NumPy."""

from __future__ import annotations

from charlm.config import ModelConfig
from charlm.errors import ConfigError
from charlm.inference.decoder import Decoder, NumpyDecoder, Weights
from charlm.inference.kernel import CompiledDecoder, NoKernel


def open_decoder(
    config: ModelConfig, weights: Weights, *, engine: str = "auto", precision: str = "fp32", threads: int = 0
) -> Decoder:
    """`engine` is auto, compiled or numpy; raises ConfigError where the compiled one is asked for and cannot be had."""
    if engine != "numpy":
        try:
            return CompiledDecoder(config, weights, precision, threads)
        except NoKernel as problem:
            if engine == "compiled":
                raise ConfigError(
                    f"--engine compiled: {problem}", kept="nothing was written", hint="use --engine numpy"
                ) from problem
    return NumpyDecoder(config, weights, precision)
