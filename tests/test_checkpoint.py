"""A checkpoint comes back in every field, and whatever is not a whole one is refused with our own error."""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import pickle
import time
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load, save

from charlm.config import Config, DataConfig, ModelConfig
from charlm.errors import CheckpointError, StorageError
from charlm.storage import checkpoint as module
from charlm.storage.checkpoint import Checkpoint, load_checkpoint, save_checkpoint, weight_shapes
from charlm.text.tokenizer import ByteTokenizer, CharTokenizer, SentencePieceTokenizer, Tokenizer

PROFILE = settings(derandomize=True, deadline=None, max_examples=300, database=None)
SMALL = ModelConfig(layers=1, hidden=2, embedding=2)
PARTS = ("tokenizer", "config", "training", "bookkeeping", "corpus", "environment", "result", "history")
Table = dict[str, Any]


def made(model: ModelConfig = SMALL, tokenizer: Tokenizer | None = None, /, **more: Any) -> Checkpoint:
    """A hand-made checkpoint with something in every field."""
    tokenizer = tokenizer or CharTokenizer.train("abba é")
    rng = np.random.default_rng(1)
    config = Config(model=model, data=DataConfig(val="später.txt"))
    shapes = weight_shapes(config, tokenizer.size)
    fields: dict[str, Any] = {
        "config": config,
        "tokenizer": tokenizer.state(),
        "weights": {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()},
        "training": {"step": 3, "recent": [0.1, 1e-300], "plan": [[0, 0.0], [9, 1.0]], "best": None, "stopped": False},
        "tensors": {
            "optimizer.moment": rng.normal(size=(2, 3)),
            "state.0.h": np.array([[-0.0, 1e-45]], np.float32),
            "optimizer.steps": np.array(2**62, np.int64),
        },
        "bookkeeping": {"seconds": 1.5, "metrics_length": 12},
        "history": ({"step": 1, "val_loss": 2.5}, {"step": 2, "val_loss": None}),
        "corpus": {"fingerprint": "00ff", "sources": [{"path": "/tmp/ä\n\udcff.txt"}]},  # noqa: S108
        "environment": {"threads": 2, "reason": 'measured: "1.20" times\x1b'},
        "result": {"steps": 3, "val_loss": 2.25},
    }
    return Checkpoint(**{**fields, **more})


def restored(data: bytes, folder: Path) -> Checkpoint:
    path = folder / "some.safetensors"
    path.write_bytes(data)
    return load_checkpoint(path)


def refused(data: bytes, folder: Path, why: str | None = None) -> None:
    with pytest.raises(CheckpointError, match=why) as raised:
        restored(data, folder)
    assert str(folder / "some.safetensors") in str(raised.value)


def resigned(data: bytes, change: Callable[[Table], object] = dict, raw: str | None = None) -> bytes:
    """The file with its description changed (or replaced by `raw`) and signed anew, as docs/checkpoint.md has it."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    table = json.loads(header["__metadata__"]["charlm"])
    change(table)
    header["__metadata__"] = {"charlm": json.dumps(table) if raw is None else raw, "sha256": "0" * 64}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    whole = len(text).to_bytes(8, "little") + text + data[8 + length :]
    return whole.replace(b"0" * 64, hashlib.sha256(whole).hexdigest().encode(), 1)


def same(one: Checkpoint, two: Checkpoint) -> None:
    for name in PARTS:
        assert getattr(one, name) == getattr(two, name), name
    for arrays, others in ((one.weights, two.weights), (one.tensors, two.tensors)):
        assert arrays.keys() == others.keys()
        for name, array in arrays.items():
            assert (array.dtype, array.shape) == (others[name].dtype, others[name].shape)
            assert array.tobytes() == others[name].tobytes()
    assert (one.state_sha256, one.parameters) == (two.state_sha256, two.parameters)


SENTENCES = "\n".join(f"She put {n} apples into a basket for {m} children." for n in "123456" for m in "789")


@pytest.mark.parametrize("tokenizer", [ByteTokenizer(), SentencePieceTokenizer.train(SENTENCES, 320, "bpe"), None])
@pytest.mark.parametrize(
    "model", [SMALL, replace(SMALL, cell="gru", layers=3), replace(SMALL, cell="rnn", embedding=0)]
)
def test_everything_comes_back(tmp_path: Path, model: ModelConfig, tokenizer: Tokenizer | None) -> None:
    before = made(model, tokenizer)
    save_checkpoint(tmp_path / "last.safetensors", before)
    after = load_checkpoint(tmp_path / "last.safetensors")
    same(before, after)
    same(before, restored(after.to_bytes(), tmp_path))
    encoded = before.open_tokenizer().encode("She put é\r\n into a basket.\n")
    assert after.open_tokenizer().decode(encoded) == "She put é\r\n into a basket.\n"


def test_a_model_without_training_state_comes_back(tmp_path: Path) -> None:
    plain = made()
    bare = Checkpoint(config=plain.config, tokenizer=plain.tokenizer, weights=plain.weights)
    same(bare, restored(bare.to_bytes(), tmp_path))


def test_keep_holds_the_checkpoint_before(tmp_path: Path) -> None:
    last, previous = tmp_path / "last", tmp_path / "previous"
    for step in (1, 2):
        save_checkpoint(last, made(training={"step": step}), keep=previous)
    assert [load_checkpoint(path).training["step"] for path in (previous, last)] == [1, 2]


def test_the_file_is_plain_safetensors_and_its_hash_is_the_documented_one() -> None:
    checkpoint = made()
    data = checkpoint.to_bytes()
    arrays = load(data)
    assert set(arrays) == {*checkpoint.weights, *checkpoint.tensors}
    assert arrays["rnn.0.weight_hh"].tolist() == checkpoint.weights["rnn.0.weight_hh"].tolist()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
    assert data.count(header["sha256"].encode()) == 1
    assert hashlib.sha256(data.replace(header["sha256"].encode(), b"0" * 64)).hexdigest() == header["sha256"]
    assert json.loads(header["charlm"])["state_sha256"] == checkpoint.state_sha256


def test_a_file_signed_anew_by_hand_is_whole(tmp_path: Path) -> None:
    same(made(), restored(resigned(made().to_bytes()), tmp_path))


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "some.safetensors"
    data = made().to_bytes()
    path.write_bytes(data)
    for length in reversed(range(len(data))):
        os.truncate(path, length)
        with pytest.raises(CheckpointError):
            load_checkpoint(path)
    refused(data + b"\0", tmp_path, "damaged")


def test_every_changed_byte_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "some.safetensors"
    data = made().to_bytes()
    path.write_bytes(data)
    with path.open("r+b") as file:
        for place, byte in enumerate(data):
            for changed in (byte ^ 1 << place % 8, byte ^ 0xFF):
                os.pwrite(file.fileno(), bytes([changed]), place)
                with pytest.raises(CheckpointError):
                    load_checkpoint(path)
            os.pwrite(file.fileno(), bytes([byte]), place)
    same(load_checkpoint(path), made())


@PROFILE
@given(st.one_of(st.binary(max_size=200), st.binary(max_size=80).map(lambda b: len(b).to_bytes(8, "little") + b)))
def test_random_bytes_are_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    refused(data, tmp_path_factory.getbasetemp())


class Trap(str):
    """The name of a folder, which is made when it is unpickled."""

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self),)


def test_files_of_other_kinds_are_refused_and_nothing_is_unpickled(tmp_path: Path) -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("data.pkl", pickle.dumps(Trap(tmp_path / "trapped")))
    tensors = {"head.bias": np.zeros(3, np.float32)}
    for data in (
        b"",
        pickle.dumps(Trap(tmp_path / "trapped")),
        archive.getvalue(),
        "Just a text, a little longer than eight bytes.".encode("utf-16"),
        save(tensors),
        save(tensors, metadata={"format": "pt"}),
        save(tensors, metadata={"sha256": "0" * 64}),
        save(tensors, metadata={"charlm": "{}", "sha256": "0" * 64}),
        save(tensors, metadata={"charlm": "{}", "sha256": "short"}),
    ):
        refused(data, tmp_path)
    assert not (tmp_path / "trapped").exists()


def test_a_missing_file_is_a_missing_checkpoint_and_a_folder_is_not_read(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        load_checkpoint(tmp_path / "nothing")
    with pytest.raises(StorageError, match="cannot read"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["head.bias", "rnn.0.weight_ih", "optimizer.moment", "state.0.h"])
def test_a_number_that_is_not_finite_is_refused(tmp_path: Path, name: str, value: float) -> None:
    checkpoint = made()
    {**checkpoint.weights, **checkpoint.tensors}[name].flat[-1] = value
    refused(checkpoint.to_bytes(), tmp_path, f"tensor {name} holds values that are not finite")


@pytest.mark.parametrize("name", weight_shapes(Config(model=SMALL), 5))
def test_a_missing_or_misshapen_tensor_is_refused(tmp_path: Path, name: str) -> None:
    weights = dict(made().weights)
    array = weights.pop(name)
    refused(made(weights=weights).to_bytes(), tmp_path, f"tensor {name} has shape None")
    for wrong in (array.reshape(1, *array.shape), array[:-1], np.concatenate([array, array])):
        refused(made(weights={**weights, name: wrong}).to_bytes(), tmp_path, f"tensor {name} has shape")


@pytest.mark.parametrize("name", ["rnn.1.weight_ih", "rnn.0.bias", "head.scale", "embedding.bias"])
def test_a_weight_too_many_is_refused(tmp_path: Path, name: str) -> None:
    weights = {**made().weights, name: np.zeros(2, np.float32)}
    refused(made(weights=weights).to_bytes(), tmp_path, f"tensor {name} has shape .* asks for None")


@pytest.mark.parametrize("number", [0, 2, None, "1"])
def test_another_format_is_refused_by_its_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: object
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(module, "FORMAT", number)
        data = made().to_bytes()
    refused(data, tmp_path, f"it has format {number!r}; this charlm reads format 1")


def without(name: str) -> Callable[[Table], object]:
    return lambda table: table.pop(name)


def instead(name: str, value: object) -> Callable[[Table], object]:
    return lambda table: table.update({name: value})


def within(section: str, name: str, value: object) -> Callable[[Table], object]:
    return lambda table: (table["config"] | table)[section].update({name: value})


@pytest.mark.parametrize(
    "change",
    [
        *map(without, PARTS),
        *(instead(name, value) for name in PARTS for value in (None, "x", 3, [1])),
        *(within("model", "hidden", value) for value in (0, "2", None)),
        *(within("model", "cell", value) for value in ("transformer", ["lstm"])),
        *(within("optim", "lr", value) for value in (10**400, math.nan)),
        *(within("tokenizer", "kind", value) for value in ("words", "sentencepiece")),
        *(within("tokenizer", "vocabulary", value) for value in ("ba", "abcdefgh")),
    ],
)
def test_a_description_that_is_not_one_is_refused(tmp_path: Path, change: Callable[[Table], object]) -> None:
    refused(resigned(made().to_bytes(), change), tmp_path)


@pytest.mark.parametrize("raw", ["", "null", "[]", "3", "{", '"text"', "[" * 100_000, "1" * 10_000, "\ud800"])
def test_a_signed_file_without_a_table_is_refused(tmp_path: Path, raw: str) -> None:
    refused(resigned(made().to_bytes(), raw=raw), tmp_path)


@pytest.mark.parametrize("header", [b"[" * 500_000, b'{"__metadata__":' * 100_000, b"9" * 100_000, b"\xff\xfe" * 999])
def test_header_bombs_are_refused_at_once(tmp_path: Path, header: bytes) -> None:
    began = time.process_time()
    refused(len(header).to_bytes(8, "little") + header, tmp_path)
    for length in (2**31, 2**60, 2**64 - 1):
        refused(length.to_bytes(8, "little") + header, tmp_path)
    assert time.process_time() - began < 2


def test_the_state_hash_covers_what_is_computed_and_nothing_else() -> None:
    before = made()
    for name in ("environment", "corpus", "bookkeeping", "result"):
        assert made(**{name: {"another": 1}}).state_sha256 == made(history=()).state_sha256 == before.state_sha256
    seen = [before.state_sha256]
    for part in ("weights", "tensors"):
        arrays = getattr(before, part)
        for name, array in arrays.items():
            for place in range(array.size):
                changed = array.copy()
                changed.reshape(-1).view(np.uint8)[place * array.itemsize] ^= 1  # its lowest bit
                seen.append(made(**{part: {**arrays, name: changed}}).state_sha256)
            for other in (array[None], array.view("u4" if array.itemsize == 4 else "u8")):
                seen.append(made(**{part: {**arrays, name: other}}).state_sha256)
    for name, value in {"step": 4, "recent": [0.1], "plan": [[0, 0.0], [8, 1.0]], "best": 1.0, "stopped": True}.items():
        seen.append(made(training={**before.training, name: value}).state_sha256)
    assert len(seen) > 60
    assert len(set(seen)) == len(seen)
