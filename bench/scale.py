"""Time and memory of a training step as one size grows and the others stay fixed, as rows and as a picture.

Each point is measured in a process of its own, for its peak memory. `python -m bench.scale lstm 256 2 65 64 16`
measures one: cell, units, layers, vocabulary, window, lanes.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Final

import torch

from bench.rows import Row
from charlm.config import ModelConfig, OptimConfig
from charlm.models.network import Network, initialise, named_weights
from charlm.runtime.device import Runtime
from charlm.runtime.processor import keep_memory
from charlm.text.lanes import Chunk
from charlm.training.gradient import gradient
from charlm.training.optim import WeightUpdate, clip

BASE: Final = {"hidden": 256, "layers": 2, "vocabulary": 65, "window": 64, "lanes": 16}
SIZES: Final = {
    "hidden": (64, 128, 256, 512, 1024),
    "layers": (1, 2, 3, 4),
    "vocabulary": (65, 256, 1000, 4437),
    "window": (16, 32, 64, 128, 256),
    "lanes": (1, 4, 16, 64, 128),
}
STEPS: Final = 9
PICTURE: Final = Path(__file__).with_name("results") / "scale.png"


def rows() -> list[Row]:
    found = {name: [_point({**BASE, name: size}) for size in sizes] for name, sizes in SIZES.items()}
    _draw(found)
    return [
        row
        for name, points in found.items()
        for size, (characters, megabytes) in zip(SIZES[name], points, strict=True)
        for row in (
            Row(f"a step, {name} {size}", round(characters), None, None, "", None, "char/s"),
            Row(f"a step, {name} {size}", round(megabytes), None, None, "", None, "peak MB"),
        )
    ]


def _point(sizes: dict[str, int]) -> tuple[float, float]:
    """Characters a second, and megabytes beyond what an empty process with torch holds."""
    command = [sys.executable, "-m", "bench.scale", "lstm", *map(str, sizes.values())]
    characters, megabytes = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return characters, megabytes


def measure(cell: str, hidden: int, layers: int, vocabulary: int, window: int, lanes: int) -> tuple[float, float]:
    keep_memory()
    runtime = Runtime(torch.device("cpu"), "fp32", torch.get_num_threads(), "")
    empty = _peak()
    network = Network(ModelConfig(cell=cell, layers=layers, hidden=hidden, embedding=min(hidden, 256)), vocabulary)
    initialise(network, 0)
    optimizer = WeightUpdate(OptimConfig(optimizer="muon", lr=0.02), named_weights(network), hidden)
    ids, state = torch.randint(vocabulary, (window, lanes)), network.init_state(lanes)
    ends = [time.perf_counter()]
    for step in range(STEPS):
        _, state = gradient(network, runtime, Chunk.of(ids, ids), state)
        clip(network.parameters(), 1.0, "norm")
        optimizer.step(1.0, step)
        ends.append(time.perf_counter())
    took = [end - begin for begin, end in pairwise(ends[1:])]  # the first step also sets up
    seconds = median(sum(took[at : at + 4]) / 4 for at in range(0, len(took) - 3, 4))  # Muon's work comes every fourth
    return window * lanes / seconds, _peak() - empty


def _peak() -> float:
    """Megabytes; Linux counts in kilobytes, macOS in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e3 if sys.platform == "linux" else 1e6)


def _draw(found: dict[str, list[tuple[float, float]]]) -> None:
    """Both figures against each size, both axes by doublings; nothing without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return
    figure = Figure(figsize=(15, 5.5), layout="constrained")
    axes = figure.subplots(2, len(found), sharey="row")
    for column, (name, points) in enumerate(found.items()):
        for row, label in enumerate(("characters per second", "peak megabytes")):
            ax = axes[row][column]
            ax.loglog(SIZES[name], [point[row] for point in points], "o-", base=2)
            ax.axvline(BASE[name], color="0.8", zorder=0)
            ax.set_xticks(SIZES[name], [f"{size:,}" for size in SIZES[name]], minor=False)
            ax.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
            ax.grid(visible=True, alpha=0.3)
            if column == 0:
                ax.set_ylabel(label)
        axes[1][column].set_xlabel(name)
    sizes = ", ".join(f"{name} {size}" for name, size in BASE.items())
    figure.suptitle(f"A training step of an LSTM; fixed sizes: {sizes} (grey lines)")
    PICTURE.parent.mkdir(exist_ok=True)
    figure.savefig(PICTURE, dpi=110)


if __name__ == "__main__":
    kind, *numbers = sys.argv[1:]
    print(json.dumps(measure(kind, *map(int, numbers))))
