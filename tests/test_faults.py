"""Training is killed by SIGKILL, at random times and at every point that matters, and ends as if it had not been."""

from __future__ import annotations

import itertools
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from matrix import Tries
from oracles import needs_bf16_lstm
from victims import CARELESS, KILLED, Point, Victims, events, said

from charlm.errors import CheckpointError
from charlm.storage.checkpoint import load_checkpoint
from charlm.storage.runs import Run

TEXT = "".join(f"{n} and {n * n % 97} make {n + n * n % 97}.\n" for n in range(90))
STEPS = 40
SMALL = f"--hidden 12 --batch 3 --bptt 20 --dropout 0.2 --steps {STEPS} --threads 1 --patience 0".split()
KINDS = {
    "-".join(kind): [f"--cell={kind[0]}", f"--precision={kind[2]}", *pieces]
    for kind in itertools.product(("lstm", "gru"), ("char", "sentencepiece"), ("fp32", "bf16"))
    for pieces in (["--tokenizer=sentencepiece", "--vocab-size=300"] if kind[1] == "sentencepiece" else [],)
}
KINDS["diverging"] = ["--precision=fp32", "--optimizer=adamw", "--lr=50", "--weight-decay=10", "--clip=0"]
KINDS["diverging"] += ["--checkpoint-every=10"]  # by steps: where a run goes back to must not depend on the clock
Outcome = tuple[Any, ...]


def command(name: str, kind: str, *more: str) -> list[str]:
    return ["train", "sums.txt", "--name", name, "--resume", *SMALL, *KINDS[kind], *more]


def outcome(run: Run) -> Outcome:
    """What an interruption must not change: both states, the metrics but for times, the closing figures."""
    rows = [replace(row, seconds=0.0, characters_per_second=0) for row in run.read_metrics()]
    last, best = load_checkpoint(run.last), load_checkpoint(run.best)
    assert last.result is not None
    figures = {name: value for name, value in last.result.figures().items() if "second" not in name}
    return last.state_sha256, best.state_sha256, rows, figures, best.result == last.result


def finished(run: Run) -> bool:
    found = run.restore()
    return found is not None and bool(found[0].result)


class Place:
    """A folder with a text, a server of processes to kill, and what uninterrupted runs ended with."""

    def __init__(self, folder: Path, victims: Victims, wholes: dict[str, tuple[Outcome, float]]) -> None:
        self.folder, self.victims, self._wholes = folder, victims, wholes
        (folder / "sums.txt").write_text(TEXT)
        self._names = itertools.count()

    def name(self) -> str:
        return f"run-{next(self._names)}"

    def at(self, name: str) -> Run:
        return Run(self.folder / "checkpoints" / name)

    def whole(self, kind: str) -> tuple[Outcome, float]:
        """How a run of this kind ends that nothing interrupts, and the seconds that it takes."""
        if kind not in self._wholes:
            name, began = self.name(), time.perf_counter()
            self.finish(name, kind)
            self._wholes[kind] = outcome(self.at(name)), time.perf_counter() - began
        return self._wholes[kind]

    def finish(self, name: str, kind: str, *more: str) -> None:
        assert self.victims.run(self.folder, command(name, kind, *more)) == 0, said(self.folder)

    def check(self, name: str, kind: str) -> None:
        """The run has ended as one that nothing interrupted, and left nothing behind."""
        assert outcome(self.at(name)) == self.whole(kind)[0], f"{self.at(name).folder} ends otherwise"
        assert not list(self.at(name).folder.glob(".*.tmp"))

    def step(self, name: str) -> int:
        """The step of the newest checkpoint, which must be whole and `last` itself; -1 if there is none."""
        found = self.at(name).restore()
        assert found is None or found[1] == self.at(name).last
        return found[0].state.step if found else -1


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Place]]:
    """Two, to keep two processors busy."""
    wholes: dict[str, tuple[Outcome, float]] = {}
    with Victims() as one, Victims() as other:
        yield [Place(tmp_path_factory.mktemp("killed"), victims, wholes) for victims in (one, other)]


@pytest.fixture
def place(places: list[Place]) -> Place:
    return places[0]


def in_turn(places: list[Place], works: Iterable[Callable[[Place], None]]) -> None:
    """Does all works, each place one at a time."""
    waiting = iter(list(works))

    def busy(place: Place) -> None:
        for work in waiting:
            work(place)

    with ThreadPoolExecutor(len(places)) as pool:
        list(pool.map(busy, places))


def kill_at_random(kind: str, kills: int, seed: float, tries: Tries) -> Callable[[Place], None]:
    """A run that is killed at so many random times."""
    rng = random.Random(seed)  # noqa: S311
    every = [] if kind == "diverging" else [f"--checkpoint-every={rng.choice(('1', '3', '7', '0.02s', '60s'))}"]

    def work(place: Place) -> None:
        name, seconds = place.name(), place.whole(kind)[1]
        done = 0
        while done < kills and not finished(place.at(name)):
            delay = rng.uniform(0, seconds)
            if place.victims.run(place.folder, command(name, kind, *every), kill_after=delay) == KILLED:
                done += 1
                place.step(name)
        place.finish(name, kind, *every)
        place.check(name, kind)
        tries.survived(done)

    return work


@pytest.mark.fault(1)
@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=needs_bf16_lstm if kind.startswith("lstm") and kind.endswith("bf16") else ())
        for kind in KINDS
    ],
)
def test_killed_at_random_times(
    places: list[Place], kind: str, tries: Tries, many: Callable[[int, int], int], rng: random.Random
) -> None:
    places[0].whole(kind)
    wanted = many(4, 40)
    while tries.count < wanted:
        in_turn(places, [kill_at_random(kind, 2, rng.random(), tries) for _ in range((wanted - tries.count + 1) // 2)])
    assert tries.count >= wanted


@pytest.mark.fault(1)
def test_the_command_itself_killed_at_random_times(
    place: Place, tries: Tries, many: Callable[[int, int], int], rng: random.Random
) -> None:
    """As a user starts it, so that the import of torch is among what is killed."""
    kind = "lstm-char-fp32"
    program = [str(Path(sys.executable).with_name("charlm"))]
    while tries.count < many(2, 16):
        name = place.name()
        for _ in range(2):
            with subprocess.Popen([*program, *command(name, kind, "-q")], cwd=place.folder) as process:
                time.sleep(rng.uniform(0, 3))
                process.kill()
            place.step(name)
            tries.survived()
        place.finish(name, kind)
        place.check(name, kind)


def kill_at(point: Point, kind: str, tries: Tries, patches: dict[str, Any] | None = None) -> Callable[[Place], None]:
    """A run that is killed at this point and resumed; steps are saved one by one."""

    def work(place: Place) -> None:
        name = place.name()
        arguments = command(name, kind, "--checkpoint-every=2")
        assert place.victims.run(place.folder, arguments, kill_at=point, patches=patches) == KILLED, point
        saved = place.step(name)
        rows = place.at(name).read_metrics() if saved >= 0 else []
        assert saved <= max([row.step for row in rows], default=0) + 9, "a row is missing"
        place.finish(name, kind, "--checkpoint-every=2")
        place.check(name, kind)
        tries.survived()

    return work


def points(place: Place, scope: str, entry: int, kind: str, patches: dict[str, Any] | None = None) -> list[Point]:
    """All points in this run of a function, in their order."""
    arguments = command(place.name(), kind, "--checkpoint-every=2")
    assert place.victims.run(place.folder, arguments, kill_at=Point(scope, entry), patches=patches) == 0
    return [Point(scope, entry, ordinal + 1) for ordinal in range(events(place.folder))]


def some(found: list[Point], most: int) -> list[Point]:
    """So many of them, evenly spread."""
    return found if len(found) <= most else [found[len(found) * k // most] for k in range(most)]


@pytest.mark.fault(2)
@pytest.mark.parametrize(("entry", "file"), [(1, "first last"), (7, "last"), (6, "best")])
def test_killed_at_each_call_of_a_save(
    places: list[Place], tries: Tries, many: Callable[[int, int], int], entry: int, file: str
) -> None:
    kind = "gru-char-fp32"
    every = points(places[0], "write_durably", entry, kind)
    assert len(every) > 40, file
    places[0].whole(kind)
    in_turn(places, [kill_at(point, kind, tries) for point in some(every, many(6, 10**6))])


@pytest.mark.fault(5)
@pytest.mark.parametrize("scope", ["Run.append_metrics", "Trainer._save"])
def test_killed_between_a_row_of_metrics_and_its_checkpoint(
    places: list[Place], tries: Tries, many: Callable[[int, int], int], scope: str
) -> None:
    kind = "lstm-sentencepiece-fp32"
    every = points(places[0], scope, 4, kind)
    places[0].whole(kind)
    in_turn(places, [kill_at(point, kind, tries) for point in some(every, many(4, 30))])


@pytest.mark.fault(4)
@pytest.mark.parametrize("scope", ["Trainer._validate", "Samples.sample", "Trainer._close"])
def test_killed_during_validation_or_sampling(
    places: list[Place], tries: Tries, many: Callable[[int, int], int], scope: str
) -> None:
    kind, patches = "gru-char-bf16", {"charlm.training.samples.EVERY": 0}
    every = points(places[0], scope, 1 if scope == "Trainer._close" else 2, kind, patches)
    assert len(every) > 100
    places[0].whole(kind)
    in_turn(places, [kill_at(point, kind, tries, patches) for point in some(every, many(4, 40))])


@pytest.mark.fault(3)
@pytest.mark.parametrize("kind", ["lstm-char-fp32", "gru-sentencepiece-bf16"])
def test_killed_while_resuming_again_and_again(
    places: list[Place], kind: str, tries: Tries, many: Callable[[int, int], int], rng: random.Random
) -> None:
    """At points all over the start of a run that goes on, several after each other."""
    place = places[0]
    place.whole(kind)
    for _ in range(many(2, 8)):
        name = place.name()
        assert place.victims.run(place.folder, command(name, kind), kill_at=Point("Trainer._advance", 17, 1)) == KILLED
        step = place.step(name)
        assert place.victims.run(place.folder, command(name, kind), kill_at=Point("Trainer.restore", 1, 1)) == KILLED
        for scope in ("resume_run", "Run.locked", "Trainer.restore", "Run.cut_rows"):
            point = Point(scope, 1, rng.randint(2, 40))
            if place.victims.run(place.folder, command(name, kind), kill_at=point) == KILLED:
                assert place.step(name) == step
                tries.survived()
        place.finish(name, kind)
        place.check(name, kind)


def test_a_writer_that_is_not_atomic_loses_the_run(place: Place) -> None:
    """Without which the tests above would prove nothing."""
    kind, patches = "gru-char-fp32", {"charlm.storage.checkpoint.write_durably": CARELESS}
    lost = 0
    for point in some(points(place, CARELESS, 4, kind, patches), 12):
        name = place.name()
        arguments = command(name, kind, "--checkpoint-every=2")
        assert place.victims.run(place.folder, arguments, kill_at=point, patches=patches) == KILLED
        try:
            place.step(name)
        except (AssertionError, CheckpointError):
            lost += 1
    assert lost
