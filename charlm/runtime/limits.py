"""What this process may use of the machine: the least of all limits on it, and which limit that is; without torch.

    threads   the machine's processors, the affinity, the quota of control groups, OMP_NUM_THREADS
    memory    the machine's memory, the limit of control groups

A container sees the whole machine in /proc/cpuinfo and /proc/meminfo, and is held to less by a control group (cgroup),
of version 2 or 1. A limit holds for the group itself and for all below it, so every folder from the process's own group
up to the top of the hierarchy is read. Nothing here fails: what cannot be read limits nothing.

Every function takes the folder under which proc and sys lie, so that tests can build them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from charlm.runtime import processes

ROOT: Final = Path("/")
_NONE: Final = 2**60  # cgroup v1 writes "no limit" as a number near 2^63


@dataclass(frozen=True, slots=True)
class Limit:
    """A number of threads or of bytes, and in words what sets it."""

    amount: int
    source: str


def threads(root: Path = ROOT) -> Limit:
    """The number of threads that can compute at the same time: at least 1. A quota of 1.5 processors is 2 threads.

    Where a launcher has started many processes on this machine, each has its share.
    """
    machine = [Limit(os.cpu_count() or 1, "the processors of this machine"), *_affinity(), *_quotas(root)]
    if (local := processes.place().local_size) > 1:
        machine = [Limit(max(1, limit.amount // local), f"{limit.source}, for {local} processes") for limit in machine]
    return min([*machine, *_openmp()], key=lambda limit: limit.amount)


def memory(root: Path = ROOT) -> Limit | None:
    """The memory that this process may use, in bytes; None where nothing is known."""
    found = [*_physical(root), *_memory_limits(root)]
    return min(found, key=lambda limit: limit.amount, default=None)


def memory_in_use(root: Path = ROOT) -> int:
    """The memory that this process has filled and that cannot be dropped, in bytes; 0 where it is not known."""
    return _kilobytes(root / "proc/self/status", "RssAnon")


def _affinity() -> Iterator[Limit]:
    with suppress(AttributeError, OSError):  # macOS and Windows have no such call
        yield Limit(len(os.sched_getaffinity(0)), "the processor affinity")


def _openmp() -> Iterator[Limit]:
    """The first of the numbers in OMP_NUM_THREADS, which are those of nested levels.

    torchrun sets it to 1 for many processes where nobody has set it, so that 1 says nothing there.
    """
    first = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    least = 1 if processes.place().local_size > 1 else 0
    if (number := _natural(first)) is not None and number > least:
        yield Limit(number, "OMP_NUM_THREADS")


def _quotas(root: Path) -> Iterator[Limit]:
    for group in _groups(root, "cpu"):
        quota, _, period = _read(group / "cpu.max").strip().partition(" ")  # version 2: "150000 100000", "max 100000"
        if not quota:
            quota, period = _read(group / "cpu.cfs_quota_us"), _read(group / "cpu.cfs_period_us")
        allowed, of = _natural(quota), _natural(period)  # version 1 writes "no limit" as -1
        if allowed is not None and of:
            yield Limit(max(1, -(-allowed // of)), "the CPU quota of the control group")


def _physical(root: Path) -> Iterator[Limit]:
    if amount := _kilobytes(root / "proc/meminfo", "MemTotal") or _by_pages():
        yield Limit(amount, "the memory of this machine")


def _by_pages() -> int:
    """The machine's memory in bytes on other systems with POSIX's call for it; 0 where it is not known."""
    if not hasattr(os, "sysconf"):
        return 0
    try:
        size, number = (os.sysconf(name) for name in ("SC_PAGE_SIZE", "SC_PHYS_PAGES"))
    except (OSError, ValueError):  # a system that does not know these names
        return 0
    return size * number if size > 0 and number > 0 else 0


def _memory_limits(root: Path) -> Iterator[Limit]:
    for group in _groups(root, "memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            amount = _natural(_read(group / name))
            if amount is not None and amount < _NONE:
                yield Limit(amount, "the memory limit of the control group")


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """The folders of the control groups that this process is in, each hierarchy from its own group to the top."""
    own = _memberships(root)
    for line in _read(root / "proc/self/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        fields, (kind, *rest) = before.split(), after.split() or [""]
        if len(fields) < 5 or not (kind == "cgroup2" or (kind == "cgroup" and controller in rest[-1].split(","))):
            continue
        group = own.get("" if kind == "cgroup2" else controller)
        if group is not None:
            top = root / _unescape(fields[4]).lstrip("/")
            below = _below(group, _unescape(fields[3]))
            yield from (top.joinpath(*below[:depth]) for depth in range(len(below), -1, -1))


def _memberships(root: Path) -> dict[str, str]:
    """The path of this process's group for each controller of version 1, and for version 2 under the name ""."""
    found: dict[str, str] = {}
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        found |= dict.fromkeys(controllers.split(","), path)
    return found


def _below(group: str, mounted: str) -> tuple[str, ...]:
    """The way from the mounted group to a group under it; a container may have mounted only its own group.

    >>> _below("/docker/4f/job", "/docker/4f"), _below("/a/b", "/"), _below("/elsewhere", "/docker/4f")
    (('job',), ('a', 'b'), ('elsewhere',))
    """
    path = PurePosixPath("/", group)
    if path.is_relative_to(mounted):
        path = path.relative_to(mounted)
    return tuple(part for part in path.parts if part not in ("/", ".."))


def _unescape(path: str) -> str:
    r"""A path of mountinfo, in which a space is written as \040."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), path)


def _kilobytes(path: Path, name: str) -> int:
    """A figure of a table like /proc/meminfo, in bytes; 0 if it is not there."""
    found = re.search(rf"^{name}:\s+(\d+) kB$", _read(path), re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def _natural(text: str) -> int | None:
    text = text.strip()
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 30 else None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return ""
