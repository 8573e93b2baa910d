"""The training state goes through JSON unchanged, and knows when a run has ended."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from charlm.storage.records import RECENT, UNKNOWN, Plan, TrainState, picked
from charlm.text.position import Position

PROFILE = settings(derandomize=True, deadline=None, max_examples=200, database=None)
COUNT = st.integers(0, 2**62)
LOSS = st.floats(0, allow_infinity=False)
PLANS = st.builds(
    lambda total, share, more: Plan.of(total).revised(int(share * total), total + more),
    st.integers(1, UNKNOWN),
    st.floats(0, 0.99),
    st.integers(1, 1000),
)
STATES = st.builds(
    TrainState,
    plan=PLANS,
    checks=COUNT,
    step=COUNT,
    position=st.builds(Position, COUNT, COUNT, COUNT),
    tokens_seen=COUNT,
    recent=st.lists(st.tuples(LOSS, st.integers(1, 10**6)), max_size=RECENT),
    best=st.none() | LOSS,
    best_step=COUNT,
    bad_checks=COUNT,
    loss_scale=st.floats(2**-20, 2**40),
    good_steps=COUNT,
    stopped=st.booleans(),
    validation_characters=COUNT,
    start=LOSS,
    rollbacks=st.lists(st.tuples(COUNT, COUNT), max_size=3),
    seed=COUNT,
    optimizer=st.dictionaries(st.text(), st.integers() | LOSS | st.text(), max_size=3),
)


def through_json(state: TrainState) -> TrainState:
    return TrainState.from_json(json.loads(json.dumps(state.to_json(), allow_nan=False)))


@PROFILE
@given(STATES)
def test_a_state_comes_back_from_json(state: TrainState) -> None:
    again = through_json(state)
    assert again == state
    assert isinstance(again.position, Position)
    assert again.to_json() == state.to_json()


def test_a_new_state_comes_back_too_and_has_everything_before_it() -> None:
    assert through_json(TrainState()) == TrainState()
    assert not TrainState().finished


def test_what_later_versions_add_is_passed_over() -> None:
    assert TrainState.from_json({**TrainState(step=3).to_json(), "later": 1}) == TrainState(step=3)
    assert picked(TrainState, {"step": 3, "later": 1}) == TrainState(step=3)


def test_a_table_does_not_change_with_the_state_that_it_was_made_of() -> None:
    state = TrainState(recent=[(1.0, 1)])
    table = state.to_json()
    state.recent.append((2.0, 1))
    assert table["recent"] == [[1.0, 1]]


def test_a_run_ends_with_its_plan_or_stops_early() -> None:
    assert [TrainState(plan=Plan.of(9), step=step).finished for step in (0, 8, 9, 10)] == [False, False, True, True]
    assert TrainState(plan=Plan.of(9), step=3, stopped=True).finished


def test_the_recent_loss_is_the_mean_of_the_last_steps_that_are_remembered() -> None:
    state = TrainState(recent=[(8.0, 1), (4.0, 1), (9.0, 3), (4.0, 2)])
    assert [state.recent_loss(steps) for steps in (1, 2, 3, 4, 1000)] == pytest.approx([2, 2.6, 17 / 6, 25 / 7, 25 / 7])
    longer = TrainState(recent=[(100.0, 1)] * 20 + [(1.0, 1)] * RECENT)
    assert longer.recent_loss(10**6) == 1


@pytest.mark.parametrize("name", ["rollbacks", "seed", "optimizer"])
def test_what_an_early_checkpoint_lacks_is_lacking_in_its_hash_too(name: str) -> None:
    table = {key: value for key, value in TrainState(step=3).to_json().items() if key != name}
    assert TrainState.from_json(table).to_json() == table
