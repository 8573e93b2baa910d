"""Threads, features and load of the processor, and the C library's memory."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path
from threading import Event

import pytest
import torch

from charlm.runtime import processor
from charlm.training.trial import StepTrial, training_speed


def test_features_are_named_or_at_least_the_processor() -> None:
    assert processor.features()
    if "avx512f" in Path("/proc/cpuinfo").read_text():
        assert "avx512f" in processor.features()


def test_without_the_systems_files_nothing_is_claimed(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("no such file")

    monkeypatch.setattr("builtins.open", refuse)
    processor.features.cache_clear()
    try:
        assert processor.other_work(0.0) == 0
        assert not processor.features() & {"avx2", "avx512_bf16"}
    finally:
        processor.features.cache_clear()


@pytest.mark.parametrize(
    ("machine", "ours", "busy", "crowded"),
    [(2, 2, 1.0, True), (2, 2, 0.7, False), (64, 2, 40.0, False), (64, 2, 63.5, True), (64, 64, 30.0, True)],
)
def test_it_is_crowded_where_others_take_what_this_process_may_use(
    monkeypatch: pytest.MonkeyPatch, machine: int, ours: int, busy: float, crowded: bool
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: machine)
    monkeypatch.setattr(processor, "available_threads", lambda: ours)
    monkeypatch.setattr(processor, "other_work", lambda: busy)
    assert processor.is_crowded() == crowded


def test_kept_memory_is_used_again() -> None:
    """Page faults while a large block is filled, freed and filled again, in a process of its own."""
    if not hasattr(ctypes.CDLL(None), "mallopt"):
        pytest.skip("the C library is not glibc")
    code = """
import resource, sys
import torch
from charlm.runtime.processor import keep_memory
if sys.argv[1] == "keep":
    keep_memory()
for _ in range(40):  # where the heap comes to rest depends on where it began
    torch.ones(2**24)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    torch.ones(2**24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    faults = {
        how: int(subprocess.run([sys.executable, "-c", code, how], capture_output=True, text=True, check=True).stdout)
        for how in ("keep", "leave")
    }
    assert faults["keep"] < 100
    assert faults["leave"] > 5 * 10_000, "five blocks of 64 MiB, in pages of 4 KiB"


def test_a_command_keeps_few_prepared_products_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's libraries read these variables when they are first used (docs/log.md has what they take)."""
    monkeypatch.setattr(processor, "_OWNED", Event())
    monkeypatch.delenv("LRU_CACHE_CAPACITY", raising=False)
    monkeypatch.setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "7")
    try:
        processor.own_process()
        assert os.environ["LRU_CACHE_CAPACITY"] == "16"
        assert os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == "7"
    finally:
        os.environ.pop("LRU_CACHE_CAPACITY", None)


def test_where_the_c_library_has_no_such_setting_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    processor.keep_memory()


def test_training_speed_is_the_fastest_of_a_few_starts_and_then_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other work makes the second start slow; the last does not measure any more."""
    kept: dict[str, object] = {}
    monkeypatch.setattr("charlm.runtime.cache.recall", lambda _, key: kept.get(key))
    monkeypatch.setattr("charlm.runtime.cache.remember", lambda _, key, value: kept.update({key: value}))
    speeds = []
    for seconds in (0.02, 0.2, 0.01, 0.001):
        monkeypatch.setattr(StepTrial, "seconds", lambda *_, seconds=seconds: seconds)
        speeds.append(training_speed(torch.device("cpu"), "fp32"))
    assert speeds == [speeds[0], speeds[0], 2 * speeds[0], 2 * speeds[0]]
    assert 1e8 < speeds[0] < 1e15
    assert training_speed(torch.device("meta"), "auto") > 1e12
