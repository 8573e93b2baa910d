"""A network's step as a graph: ids and states to logits and the states after them, without the package onnx.

    ids [B] --Gather--> rows [B, E] --Gemm--> W_ih x + b [B, G H] --the cell's step--> h [B, H] --Gemm--> logits [B, V]

Constants have the names and the layout that they have in a checkpoint, where they are the same: only the rows of the
start input and of an unseen character are added to the embedding, and the two biases of a layer become one, as in
`charlm.models.cells.Cell.vectors`. With one-hot input the rows are the first layer's products themselves.

Legend: B lanes (rows of the batch), E input width, H hidden units, G gates, V vocabulary.
"""

from __future__ import annotations

from typing import Final

from charlm.config import ModelConfig
from charlm.errors import CharlmError
from charlm.export.trace import Graph, Traced, trace
from charlm.generation.decoder import Weights, embedding_rows, input_table, vectors
from charlm.models.architecture import adds_inputs, architecture_of, layer_weights
from charlm.models.cells import Recurrent, cell_of

IDS: Final = "ids"
LOGITS: Final = "logits"
NEXT: Final = "next."  # before the name of a state: that after the step


def state_names(config: ModelConfig) -> list[str]:
    """The states of a network in order: h.0, c.0, h.1, c.1."""
    return [f"{name}.{layer}" for layer in range(config.layers) for name in cell_of(config).states]


def step_graph(config: ModelConfig, weights: Weights) -> Graph:
    """One step: inputs `ids` and the states, outputs `logits` and the states after it, each `next.` and its name."""
    if not isinstance(architecture_of(config), Recurrent):
        raise CharlmError(
            f"ONNX export is for recurrent networks, not for --model {config.model}",
            kept="nothing was written",
            hint="--format card describes any model",
        )
    cell, graph, hidden = cell_of(config), Graph(), config.hidden
    outputs: dict[str, str] = {}
    below = IDS
    for layer in range(config.layers):
        states = tuple(Traced(graph, f"{name}.{layer}", hidden) for name in cell.states)
        inner = vectors(config, weights, layer)[1]
        after = trace(
            cell,
            config.cell,
            Traced(graph, _input_product(graph, config, weights, layer, below), len(cell.gates) * hidden),
            _recurrent_product(graph, config, weights, layer),
            states,
            Traced(graph, graph.constant(f"rnn.{layer}.inner", inner), len(inner)),
        )
        outputs |= {NEXT + before.name: value.name for before, value in zip(states, after, strict=True)}
        below = graph.add("Add", below, after[0].name) if adds_inputs(config, layer) else after[0].name
    head = [graph.constant(name, weights[name]) for name in ("head.weight", "head.bias")]
    return graph.finished({LOGITS: graph.add("Gemm", below, *head, transB=1), **outputs})


def _recurrent_product(graph: Graph, config: ModelConfig, weights: Weights, layer: int) -> Traced:
    """W_hh h [B, G H], which has no columns where the cell has no W_hh."""
    weight = cell_of(config).recurrent(layer_weights(config, layer, weights))
    matrix = graph.constant(f"rnn.{layer}.weight_hh", weight)
    return Traced(graph, graph.add("Gemm", f"h.{layer}", matrix, transB=1), len(weight))


def _input_product(graph: Graph, config: ModelConfig, weights: Weights, layer: int, below: str) -> str:
    """W_ih x and the biases [B, G H]; `below` is the output of the layer below, or the ids."""
    bias = vectors(config, weights, layer)[0]
    if not layer and not config.embedding:
        return graph.add("Gather", graph.constant("rnn.0.input_table", input_table(config, weights) + bias), below)
    if not layer:
        below = graph.add("Gather", graph.constant("embedding.weight", embedding_rows(weights)), below)
    matrix = graph.constant(f"rnn.{layer}.weight_ih", weights[f"rnn.{layer}.weight_ih"])
    return graph.add("Gemm", below, matrix, graph.constant(f"rnn.{layer}.bias", bias), transB=1)
