"""A time budget is kept on machines whose speed changes, by nothing but a plan that is revised in time."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from charlm.training.budget import REVISE, Clock, affordable_checks, checks_of_steps, revise
from charlm.training.schedule import Plan

PROFILE = settings(derandomize=True, deadline=None, max_examples=150, database=None)
BUDGET = 100.0


def ends_at(
    step_time: Callable[[float], float], share: float = 1.0, earlier: float = 0.0, plan: Plan | None = None
) -> float:
    """Seconds that a run takes whose steps take `step_time` (of the time), `share` of which goes into learning."""
    plan, state = plan or Plan(((0, 0.0), (10**12, 1.0))), 0
    elapsed = training = 0.0
    looked, steps = earlier, 0
    while state < plan.total:
        took = step_time(earlier + elapsed)
        state, steps = state + 1, steps + 1
        elapsed, training = elapsed + took, training + took * share
        clock = Clock(earlier + elapsed, elapsed, training, steps)
        better = revise(plan, state, BUDGET, clock, looked)
        if clock.seconds - looked >= REVISE * BUDGET:
            looked = clock.seconds
        plan = better or plan
    return earlier + elapsed


STEP, SHARE = st.floats(0.02, 1.0), st.floats(0.5, 1.0)


@PROFILE
@given(STEP, SHARE)
def test_a_steady_machine_ends_in_time(step: float, share: float) -> None:
    assert ends_at(lambda _: step, share) == pytest.approx(BUDGET, abs=0.03 * BUDGET)


@PROFILE
@given(STEP, SHARE, st.floats(0.5, 4.0), st.floats(0, 0.97))
def test_a_machine_that_changes_its_speed_ends_within_a_tenth(
    step: float, share: float, factor: float, when: float
) -> None:
    ended = ends_at(lambda now: step if now < when * BUDGET else step * factor, share)
    assert 0.9 * BUDGET <= ended <= 1.1 * BUDGET


@PROFILE
@given(st.floats(0.02, 0.3), st.lists(st.floats(0.1, 10), min_size=10, max_size=10))
def test_no_machine_overshoots_by_more_than_a_tenth(step: float, factors: list[float]) -> None:
    """Ten speeds in turn, whatever they are, as long as a step takes no more than three per cent of the budget."""
    assert ends_at(lambda now: step * factors[min(9, int(now / 10))]) <= 1.1 * BUDGET


@PROFILE
@given(STEP, st.floats(5, 90), st.floats(0.5, 4.0))
def test_a_resumed_run_counts_what_was_spent_before(step: float, earlier: float, factor: float) -> None:
    """Its plan was made for another speed."""
    left = BUDGET - earlier
    plan = Plan.of(max(1, round(left / (step / factor))))
    ended = ends_at(lambda _: step, earlier=earlier, plan=plan)
    assert min(0.9 * BUDGET, earlier + factor * left - step) <= ended <= 1.1 * BUDGET


def test_the_first_plan_waits_for_a_measurement_of_three_steps() -> None:
    unknown = Plan.of(10**12)
    assert revise(unknown, 2, BUDGET, Clock(50, 50, 50, 2), 0) is None
    assert revise(unknown, 9, BUDGET, Clock(0.9, 0.9, 0.9, 9), 0) is None
    plan = revise(unknown, 5, BUDGET, Clock(1.0, 1.0, 1.0, 5), 0)
    assert plan is not None
    assert plan.total == 5 + 495  # 99 seconds left at five steps a second


def test_a_plan_that_holds_is_kept_and_looked_at_only_now_and_then() -> None:
    plan = Plan.of(1000)
    assert revise(plan, 500, BUDGET, Clock(50, 50, 50, 500), 0) is None
    slow = Clock(50, 50, 50, 250)
    assert revise(plan, 250, BUDGET, slow, 50 - 0.99 * REVISE * BUDGET) is None
    revised = revise(plan, 250, BUDGET, slow, 50 - 1.01 * REVISE * BUDGET)
    assert revised is not None
    assert (revised.total, revised.progress(250)) == (500, plan.progress(250))


def test_time_that_does_not_go_into_steps_is_left_for_it() -> None:
    plan = revise(Plan.of(10**12), 10, BUDGET, Clock(10, 10, 5, 10), 0)
    assert plan is not None
    assert plan.total == 10 + 90  # 90 seconds, half of them in steps of half a second


def test_a_run_beyond_its_budget_ends_at_once() -> None:
    for plan in (Plan.of(10**12), Plan.of(1000)):
        ended = revise(plan, 7, BUDGET, Clock(1.05 * BUDGET, 1, 1, 1), BUDGET)
        assert ended is not None
        assert ended.total == 7


@pytest.mark.parametrize(
    ("cost", "expected"),
    [
        (1.0, 5),  # a second each of the five there are
        (0.05, 20),  # no more than asked
        (10.0**4, 1),  # at least one
    ],
)
def test_looks_at_the_held_out_text_take_their_share(cost: float, expected: int) -> None:
    assert affordable_checks(BUDGET, cost, 20) == expected


def test_time_is_set_aside_for_looks_to_come() -> None:
    clock = Clock(seconds=BUDGET / 2, elapsed=BUDGET / 2, training=BUDGET / 2, steps=100)
    plans = [revise(Plan.of(1000), 100, BUDGET, clock, 0, reserve=reserve) for reserve in (0.0, BUDGET / 4)]
    assert [plan.total for plan in plans if plan is not None] == [200, 150]


@pytest.mark.parametrize(
    ("total", "cost", "expected"),
    [(9, 0.1, 1), (45, 1.0, 4), (1000, 1.0, 20), (1000, 25.0, 10), (1000, 100.0, 5), (30, 100.0, 3), (10**6, 1e-9, 20)],
)
def test_a_run_of_so_many_steps_looks_for_a_quarter_of_its_cost_and_a_few_times_anyway(
    total: int, cost: float, expected: int
) -> None:
    assert checks_of_steps(total, cost, 20) == expected
