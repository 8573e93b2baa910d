"""`python tests/portable.py [SETTING ...] [-- PYTEST ARGUMENT ...]`: the tests in settings other than this machine's.

No test may depend on the processor that it runs on, on who runs it, on the language or on a compiler. Each setting runs
the whole suite in processes of its own; without names all of them run, one after the other, and a table is printed.
`numeric` is not among them: it runs the tests of arithmetic as on an older processor, for continuous integration. What
stands behind `--` goes to pytest in place of the whole suite: `python tests/portable.py posix -- tests/test_cli.py`.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
NOBODY: Final = 65534
_NOTHING_HERE: Final = {"PYTHONDONTWRITEBYTECODE": "1", "HYPOTHESIS_STORAGE_DIRECTORY": "/nonexistent"}  # is written
OLDER: Final = {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "AVX2"}
_ARITHMETIC: Final = """
average bootstrap decoder divergence dynamic gradient lanes mixture network ngram
optim plan precision random recurrence resume sampler score surprisal threads trainer validator
"""
NUMERIC: Final = tuple(f"tests/test_{name}.py" for name in _ARITHMETIC.split())


@dataclass(frozen=True, slots=True)
class Setting:
    """How the tests are run: variables to set ("" removes one), and what is different about the processes.

    An empty folder of its own takes the place of {here} in a variable.
    """

    what: str
    variables: Mapping[str, str] = field(default_factory=dict)
    one_processor: bool = False
    nobody: bool = False
    times: int = 1  # as often at once
    tests: Sequence[str] = ()  # in place of all


SETTINGS: Final = {
    "native": Setting("as it is here"),
    "older": Setting("an older processor", OLDER),
    "one": Setting("one processor", one_processor=True),
    "nobody": Setting("another user without HOME", {"HOME": "", "XDG_CACHE_HOME": ""}, nobody=True),
    "posix": Setting("LC_ALL=C", {"LC_ALL": "C", "LANG": "", "PYTHONUTF8": "", "PYTHONIOENCODING": ""}),
    "no-compiler": Setting("no C compiler", {"CC": "/nonexistent/cc", "XDG_CACHE_HOME": "{here}"}),
    "twice": Setting("twice at once", times=2),
    "numeric": Setting("an older processor, arithmetic", OLDER, tests=NUMERIC),
}
ALL: Final = [name for name in SETTINGS if name != "numeric"]


def main() -> int:
    own, more = _divided(sys.argv[1:])
    parser = argparse.ArgumentParser(prog="portable.py", description="Run the tests in other settings.")
    known = ", ".join(SETTINGS)
    parser.add_argument("settings", nargs="*", metavar="SETTING", help=f"{known} (default: all but numeric)")
    names = parser.parse_args(own).settings
    if unknown := [name for name in names if name not in SETTINGS]:
        parser.error(f"there is no setting {unknown[0]}; there are {known}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends the tests, too
    rows, good = [], True
    for name in names or ALL:
        for row, passed in run(name, SETTINGS[name], more):
            rows.append(row)
            good = good and passed
    print_table(rows)
    return 0 if good else 1


def _divided(arguments: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
    """Our arguments, and pytest's."""
    at = arguments.index("--") if "--" in arguments else len(arguments)
    return arguments[:at], arguments[at + 1 :]


def run(name: str, setting: Setting, more: Sequence[str]) -> Iterator[tuple[list[str], bool]]:
    """A row of the table for each time that the tests are run at once, and whether they passed."""
    print(f"== {name}: {setting.what}", flush=True)
    begin = time.monotonic()
    with ExitStack() as stack:
        folders = [Path(stack.enter_context(tempfile.TemporaryDirectory())) for _ in range(setting.times)]
        started = [_start(setting, more, folder) for folder in folders]
        for process in started:
            stack.callback(process.terminate)  # does nothing to one that has ended
        for process in started:
            output = process.communicate()[0]
            print(output, flush=True)
            minutes = (time.monotonic() - begin) / 60
            yield [name, *map(str, counts(output)), f"{minutes:.1f}"], process.returncode == 0


def _start(setting: Setting, more: Sequence[str], folder: Path) -> subprocess.Popen[str]:
    """Pytest with temporary files in this folder alone; the checkout may be read only."""
    (folder / "here").mkdir()
    if nobody := setting.nobody and os.geteuid() == 0:
        for path in (folder, folder / "here"):
            os.chown(path, NOBODY, NOBODY)
    chosen = more or setting.tests
    parallel = ["-n", "auto", "--dist", "worksteal"] if not setting.one_processor else []
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", f"--basetemp={folder / 'tests'}"]
    return subprocess.Popen(
        [*command, *parallel, *chosen],
        cwd=ROOT,
        env=_environment(setting, folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
        user=NOBODY if nobody else None,
        group=NOBODY if nobody else None,
        extra_groups=[] if nobody else None,
        preexec_fn=_keep_to_one if setting.one_processor else None,  # noqa: PLW1509 - this process has one thread
    )


def _environment(setting: Setting, folder: Path) -> dict[str, str]:
    variables = {**os.environ, **_NOTHING_HERE, "TMPDIR": str(folder), **setting.variables}
    return {name: value.format(here=folder / "here") for name, value in variables.items() if value}


def _keep_to_one() -> None:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def counts(output: str) -> list[int]:
    """How many tests passed, failed (or ended in an error) and were skipped, by pytest's last line.

    >>> counts("1 failed, 3 passed, 2 skipped, 1 error in 4.56s")
    [3, 2, 2]
    """
    found = dict.fromkeys(("passed", "failed", "skipped", "error"), 0)
    lines = [line for line in output.splitlines() if re.search(r"\d+ \w+.* in [0-9.]+s", line)]
    for number, word in re.findall(r"(\d+) (passed|failed|skipped|error)", lines[-1] if lines else ""):
        found[word] = int(number)
    return [found["passed"], found["failed"] + found["error"], found["skipped"]]


def print_table(rows: Sequence[Sequence[str]]) -> None:
    table = [["setting", "passed", "failed", "skipped", "minutes"], *rows]
    for row in table:
        print(f"{row[0]:12}" + "".join(f"{cell:>9}" for cell in row[1:]))


if __name__ == "__main__":
    sys.exit(main())
