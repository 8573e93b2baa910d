"""ONNX files: one step of a network with explicit states, and all else that a program needs, in one file.

The graph is built with plain operators (Gather, Gemm, Add, Mul, Tanh, Sigmoid, Slice) from the cell's own equations
(`charlm.export.trace`) instead of the operators LSTM, GRU and RNN, so that every cell is exported by the same code; in
onnxruntime it is about as fast (docs/export.md). The metadata, all of it texts, is listed there too. Equal checkpoints
give equal bytes.
"""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any, Final

import numpy as np

from charlm import __version__
from charlm.config import ExportConfig
from charlm.errors import CharlmError
from charlm.export.formats import Exported, ExportFormat
from charlm.export.graph import IDS, LOGITS, NEXT, state_names, step_graph
from charlm.export.parity import check_parity, onnxruntime
from charlm.export.trace import Graph
from charlm.storage.checkpoint import Checkpoint
from charlm.text.records import end_token

FORMAT: Final = "charlm.onnx/1"
OPSET: Final = 17  # of the standard operators; onnxruntime reads it from version 1.12 on
IR: Final = 8  # the version of the file format that came with that opset
_LARGEST: Final = 2**31 - 2**24  # bytes of a file, a limit of Protocol Buffers, less what is not weights
_KEPT: Final = "nothing was written"
_BATCH: Final = "batch"


def export_onnx(checkpoint: Checkpoint, path: Path, config: ExportConfig) -> Exported:  # noqa: ARG001
    """A checkpoint, read from `path`, as an ONNX file that was compared with charlm's decoder in onnxruntime.

    Raises CharlmError where a library is missing, the cell cannot be exported, or the file computes something else.
    """
    onnxruntime()  # before any work
    data = onnx_file(checkpoint)
    return Exported(data=data, parity=check_parity(data, checkpoint, path))


ONNX: Final = ExportFormat(suffix=".onnx", export=export_onnx)


def onnx_file(checkpoint: Checkpoint) -> bytes:
    """A checkpoint as an ONNX file, checked by the package onnx but not yet compared with charlm's decoder."""
    onnx = _onnx()
    graph = step_graph(checkpoint.config.model, checkpoint.weights)
    if sum(array.nbytes for array in graph.constants.values()) > _LARGEST:
        raise CharlmError("the model is too large for an ONNX file, which is limited to 2 GB", kept=_KEPT)
    model = onnx.helper.make_model(
        _graph_proto(onnx, graph, checkpoint),
        opset_imports=[onnx.helper.make_opsetid("", OPSET)],
        ir_version=IR,
        producer_name="charlm",
        producer_version=__version__,
    )
    onnx.helper.set_model_props(model, metadata(checkpoint))
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString(deterministic=True))


def _graph_proto(onnx: Any, graph: Graph, checkpoint: Checkpoint) -> Any:
    """The graph as the package onnx has it, with typed inputs and outputs."""
    model, size = checkpoint.config.model, len(checkpoint.weights["head.bias"])
    value, floats = onnx.helper.make_tensor_value_info, onnx.TensorProto.FLOAT
    states = state_names(model)
    inputs = [value(IDS, onnx.TensorProto.INT64, [_BATCH])]
    outputs = [value(LOGITS, floats, [_BATCH, size])]
    inputs += [value(name, floats, [_BATCH, model.hidden]) for name in states]
    outputs += [value(NEXT + name, floats, [_BATCH, model.hidden]) for name in states]
    return onnx.helper.make_graph(
        [
            onnx.helper.make_node(node.operator, node.inputs, [name], name=name, **dict(node.attributes))
            for name, node in graph.nodes.items()
        ],
        "step",
        inputs,
        outputs,
        [
            onnx.numpy_helper.from_array(np.ascontiguousarray(array), name)
            for name, array in sorted(graph.constants.items())
        ],
        doc_string="One step of a language model: an id and the states to logits of the next id and the next states.",
    )


def metadata(checkpoint: Checkpoint) -> dict[str, str]:
    """What a program needs besides the graph, and where the model is from; docs/export.md lists it."""
    config, tokenizer = checkpoint.config, checkpoint.open_tokenizer()
    state = tokenizer.state()
    end = end_token(tokenizer, config.data.records)
    loss = checkpoint.training.best if checkpoint.result is None else checkpoint.result.val_loss
    known = {
        "format": FORMAT,
        "charlm": __version__,
        "cell": config.model.cell,
        "skip": str(config.model.skip).lower(),
        "layers": str(config.model.layers),
        "hidden": str(config.model.hidden),
        "embedding": str(config.model.embedding),
        "states": json.dumps(state_names(config.model)),
        "tokenizer": tokenizer.kind,
        "pieces": json.dumps([piece.hex() for piece in tokenizer.pieces]),
        "start_id": str(tokenizer.start),
        "unseen_id": str(tokenizer.unseen),
        "escape": repr(tokenizer.escape),
        "records": config.data.records,
        "direction": config.data.direction,
        "weights_sha256": weights_sha256(checkpoint),
        "state_sha256": checkpoint.state_sha256,
    }
    if "vocabulary" in state.table:
        known["vocabulary"] = json.dumps([ord(character) for character in state.table["vocabulary"]])
    if state.model:
        known["tokenizer_model"] = base64.b64encode(state.model).decode()
    if end is not None:
        known["end_id"] = str(end)
    return known if loss is None else {**known, "validation_loss": repr(float(loss))}


def weights_sha256(checkpoint: Checkpoint) -> str:
    """Over the weights, by name: for each its name, type and shape, and its numbers as in `Checkpoint.state_sha256`."""
    digest = hashlib.sha256()
    for name, array in sorted(checkpoint.weights.items()):
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _onnx() -> Any:
    """The package onnx; raises CharlmError where it is not installed."""
    try:
        import onnx
        import onnx.checker
        import onnx.helper
        import onnx.numpy_helper
    except ImportError as error:
        raise CharlmError(
            "export to ONNX needs the library onnx, which is not installed",
            kept=_KEPT,
            hint="pip install 'charlm-cli[onnx]'",
        ) from error
    return onnx
