"""Models with random weights and a text, for what looks into models."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
from processes import TEXT

from charlm.config import Config, DataConfig, ModelConfig
from charlm.models.architecture import weight_shapes
from charlm.storage.checkpoint import Checkpoint
from charlm.text.tokenizer import CharTokenizer

KINDS: Final = {
    "lstm": Config(model=ModelConfig(cell="lstm", hidden=8, embedding=0)),
    "back": Config(model=ModelConfig(cell="gru", hidden=8), data=DataConfig(direction="backward")),
    "window": Config(model=ModelConfig(model="window", hidden=8, layers=1)),
    "names": Config(model=ModelConfig(cell="gru", hidden=8), data=DataConfig(records="line")),
}


def write_models(folder: Path) -> None:
    """A checkpoint of each kind, NAME.safetensors, and sums.txt, whose characters they know."""
    (folder / "sums.txt").write_text(TEXT)
    tokenizer, rng = CharTokenizer.train(TEXT), np.random.default_rng(1)
    for name, config in KINDS.items():
        shapes = weight_shapes(config.model, tokenizer.size)
        weights = {key: rng.normal(0, 0.4, shape).astype(np.float32) for key, shape in shapes.items()}
        made = Checkpoint(config=config, tokenizer=tokenizer.state(), weights=weights)
        (folder / f"{name}.safetensors").write_bytes(made.to_bytes())
