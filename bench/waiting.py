"""Times of steps as they vary from one to the next, from which `bench.scaling` simulates what waiting costs.

`python -m bench.waiting TEXT` trains 2 x 512 on 64 lanes x 64 characters with one thread, and writes quantiles of the
times to bench/results/waiting.json.
"""

from __future__ import annotations

import json
import sys
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Final

import numpy as np

from bench.scaling import RESULTS
from bench.stepping import step_times

_STEPS: Final = 200
_FIRST: Final = 10  # that are left out: they wake the machine up
_QUANTILES: Final = 100


def quantiles(ends: list[float]) -> list[float]:
    """The times of the steps that ended then, as quantiles that stand for as many steps each, ascending.

    >>> quantiles([0.0] * 10 + [0.0, 1.0, 3.0])[::50]
    [1.005, 1.505]
    """
    times = np.array([later - earlier for earlier, later in pairwise(ends[_FIRST:])])
    return [round(float(time), 6) for time in np.quantile(times, (np.arange(_QUANTILES) + 0.5) / _QUANTILES)]


def main(text: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        copy = Path(name) / "text.txt"
        copy.write_bytes(Path(text).read_bytes())
        ends = step_times(copy, _STEPS, bptt=64, device="cpu", precision="fp32", threads=1)
    RESULTS.write_text(json.dumps({"steps": len(ends) - _FIRST - 1, "seconds": quantiles(ends)}) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
