"""The report of `charlm inspect memory` and its picture: what contexts are worth, what predictions depend on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
from rich.text import Text

from charlm.evaluation.bootstrap import Floats, Interval
from charlm.inspection.memory import NEGLIGIBLE, Memory, Row
from charlm.inspection.saliency import DISTANCES, Saliency
from charlm.report.console import Console, is_coloured, paragraphs, table
from charlm.report.levels import sign, style
from charlm.report.picture import BLUE, GREEN, ORANGE, Size, legend_above, render, title
from charlm.report.words import figure, one_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SIZE: Final = Size(7.2, 7.0)
_BANDS: Final = (*((d, d) for d in range(1, 11)), (11, 15), (16, 20), (21, 30), (31, 40), (41, 50))
_STRONGEST: Final = 10  # characters of an example that are listed where there are no colours
# Background and letters, from a hundredth of the largest attribution on; for and against the character that came.
_FOR: Final = (("#d7d7ff", "#000000"), ("#8787ff", "#000000"), ("#0000d7", "#ffffff"))
_AGAINST: Final = (("#ffd7af", "#000000"), ("#ff8700", "#000000"), ("#af0000", "#ffffff"))
_LEVELS: Final = (0.05, 0.2, 0.5)  # of the largest, at which the next colour begins


class Example:
    """One position: the characters before it, the character there, and what each of the former is worth [D]."""

    def __init__(self, before: Sequence[str], target: str, found: Saliency) -> None:
        self.before, self.target = before, target
        self.place, self.bits = int(found.places[0]), float(found.bits[0])
        self.gradient, self.occlusion = found.gradient[0], found.occlusion[0]

    def record(self) -> dict[str, object]:
        """For JSON: nearest characters first."""
        return {
            "position": self.place,
            "target": self.target,
            "bits": self.bits,
            "before": list(self.before[::-1]),
            "gradient": self.gradient.tolist(),
            "occlusion": self.occlusion.tolist(),
        }


def memory_report(out: Console, found: Memory, unit: str) -> None:
    """A row for each context, and how far the model looks."""
    columns = [
        "context",
        f"bits per {unit}",
        "95 % interval",
        "longest gains",
        "95 % interval",
        "n-gram",
        "95 % interval",
    ]
    table(out, columns if found.ngrams else columns[:5], [_row(found, row) for row in found.rows])
    paragraphs(out, ["", *describe_memory(found, unit)])


def _row(found: Memory, row: Row) -> tuple[str, ...]:
    gain, edges = found.gain(row)
    ngram = found.ngram(row.context)
    own = (f"{row.context:,}", figure(row.bits, 3), _edges(row.interval), figure(gain, 3), _edges(edges))
    if not found.ngrams:
        return own
    return (*own, figure(ngram.bits, 3) if ngram else "-", _edges(ngram.interval) if ngram else "-")


def _edges(edges: Interval | None) -> str:
    return f"{edges[0]:.3f} to {edges[1]:.3f}" if edges else "-"


def describe_memory(found: Memory, unit: str) -> Iterator[str]:
    """How far the model looks, how far it could, and which n-gram model is as good, in words."""
    contexts, edges = [row.context for row in found.rows], found.reach_interval
    among = f" (95 % interval {edges[0]:,} to {edges[1]:,}, of the contexts measured)" if edges else ""
    if found.is_beyond and len(contexts) > 1:
        yield (
            f"The model looks back more than {contexts[-2]:,} {unit}s: {contexts[-1]:,} still gain {NEGLIGIBLE} bits "
            f"or more{among}."
        )
    else:
        yield f"The model looks back {found.reach:,} {unit}s: longer contexts gain less than {NEGLIGIBLE} bits{among}."
    if (reach := found.receptive_field) is not None:
        yield f"Its receptive field is {reach:,} {unit}s: what is further back cannot change a prediction."
    if found.ngrams:
        best = min(found.ngrams, key=lambda row: row.bits)
        same = next((row for row in found.rows if row.bits < best.bits), None)
        enough = (
            f"the model is better from {same.context:,} {unit}s of context on" if same else "the model never is better"
        )
        yield f"The best n-gram model, kneser-ney {best.context + 1}, has {best.bits:.3f} bits: {enough}."
    yield f"All figures are of the same {len(found.places):,} {unit}s, evenly spread over the text."


def saliency_report(out: Console, found: Saliency, unit: str) -> None:
    """Mean absolute attributions by distance, and how well the two ways agree."""
    rows = [
        (
            f"{first}" if first == last else f"{first} to {last}",
            figure(float(found.mean_gradient[first - 1 : last].mean()), 4),
            figure(float(found.mean_occlusion[first - 1 : last].mean()), 4),
        )
        for first, last in _BANDS
    ]
    table(out, ["distance", "gradient times input", "occlusion"], rows, title="mean absolute attribution, in bits")
    edges = found.correlation_interval
    among = f" (95 % interval {edges[0]:.2f} to {edges[1]:.2f})" if edges else ""
    paragraphs(
        out,
        [
            "",
            f"Rank correlation of the two over the {DISTANCES} distances: {figure(found.correlation, 2)}{among} with "
            f"their signs, mean of {len(found.correlations):,} {unit}s; {figure(found.correlation_of_means, 2)} of the "
            "absolute means.",
        ],
    )


def example_report(out: Console, one: Example) -> None:
    """The characters before a position, coloured by what they are worth, or the strongest of them in a table."""
    target = sign(one.target) if len(one.target) == 1 else one_line(one.target)
    paragraphs(out, ["", f"position {one.place:,}: “{target}” has {one.bits:.2f} bits after"])
    if is_coloured(out):
        for name, values in (("gradient times input", one.gradient), ("occlusion", one.occlusion)):
            line = Text(f"{name:<22}")
            for character, look in zip(one.before, _styles(values[::-1]), strict=True):
                line.append("".join(map(sign, character)), look)
            out.print(line.append(f" {target}"), soft_wrap=True)
        legend = Text(f"{'':<22}")
        legend.append(" more probable by it ", style(_FOR[1])).append(" less probable by it ", style(_AGAINST[1]))
        out.print(legend)
        return
    order = np.argsort(-np.abs(one.occlusion), kind="stable")[:_STRONGEST].tolist()
    paragraphs(out, ["".join(one_line(character) for character in one.before)])
    rows = [
        (
            f"{d + 1}",
            "".join(map(sign, one.before[-1 - d])),
            figure(float(one.gradient[d]), 3),
            figure(float(one.occlusion[d]), 3),
        )
        for d in order
    ]
    table(out, ["distance", "character", "gradient times input", "occlusion"], rows, left=1)


def _styles(values: Floats) -> Iterator[str]:
    largest = float(np.abs(values).max()) or 1.0
    for value in values.tolist():
        level = sum(abs(value) >= share * largest for share in _LEVELS)
        yield style((_FOR if value > 0 else _AGAINST)[level - 1]) if level else ""


def memory_curves(found: Memory, attributions: Saliency, name: str, unit: str, kind: str = "png") -> bytes:
    """Bits against context, and attributions against distance, as png or svg.

    Bits have 95 % intervals. Raises PictureError.
    """

    def draw(figure: Figure) -> None:
        upper, lower = figure.subplots(2, 1, height_ratios=(3, 2))
        title(upper, name)
        _draw_rows(upper, found.rows, "model", BLUE, "o")
        # order 1 has no context, which a logarithmic axis has no place for
        _draw_rows(upper, [row for row in found.ngrams if row.context], "kneser-ney", ORANGE, "s")
        upper.axvline(found.reach, color="0.4", linestyle="--", label=f"longer ones gain less than {NEGLIGIBLE} bits")
        if found.receptive_field is not None and found.receptive_field <= found.rows[-1].context:
            upper.axvline(found.receptive_field, color=GREEN, linestyle=":", label="receptive field")
        upper.set_xscale("log")
        upper.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        upper.set(xlabel=f"context ({unit}s)", ylabel=f"bits per {unit}")
        legend_above(upper)
        distances = np.arange(1, DISTANCES + 1)
        lower.plot(distances, attributions.mean_gradient, color=BLUE, label="gradient times input")
        lower.plot(distances, attributions.mean_occlusion, color=ORANGE, linestyle="--", label="occlusion")
        lower.set(xlabel=f"distance ({unit}s)", ylabel="mean absolute bits", ylim=(0, None))
        legend_above(lower)

    return render(draw, _SIZE, kind)


def _draw_rows(axes: Axes, rows: Sequence[Row], name: str, color: str, marker: str) -> None:
    if not rows:
        return
    contexts = [row.context for row in rows]
    axes.plot(contexts, [row.bits for row in rows], color=color, marker=marker, markersize=4, label=name)
    if all(row.interval for row in rows):
        edges = [row.interval or (0.0, 0.0) for row in rows]
        axes.fill_between(contexts, [low for low, _ in edges], [high for _, high in edges], color=color, alpha=0.15)
