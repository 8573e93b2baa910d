"""The processors of this machine: threads, load, instruction sets, and the C library's memory; without torch."""

from __future__ import annotations

import os
import time
from functools import cache
from threading import Event
from typing import Final

from charlm.runtime import limits

_OWNED: Final = Event()  # set where nobody but charlm computes in this process
# How many prepared products the libraries under torch keep: each takes half a megabyte, and records have hundreds of
# shapes. With the usual 1,024 a run on names grows to 1.4 GB; with these it is as fast (docs/log.md).
_PREPARED: Final = {"LRU_CACHE_CAPACITY": "16", "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "128"}


def own_process() -> None:
    """Say that this process is charlm's own, as a command's is: what cannot be undone (`keep_memory`) may be done.

    To be called before torch computes anything, since its libraries read their settings then.
    """
    _OWNED.set()
    for name, value in _PREPARED.items():
        os.environ.setdefault(name, value)


def is_own() -> bool:
    """Whether `own_process` was called."""
    return _OWNED.is_set()


def available_threads() -> int:
    """Number of threads that can compute at the same time in this process (`charlm.runtime.limits`)."""
    return limits.threads().amount


def other_work(seconds: float = 0.1) -> float:
    """Number of processors that other processes keep busy, measured while this one sleeps; 0 outside Linux."""
    try:
        before = _processor_times()
        time.sleep(seconds)
        spent = [now - then for now, then in zip(_processor_times(), before, strict=True)]
    except OSError:
        return 0.0
    return (1 - spent[3] / sum(spent)) * (os.cpu_count() or 1) if sum(spent) else 0.0


def is_crowded() -> bool:
    """Whether others keep so many processors busy that less than about half of what this process may use is free.

    Of a large machine, on which a container may use two processors, the others may well be busy.
    """
    return other_work() > (os.cpu_count() or 1) - 0.6 * available_threads()


def _processor_times() -> list[int]:
    """Linux's time counters, summed over all processors: user, nice, system, idle, ..."""
    with open("/proc/stat", encoding="ascii") as file:
        return [int(count) for count in file.readline().split()[1:]]


def keep_memory() -> None:
    """Let this process keep the memory that it frees, for later allocations; does nothing without glibc.

    It cannot be undone, so it is for a process that is charlm's own.

    A training step allocates the same large blocks each time. By default glibc returns each to the system when it is
    freed, and the next step waits while the system zeroes new pages: a fifth of its time at 2 x 512 (docs/log.md).
    """
    import ctypes  # here, as `platform` below: commands import this module before they know what they need

    trim_threshold, top_pad, mmap_max = -1, -2, -4  # malloc.h
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # TypeError on Windows, where there is no library of this name
        return
    for parameter, value in ((mmap_max, 0), (trim_threshold, 2**31 - 1), (top_pad, 2**26)):
        mallopt(parameter, value)


@cache
def features() -> frozenset[str]:
    """Names of instruction sets on Linux, such as avx512_bf16; elsewhere only the name of the processor."""
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
            lines = file.read(65536).splitlines()
    except OSError:
        lines = []
    import platform

    flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return frozenset(flags.partition(":")[2].split() or [platform.machine(), platform.processor()])
