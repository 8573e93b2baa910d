"""How long a run is, which learning rate each step has, and when to validate.

Rates and validations are pure functions of the step and a `Plan`. Under a time budget the number of steps is an
estimate, revised as the machine turns out faster or slower. The clock decides *when* a plan is revised, never what a
step does: each plan is on the disk before it is used.
"""

from __future__ import annotations

import math
from typing import Final

from charlm import options
from charlm.config import TrainConfig
from charlm.storage.records import Plan, TrainState
from charlm.training.clock import Clock, Timing

VALIDATIONS: Final = 20  # of a run, unless they would cost too much
FEWEST: Final = 5  # validations that a run has whatever they cost
BUDGET_SHARE: Final = 0.05  # of a time budget that validations may take
STEPS_SHARE: Final = 0.25  # the same where the number of steps is given
STEPS_PER_VALIDATION: Final = 10  # at least
FIRST_PLAN: Final = (0.02, 0.1, 5.0)  # least and largest share of a budget, and the seconds between them that will do
TRIALS: Final = ((0.0005, 1), (0.005, 1), (0.01, 2))  # validations before the first plan: share of a budget, times
REVISE: Final = 0.08  # share of a budget between revisions, which become more frequent towards its end:
OFTEN: Final = 0.01  # at least so far apart
TOLERANCE: Final = 0.01  # a plan that is off by less is kept
OVERSHOOT: Final = 1.02  # times the budget: the end, whatever the plan says


def learning_rate(step: int, progress: float, *, warmup: int, decay: str) -> float:
    """The learning rate of a step (from 0) as a share of its peak: linear warm-up over `warmup` steps, times the decay.

    >>> [round(learning_rate(step, step / 10, warmup=2, decay="linear"), 2) for step in (0, 1, 5, 9)]
    [0.5, 0.9, 0.5, 0.1]
    """
    rise = min(1.0, (step + 1) / warmup) if warmup else 1.0
    fall = {"linear": 1 - progress, "cosine": 0.5 * (1 + math.cos(math.pi * progress)), "none": 1.0}[decay]
    return rise * fall


def due(before: float, after: float, times: int) -> bool:
    """Whether one of `times` evenly spaced points of progress lies in (before, after]."""
    return math.floor(after * times) > math.floor(before * times)


def can_measure(budget: float, timing: Timing) -> bool:
    """Whether steps have been timed for long enough to plan a run of so many seconds by them.

    The first seconds are slower (`charlm.training.clock.Timing`).
    """
    least, most, enough = FIRST_PLAN
    return timing.seconds >= max(least * budget, min(most * budget, enough)) and timing.steps >= 3


def considers(budget: float, seconds: float, last: float) -> bool:
    """Whether a plan is to be considered again after so many seconds, which was `last` considered then."""
    return seconds - last >= max(OFTEN * budget, min(REVISE * budget, (budget - last) / 2))


def revise(plan: Plan, step: int, budget: float, timing: Timing, last: float, *, reserve: float = 0.0) -> Plan | None:
    """A better plan for `budget` seconds at this step, or None while the present one holds.

    `last` is when, in seconds of the run, the plan was last considered.
    """
    if timing.seconds >= OVERSHOOT * budget:
        return plan.revised(step, step)
    if not plan.measured:
        measured = can_measure(budget, timing)
        return plan.revised(step, _total(step, budget - reserve, timing)) if measured else None
    if not considers(budget, timing.seconds, last):
        return None
    total = _total(step, budget - reserve, timing)
    return plan.revised(step, total) if abs(total - plan.total) > TOLERANCE * plan.total else None


def _total(step: int, budget: float, timing: Timing) -> int:
    """Steps at the end of the budget, if the share of time that goes into steps stays what it was."""
    left = max(0.0, budget - timing.seconds) * timing.stepping / timing.elapsed
    return step + max(1, round(left / timing.step_time))


def validations_in_budget(budget: float, cost: float, *, most: int = VALIDATIONS) -> int:
    """How many validations, at `cost` seconds each, their share of a time budget pays for; 0 if not one."""
    return min(most, int(BUDGET_SHARE * budget / cost))


def validations_in_steps(total: int, cost: float, *, most: int = VALIDATIONS) -> int:
    """The same for a run of so many steps, where a validation costs as much as `cost` steps; no clock has a say in it.

    There are `FEWEST` whatever they cost, but never more than one every `STEPS_PER_VALIDATION` steps.
    """
    most = max(1, min(most, total // STEPS_PER_VALIDATION))
    return max(min(FEWEST, most), min(most, int(STEPS_SHARE * total / cost)))


class Planner:
    """Keeps the plan of one run: its first one, revisions under a time budget, and the validations in it.

    `chunks` is the number of chunks in an epoch. A validation costs as much as `validation_steps` steps: 0 where there
    is no validation text, whose length is `validation_characters`.
    """

    def __init__(
        self, config: TrainConfig, *, chunks: int, validation_steps: float, validation_characters: int
    ) -> None:
        self._config, self._chunks = config, chunks
        self._validation_steps, self._validation_characters = validation_steps, validation_characters
        self.budget = options.seconds(config.time) if config.time else 0.0
        self._considered = 0.0

    def begin(self, state: TrainState) -> None:
        """Give a new run of given length its plan; under a time budget the plan has no end until it is measured."""
        if not self.budget:
            total = self._config.steps or self._config.epochs * self._chunks
            state.plan = Plan.of(total)
            cost = self._validation_steps
            state.checks = validations_in_steps(total, cost) if cost else 0

    def start(self, seconds: float) -> None:
        """A process begins, or goes on, with a run that has taken so long."""
        self._considered = seconds

    def trial(self, state: TrainState, clock: Clock, share: float) -> int:
        """How many characters to validate on now, in that share of the budget, as far as is known; mostly none.

        When the first plan is made, it has to be known what validations cost.
        """
        if state.plan.measured or not self._validation_steps or not can_measure(self.budget, clock.timing):
            return 0
        part = share * self.budget / self._cost(clock, self._validation_characters)
        return max(1, int(self._validation_characters * min(1.0, part)))

    def revise(self, state: TrainState, clock: Clock) -> bool:
        """Under a time budget: whether the state got a better plan, which has to be saved before it is used."""
        if not self.budget or state.finished:
            return False
        timing = clock.timing
        if not state.plan.measured and self._validation_steps:
            self._plan_validations(state, self._cost(clock, self._validation_characters))
        to_come = state.checks - math.floor(state.plan.progress(state.step - 1) * state.checks)
        reserve = to_come * self._cost(clock, state.validation_characters or self._validation_characters)
        reserve = min(reserve, 0.5 * max(0.0, self.budget - timing.seconds))  # one slow validation must not end a run
        plan = revise(state.plan, state.step, self.budget, timing, self._considered, reserve=reserve)
        if considers(self.budget, timing.seconds, self._considered):
            self._considered = timing.seconds
        if plan is None:
            return False
        state.plan = plan
        return True

    def _plan_validations(self, state: TrainState, cost: float) -> None:
        """As many as their share of the budget pays for; where that is too few, `FEWEST` of less text."""
        state.checks = validations_in_budget(self.budget, cost)
        state.validation_characters = 0
        if state.checks < FEWEST:
            state.checks = FEWEST
            share = BUDGET_SHARE * self.budget / FEWEST / cost
            state.validation_characters = max(1, int(self._validation_characters * share))

    def _cost(self, clock: Clock, characters: int) -> float:
        """Seconds for a validation on so many characters: measured, or before that estimated from the time of steps."""
        if not characters:
            return 0.0
        steps = self._validation_steps * characters / self._validation_characters
        return clock.validation_cost(characters) or clock.timing.step_time * steps

    def validation_is_due(self, state: TrainState) -> bool:
        """Whether this step ends with a validation; never where there is no validation text."""
        before, after = state.plan.progress(state.step - 1), state.plan.progress(state.step)
        return bool(self._validation_steps) and due(before, after, state.checks)

    def seconds_left(self, state: TrainState, timing: Timing) -> float:
        """What is left of the budget, or what the steps to come are likely to take."""
        if self.budget:
            return max(0.0, self.budget - timing.seconds)
        return (state.plan.total - state.step) * timing.elapsed / timing.steps
