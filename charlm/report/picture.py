"""Pictures as bytes, drawn by matplotlib (an extra, `plot`) without the user's back end, settings and log.

A picture must not end a run that took hours: any failure while drawing it is a `PictureError`.
"""

from __future__ import annotations

import io
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from charlm.errors import CharlmError
from charlm.report.words import one_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

# Okabe and Ito (2008): told apart by colour-blind people too, and in print.
BLUE: Final = "#0072B2"
ORANGE: Final = "#D55E00"
GREEN: Final = "#009E73"
PURPLE: Final = "#AA4499"
GREY: Final = "0.6"
COLORS: Final = (BLUE, ORANGE, GREEN, PURPLE, "#E69F00", "#56B4E9", "0.25")
_DPI: Final = 200
_NAME: Final = 60  # characters of a name in a title
_NO_DATE: Final[Mapping[str, dict[str, Any]]] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
_STYLE: Final = {
    "font.size": 9.5,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "0.9",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.4,
    "legend.frameon": False,
    "legend.fontsize": 9.5,
    "svg.hashsalt": "charlm",  # the same numbers are the same picture
}


class PictureError(CharlmError):
    """A picture could not be drawn."""


class Size(NamedTuple):
    """Inches."""

    width: float
    height: float


def available() -> bool:
    """Whether matplotlib is installed."""
    return find_spec("matplotlib") is not None


def render(draw: Callable[[Figure], None], size: Size, kind: str = "png") -> bytes:
    """What `draw` puts on an empty figure, as png, svg or pdf. Raises PictureError, whatever goes wrong."""
    if not available():
        raise PictureError("matplotlib is not installed", hint="pip install matplotlib")
    try:
        with _quiet(), _own_settings() as new_figure:
            figure = new_figure(figsize=size, layout="constrained")
            draw(figure)
            _settle(figure)
            written = io.BytesIO()
            figure.savefig(written, format=kind, dpi=_DPI, metadata=_NO_DATE.get(kind, {}))
            return written.getvalue()
    except Exception as error:
        raise PictureError(f"matplotlib failed: {type(error).__name__}: {one_line(str(error))}") from error


def _settle(figure: Figure) -> None:
    """Lay the figure out and round the places: their last digits vary from one solution to the next, as SVGs show."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for axes in figure.axes:
        x, y, width, height = axes.get_position().bounds
        axes.set_position((round(x, 6), round(y, 6), round(width, 6), round(height, 6)))


@contextmanager
def _quiet() -> Iterator[None]:
    """No warnings of missing letters, and no log: matplotlib tells of caches and of settings that nobody uses here."""
    log = logging.getLogger("matplotlib")
    before = log.level
    log.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        log.setLevel(before)


@contextmanager
def _own_settings() -> Iterator[Callable[..., Figure]]:
    """A maker of figures under matplotlib's defaults and the style above; the user's settings are there again after.

    MPLBACKEND is kept from matplotlib while it is imported, which fails on a back end that is not installed.
    """
    backend = None if "matplotlib" in sys.modules else os.environ.pop("MPLBACKEND", None)
    try:
        import matplotlib as mpl
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    finally:
        if backend is not None:
            os.environ["MPLBACKEND"] = backend

    def new_figure(**options: Any) -> Figure:
        figure = Figure(**options)
        FigureCanvasAgg(figure)
        return figure

    with mpl.rc_context():
        mpl.rcdefaults()
        settings: Any = mpl.rcParams
        settings.update(_STYLE)
        yield new_figure


def title(axes: Axes, name: str) -> None:
    """A foreign name as a title: on one line, cut, and no mathematics between its dollar signs."""
    axes.set_title(label(name), parse_math=False)


def label(name: str, length: int = _NAME) -> str:
    """A name as matplotlib takes it: one that begins with an underscore would be left out of a legend."""
    shown = one_line(name)
    shown = shown if len(shown) <= length else "…" + shown[1 - length :]
    return " " + shown if shown.startswith("_") else shown


def legend_above(axes: Axes, *, columns: int = 4) -> None:
    """A legend between the title and the axes, where it covers nothing."""
    entries, labels = axes.get_legend_handles_labels()
    if not entries:
        return
    rows = -(-len(labels) // columns)
    legend = axes.legend(
        loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=columns, borderaxespad=0.2, handlelength=1.6
    )
    for entry in legend.get_texts():
        entry.set_parse_math(False)
    axes.title.set_y(1.0)
    axes.set_title(axes.get_title(loc="left"), loc="left", pad=8 + 16 * rows, parse_math=False)


def count_ticks(axis: Axis, largest: float) -> None:
    """Ticks at round counts: 500, 20k, 1.5M."""
    unit, letter = next((unit, letter) for unit, letter in _UNITS if largest >= 10 * unit or unit == 1)
    axis.set_major_formatter(lambda value, _: f"{value / unit:,g}{letter if value else ''}")


_UNITS: Final = ((10**9, "G"), (10**6, "M"), (10**3, "k"), (1, ""))
