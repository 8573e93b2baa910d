"""Training with many processes: two of one thread each beside one, and the pieces that a step is made of.

Each process is started by torchrun and runs this module, `python -m bench.distributed work`. The last line on standard
error is what `python -m bench.scaling` takes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any, Final

import numpy as np
import torch

from bench.rows import Row, compared
from bench.stepping import EMBEDDING, HIDDEN
from charlm.config import Config, ModelConfig, OptimConfig, TrainConfig
from charlm.models.network import Network, initialise, named_weights
from charlm.runtime.device import choose_runtime
from charlm.runtime.group import Group, joined
from charlm.runtime.precision import has_bf16
from charlm.runtime.processor import own_process
from charlm.storage.records import TrainState
from charlm.text.lanes import Lanes
from charlm.training.optim import Muon
from charlm.training.step import Stepper

LANES, CHUNK, VOCABULARY = 64, 64, 65
ROUNDS, STEPS = 3, 8
LEAST: Final = 1.7


def rows() -> list[Row]:
    found = []
    for precision in ("fp32", *(["bf16"] if has_bf16() else [])):
        pairs = [(_launched(2, precision), _launched(1, precision)) for _ in range(ROUNDS)]
        speed = [[LANES * CHUNK / one["step"] for one in side] for side in zip(*pairs, strict=True)]
        found.append(
            compared(f"training 2x{HIDDEN} {precision}, 2 processes to 1", "char/s", speed[0], speed[1], LEAST)
        )
        two = [pair[0] for pair in pairs]
        megabytes = 4 * two[0]["weights"] / 1e6
        found += [
            Row(
                f"sum of {megabytes:.1f} MB over 2 processes",
                median(t["sum"] for t in two) * 1e3,
                None,
                None,
                "",
                None,
                "ms",
            ),
            Row("deciding together, 2 processes", median(t["decide"] for t in two) * 1e3, None, None, "", None, "ms"),
        ]
        middle = {str(2 - side): _medians([pair[side] for pair in pairs]) for side in (0, 1)}
        print(json.dumps(middle), file=sys.stderr)
    return found


def _medians(found: list[dict[str, float]]) -> dict[str, float]:
    return {name: median(one[name] for one in found) for name in found[0]}


def _launched(processes: int, precision: str) -> dict[str, float]:
    """What the first of so many processes measures."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1"]
    command = [*launch, "--nproc-per-node", str(processes), "-m", "bench.distributed", "work", precision]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def work(precision: str) -> None:
    """One process: seconds of a step, of a step of half the lanes, of a sum, of a decision, of Muon's products."""
    torch.set_num_threads(1)
    own_process()
    with joined() as group:
        stepper, step = _stepper(group, precision, LANES)
        seconds = _each(group, step, STEPS)
        weights = named_weights(stepper.network)
        flat = torch.zeros(sum(weight.numel() for weight in weights.values()))
        muon = next(rule for rule in stepper.optimizer.optimizers if isinstance(rule, Muon))
        blocks = [block for weight in muon.weights for block in torch.split(weight.detach(), HIDDEN)]
        found = {
            "step": seconds,
            "half": _each(group, _stepper(group, precision, LANES // 2)[1], STEPS),
            "sum": _each(group, lambda: group.sum_([flat]), 20),
            "decide": _each(group, lambda: (group.reason(None), group.first(lambda: False)), 200),
            "muon": _each(group, lambda: muon._orthogonalised(blocks), 4),
            "weights": float(len(flat)),
            "matrices": float(sum(block.numel() for block in blocks)),
        }
        if group.is_first:
            print(json.dumps(found))


def _stepper(group: Group, precision: str, lanes: int) -> tuple[Stepper, Callable[[], object]]:
    """Steps on random text, whose time does not depend on what is learned."""
    model = ModelConfig(cell="lstm", layers=2, hidden=HIDDEN, embedding=EMBEDDING)
    train = TrainConfig(batch=lanes, bptt=CHUNK, precision=precision, seed=1)
    config = Config(model=model, optim=OptimConfig(optimizer="muon", lr=0.001), train=train)
    network = Network(model, VOCABULARY)
    initialise(network, 1)
    runtime = choose_runtime(torch.device("cpu"), precision, 1)
    ids = np.random.default_rng(1).integers(0, VOCABULARY, 20 * LANES * CHUNK, dtype=np.int32)
    read = Lanes(ids, start=VOCABULARY, batch=lanes, bptt=CHUNK, seed=1)
    stepper = Stepper(config, network.train(), runtime, read.batch, print, group)
    carried: Any = network.init_state(len(stepper.lanes))
    state = TrainState(loss_scale=1.0)

    def step() -> None:
        nonlocal carried
        chunk = read.read(state.position)
        carried = stepper.step(chunk, carried, state, 1.0).after
        state.step, state.position = state.step + 1, chunk.next

    return stepper, step


def _each(group: Group, work: Callable[[], object], times: int) -> float:
    """Seconds of each of so many, which all processes begin together; some before it are not counted."""
    for _ in range(max(1, times // 4)):
        work()
    group.reason(None)
    began = time.perf_counter()
    for _ in range(times):
        work()
    return (time.perf_counter() - began) / times


if __name__ == "__main__":
    work(sys.argv[2])
