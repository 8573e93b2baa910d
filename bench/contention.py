"""Training beside another program that wants a processor: the number of threads that follows, beside fixed numbers.

The other program is `python -c 'while True: pass'`, one process; `come and go` is it every other second.
"""

from __future__ import annotations

import itertools
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from statistics import median
from typing import Final

import torch

from bench.rows import Row
from charlm.config import Config, ModelConfig, TrainConfig
from charlm.models.network import Network, initialise
from charlm.runtime import processor
from charlm.runtime.device import choose_runtime
from charlm.runtime.precision import has_bf16
from charlm.storage.records import TrainState
from charlm.text.lanes import Lanes
from charlm.text.position import Position
from charlm.training.step import Stepper
from charlm.training.trial import may_follow

LANES, CHUNK, HIDDEN, VOCABULARY = 16, 64, 256, 65
SECONDS: Final = 6.0  # of each measurement
ROUNDS: Final = 3
BUSY: Final = [sys.executable, "-c", "while True: pass"]


def rows() -> list[Row]:
    found = []
    for name, load in (
        ("alone", _alone),
        ("beside one busy process", _busy),
        ("beside one that comes and goes", _some),
    ):
        speeds: dict[str, list[float]] = {"follow": [], "all": [], "one": []}
        for _, how in itertools.product(range(ROUNDS), speeds):
            with load():
                speeds[how].append(_speed(how))
        middle = {how: median(each) for how, each in speeds.items()}
        better = max(middle["all"], middle["one"])
        least = 0.97 if name == "alone" else 0.9
        print(f"  {name}: " + ", ".join(f"{how} {speed:,.0f}" for how, speed in middle.items()), file=sys.stderr)
        found.append(
            Row(
                f"training 2x{HIDDEN} {name}, to the better fixed number of threads",
                middle["follow"],
                better,
                middle["follow"] / better,
                f">= {least}",
                middle["follow"] / better >= least,
                "char/s",
            )
        )
    return found


def _speed(how: str) -> float:
    """Characters a second over some seconds of training."""
    threads = 1 if how == "one" else processor.available_threads()
    torch.set_num_threads(threads)
    config = Config(model=ModelConfig(hidden=HIDDEN), train=TrainConfig(batch=LANES, bptt=CHUNK))
    network = Network(config.model, VOCABULARY)
    initialise(network, 0)
    runtime = choose_runtime(torch.device("cpu"), "bf16" if has_bf16() else "fp32", threads)
    if how == "follow":
        runtime = replace(runtime, follows=may_follow(config, network, runtime))
    stepper = Stepper(config, network.train(), runtime, LANES, lambda _: None)
    ids = torch.arange(LANES * CHUNK * 50).numpy() % VOCABULARY
    lanes = Lanes(ids, start=VOCABULARY, batch=LANES, bptt=CHUNK, seed=0, device=runtime.device)
    state, carried, position, began, read = TrainState(), network.init_state(LANES), Position(), time.perf_counter(), 0
    while (spent := time.perf_counter() - began) < SECONDS:
        chunk = lanes.read(position)
        _, _, carried = stepper.step(chunk, carried, state, 1.0)
        state.step, position, read = state.step + 1, chunk.next, read + chunk.scored
    return read / spent


@contextmanager
def _alone() -> Iterator[None]:
    yield


@contextmanager
def _busy() -> Iterator[None]:
    with subprocess.Popen(BUSY) as process:
        try:
            yield
        finally:
            process.kill()


@contextmanager
def _some() -> Iterator[None]:
    over = threading.Event()

    def come_and_go() -> None:
        while not over.wait(1.0):
            with _busy():
                over.wait(1.0)

    thread = threading.Thread(target=come_and_go)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
