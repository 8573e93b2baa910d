"""A layer of minimal gated recurrent units in torch, for chunks (Feng et al. 2024, "Were RNNs all we needed?").

    z = sigmoid(W_z x + b_z)    c = W_c x + b_c    h' = (1 - z) h + z c

Neither z nor c depends on h, so that they are computed for a whole chunk at once, and the states by a scan.

Legend: T tokens of a chunk, B lanes, N inputs in all, E input width, H hidden units.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from charlm.models.modules.layer import OfStates
from charlm.models.modules.leaky import spread_rates
from charlm.models.modules.scan import scan
from charlm.models.recurrence import State


class MinGRU(OfStates):
    """Inputs [T, B, E] and the states before them ([B, H],) to the states after each [T, B, H] and the last ones."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.weight_ih = nn.Parameter(torch.empty(2 * hidden, width))
        self.bias_ih = nn.Parameter(torch.empty(2 * hidden))

    def initialise(self, generator: torch.Generator) -> None:
        hidden = len(self.bias_ih) // 2
        for block in torch.split(self.weight_ih, hidden):
            nn.init.xavier_uniform_(block, generator=generator)
        self.bias_ih.zero_()
        self.bias_ih[:hidden].copy_(spread_rates(hidden))  # of z; without it most units forget within two characters

    def states(self, x_NE: Tensor, rows: list[int], state: State) -> Tensor:
        gate, candidate = F.linear(x_NE, self.weight_ih, self.bias_ih).to(self.bias_ih.dtype).chunk(2, dim=1)
        return scan(torch.sigmoid(-gate), torch.sigmoid(gate) * candidate, state[0], rows)
