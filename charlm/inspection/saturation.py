"""How often gates are open or shut.

A gate is saturated where its value is in the lowest or the highest tenth of its range: of a sigmoid below 0.1 or above
0.9 (Karpathy, Johnson and Fei-Fei 2015, "Visualizing and understanding recurrent networks"), of a tanh below -0.8 or
above 0.8. Since tanh(a) = 2 sigmoid(2 a) - 1, this is the same of both.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from charlm.errors import ConfigError
from charlm.inspection.subject import Array, Reading, RecurrentNetwork
from charlm.inspection.trace import trace
from charlm.models.cells import Range

EDGE: Final = 0.1  # of a gate's range, at each end
ALWAYS: Final = 0.9  # share of the tokens from which on a unit counts as saturated throughout


class Saturation(NamedTuple):
    """A gate of a layer: for each unit [H] the shares of the tokens at which it is low and high, and its mean value."""

    layer: int  # from 1
    gate: str
    range: Range
    low: Array
    high: Array
    mean: Array

    @property
    def edges(self) -> tuple[float, float]:
        """Below the first it is low, above the second high.

        >>> none = np.zeros(0)
        >>> Saturation(1, "g", (-1.0, 1.0), none, none, none).edges
        (-0.8, 0.8)
        """
        begin, end = self.range
        width = EDGE * (end - begin)
        return begin + width, end - width

    def record(self) -> dict[str, object]:
        """All figures for JSON."""
        units = {name: getattr(self, name).tolist() for name in ("low", "high", "mean")}
        return {"layer": self.layer, "gate": self.gate, "edges": list(self.edges), **units}


def saturation(network: RecurrentNetwork, read: Reading) -> list[Saturation]:
    """Every gate of every layer, over the tokens of a text. Raises ConfigError for a cell without bounded gates.

    Memory does not depend on the length of the text.
    """
    ranges = [(gate, network.cell.ranges[gate]) for gate in network.cell.gates if gate in network.cell.ranges]
    if not ranges:
        raise ConfigError(
            f"the cell {network.config.cell} has no gates whose range is known",
            kept="nothing was inspected",
            hint="name them in the ranges of its charlm.models.cells.Cell",
        )
    hidden = network.config.hidden
    found = [
        Saturation(layer, gate, bounds, *np.zeros((3, hidden)))
        for layer in range(1, len(network.layers) + 1)
        for gate, bounds in ranges
    ]
    for block in trace(network, read):
        tokens = ~read.fresh[block.begin : block.begin + len(block.output)]  # without the start input
        for one in found:
            values, (low, high) = block.layers[one.layer - 1].gates[one.gate][tokens, 0], one.edges
            for total, counted in ((one.low, values < low), (one.high, values > high), (one.mean, values)):
                np.add(total, counted.sum(axis=0, dtype=np.float64), out=total)
    count = int((~read.fresh).sum())
    return [one._replace(low=one.low / count, high=one.high / count, mean=one.mean / count) for one in found]
