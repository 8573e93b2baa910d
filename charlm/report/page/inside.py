"""What a model's page shows of its inside: the cells that were found, and how far gradients and memory reach back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Final

from charlm.inspection.gradients import Reach
from charlm.inspection.memory import Memory, Row
from charlm.inspection.overview import Gradients, Overview
from charlm.report.cells import follows, found_units
from charlm.report.memory import describe_memory
from charlm.report.page.cells_page import found_table
from charlm.report.page.chart import Line, Scale, chart, scale_of, ticks
from charlm.report.page.markup import wide_table
from charlm.report.page.model_page import CellsPart, Section
from charlm.report.reaches import power
from charlm.report.words import figure

_FLOOR: Final = -40.0  # the lowest power of ten that is drawn
_DISTANCES: Final = (1, 10, 100)
_COLOURS: Final = 4  # of lines, by layer (page.css)


def cells_part(found: Overview, text: str) -> CellsPart:
    """What `model_page` has to know of the cells that were found in a text of this name."""
    if isinstance(found.cells, str):
        return CellsPart(_paragraph(found.cells))
    cells = found.cells
    units = [(unit.layer, unit.number, follows(unit, cells.findings)) for unit in found_units(cells.findings)]
    return CellsPart(
        f"<p>Cells were looked for in the first {cells.characters:,} characters of {escape(text)}.</p>\n"
        + found_table(cells.findings, cells.costs),
        units,
    )


def inside_sections(found: Overview, text: str, unit: str) -> list[Section]:
    """Sections on gradients and memory; `unit` is what a token is called."""
    return [
        Section(id="gradients", title="Gradients", content=_gradients(found.gradients, text)),
        Section(id="memory", title="Memory", content=_memory(found.memory, text, unit)),
    ]


def _paragraph(text: str) -> str:
    return f"<p>{escape(text)}</p>\n"


def _gradients(found: Gradients | str, text: str) -> str:
    if isinstance(found, str):
        return _paragraph(found)
    explained = (
        "The norm of the gradient of one character's loss in a state so many tokens before, in parts of that at "
        f"distance 0: the geometric mean over {found.places} places of {text}. The half-life is the distance at which "
        "it has halved, the factor what each further token multiplies it by at long distances."
    )
    return _paragraph(explained) + _reach_chart(found.reaches) + _reach_table(found.reaches)


def _reach_chart(reaches: Sequence[Reach]) -> str:
    exponents = [((reach.log_norms - reach.log_norms[0]) / math.log(10)).tolist() for reach in reaches]
    points = [[(k, own) for k, own in enumerate(each) if math.isfinite(own) and own >= _FLOOR] for each in exponents]
    drawn = [own for each in points for _, own in each]
    if not drawn:  # every gradient is 0
        return ""
    low, high, last = min(-1.0, *drawn), max(0.0, *drawn), len(exponents[0]) - 1
    powers = [(value, "1" if value == 0 else f"1e{value:+g}") for value in ticks(low, high) if value == round(value)]
    lines = [
        Line(
            f"k{(reach.layer - 1) % _COLOURS}{'' if reach.state == 'h' else ' other'}",
            own,
            f"{reach.layer}: {reach.state}",
        )
        for reach, own in zip(reaches, points, strict=True)
    ]
    return chart(
        lines,
        Scale(0, last, [(k, f"{k:g}") for k in ticks(0, last) if k <= last]),
        Scale(min(low, *(value for value, _ in powers)), max(high, *(value for value, _ in powers)), powers),
        words="; ".join(_in_words(reach) for reach in reaches),
        caption="Norm of the gradient, 1 at distance 0, by distance in tokens; a line for each layer and state "
        "(h: solid, c: dashed)",
    )


def _in_words(reach: Reach) -> str:
    last = len(reach.log_norms) - 1
    return f"layer {reach.layer}, {reach.state}: {power(reach.log_norms[last] - reach.log_norms[0])} at distance {last}"


def _reach_table(reaches: Sequence[Reach]) -> str:
    largest = len(reaches[0].log_norms) - 1
    shown = sorted({distance for distance in (*_DISTANCES, largest) if distance <= largest})
    rows = [
        (
            f"{reach.layer}: {reach.state}",
            *(power(reach.log_norms[distance] - reach.log_norms[0]) for distance in shown),
            f"over {largest:,}" if reach.half_life is None else figure(reach.half_life, 1),
            figure(reach.factor, 3),
        )
        for reach in reaches
    ]
    columns = ["layer: state", *(f"at {distance}" for distance in shown), "half-life", "factor"]
    return wide_table("How gradients fall", columns, rows)


def _memory(found: Memory | str, text: str, unit: str) -> str:
    if isinstance(found, str):
        return _paragraph(found)
    explained = (
        f"Bits per {unit} where the model sees only so many {unit}s before, from the zero state, in {text}. A model "
        "that was trained with a carried state is not used to short contexts."
    )
    said = "".join(_paragraph(line) for line in describe_memory(found, unit))
    return _paragraph(explained) + _memory_chart(found.rows, unit) + said + _memory_table(found, unit)


def _memory_chart(rows: Sequence[Row], unit: str) -> str:
    intervals = [row.interval for row in rows]
    edges = [one for one in intervals if one] if all(intervals) else []
    values = [row.bits for row in rows] + [bits for pair in edges for bits in pair]
    contexts = [row.context for row in rows]
    first, last = rows[0], rows[-1]
    return chart(
        [Line("val", [(row.context, row.bits) for row in rows], edges=edges, dots=True)],
        Scale(contexts[0], max(contexts[-1], 2), [(context, f"{context:,}") for context in contexts], log=True),
        scale_of(min(values), max(values)),
        words=f"{first.bits:.2f} bits from {first.context} {unit} of context, {last.bits:.2f} from {last.context:,}",
        caption=f"Bits per {unit}, by {unit}s of context; the band is the 95 % interval",
    )


def _memory_table(found: Memory, unit: str) -> str:
    def between(edges: tuple[float, float] | None) -> str:
        return f"{edges[0]:.2f} to {edges[1]:.2f}" if edges else "-"

    rows = []
    for row in found.rows:
        gain, edges = found.gain(row)
        rows.append((f"{row.context:,}", figure(row.bits, 3), between(row.interval), figure(gain, 3), between(edges)))
    columns = ["context", f"bits per {unit}", "95 % interval", "longest gains", "95 % interval"]
    return f"<details><summary>All contexts</summary>{wide_table('Contexts', columns, rows)}</details>\n"
