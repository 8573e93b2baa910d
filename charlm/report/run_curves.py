"""The picture of `charlm plot`: validation and training loss of several runs against time, steps or characters."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from charlm.report.picture import COLORS, Size, count_ticks, label, legend_above, render
from charlm.report.plots import loss_limits, nats_beside, smoothed
from charlm.report.words import bits
from charlm.storage.records import Metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SIZE: Final = Size(7.2, 4.6)
_ROWS: Final = 3  # of the legend that this has room for; the picture grows by each further one
_ROW: Final = 0.2  # inches
_LISTED: Final = 28  # runs in the legend, each with a look of its own
_FEW: Final = 40  # validations up to which each is marked
_NAME: Final = 28  # characters of a name in the legend
_STYLES: Final = ("-", "--", ":", "-.")
_LEGEND: Final = 88  # characters that a row of the legend has room for
_ENTRY: Final = 14  # that an entry takes beside its name


class Curve(NamedTuple):
    """A run's name and its rows of metrics."""

    name: str
    rows: Sequence[Metrics]

    @property
    def validations(self) -> list[Metrics]:
        """The rows with a validation."""
        return [row for row in self.rows if row.val_loss is not None]

    @property
    def best(self) -> Metrics | None:
        """The row with the lowest validation loss."""
        return min(self.validations, key=lambda row: row.val_loss or 0.0, default=None)


class _Axis(NamedTuple):
    """What the curves are drawn against."""

    value: Callable[[Metrics], float]
    words: str


AXES: Final = {
    "seconds": _Axis(lambda row: row.seconds, "training time"),
    "steps": _Axis(lambda row: row.step, "steps"),
    "characters": _Axis(lambda row: row.characters_seen, "training characters seen"),
}
_UNITS: Final = ((3600, "hours", 2), (60, "minutes", 5), (1, "seconds", 0))  # and how many make it the larger one


def run_curves(
    curves: Sequence[Curve], against: str = "seconds", kind: str = "png", *, levels: Mapping[str, float] | None = None
) -> bytes:
    """The losses of all runs in one picture, as png, svg or pdf. Raises PictureError.

    A run has one colour: its validation loss is a thick line, its training loss, smoothed, a thin one. `against` is
    one of `AXES`. The legend has the lowest validation loss of each run. `levels` are the bits per character of models
    that are not trained by steps, by name: each is a grey line across.
    """

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for number, curve in enumerate(curves):
            style = _STYLES[number // len(COLORS) % len(_STYLES)]
            look = {"color": COLORS[number % len(COLORS)], "linestyle": style}
            _draw(axes, curve, AXES[against], {**look, "label": _entry(curve) if number < _LISTED else "_unlisted"})
        for name, level in (levels or {}).items():
            axes.axhline(level, color="0.5", linestyle="--", label=f"{label(name, _NAME)}: {level:.3f}")
        _settle(axes, curves, against)

    rows = -(-min(len(curves), _LISTED + 1) // _columns(curves))
    return render(draw, Size(_SIZE.width, _SIZE.height + _ROW * max(0, rows - _ROWS)), kind)


def _columns(curves: Sequence[Curve]) -> int:
    """Of the legend: as many as its longest name leaves room for."""
    longest = max((len(label(curve.name, _NAME)) for curve in curves[:_LISTED]), default=0)
    return max(1, min(4, _LEGEND // (longest + _ENTRY)))


def _entry(curve: Curve) -> str:
    """A run in the legend."""
    name, best = label(curve.name, _NAME), curve.best
    return f"{name} (training)" if best is None else f"{name}: {bits(best.val_loss or 0.0):.3f}"


def _draw(axes: Axes, curve: Curve, against: _Axis, look: dict[str, Any]) -> None:
    """One run: thin what it learned from, thick what it is judged by, or the former alone."""
    at, training = [against.value(row) for row in curve.rows], smoothed([bits(row.train_loss) for row in curve.rows])
    validations = curve.validations
    if not validations:
        axes.plot(at, training, marker="." * (len(at) == 1), **look)
        return
    axes.plot(at, training, color=look["color"], alpha=0.45, linewidth=0.8, zorder=1.5)
    values = [bits(row.val_loss or 0.0) for row in validations]
    mark = "o" if len(values) <= _FEW else ""
    axes.plot([against.value(row) for row in validations], values, marker=mark, markersize=3.5, **look)


def _settle(axes: Axes, curves: Sequence[Curve], against: str) -> None:
    """Labels, limits and legend."""
    training = [loss for curve in curves for loss in smoothed([bits(row.train_loss) for row in curve.rows])]
    validation = [bits(row.val_loss or 0.0) for curve in curves for row in curve.validations]
    last = max((AXES[against].value(row) for curve in curves for row in curve.rows), default=1.0)
    axes.set(ylabel="loss (bits per character)", ylim=loss_limits(training, validation), xlim=(0, 1.02 * last or 1.0))
    axes.set_xlabel(AXES[against].words)
    if against == "seconds":
        unit, word = next((unit, word) for unit, word, many in _UNITS if last >= many * unit)
        axes.set_xlabel(f"{AXES[against].words} ({word})")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value / unit:g}")
        axes.xaxis.set_major_locator(_multiples(last, unit))
    else:
        count_ticks(axes.xaxis, last)
    nats_beside(axes)
    axes.set_title(_title(curves))
    if (more := len(curves) - _LISTED) > 0:
        axes.plot([], [], linestyle="none", label=f"and {more:,} more")
    legend_above(axes, columns=_columns(curves))


def _multiples(last: float, unit: int) -> Any:
    """Ticks at round numbers of this unit, eight at most."""
    from matplotlib.ticker import MultipleLocator

    rough = max(last / unit, 1e-9) / 8
    scale = 10.0 ** math.floor(math.log10(rough))
    return MultipleLocator(unit * next(step * scale for step in (1, 2, 5, 10) if step * scale >= rough))


def _title(curves: Sequence[Curve]) -> str:
    """What the lines are."""
    if not any(curve.validations for curve in curves):
        return "Training loss (smoothed)"
    return "Validation loss, its lowest beside each name; thin: training loss"
