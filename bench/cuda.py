"""Speed on a CUDA GPU, beside plain PyTorch; without one every row holds nothing."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Final

import torch
from torch import nn
from torch.nn import functional as F

from bench.rows import Row, compared
from bench.stepping import step_times
from bench.train import random_text

BATCH, WINDOW, HIDDEN, EMBEDDING, VOCABULARY = 256, 128, 512, 64, 65
STEPS, WARM, PAIRS = 40, 10, 3
LEAST: Final = 2_500_000  # characters a second


def rows() -> list[Row]:
    name = f"training 2x512, {BATCH} lanes x {WINDOW}, on a GPU"
    if not torch.cuda.is_available():
        return [
            Row(f"{name}, to nn.LSTM", None, None, None, ">= 2", None, "char/s"),
            Row(name, None, None, None, f">= {LEAST:,}", None, "char/s"),
        ]
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder, "text.txt")
        text.write_text(random_text((STEPS + WARM + 2) * BATCH * WINDOW))
        pairs = [(_ours(text), _peer()) for _ in range(PAIRS)]
    ours, peer = zip(*pairs, strict=True)
    row = compared(f"{name}, to nn.LSTM", "char/s", ours, peer, 2.0)
    return [row, Row(name, row.ours, None, None, f">= {LEAST:,}", (row.ours or 0) >= LEAST, "char/s")]


def _ours(text: Path) -> float:
    times = step_times(
        text, STEPS + WARM, batch=BATCH, optimizer="adamw", dropout=0.0, device="cuda", checkpoint_every="1h"
    )
    return STEPS * BATCH * WINDOW / (times[-1] - times[WARM - 1])


def _peer() -> float:
    """The loop that anyone would write, in fp32."""
    embedding, lstm = nn.Embedding(VOCABULARY, EMBEDDING).cuda(), nn.LSTM(EMBEDDING, HIDDEN, 2).cuda()
    head = nn.Linear(HIDDEN, VOCABULARY).cuda()
    weights = [*embedding.parameters(), *lstm.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(weights, lr=1e-3)
    ids = torch.randint(VOCABULARY, (WINDOW, BATCH), device="cuda")
    state, began = None, 0.0
    for step in range(STEPS + WARM):
        if step == WARM:
            torch.cuda.synchronize()
            began = time.perf_counter()
        outputs, state = lstm(embedding(ids), state)
        state = tuple(part.detach() for part in state)
        loss = F.cross_entropy(head(outputs).flatten(0, 1), ids.flatten())
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        loss.item()
    torch.cuda.synchronize()
    return STEPS * BATCH * WINDOW / (time.perf_counter() - began)
