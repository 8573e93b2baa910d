"""Which decoder runs a model: the compiled one where a compiler is, else NumPy; a GPU's where it is asked for."""

from __future__ import annotations

from charlm.config import ModelConfig
from charlm.errors import ConfigError
from charlm.inference.decoder import Decoder, NumpyDecoder, Weights
from charlm.inference.kernel import CompiledDecoder, NoKernel


def open_decoder(
    config: ModelConfig, weights: Weights, *, engine: str = "auto", precision: str = "fp32", threads: int = 0
) -> Decoder:
    """`engine` is auto, compiled, numpy or cuda; raises ConfigError where one is asked for that cannot be had."""
    if engine == "cuda":
        return _on_gpu(config, weights, precision)
    if engine != "numpy":
        try:
            return CompiledDecoder(config, weights, precision, threads)
        except NoKernel as problem:
            if engine == "compiled":
                raise ConfigError(
                    f"--engine compiled: {problem}", kept="nothing was written", hint="use --engine numpy"
                ) from problem
    return NumpyDecoder(config, weights, precision)


def _on_gpu(config: ModelConfig, weights: Weights, precision: str) -> Decoder:
    import torch

    from charlm.inference.gpu import TorchDecoder
    from charlm.runtime.device import choose_device, choose_runtime

    problem = f"computes in fp32, not in {precision}" if precision != "fp32" else "needs a GPU that torch can use"
    if precision != "fp32" or not torch.cuda.is_available():
        raise ConfigError(f"--engine cuda {problem}", kept="nothing was written", hint="use --engine auto")
    device = choose_device("cuda")
    choose_runtime(device, precision, 1)
    return TorchDecoder(config, weights, device)
