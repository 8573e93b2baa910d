"""Real processes, terminals and signals for the tests: the command line as a shell meets it."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

CHARLM = str(Path(sys.executable).with_name("charlm"))
TEXT = "".join(f"{n} times {n % 7} is {n * (n % 7)}.\n" for n in range(300))
SMALL = ["--hidden", "16", "--batch", "4", "--bptt", "16", "--precision", "fp32", "--threads", "1"]
ENDLESS = ["--steps", "1000000", "--patience", "0", *SMALL]
PATIENCE = 120.0  # seconds until a process is taken to hang: others may use the machine as well


def charlm(
    *arguments: str, cwd: Path, stdin: str | None = None, before: tuple[str, ...] = (), **env: str
) -> subprocess.CompletedProcess[str]:
    """Run it to its end; `before` is a command that runs it in some other way, such as nohup."""
    return subprocess.run(
        [*before, CHARLM, *arguments],
        cwd=cwd,
        input=stdin,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
        env={**os.environ, **env},
        timeout=PATIENCE,
    )


def one_line(done: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    """One line on standard error says it, nothing on standard output."""
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    assert done.stderr.startswith("charlm: ")
    assert done.stderr.count("\n") == 1
    for word in words:
        assert word in done.stderr


@contextmanager
def started(
    *arguments: str, cwd: Path, before: tuple[str, ...] = (), **options: Any
) -> Iterator[subprocess.Popen[str]]:
    """The running process; it does not outlive the block."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    with subprocess.Popen([*before, CHARLM, *arguments], cwd=cwd, text=True, encoding="utf-8", **pipes) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_until(true: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end
        time.sleep(0.002)


def listens(process: subprocess.Popen[str]) -> bool:
    """Whether the process has come so far that signals are its own affair, as Linux tells it."""
    if process.poll() is not None:
        return True
    with suppress(OSError):
        for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
            if line.startswith("SigCgt:"):
                return bool(int(line.split()[1], 16) >> (signal.SIGTERM - 1) & 1)
    return False


def steps(run: Path) -> int:
    """Rows of metrics that a run has written so far."""
    with suppress(OSError):
        return (run / "metrics.jsonl").read_bytes().count(b"\n")
    return 0


def quiet_end(err: str, lines: int = 1) -> None:
    """However it ended, it says so in a line at most."""
    assert "Traceback" not in err
    assert "Exception ignored" not in err
    assert err.count("charlm: ") <= lines, err


_OWN_TERMINAL = """
import fcntl, os, sys, termios
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execvp(sys.argv[1], sys.argv[1:])
"""


class Terminal:
    """A pseudo-terminal: what is written to it can be read, and it can be closed under whoever uses it."""

    def __init__(self, columns: int = 100) -> None:
        self.main, self.side = pty.openpty()
        fcntl.ioctl(self.side, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        self.shown = ""

    def read_until(self, true: Callable[[str], object]) -> str:
        """Read until this is so, or nobody holds the other side any more."""
        end = time.monotonic() + PATIENCE
        while not true(self.shown):
            assert time.monotonic() < end, self.shown
            if select.select([self.main], [], [], 1.0)[0]:
                try:
                    chunk = os.read(self.main, 65536)
                except OSError:  # the other side has closed
                    break
                self.shown += chunk.decode(errors="replace")
        return self.shown

    def picture(self) -> list[str]:
        """What stands on the screen, as far as the display's own commands go: lines up, erase a line."""
        lines, row, column = [""], 0, 0
        for command, count, text in re.findall(r"\x1b\[[?0-9;]*?((\d*)[A-Za-z])|([\r\n]|[^\x1b\r\n]+)", self.shown):
            if command.endswith("A"):
                row = max(0, row - int(count or 1))
            elif command == "2K":
                lines[row] = ""
            elif text == "\r":
                column = 0
            elif text == "\n":
                row += 1
                lines += [""] * (row + 1 - len(lines))
            elif text:
                lines[row] = lines[row][:column].ljust(column) + text + lines[row][column + len(text) :]
                column += len(text)
        return lines

    @property
    def cursor_is_shown(self) -> bool:
        return self.shown.rfind("\x1b[?25h") >= self.shown.rfind("\x1b[?25l")

    def close(self) -> None:
        for descriptor in (self.main, self.side):
            with suppress(OSError):
                os.close(descriptor)


@contextmanager
def terminal() -> Iterator[Terminal]:
    made = Terminal()
    try:
        yield made
    finally:
        made.close()


@contextmanager
def in_terminal(
    *arguments: str, cwd: Path, before: tuple[str, ...] = ()
) -> Iterator[tuple[subprocess.Popen[bytes], Terminal]]:
    """The process in a terminal of its own, as its controlling one: closing it hangs up, ^C interrupts."""
    with terminal() as screen:
        command = [sys.executable, "-c", _OWN_TERMINAL, *before, CHARLM, *arguments]
        env = {name: value for name, value in os.environ.items() if name != "NO_COLOR"} | {"TERM": "xterm-256color"}
        side = screen.side
        with subprocess.Popen(command, cwd=cwd, env=env, stdin=side, stdout=side, stderr=side) as process:
            os.close(side)
            try:
                yield process, screen
            finally:
                process.kill()
