"""What people see of `charlm inspect gradients`: a table and a picture of how far gradients reach back."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from charlm.inspection.gradients import Reach, Reached
from charlm.report.console import Console, paragraphs, table
from charlm.report.picture import COLORS, Size, label, legend_above, render
from charlm.report.words import figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDTH: Final = 7.2  # inches
_HEIGHT: Final = 3.4  # inches of one layer
_ROW: Final = 0.2  # inches of a row of the legend
_TITLE: Final = "Gradient of the loss in states before it (thick: h, thin: c)"
_FLOOR: Final = -40.0  # the lowest power of ten that is drawn
_DISTANCES: Final = (1, 10, 100, 1000)
_STYLES: Final = ("-", "--", ":", "-.")


def reaches_report(out: Console, networks: Sequence[Reached]) -> None:
    """A row for each state of each layer: the norm at a few distances, the half-life, and the factor per token."""
    largest = len(networks[0].reaches[0].log_norms) - 1
    shown = [distance for distance in _DISTANCES if distance <= largest]
    columns = ["", "parameters", "layer", "state", *(f"at {distance:,}" for distance in shown), "half-life", "factor"]
    rows = [
        (
            network.name,
            f"{network.parameters:,}",
            f"{reach.layer}",
            reach.state,
            *(power(reach.log_norms[distance] - reach.log_norms[0]) for distance in shown),
            f"over {largest:,}" if reach.half_life is None else figure(reach.half_life, 1),
            figure(reach.factor, 3),
        )
        for network in networks
        for reach in network.reaches
    ]
    table(out, columns, rows)
    paragraphs(
        out,
        [
            "Norm of dJ/dh in parts of that at distance 0; the half-life is the distance at which it has halved, the "
            "factor what each further token multiplies it by at long distances."
        ],
    )


def power(log: float) -> str:
    """A number from its natural logarithm, which may be too small for a float.

    >>> power(math.log(0.25)), power(-1000.0), power(-math.inf)
    ('0.25', '5.1e-435', '0')
    """
    if not math.isfinite(log):
        return "0" if log < 0 else "-"
    if log > math.log(1e-3) and log < math.log(1e4):
        return f"{math.exp(log):.3g}"
    exponent = math.floor(log / math.log(10))
    digits = math.exp(log - exponent * math.log(10))
    if digits >= 9.95:
        digits, exponent = 1.0, exponent + 1
    return f"{digits:.1f}e{exponent:+03d}"


def reaches_picture(networks: Sequence[Reached], kind: str = "png") -> bytes:
    """The norms against the distance, a panel for each layer, logarithmic, as png, svg or pdf. Raises PictureError.

    A network has one colour: h is a thick line, c of an LSTM a thin one.
    """
    layers = max(reach.layer for network in networks for reach in network.reaches)

    def draw(figure: Figure) -> None:
        panels = figure.subplots(layers, 1, sharex=True, squeeze=False)[:, 0]
        for number, axes in enumerate(panels, 1):
            axes.set_title(_TITLE if number == 1 else "")
            for at, network in enumerate(networks):
                look = {"color": COLORS[at % len(COLORS)], "linestyle": _STYLES[at // len(COLORS) % len(_STYLES)]}
                _draw(axes, network, number, look)
            axes.set(ylabel=f"layer {number}: norm,\n1 at distance 0", yscale="log", ylim=_limits(networks, number))
        panels[-1].set_xlabel("distance k (tokens)")
        legend_above(panels[0], columns=2)

    rows = -(-len(networks) // 2)
    return render(draw, Size(_WIDTH, 0.6 + layers * _HEIGHT + rows * _ROW), kind)


def _draw(axes: Axes, network: Reached, layer: int, look: dict[str, Any]) -> None:
    for reach in network.reaches:
        if reach.layer == layer:
            main = reach.state == "h"
            name = label(network.name) if main else f"_{reach.state}"
            x, y = zip(*_points(reach), strict=True)
            axes.plot(x, y, label=name, linewidth=1.6 if main else 0.8, **look)


def _points(reach: Reach) -> Iterator[tuple[int, float]]:
    relative = (reach.log_norms - reach.log_norms[0]) / math.log(10)
    for distance, exponent in enumerate(relative.tolist()):
        if exponent < 2 * _FLOOR:
            return
        yield distance, 10.0**exponent


def _limits(networks: Sequence[Reached], layer: int) -> tuple[float, float]:
    """From the lowest norm, or 1e-40, to the highest."""
    found = [reach.log_norms - reach.log_norms[0] for one in networks for reach in one.reaches if reach.layer == layer]
    exponents = np.concatenate(found) / math.log(10)
    low, high = max(_FLOOR, float(exponents.min())), float(exponents.max())
    return 10 ** (low - 0.5), 10 ** (high + 0.5)
