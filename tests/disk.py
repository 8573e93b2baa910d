"""A hand on every call that `charlm.storage.durable` makes, and a disk that may lose what was not flushed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from itertools import combinations, product
from typing import Any

CALLS = ("open", "write", "fsync", "read", "link", "replace", "unlink", "mkdir", "close", "fstat")
Contents = dict[str, bytes]


class Hand:
    """Stands where `durable` has `os`: passes each call on, after `before` and before `after`, which may raise."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.before: Callable[[str], None] = lambda _: None
        self.after: Callable[[str, tuple[Any, ...], Any], None] = lambda *_: None

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        if name not in CALLS:
            return real

        def call(*arguments: Any) -> Any:
            self.calls.append(name)
            self.before(name)
            result = real(*arguments)
            self.after(name, arguments, result)
            return result

        return call


class Disk:
    """What a disk may hold after a power failure, in one folder, as POSIX leaves it open.

    A flush of a file makes its content certain, a flush of the folder its names. Of what came after, any part may be
    there: any subset of the changes of names, whatever their order was, and of a file's new bytes the first half, the
    second half after a gap of zeros, all or none.
    """

    def __init__(self, folder: str, hand: Hand) -> None:
        self.folder = folder
        self.certain: dict[str, int] = {}  # names to files
        self.names: dict[str, int] = {}
        self.changes: list[tuple[str, int | None]] = []  # of names, since the folder's last flush
        self.flushed: dict[int, bytes] = {}
        self.content: dict[int, bytes] = {}
        self.open: dict[int, str] = {}
        self.moments: Callable[[], None] = lambda: None
        hand.after = self.note

    def note(self, name: str, arguments: tuple[Any, ...], result: Any) -> None:
        handler = getattr(self, f"_{name}", None)
        if handler is not None:
            handler(result, *arguments)
            self.moments()

    def _open(self, descriptor: int, path: Any, flags: int, mode: int = 0) -> None:  # noqa: ARG002
        name = os.path.basename(path)
        self.open[descriptor] = name
        if str(path) == self.folder:
            return
        if name not in self.names:
            number = len(self.content)
            self.flushed[number] = self.content[number] = b""
            self._name(name, number)
        elif flags & os.O_TRUNC:
            self.content[self.names[name]] = b""

    def _write(self, count: int, descriptor: int, data: Any) -> None:
        self.content[self.names[self.open[descriptor]]] += bytes(data[:count])

    def _fsync(self, _: None, descriptor: int) -> None:
        name = self.open[descriptor]
        if name in self.names:
            self.flushed[self.names[name]] = self.content[self.names[name]]
        else:
            self.certain, self.changes = dict(self.names), []

    def _link(self, _: None, source: Any, target: Any) -> None:
        self._name(os.path.basename(target), self.names[os.path.basename(source)])

    def _replace(self, _: None, source: Any, target: Any) -> None:
        self._name(os.path.basename(target), self.names[os.path.basename(source)])
        self._name(os.path.basename(source), None)

    def _unlink(self, _: None, path: Any) -> None:
        self._name(os.path.basename(path), None)

    def _name(self, name: str, number: int | None) -> None:
        self.changes.append((name, number))
        if number is None:
            del self.names[name]
        else:
            self.names[name] = number

    def after_power_loss(self) -> Iterator[Contents]:
        """Every content that the folder may have when the power fails now."""
        for kept in _subsets(self.changes):
            names: dict[str, int | None] = {**self.certain, **dict(kept)}
            there = {name: number for name, number in names.items() if number is not None}
            files = sorted(set(there.values()))
            for contents in product(*(self._possible(number) for number in files)):
                found = dict(zip(files, contents, strict=True))
                yield {name: found[number] for name, number in there.items()}

    def _possible(self, number: int) -> set[bytes]:
        old, new = self.flushed[number], self.content[number]
        half = (len(old) + len(new)) // 2 if new.startswith(old) else len(new) // 2
        return {old, new} | ({new[:half], bytes(half) + new[half:]} if old != new else set())


def _subsets(changes: list[tuple[str, int | None]]) -> Iterable[tuple[tuple[str, int | None], ...]]:
    for size in range(len(changes) + 1):
        yield from combinations(changes, size)
