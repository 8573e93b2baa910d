"""The layer of `charlm.models.jordan` in torch: with teacher forcing a chunk's traces are one scan.

Legend: T tokens of a chunk, B lanes, N inputs in all, E input width, H hidden units.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F

from charlm.models.modules.layer import Layer
from charlm.models.modules.scan import scan
from charlm.models.recurrence import State, last_places

_SHORTEST: Final = -2.0  # initial decays, evenly spread: mu from 0.12 to 0.98,
_LONGEST: Final = 4.0  # time constants 1 / (1 - mu) from 1.1 to 56 characters


class Jordan(Layer):
    """Inputs [T, B, E] and the traces before them ([B, E],) to outputs [T, B, H] and the traces after the last."""

    weight_ih: Tensor
    bias: Tensor
    decay: Tensor

    def initialise(self, generator: torch.Generator) -> None:
        """A trace is up to 1 / (1 - mu) times as long as an input, so its columns are as much smaller."""
        super().initialise(generator)
        self.decay.copy_(torch.linspace(_SHORTEST, _LONGEST, len(self.decay)))
        self.weight_ih[:, len(self.decay) :].mul_(1 - self.decay.sigmoid())

    def forward(self, x_TBE: Tensor, state: State) -> tuple[Tensor, State]:
        T, B, _ = x_TBE.shape
        x_NE = x_TBE.flatten(0, 1)
        trace_NE = self._traces(x_NE, [B] * T, state)
        return self._outputs(x_NE, trace_NE).view(T, B, -1), (trace_NE[-B:].clone(),)

    def read_packed(self, x_NE: Tensor, rows: list[int], state: State) -> tuple[Tensor, State]:
        """Rows of different lengths, as by `charlm.models.recurrence.GRU.read_packed`."""
        trace_NE = self._traces(x_NE, rows, state)
        return self._outputs(x_NE, trace_NE), (trace_NE[last_places(rows, x_NE.device)],)

    def _traces(self, x_NE: Tensor, rows: list[int], state: State) -> Tensor:
        return scan(self.decay.sigmoid().expand_as(x_NE), x_NE.to(self.decay.dtype), state[0], rows)

    def _outputs(self, x_NE: Tensor, trace_NE: Tensor) -> Tensor:
        both = torch.cat([x_NE, trace_NE.to(x_NE.dtype)], dim=1)
        return torch.tanh(F.linear(both, self.weight_ih, self.bias))
