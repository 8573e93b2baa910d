"""The checkpoint: one safetensors file that stands alone. docs/checkpoint.md describes the format.

Tensors are NumPy arrays here, so that reading a checkpoint does not import torch; loaded ones are read-only views of
the file's bytes. Everything else is one JSON object in the file's metadata under "charlm"; beside
it, "sha256" is the hash of the whole file with that hash's own 64 digits read as zeros. That hash finds damage; it is
no signature, so a file with a correct one is still not trusted: every field is validated before use. Nothing is
unpickled. This is the only module that knows the format.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from charlm.config import Config, check_shares
from charlm.errors import CheckpointError, ConfigError, DataError, StorageError, quoted
from charlm.models.architecture import (
    Shapes,
    architecture_of,
    state_names,
    state_shapes,
    trained_shapes,
    weight_shapes,
)
from charlm.models.optimizers import PREFIX, optimizer_shapes
from charlm.runtime.environment import Environment
from charlm.storage.durable import write_durably
from charlm.storage.records import (
    Bookkeeping,
    CorpusRecord,
    Json,
    ModelState,
    Result,
    TrainState,
    Validation,
    picked,
)
from charlm.storage.schema import FORMAT, Table, from_json, to_json, too_large
from charlm.text.pieces import LARGEST_MODEL
from charlm.text.tokenizer import Tokenizer, TokenizerState, restore_tokenizer

Array = NDArray[Any]

_LARGEST_HEADER: Final = 64 * 2**20
_LARGEST_TABLE: Final = 2**20  # the header without its metadata: 64 layers take a quarter of that
_CHUNK: Final = 2**20  # numbers that are checked at a time
_SNIFF: Final = 4096  # bytes by which a text is told from a damaged checkpoint
_LONGEST_MESSAGE: Final = 400
_ZEROS: Final = "0" * 64
_HASH: Final = '"sha256":"'
_DESCRIPTION: Final = '"charlm":"'
_WEIGHTS: Final = ("embedding.", "rnn.", "layers.", "head.")
_TOKENIZER_MODEL: Final = "tokenizer.model"


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """A model and, if training can be resumed from it, the whole training state.

    weights      the model's tensors by their documented names
    training     all that a resume needs and that is no tensor; of a model alone, its step and loss
    tensors      all that a resume needs and that is a tensor: optimizer.*, iterate.*, state.*
    history      the validations so far
    result       the closing figures of a finished run
    """

    config: Config
    tokenizer: TokenizerState
    weights: Mapping[str, Array]
    training: ModelState | TrainState = field(default_factory=ModelState)
    tensors: Mapping[str, Array] = field(default_factory=dict)
    bookkeeping: Bookkeeping = field(default_factory=Bookkeeping)
    history: tuple[Validation, ...] = ()
    corpus: CorpusRecord = field(default_factory=CorpusRecord)
    environment: Environment = field(default_factory=Environment)
    result: Result | None = None

    def __repr__(self) -> str:
        kind = "training state" if self.resumable else "model alone"
        return f"Checkpoint({kind} at step {self.training.step:,}, {self.parameters:,} parameters)"

    @property
    def resumable(self) -> bool:
        """Whether training can go on from here: not from a model alone."""
        return isinstance(self.training, TrainState)

    @property
    def state(self) -> TrainState:
        """The training state; raises CheckpointError for a model alone."""
        if not isinstance(self.training, TrainState):
            raise CheckpointError("it holds only a model, without the training state needed to resume")
        return self.training

    @property
    def state_sha256(self) -> str:
        """Over weights, training state and its tensors; names, paths, times and environment lie outside it."""
        digest = hashlib.sha256()
        for name, array in sorted({**self.weights, **self.tensors}.items()):
            digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
            digest.update(np.ascontiguousarray(array).data)
        digest.update(to_json(self.training.to_json()).encode())
        return digest.hexdigest()

    @property
    def receptive_field(self) -> int | None:
        """How many tokens a prediction can depend on; None where there is no limit."""
        return architecture_of(self.config.model).receptive_field(self.config.model)

    @property
    def parameters(self) -> int:
        return sum(array.size for array in self.weights.values())

    def open_tokenizer(self) -> Tokenizer:
        return restore_tokenizer(self.tokenizer)

    def to_bytes(self) -> bytes:
        """The whole file; equal checkpoints hold equal tensors and metadata, whatever order the bytes have.

        Raises DataError for what `load_checkpoint` would refuse as too large: a text in too many files.
        """
        from safetensors.numpy import save

        metadata = to_json(self._metadata())
        if too_large(metadata):
            raise DataError(
                f"a checkpoint cannot describe {len(self.corpus.sources):,} files of text: "
                f"that takes {len(metadata):,} bytes",
                kept="nothing was written",
                hint="join them into fewer files",
            )
        tensors = {name: np.asarray(array, order="C") for name, array in {**self.weights, **self.tensors}.items()}
        if self.tokenizer.model:
            tensors[_TOKENIZER_MODEL] = np.frombuffer(self.tokenizer.model, dtype=np.uint8)
        data = bytearray(save(tensors, metadata={"charlm": metadata, "sha256": _ZEROS}))
        place = data.index(_HASH.encode(), 8) + len(_HASH)
        data[place : place + 64] = hashlib.sha256(data).hexdigest().encode()
        return bytes(data)

    def _metadata(self) -> Json:
        return {
            "format": FORMAT,
            "config": asdict(self.config),
            "tokenizer": dict(self.tokenizer.table),
            "training": self.training.to_json(),
            "bookkeeping": asdict(self.bookkeeping),
            "history": [asdict(row) for row in self.history],
            "corpus": self.corpus.to_json(),
            "environment": asdict(self.environment),
            "result": asdict(self.result) if self.result else {},
            "state_sha256": self.state_sha256,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Outline:
    """What a checkpoint says of itself: as in `Checkpoint`, but without its tensors, and its hash is not checked."""

    config: Config
    training: ModelState | TrainState
    bookkeeping: Bookkeeping
    history: tuple[Validation, ...]
    corpus: CorpusRecord
    environment: Environment
    result: Result | None
    parameters: int

    @property
    def resumable(self) -> bool:
        """Whether training can go on from here: not from a model alone."""
        return isinstance(self.training, TrainState)


def save_checkpoint(path: Path, checkpoint: Checkpoint, *, keep: Path | None = None) -> bool:
    """Write the checkpoint durably (`write_durably`); with `keep`, the file that was at `path` is kept there."""
    return write_durably(path, checkpoint.to_bytes(), keep=keep)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read and check a checkpoint: its first bytes, its table of tensors, its hash, then everything that is in it.

    Memory taken stays below the file's size + 256 MB, whatever the file says. Raises CheckpointError (exit 4) for
    whatever is not a whole charlm checkpoint, StorageError when it cannot be read.
    """
    with _checked(path) as (file, size):
        return _parse(file, size)


def read_outline(path: Path) -> Outline:
    """Read and check what a checkpoint says of itself, which takes its header alone; raises as `load_checkpoint`."""
    with _checked(path) as (file, size):
        header = _read_header(file, size)
        weights = [place for name, place in header.places.items() if name.startswith(_WEIGHTS)]
        return Outline(
            **_records(from_json(header.metadata)), parameters=sum(math.prod(place.shape) for place in weights)
        )


@contextmanager
def _checked(path: Path) -> Iterator[tuple[BinaryIO, int]]:
    """A checkpoint, opened, and its size in bytes; whatever is wrong with it is raised with its name."""
    try:
        about = path.stat()
        if not stat.S_ISREG(about.st_mode):  # a link may lead to an endless device, or to a pipe without a writer
            raise StorageError(f"cannot read {path}: it is not a file", kept="nothing was changed")
        with path.open("rb") as file:
            yield file, about.st_size
    except FileNotFoundError as error:
        raise CheckpointError(f"there is no checkpoint {path}", hint="charlm train CORPUS makes one") from error
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}", kept="nothing was changed") from error
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {_clipped(error)}", kept="nothing was changed", hint=_way_on(path)) from error
    except ConfigError as error:
        raise CheckpointError(
            f"{path}: its configuration is not valid: {_clipped(error)}", kept="nothing was changed"
        ) from error


def parse_checkpoint(data: bytes) -> Checkpoint:
    """A checkpoint from the bytes of its file, with the same checks; raises CheckpointError."""
    return _parse(BytesIO(data), len(data))


def _way_on(path: Path) -> str:
    """What to do about a file that is no checkpoint."""
    if _is_text(path):
        return f"it is a text: that goes to --text, and charlm train {quoted(path)} makes a model of it"
    others = [other for other in sorted(path.parent.glob("*.safetensors")) if other != path]
    return f"try another checkpoint, such as {quoted(others[0])}" if others else "try another checkpoint of the run"


def _is_text(path: Path) -> bool:
    """Whether a file begins like a text: without control characters that no text has."""
    try:
        with path.open("rb") as file:
            first = file.read(_SNIFF)
    except OSError:
        return False
    return bool(first) and not re.search(rb"[\0-\x08\x0e-\x1a\x1c-\x1f]", first)


def _clipped(error: Exception) -> str:
    """An error message, shortened where it quotes too much of a file."""
    text = str(error)
    return text if len(text) <= _LONGEST_MESSAGE else text[:_LONGEST_MESSAGE] + "…"


class _Place(NamedTuple):
    """Offsets of a tensor in the body of the file, its type and its shape."""

    begin: int
    end: int
    dtype: str
    shape: tuple[int, ...]


class _Header(NamedTuple):
    """All of a file but its tensors."""

    first: bytes  # the eight bytes of its length
    text: bytes
    metadata: str
    digits: int  # where in the text the 64 digits of the file's own hash are
    places: dict[str, _Place]


def _read_header(file: BinaryIO, size: int) -> _Header:
    """Read the header of a file of this size; errors are found before more than needed is read."""
    first = file.read(9)
    length = int.from_bytes(first[:8], "little")
    if first[8:] != b"{" or not 0 < length <= min(size - 8, _LARGEST_HEADER):
        raise CheckpointError("it is not a charlm checkpoint, or it is truncated")
    text = first[8:] + file.read(length - 1)
    table, metadata, digits = _opened(text)
    places = _places(table)
    if size != 8 + length + max((place.end for place in places.values()), default=0):
        raise CheckpointError("it is truncated, or has bytes after its end")
    return _Header(first[:8], text, metadata, digits, places)


def _parse(file: BinaryIO, size: int) -> Checkpoint:
    """Read the checkpoint in a file of this size."""
    first, text, metadata, digits, places = _read_header(file, size)
    body = file.read(size - 8 - len(text))
    digest = hashlib.sha256(first)
    for part in (text[:digits], _ZEROS.encode(), memoryview(text)[digits + 64 :], body):
        digest.update(part)
    if digest.hexdigest().encode() != text[digits : digits + 64]:
        raise CheckpointError("it is damaged: its SHA-256 does not match")
    arrays = {name: _view(name, place, body) for name, place in places.items()}
    return _built(from_json(metadata), arrays)


def _opened(header: bytes) -> tuple[dict[str, Any], str, int]:
    """The table of tensors, the metadata as text, and the offset of the 64 digits of the file's own hash."""
    try:
        text = header.decode("ascii")
        if re.search(
            r"\\u(?!00)", text.replace("\\\\", "  ")
        ):  # ours has none; one would make Python store every character in more bytes
            raise CheckpointError("it is not a charlm checkpoint")
        begin = text.index(_DESCRIPTION) + len(_DESCRIPTION) - 1
        metadata, end = json.JSONDecoder().raw_decode(text, begin)  # a string, so its memory is bounded by its length
        if len(text) - (end - begin) > _LARGEST_TABLE:
            raise CheckpointError("its table of tensors is too large")
        table = json.loads(f'{text[:begin]}""{text[end:]}', object_pairs_hook=_once, parse_int=_natural)
        texts, digits = table.pop("__metadata__"), text.index(_HASH) + len(_HASH)
        whole = texts == {"charlm": "", "sha256": text[digits : digits + 64]} and text.count(_HASH) == 1
    except (ValueError, KeyError, AttributeError, RecursionError) as error:
        raise CheckpointError("it is not a charlm checkpoint") from error
    if not whole:
        raise CheckpointError("it is not a charlm checkpoint")
    return table, metadata, digits


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(table := dict(pairs)) < len(pairs):
        raise ValueError("duplicate name")
    return table


def _natural(digits: str) -> int:
    if digits.startswith("-"):
        raise ValueError(digits)
    return int(digits)


def _places(table: Table) -> dict[str, _Place]:
    """Where each tensor lies: together they fill the body, without holes or overlaps."""
    places: dict[str, _Place] = {}
    for name, entry in table.items():
        kind, width = ("U8", 1) if name == _TOKENIZER_MODEL else ("F32", 4)
        match entry:
            case {"dtype": dtype, "shape": [*shape], "data_offsets": [begin, end]} if (
                len(entry) == 3
                and len(shape) <= 8
                and dtype == kind
                and all(type(number) is int for number in (*shape, begin, end))
            ):
                places[name] = _Place(begin, end, dtype, tuple(shape))
        if name not in places or math.prod(shape) * width != end - begin:
            raise CheckpointError(f"tensor {name} has an invalid type, shape or offset")
    reached = 0
    for place in sorted(places.values()):
        if place.begin != reached:
            raise CheckpointError("its tensors overlap, or leave gaps")
        reached = place.end
    return places


def _view(name: str, place: _Place, body: bytes) -> Array:
    """The tensor as it stands in the file, read-only; numbers that are not finite are refused."""
    dtype = np.uint8 if place.dtype == "U8" else "<f4"
    try:
        array: Array = np.ndarray(place.shape, dtype, buffer=body, offset=place.begin)
    except ValueError as error:  # no elements, but dimensions beyond NumPy's limits
        raise CheckpointError(f"tensor {name} has an invalid shape") from error
    flat = array.reshape(-1)
    if not all(np.isfinite(flat[i : i + _CHUNK]).all() for i in range(0, len(flat), _CHUNK)):
        raise CheckpointError(f"tensor {name} holds values that are not finite")
    return array


def _built(table: Table, arrays: dict[str, Array]) -> Checkpoint:
    """Build the checkpoint from its metadata and tensors, which must be the ones that the metadata implies."""
    records = _records(table)
    model = arrays.pop(_TOKENIZER_MODEL, np.zeros(0, np.uint8))
    if model.size > LARGEST_MODEL:
        raise CheckpointError("its SentencePiece model is too large")
    weights = {name: array for name, array in arrays.items() if name.startswith(_WEIGHTS)}
    checkpoint = Checkpoint(
        **records,
        tokenizer=TokenizerState(table["tokenizer"], model.tobytes()),
        weights=weights,
        tensors={name: array for name, array in arrays.items() if name not in weights},
    )
    expected = _shapes(checkpoint)
    for name in sorted(expected.keys() | arrays.keys()):
        shape = arrays[name].shape if name in arrays else None
        if shape != expected.get(name):
            raise CheckpointError(f"tensor {name} has shape {shape}, its configuration implies {expected.get(name)}")
    return checkpoint


def _records(table: Table) -> dict[str, Any]:
    """The records in the metadata of a checkpoint, by their names in `Checkpoint` and `Outline`."""
    parts = (table["config"][part] for part in ("model", "data", "optim", "train"))
    config = Config.checked({name: value for part in parts for name, value in part.items()})
    architecture_of(config.model).check(config.model)
    check_shares(config.data.val, config.data.test)
    return {
        "config": config,
        "training": _training(table["training"]),
        "bookkeeping": _bookkeeping(table["bookkeeping"]),
        "history": tuple(picked(Validation, row) for row in table["history"]),
        "corpus": CorpusRecord.from_json(table["corpus"]),
        "environment": picked(Environment, table["environment"]),
        "result": picked(Result, table["result"]) if table["result"] else None,
    }


def _training(table: Table) -> ModelState:
    return TrainState.from_json(table) if "plan" in table else picked(ModelState, table)


def _bookkeeping(table: Table) -> Bookkeeping:
    return picked(Bookkeeping, {**table, "inexact": tuple(table.get("inexact", ()))})


def _shapes(checkpoint: Checkpoint) -> Shapes:
    """Name and shape of every tensor that this checkpoint should have, but for the tokenizer's."""
    config, tensors = checkpoint.config, checkpoint.tensors
    vocabulary = checkpoint.open_tokenizer().size
    weights = weight_shapes(config.model, vocabulary)
    if not checkpoint.resumable:
        return weights
    first = next(iter(state_names(config.model)))
    state = tensors[first].shape if first in tensors else ()
    lanes = min(state[0], config.train.batch) if state else config.train.batch  # a short text has fewer
    shapes = weights | state_shapes(config.model, vocabulary, max(1, lanes))
    if any(name.startswith(PREFIX) for name in tensors):  # before the first step there is nothing to remember
        shapes |= optimizer_shapes(config, weights)
        if config.optim.average:
            shapes |= {f"iterate.{name}": shape for name, shape in trained_shapes(config.model, weights).items()}
    return shapes


def finite(value: float | None) -> float | None:
    """The value, or None (null in JSON) where it is NaN or infinite."""
    return value if value is not None and math.isfinite(value) else None
