"""Device, precision and threads of a run, and the reason for the choice of precision."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Final

import torch

from charlm.errors import ConfigError
from charlm.runtime import processor
from charlm.runtime.environment import Environment
from charlm.runtime.settings import deterministic, make_exact

_AUTOCAST: Final = {"bf16": torch.bfloat16, "fp16": torch.float16}
CUDA_ONLY: Final = ("tf32", "fp16")
_ROUNDS: Final = 4
_PRODUCTS, _PRODUCT = 5, 768  # 20 ms on two processors
_PROBE_SECONDS: Final = 2.0
_WORTH: Final = 1.15  # minimum speed-up for which reduced precision is chosen; measurements vary by less
Probe = Callable[["Runtime"], float]  # the time of a typical training step in this runtime, in seconds


@dataclass(frozen=True, slots=True)
class Runtime:
    """Where and how a run computes, and why this precision was chosen."""

    device: torch.device
    precision: str
    threads: int
    reason: str
    follows: bool = False  # whether fewer threads may compute while that is faster: the results are the same bits

    @property
    def type(self) -> torch.dtype:
        """The type of an optimizer's matrix products; not fp16, whose range is too small without loss scaling."""
        return torch.bfloat16 if self.precision == "bf16" else torch.float32

    def autocast(self) -> AbstractContextManager[Any]:
        """Mixed precision for a forward pass; nothing for fp32 and tf32."""
        dtype = _AUTOCAST.get(self.precision)
        return torch.autocast(self.device.type, dtype, enabled=dtype is not None)

    @property
    def scales_loss(self) -> bool:
        """Whether gradients pass through fp16; with bf16 too on a GPU, where cuDNN's recurrent layers use fp16."""
        return self.precision == "fp16" or (self.precision == "bf16" and self.device.type == "cuda")

    @contextmanager
    def arithmetic(self) -> Iterator[None]:
        """The context of a training step: deterministic on a GPU, whose fp32 products may round their factors to TF32.

        Not if the precision is fp32: then fp32 it is.
        """
        switches: tuple[Any, ...] = (torch.backends.cudnn, torch.backends.cuda.matmul)
        before = [switch.allow_tf32 for switch in switches]
        with deterministic() if self.device.type == "cuda" else nullcontext():
            try:
                for switch in switches:
                    switch.allow_tf32 = self.precision != "fp32"
                yield
            finally:
                for switch, value in zip(switches, before, strict=True):
                    switch.allow_tf32 = value

    @property
    def environment(self) -> Environment:
        """Versions, device, threads and precision, for checkpoints and `charlm doctor`."""
        cuda = self.device.type == "cuda"
        return Environment(
            python=platform.python_version(),
            torch=torch.__version__,
            system=f"{platform.system()} {platform.machine()}",
            device=str(self.device),
            device_name=torch.cuda.get_device_name(self.device) if cuda else platform.processor() or platform.machine(),
            threads=self.threads,
            precision=self.precision,
            reason=self.reason,
        )


def choose_device(wanted: str) -> torch.device:
    """The requested device, or for `auto` a CUDA GPU if there is one; raises ConfigError if it is not available."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # must be set before CUDA starts, for determinism
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(wanted)
    if device.type == "cuda" and (not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()):
        raise ConfigError(
            f"--device {wanted}: this machine has {_gpus()}", kept="nothing was written", hint="use --device cpu"
        )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ConfigError(
            "--device mps: this machine has no Metal device", kept="nothing was written", hint="use --device cpu"
        )
    return device


def _gpus() -> str:
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return f"{count} CUDA device{'s' * (count != 1)} that torch can use"


def set_threads(wanted: int, *, at_most: int = 1024) -> int:
    """Set the number of processor threads (0: all that the process may use, up to `at_most`); returns the number."""
    threads = wanted or min(processor.available_threads(), at_most)
    torch.set_num_threads(threads)
    return threads


def check_precision(device: torch.device, precision: str) -> None:
    """Raise ConfigError if this device does not support the precision."""
    if precision in CUDA_ONLY and device.type != "cuda":
        raise ConfigError(
            f"--precision {precision} needs a CUDA GPU; a CPU supports only bf16 and fp32",
            hint="use --precision auto",
        )


def choose_runtime(device: torch.device, precision: str, threads: int, probe: Probe | None = None) -> Runtime:
    """The runtime for `--precision`: the requested one, or for `auto` the fastest, measured with `probe`."""
    if device.type == "cpu" and processor.is_own():
        processor.keep_memory()
    if device.type == "cuda":
        make_exact()
    check_precision(device, precision)
    if precision != "auto":
        return Runtime(device, precision, threads, "requested")
    faster = _reduced(device)
    if probe is None or not faster:
        return Runtime(device, "fp32", threads, "no faster precision on this device")
    return _fastest(device, threads, faster, probe)


def _reduced(device: torch.device) -> tuple[str, ...]:
    """Precisions that are likely to be faster than fp32 on this device."""
    if device.type == "cuda":  # not bf16: cuDNN's recurrent layers would compute in fp16 anyway
        return ("tf32", "fp16") if torch.cuda.get_device_capability(device) >= (8, 0) else ("fp16",)
    return ("bf16",) if device.type == "cpu" and has_bf16() else ()


def _fastest(device: torch.device, threads: int, faster: tuple[str, ...], probe: Probe) -> Runtime:
    """The fastest of fp32 and `faster`, by timing steps of each in turn; fp32 unless another is clearly faster."""
    times: dict[str, list[float]] = {precision: [] for precision in ("fp32", *faster)}
    ends = time.perf_counter() + _PROBE_SECONDS
    least = 1 if device.type == "cuda" else 0  # on a GPU the first round loads libraries and does not count
    for number in range(_ROUNDS):
        for precision in tuple(times):
            try:
                times[precision].append(probe(Runtime(device, precision, threads, "")))
            except RuntimeError:  # some builds of oneDNN have no bf16 recurrence; or memory does not suffice
                del times[precision]
        if number >= least and time.perf_counter() > ends:
            break
    best = {precision: min(each[1:] or each) for precision, each in times.items()}  # the first round also sets up
    others = [precision for precision in best if precision != "fp32"]
    quickest = min(others, key=lambda precision: best[precision], default="fp32")
    if quickest == "fp32" or "fp32" not in best:
        return Runtime(device, quickest, threads, "no other precision works on this device")
    ratio = best["fp32"] / best[quickest]
    reason = f"measured: a {quickest} step runs at {ratio:.2f} times the speed of an fp32 step"
    return Runtime(device, quickest if ratio > _WORTH else "fp32", threads, reason)


def has_bf16() -> bool:
    """Whether the processor has bf16 matrix instructions (AVX-512 BF16 or AMX)."""
    features = processor.features()
    return "AVX512" in torch.backends.cpu.get_cpu_capability() and ("avx512_bf16" in features or "amx_bf16" in features)


def training_speed(device: torch.device) -> float:
    """FLOP per second that training is likely to reach; on a processor half the measured speed of a matrix product."""
    if device.type != "cpu":
        return 3e13
    factor = torch.ones(_PRODUCT, _PRODUCT)
    seconds = [timed(lambda: factor @ factor, device) for _ in range(_PRODUCTS)]
    return _PRODUCT**3 / min(seconds)


def synchronise(device: torch.device) -> None:
    """Wait until the device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(work: Callable[[], object], device: torch.device) -> float:
    """The time of `work` in seconds, until the device has finished it."""
    synchronise(device)
    begin = time.perf_counter()
    work()
    synchronise(device)
    return time.perf_counter() - begin
