"""Lanes: an epoch predicts every token once, the carried state is true history, a saved position resumes reading.

So it is for a text that is read in order, and for one that is read in shuffled segments.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from charlm.text.lanes import IGNORE, Chunk, Lanes
from charlm.text.position import Position

PROFILE = settings(derandomize=True, deadline=None, max_examples=200, database=None)
TOKENS, BATCH, BPTT = st.integers(1, 60), st.integers(1, 12), st.integers(1, 20)
SEED = st.integers(0, 2**63 - 1)
SHUFFLE = st.integers(0, 12)
START = 10**6


def stream(tokens: int, batch: int, bptt: int, seed: int = 0, shuffle: int = 0) -> Lanes:
    """Lanes over the tokens 0, 1, 2, ..., so that a token tells its place."""
    return Lanes(np.arange(tokens, dtype=np.int32), start=START, batch=batch, bptt=bptt, seed=seed, shuffle=shuffle)


def epoch(lanes: Lanes, number: int = 0) -> list[Chunk]:
    """The chunks of one epoch, reached by reading all before it."""
    return [chunk for position, chunk in walk(lanes, number + 1) if position.epoch == number]


def walk(lanes: Lanes, epochs: int) -> Iterator[tuple[Position, Chunk]]:
    position = Position()
    while position.epoch < epochs:
        chunk = lanes.read(position)
        yield position, chunk
        position = chunk.next


def rows(chunks: list[Chunk], name: str) -> list[list[int]]:
    """Each lane of an epoch, its chunks joined."""
    joined = torch.cat([getattr(w, name) for w in chunks])
    return [lane.tolist() for lane in joined.T]


@PROFILE
@given(TOKENS, BATCH, BPTT, SEED, SHUFFLE, st.integers(0, 3))
def test_an_epoch_predicts_every_token_exactly_once(
    tokens: int, batch: int, bptt: int, seed: int, shuffle: int, number: int
) -> None:
    chunks = epoch(stream(tokens, batch, bptt, seed, shuffle), number)
    predicted = [target for lane in rows(chunks, "targets") for target in lane if target != IGNORE]
    assert sorted(predicted) == list(range(tokens))
    assert sum(chunk.scored for chunk in chunks) == tokens


@PROFILE
@given(TOKENS, BATCH, BPTT, SEED, st.integers(0, 3))
def test_lanes_continue_through_the_text_and_only_their_ends_are_ignored(
    tokens: int, batch: int, bptt: int, seed: int, number: int
) -> None:
    lanes = rows(epoch(stream(tokens, batch, bptt, seed), number), "targets")
    longest = -(-tokens // min(batch, tokens))
    read = [[target for target in lane if target != IGNORE] for lane in lanes]
    for lane, kept in zip(lanes, read, strict=True):
        assert lane == kept + [IGNORE] * (longest - len(kept))
        assert len(kept) >= longest - 1
    whole = [target for kept in read for target in kept]
    assert whole == [(whole[0] + i) % tokens for i in range(tokens)]  # lane after lane: the text, cut at one place


@PROFILE
@given(TOKENS, BATCH, BPTT, SEED, st.integers(0, 3))
def test_inputs_are_the_targets_of_the_step_before(tokens: int, batch: int, bptt: int, seed: int, number: int) -> None:
    chunks = epoch(stream(tokens, batch, bptt, seed), number)
    for inputs, targets in zip(rows(chunks, "inputs"), rows(chunks, "targets"), strict=True):
        scored = len([target for target in targets if target != IGNORE])
        assert inputs[0] == START
        assert inputs[1:scored] == targets[: scored - 1]
        assert START not in inputs[1:]


@PROFILE
@given(TOKENS, BATCH, BPTT, SEED)
def test_fresh_chunks_begin_an_epoch(tokens: int, batch: int, bptt: int, seed: int) -> None:
    before = -1
    for position, chunk in walk(stream(tokens, batch, bptt, seed), 3):
        assert (
            chunk.begins.all() == chunk.begins.any() == (position.epoch != before) == (chunk.inputs[0] == START).all()
        )
        assert (chunk.inputs[1:] != START).all()
        before = position.epoch


@PROFILE
@given(TOKENS, BATCH, BPTT, SHUFFLE)
def test_chunks_have_the_given_length_and_a_short_rest_joins_the_last(
    tokens: int, batch: int, bptt: int, shuffle: int
) -> None:
    lanes = min(batch, tokens)
    longest = -(-tokens // lanes)
    lengths = [chunk.inputs.shape for chunk in epoch(stream(tokens, batch, bptt, 0, shuffle))]
    whole, rest = divmod(longest, bptt)
    expected = [bptt] * (whole - 1) + [bptt + rest] if whole and 2 * rest < bptt else [bptt] * whole + [rest]
    assert lengths == [(length, lanes) for length in expected]
    assert len(lengths) == stream(tokens, batch, bptt).chunks


@PROFILE
@given(TOKENS, BATCH, BPTT, SEED, SHUFFLE, st.data())
def test_a_saved_position_gives_the_same_chunks(
    tokens: int, batch: int, bptt: int, seed: int, shuffle: int, data: st.DataObject
) -> None:
    chunks = list(walk(stream(tokens, batch, bptt, seed, shuffle), 3))
    number = data.draw(st.integers(0, len(chunks) - 1))
    again = stream(tokens, batch, bptt, seed, shuffle)
    position = Position(**chunks[number][0]._asdict())
    for expected_position, expected in chunks[number:]:
        chunk = again.read(position)
        assert position == expected_position
        assert torch.equal(chunk.inputs, expected.inputs)
        assert torch.equal(chunk.targets, expected.targets)
        assert chunk.begins.tolist() == expected.begins.tolist()
        assert chunk.next == expected.next
        position = chunk.next


@PROFILE
@given(TOKENS, BATCH, BPTT, SEED, st.integers(1, 12), st.integers(0, 2))
def test_shuffled_segments_are_read_from_their_start_as_the_text_has_them(
    tokens: int, batch: int, bptt: int, seed: int, shuffle: int, number: int
) -> None:
    """What a lane reads from one start token to the next is a piece of the text, and of the length asked for."""
    chunks = epoch(stream(tokens, batch, bptt, seed, shuffle), number)
    wanted = max(1, round(shuffle / bptt)) * bptt
    for inputs, targets in zip(rows(chunks, "inputs"), rows(chunks, "targets"), strict=True):
        begins = [place for place, token in enumerate(inputs) if token == START]
        assert begins[0] == 0
        assert all(end - begin == wanted for begin, end in pairwise(begins))
        assert len(inputs) - begins[-1] < wanted + bptt
        for begin, end in pairwise([*begins, len(inputs)]):
            segment = [target for target in targets[begin:end] if target != IGNORE]
            assert segment == [(segment[0] + i) % tokens for i in range(len(segment))]
            assert inputs[begin + 1 : begin + len(segment)] == segment[:-1]


def test_a_segment_begins_from_the_zero_state_in_every_lane() -> None:
    for position, chunk in walk(stream(1000, 4, 10, seed=3, shuffle=50), 2):
        begins = position.offset % 50 == 0
        assert chunk.begins.tolist() == [begins] * 4
        assert (chunk.inputs[0] == START).tolist() == [begins] * 4


def test_segments_are_in_an_order_of_their_own_in_each_epoch_and_for_each_seed() -> None:
    def firsts(seed: int, number: int) -> list[int]:
        chunks = [chunk for chunk in epoch(stream(10_000, 5, 10, seed, shuffle=100), number) if chunk.begins.all()]
        shift = 0 if number == 0 else epoch(stream(10_000, 5, 10, seed), number)[0].targets[0, 0].item()
        return [(token - int(shift)) % 10_000 for chunk in chunks for token in chunk.targets[0].tolist()]

    one, other, later = firsts(1, 0), firsts(2, 0), firsts(1, 1)
    assert sorted(one) == sorted(other) == sorted(later) == list(range(0, 10_000, 100))
    assert one != other != later != one
    assert firsts(1, 0) == one
    # Nowhere near the order of the text: neighbours in a lane are neighbours in the text once in a hundred.
    assert sum(b - a == 100 for lane in range(5) for a, b in pairwise(one[lane::5])) < 10


def test_epochs_after_the_first_are_shifted_by_seed_and_epoch_alone() -> None:
    def shifts(batch: int, bptt: int, seed: int) -> list[int]:
        seen = {position.epoch: position.shift for position, _ in walk(stream(10_000, batch, bptt, seed), 6)}
        return list(seen.values())

    first = shifts(4, 700, seed=1)
    assert first[0] == 0
    assert len(set(first)) == 6
    assert all(0 <= shift < 10_000 for shift in first)
    assert shifts(4, 700, seed=1) == shifts(9, 64, seed=1) == shifts(1, 9_999, seed=1) == first
    assert shifts(4, 700, seed=2)[1:] != first[1:]


@PROFILE
@given(TOKENS, BATCH, SEED, st.integers(0, 5))
def test_a_text_that_fits_into_one_chunk_is_never_shifted(tokens: int, batch: int, seed: int, more: int) -> None:
    bptt = -(-tokens // min(batch, tokens)) + more
    first, *later = walk(stream(tokens, batch, bptt, seed), 4)
    assert [position for position, _ in later] == [Position(1), Position(2), Position(3)]
    for _, chunk in later:
        assert torch.equal(chunk.inputs, first[1].inputs)
        assert torch.equal(chunk.targets, first[1].targets)


@PROFILE
@given(TOKENS, st.integers(0, 100))
def test_lanes_are_at_most_as_many_as_tokens(tokens: int, more: int) -> None:
    lanes = stream(tokens, tokens + more, 8)
    assert (lanes.batch, lanes.longest) == (tokens, 1)
    chunk = lanes.read(Position())
    assert chunk.inputs.tolist() == [[START] * tokens]
    assert chunk.targets.tolist() == [list(range(tokens))]
