"""The precision of a run: the requested one, or the same one every time on a machine."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import charlm
from charlm.config import Config, ModelConfig, TrainConfig
from charlm.errors import ConfigError
from charlm.models.network import Network, initialise
from charlm.runtime import precision as module
from charlm.runtime.precision import check_precision, choose_precision
from charlm.training.trial import StepTrial

CPU, GPU = torch.device("cpu"), torch.device("cuda")


class FakeTrial:
    """Steps that take these seconds in each precision; the others do not work. `noise` makes some of them longer."""

    def __init__(
        self, times: Mapping[str, float], *, sure: Sequence[str] = (), noise: Sequence[float] = (1.0,), size: str = "x"
    ) -> None:
        self.times, self.sure, self.size = times, sure, size
        self.tried: list[str] = []
        self._noise = itertools.cycle(noise)

    def works(self, precision: str) -> bool:
        return precision in self.times

    def seconds(self, precision: str) -> float:
        self.tried.append(precision)
        if self.times.get(precision, 0) < 0:
            raise torch.OutOfMemoryError
        return self.times[precision] * next(self._noise)


@pytest.fixture(autouse=True)
def _machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A new GPU, bf16 instructions, and nothing measured yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "H")
    monkeypatch.setattr(module, "has_bf16", lambda: True)


@pytest.mark.parametrize(
    ("times", "chosen", "reason"),
    [
        ({"fp32": 2.0, "tf32": 1.2, "fp16": 0.5}, "fp16", "a fp16 step runs at 4.00 times"),
        ({"fp32": 2.0, "tf32": 1.0, "fp16": 1.5}, "tf32", "a tf32 step runs at 2.00 times"),
        ({"fp32": 2.0, "tf32": 1.8, "fp16": 2.1}, "fp32", "a tf32 step runs at 1.11 times"),
        ({"fp32": 2.0, "fp16": 1.0}, "fp16", "a fp16 step runs at 2.00 times"),
        ({"fp32": 2.0}, "fp32", "no faster precision"),
        ({"fp32": -1, "tf32": 2.0, "fp16": 1.0}, "fp16", "no other precision works"),
    ],
)
def test_auto_takes_what_is_clearly_faster_and_says_by_how_much(
    times: dict[str, float], chosen: str, reason: str
) -> None:
    precision, why = choose_precision(GPU, "auto", FakeTrial(times))
    assert precision == chosen
    assert reason in why


def test_what_is_sure_is_not_measured() -> None:
    trial = FakeTrial({"fp32": 1.0, "bf16": 2.0}, sure=["bf16"])
    assert choose_precision(CPU, "auto", trial)[0] == "bf16"
    assert trial.tried == []


@pytest.mark.parametrize("fp32", [1.0, 1.1, 1.2, 1.5, 2.0])
def test_other_work_during_a_measurement_changes_nothing(fp32: float) -> None:
    times = {"fp32": fp32, "bf16": 1.0}
    expected = choose_precision(CPU, "auto", FakeTrial(times, size="quiet"))[0]
    for shift in range(20):
        noise = [1.0 + 3 * ((number * 7 + shift) % 5 in (1, 2)) for number in range(5)]
        found = choose_precision(CPU, "auto", FakeTrial(times, noise=noise, size=f"busy {shift}"))
        assert found[0] == expected


def test_an_answer_is_kept_for_this_machine_and_size() -> None:
    first = choose_precision(CPU, "auto", FakeTrial({"fp32": 2.0, "bf16": 1.0}))
    again = FakeTrial({"fp32": 1.0, "bf16": 2.0})
    assert choose_precision(CPU, "auto", again) == first
    assert again.tried == []
    assert choose_precision(CPU, "auto", FakeTrial({"fp32": 1.0, "bf16": 2.0}, size="other"))[0] == "fp32"


def test_an_old_gpu_tries_only_fp16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    trial = FakeTrial({"fp32": 1.0, "fp16": 0.5, "tf32": 0.1})
    assert choose_precision(GPU, "auto", trial)[0] == "fp16"
    assert set(trial.tried) == {"fp32", "fp16"}


def test_a_processor_without_the_instructions_takes_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "has_bf16", lambda: False)
    trial = FakeTrial({"fp32": 1.0, "bf16": 0.5}, sure=["bf16"])
    assert choose_precision(CPU, "auto", trial)[0] == "fp32"


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_requested_precision_is_not_measured(precision: str) -> None:
    trial = FakeTrial({"fp32": 1.0, "bf16": 1.0})
    assert choose_precision(CPU, precision, trial) == (precision, "requested")
    assert trial.tried == []


@pytest.mark.parametrize("precision", ["tf32", "fp16"])
def test_a_processor_refuses_what_only_gpus_have(precision: str) -> None:
    with pytest.raises(ConfigError, match=f"--precision {precision} needs a CUDA GPU"):
        check_precision(CPU, precision)


def test_a_precision_that_does_not_work_is_refused_before_anything_is_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(StepTrial, "works", lambda _, precision: precision == "fp32")
    (tmp_path / "text.txt").write_text("It was the best of times. " * 50)
    options: dict[str, Any] = {"checkpoints": tmp_path / "runs", "steps": 1, "hidden": 8, "device": "cpu"}
    with pytest.raises(ConfigError, match="this processor cannot compute these layers in bf16"):
        charlm.train(tmp_path / "text.txt", precision="bf16", **options)
    assert not (tmp_path / "runs").exists()
    trained = charlm.train(tmp_path / "text.txt", precision="fp32", **options)
    with pytest.raises(ConfigError, match="cannot compute these layers in bf16"):
        charlm.load(trained.checkpoint, precision="bf16", device="cpu").score("It was")


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_a_trial_tells_what_works_here_and_leaves_the_network_alone(cell: str) -> None:
    network = Network(ModelConfig(cell=cell, hidden=16, layers=1, embedding=8), 11)
    initialise(network, 3)
    before = [weight.clone() for weight in network.parameters()]
    trial = StepTrial(Config(model=network.config, train=TrainConfig(batch=2, bptt=4)), network)
    assert trial.works("fp32")
    assert trial.seconds("fp32") > 0
    if trial.works("bf16"):
        assert trial.seconds("bf16") > 0
    assert all(torch.equal(one, other) for one, other in zip(before, network.parameters(), strict=True))
    assert all(weight.grad is None for weight in network.parameters())
