"""The samples of a training run as a list in the markup of a page."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Final

from charlm.report.words import duration, visible
from charlm.storage.records import TrainingSample

_MOST: Final = 40  # that are shown of a long run, evenly spread; the first and the last are among them


def samples_list(samples: Sequence[TrainingSample]) -> str:
    """Each sample under its step, the first one first; nothing where there are none."""
    if not samples:
        return ""
    last, count = len(samples) - 1, min(_MOST, len(samples))
    shown = [samples[round(number * last / max(1, count - 1))] for number in range(count)]
    some = f", {count} of {len(samples):,} of them" if count < len(samples) else ""
    items = "".join(
        f'<li><p class="small">Step {one.step:,}, after {duration(one.seconds)}</p>'
        f'<div class="sample" dir="auto">{escape(visible(one.text), quote=False)}</div></li>\n'
        for one in shown
    )
    return (
        f"<h3>Samples</h3>\n<p>What the model wrote while it was trained{some}.</p>\n"
        f'<div class="samples" role="region" aria-label="Samples of training" tabindex="0"><ol>\n{items}</ol></div>\n'
    )
