"""A look into a recurrent network that takes a few seconds: cells, gradients and memory, on the beginning of a text.

How much is read follows from the number of weights alone, so that the same model and text always give the same figures.
Commands of `charlm inspect` look longer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from charlm.config import ModelConfig
from charlm.errors import DataError
from charlm.inspection.cells import SHORTEST, Activity, Finding, Unit, find_cells
from charlm.inspection.gradients import Reach, reaches
from charlm.inspection.memory import Memory, memory, spread_places
from charlm.inspection.subject import Array, open_network, reading
from charlm.models.network import Network, import_weights
from charlm.runtime.device import set_threads
from charlm.runtime.settings import computing
from charlm.text.tokenizer import Tokenizer

LONGEST: Final = 100_000  # characters over which places are spread
DISTANCE: Final = 200  # of gradients
CONTEXTS: Final = (1, 2, 3, 5, 10, 20, 50, 100, 200)
_FEWEST: Final = 100  # characters in which anything is further back
_READ: Final = 1.2e10  # products of weights with inputs while cells are looked for,
_BACK: Final = 4e9  # of gradients, one by one,
_SCORED: Final = 3e10  # and of contexts, which are read side by side: some seconds of one core, together


class Cells(NamedTuple):
    """Cells that were looked for in so many characters; `state` is what they are, c or h."""

    state: str
    characters: int
    findings: Sequence[Finding]
    costs: Mapping[Unit, float]


class Gradients(NamedTuple):
    """How far gradients reach back, averaged over so many places."""

    places: int
    reaches: Sequence[Reach]


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """What was found; in place of a part that there is not, a sentence says why."""

    cells: Cells | str
    gradients: Gradients | str
    memory: Memory | str


def overview(
    config: ModelConfig, weights: Mapping[str, Array], tokenizer: Tokenizer, text: str, records: str = "none"
) -> Overview:
    """Look into a network of recurrent cells while it reads a text forward, or its records."""
    text, parameters = text[:LONGEST], sum(weight.size for weight in weights.values())
    with computing():
        set_threads(1)  # so little work is not worth waking a second one
        return Overview(
            cells=_cells(config, weights, tokenizer, text[: _bounded(_READ / parameters, 2000, 20_000)], records),
            gradients=_gradients(config, weights, tokenizer, text, records, parameters),
            memory=_memory(config, weights, tokenizer, text, records, parameters),
        )


def _bounded(value: float, least: int, most: int) -> int:
    return max(least, min(most, int(value)))


def _cells(
    config: ModelConfig, weights: Mapping[str, Array], tokenizer: Tokenizer, text: str, records: str
) -> Cells | str:
    if len(text) < SHORTEST:
        return f"Cells are looked for in {SHORTEST} characters or more, and this text has {len(text):,}."
    network = open_network(config, weights)
    read = reading(text, tokenizer, records)
    if len(read.text) < SHORTEST:
        return f"Cells are looked for in {SHORTEST} characters or more, and these records have {len(read.text):,}."
    activity = Activity(network, read)
    findings, costs = find_cells(activity, activity.units)
    return Cells(network.cell.states[-1], len(read.text), findings, costs)


def _gradients(
    config: ModelConfig, weights: Mapping[str, Array], tokenizer: Tokenizer, text: str, records: str, parameters: int
) -> Gradients | str:
    if why := _nothing_before(text, tokenizer, records, "no gradient leaves a record"):
        return why
    read = reading(text, tokenizer)
    distance = min(DISTANCE, len(read.inputs) // 2)
    places = _bounded(_BACK / (parameters * 4 * distance), 2, 16)
    network = open_network(config, weights, np.float64)
    try:
        return Gradients(places, reaches(network, read, distance=distance, places=places))
    except DataError:  # there is no place of which the model knows the character
        return "The model knows too few characters of this text."


def _memory(
    config: ModelConfig, weights: Mapping[str, Array], tokenizer: Tokenizer, text: str, records: str, parameters: int
) -> Memory | str:
    if why := _nothing_before(text, tokenizer, records, "contexts would be of one text"):
        return why
    ids = tokenizer.encode(text).ids
    contexts = [context for context in CONTEXTS if context <= len(ids) // 2]
    places = spread_places(
        len(ids), _bounded(_SCORED / (parameters * (sum(contexts) + len(contexts))), 40, 1000), contexts[-1]
    )
    network = Network(config, tokenizer.size)
    import_weights(network, weights)
    return memory(network.eval(), tokenizer, ids, places, contexts=contexts)


def _nothing_before(text: str, tokenizer: Tokenizer, records: str, of_records: str) -> str:
    """Why nothing can be said of what is further back, or nothing."""
    if records != "none":
        return f"The model reads records, each from the initial state: {of_records}."
    if tokenizer.size < 2:
        return "With a vocabulary of one character there is nothing to predict."
    return f"A text of {len(text):,} characters is too short." if len(text) < _FEWEST else ""
