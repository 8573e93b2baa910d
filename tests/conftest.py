"""What every test of this folder shares: reproducible property tests, and one small model trained once."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from pathlib import Path
from types import SimpleNamespace

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch: two threads on one processor spin otherwise

import pytest
import torch
from hypothesis import settings
from oracles import synthetic_text

import charlm

pytest_plugins = ["matrix"]

# The same examples in every run; how long one takes says nothing on a machine that others use as well.
settings.register_profile("charlm", derandomize=True, deadline=None, database=None)
settings.load_profile("charlm")


def pytest_configure(config: pytest.Config) -> None:
    """Of several processes each keeps to a processor of its own: threads that wait for each other suffer otherwise.

    Started in the background by a shell, or under nohup, tests ignore signals that the commands they start must not.
    What charlm caches goes to a folder of this test run, not into the user's.
    """
    worker = getattr(config, "workerinput", None)
    if worker is None and os.environ.get("HOME") and not os.environ.get("XDG_CACHE_HOME"):
        os.environ["XDG_CACHE_HOME"] = folder = tempfile.mkdtemp(prefix="charlm-cache-")
        config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
    for number in (signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, lambda *_: None)  # which no command inherits
    if worker is not None and hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[int(worker["workerid"].removeprefix("gw")) % len(cores)]})
        torch.set_num_threads(1)  # it has counted the processors before


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("charlm").addoption(
        "--distributed", action="store_true", help="also the tests that start many processes, which take minutes"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Without a C compiler, what needs one is skipped: everything works without, more slowly, and that is tested.

    Tests that start many processes wait for `--distributed`.
    """
    if not (config.getoption("--distributed") or config.getoption("--faults") or config.getoption("--faults-record")):
        waiting = [item for item in items if item.get_closest_marker("distributed")]
        items[:] = [item for item in items if item not in waiting]
        config.hook.pytest_deselected(items=waiting)
    if shutil.which(os.environ.get("CC") or "cc"):
        return
    for item in items:
        compiled = "compiled" in getattr(item, "callspec", SimpleNamespace(params={})).params.values()
        if compiled or "compiled" in getattr(item, "fixturenames", ()) or item.get_closest_marker("compiler"):
            item.add_marker(pytest.mark.skip(reason="there is no C compiler"))


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> charlm.LanguageModel:
    """Two layers of 48, trained in seconds on 60,000 synthetic characters: good enough to have a memory to speak of."""
    folder: Path = tmp_path_factory.mktemp("small-model")
    (folder / "synthetic.txt").write_text(synthetic_text(60_000, seed=7), encoding="utf-8")
    trained = charlm.train(
        folder / "synthetic.txt",
        checkpoints=folder,
        steps=400,
        hidden=48,
        embedding=16,
        batch=8,
        bptt=64,
        dropout=0,
        patience=0,
        seed=3,
        device="cpu",
        precision="fp32",
        threads=1,
    )
    return charlm.load(trained.checkpoint, device="cpu")
