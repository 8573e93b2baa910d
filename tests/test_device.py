"""In which arithmetic a run computes: what was asked for, or what a measurement found to be clearly faster."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from charlm.errors import ConfigError
from charlm.runtime import device as module
from charlm.runtime.device import Runtime, check_precision, choose_runtime

CPU, GPU = torch.device("cpu"), torch.device("cuda")
SWITCHES: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.cudnn)


@pytest.fixture(autouse=True)
def switches() -> Iterator[None]:
    before = [switch.allow_tf32 for switch in SWITCHES], torch.backends.cudnn.deterministic
    yield
    for switch, value in zip(SWITCHES, before[0], strict=True):
        switch.allow_tf32 = value
    torch.backends.cudnn.deterministic = before[1]


def takes(times: dict[str, float], tried: list[str]) -> Callable[[Runtime], float]:
    """A step's seconds in each arithmetic; what has none does not run."""

    def probe(runtime: Runtime) -> float:
        tried.append(runtime.precision)
        assert all(switch.allow_tf32 == (runtime.precision != "fp32") for switch in SWITCHES)
        if runtime.precision not in times:
            raise RuntimeError("could not create a primitive descriptor")
        return times[runtime.precision]

    return probe


@pytest.mark.parametrize(
    ("times", "chosen", "reason"),
    [
        ({"fp32": 2.0, "tf32": 1.2, "bf16": 1.0, "fp16": 0.5}, "fp16", "a fp16 step runs at 4.00 times"),
        ({"fp32": 2.0, "tf32": 1.0, "bf16": 1.2, "fp16": 1.5}, "tf32", "a tf32 step runs at 2.00 times"),
        ({"fp32": 2.0, "tf32": 1.9, "bf16": 1.8, "fp16": 2.1}, "fp32", "a bf16 step runs at 1.11 times"),
        ({"fp32": 2.0, "bf16": 1.0}, "bf16", "a bf16 step runs at 2.00 times"),
        ({"fp32": 2.0}, "fp32", "tf32 or bf16 or fp16 does not run here"),
    ],
)
def test_auto_takes_what_is_clearly_faster_and_says_by_how_much(
    monkeypatch: pytest.MonkeyPatch, times: dict[str, float], chosen: str, reason: str
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    tried: list[str] = []
    runtime = choose_runtime(GPU, "auto", 2, takes(times, tried))
    assert runtime.precision == chosen
    assert reason in runtime.reason
    assert tried[:4] == ["fp32", "tf32", "bf16", "fp16"]
    assert tried[4 : 4 + len(times)] == list(times), "what does not run is not tried again"
    assert all(switch.allow_tf32 == (chosen != "fp32") for switch in SWITCHES)
    assert torch.backends.cudnn.deterministic


def test_an_old_gpu_is_asked_for_fp16_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    tried: list[str] = []
    assert choose_runtime(GPU, "auto", 1, takes({"fp32": 1.0, "fp16": 0.5}, tried)).precision == "fp16"
    assert set(tried) == {"fp32", "fp16"}


@pytest.mark.parametrize("has", [True, False])
def test_a_processor_is_asked_for_bf16_where_it_multiplies_that(monkeypatch: pytest.MonkeyPatch, has: bool) -> None:
    monkeypatch.setattr(module, "_has_bf16", lambda: has)
    tried: list[str] = []
    runtime = choose_runtime(CPU, "auto", 1, takes({"fp32": 1.0, "bf16": 0.5}, tried))
    assert (runtime.precision, set(tried)) == (("bf16", {"fp32", "bf16"}) if has else ("fp32", set()))


def test_memory_that_runs_out_in_a_measurement_is_not_taken_for_missing_arithmetic() -> None:
    def probe(_: Runtime) -> float:
        raise torch.OutOfMemoryError

    with pytest.raises(torch.OutOfMemoryError):
        module._fastest(CPU, 1, ("bf16",), probe)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_what_is_asked_for_is_not_measured(precision: str) -> None:
    runtime = choose_runtime(CPU, precision, 3, lambda _: pytest.fail("measured"))
    assert (runtime.precision, runtime.threads, runtime.reason) == (precision, 3, "as asked for")


@pytest.mark.parametrize("precision", ["tf32", "fp16"])
def test_a_processor_refuses_what_only_gpus_have(precision: str) -> None:
    with pytest.raises(ConfigError, match=f"--precision {precision} is for CUDA"):
        check_precision(CPU, precision)


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_products_are_computed_in_the_precision_of_the_run(precision: str, dtype: torch.dtype) -> None:
    with Runtime(CPU, precision, 1, "").autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype
