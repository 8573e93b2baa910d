"""The fault matrix: what can go wrong, what has to happen then, and how often the tests tried it.

A test says which row it tries, `@pytest.mark.fault(7)`, and counts as one try of it; a test that tries many counts
them itself, with the fixture `tries`. `pytest --faults` runs these tests alone, at their full size, prints the matrix
and fails when anything was lost or a row was not tried; without the option they run among the others, smaller.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from math import comb
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest


class Row(NamedTuple):
    """`every` rows try all cases there are, so that nothing is left to bound; `argued` says what no test here tries."""

    fault: str
    required: str
    every: bool = False
    argued: str = ""


MATRIX: Final = {
    1: Row("SIGKILL at random times", "resumed run identical to one that was never interrupted"),
    2: Row("SIGKILL at each system call of a save", "the old or the new checkpoint, whole", every=True),
    3: Row("kill while resuming", "repeatable"),
    4: Row("kill during validation or sampling in training", "training state unaffected"),
    5: Row("kill between metrics and checkpoint", "no row twice, none missing"),
    6: Row("power loss: unsynced writes dropped or reordered", "the old or the new checkpoint, never none"),
    7: Row("disk full at each byte of a save", "previous checkpoint intact, no temporary file, exit 74", every=True),
    8: Row("fsync reports an error", "the save fails and the error is reported"),
    9: Row("checkpoint folder read-only, missing or vanishing", "reported before the first step, or exit 74"),
    10: Row("folder cannot be flushed", "one warning"),
    11: Row("left-over temporary files", "ignored, and removed once the run is locked"),
    12: Row("two trainers on one run", "the second one refuses, exit 2"),
    13: Row("saving over the file the run was loaded from", "correct"),
    14: Row("Ctrl-C once, twice", "step finished, saved, exit 130; at once, old checkpoint whole"),
    15: Row("SIGTERM", "saved, exit 143"),
    16: Row("SIGHUP, closed standard output, broken pipe", "saved, exit 129; continues under nohup; or a clean exit"),
    17: Row("Ctrl-C during import, load or save", "no partial file, no traceback"),
    18: Row("each part of the saved state removed in turn", "the resume test fails", every=True),
    19: Row("resume at every step, over the end of an epoch and of a lane", "identical", every=True),
    20: Row("many interruptions", "the same as none"),
    21: Row("corpus changed since the run began", "exit 3 that names the change; --allow-data-change continues"),
    22: Row("batch, architecture or vocabulary options changed on resume", "exit 2 that names the option"),
    23: Row("another thread count, device or PyTorch build", "continues, says so, and is marked as not bit-exact"),
    24: Row("evaluating or sampling between steps", "no effect on training"),
    25: Row(
        "loss or gradient becomes NaN or infinite",
        "rolled back with a lower learning rate, then exit 5; never saved as best",
    ),
    26: Row("non-finite values in a checkpoint", "exit 4"),
    27: Row("temperature 0, 1e-6, 1e6, inf, NaN, negative", "argmax, correct sampling, or exit 2"),
    28: Row("every truncation of a checkpoint", "exit 4", every=True),
    29: Row("every single-byte flip of a checkpoint", "exit 4", every=True),
    30: Row("header bomb, huge shape, 2^31 units, 10^9 layers", "refused before memory is allocated"),
    31: Row("a pickle, .pt, zip or tar named like a checkpoint", "refused by its first bytes, exit 4"),
    32: Row("last is corrupt", "training falls back to previous and says so; a given path never does"),
    33: Row("../, NUL, escapes, links in names and metadata", "treated as data, shown escaped"),
    34: Row("a malicious SentencePiece model in a checkpoint", "validated before it is loaded, exit 4"),
    35: Row("empty, one character, shorter than a chunk, one character repeated", "trained, or exit 3"),
    36: Row("not UTF-8, NUL, BOM, CR LF, CR, NFC and NFD, surrogates", "exit 3 with byte and line, or exact"),
    37: Row(
        "a file larger than memory, a FIFO, standard input",
        "read as a file is, in memory that does not grow with it",
        argued="a text larger than memory is simulated by a limit of a few bytes; records are held in memory",
    ),
    38: Row("unknown characters at eval and in a prime", "scored and counted; works and says so"),
    39: Row("terminal escapes and bidirectional overrides in text", "shown on a terminal, exact in a pipe"),
    40: Row("a folder with binaries, links, loops, unreadable files", "the texts are read, the rest is named"),
    41: Row("every option at 0, -1, huge, NaN, text", "exit 2 that names the option and its range"),
    42: Row(
        "CUDA requested and absent; out of GPU memory",
        "exit 2; exit 1 that names a batch that fits",
        argued="running out of memory is simulated",
    ),
    43: Row(
        "SIGKILL of one of many processes", "a message, and the run resumes; with --max-restarts by itself, identical"
    ),
    44: Row(
        "a signal to many processes, or to one of them", "all end after the same step, one checkpoint, one message"
    ),
    45: Row("processes that read different files, more of them than lanes", "refused before anything is written"),
    46: Row("a packed text cut short or damaged", "exit 3 that says where; nothing was written"),
    47: Row(
        "a stored corpus of another version, of another text, cut short or damaged", "made again, and that is said"
    ),
    48: Row("disk full while a corpus is stored or unpacked", "exit 74, no temporary file, nothing lost"),
    49: Row("kill while a corpus is stored; two processes that store it", "the store is whole or is made again"),
}


DOCUMENT: Final = Path(__file__).parents[1] / "docs" / "reliability.md"
BEGIN: Final = "<!-- written by make faults RECORD=1 -->"
END: Final = "<!-- end -->"


class Tally:
    """How often each row was tried and survived, over a whole run of pytest."""

    def __init__(self) -> None:
        self.survived: Counter[int] = Counter()
        self.lost: Counter[int] = Counter()
        self.skipped: Counter[int] = Counter()

    def tried(self, row: int) -> int:
        return self.survived[row] + self.lost[row]

    def limit(self, number: int) -> str:
        tried, lost = self.tried(number), self.lost[number]
        return "all" if MATRIX[number].every and not lost else f"{bound(tried, lost):.2%}" if tried else "-"

    def line(self, number: int) -> str:
        row, tried, lost, note = (
            MATRIX[number],
            self.tried(number),
            self.lost[number],
            " *" * bool(MATRIX[number].argued),
        )
        survived, limit = self.survived[number], self.limit(number)
        return f"{number:>3}  {row.fault[:62]:<62} {tried:>8,} {survived:>8,} {lost:>5} {limit:>8}{note}"

    def table(self) -> str:
        """The matrix with its figures, in Markdown."""
        lines = ["| | fault | what happens | tried | lost | 95 % |", "| --- | --- | --- | --- | --- | --- |"]
        for number, row in MATRIX.items():
            figures = f"{self.tried(number):,} | {self.lost[number]} | {self.limit(number)}"
            lines.append(f"| {number}{' *' * bool(row.argued)} | {row.fault} | {row.required} | {figures} |")
        return "\n".join([*lines, ""])


class Tries:
    """Counts what a test tries; every `survived` is one try that went well, a failure of the test one that did not.

    The count stands in the test's report, which may come from another process.
    """

    def __init__(self, noted: list[tuple[str, object]]) -> None:
        self.count, self._noted = 0, noted
        noted.append(("tries", 0))

    def survived(self, count: int = 1) -> None:
        self._noted.remove(("tries", self.count))
        self.count += count
        self._noted.append(("tries", self.count))


def bound(tried: int, lost: int) -> float:
    """The 95 % upper bound on the share of losses (Clopper and Pearson 1934, one-sided).

    >>> round(bound(300, 0), 4), round(bound(59, 0), 2), round(bound(10, 1), 4), bound(3, 3)
    (0.0099, 0.05, 0.3942, 1.0)
    """
    low, high = 0.0, 1.0
    if lost == tried:
        return high
    for _ in range(60):
        share = (low + high) / 2
        seen = sum(comb(tried, k) * share**k * (1 - share) ** (tried - k) for k in range(lost + 1))
        low, high = (share, high) if seen > 0.05 else (low, share)
    return high


def row_of(item: pytest.Item) -> int | None:
    mark = item.get_closest_marker("fault")
    return None if mark is None else int(mark.args[0])


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("faults")
    group.addoption("--faults", action="store_true", help="only the fault matrix, at full size, with its table")
    group.addoption("--faults-record", action="store_true", help="and write the table into docs/reliability.md")
    group.addoption("--fault-seed", default="0", help="seed of every random kill and every mutation")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "fault(row): tries this row of the fault matrix")
    config.pluginmanager.register(_Plugin(config), "fault-matrix")


class _Plugin:
    def __init__(self, config: pytest.Config) -> None:
        self.tally = Tally()
        self.record = bool(config.getoption("--faults-record"))
        self.full = self.record or bool(config.getoption("--faults"))
        self.selected = False

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        if self.full:
            others = [item for item in items if row_of(item) is None]
            config.hook.pytest_deselected(items=others)
            items[:] = [item for item in items if row_of(item) is not None]
        for item in items:
            item.user_properties += [("row", row)] if (row := row_of(item)) is not None else []
        self.selected = bool(config.option.keyword) or any("::" in argument for argument in config.args)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Reports come from all the processes that share the work, with what each test noted down."""
        noted = dict(report.user_properties)
        if "row" not in noted:
            return
        row = int(str(noted["row"]))
        if report.failed:
            self.tally.lost[row] += 1
        if report.skipped:
            self.tally.skipped[row] += 1
        elif report.when == "call":
            self.tally.survived[row] += int(str(noted.get("tries", int(report.passed))))

    def missing(self) -> list[int]:
        """Rows that nothing tried."""
        return [] if self.selected else [number for number in MATRIX if not self.tally.tried(number)]

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if hasattr(session.config, "workerinput"):  # one of several processes: the whole is not known here
            return
        if self.full and session.exitstatus == pytest.ExitCode.OK and self.missing():
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        if self.record:
            before, mark, rest = DOCUMENT.read_text().partition(BEGIN)
            after = rest.partition(END)[2]
            DOCUMENT.write_text(f"{before}{mark}\n{self.tally.table()}{END}{after}")

    def pytest_terminal_summary(self, terminalreporter: Any, config: pytest.Config) -> None:
        if not self.full:
            return
        line = terminalreporter.write_line
        line("")
        line(f"{'row':>3}  {'fault':<62} {'tried':>8} {'survived':>8} {'lost':>5} {'95 %':>8}")
        for number in MATRIX:
            if self.tally.tried(number) or not self.selected:
                line(self.tally.line(number))
        line("95 %: with this confidence a random try is lost less often than that; all: every case there is was tried")
        for number, row in MATRIX.items():
            if row.argued:
                line(f"* {number}: {row.argued}")
        for number, count in sorted(self.tally.skipped.items()):
            line(f"skipped here: {count} of row {number}")
        lost, missing = sum(self.tally.lost.values()), self.missing()
        line(f"seed {config.getoption('--fault-seed')}; {lost} lost; {len(missing)} rows not tried {missing or ''}")


@pytest.fixture
def tries(request: pytest.FixtureRequest) -> Tries:
    """Counts the tries of a test that makes many."""
    return Tries(request.node.user_properties)


@pytest.fixture
def many(request: pytest.FixtureRequest) -> Callable[[int, int], int]:
    """How often: `many(30, 300)` is 30 among the other tests and 300 under --faults."""
    plugin: Any = request.config.pluginmanager.get_plugin("fault-matrix")
    return lambda short, full: full if plugin.full else short


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> random.Random:
    """Random numbers of this test's own, from --fault-seed: the same in each run."""
    return random.Random(f"{request.config.getoption('--fault-seed')} {request.node.nodeid}")  # noqa: S311
