"""How a run spends its time: steps, validations, and all the rest."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple


class Timing(NamedTuple):
    """What a clock shows at one moment, in seconds; but for `seconds`, of the later steps of a process.

    The first step also loads libraries and fills caches, and before it the run is saved; in the first seconds memory is
    asked for, numbers of threads are tried, and processors speed up. That says little of the steps to come. So what
    counts is from the end of a step on, 1, 2, 4, 8 ..., the last of these behind which there are as many steps as
    before: half of all, or up to three quarters. The first step counts while there is no other.
    """

    seconds: float  # of the whole run
    elapsed: float  # since that step, without validations
    stepping: float  # of that, in steps
    steps: int

    @property
    def step_time(self) -> float:
        return self.stepping / self.steps


class _Mark(NamedTuple):
    """What had been counted at the end of a step."""

    elapsed: float = 0.0
    validating: float = 0.0
    stepping: float = 0.0
    steps: int = 0


class Clock:
    """Measures a run that had already taken `earlier` seconds; `now` tells the time.

    >>> times = iter([0.0, 1.0, 3.0, 4.0])
    >>> clock = Clock(10.0, now=lambda: next(times))
    >>> with clock.step(tokens=100):
    ...     pass
    >>> clock.timing, clock.tokens_per_second
    (Timing(seconds=14.0, elapsed=4.0, stepping=2.0, steps=1), 50.0)
    """

    def __init__(self, earlier: float = 0.0, *, now: Callable[[], float] = time.perf_counter) -> None:
        self._now, self._earlier = now, earlier
        self._began = now()
        self._stepping = self._validating = 0.0
        self._steps = self._tokens = 0
        self._mark, self._newest = _Mark(), _Mark()  # at the last two of the steps 1, 2, 4, 8 ...
        self._validation = 0.0  # seconds that the last validation of this process took for a character

    @contextmanager
    def step(self, tokens: int) -> Iterator[None]:
        """Times a step that learns from so many tokens; one that fails does not count."""
        began = self._now()
        yield
        took = (ended := self._now()) - began
        self._stepping += took
        self._steps += 1
        self._tokens += tokens
        if self._steps.bit_count() == 1:
            self._mark = self._newest
            self._newest = _Mark(ended - self._began, self._validating, self._stepping, self._steps)

    @contextmanager
    def validation(self, characters: int) -> Iterator[None]:
        """Times a validation on so many characters."""
        began = self._now()
        yield
        took = self._now() - began
        self._validation = took / characters
        self._validating += took

    def validation_cost(self, characters: int) -> float:
        """Seconds for a validation on so many characters, by the last one of this process; 0 before the first."""
        return self._validation * characters

    @property
    def timing(self) -> Timing:
        elapsed, mark = self._now() - self._began, self._mark
        return Timing(
            self._earlier + elapsed,
            (elapsed - self._validating) - (mark.elapsed - mark.validating),
            self._stepping - mark.stepping,
            self._steps - mark.steps,
        )

    @property
    def seconds(self) -> float:
        """Of the whole run, up to now."""
        return self.timing.seconds

    @property
    def tokens_per_second(self) -> float:
        """Tokens learned per second of stepping, in this process; 0 before the first step."""
        return self._tokens / self._stepping if self._stepping else 0.0
