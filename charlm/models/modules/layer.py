"""What the layers of architectures and of cells have in common: their parameters, and how a chunk is read.

Legend: T tokens of a chunk, B lanes, N inputs in all, E input width, H hidden units.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from charlm.models.architecture import Place, architecture_of
from charlm.models.recurrence import State, last_places


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


class OfStates(nn.Module):
    """A layer whose outputs are its states, one for each input: what a subclass computes in `states`.

    It maps inputs [T, B, E] and the states before them ([B, H],) to the states after each [T, B, H] and the last ones.
    """

    def states(self, x_NE: Tensor, rows: list[int], state: State) -> Tensor:
        """The state after each of N inputs [N, H], which lie time by time; `rows` have one at each time."""
        raise NotImplementedError

    def forward(self, x_TBE: Tensor, state: State) -> tuple[Tensor, State]:
        T, B, _ = x_TBE.shape
        y_TBH = self.states(x_TBE.flatten(0, 1), [B] * T, state).view(T, B, -1)
        return y_TBH, (y_TBH[-1].clone(),)  # a view would keep the whole chunk in memory as long as the state

    def read_packed(self, x_NE: Tensor, rows: list[int], state: State) -> tuple[Tensor, State]:
        """Rows of different lengths, as by `charlm.models.recurrence.GRU.read_packed`."""
        y_NH = self.states(x_NE, rows, state)
        return y_NH, (y_NH[last_places(rows, y_NH.device)],)
