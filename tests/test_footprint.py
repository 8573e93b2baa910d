"""What training needs of memory: added up from the network itself, and refused where it cannot fit."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import charlm
from charlm.config import CELLS, OPTIMIZERS, Config, ModelConfig, OptimConfig, TrainConfig
from charlm.errors import ConfigError
from charlm.models.network import Network
from charlm.runtime import limits
from charlm.runtime.limits import Limit
from charlm.training.footprint import footprint

TINY: dict[str, Any] = {
    "steps": 2,
    "hidden": 8,
    "batch": 2,
    "bptt": 8,
    "device": "cpu",
    "precision": "fp32",
    "threads": 1,
}


def config_of(cell: str = "lstm", average: float = 0.0, **train: object) -> Config:
    model = ModelConfig(cell=cell, layers=2, hidden=12, embedding=5)
    return Config(model=model, optim=OptimConfig(average=average), train=TrainConfig(**train))  # type: ignore[arg-type]


@pytest.mark.parametrize("cell", list(CELLS))
def test_weights_are_those_of_the_network(cell: str) -> None:
    config = config_of(cell)
    found = footprint(config, 30)
    network = Network(config.model, 30)
    assert found.weights == found.gradients == sum(weight.nbytes for weight in network.parameters())
    assert footprint(config_of(cell, average=0.1), 30).average == found.weights
    assert found.average == 0


@pytest.mark.parametrize("optimizer", list(OPTIMIZERS))
def test_the_optimizer_keeps_one_or_two_numbers_for_each_weight(optimizer: str) -> None:
    config = Config(model=ModelConfig(hidden=64, embedding=16), optim=OptimConfig(optimizer=optimizer, average=0.0))
    found = footprint(config, 30)
    assert 0.99 * found.weights < found.optimizer < 2.01 * found.weights
    assert found.saving == found.weights + found.optimizer + found.average


@given(batch=st.integers(1, 500), bptt=st.integers(1, 500), cell=st.sampled_from(list(CELLS)))
def test_activations_grow_with_the_chunk_and_are_halved_by_sixteen_bits(batch: int, bptt: int, cell: str) -> None:
    sizes = [
        footprint(config_of(cell, batch=batch, bptt=bptt, precision=precision), 30).activations
        for precision in ("fp32", "bf16")
    ]
    one = footprint(config_of(cell, batch=1, bptt=1, precision="fp32"), 30).activations
    assert sizes == [one * batch * bptt, one * batch * bptt // 2]


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_activations_are_not_far_from_what_torch_keeps(cell: str) -> None:
    """The tensors that autograd keeps for the backward pass, which are not weights; gradients come on top of them."""
    config = config_of(cell, batch=4, bptt=20, precision="fp32")
    network = Network(config.model, 30)
    kept: dict[int, int] = {}
    weights = {weight.data_ptr() for weight in network.parameters()}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.data_ptr() not in weights:
            kept[tensor.data_ptr()] = tensor.nbytes
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        ids = torch.zeros(20, 4, dtype=torch.long)
        logits, _ = network(ids, network.init_state(4))
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids.flatten())
    assert footprint(config, 30).activations < 3 * sum(kept.values())


def limited(monkeypatch: pytest.MonkeyPatch, amount: int) -> None:
    monkeypatch.setattr(limits, "memory", lambda: Limit(amount, "the memory limit of the control group"))
    monkeypatch.setattr(limits, "memory_in_use", lambda: 0)


def test_a_run_that_cannot_fit_is_refused_with_the_sum_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "t.txt").write_text("A text to be trained on. " * 40)
    limited(monkeypatch, 700_000_000)
    cases: tuple[tuple[dict[str, Any], str, str], ...] = (
        ({"hidden": 2048, "layers": 4}, "weights|gradients|optimizer|saving|this process so far", "--hidden"),
        ({"batch": 1000, "bptt": 10_000}, "activations|this process so far", "--batch"),
    )
    for options, parts, hint in cases:
        with pytest.raises(ConfigError) as caught:
            charlm.train(tmp_path / "t.txt", checkpoints=tmp_path / "runs", progress=False, **{**TINY, **options})
        said = str(caught.value)
        assert "the memory limit of the control group is 0.70 GB; nothing was written; use a smaller" in said
        assert hint in said.rpartition(";")[2]
        assert set(parts.split("|")) <= set(re.findall(r"[a-z][a-z ]+(?= \d)", said))
        total, parts_ = re.search(r"about ([\d,.]+) GB", said), re.search(r"\((.*)\)", said)
        assert total is not None
        assert parts_ is not None
        numbers = [float(number.replace(",", "")) for number in re.findall(r" ([\d,]+\.\d+)", parts_[1])]
        assert sum(numbers) == pytest.approx(float(total[1].replace(",", "")), abs=0.05)
        assert os.listdir(tmp_path) == ["t.txt"]


def test_a_run_that_fits_is_trained_and_resumed_and_one_that_no_longer_fits_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "t.txt").write_text("A text to be trained on. " * 40)
    for there in (None, Limit(10_000_000, "the memory of this machine")):
        monkeypatch.setattr(limits, "memory", lambda there=there: there)
        monkeypatch.setattr(limits, "memory_in_use", lambda: 0)
        asked = iter((None, "enough"))
        charlm.train(
            tmp_path / "t.txt",
            checkpoints=tmp_path,
            name="t",
            force=True,
            stop=asked.__next__,
            progress=False,
            **TINY,
        )
    limited(monkeypatch, 1000)
    before = {path.name: path.read_bytes() for path in (tmp_path / "t").glob("*.safetensors")}
    with pytest.raises(ConfigError, match="GB to train"):
        charlm.train(checkpoints=tmp_path, name="t", resume=True, progress=False)
    assert {path.name: path.read_bytes() for path in (tmp_path / "t").glob("*.safetensors")} == before
    monkeypatch.undo()
    assert charlm.train(checkpoints=tmp_path, name="t", resume=True, progress=False).result.steps == 2
