"""The layer of `charlm.models.window` in torch.

Legend: T tokens of a chunk, B lanes, E input width, H hidden units, n characters of the window.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from charlm.models.architecture import Place
from charlm.models.modules.layer import Layer
from charlm.models.network import Parts


class Window(Layer):
    """Inputs [T, B, E] and the n - 1 before them [B, (n - 1) E] to outputs [T, B, H] and the last n - 1 inputs."""

    weight_ih: Tensor
    bias: Tensor

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._width, self._n = place.width, place.config.context

    def forward(self, x_TBE: Tensor, state: Parts) -> tuple[Tensor, Parts]:
        lanes = x_TBE.shape[1]
        past = state[0].view(lanes, self._n - 1, self._width).transpose(0, 1).to(x_TBE.dtype)
        read = torch.cat([past, x_TBE])
        windows_TBEn = read.unfold(0, self._n, 1)
        windows = windows_TBEn.transpose(2, 3).flatten(2)
        y_TBH = torch.tanh(nn.functional.linear(windows, self.weight_ih, self.bias))
        return y_TBH, (read[len(x_TBE) :].transpose(0, 1).reshape(lanes, -1),)
