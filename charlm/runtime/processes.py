"""Which process of a job this is, as its launcher (torchrun) says in the environment; without torch.

    RANK, WORLD_SIZE               its number, from 0, and how many there are
    LOCAL_RANK, LOCAL_WORLD_SIZE   the same among those of one machine
    MASTER_ADDR, MASTER_PORT       where they meet
    TORCHELASTIC_RESTART_COUNT     how often the job was started again after one of them had died

Of many processes one says what went wrong. Whoever fails first claims that, so that those which only lose their
connection to it are silent.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Place:
    """The place of this process among those of its job, and among those of its machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes files and shows progress."""
        return self.rank == 0

    @property
    def prefix(self) -> str:
        """What a message of another process than the first begins with."""
        return "" if self.is_first else f"process {self.rank} of {self.size}: "


def place() -> Place:
    """The place that the environment gives; without a launcher, or with one process, that of a process alone."""
    rank, size = _number("RANK"), _number("WORLD_SIZE")
    if rank is None or size is None or size < 2 or rank >= size or not meeting_point():
        return Place()
    local_rank, local_size = _number("LOCAL_RANK"), _number("LOCAL_WORLD_SIZE")
    return Place(rank, size, local_rank or 0, max(1, local_size or 1))


def meeting_point() -> tuple[str, int] | None:
    """The host and port where processes meet; None where there is no launcher."""
    host, port = os.environ.get("MASTER_ADDR"), _number("MASTER_PORT")
    return (host, port) if host and port is not None and port < 2**16 else None


def has_agent() -> bool:
    """Whether what is stored at the meeting point outlives the processes: torchrun's own process keeps it."""
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True" and meeting_point() is not None


def restarts() -> int:
    """How often the launcher has started this job again."""
    return _number("TORCHELASTIC_RESTART_COUNT") or 0


class _Speaker:
    """Whether this process says how its job failed."""

    def __init__(self) -> None:
        self.ask: Callable[[], bool] | None = None
        self.answer: bool | None = None

    def claim(self) -> bool:
        if self.answer is None:
            self.answer = self.ask() if self.ask is not None else place().is_first
        return self.answer


_speaker = _Speaker()


def claim_by(ask: Callable[[], bool]) -> None:
    """Let this function say whether no other process has claimed to speak yet."""
    _speaker.ask, _speaker.answer = ask, None


def speaks() -> bool:
    """Whether it is this process that says what went wrong; the first to ask does, once there is a way to know.

    Before the processes are joined that is the process of rank 0: all have the same command line, and so its mistakes.
    """
    return _speaker.claim()


def _number(name: str) -> int | None:
    text = os.environ.get(name, "")
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else None
