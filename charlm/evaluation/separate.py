"""Many texts, each read by itself from the initial state, side by side.

So are the texts of minimal pairs and of test suites read: what a text gets does not depend on the others. Texts of
about the same length make a batch (`charlm.evaluation.score.record_nats`); equal ones are read once. This module knows
nothing of files or printing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from charlm.evaluation.score import Scorable, record_nats
from charlm.text.tokenizer import Ids, Tokenizer

_SURE: Final = 1.0  # nats, between those of the one token that is certain and those of others
_FAR: Final = 1000.0


def separate_nats(
    model: Scorable, tokenizer: Tokenizer, texts: Sequence[Ids], *, device: torch.device | None = None
) -> list[NDArray[np.float32]]:
    """-ln P of each token of each of these texts, given as ids [N]: arrays of the same shapes, in nats.

    An empty text has no tokens.
    """
    different = {ids.tobytes(): ids for ids in texts if len(ids)}
    edges = np.cumsum([0, *map(len, different.values())])
    if not different:
        return [np.zeros(0, dtype=np.float32) for _ in texts]
    nats = record_nats(model, tokenizer, np.concatenate(list(different.values())), edges, device=device)
    of = dict(zip(different, np.split(nats, edges[1:-1]), strict=True))
    return [of.get(ids.tobytes(), nats[:0]) for ids in texts]


def separate_greedy(
    model: Scorable, tokenizer: Tokenizer, texts: Sequence[Ids], *, device: torch.device | None = None
) -> list[NDArray[np.bool_]]:
    """Whether each token of each of these texts [N] is the most probable one there; an unseen character never is."""
    sure = separate_nats(_Greedy(model), tokenizer, texts, device=device)
    return [
        (nats < _SURE + tokenizer.known_nats) & (ids < tokenizer.size) for nats, ids in zip(sure, texts, strict=True)
    ]


class _Greedy:
    """A model that gives all probability to the token that another one finds the most probable."""

    def __init__(self, model: Scorable) -> None:
        self._model = model

    def init_state(self, lanes: int) -> Any:
        return self._model.init_state(lanes)

    def __call__(self, ids_TB: Tensor, state: Any) -> tuple[Tensor, Any]:
        logits, state = self._model(ids_TB, state)
        return torch.full_like(logits, -_FAR).scatter_(-1, logits.argmax(-1, keepdim=True), 0.0), state
