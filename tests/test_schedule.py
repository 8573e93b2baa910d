"""Rates are those of the definition; a plan that is revised goes on from where it stands and only upwards."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from charlm.training.schedule import UNKNOWN, Plan, due, rate

PROFILE = settings(derandomize=True, deadline=None, max_examples=200, database=None)


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """A plan that has been revised a few times, each time at a later step before its end."""
    plan = Plan.of(draw(st.integers(1, 300)))
    step = 0
    for total in draw(st.lists(st.integers(1, 600), max_size=5)):
        if step < plan.total:
            step = draw(st.integers(step, plan.total - 1))
            plan = plan.revised(step, step + total)
    return plan


@pytest.mark.parametrize(
    ("decay", "expected"),
    [
        ("linear", [0.25, 0.75 * 0.75, 0.5, 0.25, 0]),
        ("cosine", [0.25, 0.75 * 0.853553390593274, 0.5, 0.146446609406726, 0]),
        ("none", [0.25, 0.75, 1, 1, 1]),
    ],
)
def test_rates_of_five_steps(decay: str, expected: list[float]) -> None:
    """Of eight, the first four of which are the rise."""
    rates = [rate(step, step / 8, warmup=4, decay=decay) for step in (0, 2, 4, 6, 8)]
    assert rates == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("decay", "last"), [("linear", 0.0), ("cosine", 0.0), ("none", 1.0)])
def test_without_warmup_the_first_step_has_the_highest_rate_and_the_end_the_lowest(decay: str, last: float) -> None:
    assert rate(0, 0.0, warmup=0, decay=decay) == 1.0
    assert rate(100, 1.0, warmup=0, decay=decay) == pytest.approx(last, abs=1e-15)
    falling = [rate(step, step / 100, warmup=0, decay=decay) for step in range(101)]
    assert falling == sorted(falling, reverse=True)


@PROFILE
@given(st.integers(0, 10**9), st.floats(0, 1), st.integers(0, 10**9), st.sampled_from(["linear", "cosine", "none"]))
def test_rates_are_shares(step: int, progress: float, warmup: int, decay: str) -> None:
    assert 0 <= rate(step, progress, warmup=warmup, decay=decay) <= 1


def test_a_plan_without_revision_is_a_straight_line() -> None:
    plan = Plan.of(8)
    assert [plan.progress(step) for step in range(10)] == [0, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1, 1]
    assert plan.measured
    assert not Plan.of(UNKNOWN).measured


def test_a_revised_plan_by_hand() -> None:
    plan = Plan.of(100).revised(50, 60).revised(55, 80)  # half at 50, three quarters at 55, all at 80
    assert [plan.progress(step) for step in (0, 25, 50, 55, 60, 80)] == [0, 0.25, 0.5, 0.75, 0.8, 1]
    assert plan.total == 80


@PROFILE
@given(plans(), st.data())
def test_a_revision_changes_nothing_before_it_and_ends_at_the_new_total(plan: Plan, data: st.DataObject) -> None:
    step = data.draw(st.integers(0, plan.total - 1))
    total = data.draw(st.integers(step + 1, step + 500))
    revised = plan.revised(step, total)
    assert revised.total == total
    assert revised.progress(step) == plan.progress(step)
    for before in range(step):
        assert revised.progress(before) == pytest.approx(plan.progress(before), abs=1e-12)
    assert revised.progress(total) == revised.progress(total + 1) == 1.0
    left = 1 - plan.progress(step)
    assert revised.progress(step + 1) - plan.progress(step) == pytest.approx(left / (total - step), abs=1e-12)


@PROFILE
@given(plans())
def test_progress_never_falls_and_goes_from_none_to_all(plan: Plan) -> None:
    course = [plan.progress(step) for step in range(plan.total + 1)]
    assert course == sorted(course)
    assert (course[0], course[-1]) == (0.0, 1.0)
    assert max(course[:-1]) < 1.0


@PROFILE
@given(plans())
def test_a_plan_that_is_told_to_end_has_ended(plan: Plan) -> None:
    for step in (plan.total // 2, plan.total):
        ended = plan.revised(step, step)
        assert (ended.total, ended.progress(step)) == (step, 1.0)


@PROFILE
@given(plans())
def test_a_plan_comes_back_from_json(plan: Plan) -> None:
    knots: Any = json.loads(json.dumps([list(knot) for knot in plan.knots]))
    assert Plan.from_json(knots) == plan


@PROFILE
@given(st.integers(1, 50), st.data())
def test_looks_are_as_many_as_asked_and_evenly_spaced(times: int, data: st.DataObject) -> None:
    total = data.draw(st.integers(2 * times, 500))
    plan = Plan.of(total)
    steps = [s for s in range(1, total + 1) if due(plan.progress(s - 1), plan.progress(s), times)]
    assert len(steps) == times
    assert steps[-1] == total
    for number, step in enumerate(steps, 1):
        assert abs(step - number * total / times) <= 1


def test_no_looks_are_none() -> None:
    assert not any(due(step / 10, (step + 1) / 10, 0) for step in range(10))
