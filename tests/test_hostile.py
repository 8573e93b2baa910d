"""Files made to do harm are refused in bounded time and memory, or are harmless; nothing silently stands in."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import os
import pickle
import random
import shutil
import sys
import tarfile
import unicodedata
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hostile import Table, forged, made, opened, resigned, sparse, survives
from matrix import Tries
from processes import charlm as run_charlm
from processes import one_line
from safetensors.numpy import save

import charlm
from charlm.cli.main import run
from charlm.errors import CheckpointError
from charlm.storage.checkpoint import load_checkpoint
from charlm.storage.runs import Run

SMALL: Any = {"hidden": 4, "batch": 2, "bptt": 8, "precision": "fp32", "threads": 1, "device": "cpu", "patience": 0}
Many = Callable[[int, int], int]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a text and a run of it that was stopped after some steps."""
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "t.txt").write_text("to be or not to be\n" * 20)
    steps = iter(range(99))
    charlm.train(
        folder / "t.txt",
        checkpoints=folder / "runs",
        stop=lambda: "enough" if next(steps) == 12 else None,
        steps=20,
        checkpoint_every=5,
        **SMALL,
    )
    (folder / "checkpoints").mkdir()
    return folder


def fresh(place: Path, name: str) -> Run:
    """A copy of the stopped run."""
    shutil.copytree(place / "runs" / "t", place / "checkpoints" / name)
    return Run(place / "checkpoints" / name)


# 28, 29: the command line


@pytest.mark.fault(28)
def test_truncated_checkpoints_end_the_command_line_with_4(
    place: Path, tries: Tries, many: Many, rng: random.Random
) -> None:
    data = Run(place / "runs" / "t").best.read_bytes()
    for _ in range(many(3, 20)):
        (place / "cut.safetensors").write_bytes(data[: rng.randrange(len(data))])
        one_line(
            run_charlm(rng.choice(["verify", "info", "sample"]), "cut.safetensors", cwd=place), 4, "cut.safetensors"
        )
        tries.survived()


@pytest.mark.fault(29)
def test_flipped_checkpoints_end_the_command_line_with_4(
    place: Path, tries: Tries, many: Many, rng: random.Random
) -> None:
    data = bytearray(Run(place / "runs" / "t").best.read_bytes())
    for _ in range(many(3, 20)):
        where, bit = rng.randrange(len(data)), 1 << rng.randrange(8)
        data[where] ^= bit
        (place / "flip.safetensors").write_bytes(data)
        one_line(run_charlm(rng.choice(["verify", "info", "sample"]), "flip.safetensors", cwd=place), 4, "flip")
        data[where] ^= bit
        tries.survived()


# 31: files of other kinds


class Trap(str):
    """The name of a folder, which is made when it is unpickled."""

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self),)


def archives() -> dict[str, bytes]:
    """Files of other kinds, of which some would do something if they were opened by what reads them."""
    trap = Trap("trapped")
    zipped, tarred, torched, zipped_arrays, array = (io.BytesIO() for _ in range(5))
    with zipfile.ZipFile(zipped, "w") as file:
        file.writestr("data.pkl", pickle.dumps(trap))
    with tarfile.open(fileobj=tarred, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("data.pkl"))
    torch.save({"weights": torch.zeros(3)}, torched)
    np.savez(zipped_arrays, weights=np.zeros(3))
    np.save(array, np.zeros(3))
    tensors = {"head.bias": np.zeros(3, np.float32)}
    made_of = {f"pickle {number}": pickle.dumps([trap, "x" * 400], number) for number in range(6)}
    return made_of | {
        "zip": zipped.getvalue(),
        "tar": tarred.getvalue(),
        "pt": torched.getvalue(),
        "npz": zipped_arrays.getvalue(),
        "npy": array.getvalue(),
        "gzip": gzip.compress(tarred.getvalue(), mtime=0),
        "bzip2": bz2.compress(tarred.getvalue()),
        "hdf5": b"\x89HDF\r\n\x1a\n" + bytes(500),
        "elf": Path(sys.executable).resolve().read_bytes()[:4096],
        "gguf": b"GGUF\3\0\0\0" + bytes(500),
        "onnx": b"\x08\x07\x12\x07pytorch" + bytes(500),
        "png": b"\x89PNG\r\n\x1a\n" + bytes(500),
        "script": b"#!/bin/sh\nmkdir trapped\n" * 9,
        "utf-16": "Just a text, a little longer than eight bytes.".encode("utf-16"),
        "json": b'{"__metadata__":{"charlm":"{}"}}',
        "nothing": b"",
        "zeros": bytes(500),
        "safetensors": save(tensors),
        "safetensors of torch": save(tensors, metadata={"format": "pt"}),
        "only a hash": save(tensors, metadata={"sha256": "0" * 64}),
        "an empty description": save(tensors, metadata={"charlm": "{}", "sha256": "0" * 64}),
        "a short hash": save(tensors, metadata={"charlm": "{}", "sha256": "short"}),
    }


ARCHIVES = archives()
FOREIGN = {name: data for name, data in ARCHIVES.items() if name.split()[0] not in ("safetensors", "an", "a", "only")}


@pytest.mark.fault(31)
@pytest.mark.parametrize("name", ARCHIVES)
def test_files_of_other_kinds_are_refused_and_nothing_in_them_happens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "some.safetensors"
    path.write_bytes(ARCHIVES[name])
    with pytest.raises(CheckpointError, match=r"is not a charlm checkpoint|damaged"):
        load_checkpoint(path)
    assert os.listdir(tmp_path) == ["some.safetensors"]


@pytest.mark.fault(30)
def test_what_lies_behind_a_bad_beginning_is_never_read(tmp_path: Path, tries: Tries) -> None:
    huge = 2**36
    table = {"head.bias": {"dtype": "F32", "shape": [2**34 - 1], "data_offsets": [0, huge - 4]}}
    paths = [sparse(tmp_path / "table.safetensors", "{}", table, huge, sign=False)]
    for name, start in FOREIGN.items():
        path = tmp_path / f"{name}.safetensors"
        path.write_bytes(start[:64])
        os.truncate(path, huge)
        paths.append(path)
    tries.survived(survives(paths, load_checkpoint, allowed=(CheckpointError,)))


# 32: what stands in for a corrupt checkpoint


@pytest.mark.fault(32)
def test_a_run_with_a_corrupt_last_goes_on_from_previous_and_says_so(place: Path) -> None:
    run = fresh(place, "torn")
    run.last.write_bytes(run.last.read_bytes()[:-1])
    one_line(run_charlm("info", "checkpoints/torn/last.safetensors", cwd=place), 4, "last.safetensors", "truncated")
    one_line(run_charlm("sample", "checkpoints/torn/last.safetensors", cwd=place), 4, "truncated", "best.safetensors")
    before = load_checkpoint(run.previous).state.step
    done = run_charlm("train", "--resume", "--name", "torn", cwd=place)
    assert done.returncode == 0, done.stderr
    assert "last.safetensors cannot be used; resuming from" in done.stderr
    assert f"resuming at step {before}" in done.stderr
    assert load_checkpoint(run.last).state.step == 20


@pytest.mark.fault(32)
def test_a_run_with_no_whole_checkpoint_is_refused_and_left_as_it_is(place: Path) -> None:
    run = fresh(place, "lost")
    for path in (run.last, run.previous):
        path.write_bytes(b"\0" * 8 + path.read_bytes()[8:])
    before = {path.name: path.read_bytes() for path in run.folder.iterdir()}
    one_line(run_charlm("train", "--resume", "--name", "lost", cwd=place), 4, "last.safetensors")
    assert {path.name: path.read_bytes() for path in run.folder.iterdir()} == before


@pytest.mark.fault(32)
@pytest.mark.parametrize("command", ["sample", "info", "verify", "eval"])
def test_a_corrupt_best_is_never_replaced_silently(place: Path, command: str) -> None:
    run = fresh(place, f"best-{command}")
    run.best.write_bytes(run.best.read_bytes()[:-1])
    done = run_charlm(command, run.folder.name, cwd=place)
    one_line(done, 4, "best.safetensors", f"try another checkpoint, such as checkpoints/{run.folder.name}/last")


# 33: names, texts and links


NAUGHTY = "\x1b[31m\x07\x9b1m\u202etxet\u2066\u200f\r\n\0\x08\ud800"


def shows(text: str) -> None:
    """Nothing in it commands a terminal."""
    assert not [c for c in text if unicodedata.category(c) in ("Cc", "Cf", "Cs") and c != "\n"]


@pytest.mark.fault(33)
def test_texts_in_a_checkpoint_are_shown_and_never_obeyed(place: Path, tries: Tries) -> None:
    def spoil(table: Table) -> None:
        for name in ("environment", "corpus"):
            texts = [key for key, value in table[name].items() if isinstance(value, str)]
            table[name].update(dict.fromkeys(set(texts) - {"device", "precision", "split"}, NAUGHTY))
        table["corpus"]["sources"][0]["path"] = "../../" + NAUGHTY

    (place / "spoilt.safetensors").write_bytes(resigned(made().to_bytes(), spoil))
    for options in ([], ["--json"]):
        done = run_charlm("info", "spoilt.safetensors", *options, cwd=place)
        assert (done.returncode, done.stderr) == (0, "")
        shows(done.stdout)
        tries.survived()
    one_line(run_charlm("eval", "spoilt.safetensors", cwd=place), 3, "missing")
    tries.survived()


@pytest.mark.fault(33)
@pytest.mark.parametrize("name", ["../x", "/etc/x", "\0", NAUGHTY, "rnn.0.weight_hh/../../x", "a" * 5000])
def test_names_of_tensors_never_touch_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    (tmp_path / "in" / "side").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "in" / "side")
    table, description, body = opened(made().to_bytes())
    entry = table.pop("head.bias")
    Path("some.safetensors").write_bytes(forged({**table, name: entry}, json.dumps(description), body))
    with pytest.raises(CheckpointError):
        load_checkpoint(Path("some.safetensors"))
    assert [path.name for path in sorted(tmp_path.rglob("*"))] == ["in", "side", "some.safetensors"]
    assert run(["verify", "some.safetensors"]) == 4
    shows(capsys.readouterr().err)


@pytest.mark.fault(33)
def test_names_of_files_are_shown_escaped(place: Path) -> None:
    name = "\x1b[31m\u202e\n.safetensors"
    (place / name).write_bytes(b"no checkpoint")
    done = run_charlm("verify", name, cwd=place)
    assert done.returncode == 4
    assert done.stderr.count("\n") == 1
    shows(done.stderr)


@pytest.mark.fault(33)
def test_a_run_behind_links_is_a_run_and_what_they_lead_to_is_left_alone(place: Path, tmp_path: Path) -> None:
    run = fresh(place, "linked")
    shutil.move(run.folder, tmp_path / "elsewhere")
    run.folder.symlink_to(tmp_path / "elsewhere")
    shutil.move(run.last, tmp_path / "archive.safetensors")
    run.last.symlink_to(tmp_path / "archive.safetensors")
    archived = (tmp_path / "archive.safetensors").read_bytes()
    assert run_charlm("verify", "checkpoints/linked/last.safetensors", cwd=place).returncode == 0
    charlm.train(name="linked", checkpoints=place / "checkpoints", resume=True)
    assert (tmp_path / "archive.safetensors").read_bytes() == archived
    assert not run.last.is_symlink()
    assert load_checkpoint(run.last).state.step == 20


@pytest.mark.fault(33)
@pytest.mark.parametrize(("kind", "code"), [("loop", 4), ("nowhere", 4), ("pipe", 74), ("device", 74), ("folder", 74)])
def test_a_link_to_something_else_neither_hangs_nor_fills_memory(place: Path, kind: str, code: int) -> None:
    run = Run(place / "checkpoints" / kind)
    run.folder.mkdir()
    if kind == "pipe":
        os.mkfifo(run.folder / "pipe")
    target = {"loop": run.best, "nowhere": place / "nowhere", "device": Path("/dev/zero"), "folder": place}
    run.best.symlink_to(target.get(kind, run.folder / kind))
    one_line(run_charlm("sample", kind, cwd=place), code)
