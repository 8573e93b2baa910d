"""What Ctrl-C, `kill` and a terminal that goes away do to a command.

No signal raises an exception here, except Ctrl-C while a prompt waits for a line (`answered`). One that is raised at
any instant, inside an import, a callback or a clean-up, ends as a traceback or as half a clean-up. Instead a signal
ends the process on the spot, with one line and its exit code, and whoever has something to lose says so beforehand:
`held` makes signals wait to the end of a block, `scratch` keeps temporary files where they are removed on the way out,
and a training run (`Stop`) looks for signals between steps. Ctrl-C a second time does not wait. What the process was
told to ignore when it started, as under nohup, stays ignored.

The entry point imports this module first, so that there is something to listen early: it imports next to nothing.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from types import FrameType

from charlm.errors import HUNG_UP, INTERRUPTED, TERMINATED, StoppedError

_HANG_UP = getattr(signal, "SIGHUP", None)  # Windows has none
_EXIT_CODES = {signal.SIGINT: INTERRUPTED, signal.SIGTERM: TERMINATED}
_WORDS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}
if _HANG_UP is not None:
    _EXIT_CODES[_HANG_UP], _WORDS[_HANG_UP] = HUNG_UP, "hung up"

_OF_MANY = "MASTER_ADDR" in os.environ and os.environ.get("RANK", "0") != "0"  # processes, not the one that speaks


class _Listener:
    """The one of this process: whether a signal has to wait, which one does, and what leaving takes."""

    def __init__(self) -> None:
        self.waits = False
        self.asked: signal.Signals | None = None
        self.kept = ""  # what the line adds: what is on the disk, and how to go on
        self.on_leaving: list[Callable[[], object]] = []
        self.answer: Callable[[], bool] | None = None  # what Ctrl-C is answered with, if that returns True

    def handle(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """The first that has to wait is remembered; later ones are ignored, except a second Ctrl-C.

        A terminal that goes away, or a service manager, may well send the same signal twice.
        """
        came = signal.Signals(number)
        if came == signal.SIGINT and self.answer is not None and self.answer():
            return
        if not self.waits or (self.asked is not None and came == signal.SIGINT):
            self.leave(came)
        self.asked = self.asked or came

    def leave(self, why: signal.Signals) -> None:
        """Clean up, print one line and exit; past Python's own buffers, which may be half written."""
        settle()
        for clean_up in reversed(self.on_leaving):
            with suppress(Exception):
                clean_up()
        with suppress(OSError):
            start = "\n" if os.isatty(2) else ""  # what was written so far may have no end of line, as ^C has none
            encoding = getattr(sys.stderr, "encoding", None) or "utf-8"
            if not _OF_MANY:
                os.write(2, f"{start}charlm: {_WORDS[why]}{self.kept}\n".encode(encoding, "replace"))
        os._exit(_EXIT_CODES[why])


_listener = _Listener()


def listen() -> None:
    """From here on signals end the process as this module says. For a command's own process; a library never does."""
    for number in _WORDS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _listener.handle)


def settle() -> None:
    """How the command ends is decided, and what there is to say is being said: too late for signals."""
    for number in _WORDS:
        if signal.getsignal(number) == _listener.handle:
            signal.signal(number, signal.SIG_IGN)


@contextmanager
def held() -> Iterator[None]:
    """Signals wait until this block is done, and only then end the process."""
    before, _listener.waits = _listener.waits, True
    try:
        yield
    finally:
        _listener.waits = before
        if _listener.asked is not None and not before:
            _listener.leave(_listener.asked)


@contextmanager
def cleaned_up(clean_up: Callable[[], object]) -> Iterator[None]:
    """If a signal ends the process in this block, this is done before."""
    _listener.on_leaving.append(clean_up)
    try:
        yield
    finally:
        _listener.on_leaving.remove(clean_up)


@contextmanager
def answered(answer: Callable[[], bool]) -> Iterator[None]:
    """Ctrl-C in this block is answered by this function; where that returns False, the process ends as elsewhere."""
    before, _listener.answer = _listener.answer, answer
    try:
        yield
    finally:
        _listener.answer = before


@contextmanager
def scratch() -> Iterator[None]:
    """What the block writes with `tempfile` lies in a folder that goes away with it, however it ends."""
    import shutil
    import tempfile

    before = tempfile.tempdir
    with held():
        folder = tempfile.mkdtemp(prefix="charlm-")
        remove = partial(shutil.rmtree, folder, ignore_errors=True)
        _listener.on_leaving.append(remove)
    tempfile.tempdir = folder
    try:
        yield
    finally:
        tempfile.tempdir = before
        with held():
            remove()
            _listener.on_leaving.remove(remove)


class Stop:
    """What a trainer asks between steps and chunks of the closing score: the name of the signal that wants it to end.

    A signal waits from where the run is first written to (`writing`), or where the trainer first asks, until training
    is over (`finish`). While a text is read or a network is built nothing would be lost, and it ends the process.
    """

    def __call__(self) -> str | None:
        self.writing()
        return _listener.asked.name if _listener.asked is not None else None

    def writing(self) -> None:
        """From here on signals wait."""
        _listener.waits = True

    def saved(self, what: str, how_to_go_on: str) -> None:
        """What the line says from here on if the process has to end at once."""
        _listener.kept = f"; {what}; {how_to_go_on}"

    def finish(self, what: str, how_to_go_on: str, reason: str = "") -> None:
        """All is saved; raises StoppedError when a signal has come meanwhile.

        Of many processes the signal may have come to another one: then its name is the `reason` why training ended.
        """
        self.saved(what, how_to_go_on)
        elsewhere = next((number for number in _WORDS if signal.Signals(number).name == reason), None)
        if (asked := _listener.asked or elsewhere) is not None:
            raise StoppedError(_WORDS[asked], kept=what, hint=how_to_go_on, exit_code=_EXIT_CODES[asked])
        _listener.waits = False


@contextmanager
def training(on_leaving: Callable[[], object]) -> Iterator[Stop]:
    """For a run: a signal is answered by its end, saved. Afterwards one ends the process at once, as everywhere."""
    with cleaned_up(on_leaving):
        try:
            yield Stop()
        finally:
            if _listener.asked is None:
                _listener.waits, _listener.kept = False, ""
