"""charlm commands in processes of their own that die by SIGKILL: after a time, or at a given point of the program.

`python victims.py` imports charlm once and then forks a process for each line of standard input, so that starting one
takes milliseconds and hundreds can be killed in a minute. What a process does is what the command line does.
"""

from __future__ import annotations

import fcntl
import json
import os
import resource
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, NamedTuple

KILLED = -signal.SIGKILL
CARELESS = "careless_write"


def limit_files(size: int) -> None:
    """From now on the system refuses to let a file of this process grow beyond so many bytes, in the middle of a write.

    No module is kept compiled from then on: Python 3.11 would keep what it could write of one, for every later run.
    """
    sys.dont_write_bytecode = True
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


class Point(NamedTuple):
    """The `ordinal`-th event (a call or a return, also of C functions) in the `entry`-th run of function `scope`.

    Just before and just after each system call is such a point. With ordinal 0 nothing dies and events are counted.
    """

    scope: str  # a qualified name: Trainer.save
    entry: int
    ordinal: int = 0


class Victims:
    """Runs commands one after the other; a context manager."""

    def __enter__(self) -> Victims:
        self._server = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.close()
        self._server.wait(60)
        self._server.stdout.close()

    def run(
        self,
        folder: Path,
        arguments: Sequence[str],
        *,
        kill_after: float | None = None,
        kill_at: Point | None = None,
        patches: Mapping[str, Any] | None = None,
        largest_file: int | None = None,
    ) -> int:
        """The exit code of a command in this folder; -9 when it was killed. `patches` sets names of modules,
        to `careless_write` where the value is CARELESS; no file can grow beyond `largest_file` bytes."""
        job = {
            "folder": str(folder),
            "arguments": list(arguments),
            "kill_after": kill_after,
            "kill_at": kill_at,
            "patches": dict(patches or {}),
            "largest_file": largest_file,
        }
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps(job) + "\n")
        self._server.stdin.flush()
        return int(self._server.stdout.readline())


def events(folder: Path) -> int:
    """How many a process counted that ran with a point of ordinal 0 in this folder."""
    return int((folder / "events").read_text())


def said(folder: Path) -> str:
    """Standard error of the last process in this folder."""
    return (folder / "stderr").read_text()


def careless_write(path: Path, data: bytes, *, keep: Path | None = None) -> bool:
    """What most programs do: write the file where it stands."""
    if keep is not None and path.exists():
        keep.write_bytes(path.read_bytes())
    with path.open("wb") as file:
        file.write(data)
    return True


def _no_picture(name: str, rows: object) -> bytes:  # noqa: ARG001
    from charlm.report.picture import PictureError

    raise PictureError("not here")


def _serve() -> None:
    # What a command imports, torch above all, is imported once for all.
    import safetensors.numpy  # noqa: F401
    import sentencepiece  # noqa: F401

    import charlm.cli.main
    import charlm.report.console
    import charlm.report.train
    import charlm.training.session  # noqa: F401
    from charlm.report import plots

    plots.curves = _no_picture  # drawn when all is saved, and slower than the whole run
    for line in sys.stdin:
        job = json.loads(line)
        reading, writing = os.pipe2(os.O_CLOEXEC)
        fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 2**20)
        child = os.fork()
        if child == 0:
            _work(job, writing)
        os.close(writing)
        ended = os.pidfd_open(child)
        if job["kill_after"] is not None and not select.select([ended], [], [], job["kill_after"])[0]:
            os.kill(child, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        os.close(ended)
        with open(reading, "rb") as pipe:
            Path(job["folder"], "stderr").write_bytes(pipe.read())
        print(code, flush=True)  # noqa: T201


def _work(job: Mapping[str, Any], stderr: int) -> None:
    """The process itself; never returns."""
    from charlm.cli.main import run

    os.chdir(job["folder"])
    null = os.open("/dev/null", os.O_RDWR)
    for number, descriptor in enumerate((null, null, stderr)):
        os.dup2(descriptor, number)
    for name, value in job["patches"].items():
        module, _, attribute = name.rpartition(".")
        setattr(sys.modules[module], attribute, careless_write if value == CARELESS else value)
    if job["largest_file"] is not None:
        limit_files(job["largest_file"])
    if job["kill_at"]:
        sys.setprofile(_dying(Point(*job["kill_at"])))
    code = run(job["arguments"])
    sys.setprofile(None)
    sys.stdout.flush()
    os._exit(code)


def _dying(point: Point) -> Callable[[FrameType, str, Any], None]:
    """A profiler that ends the process at the point, or writes down how many points there are."""
    entries = depth = count = 0

    def profile(frame: FrameType, event: str, argument: object) -> None:  # noqa: ARG001
        nonlocal entries, depth, count
        inside = frame.f_code.co_qualname == point.scope
        if inside and event == "call":
            entries += depth == 0
            depth += 1
        if depth and entries == point.entry:
            count += 1
            if count == point.ordinal:
                os.kill(os.getpid(), signal.SIGKILL)
        if inside and event == "return":
            depth -= 1
            if depth == 0 and entries == point.entry and not point.ordinal:
                Path("events").write_text(str(count))
                entries += 1

    return profile


if __name__ == "__main__":
    _serve()
