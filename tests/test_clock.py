"""A clock adds up what it is shown, and nothing else."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from charlm.training.clock import Clock, Timing


def ticking(*moments: float) -> Callable[[], float]:
    shown = iter(moments)
    return lambda: next(shown)


def test_steps_and_validations_are_told_apart_from_the_rest() -> None:
    clock = Clock(100.0, now=ticking(0, 1, 3, 5, 9, 10, 12, 20))
    with clock.step(tokens=30):  # 1 to 3
        pass
    with clock.validation(characters=8):  # 5 to 9
        pass
    with clock.step(tokens=10):  # 10 to 12
        pass
    assert clock.timing == Timing(seconds=120, elapsed=13, stepping=2, steps=1)  # since the end of the first step
    assert (clock.tokens_per_second, clock.validation_cost(2)) == (10.0, 1.0)


def test_a_slow_first_step_says_nothing_of_the_steps_to_come() -> None:
    clock = Clock(now=ticking(0, 0, 9, 9, 10, 10, 11, 11))
    for _ in range(3):
        with clock.step(tokens=1):
            pass
    assert clock.timing == Timing(seconds=11, elapsed=2, stepping=2, steps=2)


@pytest.mark.parametrize("steps", range(2, 40))
def test_slow_first_steps_are_forgotten_by_and_by(steps: int) -> None:
    """A step that took long, and a validation beside it, count no more once there are three times as many behind it."""
    for slow in range(steps):
        took = [100.0 if number == slow else 1.0 for number in range(steps)]
        now = 0.0
        clock = Clock(now=lambda: now)  # noqa: B023 - it is asked within this turn alone
        for number in range(steps):
            with clock.validation(characters=1):
                now += 50.0 * (number == slow)
            with clock.step(tokens=1):
                now += took[number]
            now += 0.5
        timing = clock.timing
        assert timing.seconds == now
        assert steps / 2 <= timing.steps <= max(1, 3 * steps / 4)
        counted = took[-timing.steps :]
        assert timing.stepping == sum(counted)
        halves = 0.5 * (timing.steps + 1)  # behind each of them, and behind the step at whose end counting begins
        assert timing.elapsed == sum(counted) + halves
        assert timing.step_time == 1 or slow >= steps / 4


def test_a_step_that_fails_does_not_count() -> None:
    clock = Clock(now=ticking(0, 1, 5))
    with pytest.raises(ValueError, match="diverged"), clock.step(tokens=30):
        raise ValueError("diverged")
    assert clock.timing == Timing(seconds=5, elapsed=5, stepping=0, steps=0)
    assert clock.tokens_per_second == 0


def test_the_time_of_a_step_is_a_mean() -> None:
    assert Timing(seconds=9, elapsed=9, stepping=6, steps=4).step_time == 1.5
