"""A cell's step as operators of ONNX, read off its definition in NumPy, so that no equation is written twice.

`charlm.models.cells.Cell.step` is called once with `Traced` arrays in place of its own. Every NumPy function that it
applies to one becomes a node of a `Graph`. A cell from outside charlm can therefore be exported like the others, if its
step uses arithmetic, the functions in `_OPERATORS` and slices of columns. This module does not need the package onnx.

PyTorch's exporter calls operators LSTM and GRU, whose gates have another order than PyTorch's, and a GRU without
`linear_before_reset` is another cell. Here there is no such choice to get wrong.

Legend: B lanes (rows of the batch), H hidden units.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin
from numpy.typing import NDArray

from charlm.errors import CharlmError
from charlm.models.cells import Cell

_OPERATORS: Final[Mapping[Any, str]] = {
    np.add: "Add",
    np.subtract: "Sub",
    np.multiply: "Mul",
    np.divide: "Div",
    np.negative: "Neg",
    np.absolute: "Abs",
    np.sqrt: "Sqrt",
    np.exp: "Exp",
    np.log: "Log",
    np.tanh: "Tanh",
    np.maximum: "Max",
    np.minimum: "Min",
}
_HALF: Final = "0.5"


@dataclass(frozen=True, slots=True)
class Node:
    """An operator of ONNX, the names of its inputs, and its integer attributes."""

    operator: str
    inputs: tuple[str, ...]
    attributes: tuple[tuple[str, int], ...] = ()


class Graph:
    """Nodes by the name of their only output, each after those that it needs; and constants by name."""

    def __init__(self) -> None:
        self.nodes: dict[str, Node] = {}
        self.constants: dict[str, NDArray[Any]] = {}
        self._names: dict[Node, str] = {}

    def constant(self, name: str, array: NDArray[Any]) -> str:
        """Add a constant array; returns its name."""
        self.constants[name] = array
        return name

    def number(self, value: float) -> str:
        """A float32 scalar, which is there once."""
        return self.constant(repr(float(np.float32(value))), np.array(value, dtype=np.float32))

    def integer(self, value: int) -> str:
        """An int64 vector of one element, which is there once."""
        return self.constant(f"[{value}]", np.array([value], dtype=np.int64))

    def add(self, operator: str, *inputs: str, **attributes: int) -> str:
        """Add a node, or find an equal one; returns the name of its output."""
        if argument := self._sigmoid_argument(operator, inputs):
            operator, inputs = "Sigmoid", (argument,)
        node = Node(operator, inputs, tuple(sorted(attributes.items())))
        if node not in self._names:
            self._names[node] = f"{operator.lower()}.{len(self._names)}"
            self.nodes[self._names[node]] = node
        return self._names[node]

    def _sigmoid_argument(self, operator: str, inputs: tuple[str, ...]) -> str:
        """The x of 0.5 tanh(0.5 x) + 0.5, which is how `charlm.models.cells.sigmoid` computes sigmoid(x); else ''."""
        if operator != "Add" or _HALF not in inputs:
            return ""
        tanh = self.nodes.get(self._halved(inputs[inputs[0] == _HALF]))
        return self._halved(tanh.inputs[0]) if tanh and tanh.operator == "Tanh" else ""

    def _halved(self, name: str) -> str:
        """What is multiplied by 0.5 where this is such a product; else ''."""
        node = self.nodes.get(name)
        return node.inputs[node.inputs[0] == _HALF] if node and node.operator == "Mul" and _HALF in node.inputs else ""

    def finished(self, outputs: Mapping[str, str]) -> Graph:
        """The same with these outputs, name to value, and without what they do not need."""
        names = {value: name for name, value in outputs.items() if value in self.nodes}
        nodes = {
            names.get(own, own): Node(node.operator, tuple(names.get(i, i) for i in node.inputs), node.attributes)
            for own, node in self.nodes.items()
        }
        nodes |= {
            name: Node("Identity", (names.get(value, value),)) for name, value in outputs.items() if name not in nodes
        }
        needed = set(outputs)
        for name, node in reversed(nodes.items()):
            needed.update(node.inputs if name in needed else ())
        made = Graph()
        made.nodes = {name: node for name, node in nodes.items() if name in needed}
        made.constants = {name: array for name, array in self.constants.items() if name in needed}
        return made


class Traced(NDArrayOperatorsMixin):
    """Stands for a float32 array [B, width] of a graph while a step is traced."""

    def __init__(self, graph: Graph, name: str, width: int) -> None:
        self.graph, self.name, self.width = graph, name, width

    @property
    def shape(self) -> tuple[int, int]:
        """One lane stands for B, which a graph leaves open."""
        return 1, self.width

    def __array_ufunc__(self, function: Any, method: str, *inputs: Any, **options: Any) -> Traced:
        operator = _OPERATORS.get(function)
        if operator is None or method != "__call__" or options:
            raise NotImplementedError(f"numpy.{function.__name__}")
        names = [self._name(value) for value in inputs]
        width = np.broadcast_shapes(*(getattr(value, "shape", ()) for value in inputs))[-1]
        return Traced(self.graph, self.graph.add(operator, *names), width)

    def __array_function__(self, function: Any, *_: Any) -> Any:
        raise NotImplementedError(f"numpy.{function.__name__}")

    def _name(self, value: Any) -> str:
        if isinstance(value, Traced):
            return value.name
        if np.ndim(value):
            raise NotImplementedError("arrays that are neither weights nor states")
        return self.graph.number(value)

    def __getitem__(self, key: Any) -> Traced:
        match key:
            case (slice(start=None, stop=None), slice(step=None) as columns):
                begin, end, _ = columns.indices(self.width)
            case _:
                raise NotImplementedError("indices other than ranges of columns")
        edges = [self.graph.integer(value) for value in (begin, end, 1)]  # the axis is 1
        return Traced(self.graph, self.graph.add("Slice", self.name, *edges), end - begin)


def trace(
    cell: Cell, called: str, x: Traced, product: Traced, states: tuple[Traced, ...], inner: Traced
) -> tuple[Traced, ...]:
    """The states after a step of a cell, of the name `called`, as values of a graph.

    The arguments are those of `charlm.models.cells.Step`. Raises CharlmError where the step uses what has no
    counterpart.
    """
    step: Any = cell.step
    try:
        found = tuple(step(x, product, states, inner))
        if [value.shape for value in found] == [value.shape for value in states]:
            return found
        why = "its states change their width"
    except (NotImplementedError, AttributeError, TypeError, ValueError) as error:
        why = f"its step uses {error}" if isinstance(error, NotImplementedError) else str(error)
    raise CharlmError(
        f"the cell {called} cannot be exported to ONNX: {why}",
        kept="nothing was written",
        hint="write its step with arithmetic, tanh, exp and ranges of columns, as in charlm/models/cells.py",
    )
