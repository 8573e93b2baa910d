"""How many threads compute: the number that is fastest at the moment, found by timing work that repeats.

The threads of a product wait for each other at its end, hundreds of times in a training step. Where another program
wants the same processors, all of them wait for the one that is not running: on two processors, beside one busy program,
two threads are slower than one. What other programs do changes from second to second, so the number follows what is
measured while the work goes on. It may, where the results are the same bits with every number: the compiled decoder's
are; for torch it is tried first.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

Result = TypeVar("Result")

_LAST: Final = 3  # the last calls with a number of threads, whose times are compared
_AGAIN: Final = 16  # calls until all numbers of threads are tried again, initially
_WASTE: Final = 0.01  # the share of the time that trying may cost
_SELDOM: Final = 64  # steps of training between tries, unless they cost more


def choices(most: int) -> list[int]:
    """The numbers of torch's threads that may compute: all, half of them, a quarter.

    >>> choices(6), choices(2), choices(1)
    ([6, 3, 1], [2, 1], [1])
    """
    return [threads for halvings in range(3) if (threads := most >> halvings)]


@contextmanager
def torch_threads(number: int) -> Iterator[None]:
    """Compute with so many threads in here, and with as many as before afterwards."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass(slots=True)
class _Timings:
    """Times of calls with the same number of steps and lanes, by number of threads."""

    seconds: dict[int, deque[float]] = field(default_factory=lambda: defaultdict(lambda: deque(maxlen=_LAST)))
    fastest: int = 0
    calls: int = 0  # since all numbers of threads were tried
    until: int = _AGAIN  # calls until they are tried again

    def typical(self, threads: int) -> float:
        """The median time of the last calls in seconds, which ignores a single slow one."""
        seconds = sorted(self.seconds[threads])
        return seconds[(len(seconds) - 1) // 2]

    def worth(self, fastest: int) -> int:
        """The number of calls after which another round of tries, even a bad one, costs `_WASTE` of the time."""
        least = self.typical(fastest)
        excess = sum(max(seconds) - least for threads, seconds in self.seconds.items() if threads != fastest)
        return math.ceil(excess / least / _WASTE) if least else 0


class ThreadTuner:
    """Finds the fastest number of threads by timing calls. The results must not depend on it to the last bit.

    The numbers to choose from are tried in turn, and again after a number of calls that doubles, up to `seldom`, each
    time the same one is fastest; it is larger where trying costs more, since where threads wait for each other, one try
    may take as long as a hundred calls. With one choice that is used always.
    """

    def __init__(self, choices: Sequence[int], *, seldom: int = 1024) -> None:
        self._choices, self._seldom = list(choices), seldom
        self._kinds: dict[tuple[int, int, bool], _Timings] = defaultdict(_Timings)

    def threads(self, steps: int, lanes: int, *, longer: bool = False) -> int:
        """The number of threads for the next call, which has this many steps and lanes.

        Calls of one size that take `longer` for what else they do are compared with each other alone.
        """
        kind = self._kinds[steps, lanes, longer]
        if kind.calls == kind.until:
            kind.calls = 0
        kind.calls += 1
        tried = len(self._choices)
        if kind.calls <= tried:
            return self._choices[kind.calls - 1]
        fastest = min(kind.seconds, key=kind.typical)
        if fastest != kind.fastest:
            kind.fastest, kind.calls, kind.until = fastest, tried + 1, _AGAIN
        elif kind.calls == tried + 1:
            kind.until = max(min(2 * kind.until, self._seldom), kind.worth(fastest))
        return fastest

    def record(self, steps: int, lanes: int, threads: int, seconds: float, *, longer: bool = False) -> None:
        """Record the time of that call."""
        self._kinds[steps, lanes, longer].seconds[threads].append(seconds)


class Threads:
    """The threads of torch for work that repeats: always `most`, or as many as are fastest if they may `follow`."""

    def __init__(self, most: int, *, follow: bool) -> None:
        self.most, self.follow = most, follow and most > 1
        self._tuner = ThreadTuner(choices(most) if self.follow else [most], seldom=_SELDOM)

    @contextmanager
    def at_work(self, steps: int, lanes: int, *, longer: bool = False) -> Iterator[None]:
        """Within, one step's work on so many tokens of so many lanes is done, and perhaps more that takes `longer`."""
        if not self.follow:
            yield
            return
        threads = self._tuner.threads(steps, lanes, longer=longer)
        self.use(threads)
        began = time.perf_counter()
        yield
        self._tuner.record(steps, lanes, threads, time.perf_counter() - began, longer=longer)

    def use(self, threads: int) -> None:
        """Compute with so many threads from here on."""
        import torch

        torch.set_num_threads(threads)


class RepeatableThreads:
    """The threads of torch for work that changes nothing, so that whether its bits depend on them can be tried.

    Work of each size is done with each number of threads at first. Where the bits differ, or with `most` 1, the number
    stays as it is.
    """

    def __init__(self, most: int) -> None:
        self._threads = Threads(most, follow=True)
        self._same: dict[tuple[int, int], bool] = {}

    def __call__(self, steps: int, lanes: int, work: Callable[[], Result]) -> Result:
        """What `work`, on so many tokens of so many lanes, gives: tensors, and tuples of them."""
        if not self._threads.follow:
            return work()
        if (size := (steps, lanes)) not in self._same:
            return self._compare(size, work)
        if not self._same[size]:
            self._threads.use(self._threads.most)
            return work()
        with self._threads.at_work(*size):
            return work()

    def _compare(self, size: tuple[int, int], work: Callable[[], Result]) -> Result:
        results = []
        for threads in reversed(choices(self._threads.most)):
            self._threads.use(threads)
            results.append(work())
        self._same[size] = all(_equal(results[-1], result) for result in results)
        return results[-1]

    def use_all(self) -> None:
        """Compute with all of them, for work whose bits depend on the number."""
        if self._threads.follow:
            self._threads.use(self._threads.most)


def _equal(one: Any, other: Any) -> bool:
    """Whether two tensors, or all in two tuples or lists of them, are the same bits."""
    if isinstance(one, tuple | list):
        return all(_equal(a, b) for a, b in zip(one, other, strict=True))
    return bool(one.equal(other))
