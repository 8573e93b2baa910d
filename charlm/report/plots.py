"""The curves of a training run: loss, gradient norm and learning rate against characters seen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from charlm.report.picture import BLUE, GREEN, ORANGE, PURPLE, Size, count_ticks, legend_above, render, title
from charlm.report.words import bits
from charlm.storage.records import Metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Rows = Sequence[Metrics]

_SIZE: Final = Size(7.2, 6.0)
_FEW: Final = 40  # points up to which each is marked
_SMOOTHED: Final = 1 / 50  # of the run, averaged
_TALLEST: Final = 12.0  # bits per character above the lowest loss; more is divergence


def curves(name: str, rows: Rows) -> bytes:
    """The picture of a run of this name, as PNG; `rows` are those of metrics.jsonl. Raises PictureError."""

    def draw(figure: Figure) -> None:
        loss, norm, rate = figure.subplots(3, 1, sharex=True, height_ratios=(5, 1.2, 1.2))
        title(loss, name)
        _draw_losses(loss, rows)
        _draw_norms(norm, rows)
        _draw_rates(rate, rows)
        last = max((row.characters_seen for row in rows), default=1)
        rate.set(xlabel="training characters seen", xlim=(0, 1.01 * last))
        count_ticks(rate.xaxis, last)
        figure.align_ylabels([loss, norm, rate])

    return render(draw, _SIZE)


def _draw_losses(axes: Axes, rows: Rows) -> None:
    """Training loss, raw and smoothed, and the validation losses with the best of them marked."""
    seen = [row.characters_seen for row in rows]
    train = [bits(row.train_loss) for row in rows]
    means = smoothed(train)
    mark = "." if len(rows) <= _FEW else ""
    axes.plot(seen, train, color=BLUE, alpha=0.3, linewidth=0.8)
    axes.plot(seen, means, marker=mark, color=BLUE, label="training" if means == train else "training (smoothed)")
    validations = [
        (row.characters_seen, bits(row.val_loss), row.step)
        for row in rows
        if row.val_loss is not None and math.isfinite(row.val_loss)
    ]
    values = [value for _, value, _ in validations]
    if validations:
        mark = "o" if len(validations) <= _FEW else ""
        axes.plot([at for at, *_ in validations], values, marker=mark, markersize=3.5, color=ORANGE, label="validation")
        _mark_best(axes, *min(validations, key=lambda validation: validation[1]))
    axes.set(ylabel="loss (bits per character)", ylim=loss_limits(means, values))
    nats_beside(axes)
    legend_above(axes)


def nats_beside(axes: Axes) -> None:
    """A second scale to the right of an axis in bits: the same in nats."""
    nats = axes.secondary_yaxis("right", functions=(_nats, _bits))
    nats.set_ylabel("nats per character")
    nats.spines["right"].set_visible(True)


def _nats(values: Any) -> Any:
    return values * math.log(2)


def _bits(values: Any) -> Any:
    return values / math.log(2)


def _mark_best(axes: Axes, seen: float, value: float, step: int) -> None:
    label = f"best validation: {value:.3f} bits, step {step:,}"
    axes.axhline(value, color=ORANGE, linewidth=0.8, linestyle=":")
    star: dict[str, Any] = {"marker": "*", "markersize": 12, "markeredgecolor": "black", "markeredgewidth": 0.6}
    axes.plot([seen], [value], linestyle="none", color=ORANGE, zorder=3, label=label, **star)


def loss_limits(train: Sequence[float], validation: Sequence[float]) -> tuple[float, float]:
    """From below the lowest loss to above the first, unless the first would press the rest together.

    Losses far above the rest, as of a start that diverged, lie outside of the picture.
    """
    values = sorted(value for value in (*train, *validation) if math.isfinite(value))
    if not values:
        return 0.0, 1.0
    low, usual = values[0], values[int(0.8 * (len(values) - 1))]
    high = min(values[-1], low + max(4 * (usual - low), 0.5), low + _TALLEST)
    margin = max(0.05 * (high - low), 0.02)
    return low - margin, high + margin


def _draw_norms(axes: Axes, rows: Rows) -> None:
    points = [(row.characters_seen, row.grad_norm) for row in rows if row.grad_norm is not None]
    norms = [norm for _, norm in points if 0 < norm < math.inf]
    seen, values = _columns(points)
    axes.plot(seen, values, color=GREEN, alpha=0.3, linewidth=0.8)
    axes.plot(seen, smoothed(values), color=GREEN, marker="." if len(points) <= _FEW else "")
    axes.set_ylabel("gradient\nnorm")
    if norms and max(norms) > 20 * min(norms):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(_plain)
    else:
        axes.set_ylim(0, 1.1 * max(norms, default=1.0))
        _few_ticks(axes)


def _draw_rates(axes: Axes, rows: Rows) -> None:
    points = [(row.characters_seen, row.lr) for row in rows]
    axes.plot(*_columns(points), color=PURPLE, marker="." if len(points) <= _FEW else "")
    axes.set_ylabel("learning\nrate")
    axes.set_ylim(0, 1.1 * max((rate for _, rate in points), default=1.0) or 1.0)
    _few_ticks(axes)


def _few_ticks(axes: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.yaxis.set_major_locator(MaxNLocator(3, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter(_plain)


def _plain(value: float, _: float) -> str:
    return f"{value:g}"


def _columns(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [at for at, _ in points], [value for _, value in points]


def smoothed(values: Sequence[float], width: float = _SMOOTHED) -> list[float]:
    """The mean over neighbours on both sides, fewer towards the ends, so that no curve lags behind its values.

    >>> smoothed([4.0, 1.0, 1.0, 1.0, 4.0], width=0.4)
    [4.0, 2.0, 1.0, 2.0, 4.0]
    """
    half = round(len(values) * width / 2)
    reach = [min(half, at, len(values) - 1 - at) for at in range(len(values))]
    return [sum(values[at - near : at + near + 1]) / (2 * near + 1) for at, near in enumerate(reach)]
