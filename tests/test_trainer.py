"""Training through the public API: what it learns, what it writes, when it stops."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from oracles import validation_loss
from torch import Tensor

import charlm
from charlm.models.network import Network, export_state, import_state, import_weights
from charlm.runtime.random import Purpose, uniform
from charlm.storage.checkpoint import Checkpoint, load_checkpoint
from charlm.text.tokenizer import tokenize
from charlm.training import optim, step
from charlm.training.clock import Clock
from charlm.training.events import Event, Finished, Remark, Saved, Started, Stepped, Validated, Writing
from charlm.training.validator import Validator

TEXT = "".join(f"{n} times {n % 7} is {n * (n % 7)}.\n" for n in range(400))
SMALL: dict[str, Any] = {"hidden": 24, "embedding": 8, "batch": 4, "bptt": 16, "precision": "fp32", "threads": 1}


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "sums.txt"
    path.write_text(TEXT)
    return path


def run(corpus: Path, **options: Any) -> charlm.Trained:
    return charlm.train(corpus, checkpoints=corpus.parent, **{**SMALL, **options})


def last(trained: charlm.Trained) -> Checkpoint:
    return load_checkpoint(trained.run.last)


def test_the_lectures_hello_is_learned_by_heart(tmp_path: Path) -> None:
    path = tmp_path / "hello.txt"
    path.write_text("hello")
    trained = charlm.train(path, checkpoints=tmp_path, val="0", threads=1)
    assert trained.result.train_loss < 0.01
    assert charlm.load(trained.checkpoint).sample(length=5, temperature=0) == "hello"


def test_after_one_step_at_a_tiny_rate_the_network_is_as_initialised(corpus: Path) -> None:
    weights = last(run(corpus, steps=1, lr=1e-9, hidden=32, forget_bias=1.0)).weights
    for layer in range(2):
        total = weights[f"rnn.{layer}.bias_ih"] + weights[f"rnn.{layer}.bias_hh"]
        assert np.allclose(total[32:64], 1, atol=1e-6)
        assert np.allclose(np.delete(total, np.s_[32:64]), 0, atol=1e-6)
        for block in np.split(weights[f"rnn.{layer}.weight_hh"], 4):
            assert np.allclose(block @ block.T, np.eye(32), atol=1e-5)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_the_gradient_norm_on_record_is_the_one_before_clipping(corpus: Path, optimizer: str) -> None:
    norms = []
    for clip in (0.0, 1e-6):
        trained = run(corpus, steps=1, clip=clip, optimizer=optimizer, force=True)
        norms.append(trained.run.read_metrics()[0].grad_norm or 0.0)
    assert norms[0] == norms[1] > 1e-3


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
@pytest.mark.parametrize("optimizer", ["muon", "adamw", "rmsprop"])
def test_every_cell_learns_with_every_rule(corpus: Path, cell: str, optimizer: str) -> None:
    trained = run(corpus, steps=150, cell=cell, optimizer=optimizer)
    first = trained.history[0].val_loss
    assert validation_loss(trained) < first - 0.1 < math.log(len(set(TEXT)))


@pytest.mark.parametrize("tokenizer", ["byte", "sentencepiece"])
def test_other_tokenizers_are_charged_per_character(corpus: Path, tokenizer: str) -> None:
    trained = run(corpus, steps=40, tokenizer=tokenizer, embedding=0)
    model = charlm.load(trained.checkpoint)
    score = model.score(model.validation_text())
    assert score.loss == pytest.approx(validation_loss(trained), abs=1e-6)
    assert score.characters == len(TEXT) - int(len(TEXT) * 0.9)
    assert abs(trained.result.train_loss - validation_loss(trained)) < 0.5  # both are nats per character


def test_value_clipping_dropout_and_other_splits_run(corpus: Path, tmp_path: Path) -> None:
    later = tmp_path / "later.txt"
    later.write_text("7 times 7 is 49.\n" * 3)
    trained = run(corpus, steps=5, clip=0.1, clip_mode="value", dropout=0.3, val=str(later), decay="cosine")
    assert last(trained).corpus.val_characters == 51
    assert charlm.load(trained.checkpoint).validation_text() == later.read_text()


def test_metrics_have_a_row_every_ten_steps_and_at_each_check_in_order(corpus: Path) -> None:
    trained = run(corpus, steps=45)
    rows = trained.run.read_metrics()
    steps = [row.step for row in rows]
    checks = [row.step for row in trained.history]
    assert steps == sorted({1, 10, 20, 30, 40, 45, *checks})
    assert [row.step for row in rows if row.val_loss is not None] == checks
    written = [json.loads(line) for line in trained.run.metrics.read_text().splitlines()]
    assert all({"step", "train_loss", "val_loss", "grad_norm", "lr", "seconds"} <= row.keys() for row in written)
    assert [row.seconds for row in rows] == sorted(row.seconds for row in rows)


def test_events_tell_the_story_in_order(corpus: Path) -> None:
    events: list[Event] = []
    run(corpus, steps=20, on_event=events.append)
    kinds = [type(event) for event in events[:6]]
    assert kinds == [Remark, Writing, Remark, Started, Saved, Stepped]  # its lines are sorted, and numbered
    assert isinstance(events[-1], Finished)
    assert [e.step for e in events if isinstance(e, Stepped)] == list(range(1, 21))
    assert any(isinstance(e, Validated) for e in events)
    assert any(isinstance(e, Saved) for e in events)


def test_best_is_the_lowest_check_and_carries_no_optimizer(corpus: Path) -> None:
    trained = run(corpus, steps=60)
    best = load_checkpoint(trained.run.best)
    assert not best.tensors
    assert best.training.best == min(row.val_loss for row in trained.history) == trained.result.best_val_loss
    assert trained.checkpoint == trained.run.best


def test_without_validation_text_best_is_last(corpus: Path) -> None:
    trained = run(corpus, steps=5, val="0")
    assert trained.checkpoint == trained.run.last
    assert trained.result.val_loss is None
    with pytest.raises(charlm.DataError, match="has no validation text"):
        charlm.load(trained.checkpoint).validation_text()


def test_patience_ends_a_run_that_no_longer_improves(tmp_path: Path) -> None:
    path = tmp_path / "noise.txt"
    rng = np.random.default_rng(0)
    path.write_text("".join(chr(97 + i) for i in rng.integers(0, 26, 1500)))
    trained = run(path, steps=2000, patience=2, decay="none")
    assert trained.reason == "patience"
    assert trained.result.steps < 2000
    losses = [row.val_loss for row in trained.history]
    assert min(losses) == losses[-3]


def test_a_time_budget_is_kept_and_its_plan_recorded(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that goes on by a hundredth of a second each time that it is looked at."""
    looks = itertools.count()
    monkeypatch.setattr(
        "charlm.training.trainer.Clock", lambda earlier=0.0: Clock(earlier, now=lambda: next(looks) / 100)
    )
    trained = run(corpus, time="3s", patience=0)
    assert 2.4 < trained.result.seconds < 3.3
    plan = last(trained).state.plan
    assert plan.knots[-1] == (trained.result.steps, 1.0)
    assert len(plan.knots) >= 2


def test_epochs_count_passes_through_the_text(corpus: Path) -> None:
    trained = run(corpus, epochs=2)
    assert trained.result.characters_seen == 2 * int(len(TEXT) * 0.9)


def test_the_final_record_is_in_both_checkpoints(corpus: Path) -> None:
    trained = run(corpus, steps=20)
    assert load_checkpoint(trained.run.best).result == last(trained).result == trained.result
    assert json.loads(json.dumps(trained.result.figures())) == trained.result.figures()


def test_another_models_weights_start_a_new_one_with_a_larger_vocabulary(corpus: Path, tmp_path: Path) -> None:
    donor = run(corpus, steps=200)
    path = tmp_path / "more.txt"
    path.write_text("×" + TEXT)
    fresh = charlm.train(path, checkpoints=tmp_path, name="fresh", **{**SMALL, "steps": 1, "lr": 1e-9})
    tuned = charlm.train(
        path, checkpoints=tmp_path, name="tuned", init_from=donor.checkpoint, steps=1, lr=1e-9, batch=4, bptt=16
    )
    assert validation_loss(tuned) < validation_loss(fresh) - 0.3
    with pytest.raises(charlm.ConfigError, match="--hidden 99 contradicts --init-from"):
        charlm.train(path, checkpoints=tmp_path, name="other", init_from=donor.checkpoint, steps=1, hidden=99)


@pytest.mark.parametrize(("cell", "chance"), [("lstm", 0.25), ("gru", 0.25), ("rnn", 0.25), ("lstm", 0), ("lstm", 1)])
def test_dropped_states_are_zero_and_the_others_are_carried(corpus: Path, cell: str, chance: float) -> None:
    """After two chunks at a rate of nothing, each lane's state is that of both chunks, or of the second by itself."""
    found = last(run(corpus, steps=2, drop_state=chance, lr=1e-12, cell=cell, batch=16, bptt=8, device="cpu"))
    network = Network(found.config.model, found.open_tokenizer().size)
    import_weights(network, found.weights)
    ids = torch.tensor(tokenize(found.open_tokenizer(), TEXT[: int(len(TEXT) * 0.9)]).ids.astype(np.int64))
    firsts = torch.tensor([len(ids) * lane // 16 for lane in range(16)])
    chunks = [ids[firsts + place] for place in range(16)]
    start = torch.full_like(chunks[0], found.open_tokenizer().start)
    with torch.no_grad():
        _, whole = network(torch.stack([start, *chunks[:15]]), network.init_state(16))
        _, second = network(torch.stack(chunks[7:15]), network.init_state(16))
    ours, carried, alone = (
        np.concatenate(list(export_state(state, network.config).values()), 1)
        for state in (import_state(found.tensors, found.config.model, torch.device("cpu")), whole, second)
    )
    is_carried, is_alone = (np.isclose(ours, other, atol=1e-5).all(1) for other in (carried, alone))
    assert (is_carried ^ is_alone).all()
    assert is_alone.tolist() == [uniform(0, Purpose.STATE, 1, lane) < chance for lane in range(16)]


def test_an_overflow_of_fp16_reads_the_window_again_at_a_smaller_scale(
    corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU, where the first scale is nearly always too large; here gradients overflow by decree."""
    plain = run(corpus, name="plain", steps=3)
    norms: list[float] = []

    def clip(weights: Iterable[Tensor], threshold: float, mode: str) -> Tensor:
        norms.append(float(optim.clip(weights, threshold, mode)))
        return torch.tensor(norms[-1] if len(norms) > 6 else math.inf)

    monkeypatch.setattr(step, "clip", clip)
    monkeypatch.setattr(step, "LossScale", lambda *_: optim.LossScale(enabled=True))
    scaled = run(corpus, name="scaled", steps=3)
    assert len(norms) == 6 + 3
    assert last(scaled).state.loss_scale == 65536 / 2**6
    assert scaled.result.train_loss == pytest.approx(plain.result.train_loss, rel=1e-4)
    rows = [part.run.read_metrics()[0] for part in (plain, scaled)]
    assert rows[0].grad_norm == pytest.approx(rows[1].grad_norm, rel=1e-4)


def test_what_was_learned_is_saved_whatever_becomes_of_the_closing_score(
    corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(Validator, "score_all", fail)
        with pytest.raises(MemoryError):
            run(corpus, steps=30, checkpoint_every="1000000")
    done = charlm.train(name="sums", checkpoints=corpus.parent, resume=True)
    found = load_checkpoint(done.run.last)
    assert (found.state.step, done.reason) == (30, "done")
    assert found.result is not None
