"""What the layers of architectures have in common: parameters as their architecture lists them, and their first values.

Legend: E input width, H hidden units.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from charlm.models.architecture import Place, architecture_of


class Layer(nn.Module):
    """A layer whose parameters have the names and shapes that its architecture gives them.

    With a `weight_ih` [H, E], inputs are mapped to H first.
    """

    def __init__(self, place: Place) -> None:
        super().__init__()
        self.hidden = place.config.hidden
        for name, shape in architecture_of(place.config).shapes(place).items():
            self.register_parameter(name, nn.Parameter(torch.empty(shape)))

    def initialise(self, generator: torch.Generator) -> None:
        """Matrices are Xavier uniform, in blocks of H rows; vectors are zero."""
        for weight in self.parameters():
            if weight.dim() == 1:
                weight.zero_()
            else:
                for block in torch.split(weight, self.hidden):
                    nn.init.xavier_uniform_(block, generator=generator)

    def enter(self, x: Tensor) -> Tensor:
        """Inputs [.., E] as they enter the layer [.., H], in the precision of the weights."""
        weight = self._parameters.get("weight_ih")
        return x if weight is None else nn.functional.linear(x, weight).to(weight.dtype)
