"""Speed of scoring a text: the network beside its own training and an n-gram model, 2x512 and random weights."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Final

import charlm
from bench.rows import Row, compared
from bench.stepping import BATCH, WINDOW, step_times
from bench.train import STEPS, WARM, random_text
from charlm.models.ngram import Counts, KneserNey
from charlm.text.tokenizer import tokenize

PAIRS: Final = 3
ORDER: Final = 8


def rows() -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder, "text.txt")
        text.write_text(random_text((STEPS + WARM + 2) * BATCH * WINDOW))
        trained, scored, counted = zip(*[_speeds(text) for _ in range(PAIRS)], strict=True)
    return [
        compared("scoring 2x512 in lanes, fp32, to training it", "char/s", scored, trained, 2.5),
        Row(f"scoring by Kneser-Ney {ORDER}, counting included", sorted(counted)[1], None, None, "", None, "char/s"),
    ]


def _speeds(text: Path) -> tuple[float, float, float]:
    """Characters a second: trained, scored, counted and scored."""
    times = step_times(text, STEPS + WARM, optimizer="adamw", dropout=0.0, precision="fp32", checkpoint_every="1h")
    content = text.read_text()
    model = charlm.load(text.parent / text.stem)
    model.prepare()
    began = time.perf_counter()
    model.score(content)
    scored = time.perf_counter()
    ids = tokenize(model.tokenizer, content).ids
    KneserNey(Counts(ids, model.tokenizer.size, ORDER), ORDER).nats(ids)
    ended = time.perf_counter()
    speed = STEPS * BATCH * WINDOW / (times[-1] - times[WARM - 1])
    return speed, len(content) / (scored - began), len(content) / (ended - scored)
