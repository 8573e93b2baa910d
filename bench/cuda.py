"""Speed on a CUDA GPU, beside plain PyTorch; without one every row holds nothing."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Final

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from bench.rows import Row, compared
from bench.stepping import step_times
from bench.train import random_text
from charlm.config import ModelConfig
from charlm.inference.choice import Cut
from charlm.inference.gpu import TorchDecoder
from charlm.models.network import Network, export_weights, initialise

BATCH, WINDOW, HIDDEN, EMBEDDING, VOCABULARY = 256, 128, 512, 64, 65
STEPS, WARM, PAIRS = 40, 10, 3
LEAST: Final = 2_500_000  # characters a second
DECODING: Final = "decoding 2x512, one stream, on a GPU"
WRITTEN: Final = 30_000


def rows() -> list[Row]:
    name = f"training 2x512, {BATCH} lanes x {WINDOW}, on a GPU"
    if not torch.cuda.is_available():
        return [
            Row(f"{name}, to nn.LSTM", None, None, None, ">= 2", None, "char/s"),
            Row(name, None, None, None, f">= {LEAST:,}", None, "char/s"),
            Row(DECODING, None, None, None, f">= {WRITTEN:,}", None, "char/s"),
        ]
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder, "text.txt")
        text.write_text(random_text((STEPS + WARM + 2) * BATCH * WINDOW))
        pairs = [(_ours(text), _peer()) for _ in range(PAIRS)]
    ours, peer = zip(*pairs, strict=True)
    row = compared(f"{name}, to nn.LSTM", "char/s", ours, peer, 2.0)
    return [
        row,
        _reached(name, row.ours or 0, LEAST),
        _reached("decoding 2x512, one stream, on a GPU", _decoded(), WRITTEN),
    ]


def _reached(name: str, speed: float, least: int) -> Row:
    return Row(name, speed, None, None, f">= {least:,}", speed >= least, "char/s")


def _decoded() -> float:
    """Drawing included; the median of some."""
    network = Network(ModelConfig(hidden=HIDDEN, embedding=EMBEDDING), VOCABULARY)
    initialise(network, 0)
    decoder = TorchDecoder(network.config, export_weights(network), torch.device("cuda"))
    logits, state = decoder.step([0], decoder.init_state(1))
    draws, times = np.random.default_rng(0).random((64, 1)), []
    for _ in range(51):
        began = time.perf_counter()
        _, logits, state = decoder.draw(logits, state, draws, Cut(0.8))
        times.append(time.perf_counter() - began)
    return len(draws) / median(times[1:])


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
