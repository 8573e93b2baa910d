"""Weight averaging: the model is an average of the weights of the run so far, mostly of the late ones.

With w_t the weights after step t, counted from 1, and an averaging horizon a, the average begins as w_1 and then

    m_t = m_{t-1} + min(1, 1 / (a t)) (w_t - m_{t-1})

in which w_k counts nearly as (k / t)^(1/a - 1): the power function average of Karras et al. (2024), "Analyzing and
improving the training dynamics of diffusion models". The horizon is a fraction of the run, so it suits any length.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

_PREFIX: Final = "iterate."


class Average:
    """The average of these weights; with a horizon of 0, the weights themselves."""

    def __init__(self, weights: Mapping[str, nn.Parameter], horizon: float) -> None:
        self._names, self._horizon = list(weights), horizon
        self._weights: list[Tensor] = list(weights.values())
        self._mean: list[Tensor] | None = None  # before the first update, or with a horizon of 0

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move towards the weights after this step, counted from 1."""
        if not self._horizon:
            return
        if self._mean is None:
            self._mean = [weight.clone() for weight in self._weights]
        else:
            torch._foreach_lerp_(self._mean, self._weights, min(1.0, 1 / (self._horizon * step)))

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Within, the weights have the average's values."""
        if self._mean is None:
            yield
            return
        raw = [weight.detach().clone() for weight in self._weights]
        _copy(self._mean, into=self._weights)
        try:
            yield
        finally:
            _copy(raw, into=self._weights)

    def export(self) -> dict[str, NDArray[np.float32]]:
        """The raw weights by name, iterate.<weight>; nothing before the first update, or with a horizon of 0."""
        if self._mean is None:
            return {}
        named = zip(self._names, self._weights, strict=True)
        return {_PREFIX + name: weight.detach().cpu().numpy().copy() for name, weight in named}

    def restore(self, arrays: Mapping[str, NDArray[np.float32]]) -> None:
        """Take the weights as they are for the average, and go on from what `export` gave among these arrays."""
        raw = [torch.from_numpy(arrays[_PREFIX + name].copy()) for name in self._names if _PREFIX + name in arrays]
        self._mean = None
        if raw:
            self.begin()
            _copy(raw, into=self._weights)

    def begin(self) -> None:
        """Take the weights as they are for the average, where there is to be one and is none yet."""
        if self._horizon and self._mean is None:
            self._mean = [weight.detach().clone() for weight in self._weights]


@torch.no_grad()
def _copy(values: list[Tensor], *, into: list[Tensor]) -> None:
    for weight, value in zip(into, values, strict=True):
        weight.copy_(value)
