"""A cell, an optimizer and a tokenizer from outside: each is one object, and a line that offers it.

They are added as a user's own module would add them, then train, are saved, go on exactly, write and score. Nothing of
charlm is changed for that.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from oracles import validation_loss
from torch import Tensor, nn

import charlm
from charlm.config import CELLS, OPTIMIZERS, TOKENIZERS, check_train
from charlm.models.architecture import Floats
from charlm.models.cells import Cell
from charlm.models.optimizers import OptimizerSpec
from charlm.storage.checkpoint import load_checkpoint
from charlm.text.tokenizer import Encoded, Tokenizer, TokenizerState
from charlm.training.optim import Optimizer

TEXT = "".join(f"{n} and {n} make {2 * n}.\n" for n in range(150))
OPTIONS: dict[str, Any] = {"steps": 120, "hidden": 24, "layers": 2, "batch": 4, "bptt": 24, "threads": 1}


class LeakyLayer(nn.RNN):
    """h' = h / 2 + tanh(W x + b + U h) / 2, one chunk: x [T, B, E], h [1, B, H] to outputs [T, B, H] and h."""

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        w_ih, w_hh, b_ih, b_hh = self.parameters()
        outputs, state = [], h[0]
        for fed in x @ w_ih.T + b_ih + b_hh:
            state = 0.5 * state + 0.5 * torch.tanh(fed + state @ w_hh.T)
            outputs.append(state)
        return torch.stack(outputs), state[None]


def leaky_values(x: Floats, product: Floats, state: tuple[Floats, ...], inner: Floats) -> tuple[Floats, ...]:  # noqa: ARG001
    return (np.tanh(x + product),)


def leaky_update(gates: tuple[Floats, ...], state: tuple[Floats, ...], inner: Floats) -> tuple[Floats, ...]:  # noqa: ARG001
    half = np.float32(0.5)
    return (half * state[0] + half * gates[0],)


class Heavy(Optimizer):
    """Gradient descent with momentum."""

    def _update(self, lr: float, number: int) -> None:  # noqa: ARG002
        for weight, velocity, gradient in zip(self.weights, self.remembered("velocity"), self.gradients, strict=True):
            velocity.mul_(0.9).add_(gradient)
            weight.sub_(lr * velocity)


class RotatedBytes(Tokenizer):
    """One token a byte, with ids in another order than those of charlm."""

    kind = "rotated-bytes"
    size = 256

    @property
    def pieces(self) -> Sequence[bytes]:
        return [bytes([(token + 128) % 256]) for token in range(256)]

    def encode(self, text: str) -> Encoded:
        raw = np.frombuffer(text.encode(), dtype=np.uint8).astype(np.int32)
        return Encoded((raw + 128) % 256, np.zeros(0, dtype=np.int32))

    def state(self) -> TokenizerState:
        return TokenizerState({"kind": self.kind})

    @classmethod
    def train(cls, text: str, **options: Any) -> RotatedBytes:  # noqa: ARG003
        return cls()

    @classmethod
    def restore(cls, state: TokenizerState) -> RotatedBytes:  # noqa: ARG003
        return cls()


@pytest.fixture(autouse=True)
def offered() -> Iterator[None]:
    """What a user's module does when it is imported; taken back afterwards."""
    CELLS.add("leaky-test", Cell(gates=("h",), values=leaky_values, update=leaky_update, layer=LeakyLayer))
    OPTIMIZERS.add("heavy", OptimizerSpec(update=Heavy, quantities=("velocity",), default_lr=0.1))
    TOKENIZERS.add("rotated-bytes", RotatedBytes)
    yield
    for registry, name in ((CELLS, "leaky-test"), (OPTIMIZERS, "heavy"), (TOKENIZERS, "rotated-bytes")):
        registry.remove(name)


CHOICES = [{"cell": "leaky-test"}, {"optimizer": "heavy"}, {"tokenizer": "rotated-bytes"}]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "sums.txt"
    path.write_text(TEXT)
    return path


def train(corpus: Path, name: str, **options: Any) -> charlm.Trained:
    given: dict[str, Any] = {**OPTIONS, "precision": "fp32", "checkpoints": corpus.parent, "name": name, **options}
    return charlm.train(corpus, **given)


@pytest.mark.parametrize("choice", CHOICES, ids=lambda choice: next(iter(choice.values())))
def test_what_is_added_trains_is_saved_goes_on_writes_and_scores(corpus: Path, choice: dict[str, Any]) -> None:
    whole = train(corpus, "whole", **choice)
    assert validation_loss(whole) < math.log(whole.vocabulary) - 0.1

    asked = iter(range(10**6))
    train(corpus, "parts", **choice, stop=lambda: "stop" if next(asked) == 50 else None)
    parts = train(corpus, "parts", resume=True, **choice)
    assert load_checkpoint(parts.run.last).state_sha256 == load_checkpoint(whole.run.last).state_sha256

    model = charlm.load(whole.checkpoint)
    assert model.score(model.validation_text()).loss == pytest.approx(validation_loss(whole), abs=1e-5)
    decoded = charlm.load(whole.checkpoint, engine="decoder").score(model.validation_text(), exact=True).loss
    assert decoded == pytest.approx(validation_loss(whole), abs=1e-3)
    assert len(model.sample(length=40, seed=1)) == 40


def test_what_is_added_is_among_the_choices_and_nothing_else_is() -> None:
    for choice in CHOICES:
        assert check_train(choice) == choice
    with pytest.raises(charlm.ConfigError, match=r"--cell must be one of lstm, .*, leaky-test, not 'another'"):
        check_train({"cell": "another"})
    with pytest.raises(charlm.ConfigError, match="--forget-bias applies only to --cell lstm, not to leaky-test"):
        check_train({"cell": "leaky-test", "forget_bias": 1.0})
    with pytest.raises(ValueError, match="'lstm' is taken"):
        CELLS.add("lstm", object())


def test_a_checkpoint_of_an_optimizer_is_held_to_what_that_remembers(corpus: Path) -> None:
    last = load_checkpoint(train(corpus, "run", optimizer="heavy").run.last)
    kinds = {name.split(".")[1] for name in last.tensors if name.startswith("optimizer.")}
    assert kinds == {"velocity"}


def test_a_step_in_numpy_is_the_layers_own() -> None:
    layer, rng = LeakyLayer(3, 5), np.random.default_rng(2)
    x, h = rng.normal(size=(1, 2, 3)).astype(np.float32), rng.normal(size=(2, 5)).astype(np.float32)
    with torch.no_grad():
        expected = layer(torch.from_numpy(x), torch.from_numpy(h)[None])[1][0].numpy()
    w_ih, w_hh, b_ih, b_hh = (weight.detach().numpy() for weight in layer.parameters())
    (found,) = CELLS["leaky-test"].step(x[0] @ w_ih.T + b_ih + b_hh, h @ w_hh.T, (h,), np.zeros(0, np.float32))
    np.testing.assert_allclose(found, expected, atol=1e-6)
