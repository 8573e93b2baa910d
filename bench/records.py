"""Many short texts: the speed of records beside an unbroken text, and names beside a transformer.

Of data/names.txt (`charlm data get names`) 1,000 names are drawn at random and held out, as makemore does; both sides
score them with each end charged. charlm sees them once, at the end (`--test`), the transformer as often as it likes.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from statistics import median
from typing import Final

import torch

from bench.command import CHARLM, report
from bench.rows import Row, compared
from charlm.config import ModelConfig
from charlm.models.network import Network, initialise, zero_lanes
from charlm.runtime.device import Runtime
from charlm.runtime.precision import has_bf16
from charlm.text.lanes import Lanes
from charlm.text.position import Position
from charlm.text.record_lanes import RecordLanes
from charlm.text.records import record_edges
from charlm.text.tokenizer import CharTokenizer
from charlm.training.gradient import gradient

NAMES: Final = Path("data", "names.txt")
HELD_OUT, SAMPLES = 1000, 10_000
RACES: Final = (("3m", 180, 1.95), ("10m", 600, 1.92))
_CRITICAL: Final = {25: 52.6}  # chi-squared at 0.001, by degrees of freedom
_CHUNK, _BATCH, _STEPS, _PAIRS = 64, 16, 30, 5


def rows() -> list[Row]:
    if not NAMES.exists():
        return [Row("names, as records", None, None, None, "", None, "")]
    return [*_speeds(), *_quality()]


def _speeds() -> list[Row]:
    """Forward and backward over as many tokens a step, as records and as one text."""
    text = NAMES.read_text()
    tokenizer = CharTokenizer.train(text)
    ids = tokenizer.encode(text).ids
    edges = record_edges(ids, tokenizer, "line")
    batch = round(_BATCH * _CHUNK * (len(edges) - 1) / len(ids))
    found = []
    for cell in ("lstm", "gru", "rnn"):
        network = Network(ModelConfig(cell=cell, hidden=256, layers=2, embedding=64), tokenizer.size)
        initialise(network, 0)
        text_lanes = Lanes(ids, start=tokenizer.start, batch=_BATCH, bptt=_CHUNK, seed=0)
        record_lanes = RecordLanes(ids, edges, start=tokenizer.start, batch=batch, bptt=_CHUNK, seed=0)
        pairs = [(_speed(network, record_lanes), _speed(network, text_lanes)) for _ in range(_PAIRS)]
        ours, peer = zip(*pairs, strict=True)
        found.append(compared(f"learning names as records, {cell} 2x256, to one text", "char/s", ours, peer, 0.9))
    chunk = record_lanes.read(Position())
    computed = int(sum(chunk.lengths))  # type: ignore[arg-type]
    padding = round(100 * (1 - chunk.scored / computed), 1)
    found.append(Row("padding computed with records", padding, None, None, "<= 3", padding <= 3, "%"))
    return found


def _speed(network: Network, lanes: Lanes | RecordLanes) -> float:
    """Characters a second, of the median step."""
    runtime = Runtime(torch.device("cpu"), "bf16" if has_bf16() else "fp32", torch.get_num_threads(), "")
    state, position, speeds = network.init_state(lanes.batch), Position(), []
    for _ in range(_STEPS):
        chunk = lanes.read(position)
        began = time.perf_counter()
        _, state = gradient(network, runtime, chunk, zero_lanes(state, chunk.begins))
        speeds.append(chunk.scored / (time.perf_counter() - began))
        position = chunk.next
    return median(speeds)


def _quality() -> list[Row]:
    names = NAMES.read_text().split()
    random.Random(42).shuffle(names)  # noqa: S311
    found = []
    with tempfile.TemporaryDirectory() as folder:
        train, test = Path(folder, "train.txt"), Path(folder, "test.txt")
        test.write_text("".join(f"{name}\n" for name in names[:HELD_OUT]))
        train.write_text("".join(f"{name}\n" for name in names[HELD_OUT:]))
        where = ["--checkpoints", folder, "--json", "-q"]
        for text, seconds, least in RACES:
            given = ["--records", "line", "--test", str(test), "--time", text, "--name", text]
            ours = float(report("train", str(train), *given, *where)["test_loss"])
            peer = _transformer(train, test, seconds)
            target = f"<= {least}"
            row = Row(
                f"1,000 names, --time {text}", ours, peer, round(ours / peer, 4), target, ours <= least, "nats/char"
            )
            found.append(row)
        found += _samples(str(Path(folder, text)), names[HELD_OUT:])
    return found


def _transformer(train: Path, test: Path, seconds: float) -> float:
    command = [sys.executable, "-m", "bench.transformer", str(train), str(test), str(seconds)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def _samples(run: str, names: list[str]) -> list[Row]:
    """The first letters of samples against those of the training text, and how many of the samples are new."""
    options = ["--count", str(SAMPLES), "--seed", "1", "--json", "-q"]
    done = subprocess.run([CHARLM, "sample", run, *options], check=True, capture_output=True, text=True)
    written = json.loads(done.stdout)["samples"]
    statistic, freedom = homogeneity([name[:1] for name in written], [name[:1] for name in names])
    bound = _CRITICAL.get(freedom, 2.1 * freedom)
    known = set(names)
    new = round(100 * sum(name not in known for name in written) / len(written), 1)
    return [
        Row(
            "first letters of 10,000 names, chi-squared",
            round(statistic, 1),
            None,
            None,
            f"<= {bound}",
            statistic <= bound,
            "",
        ),
        Row("of which are in no training text", new, None, None, "", None, "%"),
    ]


def homogeneity(one: list[str], other: list[str]) -> tuple[float, int]:
    """Pearson's chi-squared statistic of whether two samples are of one distribution, and its degrees of freedom."""
    counts = Counter(one), Counter(other)
    total, statistic, kinds = len(one) + len(other), 0.0, sorted({*counts[0], *counts[1]})
    for kind in kinds:
        share = (counts[0][kind] + counts[1][kind]) / total
        for count, size in zip(counts, (len(one), len(other)), strict=True):
            statistic += (count[kind] - share * size) ** 2 / (share * size)
    return statistic, len(kinds) - 1
