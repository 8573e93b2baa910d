"""Records in lanes: an epoch reads each once and by itself, and learns what each by itself would teach."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from charlm.config import ModelConfig
from charlm.evaluation.score import exact_nats, record_nats
from charlm.models.network import Network, detach_state, initialise, zero_lanes
from charlm.models.recurrence import GRU, LSTM, RNN
from charlm.runtime.device import Runtime
from charlm.text.lanes import IGNORE, Chunk
from charlm.text.position import Position
from charlm.text.record_lanes import RecordLanes
from charlm.text.records import record_edges
from charlm.text.sentencepiece import SentencePieceTokenizer
from charlm.text.tokenizer import ByteTokenizer, CharTokenizer, Tokenizer
from charlm.training.gradient import gradient

PROFILE = settings(derandomize=True, deadline=None, max_examples=150, database=None)
LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=30)
BATCH, BPTT, SEED = st.integers(1, 12), st.integers(1, 16), st.integers(0, 2**63 - 1)
START = 10**6
HERE = Runtime(torch.device("cpu"), "fp32", 1, "")


def lanes_of(lengths: list[int], batch: int, bptt: int, seed: int) -> RecordLanes:
    """Lanes over the tokens 0, 1, 2, ..., so that a token tells its place and its record."""
    edges = np.concatenate([[0], np.cumsum(lengths)])
    ids = np.arange(edges[-1], dtype=np.int32)
    return RecordLanes(ids, edges, start=START, batch=batch, bptt=bptt, seed=seed)


def epoch(lanes: RecordLanes, number: int = 0) -> Iterator[Chunk]:
    position = Position(number)
    while position.epoch == number:
        chunk = lanes.read(position)
        yield chunk
        position = chunk.next


def pieces(chunk: Chunk) -> Iterator[tuple[int, list[int], list[int], bool]]:
    """Each busy lane of a chunk: its number, inputs, targets, and whether it begins."""
    assert chunk.lengths is not None
    for lane, length in enumerate(chunk.lengths.tolist()):
        inputs, targets = chunk.inputs[:, lane].tolist(), chunk.targets[:, lane].tolist()
        assert targets[length:] == [IGNORE] * (len(targets) - length)
        if length:
            yield lane, inputs[:length], targets[:length], bool(chunk.begins[lane])


@PROFILE
@given(LENGTHS, BATCH, BPTT, SEED, st.integers(0, 3))
def test_an_epoch_reads_each_record_once_from_its_start_to_its_end(
    lengths: list[int], batch: int, bptt: int, seed: int, number: int
) -> None:
    lanes = lanes_of(lengths, batch, bptt, seed)
    read: dict[int, list[int]] = {}
    records = []
    for chunk in epoch(lanes, number):
        assert chunk.inputs.shape[1] == lanes.batch <= batch
        assert chunk.inputs.shape[0] == max(chunk.lengths) <= bptt  # type: ignore[arg-type]
        assert chunk.scored == sum(len(targets) for _, _, targets, _ in pieces(chunk))
        for lane, inputs, targets, begins in pieces(chunk):
            if begins:
                records.append(read.setdefault(lane, []))
                read[lane] = records[-1] = []
            assert inputs == [read[lane][-1] if read[lane] else START, *targets[:-1]]
            read[lane] += targets
    edges = np.concatenate([[0], np.cumsum(lengths)])
    assert sorted(records) == [list(range(a, b)) for a, b in itertools.pairwise(edges)]
    assert lanes.chunks == sum(1 for _ in epoch(lanes, number))


@PROFILE
@given(LENGTHS, BATCH, BPTT, SEED)
def test_a_saved_position_gives_the_same_chunks(lengths: list[int], batch: int, bptt: int, seed: int) -> None:
    chunks = [*epoch(lanes_of(lengths, batch, bptt, seed)), *epoch(lanes_of(lengths, batch, bptt, seed), 1)]
    again, position = lanes_of(lengths, batch, bptt, seed), Position()
    for chunk in chunks:
        assert again.has(position)
        found = lanes_of(lengths, batch, bptt, seed).read(position)
        assert torch.equal(found.inputs, chunk.inputs)
        assert torch.equal(found.targets, chunk.targets)
        assert found.next == chunk.next
        position = chunk.next
    assert not again.has(Position(0, 0, again.chunks))


def test_records_are_shuffled_anew_each_epoch_and_by_each_seed() -> None:
    def order(seed: int, number: int) -> list[int]:
        chunks = epoch(lanes_of([3] * 200, 1, 8, seed), number)
        return [targets[0] for chunk in chunks for _, _, targets, _ in pieces(chunk)]

    orders = [order(seed, number) for seed in (0, 1) for number in (0, 1)]
    assert all(sorted(found) == list(range(0, 600, 3)) for found in orders)
    assert len({tuple(found) for found in orders}) == 4
    assert order(0, 1) == orders[1]


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "by rows of one length"])
@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_loss_and_gradient_are_those_of_each_record_by_itself(
    cell: str, packed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: the records one after the other, each in a pass of its own, in double precision.

    A cell from elsewhere may have a layer that reads only rows of one length.
    """
    if not packed:
        monkeypatch.delattr({"lstm": LSTM, "gru": GRU, "rnn": RNN}[cell], "read_packed")
    network = Network(ModelConfig(cell=cell, hidden=12, layers=2, embedding=6), 7)
    initialise(network, 3)
    network.double()
    rng, lengths = np.random.default_rng(1), [5, 1, 9, 3, 9, 2, 4]
    edges = np.concatenate([[0], np.cumsum(lengths)])
    ids = rng.integers(0, 7, edges[-1]).astype(np.int32)
    lanes = RecordLanes(ids, edges, start=7, batch=len(lengths), bptt=16, seed=4)
    chunk = lanes.read(Position())
    loss, after = gradient(network, HERE, chunk, network.init_state(lanes.batch))
    found = [weight.grad.clone() for weight in network.parameters() if weight.grad is not None]

    total, alone = torch.zeros((), dtype=torch.float64), {}
    for begin, end in itertools.pairwise(edges):
        own = torch.from_numpy(ids[begin:end].astype(np.int64))
        logits, state = network(torch.cat([torch.tensor([7]), own[:-1]])[:, None], network.init_state(1))
        alone[tuple(own.tolist())] = state
        total = total + F.cross_entropy(logits[:, 0], own, reduction="sum")
    network.zero_grad(set_to_none=True)
    (total / len(ids)).backward()  # type: ignore[no-untyped-call]
    expected = [weight.grad for weight in network.parameters() if weight.grad is not None]
    torch.testing.assert_close(loss, total.detach() / len(ids), rtol=1e-12, atol=0)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-14)
    for lane, _, targets, _ in pieces(chunk):
        ours = tuple(tuple(part[lane : lane + 1] for part in layer) for layer in after)
        torch.testing.assert_close(ours, detach_state(alone[tuple(targets)]), rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_a_record_longer_than_a_chunk_carries_its_state(cell: str) -> None:
    """Read in pieces without learning, an epoch costs what all records cost by themselves."""
    network = Network(ModelConfig(cell=cell, hidden=12, layers=2, embedding=6), 7)
    initialise(network, 3)
    network.double()
    rng = np.random.default_rng(1)
    edges = np.concatenate([[0], np.cumsum([50, 1, 9, 33, 8, 16, 64])])
    ids = rng.integers(0, 7, edges[-1]).astype(np.int32)
    lanes = RecordLanes(ids, edges, start=7, batch=3, bptt=8, seed=4)
    state, nats = network.init_state(lanes.batch), 0.0
    for chunk in epoch(lanes):
        loss, state = gradient(network, HERE, chunk, zero_lanes(state, chunk.begins))
        nats += float(loss) * chunk.scored
    alone = record_nats(network.eval(), ByteLike(), ids, edges)
    assert nats == pytest.approx(float(alone.sum(dtype=np.float64)), rel=1e-6)


class ByteLike(ByteTokenizer):
    """Seven tokens and no escape."""

    size = 7


@pytest.mark.parametrize("tokenizer", ["char", "byte", "sentencepiece"])
@pytest.mark.parametrize(("kind", "end"), [("line", "\n"), ("paragraph", "\x03"), ("file", "\x03")])
def test_scores_are_those_of_each_record_by_itself(tokenizer: str, kind: str, end: str) -> None:
    rng = np.random.default_rng(2)
    records = ["".join(rng.choice([*"abc é☃"], rng.integers(1, 90))) for _ in range(30)]
    text = "".join(record + end for record in records)
    made: dict[str, Tokenizer] = {
        "char": CharTokenizer.train(text.replace("☃", "")),
        "byte": ByteTokenizer(),
        "sentencepiece": SentencePieceTokenizer.train(text * 3, 300),
    }
    own = made[tokenizer]
    network = Network(ModelConfig(cell="lstm", hidden=16, layers=1, embedding=8), own.size)
    initialise(network, 5)
    encoded = own.encode(text)
    assert own.decode(encoded) == text
    edges = record_edges(encoded.ids, own, kind)
    parts = [own.encode(record + end).ids for record in records]
    assert [part.tolist() for part in np.split(encoded.ids, edges[1:-1])] == [part.tolist() for part in parts]
    found = record_nats(network.eval(), own, encoded.ids, edges)
    expected = np.concatenate([exact_nats(network, own, part) for part in parts])
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
