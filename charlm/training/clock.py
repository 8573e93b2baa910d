"""How a run spends its time: steps, validations, and all the rest."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple


class Timing(NamedTuple):
    """What a clock shows at one moment, in seconds; but for `seconds`, from the end of a process's first step on.

    The first step also loads libraries and fills caches, and before it the run is saved, so that says little of the
    steps to come. It counts while there is no other.
    """

    seconds: float  # of the whole run
    elapsed: float  # of this process, without validations
    stepping: float  # of that, in steps
    steps: int  # of this process

    @property
    def step_time(self) -> float:
        return self.stepping / self.steps


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
        self._first = self._start = 0.0  # seconds of the first step, and up to its end
        self._validation = 0.0  # seconds that the last validation of this process took for a character

    @contextmanager
    def step(self, tokens: int) -> Iterator[None]:
        """Times a step that learns from so many tokens; one that fails does not count."""
        began = self._now()
        yield
        took = (ended := self._now()) - began
        if not self._steps:
            self._first, self._start = took, ended - self._began
        self._stepping += took
        self._steps += 1
        self._tokens += tokens

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
        elapsed = self._now() - self._began
        seconds, first = self._earlier + elapsed, int(self._steps > 1)
        return Timing(
            seconds,
            elapsed - self._validating - first * self._start,
            self._stepping - first * self._first,
            self._steps - first,
        )

    @property
    def seconds(self) -> float:
        """Of the whole run, up to now."""
        return self.timing.seconds

    @property
    def tokens_per_second(self) -> float:
        """Tokens learned per second of stepping, in this process; 0 before the first step."""
        return self._tokens / self._stepping if self._stepping else 0.0
