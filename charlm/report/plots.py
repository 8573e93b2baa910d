"""Pictures of a run. matplotlib is an extra (`plot`), imported when a picture is drawn."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from charlm.report.words import bits, one_line

if TYPE_CHECKING:
    from charlm.report.surprisal import Scored
    from charlm.storage.records import Metrics

_EACH: Final = 5000  # characters up to which each is drawn
_LEAST: Final = 20  # characters of a stretch


def curves(title: str, rows: Sequence[Metrics]) -> bytes | None:
    """Losses (bits per character), gradient norm and rate against characters seen, as PNG; None without matplotlib.

    `rows` are those of metrics.jsonl.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return None
    figure = Figure(figsize=(9, 6), layout="constrained")
    FigureCanvasAgg(figure)
    loss, norm = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    seen = [row.characters_seen for row in rows]
    train = [bits(row.train_loss) for row in rows]
    loss.plot(seen, train, color="0.75", linewidth=0.8, label="training, ten steps")
    loss.plot(seen, _smoothed(train), color="tab:blue", label="training, smoothed")
    checks = [(row.characters_seen, bits(row.val_loss)) for row in rows if row.val_loss is not None]
    if checks:
        loss.plot(*zip(*checks, strict=True), "o-", color="tab:orange", label="held out")
        best = min(checks, key=lambda check: check[1])
        loss.annotate(f"{best[1]:.3f}", best, textcoords="offset points", xytext=(0, 8), ha="center")
    settled = sorted([*train, *(value for _, value in checks)])
    if settled:
        loss.set_ylim(settled[0] - 0.1, settled[int(0.97 * (len(settled) - 1))] + 0.3)
    loss.set_title(one_line(title), parse_math=False)
    loss.set(ylabel="bits per character")
    loss.legend()
    norms = [row.grad_norm for row in rows]
    norm.plot(seen, norms, color="tab:green", linewidth=0.8)
    norm.set(ylabel="gradient norm", yscale="log" if any(norms) else "linear", xlabel="characters seen")
    rate = norm.twinx()
    rate.plot(seen, [row.lr for row in rows], color="tab:red", linewidth=0.8)
    rate.set_ylabel("rate", color="tab:red")
    norm.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    picture = io.BytesIO()
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # a name with letters that the font lacks
        figure.savefig(picture, format="png", dpi=120)
    return picture.getvalue()


def _smoothed(values: Sequence[float]) -> list[float]:
    """An exponential mean over about a fiftieth of the run."""
    weight = 1 / max(1.0, len(values) / 50)
    smooth, mean = [], values[0] if values else 0.0
    for value in values:
        mean += weight * (value - mean)
        smooth.append(mean)
    return smooth


def available() -> bool:
    """Whether matplotlib is there."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        return False
    return True


def surprisal_curves(texts: Sequence[Scored], kind: str = "png") -> bytes | None:
    """Bits per character along each text, and against the place since a cold start, as png or svg.

    None without matplotlib. What stands along the texts are means over stretches of a hundredth of the longest; of a
    single text that is short, each character is there, too, up to where the picture ends.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.style import context
    except ImportError:
        return None
    figure = Figure(figsize=(9, 7), layout="constrained")
    FigureCanvasAgg(figure)
    along, since = figure.subplots(2, 1, height_ratios=(3, 2))
    top, length = 1.0, max(_LEAST, *(round(len(text.surprisal.text) / 100) for text in texts), 0)
    for text in texts:
        values = bits(1) * text.surprisal.character_nats
        if len(texts) == 1 and 0 < len(values) <= _EACH:
            along.vlines(range(len(values)), 0, values, color="0.8", linewidth=0.6, label="each character")
        means = [values[at : at + length].mean() for at in range(0, len(values), length)]
        top = max([top, *(1.2 * mean for mean in means if math.isfinite(mean))])
        middles = [min(at + length / 2, len(values)) for at in range(0, len(values), length)]
        name = f"mean of {length:,}" if len(texts) == 1 else _label(text.name)
        along.plot(middles, means, linewidth=1.5, label=name)
        places = [(row.first * row.last) ** 0.5 for row in text.losses]
        since.plot(places, [row.bits_per_character for row in text.losses], "o-", label=_label(text.name))
    along.set_title(_label(", ".join(text.name for text in texts)), parse_math=False)
    along.set(ylabel="bits per character", xlabel="characters from the start of the text", ylim=(0, top))
    along.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    since.set(ylabel="bits per character", xlabel="place since a cold start (characters)", ylim=(0, None))
    since.set_xscale("log", base=2)
    since.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    if any(text.surprisal.text for text in texts):
        for axes in (along, since) if len(texts) > 1 else (along,):
            for entry in axes.legend().get_texts():
                entry.set_parse_math(False)
    picture = io.BytesIO()
    date = {"Date": None} if kind == "svg" else {}  # the same numbers are the same picture
    with warnings.catch_warnings(action="ignore", category=UserWarning), context({"svg.hashsalt": "charlm"}):
        figure.savefig(picture, format=kind, dpi=120, metadata=date)
    return picture.getvalue()


def _label(name: str) -> str:
    """A name as matplotlib takes it: one that begins with an underscore would be left out of a legend."""
    shown = one_line(name)
    shown = shown if len(shown) <= 60 else "…" + shown[-59:]
    return " " + shown if shown.startswith("_") else shown
