"""Device, precision and threads of a run, and the reason for the choice of precision."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Final

import torch

from charlm.errors import ConfigError
from charlm.runtime import processes, processor
from charlm.runtime.environment import Environment
from charlm.runtime.precision import Trial, choose_precision
from charlm.runtime.settings import before_cuda, deterministic, make_exact

_AUTOCAST: Final = {"bf16": torch.bfloat16, "fp16": torch.float16}


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
            processes=processes.place().size,
            precision=self.precision,
            reason=self.reason,
        )


def choose_device(wanted: str) -> torch.device:
    """The requested device, or for `auto` a CUDA GPU if there is one; raises ConfigError if it is not available.

    Of many processes on one machine each takes the GPU of its own number.
    """
    before_cuda()
    here = processes.place()
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    if wanted.startswith("cuda:") and here.local_size > 1:
        raise ConfigError(
            f"--device {wanted} is one GPU, for {here.local_size} processes on this machine",
            kept="nothing was written",
            hint="use --device cuda: each process takes its own",
        )
    if wanted == "cuda" and here.size > 1:
        wanted = f"cuda:{here.local_rank}"
    device = torch.device(wanted)
    if device.type == "cuda" and not _is_there(wanted):
        raise ConfigError(
            f"--device {wanted}: this machine has {_gpus()}", kept="nothing was written", hint="use --device cpu"
        )
    if device.type == "mps" and here.size > 1:
        raise ConfigError(
            f"--device {wanted} cannot be shared by {here.size} processes",
            kept="nothing was written",
            hint="use --device cpu",
        )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ConfigError(
            "--device mps: this machine has no Metal device", kept="nothing was written", hint="use --device cpu"
        )
    return device


def _is_there(gpu: str) -> bool:
    """Whether torch can use `cuda` or `cuda:N`. Its own device keeps N in one byte, so that 256 would be 0."""
    number = gpu.partition(":")[2] or "0"
    return torch.cuda.is_available() and int(number) < torch.cuda.device_count()


def _gpus() -> str:
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return f"{count} CUDA device{'s' * (count != 1)} that torch can use"


def set_threads(wanted: int, *, at_most: int = 1024) -> int:
    """Set the number of processor threads (0: all that the process may use, up to `at_most`); returns the number."""
    threads = wanted or min(processor.available_threads(), at_most)
    torch.set_num_threads(threads)
    return threads


def choose_runtime(device: torch.device, precision: str, threads: int, trial: Trial | None = None) -> Runtime:
    """The runtime for `--precision`; `auto` is decided with `trial` (`charlm.runtime.precision`)."""
    if device.type == "cpu" and processor.is_own():
        processor.keep_memory()
    if device.type == "cuda":
        make_exact()
    chosen, reason = choose_precision(device, precision, trial)
    return Runtime(device, chosen, threads, reason)


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
