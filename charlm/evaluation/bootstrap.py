"""Confidence intervals for a mean over a text's characters: the circular block bootstrap.

The surprisals of neighbouring characters are not independent: difficult passages are difficult for hundreds of
characters. Resampling single characters would therefore give intervals that are too narrow. Instead the text is
resampled in blocks of consecutive characters, which keep the dependence within them (Künsch 1989, "The jackknife and
the bootstrap for general stationary observations"):

1. A resampled text consists of k = ceil(N / l) blocks of l consecutive characters each; l is `block_length`.
2. Choose k places at random, with replacement, among all N, and take the block that begins at each. A block that
   passes the end continues at the beginning (the text is a circle), so that every character is equally likely to be
   chosen and the resampled means are centred on the mean (Politis and Romano 1992, "A circular block-resampling
   procedure for stationary data").
3. The mean of these blocks is the mean of one resampled text. Repeat 1,000 times.
4. The interval lies between the 2.5 % and 97.5 % quantiles of the 1,000 means (Efron's percentile interval).

    series 1 2 3 4 5 6, blocks of 2, places 4 and 0 and 5 (from 0):  5 6 | 1 2 | 6 1, with the mean 3.5

The interval says how far the figure would move with other passages like those of this text. It does not cover training
again with another seed, and it is too narrow for other texts: scenes and chapters differ by more than the passages
within them, so the interval of a few thousand characters does not hold for the whole book. Differences of two models
suffer much less from that, because what is difficult for one is difficult for the other. docs/mathematics.md has
figures.

The blocks depend only on the number of characters and the seed. Two models on one text are therefore resampled in the
same places, and the interval of their difference is that of the differences of their resampled means (paired).

Legend: N characters, R resamples. A series may be in any unit; this module knows nothing of texts, models or printing.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

RESAMPLES: Final = 1000
LEVEL: Final = 0.95
BLOCKS: Final = 20  # the least number of blocks; a text with fewer characters has no interval
_SEED: Final = 1

Floats = NDArray[np.float64]
Interval = tuple[float, float]  # low, high


def block_length(characters: int) -> int:
    """The number of characters of a block: N^(2/3), and at most N / 20, which is smaller up to N = 8000.

    For a process with a short memory N^(1/3) would suffice, but the dependence in a text has no definite end.

    >>> [block_length(characters) for characters in (10, 400, 8_000, 1_000_000)]
    [1, 20, 400, 10000]
    """
    return max(1, min(round(math.pow(characters, 2 / 3)), characters // BLOCKS))


def resampled_means(
    series: NDArray[np.floating[Any]], *, length: int = 0, resamples: int = RESAMPLES, seed: int = _SEED
) -> Floats | None:
    """The means [R] of resampled texts, made of blocks of a series [N], such as the surprisal of each character.

    Blocks have `length` values (0: `block_length`). None for fewer than 20 values, or if one is not finite. Equal N,
    length and seed give equal blocks. Takes O(N + R N / block) time, and the memory of four series.
    """
    values = np.asarray(series, dtype=np.float64)
    if len(values) < BLOCKS or not np.isfinite(values).all():
        return None
    length = length or block_length(len(values))
    mean = float(values.mean())
    running = np.cumsum(np.concatenate([[0.0], values - mean, values[: length - 1] - mean]))
    blocks = running[length:] - running[:-length]  # [N], sums of the blocks that begin at each character
    count = -(-len(values) // length)
    generator = np.random.default_rng(seed)
    sums = [blocks[generator.integers(len(blocks), size=count)].sum() for _ in range(resamples)]
    return np.array(sums, dtype=np.float64) / (count * length) + mean


def interval(means: Floats | None, level: float = LEVEL) -> Interval | None:
    """The interval that contains the middle `level` of the resampled means [R]; None for None.

    >>> interval(np.arange(1001.0), level=0.5)
    (250.0, 750.0)
    """
    if means is None:
        return None
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2]).tolist()
    return low, high


def difference(means: Floats | None, others: Floats | None, level: float = LEVEL) -> Interval | None:
    """The paired interval of the difference of two means over the same characters; None if one is None."""
    return None if means is None or others is None else interval(means - others, level)
