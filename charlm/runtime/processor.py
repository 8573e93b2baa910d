"""What the processors here can do and are doing; nothing of this needs torch."""

from __future__ import annotations

import ctypes
import os
import platform
import time
from functools import cache


def available_threads() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def other_work(seconds: float = 0.1) -> float:
    """How many processors others keep busy just now, while this process sleeps; 0 where the system does not tell."""
    try:
        before = _processor_times()
        time.sleep(seconds)
        spent = [now - then for now, then in zip(_processor_times(), before, strict=True)]
    except OSError:
        return 0.0
    return (1 - spent[3] / sum(spent)) * (os.cpu_count() or 1) if sum(spent) else 0.0


def _processor_times() -> list[int]:
    """Linux's counters over all processors: user, nice, system, idle, ..."""
    with open("/proc/stat", encoding="ascii") as file:
        return [int(count) for count in file.readline().split()[1:]]


def keep_memory() -> None:
    """Keep what this process frees for its next need; does nothing where the C library is not glibc.

    This cannot be undone, so only a program that has its process to itself calls it, such as the command line.

    A training step asks for the same large blocks each time. glibc hands each back to the system when it is freed, and
    the next step waits while the system zeroes fresh pages: a fifth of its time at 2 x 512 (docs/log.md).
    """
    trim_threshold, top_pad, mmap_max = -1, -2, -4  # malloc.h
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return
    for parameter, value in ((mmap_max, 0), (trim_threshold, 2**31 - 1), (top_pad, 2**26)):
        mallopt(parameter, value)


@cache
def features() -> frozenset[str]:
    """Instruction sets by Linux's names, such as avx512_bf16; elsewhere the processor's name alone."""
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
            lines = file.read(65536).splitlines()
    except OSError:
        lines = []
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return frozenset(flags.partition(":")[2].split() or [platform.machine(), platform.processor()])
