"""How many units give a network a number of parameters; without torch."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import Final

from charlm.config import ModelConfig
from charlm.models.architecture import weight_shapes

_LARGEST: Final = 16384
_GRAIN: Final = 8  # hidden units are a multiple of it


def parameters_of(config: ModelConfig, vocabulary: int) -> int:
    """How many weights a network has."""
    return sum(map(prod, weight_shapes(config, vocabulary).values()))


def of_size(config: ModelConfig, parameters: int, vocabulary: int) -> ModelConfig:
    """The same network with as many hidden units, a multiple of 8, as bring it closest to this number of parameters."""

    def sized(grains: int) -> ModelConfig:
        return replace(config, hidden=grains * _GRAIN)

    low, high = 1, _LARGEST // _GRAIN  # the number of parameters grows with the units
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if parameters_of(sized(middle), vocabulary) < parameters else (low, middle)
    return min(map(sized, (max(1, low - 1), low)), key=lambda found: abs(parameters_of(found, vocabulary) - parameters))
