"""Where and how to compute: device, precision and threads, each with the reason for it."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Final

import torch

from charlm.errors import ConfigError
from charlm.runtime import processor

_TYPES: Final = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_PAIRS: Final = 4
_PRODUCTS, _PRODUCT = 5, 768  # 20 ms on two processors
_PROBE_SECONDS: Final = 2.0
_WORTH: Final = 1.15  # times the speed from which bf16 is worth its rounding; measurements waver by less than that
Probe = Callable[["Runtime"], float]  # seconds that a typical training step takes in this runtime


@dataclass(frozen=True, slots=True)
class Runtime:
    device: torch.device
    precision: str
    threads: int
    reason: str

    @property
    def type(self) -> torch.dtype:
        """In which matrix products are computed; fp16 has too short a range for what is not scaled."""
        return torch.bfloat16 if self.precision == "bf16" else torch.float32

    def autocast(self) -> AbstractContextManager[Any]:
        """Mixed precision for a forward pass; nothing for fp32."""
        enabled = self.precision != "fp32"
        return torch.autocast(self.device.type, _TYPES[self.precision] if enabled else None, enabled=enabled)

    @property
    def environment(self) -> dict[str, Any]:
        """What a result depends on, for the checkpoint and for `doctor`."""
        cuda = self.device.type == "cuda"
        return {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "system": f"{platform.system()} {platform.machine()}",
            "device": str(self.device),
            "device_name": torch.cuda.get_device_name(self.device)
            if cuda
            else platform.processor() or platform.machine(),
            "threads": self.threads,
            "precision": self.precision,
            "reason": self.reason,
        }


def choose_device(wanted: str) -> torch.device:
    """The device asked for, or for `auto` a CUDA GPU if there is one."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # has to stand before CUDA starts, to be deterministic
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(wanted)
    if device.type == "cuda" and (not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()):
        raise ConfigError(
            f"--device {wanted}: this machine has {_gpus()}", kept="nothing was written", hint="use --device cpu"
        )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ConfigError(
            "--device mps: there is no Metal device here", kept="nothing was written", hint="use --device cpu"
        )
    return device


def _gpus() -> str:
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return f"{count} CUDA device{'s' * (count != 1)} that torch can use"


def set_threads(wanted: int, *, at_most: int = 1024) -> int:
    """Use this many processor threads (0: as many as the process may use, `at_most` these); returns the number."""
    threads = wanted or min(processor.available_threads(), at_most)
    torch.set_num_threads(threads)
    return threads


def check_precision(device: torch.device, precision: str) -> None:
    if precision == "fp16" and device.type != "cuda":
        raise ConfigError("--precision fp16 is for CUDA; a processor has bf16 or fp32", hint="use --precision auto")


def choose_runtime(device: torch.device, precision: str, threads: int, probe: Probe | None = None) -> Runtime:
    """Settle `--precision`: what was asked for, or for `auto` the fastest here, which on CPU `probe` measures."""
    if device.type == "cpu":
        processor.keep_memory()
    if device.type == "cuda":
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.allow_tf32 = False  # fp32 means fp32
    check_precision(device, precision)
    if precision != "auto":
        return Runtime(device, precision, threads, "as asked for")
    if device.type == "cuda":
        return (
            Runtime(device, "bf16", threads, "CUDA device")
            if torch.cuda.is_bf16_supported()
            else Runtime(device, "fp16", threads, "CUDA device without bf16")
        )
    if device.type != "cpu" or not _has_bf16() or probe is None:
        return Runtime(device, "fp32", threads, "no bf16 arithmetic here")
    return _faster(device, threads, probe)


def _faster(device: torch.device, threads: int, probe: Probe) -> Runtime:
    """fp32 or bf16 on this processor, by measuring a step of each in turn."""
    full, half = (Runtime(device, precision, threads, "") for precision in ("fp32", "bf16"))
    pairs: list[tuple[float, float]] = []
    try:
        while len(pairs) < _PAIRS and sum(map(sum, pairs)) < _PROBE_SECONDS:
            pairs.append((probe(full), probe(half)))
    except RuntimeError:  # some builds of oneDNN lack a bf16 recurrence for some processors
        return Runtime(device, "fp32", threads, "bf16 does not run on this processor")
    slow, fast = (min(times) for times in zip(*pairs[1:] or pairs, strict=True))  # the first pair also sets up
    ratio = slow / fast
    chosen = "bf16" if ratio > _WORTH else "fp32"
    return Runtime(
        device, chosen, threads, f"measured: a bf16 step runs at {ratio:.2f} times the speed of an fp32 step"
    )


def _has_bf16() -> bool:
    """Whether the processor multiplies bf16 itself (AVX-512 BF16 or AMX)."""
    features = processor.features()
    return "AVX512" in torch.backends.cpu.get_cpu_capability() and ("avx512_bf16" in features or "amx_bf16" in features)


def training_speed(device: torch.device) -> float:
    """FLOP a second that training is likely to reach: on a processor half of what its matrix products do."""
    if device.type != "cpu":
        return 3e13
    factor = torch.ones(_PRODUCT, _PRODUCT)
    seconds = [timed(lambda: factor @ factor, device) for _ in range(_PRODUCTS)]
    return _PRODUCT**3 / min(seconds)


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(work: Callable[[], object], device: torch.device) -> float:
    """Seconds that `work` takes, to its end on the device."""
    synchronise(device)
    begin = time.perf_counter()
    work()
    synchronise(device)
    return time.perf_counter() - begin
