"""Block bootstrap intervals against processes whose mean is known, and against a resampling written out."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from charlm.evaluation.bootstrap import (
    BLOCKS,
    RESAMPLES,
    block_length,
    difference,
    interval,
    resampled_means,
)

Floats = NDArray[np.float64]


def autoregressive(random: np.random.Generator, size: int, *, tracks: int = 1, phi: float = 0.9) -> Floats:
    """Series [tracks, size] of mean 0 with x_t = phi x_(t-1) + noise, from where it has forgotten its start."""
    noise = random.standard_normal((200 + size, tracks))
    series = np.zeros_like(noise)
    for t in range(1, len(noise)):
        series[t] = phi * series[t - 1] + noise[t]
    return np.ascontiguousarray(series[200:].T)


def width(means: Floats | None) -> float:
    found = interval(means)
    assert found is not None
    return found[1] - found[0]


def means_of(series: Floats) -> Floats:
    means = resampled_means(series)
    assert means is not None
    return means


def test_resamples_are_means_of_whole_blocks_on_a_circle() -> None:
    """Written out block by block with the same random places; 90 characters make 20 blocks of 4 and a few more."""
    series = np.random.default_rng(0).normal(3, 2, 90)
    length = block_length(90)
    assert length == 4
    means = resampled_means(series, resamples=50, seed=7)
    draw = np.random.default_rng(7)
    for found in means if means is not None else []:
        starts = draw.integers(90, size=23)
        wanted = np.mean([series[(start + step) % 90] for start in starts for step in range(length)])
        assert found == pytest.approx(wanted, rel=1e-12)
    assert means is not None
    assert means.shape == (50,)


@pytest.mark.parametrize("size", [500, 2000, 10_000])
def test_an_interval_covers_the_true_mean_about_as_often_as_it_says(size: int) -> None:
    """Of 200 series that remember about 20 characters; single characters would cover it in a third of cases."""
    series = autoregressive(np.random.default_rng(size), size, tracks=200)
    found = [interval(resampled_means(one, resamples=100)) for one in series]
    covered = np.mean([each is not None and each[0] < 0 < each[1] for each in found])
    assert (0.78 if size == 500 else 0.85) <= covered <= 0.99


def test_the_interval_has_the_theoretical_width() -> None:
    """The variance of the mean of n values with x_t = phi x_(t-1) + noise is 1 / (n (1 - phi)^2)."""
    series = autoregressive(np.random.default_rng(1), 20_000, tracks=20, phi=0.5)
    widths = [width(resampled_means(one)) for one in series]
    assert np.mean(widths) == pytest.approx(2 * 1.96 * 2 / np.sqrt(20_000), rel=0.1)


def test_resampled_means_scatter_around_the_mean() -> None:
    series = np.random.default_rng(2).exponential(2, 4001)
    means = means_of(series)
    assert means.mean() == pytest.approx(series.mean(), abs=3 * means.std() / np.sqrt(RESAMPLES))


def test_a_constant_series_has_an_interval_of_one_point() -> None:
    found = interval(resampled_means(np.full(1234, 2.7)))
    assert found == pytest.approx((2.7, 2.7), abs=1e-12)


def test_paired_differences_are_much_surer_than_unpaired_ones() -> None:
    """Two models that find the same passages hard, of which one needs 0.05 more."""
    random = np.random.default_rng(3)
    hard = autoregressive(random, 10_000)[0]
    one, other = (hard + random.normal(more, 0.3, len(hard)) for more in (2.0, 2.05))
    first, second = means_of(one), means_of(other)
    paired = difference(second, first)
    assert paired is not None
    assert 0 < paired[0] < 0.05 < paired[1]
    unpaired = means_of(one)[np.random.default_rng(0).permutation(RESAMPLES)]
    assert width(second - first) < width(second - unpaired) / 10


def test_equal_series_differ_by_nothing_and_another_seed_gives_another_interval() -> None:
    series = np.random.default_rng(4).normal(2, 1, 3000)
    assert np.array_equal(means_of(series), means_of(series.copy()))
    assert difference(means_of(series), means_of(series)) == (0, 0)
    other = resampled_means(series, seed=2)
    assert other is not None
    assert not np.array_equal(means_of(series), other)


def test_single_precision_is_summed_in_double() -> None:
    series = np.random.default_rng(5).normal(2, 1, 3000).astype(np.float32)
    means = resampled_means(series)
    assert means is not None
    assert np.array_equal(means, means_of(series.astype(np.float64)))


@pytest.mark.parametrize("series", [[], [1.0], [1.0] * (BLOCKS - 1), [1.0] * 50 + [np.inf], [np.nan] * 50])
def test_what_is_too_short_or_not_finite_has_none(series: list[float]) -> None:
    means = resampled_means(np.array(series))
    assert means is None
    assert interval(means) is None
    assert difference(means, np.zeros(3)) is None
    assert difference(np.zeros(3), means) is None


@pytest.mark.parametrize("size", [20, 21, 399, 8001, 1_000_003])
def test_blocks_leave_room_for_enough_of_them(size: int) -> None:
    assert 1 <= block_length(size) <= size / BLOCKS
