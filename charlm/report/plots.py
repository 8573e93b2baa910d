"""Pictures of a run. matplotlib is an extra (`pip install charlm[plot]`), imported when a picture is drawn."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from charlm.report.plain import bits, one_line


def curves(title: str, rows: Sequence[Mapping[str, Any]]) -> bytes | None:
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
    seen = [row["characters_seen"] for row in rows]
    train = [bits(row["train_loss"]) for row in rows]
    loss.plot(seen, train, color="0.75", linewidth=0.8, label="training, ten steps")
    loss.plot(seen, _smoothed(train), color="tab:blue", label="training, smoothed")
    checks = [(row["characters_seen"], bits(row["val_loss"])) for row in rows if row["val_loss"] is not None]
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
    norms = [row["grad_norm"] for row in rows]
    norm.plot(seen, norms, color="tab:green", linewidth=0.8)
    norm.set(ylabel="gradient norm", yscale="log" if any(norms) else "linear", xlabel="characters seen")
    rate = norm.twinx()
    rate.plot(seen, [row["lr"] for row in rows], color="tab:red", linewidth=0.8)
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
