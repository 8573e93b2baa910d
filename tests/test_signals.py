"""Ctrl-C, `kill`, a terminal that goes away: at random times and in every phase, to real processes.

A process is left alone until it listens: before that it is Python that starts, and nothing of charlm's can answer.
"""

from __future__ import annotations

import http.server
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from matrix import Tries
from processes import (
    CHARLM,
    ENDLESS,
    PATIENCE,
    SMALL,
    TEXT,
    in_terminal,
    listens,
    one_line,
    quiet_end,
    started,
    steps,
    wait_until,
)

import charlm as library
from charlm.storage.runs import Run

Many = Callable[[int, int], int]
ONE_STEP = ["sums.txt", "--checkpoint-every", "1", *ENDLESS]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a text and a finished run of it, made in this process."""
    folder = tmp_path_factory.mktemp("signals")
    (folder / "sums.txt").write_text(TEXT)
    small: dict[str, Any] = {"steps": 5, "hidden": 16, "device": "cpu", "precision": "fp32", "threads": 1}
    library.train(folder / "sums.txt", checkpoints=folder / "checkpoints", **small)
    return folder


def goes_on(run: Path) -> int:
    """Steps that are saved; the run is whole, nothing else is left in it, and its training can go on from there."""
    with Run(run).locked():  # what a save left behind that was killed is swept by whoever holds the run
        assert not list(run.glob(".*.tmp"))
    saved = library.load(run / "last.safetensors").checkpoint.state.step
    resumed = library.train(name=run.name, checkpoints=run.parent, resume=True, stop=iter((None, "enough")).__next__)
    assert resumed.reason == "enough"
    assert int(library.load(run / "last.safetensors").checkpoint.state.step) == saved + 1
    return int(saved)


@pytest.mark.parametrize(
    ("number", "code"),
    [
        pytest.param(signal.SIGINT, 130, marks=pytest.mark.fault(14)),
        pytest.param(signal.SIGTERM, 143, marks=pytest.mark.fault(15)),
    ],
)
def test_a_signal_ends_training_after_the_step_saved_and_resumable(
    place: Path, number: signal.Signals, code: int
) -> None:
    run = place / "checkpoints" / number.name
    with started("train", "sums.txt", "--name", number.name, *ENDLESS, cwd=place) as process:
        wait_until(lambda: steps(run) > 3)
        process.send_signal(number)
        if number != signal.SIGINT:
            process.send_signal(number)  # the same again is no impatience
        out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == code
    assert f"resume with charlm train --resume --name {number.name}" in err.splitlines()[-1]
    assert out == ""
    quiet_end(err)
    assert goes_on(run) >= 10 * (steps(run) - 2)  # no step is lost: a row is written every ten


@pytest.mark.fault(14)
def test_ctrl_c_twice_leaves_at_once_with_a_whole_checkpoint(
    place: Path, many: Many, rng: random.Random, tries: Tries
) -> None:
    for number in range(many(1, 12)):
        name = f"twice-{number}"
        run = place / "checkpoints" / name
        with started("train", "--name", name, *ONE_STEP, cwd=place) as process:
            wait_until(lambda run=run: steps(run) > 0)  # type: ignore[misc]
            for _ in range(2):
                time.sleep(rng.uniform(0, 0.02))
                process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=PATIENCE)
        assert process.returncode == 130
        quiet_end(err)
        assert "--resume" in err.splitlines()[-1]
        goes_on(run)
        tries.survived()


@pytest.mark.fault(17)
def test_ctrl_c_during_saves_leaves_no_partial_file(place: Path, many: Many, rng: random.Random, tries: Tries) -> None:
    for number in range(many(1, 12)):
        name = f"saving-{number}"
        run = place / "checkpoints" / name
        with started("train", "--name", name, *ONE_STEP, cwd=place) as process:
            wait_until(lambda run=run: run.exists())  # type: ignore[misc]
            time.sleep(rng.uniform(0, 0.2))
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=PATIENCE)
        assert process.returncode == 130
        quiet_end(err)
        assert not list(run.glob(".*.tmp"))
        goes_on(run)
        tries.survived()


@pytest.mark.fault(17)
@pytest.mark.parametrize(
    ("arguments", "takes"),
    [("info sums", 0.3), ("sample sums --length 300 --seed 0", 0.4), ("eval sums", 2.0), ("train --name", 2.5)],
)
def test_ctrl_c_at_any_time_of_a_start_is_one_line_and_leaves_nothing(
    place: Path, arguments: str, takes: float, many: Many, rng: random.Random, tries: Tries
) -> None:
    before = sorted((place / "checkpoints/sums").iterdir())
    for number in range(many(1, 12)):
        name = f"start-{number}"
        command = arguments.split() + ([name, *ONE_STEP] if arguments.startswith("train") else [])
        with started(*command, cwd=place) as process:
            wait_until(lambda process=process: listens(process))  # type: ignore[misc]
            time.sleep(rng.uniform(0, takes))
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=PATIENCE)
        assert process.returncode == 130 or (process.returncode == 0 and "train" not in arguments), err
        quiet_end(err)
        assert err.count("charlm: ") == (process.returncode == 130)
        if (run := place / "checkpoints" / name).exists():
            goes_on(run)
        tries.survived()
    assert sorted((place / "checkpoints/sums").iterdir()) == before


@pytest.mark.fault(17)
def test_ctrl_c_while_the_trained_model_is_scored_loses_nothing(tmp_path: Path) -> None:
    (tmp_path / "sums.txt").write_text(TEXT)
    (tmp_path / "later.txt").write_text(TEXT * 1000)
    options = ["--steps", "2", "--val", "later.txt", "--device", "cpu", *SMALL]
    run = tmp_path / "checkpoints/sums"
    with started("train", "sums.txt", *options, cwd=tmp_path) as process:
        wait_until((run / "best.safetensors").exists)
        time.sleep(1.0)  # by now it scores six million characters
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert err.splitlines()[-1].endswith("; resume with charlm train --resume --name sums")
    assert "step 2 is saved" in err
    quiet_end(err)
    assert time.monotonic() - began < 10
    checkpoint = library.load(run / "last.safetensors").checkpoint
    assert checkpoint.state.step == 2
    assert not checkpoint.result


@contextmanager
def slow_mirror() -> Iterator[str]:
    """A server that begins to answer and then takes its time."""

    class Slow(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "1000000")
            self.end_headers()
            self.wfile.write(b"x" * 100_000)
            self.wfile.flush()
            done.wait(PATIENCE)

        def log_message(self, *_: object) -> None:
            pass

    done = threading.Event()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Slow) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            done.set()
            server.shutdown()


@pytest.mark.fault(17)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_a_download_leaves_no_part_of_it(tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "tmp").mkdir()
    with slow_mirror() as mirror:
        env = {**os.environ, "CHARLM_MIRROR": mirror, "TMPDIR": str(tmp_path / "tmp")}
        with started("data", "get", "names", cwd=tmp_path, env=env) as process:
            wait_until(lambda: any(path.is_file() for path in (tmp_path / "tmp").rglob("*")))
            process.send_signal(number)
            _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 128 + number
    quiet_end(err)
    assert err.startswith("charlm: ")
    assert list(tmp_path.rglob("*")) == [tmp_path / "tmp"]


@pytest.mark.fault(17)
def test_ctrl_c_in_the_doctors_test_run_leaves_no_temporary_folder(tmp_path: Path, many: Many, tries: Tries) -> None:
    for _ in range(many(0, 2)):
        with started("doctor", cwd=tmp_path, env={**os.environ, "TMPDIR": str(tmp_path)}) as process:
            wait_until(lambda: list(tmp_path.rglob("*.safetensors")))
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=PATIENCE)
        assert (process.returncode, err) == (130, "charlm: interrupted\n")
        assert not list(tmp_path.iterdir())
        tries.survived()


@pytest.mark.fault(16)
def test_a_terminal_that_is_closed_ends_training_saved(place: Path) -> None:
    run = place / "checkpoints/closed"
    with in_terminal("train", "sums.txt", "--name", "closed", *ENDLESS, cwd=place) as (process, screen):
        screen.read_until(lambda shown: "char/s" in shown)
        screen.close()
        assert process.wait(PATIENCE) == 129
    assert goes_on(run) > 0


@pytest.mark.fault(16)
def test_a_terminal_that_is_closed_ends_no_training_that_was_told_to_ignore_it(place: Path) -> None:
    run = place / "checkpoints/nohup"
    ignoring = ("sh", "-c", 'trap "" HUP; exec "$@"', "sh")  # as nohup, but with output still on the terminal
    with in_terminal("train", "sums.txt", "--name", "nohup", *ENDLESS, cwd=place, before=ignoring) as (process, screen):
        screen.read_until(lambda shown: "char/s" in shown)
        screen.close()
        seen = steps(run)
        wait_until(lambda: steps(run) > seen + 20 or process.poll() is not None)
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 143
    assert goes_on(run) > 0


@pytest.mark.fault(16)
def test_training_goes_on_without_anybody_to_tell(place: Path, many: Many, tries: Tries) -> None:
    streams = {"without": ">&- 2>&- <&-", "full": "2>/dev/full", "left": "2>&1 | true"}
    for name in list(streams)[: many(1, 3)]:
        command = f"{CHARLM} train sums.txt --name {name} --steps 40 {' '.join(SMALL)} {streams[name]}"
        done = subprocess.run(["bash", "-o", "pipefail", "-c", command], cwd=place, capture_output=True, check=False)
        assert (done.returncode, done.stderr) == (0, b"")
        result = library.load(place / "checkpoints" / name).checkpoint.result
        assert result is not None
        assert result.steps == 40
        tries.survived()


@pytest.mark.fault(16)
def test_training_goes_on_when_the_reader_of_its_lines_leaves_in_the_middle(place: Path) -> None:
    run = place / "checkpoints/unread"
    checked_often = ["--steps", "2000", "--patience", "0", *SMALL]
    with started("train", "sums.txt", "--name", "unread", *checked_often, cwd=place) as process:
        assert process.stderr is not None
        while not process.stderr.readline().startswith("step "):
            pass
        process.stderr.close()
        process.stderr = None
        seen = steps(run)
        wait_until(lambda: steps(run) > seen + 10 or process.poll() is not None)
        process.send_signal(signal.SIGTERM)  # of which it tells in vain
        assert process.wait(PATIENCE) == 143


@pytest.mark.fault(16)
@pytest.mark.parametrize("command", ["--help", "info sums", "sample sums --length 9", "data list", "eval sums"])
def test_closed_streams_are_no_error(place: Path, command: str, many: Many, tries: Tries) -> None:
    for closed in (">&- 2>&- <&-", ">&-", "2>&-", "<&-")[: many(1, 4)]:
        done = subprocess.run(
            ["bash", "-c", f"{CHARLM} {command} {closed}"], cwd=place, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0
        assert bool(done.stdout) == (">&-" not in closed.split())
        assert "charlm: " not in done.stderr
        tries.survived()


@pytest.mark.fault(16)
@pytest.mark.parametrize(
    "command", ["--help", "info sums", "sample sums --length 9 --seed 0 --engine numpy", "verify sums --json"]
)
def test_results_that_cannot_be_written_are_an_error_in_one_line(place: Path, command: str) -> None:
    done = subprocess.run(
        ["bash", "-c", f"{CHARLM} {command} > /dev/full"], cwd=place, capture_output=True, text=True, check=False
    )
    one_line(done, 74, "No space left on device")


@pytest.mark.fault(16)
def test_a_reader_that_leaves_early_is_no_error(place: Path) -> None:
    with started("sample", "sums", "--length", "20000", "--seed", "0", "--engine", "numpy", cwd=place) as process:
        assert process.stdout is not None
        assert len(process.stdout.read(10)) == 10
        process.stdout.close()
        assert process.wait(PATIENCE) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""


@pytest.mark.fault(16)
def test_a_reader_that_leaves_before_help_or_a_list_is_no_error(place: Path) -> None:
    for arguments in ("--help", "data list", "info sums"):
        command = f"{CHARLM} {arguments} | true; exit ${{PIPESTATUS[0]}}"
        done = subprocess.run(["bash", "-c", command], cwd=place, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.fault(17)
def test_what_was_ignored_at_the_start_stays_ignored(place: Path) -> None:
    with started(
        "sample",
        "sums",
        "--length",
        "3000",
        "--seed",
        "0",
        "--engine",
        "numpy",
        cwd=place,
        before=("sh", "-c", 'trap "" INT; exec "$@"', "sh"),
    ) as process:
        wait_until(lambda: listens(process))
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, err) == (0, "")
    assert len(out) == 3000
