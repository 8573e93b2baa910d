"""A network that scores with as many threads as are fastest at the moment."""

from __future__ import annotations

from torch import Tensor

from charlm.models.network import Network, State
from charlm.runtime.threads import RepeatableThreads


class Threaded:
    """A network on a processor, for scoring, whose chunks are computed with up to `most` threads."""

    def __init__(self, network: Network, most: int) -> None:
        self._network, self._threads = network, RepeatableThreads(most)

    def init_state(self, lanes: int) -> State:
        """The zero state."""
        return self._network.init_state(lanes)

    def __call__(self, ids_TB: Tensor, state: State) -> tuple[Tensor, State]:
        """Logits [T, B, V] and the state after the last of T ids, as the network gives them."""
        steps, lanes = ids_TB.shape
        read: tuple[Tensor, State] = self._threads(steps, lanes, lambda: self._network(ids_TB, state))
        return read
