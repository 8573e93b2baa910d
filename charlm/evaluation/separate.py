"""Many texts, each read by itself from the initial state, side by side.

So are the texts of minimal pairs and of test suites read: what a text gets does not depend on the others. Texts of
about the same length make a batch (`charlm.evaluation.score.record_nats`); equal ones are read once. This module knows
nothing of files or printing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from charlm.evaluation.score import Scorable, record_nats
from charlm.text.tokenizer import Ids, Tokenizer


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
