"""What a runtime computes with: TF32, loss scaling, mixed precision."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from charlm.errors import ConfigError
from charlm.runtime.device import Runtime, choose_device, choose_runtime

CPU, GPU = torch.device("cpu"), torch.device("cuda")
SWITCHES: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.cudnn)


@pytest.fixture(autouse=True)
def switches() -> Iterator[None]:
    before = [switch.allow_tf32 for switch in SWITCHES], torch.backends.cudnn.deterministic
    yield
    for switch, value in zip(SWITCHES, before[0], strict=True):
        switch.allow_tf32 = value
    torch.backends.cudnn.deterministic = before[1]


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


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_products_are_computed_in_the_precision_of_the_run(precision: str, dtype: torch.dtype) -> None:
    with Runtime(CPU, precision, 1, "").autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype


@pytest.mark.parametrize("number", [2, 128, 256, 257, 999])
def test_a_gpu_beyond_the_last_is_refused(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.device keeps the number in one byte: 256 reads as 0 there, and 999 as -25."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("cuda:1") == torch.device("cuda:1")
    assert choose_device("cuda") == torch.device("cuda")
    with pytest.raises(ConfigError, match=f"--device cuda:{number}: this machine has 2 CUDA devices"):
        choose_device(f"cuda:{number}")
