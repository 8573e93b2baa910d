"""The checkpoint: one safetensors file that stands alone. docs/checkpoint.md is its description.

Tensors are NumPy arrays here, so that whoever only reads a checkpoint need not import torch. Everything that is no
tensor is one JSON object in the file's metadata under "charlm"; beside it, "sha256" is the hash of the whole file
with that hash's own 64 digits read as zeros. Nothing is unpickled. This is the only module that knows the format.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from charlm.config import Config
from charlm.errors import CheckpointError, ConfigError, StorageError
from charlm.storage.durable import write_durably
from charlm.text.tokenizer import Tokenizer, TokenizerState, restore_tokenizer

FORMAT: Final = 1
Array = NDArray[Any]

_ZEROS: Final = "0" * 64
_LARGEST_HEADER: Final = 64 * 2**20  # of which a text in 100,000 files takes a third
_WEIGHTS: Final = ("embedding.", "rnn.", "head.")
_TOKENIZER_MODEL: Final = "tokenizer.model"
_PARTS: Final = ("config", "tokenizer", "training", "bookkeeping", "corpus", "environment", "result")


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """What a run leaves behind; `training` is empty in a checkpoint that cannot be resumed.

    weights      the model's tensors by their documented names
    training     all that a resume needs and that is no tensor (JSON-able)
    tensors      all that a resume needs and that is a tensor: optimizer.*, state.*
    bookkeeping  seconds so far and the length of metrics.jsonl: restored, but no part of what is computed
    history      one row a check: step, characters, train_loss, val_loss, ...
    corpus       fingerprint, characters, sources
    environment  versions, device, threads, precision and the reasons for them
    result       the closing figures of a finished run
    """

    config: Config
    tokenizer: TokenizerState
    weights: Mapping[str, Array]
    training: Mapping[str, Any] = field(default_factory=dict)
    tensors: Mapping[str, Array] = field(default_factory=dict)
    bookkeeping: Mapping[str, Any] = field(default_factory=dict)
    history: tuple[Mapping[str, Any], ...] = ()
    corpus: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    result: Mapping[str, Any] = field(default_factory=dict)

    @property
    def state_sha256(self) -> str:
        """Over weights, training state and its tensors; names, paths, times and environment lie outside it."""
        digest = hashlib.sha256()
        for name, array in sorted({**self.weights, **self.tensors}.items()):
            digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
            digest.update(array.tobytes())
        digest.update(_json(self.training).encode())
        return digest.hexdigest()

    @property
    def parameters(self) -> int:
        return sum(array.size for array in self.weights.values())

    def open_tokenizer(self) -> Tokenizer:
        return restore_tokenizer(self.tokenizer)

    def to_bytes(self) -> bytes:
        """The whole file; equal checkpoints hold equal tensors and metadata, whatever order the bytes have."""
        from safetensors.numpy import save

        tensors = {name: np.asarray(array, order="C") for name, array in {**self.weights, **self.tensors}.items()}
        if self.tokenizer.model:
            tensors[_TOKENIZER_MODEL] = np.frombuffer(self.tokenizer.model, dtype=np.uint8)
        data = bytearray(save(tensors, metadata={"charlm": _json(self._metadata()), "sha256": _ZEROS}))
        place = _hash_place(bytes(data[: 8 + _LARGEST_HEADER]))
        data[place : place + 64] = hashlib.sha256(data).hexdigest().encode()
        return bytes(data)

    def _metadata(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "config": asdict(self.config),
            "tokenizer": dict(self.tokenizer.table),
            "training": dict(self.training),
            "bookkeeping": dict(self.bookkeeping),
            "history": [dict(row) for row in self.history],
            "corpus": dict(self.corpus),
            "environment": dict(self.environment),
            "result": dict(self.result),
            "state_sha256": self.state_sha256,
        }


def save_checkpoint(path: Path, checkpoint: Checkpoint, *, keep: Path | None = None) -> bool:
    """`write_durably` the checkpoint; with `keep`, the file that was at `path` is found there."""
    return write_durably(path, checkpoint.to_bytes(), keep=keep)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read and check a checkpoint: hash first, then structure, names, shapes and finiteness.

    Raises CheckpointError (exit 4) for whatever is not a whole charlm checkpoint, StorageError when it cannot be read.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise CheckpointError(f"there is no checkpoint {path}", hint="charlm train CORPUS makes one") from error
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}", kept="nothing was changed") from error
    try:
        return _parse(data)
    except CheckpointError as error:
        raise CheckpointError(
            f"{path}: {error}", kept="nothing was changed", hint="take another checkpoint of the run"
        ) from error
    except ConfigError as error:
        raise CheckpointError(f"{path}: its configuration is not valid: {error}", kept="nothing was changed") from error


def _parse(data: bytes) -> Checkpoint:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    table = _checked_metadata(data)
    try:
        arrays = load(data)
    except (SafetensorError, ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"its tensors cannot be read: {error}") from error
    for name, array in arrays.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise CheckpointError(f"tensor {name} holds values that are not finite")
    _check_kinds(table)
    try:
        model = arrays.pop(_TOKENIZER_MODEL, np.zeros(0, np.uint8)).tobytes()
        weights = {name: array for name, array in arrays.items() if name.startswith(_WEIGHTS)}
        checkpoint = Checkpoint(
            config=Config.from_flat(
                {name: value for section in table["config"].values() for name, value in section.items()}
            ),
            tokenizer=TokenizerState(table["tokenizer"], model),
            weights=weights,
            training=table["training"],
            tensors={name: array for name, array in arrays.items() if name not in weights},
            bookkeeping=table["bookkeeping"],
            history=tuple(table["history"]),
            corpus=table["corpus"],
            environment=table["environment"],
            result=table["result"],
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"its description is not complete: {error!r}") from error
    _check_shapes(checkpoint)
    return checkpoint


def _checked_metadata(data: bytes) -> dict[str, Any]:
    """The metadata's JSON, after the hash over the whole file has been checked."""
    place = _hash_place(data)
    digest = hashlib.sha256(data[:place])
    digest.update(_ZEROS.encode())
    digest.update(data[place + 64 :])
    if digest.hexdigest().encode() != data[place : place + 64]:
        raise CheckpointError("it is damaged: its SHA-256 does not match")
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    try:
        table: dict[str, Any] = json.loads(header["__metadata__"]["charlm"])
        found = table.get("format")
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError("its description cannot be read") from error
    if found != FORMAT:
        raise CheckpointError(f"it has format {found!r}; this charlm reads format {FORMAT}")
    return table


def _hash_place(data: bytes) -> int:
    """Where the 64 digits of the file's own hash begin, found without trusting anything in the file."""
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > min(len(data) - 8, _LARGEST_HEADER):
        raise CheckpointError("it is not a charlm checkpoint, or it is cut short")
    try:
        metadata = json.loads(data[8 : 8 + length])["__metadata__"]
        mark = f'"sha256":"{metadata["sha256"]}"'.encode()
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError("it is not a charlm checkpoint") from error
    place = data.find(mark, 8, 8 + length)
    if len(mark) != 75 or place < 0 or "charlm" not in metadata:
        raise CheckpointError("it is not a charlm checkpoint")
    return place + 10


def weight_shapes(config: Config, vocabulary: int) -> dict[str, tuple[int, ...]]:
    """Name and shape of every weight that a model of this configuration has (docs/checkpoint.md)."""
    model = config.model
    gates = {"lstm": 4, "gru": 3, "rnn": 1}[model.cell] * model.hidden
    shapes: dict[str, tuple[int, ...]] = (
        {"embedding.weight": (vocabulary + 1, model.embedding)} if model.embedding else {}
    )
    for layer in range(model.layers):
        width = model.hidden if layer else (model.embedding or vocabulary)
        shapes |= {
            f"rnn.{layer}.weight_ih": (gates, width),
            f"rnn.{layer}.weight_hh": (gates, model.hidden),
            f"rnn.{layer}.bias_ih": (gates,),
            f"rnn.{layer}.bias_hh": (gates,),
        }
    return shapes | {"head.weight": (vocabulary, model.hidden), "head.bias": (vocabulary,)}


def _check_kinds(table: Mapping[str, Any]) -> None:
    """Every part of the description is a table, the history a list of tables."""
    history = table.get("history")
    tables = [table.get(name) for name in _PARTS] + (history if isinstance(history, list) else [history])
    if not all(isinstance(part, dict) for part in tables):
        raise CheckpointError("its description is not complete")


def _check_shapes(checkpoint: Checkpoint) -> None:
    vocabulary = checkpoint.open_tokenizer().size
    expected = weight_shapes(checkpoint.config, vocabulary)
    for name in sorted(expected.keys() | checkpoint.weights.keys()):
        found = checkpoint.weights[name].shape if name in checkpoint.weights else None
        if found != expected.get(name):
            raise CheckpointError(f"tensor {name} has shape {found}, its configuration asks for {expected.get(name)}")


def _json(value: Mapping[str, Any]) -> str:
    """Canonical JSON: sorted names, no spaces, ASCII; a number that is not finite is a bug of ours."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def finite(value: float | None) -> float | None:
    """JSON has no NaN or infinity: null stands for a figure that does not exist."""
    return value if value is not None and math.isfinite(value) else None
