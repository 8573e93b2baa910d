"""Learning rates are those of the definition; a revised plan goes on from where it stands; a time budget is kept.

The clock has no say but through a plan that is revised in time, on machines whose speed changes.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from charlm.config import TrainConfig
from charlm.storage.records import UNKNOWN, Plan, TrainState
from charlm.training.clock import Timing
from charlm.training.plan import (
    FEWEST,
    REVISE,
    VALIDATIONS,
    Planner,
    considers,
    due,
    learning_rate,
    revise,
    validations_in_budget,
    validations_in_steps,
)

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
    rates = [learning_rate(step, step / 8, warmup=4, decay=decay) for step in (0, 2, 4, 6, 8)]
    assert rates == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("decay", "last"), [("linear", 0.0), ("cosine", 0.0), ("none", 1.0)])
def test_without_warmup_the_first_step_has_the_highest_rate_and_the_end_the_lowest(decay: str, last: float) -> None:
    assert learning_rate(0, 0.0, warmup=0, decay=decay) == 1.0
    assert learning_rate(100, 1.0, warmup=0, decay=decay) == pytest.approx(last, abs=1e-15)
    falling = [learning_rate(step, step / 100, warmup=0, decay=decay) for step in range(101)]
    assert falling == sorted(falling, reverse=True)


@PROFILE
@given(st.integers(0, 10**9), st.floats(0, 1), st.integers(0, 10**9), st.sampled_from(["linear", "cosine", "none"]))
def test_rates_are_shares(step: int, progress: float, warmup: int, decay: str) -> None:
    assert 0 <= learning_rate(step, progress, warmup=warmup, decay=decay) <= 1


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
def test_a_plan_that_ends_now_has_ended(plan: Plan) -> None:
    for step in (plan.total // 2, plan.total):
        ended = plan.revised(step, step)
        assert (ended.total, ended.progress(step)) == (step, 1.0)


@PROFILE
@given(st.integers(1, 50), st.data())
def test_validations_are_as_many_as_asked_and_evenly_spaced(times: int, data: st.DataObject) -> None:
    total = data.draw(st.integers(2 * times, 500))
    plan = Plan.of(total)
    steps = [s for s in range(1, total + 1) if due(plan.progress(s - 1), plan.progress(s), times)]
    assert len(steps) == times
    assert steps[-1] == total
    for number, step in enumerate(steps, 1):
        assert abs(step - number * total / times) <= 1


def test_no_validations_are_none() -> None:
    assert not any(due(step / 10, (step + 1) / 10, 0) for step in range(10))


BUDGET = 100.0


def ends_at(
    step_time: Callable[[float], float], share: float = 1.0, earlier: float = 0.0, plan: Plan | None = None
) -> float:
    """Seconds that a run takes whose steps take `step_time` (of the time), `share` of which goes into learning."""
    plan, state = plan or Plan(((0, 0.0), (10**12, 1.0))), 0
    elapsed = training = 0.0
    considered, steps = earlier, 0
    while state < plan.total:
        took = step_time(earlier + elapsed)
        state, steps = state + 1, steps + 1
        elapsed, training = elapsed + took, training + took * share
        timing = Timing(earlier + elapsed, elapsed, training, steps)
        better = revise(plan, state, BUDGET, timing, considered)
        if considers(BUDGET, timing.seconds, considered):
            considered = timing.seconds
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


@pytest.mark.parametrize(("budget", "enough"), [(20.0, 2.0), (100.0, 5.0), (600.0, 12.0)])
def test_the_first_plan_waits_for_a_measurement_of_three_steps(budget: float, enough: float) -> None:
    """And for a tenth of a short budget, five seconds of a longer one, a fiftieth of a long one."""
    unknown = Plan.of(10**12)
    assert revise(unknown, 2, budget, Timing(budget / 2, budget / 2, budget / 2, 2), 0) is None
    less = 0.99 * enough
    assert revise(unknown, 9, budget, Timing(less, less, less, 9), 0) is None
    plan = revise(unknown, 10, budget, Timing(enough, enough, enough, 10), 0)
    assert plan is not None
    assert plan.total == round(10 * budget / enough)


def test_a_plan_that_holds_is_kept_and_considered_only_now_and_then() -> None:
    plan = Plan.of(1000)
    assert revise(plan, 500, BUDGET, Timing(50, 50, 50, 500), 0) is None
    slow = Timing(50, 50, 50, 250)
    assert revise(plan, 250, BUDGET, slow, 50 - 0.99 * REVISE * BUDGET) is None
    revised = revise(plan, 250, BUDGET, slow, 50 - 1.01 * REVISE * BUDGET)
    assert revised is not None
    assert (revised.total, revised.progress(250)) == (500, plan.progress(250))


def test_time_that_does_not_go_into_steps_is_left_for_it() -> None:
    plan = revise(Plan.of(10**12), 10, BUDGET, Timing(10, 10, 5, 10), 0)
    assert plan is not None
    assert plan.total == 10 + 90  # 90 seconds, half of them in steps of half a second


def test_a_run_beyond_its_budget_ends_at_once() -> None:
    for plan in (Plan.of(10**12), Plan.of(1000)):
        ended = revise(plan, 7, BUDGET, Timing(1.05 * BUDGET, 1, 1, 1), BUDGET)
        assert ended is not None
        assert ended.total == 7


@pytest.mark.parametrize(
    ("cost", "expected"),
    [
        (1.0, 5),  # a second each of the five there are
        (0.05, 20),  # no more than asked
        (10.0**4, 0),  # none
    ],
)
def test_validations_take_their_share_of_a_budget(cost: float, expected: int) -> None:
    assert validations_in_budget(BUDGET, cost) == expected


def test_time_is_set_aside_for_validations_to_come() -> None:
    timing = Timing(seconds=BUDGET / 2, elapsed=BUDGET / 2, stepping=BUDGET / 2, steps=100)
    plans = [revise(Plan.of(1000), 100, BUDGET, timing, 0, reserve=reserve) for reserve in (0.0, BUDGET / 4)]
    assert [plan.total for plan in plans if plan is not None] == [200, 150]


@pytest.mark.parametrize(
    ("total", "cost", "expected"),
    [(9, 0.1, 1), (45, 1.0, 4), (1000, 1.0, 20), (1000, 25.0, 10), (1000, 100.0, 5), (30, 100.0, 3), (10**6, 1e-9, 20)],
)
def test_a_run_of_so_many_steps_validates_for_a_quarter_of_its_cost_and_a_few_times_anyway(
    total: int, cost: float, expected: int
) -> None:
    assert validations_in_steps(total, cost) == expected


class _Steady:
    """A clock of a machine on which a step takes a second, and a validation as long as it should, or so long."""

    def __init__(self, seconds: float, validation: float = 0.0) -> None:
        self.timing, self.validation = Timing(seconds, seconds, seconds, round(seconds)), validation

    def validation_cost(self, characters: int) -> float:
        return self.validation * characters / 1000


@pytest.mark.parametrize(
    ("cost", "checks", "characters"),
    [
        (0.1, VALIDATIONS, 0),  # steps that a validation of all 1,000 characters costs
        (5 / 8, 8, 0),
        (1.0, FEWEST, 0),
        (2.0, FEWEST, 500),
        (100.0, FEWEST, 10),
    ],
)
def test_a_short_budget_validates_on_less_text_rather_than_seldom(cost: float, checks: int, characters: int) -> None:
    planner = Planner(TrainConfig(time="100s"), chunks=7, validation_steps=cost, validation_characters=1000)
    state = TrainState(step=5)
    assert planner.revise(state, _Steady(5.0))  # type: ignore[arg-type]
    assert (state.checks, state.validation_characters) == (checks, characters)
    assert state.plan.total <= 100


def test_a_run_of_given_length_has_its_plan_before_its_first_step() -> None:
    for train, total in ((TrainConfig(steps=60), 60), (TrainConfig(epochs=3), 21)):
        planner, state = Planner(train, chunks=7, validation_steps=0, validation_characters=0), TrainState()
        planner.begin(state)
        assert (state.plan, state.checks) == (Plan.of(total), 0)
        assert not planner.revise(state, _Steady(3.0))  # type: ignore[arg-type]


def test_one_slow_validation_does_not_end_a_time_budget() -> None:
    planner = Planner(TrainConfig(time="100s"), chunks=7, validation_steps=1.0, validation_characters=1000)
    clock = _Steady(30.0, validation=50.0)  # of which four are to come
    state = TrainState(step=30, plan=Plan.of(100), checks=5)
    planner.start(0.0)
    assert planner.revise(state, clock)  # type: ignore[arg-type]
    assert state.plan.total == 65  # half of what is left is kept for validations


def test_a_plan_that_has_ended_is_not_revised() -> None:
    planner = Planner(TrainConfig(time="100s"), chunks=7, validation_steps=0, validation_characters=0)
    state = TrainState(step=20, plan=Plan.of(20))
    assert not planner.revise(state, _Steady(20.0))  # type: ignore[arg-type]


def test_without_validation_text_no_validation_is_due() -> None:
    planner = Planner(TrainConfig(steps=10), chunks=7, validation_steps=0, validation_characters=0)
    assert not planner.validation_is_due(TrainState(step=10, plan=Plan.of(10), checks=5))
