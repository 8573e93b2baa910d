"""Keeping a time budget: measure, plan, revise, and end in time.

The clock decides *when* a plan is revised, never what a step does: the plan is recorded before it is used.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from charlm.training.schedule import Plan

PROBE: Final = 0.01  # share of the budget after which the first plan is made
REVISE: Final = 0.08  # share between looks at whether the plan still holds
TOLERANCE: Final = 0.01  # a plan that is off by less is kept
OVERSHOOT: Final = 1.04  # the end, whatever the plan says
CHECKS_SHARE: Final = 0.05  # what looking at the held-out text may take
STEPS_SHARE: Final = 0.25  # the same where no time was set
FEW: Final = 5  # looks that a run gets even so
STEPS_PER_CHECK: Final = 10  # at least


@dataclass(frozen=True, slots=True)
class Clock:
    """Seconds of a run, and how this process spent its own."""

    seconds: float  # of the whole run
    elapsed: float  # of this process, without looks at the held-out text
    training: float  # of that, in steps
    steps: int  # of this process

    @property
    def step_time(self) -> float:
        return self.training / self.steps


def revise(plan: Plan, step: int, budget: float, clock: Clock, last: float, *, reserve: float = 0.0) -> Plan | None:
    """A better plan for `budget` seconds at this step, or None while the present one holds.

    `last` is when, in seconds of the run, the plan was last looked at.
    """
    if clock.seconds >= OVERSHOOT * budget:
        return plan.revised(step, step)
    if not plan.measured:
        return (
            plan.revised(step, _total(step, budget - reserve, clock))
            if clock.seconds >= PROBE * budget and clock.steps >= 3
            else None
        )
    if clock.seconds - last < REVISE * budget:
        return None
    total = _total(step, budget - reserve, clock)
    return plan.revised(step, total) if abs(total - plan.total) > TOLERANCE * plan.total else None


def _total(step: int, budget: float, clock: Clock) -> int:
    """Steps at the end of the budget, if the share of time that goes into steps stays what it was."""
    left = max(0.0, budget - clock.seconds) * clock.training / clock.elapsed
    return step + max(1, round(left / clock.step_time))


def affordable_checks(budget: float, cost: float, most: int) -> int:
    """How often the held-out text can be looked at for its share of the budget, at `cost` seconds each; 1 at least."""
    return max(1, min(most, int(CHECKS_SHARE * budget / cost)))


def checks_of_steps(total: int, cost: float, most: int) -> int:
    """The same for a run of so many steps, where a look costs as much as `cost` steps; no clock has a say in it."""
    most = max(1, min(most, total // STEPS_PER_CHECK))
    return max(min(FEW, most), min(most, int(STEPS_SHARE * total / cost)))
