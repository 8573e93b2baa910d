"""Validation loss after a given time: charlm's defaults beside a plain nn.LSTM script, each in a process of its own.

Tiny Shakespeare from 30 seconds to half an hour, other texts for three minutes, and the peer for three minutes on each.
The losses to reach are those of two processors whose matrix products reach 400 GFLOP/s in bf16; on others, being ahead
of the peer counts. Texts are read from data/, where `charlm data get` writes them; a missing text gives an empty row.
The peer uses the precision that charlm chose by measurement.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final, NamedTuple

from bench.command import report
from bench.rows import Row

DATA: Final = Path("data")
UNIT: Final = "nats/char"


class Race(NamedTuple):
    text: str
    time: str
    seconds: float
    least: float | None  # the loss to reach, or else
    ahead: float | None = None  # by how much to be below the peer, where it runs too


RACES: Final = (
    Race("tiny-shakespeare", "30s", 30, 1.48),
    Race("tiny-shakespeare", "3m", 180, 1.39, 0.13),
    *(
        Race(text, "3m", 180, None, 0.1)
        for text in ("war-and-peace", "der-prozess", "crime-and-punishment-ru", "names")
    ),
    Race("tiny-shakespeare", "10m", 600, 1.365),
    Race("tiny-shakespeare", "30m", 1800, 1.345),
)


def rows() -> list[Row]:
    return [_row(race) for race in RACES]


def _row(race: Race) -> Row:
    name = f"{race.text}, --time {race.time}"
    bounds = [f"<= {race.least}"] * (race.least is not None) + [f"< peer - {race.ahead}"] * (race.ahead is not None)
    target = " or ".join(bounds)
    path = DATA / f"{race.text}.txt"
    if not path.exists():
        return Row(name, None, None, None, target, None, UNIT)
    run = _train(path, race.time)
    ours, holds = float(run["val_loss"]), race.least is not None and run["val_loss"] <= race.least
    if race.ahead is None:
        return Row(name, round(ours, 4), None, None, target, holds, UNIT)
    peer = _plain(path, race.seconds, run["precision"])
    return Row(
        name, round(ours, 4), round(peer, 4), round(ours / peer, 4), target, holds or ours < peer - race.ahead, UNIT
    )


def _train(path: Path, time: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        command = ["train", str(path), "--time", time, "--checkpoints", folder, "--name", "race", "--json", "-q"]
        result = report(*command)
        return {**result, "precision": report("info", str(Path(folder, "race")), "--json")["environment"]["precision"]}


def _plain(path: Path, seconds: float, precision: str) -> float:
    command = [sys.executable, "-m", "bench.plain", str(path), str(seconds), precision]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
