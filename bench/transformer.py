"""The peer for names: a small transformer over fixed windows, as such lists are usually learned.

Four layers of four heads and 64 units, AdamW with 0.0005 and a weight decay of 0.01, 32 records at a time: the setting
of makemore's transformer (Karpathy), written anew. `python -m bench.transformer TRAIN TEST SECONDS` prints the best
loss on the test records that was seen in that time, in nats per character with each end charged.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LAYERS, HEADS, WIDTH, BATCH, RATE, DECAY = 4, 4, 64, 32, 5e-4, 0.01
EVERY: Final = 500  # steps between two looks at the test records
NOTHING: Final = -1  # a place behind the end


class Model(nn.Module):
    def __init__(self, vocabulary: int, longest: int) -> None:
        super().__init__()
        self.embedding, self.place = nn.Embedding(vocabulary, WIDTH), nn.Embedding(longest, WIDTH)
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 4 * WIDTH, 0.0, F.gelu, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, LAYERS, nn.LayerNorm(WIDTH), enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, vocabulary, bias=False)
        for name, weight in self.named_parameters():
            if weight.dim() > 1 and "norm" not in name:
                nn.init.normal_(weight, std=0.02)

    def forward(self, ids_BT: Tensor) -> Tensor:
        x_BTE = self.embedding(ids_BT) + self.place(torch.arange(ids_BT.shape[1]))
        mask = nn.Transformer.generate_square_subsequent_mask(ids_BT.shape[1])
        logits: Tensor = self.head(self.layers(x_BTE, mask=mask, is_causal=True))
        return logits


def table(records: list[str], number: dict[str, int], longest: int) -> tuple[Tensor, Tensor]:
    """Inputs and targets [R, T]; 0 is the start, and as a target the end."""
    inputs = torch.zeros(len(records), longest, dtype=torch.int64)
    targets = torch.full((len(records), longest), NOTHING)
    for row, record in enumerate(records):
        ids = torch.tensor([number[character] for character in record])
        inputs[row, 1 : len(ids) + 1] = ids
        targets[row, : len(ids)] = ids
        targets[row, len(ids)] = 0
    return inputs, targets


def loss(model: Model, inputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten(), ignore_index=NOTHING)


@torch.inference_mode()
def held_out(model: Model, inputs: Tensor, targets: Tensor) -> float:
    model.eval()
    found = loss(model, inputs, targets).item()
    model.train()
    return found


def train(records: list[str], test: list[str], seconds: float) -> float:
    """The best loss on the test records within so many seconds of training."""
    torch.manual_seed(0)
    number = {character: place for place, character in enumerate(sorted(set("".join(records + test))), 1)}
    longest = max(map(len, records + test)) + 1
    inputs, targets = table(records, number, longest)
    tested = table(test, number, longest)
    model = Model(len(number) + 1, longest)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=DECAY, betas=(0.9, 0.99))
    best, step, began = float("inf"), 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        chosen = torch.randint(len(records), (BATCH,))
        optimizer.zero_grad()
        loss(model, inputs[chosen], targets[chosen]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        step += 1
        if step % EVERY == 0:
            best = min(best, held_out(model, *tested))
    return min(best, held_out(model, *tested))


if __name__ == "__main__":
    own, other, seconds = sys.argv[1:]
    print(train(Path(own).read_text().split("\n")[:-1], Path(other).read_text().split("\n")[:-1], float(seconds)))
