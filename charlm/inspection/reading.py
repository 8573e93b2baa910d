"""What a network says after the last token of sequences that it reads from the zero state; in bounded memory.

Legend: T tokens, B lanes, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from charlm.evaluation.score import Scorable, fit_chunk


@torch.inference_mode()
def last_logits(model: Scorable, ids_TB: Tensor, vocabulary: int) -> Tensor:
    """Logits [B, V] after the last of the ids; only so many tokens are read at once that their logits fit."""
    state = model.init_state(ids_TB.shape[1])
    for part in torch.split(ids_TB, fit_chunk(ids_TB.shape[1], vocabulary)):
        logits_TBV, state = model(part, state)
    last: Tensor = logits_TBV[-1]
    return last
