"""Systems without POSIX: charlm is imported, trains, resumes, samples and scores with its modules and calls taken away.

This is no Windows. What is tried is that nothing of charlm asks for what Windows lacks.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from without_posix import MODULES

import charlm

ROOT = Path(charlm.__file__).parent
SCRIPT = Path(__file__).with_name("without_posix.py")
TEXT = "".join(f"{n} times {n % 7} is {n * (n % 7)}.\n" for n in range(300))
RUN: dict[str, Any] = {
    "hidden": 16,
    "batch": 4,
    "bptt": 16,
    "precision": "fp32",
    "threads": 1,
    "steps": 6,
    "device": "cpu",
}


def elsewhere(folder: Path, *commands: list[str]) -> subprocess.CompletedProcess[str]:
    """These commands, one after the other in one process without POSIX."""
    lines = [json.dumps(command) for command in commands]
    done = subprocess.run(
        [sys.executable, SCRIPT, *lines], cwd=folder, capture_output=True, text=True, encoding="utf-8", check=False
    )
    for command in commands:
        assert f"{command[0]}: 0\n" in done.stderr, done.stderr
    return done


def test_train_resume_sample_and_eval_give_what_they_give_here(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text(TEXT)
    here = charlm.train(tmp_path / "t.txt", checkpoints=tmp_path / "here", progress=False, **RUN)
    asked = iter(range(100))
    charlm.train(
        tmp_path / "t.txt",
        checkpoints=tmp_path / "checkpoints",
        name="halves",
        stop=lambda: "half" if next(asked) == 3 else None,
        progress=False,
        **RUN,
    )
    options = [f"--{name}={value}" for name, value in RUN.items()]
    done = elsewhere(
        tmp_path,
        ["train", "t.txt", "--name", "whole", "--json", *options],
        ["train", "--resume", "--name", "halves", "-q", "--json"],
        ["sample", "whole", "--length", "40", "--engine", "numpy", "--seed", "3", "--json"],
        ["eval", "whole", "--text", "t.txt", "--json"],
        ["info", "halves"],
    )
    expected = here.run.last
    for name in ("whole", "halves"):
        run = tmp_path / "checkpoints" / name
        states = [charlm.load(path).checkpoint.state_sha256 for path in (expected, run / "last.safetensors")]
        assert states[0] == states[1]
        assert b"\r" not in (run / "metrics.jsonl").read_bytes()
        assert not list(run.glob(".lock.*"))
    sampled, scored = (json.loads(line) for line in done.stdout.splitlines()[2:4])
    model = charlm.load(here.checkpoint, device="cpu")
    assert sampled["samples"] == [model.sample(length=40, engine="numpy", seed=3)]
    assert scored["results"][0]["loss"] == pytest.approx(model.score(TEXT).loss, abs=1e-6)
    assert "cannot be flushed" in done.stderr


SEAMS = {
    "sysconf": {"runtime/limits.py"},
    "sched_getaffinity": {"runtime/limits.py"},
    "geteuid": {"runtime/cache.py"},
    "mallopt": {"runtime/processor.py"},
    "fsync": {"storage/durable.py", "text/store.py"},
    "lock_descriptor": {"storage/lock.py"},
    "SIGHUP": {"cli/signals.py"},
}


def test_each_call_that_systems_differ_in_has_one_place_and_no_module_imports_posix() -> None:
    users: dict[str, set[str]] = {name: set() for name in SEAMS}
    for path in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = set(named(node))
            assert not names & set(MODULES) or not isinstance(node, (ast.Import, ast.ImportFrom)), path
            for name in names & SEAMS.keys():
                users[name].add(path.relative_to(ROOT).as_posix())
    assert users == SEAMS


def named(node: ast.AST) -> Iterator[str]:
    """What a piece of code names: an attribute, a text, or what it imports and from where."""
    if isinstance(node, ast.Attribute):
        yield node.attr
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, (ast.Import, ast.ImportFrom)):
        yield from (alias.name for alias in node.names)
        yield str(getattr(node, "module", ""))
