"""The page of a model."""

from __future__ import annotations

from typing import Any

from charlm.config import ModelConfig
from charlm.models.cells import cell_of
from charlm.report.page.weights import PackedWeights
from charlm.text.tokenizer import CharTokenizer, Tokenizer


def describe_network(config: ModelConfig, vocabulary: int, packed: PackedWeights) -> dict[str, Any]:
    """What model.js has to know of a network besides the bytes of its weights."""
    return {
        "cell": config.cell,
        "layers": config.layers,
        "hidden": config.hidden,
        "skip": config.skip,
        "states": cell_of(config).states,
        "vocabulary": vocabulary,
        "tensors": packed.tensors,
    }


def describe_tokenizer(tokenizer: Tokenizer) -> dict[str, Any]:
    """What text.js has to know of a tokenizer of characters or bytes."""
    vocabulary = tokenizer.vocabulary if isinstance(tokenizer, CharTokenizer) else ""
    return {"kind": tokenizer.kind, "vocabulary": vocabulary, "escape": tokenizer.escape}
