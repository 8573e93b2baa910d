"""Training with many processes, started by torchrun: the same losses as one, one display, and what a kill costs.

Starting a process takes seconds, so most of these tests run only with `--distributed` (make test-distributed);
tests/test_group.py has the same mathematics with threads for processes.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from oracles import synthetic_text
from processes import PATIENCE, steps, wait_until

import charlm
from charlm.storage.checkpoint import load_checkpoint

JOINT = str(Path(__file__).with_name("joint.py"))
SMALL: dict[str, Any] = {
    "hidden": 16,
    "embedding": 8,
    "batch": 8,
    "bptt": 16,
    "dropout": 0.2,
    "precision": "fp32",
    "threads": 1,
    "device": "cpu",
    "seed": 5,
    "patience": 0,
    "test": "0",
}
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "TORCH_CPP_LOG_LEVEL": "ERROR"}

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available() or sys.platform != "linux", reason="needs torch.distributed, on Linux"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("distributed")
    (made / "text.txt").write_text(synthetic_text(6_000, seed=3), encoding="utf-8")
    lines = "".join(f"{n} times {n % 7} is {n * (n % 7)}{'!' * (n % 30)}\n" for n in range(200))
    (made / "lines.txt").write_text(lines, encoding="utf-8")
    return made


def _torchrun(processes: int, *arguments: str, restarts: int = 0) -> list[str]:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1"]
    return [*launch, "--nproc-per-node", str(processes), "--max-restarts", str(restarts), *arguments]


def _run(command: list[str], cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=cwd,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
        stdin=subprocess.DEVNULL,
        timeout=PATIENCE,
    )


def _joint(processes: int, cwd: Path, **job: Any) -> dict[str, Any]:
    """What came of a call of `charlm.train` in each of so many processes."""
    script = [JOINT, json.dumps({"corpus": [str(cwd / "text.txt")], **job})]
    command = [sys.executable, *script] if processes == 1 else _torchrun(processes, *script)
    done = _run(command, cwd)
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("{")]
    found: dict[str, Any] = json.loads(line)
    return found


def _options(**options: Any) -> list[str]:
    named = {**SMALL, **options}
    return [word for name, value in named.items() for word in (f"--{name.replace('_', '-')}", str(value))]


def _charlm(processes: int, *arguments: str, cwd: Path, restarts: int = 0) -> subprocess.CompletedProcess[str]:
    return _run(_torchrun(processes, "-m", "charlm", "train", *arguments, restarts=restarts), cwd)


def _said(err: str) -> list[str]:
    """The lines of charlm's own; torchrun adds a report of its own to every failure."""
    assert f'File "{Path(charlm.__file__).parent}' not in err, err
    return [line for line in err.splitlines() if line.startswith("charlm: ")]


def _worker(launcher: int, rank: int) -> int | None:
    """The process of this rank that torchrun has started."""
    with suppress(OSError):
        for child in Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split():
            with suppress(OSError):
                if f"RANK={rank}".encode() in Path(f"/proc/{child}/environ").read_bytes().split(b"\0"):
                    return int(child)
    return None


@contextmanager
def _started(*arguments: str, cwd: Path, restarts: int = 0) -> Iterator[subprocess.Popen[str]]:
    command = _torchrun(2, "-m", "charlm", "train", *arguments, restarts=restarts)
    pipes: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=cwd, env=ENVIRONMENT, text=True, encoding="utf-8", **pipes) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                process.wait(PATIENCE)


def _state(run: Path) -> str:
    return load_checkpoint(run / "last.safetensors").state_sha256


@pytest.fixture(scope="module")
def undisturbed(folder: Path) -> Path:
    """A run of two processes that nothing happens to, by the command line."""
    options = _options(steps=300, checkpoint_every=50)
    done = _charlm(2, "text.txt", "--name", "undisturbed", "--json", *options, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert _said(done.stderr) == []
    assert json.loads(done.stdout)["steps"] == 300  # one of them reports
    run = folder / "checkpoints" / "undisturbed"
    rows = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert rows == sorted(set(rows))
    assert rows[-1] == 300
    assert load_checkpoint(run / "last.safetensors").environment.processes == 2
    return run


KINDS: dict[str, dict[str, Any]] = {
    "lstm, muon": {"options": {"cell": "lstm", "optimizer": "muon"}},
    "gru, records, adamw": {"options": {"cell": "gru", "optimizer": "adamw", "records": "line"}},
}


@pytest.mark.parametrize(
    ("kind", "processes"),
    [
        ("lstm, muon", 2),
        *(
            pytest.param(kind, n, marks=pytest.mark.distributed)
            for kind in KINDS
            for n in (2, 4)
            if n > 2 or "gru" in kind
        ),
    ],
)
def test_many_processes_end_at_the_loss_of_one(folder: Path, tmp_path: Path, kind: str, processes: int) -> None:
    text = folder / ("lines.txt" if "records" in kind else "text.txt")
    job = {
        "corpus": [str(text)],
        "double": True,
        "options": {**SMALL, **KINDS[kind]["options"], "steps": 50, "val": "0", "checkpoints": str(tmp_path)},
    }
    one = _joint(1, folder, **{**job, "options": {**job["options"], "name": "one"}})  # type: ignore[dict-item]
    many = _joint(processes, folder, **{**job, "options": {**job["options"], "name": "many"}})  # type: ignore[dict-item]
    assert len(one["losses"]) == 50
    assert many["losses"] == pytest.approx(one["losses"], rel=0, abs=1e-9)
    assert one["losses"][-1] < one["losses"][0]


@pytest.mark.distributed
@pytest.mark.parametrize("processes", [1, 4])
def test_a_run_of_two_goes_on_with_one_or_four(folder: Path, tmp_path: Path, processes: int) -> None:
    options = {**SMALL, "steps": 40, "checkpoints": str(tmp_path), "name": "one"}
    whole = _joint(1, folder, options=options)
    options["name"] = "many"
    begun = _joint(2, folder, options=options, stop_after=20)
    assert (begun["reason"], begun["steps"]) == ("enough", 20)
    lanes = load_checkpoint(tmp_path / "many" / "last.safetensors").tensors["state.0.h"]
    assert lanes.shape == (8, 16)
    ended = _joint(processes, folder, options={**options, "resume": True})
    assert (ended["reason"], ended["steps"]) == ("done", 40)
    assert [*begun["losses"], *ended["losses"]] == pytest.approx(whole["losses"], abs=2e-4)
    assert ended["val_loss"] == pytest.approx(whole["val_loss"], abs=2e-4)
    inexact = load_checkpoint(tmp_path / "many" / "last.safetensors").bookkeeping.inexact
    assert inexact == (f"processes changed from 2 to {processes} at step 20",)


@pytest.mark.distributed
@pytest.mark.fault(43)
def test_a_killed_worker_is_started_again_and_costs_nothing(folder: Path, undisturbed: Path) -> None:
    run = folder / "checkpoints" / "killed"
    options = _options(steps=300, checkpoint_every=50)
    with _started("text.txt", "--name", "killed", *options, cwd=folder, restarts=1) as launcher:
        wait_until(lambda: steps(run) >= 9 or launcher.poll() is not None)
        victim = _worker(launcher.pid, 1)
        assert victim is not None
        os.kill(victim, signal.SIGKILL)
        _, err = launcher.communicate(timeout=PATIENCE)
    assert launcher.returncode == 0, err
    assert len(_said(err)) == 1, err
    assert "the connection to the other processes of this run is lost" in _said(err)[0]
    assert _state(run) == _state(undisturbed)
    assert [json.loads(line)["train_loss"] for line in (run / "metrics.jsonl").read_text().splitlines()] == [
        json.loads(line)["train_loss"] for line in (undisturbed / "metrics.jsonl").read_text().splitlines()
    ]


@pytest.mark.distributed
@pytest.mark.fault(43)
@pytest.mark.parametrize("rank", [0, 1])
def test_without_restarts_a_killed_worker_ends_the_job_with_a_message(
    folder: Path, undisturbed: Path, rank: int
) -> None:
    run = folder / "checkpoints" / f"ended-{rank}"
    options = _options(steps=300, checkpoint_every=50)
    with _started("text.txt", "--name", run.name, *options, cwd=folder) as launcher:
        wait_until(lambda: steps(run) >= 9 or launcher.poll() is not None)
        victim = _worker(launcher.pid, rank)
        assert victim is not None
        os.kill(victim, signal.SIGKILL)
        _, err = launcher.communicate(timeout=PATIENCE)
    assert launcher.returncode != 0
    (line,) = _said(err)
    assert "is lost" in line
    assert "--resume" in line
    done = _charlm(2, "--resume", "--name", run.name, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert _state(run) == _state(undisturbed)


@pytest.mark.distributed
@pytest.mark.fault(44)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_torchrun_ends_all_after_one_step_with_one_checkpoint(
    folder: Path, undisturbed: Path, number: signal.Signals
) -> None:
    run = folder / "checkpoints" / number.name
    with _started("text.txt", "--name", run.name, *_options(steps=300, checkpoint_every=50), cwd=folder) as launcher:
        wait_until(lambda: steps(run) >= 9 or launcher.poll() is not None)
        launcher.send_signal(number)
        _, err = launcher.communicate(timeout=PATIENCE)
    (line,) = _said(err)
    assert f"is saved in checkpoints/{number.name}/last.safetensors; resume with charlm train --resume" in line
    done = _charlm(2, "--resume", "--name", run.name, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert _state(run) == _state(undisturbed)


@pytest.mark.distributed
@pytest.mark.fault(44)
def test_a_signal_to_one_worker_ends_all(folder: Path) -> None:
    run = folder / "checkpoints" / "one-signal"
    with _started("text.txt", "--name", run.name, *_options(steps=100_000), cwd=folder) as launcher:
        wait_until(lambda: steps(run) >= 3 or launcher.poll() is not None)
        worker = _worker(launcher.pid, 1)
        assert worker is not None
        os.kill(worker, signal.SIGTERM)
        _, err = launcher.communicate(timeout=PATIENCE)
    (line,) = _said(err)
    assert "terminated" in line
    assert load_checkpoint(run / "last.safetensors").training.step >= 20


@pytest.mark.fault(45)
def test_more_processes_than_lanes_are_refused(folder: Path, tmp_path: Path) -> None:
    done = _charlm(2, str(folder / "text.txt"), *_options(steps=5, batch=1), cwd=tmp_path)
    (line,) = _said(done.stderr)
    assert "2 processes cannot share 1 lane" in line
    assert "--batch" in line
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.distributed
@pytest.mark.fault(45)
@pytest.mark.parametrize("what", ["another text", "no text", "standard input"])
def test_processes_that_do_not_read_the_same_are_refused(folder: Path, tmp_path: Path, what: str) -> None:
    for rank in range(2):
        (tmp_path / str(rank)).mkdir()
        shutil.copy(folder / "text.txt", tmp_path / str(rank) / "text.txt")
    if what == "another text":
        with (tmp_path / "1" / "text.txt").open("a") as file:
            file.write("one more")
    elif what == "no text":
        (tmp_path / "1" / "text.txt").unlink()
    corpus = "-" if what == "standard input" else "text.txt"
    job = json.dumps({"cli": ["train", corpus, *_options(steps=5)]})
    done = _run(_torchrun(2, JOINT, job), tmp_path)
    assert done.returncode != 0
    lines = _said(done.stderr)
    expected = {
        "another text": "process 1 has read another text than process 0",
        "no text": "process 1 of 2: ",
        "standard input": "standard input cannot be read by 2 processes",
    }
    assert any(expected[what] in line for line in lines), done.stderr
    assert len([line for line in lines if line != "charlm: terminated"]) == 1
    assert not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.distributed
def test_restarts_do_not_take_up_a_run_that_was_there_before(folder: Path, undisturbed: Path) -> None:
    before = (undisturbed / "last.safetensors").read_bytes()
    done = _charlm(2, "text.txt", "--name", "undisturbed", *_options(steps=300), cwd=folder, restarts=1)
    assert done.returncode != 0
    lines = _said(done.stderr)
    assert len(lines) == 2  # one for each start
    assert all("already exists" in line for line in lines)
    assert (undisturbed / "last.safetensors").read_bytes() == before
