"""A group of processes for tests, without processes: threads that hand each other tensors."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from charlm.errors import LostError
from charlm.runtime.group import ALONE, Group

Result = TypeVar("Result")


class _Table:
    """Where the threads lay down what the others take."""

    def __init__(self, size: int) -> None:
        self.barrier, self.places = threading.Barrier(size, timeout=60), [torch.zeros(0)] * size


class Member(Group):
    """One of them. It counts what it sends."""

    def __init__(self, rank: int, size: int, table: _Table, store: Any = None) -> None:
        super().__init__(rank, size, store)
        self._table, self.sent = table, 0

    def _collect(self, own: Tensor) -> list[Tensor]:
        self.sent += 1
        table = self._table
        try:
            table.places[self.rank] = own.clone()
            table.barrier.wait()
            found = [place.clone() for place in table.places]
            table.barrier.wait()
        except threading.BrokenBarrierError as error:
            raise LostError("a thread has ended") from error
        assert len({place.shape for place in found}) == 1
        return found

    def _add(self, flat: Tensor) -> None:
        flat.copy_(torch.stack(self._collect(flat)).sum(0))

    def _send(self, tensor: Tensor) -> None:
        tensor.copy_(self._collect(tensor)[0])


def in_crowd(size: int, work: Callable[[Group], Result]) -> list[Result]:
    """What `work` returns on each of so many members; where one raises, that error, the first rank's before others."""
    if size == 1:
        return [work(ALONE)]
    table = _Table(size)
    results: list[Any] = [None] * size
    errors: list[Exception | None] = [None] * size

    def member(rank: int) -> None:
        try:
            results[rank] = work(Member(rank, size, table))
        except Exception as error:  # noqa: BLE001 - raised again below
            errors[rank] = error
            table.barrier.abort()

    threads = [threading.Thread(target=member, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    raised = [error for error in errors if error is not None]
    if raised:
        raise next((error for error in raised if not isinstance(error, LostError)), raised[0])
    return results
