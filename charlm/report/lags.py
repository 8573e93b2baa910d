"""The report of `charlm lags` and its picture: the share of right answers against the lag, for each cell and seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from charlm.inspection.lags import BRIDGED, FRESH, Trial, longest_bridged
from charlm.inspection.tasks import Task
from charlm.report.console import Console, paragraphs, table
from charlm.report.picture import COLORS, Size, legend_above, render, title
from charlm.report.words import duration

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SIZE: Final = Size(7.2, 4.4)
_MARKERS: Final = "osD^v*"


def lags_report(out: Console, found: Sequence[Trial], task: Task) -> None:
    """A row for each network and lag, and how far the networks of each cell get."""
    columns = ["cell", "lag", "seed", "right", "95 % interval", "training sequences", "time"]
    table(out, columns, [_row(one) for one in sorted(found, key=_order(found))])
    paragraphs(out, ["", describe(found, task)])


def _order(found: Sequence[Trial]) -> Callable[[Trial], tuple[int, int, int]]:
    cells = list(dict.fromkeys(one.cell for one in found))
    return lambda one: (cells.index(one.cell), one.lag, one.seed)


def _row(one: Trial) -> tuple[str, ...]:
    low, high = one.interval
    return (
        one.cell,
        f"{one.lag:,}",
        f"{one.seed}",
        f"{100 * one.share:.1f} %",
        f"{100 * low:.1f} to {100 * high:.1f} %",
        f"{one.sequences:,}",
        duration(one.seconds) if one.trained else "not trained",
    )


def note(one: Trial) -> str:
    """A trial in a line, while others go on."""
    how = duration(one.seconds) if one.trained else "not trained, as a shorter lag was not learned"
    return f"{one.cell}, seed {one.seed}, lag {one.lag:,}: {100 * one.share:.1f} % right ({how})"


def describe(found: Sequence[Trial], task: Task) -> str:
    """How far the networks of each cell get, in words."""
    seeds = len({one.seed for one in found})
    networks = "the network" if seeds == 1 else f"all {seeds} networks"
    parts = [
        f"{cell}: up to {lag:,} characters" if lag else f"{cell}: not at the shortest lag"
        for cell, lag in longest_bridged(found).items()
    ]
    return (
        f"Lags at which {networks} of a cell give {100 * BRIDGED:g} % right answers or more: {'; '.join(parts)}. "
        f"By chance {100 * task.chance:.1f} % are right. Each share is of {FRESH:,} new sequences."
    )


def lag_curves(found: Sequence[Trial], task: Task, name: str, kind: str = "png") -> bytes:
    """The share of right answers against the lag, with 95 % intervals, as png or svg. Raises PictureError.

    A cell is a colour, each of its seeds a line.
    """
    cells = list(dict.fromkeys(one.cell for one in found))

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        title(axes, name)
        for number, cell in enumerate(cells):
            color, marker = COLORS[number % len(COLORS)], _MARKERS[number % len(_MARKERS)]
            for seed in sorted({one.seed for one in found}):
                own = sorted((one for one in found if (one.cell, one.seed) == (cell, seed)), key=lambda one: one.lag)
                shares = [100 * one.share for one in own]
                low = [100 * max(0.0, one.share - one.interval[0]) for one in own]
                high = [100 * max(0.0, one.interval[1] - one.share) for one in own]
                axes.errorbar(
                    [one.lag for one in own],
                    shares,
                    [low, high],
                    color=color,
                    marker=marker,
                    markersize=4,
                    capsize=2,
                    alpha=0.8,
                    label="_" if seed else cell,
                )
        axes.axhline(100 * task.chance, color="0.4", linestyle="--", label="chance")
        axes.set_xscale("log")
        axes.set_xticks(sorted({one.lag for one in found}))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axes.minorticks_off()
        axes.set(xlabel="lag (characters)", ylabel="right answers (%)", ylim=(-3, 105))
        legend_above(axes)

    return render(draw, _SIZE, kind)
