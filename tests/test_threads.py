"""The number of threads follows what is fastest, and the results do not depend on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from oracles import synthetic_text

from charlm.config import Config, ModelConfig, TrainConfig
from charlm.evaluation.score import lane_nats
from charlm.evaluation.threaded import Threaded
from charlm.models.network import Network, export_weights, initialise
from charlm.runtime.device import Runtime
from charlm.runtime.threads import Threads, ThreadTuner
from charlm.text.tokenizer import CharTokenizer
from charlm.training.trial import may_follow, same_bits


@pytest.fixture(autouse=True)
def _threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("every", [2, 4, 16])
def test_tries_that_coincide_with_longer_calls_are_compared_with_longer_calls(every: int) -> None:
    """Two threads are faster; every so many calls do something else besides, that threads do not help."""
    tuner, taken = ThreadTuner([2, 1], seldom=64), list[int]()
    for call in range(400):
        longer = call % every == 0
        taken.append(tuner.threads(64, 1, longer=longer))
        tuner.record(64, 1, taken[-1], 1 / taken[-1] + longer, longer=longer)
    assert taken.count(1) <= 2 * 8  # tries: after 16, 32 and then 64 calls


def numbers(tuner: ThreadTuner, calls: int, seconds: Callable[[int, int], float]) -> list[int]:
    """The numbers of threads of so many calls, each of which takes `seconds` by its number and threads."""
    taken = []
    for call in range(calls):
        taken.append(tuner.threads(64, 1))
        tuner.record(64, 1, taken[-1], seconds(call, taken[-1]))
    return taken


def test_the_fastest_number_is_kept_and_the_others_are_tried_again() -> None:
    """Four threads wait for each other here, until at the second round of trying they no longer do."""
    tuner = ThreadTuner([4, 2, 1])
    taken = numbers(
        tuner, 32, lambda call, threads: 0.5 if call >= 16 and threads == 4 else {4: 3.0, 2: 1, 1: 2}[threads]
    )
    assert taken == [4, 2, 1] + [2] * 13 + [4, 2, 1] + [4] * 13
    assert tuner.threads(1, 256) == 4, "other calls are tried for themselves"


def test_with_one_choice_that_is_used_always() -> None:
    assert numbers(ThreadTuner([3]), 50, lambda *_: 1.0) == [3] * 50


def test_who_never_wins_is_tried_ever_less_often() -> None:
    taken = numbers(ThreadTuner([2, 1]), 4000, lambda _, threads: 1.1 if threads == 2 else 1.0)
    assert [call for call, threads in enumerate(taken) if threads == 2] == [0, 16, 48, 112, 240, 496, 1008, 2032, 3056]


@pytest.mark.parametrize("slower", [3, 25])
def test_trying_costs_little_however_slow_a_try_is(slower: int) -> None:
    taken = numbers(ThreadTuner([2, 1], seldom=64), 5000, lambda _, threads: slower if threads == 2 else 1)
    spent = sum(slower if threads == 2 else 1 for threads in taken)
    assert spent <= 5000 * 1.03 + 2 * slower


def test_a_call_that_stumbles_decides_nothing() -> None:
    taken = numbers(ThreadTuner([2, 1]), 200, lambda call, threads: 100.0 if call % 10 == 5 else 1 / threads)
    assert taken.count(1) <= 5


def test_other_work_that_begins_is_noticed_at_the_third_call() -> None:
    taken = numbers(
        ThreadTuner([2, 1], seldom=64), 120, lambda call, threads: [1.0, 3.0][call >= 90] if threads == 2 else 1.5
    )
    assert taken[80:92] == [2] * 12
    assert set(taken[93:100]) == {1}


def test_torch_follows_within_the_block_only_where_it_may() -> None:
    fixed, free = Threads(1, follow=True), Threads(2, follow=True)
    torch.set_num_threads(3)
    with fixed.at_work(8, 4):
        assert torch.get_num_threads() == 3
    seen = set()
    for _ in range(4):
        with free.at_work(8, 4):
            seen.add(torch.get_num_threads())
    assert seen == {1, 2}


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_scores_are_the_same_bits_with_any_number_of_threads(cell: str) -> None:
    text = synthetic_text(3000, seed=1)
    tokenizer = CharTokenizer.train(text)
    network = Network(ModelConfig(cell=cell, hidden=32, layers=2, embedding=8), tokenizer.size)
    initialise(network, 1)
    ids = tokenizer.encode(text).ids
    torch.set_num_threads(1)
    expected = lane_nats(network.eval(), tokenizer, ids)
    torch.set_num_threads(2)
    two = lane_nats(network, tokenizer, ids)
    assert (lane_nats(Threaded(network, 2), tokenizer, ids) == two).all()
    assert (lane_nats(Threaded(network, 1), tokenizer, ids) == two).all()
    assert abs(two - expected).max() < 1e-4


@pytest.mark.parametrize("differs", [1, 2, 4])
def test_where_bits_differ_the_number_stays(differs: int) -> None:
    class Uncertain(Network):
        def forward(self, *arguments: object) -> object:  # type: ignore[override]
            used.append(torch.get_num_threads())
            logits, state = super().forward(*arguments)  # type: ignore[arg-type]
            return logits + (torch.get_num_threads() == differs), state

    used: list[int] = []
    network = Uncertain(ModelConfig(hidden=8, layers=1, embedding=4), 5)
    model, ids = Threaded(network, 4), torch.zeros(4, 1, dtype=torch.long)
    for _ in range(6):
        model(ids, model.init_state(1))
    assert used == [1, 2, 4, 4, 4, 4, 4, 4]


def test_the_first_weights_do_not_depend_on_threads() -> None:
    found = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        network = Network(ModelConfig(hidden=64, layers=2), 30)
        initialise(network, 3)
        assert torch.get_num_threads() == threads
        found.append(export_weights(network))
    assert all((found[0][name] == found[1][name]).all() for name in found[0])


def test_a_trial_leaves_network_and_threads_alone() -> None:
    network = Network(ModelConfig(hidden=16, layers=1, embedding=8), 11)
    initialise(network, 3)
    before = export_weights(network)
    config = Config(model=network.config, train=TrainConfig(batch=4, bptt=8))
    torch.set_num_threads(2)
    assert same_bits(config, network, Runtime(torch.device("cpu"), "fp32", 2, "")) in (True, False)
    assert torch.get_num_threads() == 2
    assert all((before[name] == weight).all() for name, weight in export_weights(network).items())


def test_whether_threads_may_follow_is_found_out_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    network = Network(ModelConfig(hidden=8, layers=1, embedding=4), 7)
    runtime, answers = Runtime(torch.device("cpu"), "fp32", 2, ""), iter([True, False])
    monkeypatch.setattr("charlm.training.trial.same_bits", lambda *_: next(answers))
    config = Config(model=network.config, train=TrainConfig(batch=2, bptt=4))
    assert [may_follow(config, network, runtime) for _ in range(3)] == [True] * 3
    assert not may_follow(config, network, replace(runtime, threads=3)), "another number is tried for itself"
