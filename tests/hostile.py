"""What hostile tests share: a small checkpoint, files forged from it, and a place where they can do no harm.

A forged file carries the right hash: that hash finds damage and is no signature, so an enemy's file has it too.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import signal
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest

from charlm.config import Config, DataConfig, ModelConfig
from charlm.errors import CharlmError
from charlm.models.architecture import weight_shapes
from charlm.runtime.environment import Environment
from charlm.storage.checkpoint import Checkpoint
from charlm.storage.records import Bookkeeping, CorpusRecord, ModelState, Result, TrainState, Validation, picked
from charlm.text.tokenizer import CharTokenizer, Tokenizer

SMALL = ModelConfig(layers=1, hidden=2, embedding=2)
MEMORY = 256 * 10**6  # bytes that loading may take beside the file's own
SECONDS = 2.0  # of the processor's time, for one input
PACE = 50 * 10**6  # bytes of a large input that another second is given for, several times what reading takes
Table = dict[str, Any]
T = TypeVar("T")


def made(model: ModelConfig = SMALL, tokenizer: Tokenizer | None = None, /, **more: Any) -> Checkpoint:
    """A hand-made checkpoint that can be resumed, with something in every field."""
    tokenizer = tokenizer or CharTokenizer.train("abba é")
    rng = np.random.default_rng(1)
    config = Config(model=model, data=DataConfig(val="später.txt"))
    shapes = weight_shapes(config.model, tokenizer.size)
    source = {"path": "/texts/ä\n\udcff.txt", "bytes": 7, "characters": 6, "sha256": "11" * 32, "held_out": False}
    row = {"step": 1, "train_loss": 3.5, "val_loss": 2.5, "seconds": 0.5}
    tensors = {
        f"state.{layer}.{part}": rng.normal(size=(2, model.hidden)).astype(np.float32)
        for layer in range(model.layers)
        for part in {"lstm": "hc"}.get(model.cell, "h")
    }
    tensors["state.0.h"][0, :2] = [-0.0, 1e-45]
    for name, shape in shapes.items():
        for quantity in ("exp_avg", "exp_avg_sq"):
            tensors[f"optimizer.{quantity}.{name}"] = rng.normal(size=shape).astype(np.float32)
        tensors[f"optimizer.step.{name}"] = np.array(3, np.float32)
    fields: dict[str, Any] = {
        "config": config,
        "tokenizer": tokenizer.state(),
        "weights": {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()},
        "training": {
            "step": 3,
            "tokens_seen": 12,
            "checks": 2,
            "best": 2.5,
            "best_step": 1,
            "bad_checks": 1,
            "plan": [[0, 0.0], [9, 1.0]],
            "position": {"epoch": 0, "shift": 0, "offset": 4},
            "recent": [[0.1, 4], [1e-300, 4]],
            "loss_scale": 1.0,
            "good_steps": 0,
            "stopped": False,
            "rollbacks": [[2, 1]],
            "seed": 5,
            "optimizer": {"lr": 0.5},
        },
        "tensors": tensors,
        "bookkeeping": {"seconds": 1.5, "metrics_length": 12},
        "history": (row, {**row, "step": 2}),
        "corpus": {"fingerprint": "00ff", "train_characters": 6, "val_characters": 0, "sources": [source]},
        "environment": {
            "python": "3",
            "torch": "2",
            "device": "cpu",
            "threads": 2,
            "precision": "fp32",
            "reason": 'measured: "1.20" times\x1b',
        },
        "result": {
            "steps": 3,
            "characters_seen": 12,
            "train_loss": 2.0,
            "val_loss": 2.25,
            "val_bits_per_character": 3.25,
            "val_perplexity": None,
            "best_val_loss": 2.25,
            "seconds": 1.5,
            "stopped": False,
        },
    }
    fields |= more
    known: dict[str, Callable[[Table], Any]] = {
        "training": lambda table: TrainState.from_json(table) if "plan" in table else picked(ModelState, table),
        "bookkeeping": lambda table: picked(Bookkeeping, table),
        "corpus": CorpusRecord.from_json,
        "environment": lambda table: picked(Environment, table),
        "result": lambda table: picked(Result, table) if table else None,
    }
    fields |= {name: read(fields[name]) for name, read in known.items() if isinstance(fields[name], dict)}
    fields["history"] = tuple(picked(Validation, row) if isinstance(row, dict) else row for row in fields["history"])
    return Checkpoint(**fields)


def alone(checkpoint: Checkpoint) -> dict[str, Any]:
    """The fields that make it the model alone, as `best` is."""
    return {"training": ModelState(step=checkpoint.training.step, best=2.5), "tensors": {}}


def opened(data: bytes) -> tuple[Table, Table, bytes]:
    """A checkpoint's table of tensors, its description, and the tensors' numbers."""
    length = int.from_bytes(data[:8], "little")
    table = json.loads(data[8 : 8 + length])
    return table, json.loads(table.pop("__metadata__")["charlm"]), data[8 + length :]


def forged(table: Mapping[str, Any], description: str, body: bytes) -> bytes:
    """A file of these parts with the right hash, as docs/checkpoint.md has it."""
    metadata = {"charlm": description, "sha256": "0" * 64}
    text = json.dumps({"__metadata__": metadata, **table}, separators=(",", ":"))
    return framed(text.encode(), body)


def framed(header: bytes, body: bytes) -> bytes:
    """Header and body as a file; zeros that stand for its hash are replaced by it."""
    header += b" " * (-len(header) % 8)
    whole = len(header).to_bytes(8, "little") + header + body
    return whole.replace(b"0" * 64, hashlib.sha256(whole).hexdigest().encode(), 1)


def resigned(data: bytes, change: Callable[[Table], object] = dict, raw: str | None = None) -> bytes:
    """The file with its description changed, or replaced by `raw`, and signed anew."""
    table, description, body = opened(data)
    change(description)
    return forged(table, json.dumps(description) if raw is None else raw, body)


def sparse(path: Path, description: str, table: Mapping[str, object], size: int, sign: bool) -> Path:
    """A file of this many bytes of zeros after its header, which takes no room on the disk."""
    header = json.dumps({"__metadata__": {"charlm": description, "sha256": "0" * 64}, **table}, separators=(",", ":"))
    start = len(header).to_bytes(8, "little") + header.encode()
    if sign:
        digest = hashlib.sha256(start)
        for _ in range(size // 2**20):
            digest.update(bytes(2**20))
        digest.update(bytes(size % 2**20))
        start = start.replace(b"0" * 64, digest.hexdigest().encode(), 1)
    path.write_bytes(start)
    os.truncate(path, len(start) + size)
    return path


def survives(
    inputs: Sequence[T],
    work: Callable[[T], object],
    *,
    size: Callable[[T], int] = lambda _: 0,
    allowed: tuple[type[Exception], ...] = (CharlmError,),
) -> int:
    """Work on each input in a forked child; returns how many there were.

    An input may give a result or an error that is allowed. It may take `SECONDS` of the processor and one for each
    `PACE` bytes, and the child may grow by the largest input's size and `MEMORY`. Whatever else happens fails the test
    and shows the input.
    """
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside threads, which the child does not use
        child = os.fork()
    if child == 0:
        _confined(inputs, work, size, allowed, writing)
    os.close(writing)
    with open(reading, "rb") as pipe:
        told = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    done = len(told) - len(told.lstrip(b"."))
    if status or done < len(inputs):
        how = signal.Signals(-status).name if status < 0 else f"exit {status}"
        pytest.fail(f"input {done}: {how}\n{told[done:].decode()}\n{inputs[min(done, len(inputs) - 1)]!r:.2000}")
    return done


def _confined(
    inputs: Sequence[T],
    work: Callable[[T], object],
    size: Callable[[T], int],
    allowed: tuple[type[Exception], ...],
    out: int,
) -> None:
    """The child's part; never returns."""
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        warnings.simplefilter("ignore")
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
        with open("/proc/self/statm", encoding="ascii") as file:
            now = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_AS, (now + max(map(size, inputs), default=0) + MEMORY,) * 2)
        for each in inputs:
            signal.setitimer(signal.ITIMER_PROF, SECONDS + size(each) / PACE)
            with suppress(*allowed):
                work(each)
            os.write(out, b".")
        os._exit(0)
    except BaseException:  # noqa: BLE001 - all of it is told
        os.write(out, traceback.format_exc().encode(errors="replace"))
    finally:
        os._exit(1)
