"""The processes that train one run together: what they add up, hand round and agree on. One process is a group too.

Each process has a rank, from 0, and the same program runs on all of them. What is computed from the same numbers is the
same on every process; what depends on a clock, a signal or a file is decided by the first and handed to the others.
For a process alone every operation here is the identity and sends nothing.

Three operations are sent, and all others are made of them: the sum of a tensor, one tensor of each process, a tensor of
the first. On processors they go through gloo, on CUDA GPUs through NCCL. Nothing is pickled: what is not a tensor
travels as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from hashlib import sha256
from typing import Any, Final, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from charlm.errors import CharlmError, ConfigError, LostError
from charlm.runtime import processes
from charlm.runtime.processes import Place

Value = TypeVar("Value")

TIMEOUT: Final = timedelta(minutes=10)  # that a process waits for the others before it takes them to be lost
_STORES: Final[Any] = dist  # torch's own types lack them
_SHORT: Final = 256  # bytes of a short message, which is sent in one piece
_LENGTH: Final = 8  # bytes of its length


class ElsewhereError(Exception):
    """Another process has left a block that all have to finish (`Group.together`), for the reason in the text."""


class Group:
    """The processes of a run, as one of them sees them; by default it is alone.

    `store` keeps what has to be known after the launcher has restarted the processes.
    """

    def __init__(self, rank: int = 0, size: int = 1, store: Any = None) -> None:
        self.rank, self.size, self._store = rank, size, store

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes files, watches the clock and shows progress."""
        return self.rank == 0

    def share(self, count: int, rank: int | None = None) -> range:
        """Which of `count` things are this process's own, or those of another rank; lengths differ by at most one.

        >>> [Group(rank, 3).share(8) for rank in range(3)]
        [range(0, 2), range(2, 5), range(5, 8)]
        """
        rank = self.rank if rank is None else rank
        return range(rank * count // self.size, (rank + 1) * count // self.size)

    def shares(self, count: int) -> list[int]:
        """How many of `count` things each process has."""
        return [len(self.share(count, rank)) for rank in range(self.size)]

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """Replace each of these tensors, which have one type, by its sum over all processes."""
        if self.size == 1:
            return
        flat = torch.cat([tensor.detach().reshape(-1) for tensor in tensors])
        self._add(flat)
        _fill(tensors, flat)

    def same_(self, tensors: Sequence[Tensor]) -> None:
        """Replace each of these tensors, which have one type, by the first process's."""
        if self.size == 1:
            return
        flat = torch.cat([tensor.detach().reshape(-1) for tensor in tensors])
        self._send(flat)
        _fill(tensors, flat)

    def gather(self, rows: Tensor, counts: Sequence[int]) -> Tensor:
        """The rows of all processes [N, ..], in the order of their ranks, where `counts` says how many each has."""
        if self.size == 1:
            return rows
        padded = rows.new_zeros(max(counts), *rows.shape[1:])
        padded[: len(rows)] = rows
        found = zip(self._collect(padded), counts, strict=True)
        return torch.cat([part[:count] for part, count in found])

    def first(self, make: Callable[[], Value]) -> Value:
        """What `make` returns on the first process, where alone it is called: a JSON value."""
        if self.size == 1:
            return make()
        value: Value = json.loads(self.first_bytes(lambda: json.dumps(make()).encode()))
        return value

    def first_bytes(self, make: Callable[[], bytes]) -> bytes:
        """The same for bytes."""
        if self.size == 1:
            return make()
        data, head = make() if self.is_first else b"", torch.zeros(_SHORT, dtype=torch.uint8)
        if self.is_first:
            short = len(data).to_bytes(_LENGTH, "little") + data[: _SHORT - _LENGTH]
            head[: len(short)] = _tensor(short)
        self._send(head)
        short = _bytes(head)
        length, begin = int.from_bytes(short[:_LENGTH], "little"), short[_LENGTH:]
        if length <= len(begin):
            return begin[:length]
        rest = _tensor(data[len(begin) :]) if self.is_first else torch.zeros(length - len(begin), dtype=torch.uint8)
        self._send(rest)
        return begin + _bytes(rest)

    def texts(self, text: str) -> list[str]:
        """A short text of each process, in the order of their ranks; the end of a long one is cut off."""
        if self.size == 1:
            return [text]
        data, block = text.encode("utf-8", "replace")[:_SHORT], torch.zeros(_SHORT, dtype=torch.uint8)
        block[: len(data)] = _tensor(data)
        return [_bytes(found).rstrip(b"\0").decode("utf-8", "ignore") for found in self._collect(block)]

    def reason(self, own: str | None) -> str | None:
        """Why all of them stop: this process's reason, or that of the first process that has one."""
        if self.size == 1:
            return own
        return next((text for text in self.texts(own or "") if text), None)

    def agree(self, what: str, value: str, error: Callable[..., CharlmError] = ConfigError, *, hint: str = "") -> None:
        """Raise this error on all processes where they do not have the same value."""
        found = self.texts(sha256(value.encode("utf-8", "surrogatepass")).hexdigest())
        other = next((rank for rank, digest in enumerate(found) if digest != found[0]), None)
        if other is not None:
            raise error(f"process {other} has {what} than process 0", kept="nothing more was written", hint=hint)

    @contextmanager
    def together(self) -> Iterator[None]:
        """All processes finish this block, or none does.

        Where an exception ends it on one of them, the others raise ElsewhereError with its text at the end of theirs.
        """
        if self.size == 1:
            yield
            return
        try:
            yield
        except LostError:
            raise
        except Exception as problem:
            self.texts(f"!{problem}")
            raise
        if problems := [text for text in self.texts("") if text]:
            raise ElsewhereError(problems[0][1:])

    def in_turn(self, make: Callable[[], Value]) -> Value:
        """What `make` returns on each process.

        The first of each machine goes ahead: what it puts on the disk is found by the others. Where it fails on one of
        them, it fails on all.
        """
        if self.size == 1:
            return make()
        with self.together():
            made = [make()] if processes.place().local_rank == 0 else []
        return made[0] if made else make()

    def note(self, what: str) -> None:
        """Remember this for the case that the launcher starts the processes again."""
        if self._store is not None and self.is_first:
            self._store.set(f"noted/{what}", "1")

    def noted(self, what: str) -> bool:
        """Whether an earlier start of this job has noted this; if nothing outlives a start, whether there was one."""
        if not processes.restarts():
            return False
        return self.first(lambda: self._store is None or bool(self._store.check([f"noted/{what}"])))

    def _add(self, flat: Tensor) -> None:
        """Replace a tensor [N] by its sum over all processes."""
        raise NotImplementedError

    def _collect(self, own: Tensor) -> list[Tensor]:
        """The tensor of each process; all have one shape."""
        raise NotImplementedError

    def _send(self, tensor: Tensor) -> None:
        """Replace a tensor by the first process's."""
        raise NotImplementedError


ALONE: Final = Group()


class Joined(Group):
    """Processes that `torch.distributed` connects."""

    def _add(self, flat: Tensor) -> None:
        with _connected():
            dist.all_reduce(flat)

    def _collect(self, own: Tensor) -> list[Tensor]:
        found = [torch.empty_like(own) for _ in range(self.size)]
        with _connected():
            dist.all_gather(found, own)
        return found

    def _send(self, tensor: Tensor) -> None:
        with _connected():
            dist.broadcast(tensor, 0)


@contextmanager
def joined() -> Iterator[Group]:
    """The processes of this job, connected while this lasts, as its launcher placed them.

    In a program that has connected them itself, they are its own. Raises LostError where they do not meet.
    """
    here = processes.place()
    if here.size == 1:
        yield Group(store=_agents_store(here))
        return
    if dist.is_initialized():
        yield Joined(dist.get_rank(), dist.get_world_size())
        return
    with _connected(f"they do not meet at {_meeting()}"):
        store = _store(here)
        processes.claim_by(lambda: _is_first_to_speak(store))
        _connect(here, store)
    try:
        yield Joined(here.rank, here.size, store if processes.has_agent() else None)
    except BaseException:
        processes.speaks()  # before the others notice
        raise
    finally:
        with suppress(RuntimeError):
            dist.destroy_process_group()


def _connect(here: Place, store: Any) -> None:
    cuda = torch.cuda.is_available() and dist.is_nccl_available()
    if cuda and here.local_rank < torch.cuda.device_count():
        torch.cuda.set_device(here.local_rank)
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if cuda else "gloo",
        store=_STORES.PrefixStore(f"start {processes.restarts()}", store),  # of an earlier start, addresses are left
        rank=here.rank,
        world_size=here.size,
        timeout=TIMEOUT,
    )


def _store(here: Place) -> Any:
    """What the processes have in common before they are connected: torchrun's own process keeps it, or rank 0."""
    host, port = processes.meeting_point() or ("localhost", 0)
    own = here.is_first and not processes.has_agent()
    store = _STORES.TCPStore(host, port, is_master=own, timeout=TIMEOUT, wait_for_workers=False, multi_tenant=True)
    return _STORES.PrefixStore("charlm", store)


def _agents_store(here: Place) -> Any:
    """For a process alone: what torchrun keeps for it, if it was started by it."""
    with suppress(RuntimeError):
        return _store(here) if processes.has_agent() else None
    return None


def _is_first_to_speak(store: Any) -> bool:
    """Whether no other process of this start has been told so; where that cannot be known any more, True."""
    try:
        return bool(store.add(f"spoken {processes.restarts()}", 1) == 1)
    except RuntimeError:
        return True


def _meeting() -> str:
    host, port = processes.meeting_point() or ("", 0)
    return f"{host}:{port}"


@contextmanager
def _connected(what: str = "one of them has ended or cannot be reached") -> Iterator[None]:
    """Raise LostError where a process is gone."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise LostError(
            f"the connection to the other processes of this run is lost: {what}",
            kept="what was saved is unchanged",
            hint="start them again with --resume; torchrun --max-restarts does so by itself",
        ) from error


@torch.no_grad()
def _fill(tensors: Sequence[Tensor], flat: Tensor) -> None:
    for tensor, values in zip(tensors, torch.split(flat, [tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(values.view_as(tensor))


def _tensor(data: bytes) -> Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else torch.zeros(0, dtype=torch.uint8)


def _bytes(tensor: Tensor) -> bytes:
    return tensor.numpy().tobytes()
