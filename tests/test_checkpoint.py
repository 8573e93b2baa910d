"""A checkpoint comes back in every field, and whatever is not a whole one is refused with our own error."""

from __future__ import annotations

import hashlib
import json
import math
import os
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hostile import SMALL, Table, alone, forged, framed, made, opened, resigned
from hypothesis import given, settings
from hypothesis import strategies as st
from matrix import Tries
from safetensors.numpy import load

import charlm
from charlm.config import Config, ModelConfig
from charlm.errors import CheckpointError, StorageError
from charlm.models.architecture import weight_shapes
from charlm.runtime.environment import Environment
from charlm.storage.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from charlm.storage.records import Bookkeeping, CorpusRecord, Plan
from charlm.text.sentencepiece import SentencePieceTokenizer
from charlm.text.tokenizer import ByteTokenizer, Tokenizer

PROFILE = settings(derandomize=True, deadline=None, max_examples=300, database=None)
PARTS = ("tokenizer", "config", "training", "bookkeeping", "corpus", "environment", "result", "history")


def restored(data: bytes, folder: Path) -> Checkpoint:
    path = folder / "some.safetensors"
    path.write_bytes(data)
    return load_checkpoint(path)


def refused(data: bytes, folder: Path, why: str | None = None) -> None:
    with pytest.raises(CheckpointError, match=why) as raised:
        restored(data, folder)
    assert str(folder / "some.safetensors") in str(raised.value)


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
    model = made(**alone(made()), history=(), result={})
    assert (made().resumable, model.resumable) == (True, False)
    same(model, restored(model.to_bytes(), tmp_path))


@pytest.mark.parametrize("optimizer", ["adamw", "rmsprop", "muon"])
@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_what_training_saves_can_be_loaded(tmp_path: Path, cell: str, optimizer: str) -> None:
    (tmp_path / "t.txt").write_text("to be or not\n" * 20)
    options: Table = {"hidden": 4, "threads": 1, "precision": "fp32", "checkpoint_every": 2, "batch": 3}
    charlm.train(tmp_path / "t.txt", checkpoints=tmp_path, cell=cell, optimizer=optimizer, steps=4, **options)
    kinds = {name: load_checkpoint(tmp_path / "t" / f"{name}.safetensors") for name in ("last", "previous", "best")}
    assert [kinds[name].resumable for name in kinds] == [True, True, False]
    assert {name.split(".")[0] for name in kinds["last"].tensors} == {"optimizer", "state"}


def test_keep_holds_the_checkpoint_before(tmp_path: Path) -> None:
    last, previous = tmp_path / "last", tmp_path / "previous"
    for step in (1, 2):
        save_checkpoint(last, made(training=replace(made().state, step=step)), keep=previous)
    assert [load_checkpoint(path).state.step for path in (previous, last)] == [1, 2]


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


@pytest.mark.fault(28)
def test_every_truncation_is_refused(tmp_path: Path, tries: Tries) -> None:
    path = tmp_path / "some.safetensors"
    data = made().to_bytes()
    path.write_bytes(data)
    for length in reversed(range(len(data))):
        os.truncate(path, length)
        with pytest.raises(CheckpointError):
            load_checkpoint(path)
        tries.survived()
    for more in (b"\0", b" ", data):
        refused(data + more, tmp_path, "has bytes after its end")


@pytest.mark.fault(29)
def test_every_changed_byte_is_refused(tmp_path: Path, tries: Tries) -> None:
    path = tmp_path / "some.safetensors"
    data = made().to_bytes()
    path.write_bytes(data)
    with path.open("r+b") as file:
        for place, byte in enumerate(data):
            for changed in (byte ^ 1 << place % 8, byte ^ 0xFF):
                os.pwrite(file.fileno(), bytes([changed]), place)
                with pytest.raises(CheckpointError):
                    load_checkpoint(path)
                tries.survived()
            os.pwrite(file.fileno(), bytes([byte]), place)
    same(load_checkpoint(path), made())


@PROFILE
@given(st.one_of(st.binary(max_size=200), st.binary(max_size=80).map(lambda b: len(b).to_bytes(8, "little") + b)))
def test_random_bytes_are_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    refused(data, tmp_path_factory.getbasetemp())


def test_a_missing_file_is_a_missing_checkpoint_and_a_folder_is_not_read(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        load_checkpoint(tmp_path / "nothing")
    with pytest.raises(StorageError, match="cannot read"):
        load_checkpoint(tmp_path)


@pytest.mark.fault(26)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_is_refused(tmp_path: Path, value: float, tries: Tries) -> None:
    arrays = {**made().weights, **made().tensors}
    for name in arrays:
        checkpoint = made()
        {**checkpoint.weights, **checkpoint.tensors}[name].flat[-1] = value
        refused(checkpoint.to_bytes(), tmp_path, f"tensor {name} holds values that are not finite")
        tries.survived()


def test_a_number_that_is_not_finite_is_found_wherever_it_stands(tmp_path: Path) -> None:
    config = Config(model=ModelConfig(layers=1, hidden=1, embedding=16384))
    weights = {name: np.zeros(shape, np.float32) for name, shape in weight_shapes(config.model, 256).items()}
    large = weights["embedding.weight"].reshape(-1)
    model = made(**alone(made()), config=config, tokenizer=ByteTokenizer().state(), weights=weights)
    assert restored(model.to_bytes(), tmp_path).parameters > 2**22
    for place in (0, 2**20 - 1, 2**20, len(large) - 1):
        large[place] = math.nan
        refused(model.to_bytes(), tmp_path, "tensor embedding.weight holds values that are not finite")
        large[place] = 0


@pytest.mark.parametrize("name", [*made().weights, *made().tensors])
def test_a_missing_or_misshapen_tensor_is_refused(tmp_path: Path, name: str) -> None:
    part = "weights" if name in made().weights else "tensors"
    arrays = dict(getattr(made(), part))
    array = arrays.pop(name)
    refused(made(**{part: arrays}).to_bytes(), tmp_path, "has shape")
    doubled = np.concatenate([array, array]) if array.shape else np.zeros(2, np.float32)
    for wrong in (array.reshape(1, *array.shape), array.reshape(-1)[:-1], doubled):
        refused(made(**{part: {**arrays, name: wrong}}).to_bytes(), tmp_path, "has shape")
    for kind in (np.float64, np.float16, np.int32, np.uint8, bool):
        refused(
            made(**{part: {**arrays, name: array.astype(kind)}}).to_bytes(),
            tmp_path,
            f"tensor {name} has an invalid type",
        )


def test_states_have_a_row_for_each_lane_and_there_are_no_more_lanes_than_the_batch(tmp_path: Path) -> None:
    for lanes in (1, 2, 16):
        tensors = {**made().tensors, **{f"state.0.{part}": np.zeros((lanes, 2), np.float32) for part in "hc"}}
        assert restored(made(tensors=tensors).to_bytes(), tmp_path).tensors["state.0.c"].shape == (lanes, 2)
        tensors["state.0.c"] = np.zeros((lanes + 1, 2), np.float32)
        refused(made(tensors=tensors).to_bytes(), tmp_path, r"tensor state\.0\.c has shape")
    for lanes in (0, 17):
        tensors = {**made().tensors, **{f"state.0.{part}": np.zeros((lanes, 2), np.float32) for part in "hc"}}
        refused(made(tensors=tensors).to_bytes(), tmp_path, r"tensor state\.0\.. has shape")


def test_an_optimizer_remembers_all_or_nothing(tmp_path: Path) -> None:
    states = {name: array for name, array in made().tensors.items() if name.startswith("state.")}
    assert restored(made(tensors=states).to_bytes(), tmp_path).resumable
    refused(made(tensors={"optimizer.step.head.bias": np.array(3, np.float32), **states}).to_bytes(), tmp_path, "None")


def test_an_average_has_an_iterate_beside_each_weight(tmp_path: Path) -> None:
    plain = made()
    config = replace(plain.config, optim=replace(plain.config.optim, average=0.5))
    iterate = {f"iterate.{name}": array for name, array in plain.weights.items()}
    averaged = replace(plain, config=config, tensors={**plain.tensors, **iterate})
    assert restored(averaged.to_bytes(), tmp_path).tensors.keys() == averaged.tensors.keys()
    refused(replace(plain, tensors=averaged.tensors).to_bytes(), tmp_path, r"tensor iterate\..* implies None")
    refused(replace(averaged, tensors=plain.tensors).to_bytes(), tmp_path, r"tensor iterate\..* has shape None")


@pytest.mark.parametrize(
    "name", ["rnn.1.weight_ih", "rnn.0.bias", "head.scale", "../x", "state.1.h", "optimizer.x.head.bias", "", "\0"]
)
def test_a_tensor_too_many_is_refused(tmp_path: Path, name: str) -> None:
    for more in ({}, alone(made())):
        checkpoint = made(**more)
        tensors = {**checkpoint.tensors, name: np.zeros(2, np.float32)}
        refused(replace(checkpoint, tensors=tensors).to_bytes(), tmp_path, "has shape .* implies None")


@pytest.mark.parametrize("number", [0, 2, None, "1"])
def test_another_format_is_refused_by_its_number(tmp_path: Path, number: object) -> None:
    data = resigned(made().to_bytes(), instead("format", number))
    refused(data, tmp_path, f"it has format {number!r}; this charlm reads format 1")


def instead(name: str, value: object) -> Callable[[Table], object]:
    return lambda table: table.update({name: value})


def within(section: str, name: str, value: object) -> Callable[[Table], object]:
    return lambda table: (table["config"] | table)[section].update({name: value})


@pytest.mark.parametrize(
    "change",
    [
        *(within("model", "hidden", value) for value in (0, "2", None, 2**31)),
        *(within("model", "cell", value) for value in ("transformer", ["lstm"], "x" * 10**6)),
        *(within("optim", "lr", value) for value in (10**400, math.nan)),
        *(within("data", "val", value) for value in ("0.95", "nan", "-1")),
        *(within("tokenizer", "kind", value) for value in ("words", "sentencepiece")),
        *(within("tokenizer", "vocabulary", value) for value in ("ba", "abcdefgh")),
    ],
)
def test_a_configuration_or_a_vocabulary_that_is_none_is_refused(
    tmp_path: Path, change: Callable[[Table], object]
) -> None:
    data = resigned(made().to_bytes(), change)
    with pytest.raises(CheckpointError) as raised:
        restored(data, tmp_path)
    assert len(str(raised.value)) < 1000


def test_tensors_are_read_only_views_of_what_was_read(tmp_path: Path) -> None:
    arrays = restored(made().to_bytes(), tmp_path).weights
    owners = {id(array.base) for array in arrays.values()}
    assert len(owners) == 1
    for array in arrays.values():
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0


def shuffled(data: bytes, rng: random.Random) -> bytes:
    """The same tensors in another order, in the header and in the body."""
    table, description, body = opened(data)
    names = rng.sample(sorted(table), len(table))
    moved, place = b"", {}
    for name in names:
        begin, end = table[name]["data_offsets"]
        place[name] = {**table[name], "data_offsets": [len(moved), len(moved) + end - begin]}
        moved += body[begin:end]
    return forged({name: place[name] for name in sorted(place, key=str.__len__)}, json.dumps(description), moved)


@pytest.mark.parametrize("tokenizer", [None, SentencePieceTokenizer.train(SENTENCES, 320, "bpe")])
def test_tensors_are_those_that_safetensors_reads_in_any_order(tmp_path: Path, tokenizer: Tokenizer | None) -> None:
    data = made(SMALL, tokenizer).to_bytes()
    for seed in range(20):
        other = shuffled(data, random.Random(seed))  # noqa: S311
        checkpoint, arrays = restored(other, tmp_path), load(other)
        for name, array in {**checkpoint.weights, **checkpoint.tensors}.items():
            assert (array.dtype, array.shape, array.tobytes()) == (
                arrays[name].dtype,
                arrays[name].shape,
                arrays[name].tobytes(),
            )
        assert checkpoint.tokenizer.model == arrays.get("tokenizer.model", np.zeros(0, np.uint8)).tobytes()
        same(made(SMALL, tokenizer), checkpoint)


NUMBERS = st.one_of(
    st.integers(-5, 40), st.sampled_from([2**31, 2**62, 2**64, 10**30, -0.0, 4.0, True, None, "4", [4]])
)
ENTRIES: st.SearchStrategy[object] = st.one_of(
    st.fixed_dictionaries(
        {
            "dtype": st.sampled_from(["F32", "U8", "F64", "BF16", "BOOL", "f32", "", None, 4]),
            "shape": st.lists(NUMBERS, max_size=3),
            "data_offsets": st.lists(NUMBERS, min_size=1, max_size=3),
        }
    ),
    st.sampled_from([None, [], {}, "x", 4]),
)


@PROFILE
@given(st.dictionaries(st.sampled_from([*made().weights, "../x", "\ud800", ""]), ENTRIES, min_size=1, max_size=3))
def test_what_is_accepted_is_what_safetensors_reads(tmp_path_factory: pytest.TempPathFactory, changes: Table) -> None:
    table, description, body = opened(made().to_bytes())
    data = forged({**table, **changes}, json.dumps(description), body)
    try:
        checkpoint = restored(data, tmp_path_factory.getbasetemp())
    except CheckpointError:
        return
    same(made(), checkpoint)
    assert load(data).keys() == {*checkpoint.weights, *checkpoint.tensors}


@pytest.mark.parametrize(
    "edit",
    [
        (b'"dtype"', b'"dtype":"F32","dtype"'),
        (b'"__metadata__"', b'"__metadata__":{"charlm":"","sha256":""},"__metadata__"'),
        (b'"sha256":"', b'"sha256":"x","sha256":"'),
        (b'"charlm":"', b'"charlm":"{}","charlm":"'),
        (b'"charlm":"', b'"format":"pt","charlm":"'),
        (b'"charlm":"', b'"charlm": "'),
        (b'"data_offsets":[0', b'"data_offsets":[-0'),
        (b'"data_offsets":[0', b'"data_offsets":[NaN'),
        (b'{"__metadata__"', b' {"__metadata__"'),
        (b'"head.bias"', '"häd.bias"'.encode()),
        (b'"head.bias"', b'"head.weight"'),
    ],
)
def test_headers_that_can_be_read_in_two_ways_are_refused(tmp_path: Path, edit: tuple[bytes, bytes]) -> None:
    data = made().to_bytes()
    length = int.from_bytes(data[:8], "little")
    digits = data.index(b'"sha256":"') + 10
    header = data[8:digits] + b"0" * 64 + data[digits + 64 : 8 + length].rstrip()
    assert header.count(edit[0]) >= 1
    body = data[8 + length :]
    same(made(), restored(framed(header, body), tmp_path))
    refused(framed(header.replace(*edit, 1), body), tmp_path)


def test_the_state_hash_covers_what_is_computed_and_nothing_else() -> None:
    before = made()
    others = {"environment": Environment(), "corpus": CorpusRecord(), "bookkeeping": Bookkeeping(), "result": None}
    for name, other in others.items():
        assert getattr(before, name) != other
        assert made(**{name: other}).state_sha256 == made(history=()).state_sha256 == before.state_sha256
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
    changes = {"step": 4, "recent": [(0.1, 4)], "plan": Plan.of(8), "best": 1.0, "stopped": True, "seed": 7}
    for name, value in changes.items():
        seen.append(made(training=replace(before.state, **{name: value})).state_sha256)  # type: ignore[arg-type]
    assert len(seen) > 60
    assert len(set(seen)) == len(seen)
