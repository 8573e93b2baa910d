"""What the command refuses, and with which exit code: places it cannot write in, runs in use, options out of range."""

from __future__ import annotations

import os
import random
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from matrix import Tries
from processes import CHARLM, ENDLESS, PATIENCE, SMALL, TEXT, charlm, one_line, quiet_end, started, steps, wait_until

import charlm as library
from charlm import errors
from charlm.config import EVAL_OPTIONS, SAMPLE_OPTIONS, TRAIN_OPTIONS
from charlm.options import Option, check, flag, parse

Many = Callable[[int, int], int]
SHORT = ["--steps", "2", "-q", *SMALL]
RUNAWAY = [
    *SMALL,
    "-q",
    "--steps=2000",
    "--optimizer=rmsprop",
    "--lr=100",
    "--weight-decay=10",
    "--warmup=0",
    "--clip=0",
]


def tiny(place: Path, name: str, **options: Any) -> Path:
    """A run of this text, made in this process."""
    small = {"steps": 2, "hidden": 4, "device": "cpu", "precision": "fp32", "threads": 1, **options}
    return library.train(place / "t.txt", checkpoints=place / "checkpoints", name=name, **small).run.folder


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "t.txt").write_text(TEXT)
    return tmp_path


@pytest.mark.parametrize(
    ("code", "arguments"),
    [
        (0, ["info", "done", "--json"]),
        (1, ["data", "get", "names"]),
        (2, ["train"]),
        (3, ["sample", "done", "--prime-file", "none.bin"]),
        (4, ["info", "t.txt"]),
        (5, ["train", "t.txt", *RUNAWAY]),
        (74, ["train", "t.txt", "--config", "none.toml"]),
    ],
)
def test_every_exit_code_but_those_of_signals(place: Path, code: int, arguments: list[str]) -> None:
    (place / "none.bin").write_bytes(b"\xff")
    if "done" in arguments:
        tiny(place, "done")
    done = charlm(*arguments, cwd=place, CHARLM_MIRROR="http://127.0.0.1:9")
    assert done.returncode == code
    quiet_end(done.stderr)
    assert done.stderr.count("charlm: ") == (code != 0)


def test_the_table_of_exit_codes_is_complete() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.CharlmError)]
    assert {kind.exit_code for kind in kinds} == {1, 2, 3, 4, 5, 74}
    assert (errors.HUNG_UP, errors.INTERRUPTED, errors.TERMINATED) == (129, 130, 143)
    for code in (1, 2, 3, 4, 5, 74, 129, 130, 143):
        assert f" {code}" in str(errors.__doc__)


def bound_by_permissions() -> tuple[str, ...]:
    """What makes a command heed them: nothing, or for root giving up the right not to."""
    if os.geteuid() != 0:
        return ()
    lesser = ("setpriv", "--bounding-set=-dac_override,-dac_read_search,-fowner", "--inh-caps=-all")
    try:
        subprocess.run([*lesser, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("root, and setpriv cannot make it obey permissions")
    return lesser


@pytest.mark.fault(9)
def test_a_folder_that_cannot_be_written_is_found_before_the_first_step(place: Path, many: Many, tries: Tries) -> None:
    for number, locked in enumerate(("runs", "runs/t")[: many(1, 2)]):
        folder = place / str(number) / locked
        folder.mkdir(parents=True)
        folder.chmod(0o555)
        runs = f"{number}/runs"
        done = charlm("train", "t.txt", "--checkpoints", runs, *SHORT, cwd=place, before=bound_by_permissions())
        one_line(done, 74, f"{runs}/t")
        assert list(folder.iterdir()) == []
        tries.survived()


@pytest.mark.fault(9)
def test_a_run_that_has_become_read_only_is_not_harmed(place: Path) -> None:
    run = tiny(place, "t", steps=4, stop=iter((None, None, "enough")).__next__)
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    run.chmod(0o555)
    one_line(charlm("train", "--resume", "-q", cwd=place, before=bound_by_permissions()), 74, "checkpoints/t")
    after = {path.name: path.read_bytes() for path in run.iterdir()}
    assert after.keys() == before.keys()
    assert {name for name in before if after[name] != before[name]} <= {"metrics.jsonl"}


@pytest.mark.fault(9)
def test_a_place_that_is_none_is_an_input_output_error(place: Path, many: Many, tries: Tries) -> None:
    (place / "dangling").symlink_to(place / "nowhere/at/all")
    (place / "runs").mkdir()
    (place / "runs/t").write_text("a file where the run's folder should be")
    for folder in ("dangling", "runs", "t.txt", "/proc/self", "/dev/null", "/dev/full")[: many(1, 9)]:
        one_line(charlm("train", "t.txt", "--checkpoints", folder, *SHORT, cwd=place), 74, folder)
        assert sorted(path.name for path in place.iterdir()) == ["dangling", "runs", "t.txt"]
        tries.survived()


@pytest.mark.fault(12)
def test_of_trainers_that_start_at_the_same_time_one_trains(place: Path, many: Many, tries: Tries) -> None:
    for number in range(many(1, 8)):
        command = [CHARLM, "train", "t.txt", "--name", f"r{number}", "--json", *SHORT]
        trainers = [
            subprocess.Popen(command, cwd=place, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            for _ in range(many(2, 3))
        ]
        said = [trainer.communicate(timeout=PATIENCE) for trainer in trainers]
        assert sorted(trainer.returncode for trainer in trainers) == [0, *[2] * (len(trainers) - 1)], said
        for trainer, (_, err) in zip(trainers, said, strict=True):
            quiet_end(err, lines=int(trainer.returncode == 2))
            assert trainer.returncode == 0 or "is being trained by another process" in err or "exists" in err
        result = library.load(place / "checkpoints" / f"r{number}").checkpoint.result
        assert result is not None
        assert result.steps == 2
        tries.survived()


@pytest.mark.fault(12)
def test_a_run_that_is_being_trained_is_neither_replaced_nor_resumed(place: Path, many: Many, tries: Tries) -> None:
    run = place / "checkpoints/t"
    with started("train", "t.txt", "--checkpoint-every", "5", *ENDLESS, cwd=place) as process:
        wait_until(lambda: steps(run) > 2)
        for more in (["--force", *SHORT], ["--resume"], SHORT)[: many(1, 3)]:
            done = charlm("train", "t.txt", *more, cwd=place)
            one_line(done, 2, "checkpoints/t", "nothing was changed", "--name")
            tries.survived()
        seen = steps(run)
        wait_until(lambda: steps(run) > seen or process.poll() is not None)
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 143
    assert library.load(run / "last.safetensors").checkpoint.state.step > 20


COMMANDS: dict[str, dict[str, Option]] = {
    "train nowhere.txt": TRAIN_OPTIONS,
    "sample nobody": SAMPLE_OPTIONS,
    "eval nobody": EVAL_OPTIONS,
    "perplexity nobody": EVAL_OPTIONS,
}
VALUES = ("0", "-1", "9" * 30, "nan", "inf", "-inf", "text", "")


def refused(name: str, value: str, spec: Option) -> bool:
    try:
        check(name, parse(value, spec), spec)
    except errors.ConfigError:
        return True
    return False


@pytest.mark.fault(41)
def test_an_option_out_of_range_is_refused_before_anything_is_read(
    tmp_path: Path, rng: random.Random, many: Many, tries: Tries
) -> None:
    wrong = [
        (command, name, value)
        for command, options in COMMANDS.items()
        for name, spec in options.items()
        for value in VALUES
        if refused(name, value, spec)
    ]
    for command, name, value in rng.sample(wrong, many(5, 20)):
        done = charlm(*command.split(), f"{flag(name)}={value}", cwd=tmp_path)
        spec = COMMANDS[command][name]
        said = "does not take a value" if spec.type is bool else f"must be {spec.range}, not "
        one_line(done, 2, flag(name), said)
        tries.survived()
    assert not list(tmp_path.iterdir())


@pytest.mark.fault(42)
def test_a_device_that_is_absent_is_refused(place: Path, many: Many, tries: Tries) -> None:
    run = tiny(place, "t")
    before = (run / "last.safetensors").read_bytes()
    absent = "cuda:999" if torch.cuda.is_available() else "cuda"
    for command in ("train t.txt --force", "eval t -q", "train t.txt --name u")[: many(1, 3)]:
        for device in (absent, "cuda:99")[: many(1, 2)]:
            done = charlm(*command.split(), "--device", device, cwd=place)
            one_line(done, 2, f"--device {device}", "use --device cpu")
            tries.survived()
    assert (run / "last.safetensors").read_bytes() == before
    assert list(run.parent.iterdir()) == [run]
