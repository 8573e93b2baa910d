"""The precision of a run: the requested one, or one that a measurement found to be clearly faster."""

from __future__ import annotations

import contextlib
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
        if runtime.precision not in times:
            raise RuntimeError("could not create a primitive descriptor")
        return times[runtime.precision]

    return probe


@pytest.mark.parametrize(
    ("times", "chosen", "reason"),
    [
        ({"fp32": 2.0, "tf32": 1.2, "fp16": 0.5}, "fp16", "a fp16 step runs at 4.00 times"),
        ({"fp32": 2.0, "tf32": 1.0, "fp16": 1.5}, "tf32", "a tf32 step runs at 2.00 times"),
        ({"fp32": 2.0, "tf32": 1.8, "fp16": 2.1}, "fp32", "a tf32 step runs at 1.11 times"),
        ({"fp32": 2.0, "fp16": 1.0}, "fp16", "a fp16 step runs at 2.00 times"),
        ({"fp32": 2.0}, "fp32", "no other precision works"),
        ({"tf32": 2.0, "fp16": 1.0}, "fp16", "no other precision works"),
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
    assert tried[:3] == ["fp32", "tf32", "fp16"]
    assert tried[3 : 3 + len(times)] == list(times), "what does not run is not tried again"
    assert torch.backends.cudnn.deterministic


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16", "fp16"])
def test_a_step_on_a_gpu_is_deterministic_and_rounds_to_tf32_only_where_the_run_admits_it(precision: str) -> None:
    choose_runtime(GPU, precision, 1)
    assert not any(switch.allow_tf32 for switch in SWITCHES)
    with contextlib.suppress(ValueError), Runtime(GPU, precision, 1, "").arithmetic():
        assert all(switch.allow_tf32 == (precision != "fp32") for switch in SWITCHES)
        assert torch.are_deterministic_algorithms_enabled()
        raise ValueError
    assert not any(switch.allow_tf32 for switch in SWITCHES)
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize(
    ("device", "precision", "scales"),
    [(GPU, "fp16", True), (GPU, "bf16", True), (GPU, "tf32", False), (GPU, "fp32", False), (CPU, "bf16", False)],
)
def test_the_loss_is_scaled_where_gradients_pass_through_fp16(
    device: torch.device, precision: str, scales: bool
) -> None:
    assert Runtime(device, precision, 1, "").scales_loss == scales


def test_an_old_gpu_tries_only_fp16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    tried: list[str] = []
    assert choose_runtime(GPU, "auto", 1, takes({"fp32": 1.0, "fp16": 0.5}, tried)).precision == "fp16"
    assert set(tried) == {"fp32", "fp16"}


@pytest.mark.parametrize("has", [True, False])
def test_a_processor_tries_bf16_where_it_has_the_instructions(monkeypatch: pytest.MonkeyPatch, has: bool) -> None:
    monkeypatch.setattr(module, "has_bf16", lambda: has)
    tried: list[str] = []
    runtime = choose_runtime(CPU, "auto", 1, takes({"fp32": 1.0, "bf16": 0.5}, tried))
    assert (runtime.precision, set(tried)) == (("bf16", {"fp32", "bf16"}) if has else ("fp32", set()))


def test_a_precision_without_the_memory_for_a_step_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def probe(runtime: Runtime) -> float:
        if runtime.precision == "fp32":
            raise torch.OutOfMemoryError
        return 1.0

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    assert choose_runtime(GPU, "auto", 1, probe).precision == "tf32"


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_requested_precision_is_not_measured(precision: str) -> None:
    runtime = choose_runtime(CPU, precision, 3, lambda _: pytest.fail("measured"))
    assert (runtime.precision, runtime.threads, runtime.reason) == (precision, 3, "requested")


@pytest.mark.parametrize("precision", ["tf32", "fp16"])
def test_a_processor_refuses_what_only_gpus_have(precision: str) -> None:
    with pytest.raises(ConfigError, match=f"--precision {precision} needs a CUDA GPU"):
        check_precision(CPU, precision)


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_products_are_computed_in_the_precision_of_the_run(precision: str, dtype: torch.dtype) -> None:
    with Runtime(CPU, precision, 1, "").autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype
