"""The picture of `charlm score --plot`: surprisal along a text, and how it falls with the context that a model has."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from charlm.evaluation.surprisal import Surprisal
from charlm.report.picture import COLORS, Size, count_ticks, label, legend_above, render, title
from charlm.report.surprisal import Scored
from charlm.report.words import bits

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SIZE: Final = Size(7.2, 7.4)
_EACH: Final = 2000  # characters up to which each is drawn
_POINTS: Final = 100  # of the longest text's curve
_LEAST: Final = 20  # characters that a point averages over
_NAME: Final = 32  # characters of a name in a legend
_STYLES: Final = ("-", "--", ":", "-.")


def surprisal_curves(texts: Sequence[Scored], kind: str = "png") -> bytes:
    """Bits per character along each text, and by place since a cold start, as png or svg. Raises PictureError.

    The curves along the texts are means over stretches of a hundredth of the longest. Of a single short text each
    character is drawn, too, up to where the picture ends. Below the curves by place stands over how many characters
    each point averages.
    """

    def draw(figure: Figure) -> None:
        along, since, counts = figure.subplots(3, 1, height_ratios=(3, 2.2, 0.9))
        title(along, ", ".join(text.name for text in texts))
        _draw_along(along, texts)
        _draw_since(since, counts, texts)
        figure.align_ylabels([along, since, counts])

    return render(draw, _SIZE, kind)


def _draw_along(axes: Axes, texts: Sequence[Scored]) -> None:
    longest = max((len(text.surprisal.text) for text in texts), default=0)
    stretch = max(_LEAST, round(longest / _POINTS))
    single = len(texts) == 1
    top = 1.0
    if single and 0 < longest <= _EACH:
        values = bits(1) * texts[0].surprisal.character_nats
        axes.vlines(range(len(values)), 0, values, color="0.8", linewidth=0.7, label="each character")
    for text, color, style in _styled(texts):
        places, means = _means(text.surprisal, stretch)
        name = f"mean of {stretch:,} characters" if single else label(text.name, _NAME)
        axes.plot(places, means, color=color, linestyle=style, label=name)
        top = max([top, *(1.15 * mean for mean in means if math.isfinite(mean))])
    if single and math.isfinite(mean := texts[0].surprisal.total.bits_per_character):
        axes.axhline(mean, color="0.2", linewidth=1.0, linestyle="--", label=f"whole text: {mean:.3f}")
    axes.set(ylabel="bits per character", xlabel=_along_label(stretch, single), ylim=(0, top), xlim=(0, longest or 1))
    count_ticks(axes.xaxis, longest)
    legend_above(axes, columns=3 if single else 2)


def _along_label(stretch: int, single: bool) -> str:
    return "position in the text (characters)" + ("" if single else f"; each point is a mean of {stretch:,}")


def _means(surprisal: Surprisal, stretch: int) -> tuple[list[float], list[float]]:
    """The middles of stretches of so many characters, the last one maybe shorter, and the mean bits of each."""
    values = bits(1) * surprisal.character_nats
    begins = range(0, len(values), stretch)
    middles = [(at + min(at + stretch, len(values))) / 2 for at in begins]
    return middles, [float(values[at : at + stretch].mean()) for at in begins]


def _draw_since(axes: Axes, counts: Axes, texts: Sequence[Scored]) -> None:
    """The points stand at the middle of their places, 1, 2, 3-4, 5-8, ..., on a logarithmic axis."""
    for text, color, style in _styled(texts):
        places = [math.sqrt(row.first * row.last) for row in text.losses]
        averages = [row.bits_per_character for row in text.losses]
        look: dict[str, Any] = {"color": color, "linestyle": style, "marker": "o", "markersize": 4}
        axes.plot(places, averages, **look)
        counts.plot(places, [row.characters for row in text.losses], **look | {"markersize": 3})
    last = max((row.last for text in texts for row in text.losses), default=1)
    for each in (axes, counts):
        each.set_xscale("log", base=2)
        each.set_xlim(0.9, 1.1 * last)
        each.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.set(ylabel="bits per character", ylim=(0, None))
    axes.tick_params(labelbottom=False)
    counts.set(ylabel="characters\nper point", xlabel="position since a cold start (characters)", yscale="log")
    count_ticks(counts.yaxis, 1)


def _styled(texts: Sequence[Scored]) -> Iterator[tuple[Scored, str, str]]:
    """Each text with a colour, and with another line where colours are used again."""
    for number, text in enumerate(texts):
        yield text, COLORS[number % len(COLORS)], _STYLES[number // len(COLORS) % len(_STYLES)]
