"""Gates and states of a recurrent network while it reads a text, in NumPy.

A text is read in blocks, each layer by layer: what the inputs feed to a layer is one product for the whole block, then
its cell takes one step after another (`charlm.models.cells.Cell.step`). So memory does not grow with the text. The
network itself has no hooks, and training does not know of this.

A unit's *memory* is what its layer keeps: c of an LSTM, h of any other cell. Units can be held at given values: lanes
that read the same text with different units held show what each is good for.

Legend: M inputs, T of them in a block, B lanes, E input width, G gates, H hidden units, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np

from charlm.inspection.subject import Array, Layer, Reading, RecurrentNetwork
from charlm.models.architecture import adds_inputs

BLOCK: Final = 256  # inputs


class LayerTrace(NamedTuple):
    """What a layer did at each input of a block: its states and its gates, by name, [T, B, H] each."""

    states: Mapping[str, Array]
    gates: Mapping[str, Array]


class Block(NamedTuple):
    """What a network did at the inputs from `begin` on: each layer, and what its output layer read [T, B, H]."""

    begin: int
    layers: tuple[LayerTrace, ...]
    output: Array


class Held(NamedTuple):
    """In one lane, a unit of a layer whose memory is held at a value throughout."""

    lane: int
    layer: int
    unit: int
    value: float


def trace(
    network: RecurrentNetwork, read: Reading, *, lanes: int = 1, held: Sequence[Held] = (), size: int = BLOCK
) -> Iterator[Block]:
    """Read a text in so many lanes, which differ in what is held, in blocks of at most `size` inputs."""
    states = network.zeros(lanes)
    for begin in range(0, len(read.inputs), size):
        part = slice(begin, begin + size)
        x, fresh, layers = network.rows[read.inputs[part]][:, None], read.fresh[part].tolist(), []
        for number, layer in enumerate(network.layers):
            own = [one for one in held if one.layer == number]
            found, states[number] = _through(network, layer, x, fresh, states[number], own)
            y = found.states["h"]
            x = x + y if adds_inputs(network.config, number) else y
            layers.append(found)
        yield Block(begin, tuple(layers), x)


def _through(
    network: RecurrentNetwork,
    layer: Layer,
    x_TBE: Array,
    fresh: Sequence[bool],
    before: tuple[Array, ...],
    held: Sequence[Held],
) -> tuple[LayerTrace, tuple[Array, ...]]:
    """One layer through a block; inputs of one lane are those of all."""
    cell, shape = network.cell, (len(x_TBE), *before[0].shape)
    fed = x_TBE @ layer.w_ih + layer.bias
    gates = [np.empty(shape, fed.dtype) for _ in cell.gates]
    states = [np.empty(shape, fed.dtype) for _ in cell.states]
    lanes, units, values = [one.lane for one in held], [one.unit for one in held], [one.value for one in held]
    for t in range(len(fed)):
        if fresh[t]:
            before = tuple(np.zeros_like(part) for part in before)
        now = cell.values(fed[t], before[0] @ layer.w_hh, before, layer.others)
        kept = cell.update(now, before, layer.others)
        if held:
            memory = kept[-1].copy()
            memory[lanes, units] = values
            kept = (*kept[:-1], memory)
        before = cell.after(now, kept)
        for stored, value in zip((*gates, *states), (*now, *before), strict=True):
            stored[t] = value
    found = LayerTrace(dict(zip(cell.states, states, strict=True)), dict(zip(cell.gates, gates, strict=True)))
    return found, before


def memories(network: RecurrentNetwork, read: Reading) -> Array:
    """The memory of every unit after each input [M, L H], layer by layer, float32."""
    name, found = network.cell.states[-1], []
    for block in trace(network, read):
        found.append(np.concatenate([layer.states[name][:, 0] for layer in block.layers], axis=1))
    return np.concatenate(found).astype(np.float32)
