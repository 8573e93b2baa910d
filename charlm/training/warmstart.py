"""Starting from another model's weights (`--init-from`): the architecture is the donor's, the vocabulary may differ.

What belongs to a character (its embedding, its row of the head, its one-hot column) goes where that character is now;
characters that the donor did not know begin as in any new model. Everything else is copied.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from charlm.config import DROPOUTS, ModelConfig, applies, options_of
from charlm.errors import ConfigError
from charlm.models.architecture import Place, architecture_of
from charlm.models.network import Network, named_weights
from charlm.options import Value, flag
from charlm.storage.checkpoint import Checkpoint
from charlm.text.tokenizer import Tokenizer

_SHAPE = tuple(name for name in options_of(ModelConfig) if name not in DROPOUTS)
_READ = ("vocab_size", "sentencepiece", "direction")
FIXED = (*_SHAPE, *_READ, "tokenizer")  # options that a donor's weights decide


def adopted_options(donor: Checkpoint, given: Mapping[str, Value]) -> dict[str, Value]:
    """The given options with the donor's architecture, tokenizer's kind and direction; a contradiction is refused."""
    own = donor.config.flat()
    fixed: dict[str, Value] = {name: own[name] for name in (*_SHAPE, *_READ)}
    fixed["tokenizer"] = donor.open_tokenizer().kind
    for name, value in fixed.items():
        if name in given and given[name] != value:
            raise ConfigError(
                f"{flag(name)} {given[name]} contradicts --init-from, whose model has {value}",
                kept="nothing was changed",
            )
    return {**given, **{name: value for name, value in fixed.items() if applies(name, fixed)}}


def adopt_weights(network: Network, tokenizer: Tokenizer, donor: Checkpoint) -> int:
    """Copy the donor's weights into a freshly initialised network; returns how many tokens the donor knew."""
    before = donor.open_tokenizer()
    rows = _shared_rows(before, tokenizer)
    old, new = (
        (torch.tensor(side, dtype=torch.long) for side in zip(*rows, strict=True))
        if rows
        else (torch.zeros(0, dtype=torch.long),) * 2
    )
    with torch.no_grad():
        for name, weight in named_weights(network).items():
            source = torch.from_numpy(donor.weights[name].copy())
            if name.startswith("head."):
                weight[new] = source[old]
            elif name == "embedding.weight":
                weight[new] = source[old]
                weight[-1] = source[-1]  # the start input
            elif not network.config.embedding and _is_by_character(network, name):
                _by_character(weight, tokenizer.size)[..., new] = _by_character(source, before.size)[..., old]
            else:
                weight.copy_(source)
    return len(rows)


def _is_by_character(network: Network, name: str) -> bool:
    """Whether this weight is of the first layer, and as wide as one-hot inputs, or some times as wide."""
    kind = architecture_of(network.config)
    one, other = (kind.shapes(Place(network.config, 0, width)) for width in (1, 2))
    own = name.removeprefix(f"{kind.prefix}.0.")
    return own != name and one[own] != other[own]


def _by_character(weight: torch.Tensor, vocabulary: int) -> torch.Tensor:
    """The same numbers, with the character of a one-hot input as the last axis."""
    return weight.view(*weight.shape[:-1], -1, vocabulary)


def _shared_rows(before: Tokenizer, now: Tokenizer) -> list[tuple[int, int]]:
    """Ids of the same token in the donor's vocabulary and in this one."""
    if before.state() == now.state():
        return [(i, i) for i in range(now.size)]
    place = {piece: i for i, piece in enumerate(before.pieces)}
    return [(place[piece], i) for i, piece in enumerate(now.pieces) if piece in place]
