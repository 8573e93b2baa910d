"""A network that scores with as many threads as are fastest at the moment."""

from __future__ import annotations

import torch
from torch import Tensor

from charlm.models.network import Network, State
from charlm.runtime.threads import Threads


class Threaded:
    """A network on a processor, for scoring, whose chunks are computed with `most` threads or fewer.

    A chunk of each shape [T, B] is computed twice at first, with all threads and with one. Where the bits differ, or
    with `most` 1, the number of threads stays as it is.
    """

    def __init__(self, network: Network, most: int) -> None:
        self._network, self._threads = network, Threads(most, follow=True)
        self._same: dict[torch.Size, bool] = {}

    def init_state(self, lanes: int) -> State:
        """The zero state."""
        return self._network.init_state(lanes)

    def __call__(self, ids_TB: Tensor, state: State) -> tuple[Tensor, State]:
        """Logits [T, B, V] and the state after the last of T ids, as the network gives them."""
        if not self._threads.follow:
            return self._network(ids_TB, state)  # type: ignore[no-any-return]
        if ids_TB.shape not in self._same:
            return self._compare(ids_TB, state)
        if not self._same[ids_TB.shape]:
            self._threads.use(self._threads.most)
            return self._network(ids_TB, state)  # type: ignore[no-any-return]
        with self._threads.at_work(*ids_TB.shape):
            return self._network(ids_TB, state)  # type: ignore[no-any-return]

    def _compare(self, ids_TB: Tensor, state: State) -> tuple[Tensor, State]:
        self._threads.use(1)
        one, one_after = self._network(ids_TB, state)
        self._threads.use(self._threads.most)
        logits, after = self._network(ids_TB, state)
        pairs = [
            (one, logits),
            *((a, b) for x, y in zip(one_after, after, strict=True) for a, b in zip(x, y, strict=True)),
        ]
        self._same[ids_TB.shape] = all(torch.equal(a, b) for a, b in pairs)
        return logits, after
