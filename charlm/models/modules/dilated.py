"""The layer of `charlm.models.dilated` in torch.

Legend: T tokens of a chunk, B lanes, E input width, H hidden units, d dilation.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import linear

from charlm.models.modules.layer import Layer
from charlm.models.network import Parts


class Dilated(Layer):
    """Inputs [T, B, E] and the d before them [B, d H] to outputs [T, B, H] and the last d inputs."""

    weight_gates: Tensor
    bias_gates: Tensor
    weight_out: Tensor
    bias_out: Tensor

    def forward(self, x_TBE: Tensor, state: Parts) -> tuple[Tensor, Parts]:
        x_TBH = self.enter(x_TBE)
        steps, lanes = x_TBH.shape[:2]
        past = state[0].view(lanes, -1, self.hidden).transpose(0, 1).to(x_TBH.dtype)
        read = torch.cat([past, x_TBH])
        gates = linear(torch.cat([read[:steps], x_TBH], dim=2), self.weight_gates, self.bias_gates)
        filtered, gate = gates.chunk(2, dim=2)
        z_TBH = torch.tanh(filtered) * torch.sigmoid(gate)
        y_TBH = x_TBH + linear(z_TBH, self.weight_out, self.bias_out)
        return y_TBH, (read[steps:].transpose(0, 1).reshape(lanes, -1),)
