"""How far back a network looks, as it says: what is further away changes nothing, and what is within changes it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from oracles import random_network

from charlm.cli.main import run
from charlm.config import ModelConfig
from charlm.models.architecture import architecture_of

V = 7
CONFIGS = {
    "window, one": ModelConfig(model="window", layers=1, hidden=6, embedding=3, context=4),
    "window, two": ModelConfig(model="window", layers=2, hidden=6, embedding=3, context=4),
    "dilated": ModelConfig(model="dilated", layers=4, hidden=6, embedding=3),
    "transformer": ModelConfig(model="transformer", layers=2, hidden=6, embedding=3, context=5, heads=1),
}


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("chunk", [1, 7, 30])
def test_a_network_looks_exactly_as_far_back_as_it_says(name: str, chunk: int) -> None:
    config, ids = CONFIGS[name], torch.randint(0, V, (30, 1), generator=torch.Generator().manual_seed(7))
    network = random_network(config, V, seed=6).double()

    def final(ids: torch.Tensor) -> torch.Tensor:
        state = network.init_state(1)
        for part in torch.split(ids, chunk):
            logits_TBV, state = network(part, state)
        last: torch.Tensor = logits_TBV[-1]
        return last

    usual, reach = final(ids), architecture_of(config).receptive_field(config)
    assert reach
    for back in range(1, 30):
        other = ids.clone()
        other[-back] = (other[-back] + 1) % V
        assert torch.equal(final(other), usual) == (back > reach)


def test_a_recurrent_network_has_no_limit() -> None:
    assert architecture_of(ModelConfig()).receptive_field(ModelConfig()) is None


def test_a_window_longer_than_the_text_is_remarked_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    corpus = tmp_path / "text.txt"
    corpus.write_text("one and one make two.\n" * 10)
    size = ["--hidden", "2", "--embedding", "2", "--steps", "1", "--threads", "1", "--checkpoints", str(tmp_path)]
    assert run(["train", str(corpus), "--model", "window", "--context", "500", *size]) == 0
    assert "--context 500 is longer than the training text, which has 198 tokens" in capsys.readouterr().err


def test_training_and_info_say_how_far_it_looks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    corpus = tmp_path / "text.txt"
    corpus.write_text("one and one make two.\n" * 30)
    size = ["--hidden", "8", "--layers", "3", "--steps", "2", "--threads", "1", "--checkpoints", str(tmp_path)]
    assert run(["train", str(corpus), "--model", "dilated", *size]) == 0
    assert "dilated, 3 layers of 8, receptive field of 8 tokens" in capsys.readouterr().err
    assert run(["info", "text", "--checkpoints", str(tmp_path)]) == 0
    assert "8 tokens" in capsys.readouterr().out
