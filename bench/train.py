"""Training speed: charlm's loop beside a bare nn.LSTM loop; 2 x 512, embedding 64, batch 64, chunks of 128, AdamW."""

from __future__ import annotations

import os
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from statistics import median

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from bench.rows import Row, compared
from bench.stepping import BATCH, EMBEDDING, HIDDEN, WINDOW, step_times
from charlm.runtime.device import synchronise

PAIRS, STEPS, WARM, VOCABULARY = 5, 8, 3, 65


def rows() -> list[Row]:
    return [*(_pair_up(precision) for precision in ("bf16", "fp32")), *_share_of_the_machine(), _to_keras()]


def _pair_up(precision: str) -> Row:
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder, "text.txt")
        text.write_text(random_text((STEPS + WARM + 2) * BATCH * WINDOW))
        pairs = [(_ours(text, precision), plain_speed(precision)) for _ in range(PAIRS)]
    ours, peer = zip(*pairs, strict=True)
    return compared(f"training 2x512, 64 lanes x 128, {precision}", "char/s", ours, peer, 0.95)


def _share_of_the_machine() -> list[Row]:
    """FLOP/s of recurrent and input weights, six FLOP per weight and character, beside large matrix products."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder, "text.txt")
        text.write_text(random_text((STEPS + WARM + 2) * BATCH * WINDOW))
        for cell, gates in (("lstm", 4), ("gru", 3), ("rnn", 1)):
            for precision, least in (("bf16", 0.80), ("fp32", 0.90)):
                flop = 6 * gates * HIDDEN * (EMBEDDING + 3 * HIDDEN)
                pairs = [(flop * _ours(text, precision, cell) / 1e9, _products(precision)) for _ in range(3)]
                ours, machine = zip(*pairs, strict=True)
                name = f"training {cell} 2x512, {precision}, to the machine's products"
                found.append(compared(name, "GFLOP/s", ours, machine, least))
    return found


def _products(precision: str) -> float:
    """GFLOP/s of 2048 x 2048 matrices, the median of nine."""
    factor = torch.randn(2048, 2048).to(torch.bfloat16 if precision == "bf16" else torch.float32)
    times = []
    for _ in range(10):
        began = time.perf_counter()
        factor @ factor
        times.append(time.perf_counter() - began)
    return 2 * 2048**3 / median(times[1:]) / 1e9


def _to_keras() -> Row:
    """The lecture's demo as written: one-hot windows of 100, one apart, each of which predicts one character."""
    name = "characters learned 2x512, fp32, to Keras's windows"
    if find_spec("keras") is None:
        return Row(name, None, None, None, ">= 1", None, "char/s")
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder, "text.txt")
        text.write_text(random_text((STEPS + WARM + 2) * BATCH * WINDOW))
        return compared(name, "char/s", [_ours(text, "fp32")], [_keras()], 1)


def _keras() -> float:
    os.environ.setdefault("KERAS_BACKEND", "torch")
    import keras

    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((100, VOCABULARY)),
            layers.LSTM(HIDDEN, return_sequences=True),
            layers.Dropout(0.5),
            layers.LSTM(HIDDEN),
            layers.Dense(VOCABULARY, activation="softmax"),
        ]
    )
    model.compile(loss="categorical_crossentropy", optimizer="adam")
    windows = np.eye(VOCABULARY, dtype=np.float32)[np.random.default_rng(0).integers(0, VOCABULARY, (BATCH, 101))]
    times = []
    for _ in range(4):
        began = time.perf_counter()
        model.train_on_batch(windows[:, :-1], windows[:, -1])
        times.append(time.perf_counter() - began)
    return BATCH / median(times[1:])


def random_text(length: int) -> str:
    """A text of 65 different characters."""
    ids = np.random.default_rng(0).integers(0, VOCABULARY, length)
    return "".join(chr(33 + i) for i in ids)


def _ours(text: Path, precision: str, cell: str = "lstm") -> float:
    """charlm.train from outside: characters a second over the last steps."""
    options = {"optimizer": "adamw", "dropout": 0.0, "precision": precision, "cell": cell, "checkpoint_every": "1h"}
    times = step_times(text, STEPS + WARM, **options)
    return STEPS * BATCH * WINDOW / (times[-1] - times[WARM - 1])


def plain_speed(
    precision: str, *, device: str = "cpu", lanes: int = BATCH, steps: int = STEPS, warm: int = WARM
) -> float:
    """A plain PyTorch loop: characters per second after some warm-up steps."""
    embedding, lstm, head = (
        nn.Embedding(VOCABULARY, EMBEDDING, device=device),
        nn.LSTM(EMBEDDING, HIDDEN, 2, device=device),
        nn.Linear(HIDDEN, VOCABULARY, device=device),
    )
    weights = [*embedding.parameters(), *lstm.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(weights, lr=1e-3, fused=device == "cpu")
    ids = torch.randint(VOCABULARY, (WINDOW, lanes), device=device)
    state = None
    began = 0.0
    for step in range(steps + warm):
        if step == warm:
            synchronise(torch.device(device))
            began = time.perf_counter()
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
            outputs, state = lstm(embedding(ids), state)
            logits = head(outputs)
        state = tuple(part.detach() for part in state)
        loss = F.cross_entropy(logits.float().flatten(0, 1), ids.flatten())
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        loss.item()
    synchronise(torch.device(device))
    return steps * WINDOW * lanes / (time.perf_counter() - began)
