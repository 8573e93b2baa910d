"""How far a mean over a text's characters can be trusted: the circular block bootstrap.

What characters cost is not independent: hard passages are hard for hundreds of characters. A text is therefore drawn
anew from its own blocks of neighbouring characters (Künsch 1989, "The jackknife and the bootstrap for general
stationary observations"), which keep the dependence inside them. Blocks begin at any character, and one that reaches
the end goes on at the beginning, so that every character is as likely as any other and the resampled means scatter
around the true one (Politis and Romano 1992, "A circular block-resampling procedure for stationary data").

An interval is that between two quantiles of the resampled means (Efron's percentile interval). It says how a figure
would move if other passages like those of this text stood in it. It says nothing of training again with another seed,
and too little of other texts: scenes and chapters differ by more than their own passages tell, so that a text of a
few thousand characters has too narrow an interval if it is to stand for a book. Differences of two models suffer much
less from that, because what is hard for one is hard for the other. docs/mathematics.md has figures.

The blocks depend on the number of characters, the seed and nothing else. Means of two models on one text are so
resampled in the same places, and the interval of their difference is simply that of the resampled means' differences.

Legend: N characters, R resamples. Series may be in any unit; this module knows nothing of texts, models or printing.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

RESAMPLES: Final = 1000
LEVEL: Final = 0.95
BLOCKS: Final = 20  # there are at least so many, and a text with fewer characters has no interval
_SEED: Final = 1

Floats = NDArray[np.float64]
Interval = tuple[float, float]  # low, high


def block_length(characters: int) -> int:
    """Characters of a block: N to the power of 2/3, and at most a twentieth of the N characters, which is less to 8000.

    Longer than for a process with a short memory, where the power would be 1/3: a text's dependence has no such end.

    >>> [block_length(characters) for characters in (10, 400, 8_000, 1_000_000)]
    [1, 20, 400, 10000]
    """
    return max(1, min(round(math.pow(characters, 2 / 3)), characters // BLOCKS))


def resampled_means(
    series: NDArray[np.floating[Any]], *, resamples: int = RESAMPLES, seed: int = _SEED
) -> Floats | None:
    """The means [R] of so many texts that are drawn from the blocks of a series [N], such as each character's bits.

    None where it has fewer than 20 values, or one that is not finite. Equal N and seed give equal blocks. Time is
    O(N + R N / block), memory that of four series.
    """
    values = np.asarray(series, dtype=np.float64)
    if len(values) < BLOCKS or not np.isfinite(values).all():
        return None
    length = block_length(len(values))
    mean = float(values.mean())
    running = np.cumsum(np.concatenate([[0.0], values - mean, values[: length - 1] - mean]))
    blocks = running[length:] - running[:-length]  # [N], the sum of the block that begins at each character
    count = -(-len(values) // length)
    draw = np.random.default_rng(seed)
    sums = [blocks[draw.integers(len(blocks), size=count)].sum() for _ in range(resamples)]
    return np.array(sums, dtype=np.float64) / (count * length) + mean


def interval(means: Floats | None, level: float = LEVEL) -> Interval | None:
    """Between which values the middle `level` of the resampled means [R] lie; None for None.

    >>> interval(np.arange(1001.0), level=0.5)
    (250.0, 750.0)
    """
    if means is None:
        return None
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2]).tolist()
    return low, high


def difference(means: Floats | None, others: Floats | None, level: float = LEVEL) -> Interval | None:
    """The paired interval of a mean minus another, of series over the same characters; None where one is None."""
    return None if means is None or others is None else interval(means - others, level)
