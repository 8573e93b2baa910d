"""One character at a time: charlm's decoder beside nn.LSTM and onnxruntime, sampling included; and the loss of int8.

2 x 512, embedding 64, vocabulary 65, random weights. The peers are plain loops: step, softmax, draw.
onnxruntime and onnx are optional; without them their rows are empty.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

import charlm
from bench.rows import Row, bounded, compared
from charlm.config import ModelConfig
from charlm.generation.engine import open_decoder
from charlm.generation.sampling import SamplingParameters
from charlm.models.network import Network, export_weights, initialise
from charlm.text.known import python_docs

HIDDEN, LAYERS, EMBEDDING, VOCABULARY = 512, 2, 64, 65
PAIRS: Final = 5
SECONDS: Final = 0.5  # of each measurement
STREAMS: Final = (1, 64, 256)
Weights = dict[str, NDArray[np.float32]]
Write = Callable[[int], None]  # so many characters in each stream


def rows() -> list[Row]:
    found: list[Row] = []
    for cell in ("lstm", "gru", "rnn"):
        network = _network(cell)
        weights = export_weights(network)
        for streams in STREAMS if cell == "lstm" else STREAMS[:1]:
            for precision, least in (("fp32", 14.0), ("int8", 25.0)):
                found.append(
                    _race(
                        f"{cell} 2x512, {_streams(streams)}, {precision}, to nn.{cell.upper()}",
                        ours(network.config, weights, streams, precision),
                        torch_loop(network, streams),
                        streams,
                        least if streams == 1 else 2.0,
                    )
                )
    network = _network("lstm")
    weights = export_weights(network)
    for precision in ("fp32", "int8"):
        name = f"lstm 2x512, one stream, {precision}, to onnxruntime"
        if find_spec("onnxruntime") is None or find_spec("onnx") is None:
            found.append(Row(name, None, None, None, ">= 1", None, "char/s"))
            continue
        found.append(_race(name, ours(network.config, weights, 1, precision), onnx_loop(weights, precision), 1, 1.0))
    return [*found, bounded("lstm 2x256, added by 8-bit weights", "bits/char", [_cost()], 0.005)]


def _network(cell: str) -> Network:
    network = Network(ModelConfig(cell=cell, layers=LAYERS, hidden=HIDDEN, embedding=EMBEDDING), VOCABULARY)
    initialise(network, 0)
    return network


def _streams(count: int) -> str:
    return "one stream" if count == 1 else f"{count} streams"


def _race(name: str, ours: Write, peer: Write, streams: int, least: float) -> Row:
    pairs = [(_speed(ours, streams), _speed(peer, streams)) for _ in range(PAIRS + 1)][1:]
    mine, theirs = zip(*pairs, strict=True)
    return compared(name, "char/s", mine, theirs, least)


def _speed(write: Write, streams: int) -> float:
    """Characters a second over all streams."""
    done, chunk, began = 0, 4 if streams > 1 else 64, time.perf_counter()
    while (spent := time.perf_counter() - began) < SECONDS:
        write(chunk)
        done += chunk * streams
    return done / spent


def ours(config: ModelConfig, weights: Weights, streams: int, precision: str) -> Write:
    decoder = open_decoder(config, weights, precision=precision)
    logits, state = decoder.step([VOCABULARY] * streams, decoder.init_state(streams))
    random = np.random.default_rng(0)

    def write(count: int) -> None:
        nonlocal logits, state
        _, logits, state = decoder.sample(logits, state, random.random((count, streams)), SamplingParameters())

    return write


def torch_loop(network: Network, streams: int) -> Write:
    """The modules step by step, all layers in one call, as PyTorch recommends."""
    config = network.config
    embedding, head = nn.Embedding(VOCABULARY, EMBEDDING), network.head
    rnn = getattr(nn, config.cell.upper())(EMBEDDING, HIDDEN, LAYERS)
    ids, state = torch.zeros(1, streams, dtype=torch.long), None

    @torch.inference_mode()
    def write(count: int) -> None:
        nonlocal ids, state
        for _ in range(count):
            outputs, state = rnn(embedding(ids), state)
            ids = torch.multinomial(head(outputs[0]).softmax(-1), 1).T

    return write


def onnx_loop(weights: Weights, precision: str) -> Write:
    import onnxruntime
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory() as folder:
        path, small = Path(folder, "model.onnx"), Path(folder, "small.onnx")
        path.write_bytes(_onnx(weights))
        if precision == "int8":
            quantize_dynamic(path, small, weight_type=QuantType.QInt8)
            path = small
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    random = np.random.default_rng(0)
    feed: dict[str, Any] = {"ids": np.zeros((1, 1), dtype=np.int64)}
    names = [f"{part}{layer}" for layer in range(LAYERS) for part in "hc"]
    feed |= {name: np.zeros((1, 1, HIDDEN), dtype=np.float32) for name in names}

    def write(count: int) -> None:
        for _ in range(count):
            logits, *state = session.run(None, feed)
            p = np.exp(logits.ravel() - logits.max())
            feed["ids"] = np.searchsorted(np.cumsum(p), random.random() * p.sum()).reshape(1, 1)
            feed.update(zip(names, state, strict=True))

    return write


def _onnx(weights: Weights) -> bytes:
    """The same network as a graph; ONNX has the gates in the order i, o, f, c."""
    from onnx import TensorProto, checker, helper, numpy_helper

    def gates(weight: NDArray[np.float32]) -> NDArray[np.float32]:
        i, f, g, o = np.split(weight, 4)
        return np.concatenate([i, o, f, g])[None]

    constants = {"table": weights["embedding.weight"], "head": weights["head.weight"].T, "bias": weights["head.bias"]}
    nodes = [helper.make_node("Gather", ["table", "ids"], ["x0"])]
    for layer in range(LAYERS):
        part = {
            name: gates(weights[f"rnn.{layer}.{name}"]) for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        }
        constants |= {f"w{layer}": part["weight_ih"], f"r{layer}": part["weight_hh"]}
        constants[f"b{layer}"] = np.concatenate([part["bias_ih"], part["bias_hh"]], axis=1)
        inputs = [f"x{layer}", f"w{layer}", f"r{layer}", f"b{layer}", "", f"h{layer}", f"c{layer}"]
        outputs = [f"y{layer}", f"h{layer}_next", f"c{layer}_next"]
        nodes.append(helper.make_node("LSTM", inputs, outputs, hidden_size=HIDDEN))
        nodes.append(helper.make_node("Squeeze", [f"y{layer}", "one"], [f"x{layer + 1}"]))
    nodes.append(helper.make_node("MatMul", [f"x{LAYERS}", "head"], ["product"]))
    nodes.append(helper.make_node("Add", ["product", "bias"], ["logits"]))
    states = [f"{part}{layer}" for layer in range(LAYERS) for part in "hc"]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "lstm",
        [value("ids", TensorProto.INT64, [1, 1]), *(value(s, TensorProto.FLOAT, [1, 1, HIDDEN]) for s in states)],
        [
            value("logits", TensorProto.FLOAT, [1, 1, VOCABULARY]),
            *(value(f"{state}_next", TensorProto.FLOAT, [1, 1, HIDDEN]) for state in states),
        ],
        [numpy_helper.from_array(np.ascontiguousarray(array), name) for name, array in constants.items()]
        + [numpy_helper.from_array(np.array([1]), "one")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    checker.check_model(model)
    return bytes(model.SerializeToString())


def _cost() -> float:
    """Bits per character that 8-bit weights add on the validation text, after half a minute of training."""
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder, "text.txt")
        text.write_bytes(python_docs())
        run = charlm.train(text, checkpoints=folder, time="30s", hidden=256)
        validation = charlm.load(run.checkpoint).validation_text()
        by = {p: charlm.load(run.checkpoint, engine="decoder", precision=p).score(validation) for p in ("fp32", "int8")}
    return by["int8"].bits_per_character - by["fp32"].bits_per_character
