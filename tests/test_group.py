"""What processes hand to each other, and what follows for a step, a score and a checkpoint: the same as for one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from crowd import in_crowd
from hypothesis import given
from hypothesis import strategies as st
from oracles import synthetic_text

from charlm.config import Config, DataConfig, ModelConfig, OptimConfig, TrainConfig
from charlm.errors import CharlmError, ConfigError
from charlm.evaluation.score import lane_nats, record_nats, token_nats
from charlm.models.network import Dropout, Network, Rows, export_state, initialise, named_weights
from charlm.runtime import limits, processes
from charlm.runtime.device import Runtime, choose_device
from charlm.runtime.group import ALONE, ElsewhereError, Group
from charlm.runtime.processes import Place, place
from charlm.storage.records import TrainState
from charlm.text.lanes import IGNORE, Lanes
from charlm.text.position import Position
from charlm.text.record_lanes import RecordLanes
from charlm.text.tokenizer import Ids, tokenize, train_tokenizer
from charlm.training.optim import Muon, WeightUpdate
from charlm.training.sharing import gather_lanes
from charlm.training.step import Stepper
from charlm.training.trainer import check_lanes
from charlm.training.validator import InterruptedScore, Validator

HERE = Runtime(torch.device("cpu"), "fp32", 1, "")
SIZES = (1, 2, 3, 4)


@given(st.integers(0, 100), st.integers(1, 12))
def test_shares_deal_out_everything_once_in_order_and_evenly(count: int, size: int) -> None:
    shares = [Group(rank, size).share(count) for rank in range(size)]
    assert [number for share in shares for number in share] == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert Group(0, size).shares(count) == [len(share) for share in shares]


@pytest.mark.parametrize("size", SIZES)
def test_sums_copies_and_rows_are_those_of_all(size: int) -> None:
    def work(group: Group) -> None:
        ours = [torch.full((2, 3), 10.0**group.rank), torch.tensor(float(group.rank))]
        group.sum_(ours)
        assert torch.equal(ours[0], torch.full((2, 3), sum(10.0**rank for rank in range(size))))
        assert ours[1] == sum(range(size))
        theirs = [torch.arange(4.0) + group.rank, torch.ones(2, 2) * group.rank]
        group.same_(theirs)
        assert torch.equal(theirs[0], torch.arange(4.0))
        assert not theirs[1].any()
        everything = torch.arange(22.0).view(11, 2)
        share = group.share(11)
        assert torch.equal(group.gather(everything[share.start : share.stop], group.shares(11)), everything)

    in_crowd(size, work)


@pytest.mark.parametrize("length", [0, 1, 247, 248, 249, 256, 5000])
def test_bytes_of_any_length_come_from_the_first(length: int) -> None:
    data = bytes(number % 251 for number in range(length))
    asked: list[int] = []

    def work(group: Group) -> bytes:
        def make() -> bytes:
            asked.append(group.rank)
            return data

        return group.first_bytes(make)

    assert in_crowd(3, work) == [data] * 3
    assert asked == [0]


@pytest.mark.parametrize("value", [None, True, 0.1, "ä", [1, [2.5, "x"]], {"a": None}, "long" * 1000])
def test_values_come_from_the_first(value: object) -> None:
    assert in_crowd(2, lambda group: group.first(lambda: value if group.is_first else "wrong")) == [value] * 2


@pytest.mark.parametrize("own", [(None, None, None), (None, "SIGTERM", None), ("SIGINT", None, "SIGTERM")])
def test_whoever_has_a_reason_to_stop_stops_all(own: tuple[str | None, ...]) -> None:
    expected = next((reason for reason in own if reason), None)
    assert in_crowd(3, lambda group: group.reason(own[group.rank])) == [expected] * 3
    assert ALONE.reason("SIGTERM") == "SIGTERM"


def test_a_value_that_differs_is_an_error_on_all_that_names_the_process() -> None:
    in_crowd(3, lambda group: group.agree("other options", "same"))

    def work(group: Group) -> str:
        with pytest.raises(ConfigError) as raised:
            group.agree("other options", "odd" if group.rank == 2 else "same", hint="give the same")
        return str(raised.value)

    assert (
        in_crowd(3, work) == ["process 2 has other options than process 0; nothing more was written; give the same"] * 3
    )


def _leave(group: Group) -> None:
    with group.together():
        if group.rank == 1:
            raise InterruptedScore("SIGTERM")


def test_where_one_leaves_a_block_the_others_leave_it_too() -> None:
    def work(group: Group) -> str:
        with pytest.raises((ElsewhereError, InterruptedScore)) as raised:
            _leave(group)
        with group.together():
            pass
        return f"{raised.type.__name__} {raised.value}"

    assert in_crowd(3, work) == ["ElsewhereError SIGTERM", "InterruptedScore SIGTERM", "ElsewhereError SIGTERM"]


def test_a_process_alone_sends_nothing_and_its_errors_are_its_own() -> None:
    ours = [torch.ones(2)]
    ALONE.sum_(ours)
    ALONE.same_(ours)
    ALONE.agree("anything", "x")
    assert ours[0].tolist() == [1, 1]
    with pytest.raises(ValueError, match="own"), ALONE.together():
        raise ValueError("own")


@pytest.mark.parametrize("p", [0.1, 0.5])
@pytest.mark.parametrize("width", [5, 8])
def test_a_share_of_a_chunk_is_dropped_as_it_is_in_the_whole(p: float, width: int) -> None:
    whole, layer = torch.randn(7, 6, width, dtype=torch.float64), Dropout(p, torch.Generator())
    layer.generator.manual_seed(3)
    expected = layer(whole)
    for first, last in ((0, 2), (2, 6), (5, 6), (0, 6)):
        places = (torch.arange(7)[:, None] * 6 + torch.arange(first, last)).flatten()
        layer.generator.manual_seed(3)
        assert torch.equal(layer(whole[:, first:last], Rows(42, places)), expected[:, first:last])


def test_lanes_of_a_chunk_are_its_columns() -> None:
    lanes = Lanes(np.arange(11, dtype=np.int32), start=11, batch=3, bptt=2, seed=0)
    chunk = lanes.read(lanes.read(Position()).next)  # the last of its epoch: one lane is shorter than the others
    parts = [chunk.of_lanes(Group(rank, 2).share(3)) for rank in range(2)]
    assert torch.equal(torch.cat([part.inputs for part in parts], 1), chunk.inputs)
    assert torch.equal(torch.cat([part.targets for part in parts], 1), chunk.targets)
    assert [part.scored for part in parts] == [int((part.targets != IGNORE).sum()) for part in parts]
    assert sum(part.scored for part in parts) == chunk.scored < chunk.targets.numel()
    assert [(part.first, part.whole is chunk, part.next) for part in parts] == [
        (0, True, chunk.next),
        (1, True, chunk.next),
    ]


EDGES = np.array(
    [0, 30, 60, 90, 91, 92, 93, 94, 95, 96, 97, 120, 150]
)  # records, of which some lanes have none at times


def _text(length: int) -> Ids:
    return (np.arange(length) ** 2 % 9).astype(np.int32)


def _trained(
    group: Group, cell: str, optimizer: str, records: bool, *, batch: int = 6, steps: int = 50
) -> tuple[list[float], dict[str, torch.Tensor], dict[str, Any]]:
    """Losses, weights and the state of all lanes after some steps in float64, with dropout and resets."""
    model = ModelConfig(
        cell=cell, layers=2, hidden=12, embedding=5, dropout_input=0.1, dropout_between=0.2, dropout_output=0.3
    )
    train = TrainConfig(batch=batch, bptt=8, seed=4, drop_state=0.2)
    config = Config(model=model, optim=OptimConfig(optimizer=optimizer, lr=0.01, clip=0.5, average=0.1), train=train)
    network = Network(model, 9)
    initialise(network, 4)
    network.double().train()
    how: dict[str, Any] = {"start": 9, "batch": batch, "bptt": 8, "seed": 4}
    lanes = RecordLanes(_text(150), EDGES, **how) if records else Lanes(_text(600), **how, shuffle=24)
    stepper = Stepper(config, network, HERE, lanes.batch, pytest.fail, group)
    for rule in stepper.optimizer.optimizers:
        if isinstance(rule, Muon):
            rule.arithmetic = torch.float64
    carried, state, losses = network.init_state(len(stepper.lanes)), TrainState(loss_scale=1.0), list[float]()
    for _ in range(steps):
        chunk = lanes.read(state.position)
        loss, _, carried = stepper.step(chunk, carried, state, 1.0)
        losses.append(loss)
        state.step, state.position = state.step + 1, chunk.next
    whole = export_state(gather_lanes(group, carried, lanes.batch), model)
    return losses, {name: weight.detach() for name, weight in named_weights(network).items()}, whole


@pytest.mark.parametrize("records", [False, True])
@pytest.mark.parametrize(("cell", "optimizer"), [("lstm", "muon"), ("gru", "adamw")])
def test_any_number_of_processes_ends_where_one_does(cell: str, optimizer: str, records: bool) -> None:
    losses, weights, state = _trained(ALONE, cell, optimizer, records)
    assert losses[-1] < losses[0]
    for size in SIZES[1:]:
        found = in_crowd(size, lambda group: _trained(group, cell, optimizer, records))
        for own_losses, own_weights, own_state in found:
            assert own_losses == pytest.approx(losses, rel=0, abs=1e-9)
            assert own_losses == found[0][0]
            for name, weight in own_weights.items():
                assert torch.equal(weight, found[0][1][name])
                torch.testing.assert_close(weight, weights[name], rtol=0, atol=1e-9)
            for name, part in own_state.items():
                np.testing.assert_allclose(part, state[name], rtol=0, atol=1e-6)


def test_a_process_whose_lanes_all_rest_learns_nothing_and_says_zero() -> None:
    lanes = RecordLanes(_text(150), EDGES, start=9, batch=6, bptt=8, seed=4)
    position, resting = Position(), 0
    for _ in range(2 * lanes.chunks):
        chunk = lanes.read(position)
        resting += sum(
            not chunk.of_lanes(Group(rank, lanes.batch).share(lanes.batch)).scored for rank in range(lanes.batch)
        )
        position = chunk.next
    assert resting  # or the test above would not have met it with as many processes as lanes
    losses, _, _ = _trained(ALONE, "gru", "adamw", True, steps=30)
    for found in in_crowd(lanes.batch, lambda group: _trained(group, "gru", "adamw", True, steps=30)):
        assert found[0] == pytest.approx(losses, rel=0, abs=1e-9)


@pytest.mark.parametrize("size", SIZES)
def test_muon_shared_out_is_muon_whole(size: int) -> None:
    def work(group: Group) -> dict[str, torch.Tensor]:
        network = Network(ModelConfig(cell="lstm", layers=2, hidden=6, embedding=3), 7)
        initialise(network, 1)
        network.double()
        weights = named_weights(network)
        rule = WeightUpdate(OptimConfig(optimizer="muon", lr=0.1), weights, 6, torch.float64, group)
        for number, weight in enumerate(weights.values()):
            noise = torch.Generator().manual_seed(number)
            weight.grad = torch.randn(weight.shape, generator=noise, dtype=torch.float64)
        rule.step(1.0, 0)
        return {name: weight.detach() for name, weight in weights.items()}

    alone = work(ALONE)
    for found in in_crowd(size, work):
        for name, weight in found.items():
            torch.testing.assert_close(weight, alone[name], rtol=0, atol=1e-13)


class _Drifting:
    """A model that remembers: its logits depend on a running mean of what it has read, so that lanes drift a little."""

    def init_state(self, lanes: int) -> torch.Tensor:
        return torch.zeros(lanes)

    def __call__(self, ids_TB: torch.Tensor, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = []
        for ids in ids_TB:
            state = 0.9 * state + 0.1 * (ids % 7)
            logits.append(torch.stack([torch.sin(state * number) for number in range(1, 65)], dim=-1))
        return torch.stack(logits), state


@pytest.mark.parametrize("size", SIZES)
def test_a_score_shared_out_is_that_of_one(size: int) -> None:
    text = synthetic_text(9_000, seed=2)
    tokenizer = train_tokenizer(DataConfig(), text)
    ids = tokenize(tokenizer, text).ids
    model = _Narrow(_Drifting(), tokenizer.size)
    alone, drift = token_nats(model, tokenizer, ids, lanes=10, context=40)
    for nats, found in in_crowd(size, lambda g: token_nats(model, tokenizer, ids, lanes=10, context=40, group=g)):
        np.testing.assert_allclose(nats, alone, rtol=1e-6)
        assert found == pytest.approx(drift, rel=1e-5)
    short = lane_nats(model, tokenizer, ids[:300])  # one lane, which one process reads
    for nats in in_crowd(size, lambda g: lane_nats(model, tokenizer, ids[:300], group=g)):
        assert np.array_equal(nats, short)
    edges = np.array([0, 3, 500, 501, 900, 2000, 2100, len(ids)])
    by_records = record_nats(model, tokenizer, ids, edges)
    for nats in in_crowd(size, lambda g: record_nats(model, tokenizer, ids, edges, group=g)):
        assert np.array_equal(nats, by_records)


class _Narrow:
    """A model cut to a vocabulary."""

    def __init__(self, model: Any, size: int) -> None:
        self._model, self._size = model, size
        self.init_state = model.init_state

    def __call__(self, ids_TB: torch.Tensor, state: Any) -> tuple[torch.Tensor, Any]:
        logits, state = self._model(ids_TB, state)
        return logits[..., : self._size], state


def test_a_signal_to_one_process_ends_the_closing_score_of_all() -> None:
    text = synthetic_text(5_000, seed=2)
    tokenizer = train_tokenizer(DataConfig(), text)

    def work(group: Group) -> str:
        network = Network(ModelConfig(cell="gru", layers=1, hidden=8, embedding=4), tokenizer.size)
        initialise(network, 1)
        validator = Validator(network, tokenizer, text, patience=0, group=group)
        with pytest.raises(InterruptedScore) as raised:
            validator.score_all(lambda: "SIGTERM" if group.rank == 1 else None)
        return str(raised.value)

    assert in_crowd(2, work) == ["SIGTERM"] * 2


def test_there_must_be_a_lane_for_each_process() -> None:
    check_lanes(3, Group(0, 3))
    with pytest.raises(ConfigError, match=r"4 processes cannot share 3 lanes.*--batch"):
        check_lanes(3, Group(0, 4))


def _launched(monkeypatch: pytest.MonkeyPatch, **values: object) -> None:
    usual = {"RANK": 1, "WORLD_SIZE": 4, "LOCAL_RANK": 1, "LOCAL_WORLD_SIZE": 2, "MASTER_ADDR": "h", "MASTER_PORT": 1}
    for name, value in {**usual, **values}.items():
        monkeypatch.setenv(name, str(value))


def test_the_place_of_a_process_is_its_launchers(monkeypatch: pytest.MonkeyPatch) -> None:
    assert place() == Place()
    assert place().is_first
    _launched(monkeypatch)
    assert place() == Place(1, 4, 1, 2)
    assert not place().is_first
    assert place().prefix == "process 1 of 4: "


@pytest.mark.parametrize(
    "odd",
    [{"RANK": "x"}, {"RANK": 4}, {"WORLD_SIZE": 1}, {"WORLD_SIZE": ""}, {"MASTER_ADDR": ""}, {"MASTER_PORT": "p"}],
)
def test_what_is_no_launchers_environment_means_one_process(
    monkeypatch: pytest.MonkeyPatch, odd: dict[str, object]
) -> None:
    _launched(monkeypatch, **odd)
    assert place() == Place()


def test_processes_of_one_machine_share_its_processors(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 9)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(9), raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert limits.threads(tmp_path).amount == 1
    _launched(monkeypatch)
    assert limits.threads(tmp_path).amount == 4  # 1 is what torchrun sets
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert limits.threads(tmp_path).amount == 3
    _launched(monkeypatch, LOCAL_WORLD_SIZE=100)
    assert limits.threads(tmp_path).amount == 1


def test_each_process_takes_the_gpu_of_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    _launched(monkeypatch)
    assert choose_device("auto") == choose_device("cuda") == torch.device("cuda:1")
    assert choose_device("cpu") == torch.device("cpu")
    with pytest.raises(ConfigError, match="cuda:0 is one GPU"):
        choose_device("cuda:0")
    _launched(monkeypatch, LOCAL_RANK=2)
    with pytest.raises(ConfigError, match="cuda:2"):
        choose_device("auto")


def test_only_one_process_speaks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_speaker", processes._Speaker())
    assert processes.speaks()
    _launched(monkeypatch)
    monkeypatch.setattr(processes, "_speaker", processes._Speaker())
    assert not processes.speaks()  # before they have met, the first does
    answers = iter([True, False])
    processes.claim_by(lambda: next(answers))
    assert processes.speaks()
    assert processes.speaks()  # once is enough
    processes.claim_by(lambda: next(answers))
    assert not processes.speaks()


def test_a_restart_goes_on_only_with_what_an_earlier_start_began(monkeypatch: pytest.MonkeyPatch) -> None:
    class Store(dict[str, str]):
        def set(self, key: str, value: str) -> None:
            self[key] = value

        def check(self, keys: list[str]) -> bool:
            return all(key in self for key in keys)

    group = Group(store=Store())
    assert not group.noted("run")
    group.note("run")
    assert not group.noted("run")  # this is that start
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert group.noted("run")
    assert not group.noted("another")
    assert Group().noted("anything")  # nothing outlives a start: it has to be assumed


def test_weights_that_have_come_apart_are_an_error() -> None:
    with pytest.raises(CharlmError, match="process 1 has other weights"):
        in_crowd(2, lambda group: group.agree("other weights", str(group.rank), CharlmError))
