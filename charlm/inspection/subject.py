"""What is inspected: a recurrent network's weights as arrays, and texts as it reads them.

Legend: M inputs, N tokens, C characters, E input width, G gates, H hidden units, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from charlm.config import ModelConfig
from charlm.errors import ConfigError, DataError
from charlm.generation.decoder import embedding_rows
from charlm.generation.layered import one_hot_rows
from charlm.models.architecture import adds_inputs, architecture_of, layer_weights, places
from charlm.models.cells import Cell, Recurrent, cell_of
from charlm.text.direction import turned, turned_values
from charlm.text.records import as_records, end_of
from charlm.text.tokenizer import Ids, Tokenizer, utf8_sizes

Array = NDArray[Any]  # float32, or float64 where a network was opened so


class Layer(NamedTuple):
    """A layer's W_i^T [E, G H], W_h^T [H, G H], biases [G H], and what its cell's step gets besides."""

    w_ih: Array
    w_hh: Array
    bias: Array
    others: Array


@dataclass(frozen=True, slots=True, eq=False)
class RecurrentNetwork:
    """A recurrent network: what each id feeds to it [V + 2, E], its layers, and its output layer [H, V] and [V]."""

    config: ModelConfig
    cell: Cell
    rows: Array
    layers: tuple[Layer, ...]
    head: Array
    head_bias: Array

    @property
    def vocabulary(self) -> int:
        return len(self.head_bias)

    def zeros(self, lanes: int) -> list[tuple[Array, ...]]:
        """The initial states of each layer [B, H]."""
        shape = (lanes, self.config.hidden)
        return [tuple(np.zeros(shape, self.head.dtype) for _ in self.cell.states) for _ in self.layers]

    def step(self, x: Any, before: Sequence[tuple[Any, ...]]) -> tuple[list[tuple[Any, ...]], Any]:
        """The states of each layer after inputs [B, E], from those before, and what the output layer reads [B, H].

        Both may be what stands for arrays, such as `charlm.inspection.gradients.Differentiable`.
        """
        found = []
        for number, (layer, parts) in enumerate(zip(self.layers, before, strict=True)):
            found.append(self.cell.step(x @ layer.w_ih + layer.bias, parts[0] @ layer.w_hh, parts, layer.others))
            y = found[-1][0]
            x = x + y if adds_inputs(self.config, number) else y
        return found, x


def check_recurrent(config: ModelConfig, name: str) -> None:
    """Raise ConfigError for a model of this name that is not made of recurrent cells."""
    if not isinstance(architecture_of(config), Recurrent):
        raise ConfigError(
            f"{name} has no recurrent cells to look into: it is a model of --model {config.model}",
            kept="nothing was inspected",
            hint="use a recurrent one (charlm train --cell lstm, gru, rnn, leaky or mingru)",
        )


def open_network(config: ModelConfig, weights: Mapping[str, Array], dtype: Any = np.float32) -> RecurrentNetwork:
    """The arrays of a recurrent network with these weights, by their names in a checkpoint."""
    cell, known = cell_of(config), {name: weight.astype(dtype) for name, weight in weights.items()}
    layers = []
    for place in places(config, len(known["head.bias"])):
        own = layer_weights(config, place.number, known)
        bias, others = cell.vectors(own)
        arrays = (own["weight_ih"].T, cell.recurrent(own).T, bias, others)
        layers.append(Layer(*(np.ascontiguousarray(array, dtype) for array in arrays)))
    rows = embedding_rows(known) if config.embedding else one_hot_rows(len(known["head.bias"])).astype(dtype)
    head = np.ascontiguousarray(known["head.weight"].T)
    return RecurrentNetwork(config, cell, rows, tuple(layers), head, known["head.bias"])


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """A text as a model reads it.

    text      the text in reading order, of records each with its end [C]
    inputs    what the network reads [M]: the start input, then the tokens; of records each in its turn
    fresh     before which inputs the state is zero [M]
    targets   the token that each input predicts [M], or -1 where none follows
    token_of  the input with which each character is read to its end [C]
    """

    text: str
    inputs: Ids
    fresh: NDArray[np.bool_]
    targets: Ids
    token_of: NDArray[np.int64]


def reading(text: str, tokenizer: Tokenizer, records: str = "none", *, backward: bool = False) -> Reading:
    """How a model with this tokenizer reads a text: as one, or its records each by itself.

    Raises DataError for an empty text.

    >>> from charlm.text.tokenizer import CharTokenizer
    >>> found = reading("ab\\na\\n", CharTokenizer.train("\\nab"), "line")
    >>> found.inputs.tolist(), found.targets.tolist(), found.token_of.tolist()
    ([3, 1, 2, 0, 3, 1, 0], [1, 2, 0, -1, 1, 0, -1], [1, 2, 3, 5, 6])
    """
    text = as_records(text, records)
    if not text:
        raise DataError("the text is empty", kept="nothing was inspected", hint="name another with --text FILE")
    read = turned(text, records) if backward else text
    ids, ends = tokenizer.encode(read).ids, np.cumsum(utf8_sizes(read))
    token_ends = ends if tokenizer.one_per_character else np.cumsum(_piece_sizes(tokenizer)[ids])
    begins = np.zeros(len(ids), dtype=np.bool_)  # tokens before which the start input is read
    begins[0] = True
    if end := end_of(records):
        between = np.array([character == end for character in read[:-1]], dtype=np.bool_)
        begins[np.searchsorted(token_ends, ends[:-1][between]) + 1] = True
    places = np.arange(len(ids)) + np.cumsum(begins)
    inputs = np.full(len(ids) + int(begins.sum()), tokenizer.start, dtype=np.int32)
    inputs[places] = ids
    fresh = np.ones(len(inputs), dtype=np.bool_)
    fresh[places] = False
    targets = np.append(np.where(fresh[1:], -1, inputs[1:]), -1).astype(np.int32)
    token_of = places[np.searchsorted(token_ends, ends)]
    return Reading(text, inputs, fresh, targets, turned_values(token_of, text, records) if backward else token_of)


def _piece_sizes(tokenizer: Tokenizer) -> NDArray[np.int64]:
    return np.array([len(piece) for piece in tokenizer.pieces], dtype=np.int64)
