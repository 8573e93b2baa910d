"""Training speed: charlm's loop beside a bare nn.LSTM loop; 2 x 512, embedding 64, batch 64, window 128, AdamW."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from bench.rows import Row, compared
from bench.stepping import BATCH, EMBEDDING, HIDDEN, WINDOW, step_times

PAIRS, STEPS, WARM, VOCABULARY = 5, 8, 3, 65


def rows() -> list[Row]:
    return [_pair_up(precision) for precision in ("bf16", "fp32")]


def _pair_up(precision: str) -> Row:
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder, "text.txt")
        text.write_text(_text())
        pairs = [(_ours(text, precision), _peer(precision)) for _ in range(PAIRS)]
    ours, peer = zip(*pairs, strict=True)
    return compared(f"training 2x512, 64 lanes x 128, {precision}", "char/s", ours, peer, 0.95)


def _text() -> str:
    """As many random characters as are needed, 65 different ones."""
    ids = np.random.default_rng(0).integers(0, VOCABULARY, (STEPS + WARM + 2) * BATCH * WINDOW)
    return "".join(chr(33 + i) for i in ids)


def _ours(text: Path, precision: str) -> float:
    """charlm.train from outside: characters a second over the last steps."""
    times = step_times(text, STEPS + WARM, optimizer="adamw", dropout=0.0, precision=precision, checkpoint_every="1h")
    return STEPS * BATCH * WINDOW / (times[-1] - times[WARM - 1])


def _peer(precision: str) -> float:
    """The loop that anyone would write."""
    embedding, lstm, head = (
        nn.Embedding(VOCABULARY, EMBEDDING),
        nn.LSTM(EMBEDDING, HIDDEN, 2),
        nn.Linear(HIDDEN, VOCABULARY),
    )
    weights = [*embedding.parameters(), *lstm.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(weights, lr=1e-3, fused=True)
    ids = torch.randint(VOCABULARY, (WINDOW, BATCH))
    state = None
    began = 0.0
    for step in range(STEPS + WARM):
        if step == WARM:
            began = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            outputs, state = lstm(embedding(ids), state)
            logits = head(outputs)
        state = tuple(part.detach() for part in state)
        loss = F.cross_entropy(logits.float().flatten(0, 1), ids.flatten())
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        loss.item()
    return STEPS * BATCH * WINDOW / (time.perf_counter() - began)
