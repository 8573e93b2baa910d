"""Speed on a CUDA GPU, beside plain PyTorch; without one all rows are empty."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Final

import numpy as np
import torch

from bench.rows import Row, compared
from bench.stepping import EMBEDDING, HIDDEN, WINDOW, step_times
from bench.train import VOCABULARY, plain_speed, random_text
from charlm.config import ModelConfig
from charlm.generation.cuda import TorchDecoder
from charlm.generation.sampling import SamplingParameters
from charlm.models.network import Network, export_weights, initialise

BATCH, STEPS, WARM, PAIRS = 256, 40, 10, 3
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
    return [row, _reached(name, row.ours or 0, LEAST), _reached(DECODING, _decoded(), WRITTEN)]


def _reached(name: str, speed: float, least: int) -> Row:
    return Row(name, speed, None, None, f">= {least:,}", speed >= least, "char/s")


def _decoded() -> float:
    """Characters per second, sampling included; the median of several calls."""
    network = Network(ModelConfig(hidden=HIDDEN, embedding=EMBEDDING), VOCABULARY)
    initialise(network, 0)
    decoder = TorchDecoder(network.config, export_weights(network), torch.device("cuda"))
    logits, state = decoder.step([0], decoder.init_state(1))
    uniforms, times = np.random.default_rng(0).random((64, 1)), []
    for _ in range(51):
        began = time.perf_counter()
        _, logits, state = decoder.sample(logits, state, uniforms, SamplingParameters(0.8))
        times.append(time.perf_counter() - began)
    return len(uniforms) / median(times[1:])


def _ours(text: Path) -> float:
    times = step_times(
        text, STEPS + WARM, batch=BATCH, optimizer="adamw", dropout=0.0, device="cuda", checkpoint_every="1h"
    )
    return STEPS * BATCH * WINDOW / (times[-1] - times[WARM - 1])


def _peer() -> float:
    return plain_speed("fp32", device="cuda", lanes=BATCH, steps=STEPS, warm=WARM)
