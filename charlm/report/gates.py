"""What people see of `charlm inspect gates`: a table by layer and gate, and a picture with a point for each unit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from charlm.inspection.saturation import ALWAYS, Saturation
from charlm.report.console import Console, paragraphs, table
from charlm.report.picture import COLORS, Size, render
from charlm.report.words import figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PANEL: Final = 2.4  # inches, square
_ROW: Final = 4  # panels side by side


def gates_report(out: Console, gates: Sequence[Saturation]) -> None:
    """A row for each gate of each layer: means over its units, and how many units are saturated nearly throughout."""
    columns = ["layer", "gate", "low", "high", "share low", "share high", "mean", "units low", "units high"]
    rows = [
        (
            f"{one.layer}",
            one.gate,
            f"< {one.edges[0]:.1f}",
            f"> {one.edges[1]:.1f}",
            f"{100 * one.low.mean():.1f} %",
            f"{100 * one.high.mean():.1f} %",
            figure(float(one.mean.mean()), 2),
            f"{(one.low > ALWAYS).sum():,} of {len(one.low):,}",
            f"{(one.high > ALWAYS).sum():,} of {len(one.high):,}",
        )
        for one in gates
    ]
    table(out, columns, rows, left=(0, 1))
    paragraphs(out, [f"The last two columns count units that are so at over {100 * ALWAYS:.0f} % of the tokens."])


def gates_picture(name: str, gates: Sequence[Saturation], kind: str = "png") -> bytes:
    """A panel for each gate, a point for each unit: share of the tokens at which it is high, and low.

    As png, svg or pdf. Raises PictureError.
    """
    names = list(dict.fromkeys(one.gate for one in gates))
    across = min(_ROW, len(names))
    down = -(-len(names) // across)

    def draw(figure: Figure) -> None:
        panels = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False).ravel()
        for axes, gate in zip(panels, names, strict=False):
            for one in gates:
                if one.gate == gate:
                    color = COLORS[(one.layer - 1) % len(COLORS)]
                    axes.plot(
                        one.high, one.low, "o", color=color, markersize=3.5, alpha=0.6, label=f"layer {one.layer}"
                    )
            axes.plot([0, 1], [1, 0], color="0.8", linewidth=0.8, zorder=1)
            low, high = next(one.edges for one in gates if one.gate == gate)
            axes.set(xlabel=f"share above {high:.1f}", ylabel=f"share below {low:.1f}", title=f"{gate}")
            axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), aspect="equal")
        for axes in panels[len(names) :]:
            axes.set_visible(False)
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper right", ncols=len(labels))
        figure.suptitle(name, x=0.01, ha="left", fontsize=11, parse_math=False)

    return render(draw, Size(_PANEL * max(2, across), _PANEL * down + 0.8), kind)
