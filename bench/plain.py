"""The peer: a character-level nn.LSTM as a PyTorch tutorial would train it, in the time that charlm gets.

AdamW with the learning rate that is best for it here (0.01 with a cosine; docs/log.md), two layers of 256,
lanes with carried state. `python -m bench.plain TEXT SECONDS` prints its loss on the last tenth, in nats per character.
"""

from __future__ import annotations

import math
import sys
import time
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

HIDDEN, BATCH, WINDOW, RATE, WARM = 256, 16, 64, 0.01, 50
CHUNK: Final = 256  # of the validation text, read in lanes


class Model(nn.Module):
    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, HIDDEN)
        self.lstm = nn.LSTM(HIDDEN, HIDDEN, 2)
        self.head = nn.Linear(HIDDEN, vocabulary)
        with torch.no_grad():
            self.embedding.weight.mul_(0.1)
            for name, weight in self.lstm.named_parameters():
                gates = torch.split(weight, HIDDEN)
                for gate in gates:
                    if "weight_hh" in name:
                        nn.init.orthogonal_(gate)
                    elif "weight_ih" in name:
                        nn.init.xavier_uniform_(gate)
                    else:
                        gate.zero_()
                if "bias_ih" in name:
                    gates[1].fill_(1)

    def forward(self, ids: Tensor, state: tuple[Tensor, Tensor] | None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        outputs, state = self.lstm(self.embedding(ids), state)
        return self.head(outputs), state


def lanes(ids: Tensor, count: int) -> Tensor:
    length = len(ids) // count
    return ids[: length * count].view(count, length).T.contiguous()


@torch.inference_mode()
def held_out(model: Model, ids: Tensor) -> float:
    text, state, total = lanes(ids, 20), None, 0.0
    for at in range(0, len(text) - 1, CHUNK):
        window = text[at : at + CHUNK + 1]
        logits, state = model(window[:-1], state)
        total += F.cross_entropy(logits.flatten(0, 1), window[1:].flatten(), reduction="sum").item()
    return total / (text.numel() - text.shape[1])


def train(text: str, seconds: float, precision: str) -> float:
    """Loss on the last tenth after so many seconds of training."""
    torch.manual_seed(0)
    cut = len(text) * 9 // 10
    number = {character: place for place, character in enumerate(sorted(set(text)))}
    ids = torch.tensor([number[character] for character in text])
    model, read = Model(len(number)), lanes(ids[:cut], BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    state, at, step, began = None, 0, 0, time.perf_counter()
    while (spent := (time.perf_counter() - began) / seconds) < 1:
        if at + WINDOW >= len(read):
            shift = int(torch.randint(cut, ()))
            state, at, read = None, 0, lanes(torch.roll(ids[:cut], -shift), BATCH)
        window = read[at : at + WINDOW + 1]
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1, (step + 1) / WARM) * (0.02 + 0.49 * (1 + math.cos(math.pi * spent)))
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            logits, state = model(window[:-1], state)
        loss = F.cross_entropy(logits.float().flatten(0, 1), window[1:].flatten())
        state = (state[0].detach(), state[1].detach())
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        at, step = at + WINDOW, step + 1
    return held_out(model.eval(), ids[cut:])


if __name__ == "__main__":
    path, seconds, precision = (*sys.argv[1:], "fp32")[:3]
    print(train(Path(path).read_bytes().decode(), float(seconds), precision))
