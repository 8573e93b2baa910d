"""Threads and memory that a process may use: each limit, on built /proc and /sys, and the least of all."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charlm.runtime import limits, processor
from charlm.runtime.limits import Limit

V1 = "4:memory:{0}\n2:cpuacct,cpu:{0}\n0::/\n"
MOUNTS_V1 = """\
32 31 0:29 {0} /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpuacct,cpu
35 31 0:32 {0} /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
"""
MOUNTS_V2 = "31 23 0:28 {0} /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"


class Machine:
    """A folder with /proc and /sys like those of a Linux machine."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def write(self, path: str, text: str) -> None:
        place = self.root / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)

    def v2(self, group: str, mounted: str = "/") -> None:
        self.write("/proc/self/cgroup", f"0::{group}\n")
        self.write("/proc/self/mountinfo", MOUNTS_V2.format(mounted))

    def v1(self, group: str, mounted: str = "/") -> None:
        self.write("/proc/self/cgroup", V1.format(group))
        self.write("/proc/self/mountinfo", MOUNTS_V1.format(mounted))

    def quota_v1(self, folder: str, quota: int, period: int = 100_000) -> None:
        self.write(f"/sys/fs/cgroup/cpu,cpuacct{folder}/cpu.cfs_quota_us", f"{quota}\n")
        self.write(f"/sys/fs/cgroup/cpu,cpuacct{folder}/cpu.cfs_period_us", f"{period}\n")

    @property
    def threads(self) -> int:
        return limits.threads(self.root).amount

    def memory(self) -> int | None:
        limit = limits.memory(self.root)
        return limit.amount if limit else None


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """64 processors and 16 GB, limited by nothing."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    made = Machine(tmp_path)
    made.write("/proc/meminfo", "MemTotal:       16000000 kB\nMemFree:          100000 kB\n")
    return made


def test_without_limits_it_is_the_whole_machine(machine: Machine) -> None:
    assert limits.threads(machine.root) == Limit(64, "the processors of this machine")
    assert limits.memory(machine.root) == Limit(16_000_000 * 1024, "the memory of this machine")
    machine.v2("/")
    machine.write("/sys/fs/cgroup/cpu.max", "max 100000\n")
    machine.write("/sys/fs/cgroup/memory.max", "max\n")
    assert (machine.threads, machine.memory()) == (64, 16_000_000 * 1024)
    machine.v1("/")
    machine.quota_v1("", -1)
    machine.write("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n")
    assert (machine.threads, machine.memory()) == (64, 16_000_000 * 1024)


def test_affinity_counts_where_the_system_has_one(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5, 9}, raising=False)
    assert limits.threads(machine.root) == Limit(3, "the processor affinity")
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert machine.threads == 64
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert machine.threads == 1


@given(quota=st.integers(1, 10**8), period=st.integers(1000, 10**6))
def test_a_quota_is_rounded_up_to_whole_threads_in_both_versions(
    tmp_path_factory: pytest.TempPathFactory, quota: int, period: int
) -> None:
    second, first = (Machine(tmp_path_factory.mktemp(name)) for name in ("v2", "v1"))
    second.v2("/")
    second.write("/sys/fs/cgroup/cpu.max", f"{quota} {period}\n")
    first.v1("/")
    first.quota_v1("", quota, period)
    for machine in (first, second):
        with pytest.MonkeyPatch.context() as patch:
            patch.delenv("OMP_NUM_THREADS", raising=False)
            patch.setattr(os, "cpu_count", lambda: 10**6)
            patch.setattr(os, "sched_getaffinity", lambda _: range(10**6), raising=False)
            found = machine.threads
        assert found - 1 < quota / period <= found


@pytest.mark.parametrize(
    ("group", "mounted", "folder"),
    [
        ("/", "/", ""),  # a container with a namespace of its own
        ("/docker/4f", "/docker/4f", ""),  # one that sees the names of the machine, but has only its own group
        ("/docker/4f/job", "/docker/4f", "/job"),
        ("/user.slice/me", "/", "/user.slice/me"),
        ("/user.slice/me", "/", "/user.slice"),  # a limit holds for all groups below
        ("/user.slice/me", "/", ""),
        ("/elsewhere", "/docker/4f", ""),
        ("/../other", "/", ""),
    ],
)
def test_a_limit_of_any_group_on_the_way_up_holds(machine: Machine, group: str, mounted: str, folder: str) -> None:
    machine.v2(group, mounted)
    machine.write(f"/sys/fs/cgroup{folder}/cpu.max", "250000 100000\n")
    machine.write(f"/sys/fs/cgroup{folder}/memory.max", "700000000\n")
    assert limits.threads(machine.root) == Limit(3, "the CPU quota of the control group")
    assert limits.memory(machine.root) == Limit(700_000_000, "the memory limit of the control group")
    other = Machine(machine.root / "other")
    other.v1(group, mounted)
    other.quota_v1(folder, 250_000)
    other.write(f"/sys/fs/cgroup/memory{folder}/memory.limit_in_bytes", "700000000\n")
    assert (other.threads, other.memory()) == (3, 700_000_000)


def test_the_least_of_the_groups_holds_and_other_groups_do_not(machine: Machine) -> None:
    machine.v2("/a/b")
    for folder, threads in (("", 40), ("/a", 7), ("/a/b", 20), ("/a/b/c", 1), ("/z", 2)):
        machine.write(f"/sys/fs/cgroup{folder}/cpu.max", f"{threads * 100_000} 100000\n")
        machine.write(f"/sys/fs/cgroup{folder}/memory.max", f"{threads * 10**9}\n")
    assert (machine.threads, machine.memory()) == (7, 7 * 10**9)


def test_a_machine_with_both_versions_is_held_to_both(machine: Machine) -> None:
    machine.v1("/job")
    mounts = MOUNTS_V1 + MOUNTS_V2.replace("/sys/fs/cgroup", r"/sys/fs/cgroup/the\040second")
    machine.write("/proc/self/mountinfo", mounts.format("/"))
    machine.quota_v1("/job", 500_000)
    machine.write("/sys/fs/cgroup/the second/cpu.max", "300000 100000\n")
    machine.write("/sys/fs/cgroup/memory/memory.limit_in_bytes", "1000000\n")
    assert (machine.threads, machine.memory()) == (3, 1_000_000)


@pytest.mark.parametrize(
    ("value", "expected"),
    [("1", 1), (" 5 ", 5), ("2,3", 2), ("100", 64), ("", 64), ("0", 64), ("-2", 64), ("many", 64), ("²", 64)],
)
def test_openmps_variable_limits_threads(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, value: str, expected: int
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    assert machine.threads == expected


@pytest.mark.parametrize("junk", ["", "\0", "max", "-1", "1 0", "x y", "9" * 5000, "::::", " - \n - cgroup\n", "é"])
def test_files_that_make_no_sense_limit_nothing(machine: Machine, junk: str) -> None:
    machine.v2("/")
    for path in ("cpu.max", "cpu.cfs_quota_us", "cpu.cfs_period_us", "memory.max", "memory.limit_in_bytes"):
        machine.write(f"/sys/fs/cgroup/{path}", junk)
    assert machine.threads == 64
    for path in ("cgroup", "mountinfo", "status"):
        machine.write(f"/proc/self/{path}", junk)
    assert (machine.threads, limits.memory_in_use(machine.root)) == (64, 0)


def test_memory_is_unknown_where_the_system_does_not_tell(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.write("/proc/meminfo", "")
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 10}.__getitem__, raising=False)
    assert machine.memory() == 40_960
    monkeypatch.setattr(os, "sysconf", lambda _: -1)
    assert machine.memory() is None
    monkeypatch.delattr(os, "sysconf")
    assert machine.memory() is None


def test_memory_in_use_is_what_this_process_has_filled() -> None:
    if not Path("/proc/self/status").exists():
        pytest.skip("not Linux")
    code = """
from charlm.runtime import limits
before = limits.memory_in_use()
block = bytearray(b"x") * 50_000_000
print(limits.memory_in_use() - before)
"""  # in a process of its own, which has no free memory left from what was done before
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 45_000_000 < int(done.stdout) < 60_000_000


def test_threads_are_those_that_this_process_may_use() -> None:
    code = "from charlm.runtime.processor import available_threads; print(available_threads())"
    if hasattr(os, "sched_setaffinity"):
        code = "import os; os.sched_setaffinity(0, {next(iter(os.sched_getaffinity(0)))}); " + code
    env = {**os.environ, "OMP_NUM_THREADS": "1000" if hasattr(os, "sched_setaffinity") else "1"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"
    assert 1 <= processor.available_threads() <= (os.cpu_count() or 1)
