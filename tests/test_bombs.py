"""Files that would take far more memory or time than they should: each is refused, or read, within both bounds."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile import alone, forged, made, opened, sparse, survives
from matrix import Tries

from charlm.config import Config, ModelConfig
from charlm.errors import CheckpointError
from charlm.models.architecture import weight_shapes
from charlm.storage.checkpoint import load_checkpoint
from charlm.storage.schema import too_large
from charlm.text.tokenizer import ByteTokenizer

LIMIT = 620_000  # entries of a description that are just not too many


def description(more: str = "0", **changes: Any) -> str:
    """A whole description, with `more` beside what is needed; sections' fields can be changed."""
    table = opened(made().to_bytes())[1]
    for name, values in changes.items():
        (table["config"] | table)[name].update(values)
    return json.dumps({**table, "more": "here"}, separators=(",", ":")).replace('"here"', more)


def swelling() -> Iterator[tuple[str, str]]:
    """JSON that takes far more memory than its text, each just within both limits."""
    count = LIMIT - 300
    for name, entries in (
        ("pairs", (f'"{n:x}":"{n:x}"' for n in range(4096, 4096 + count))),
        ("tables", (f'"":{{"{n:x}":{n}}}' for n in range(4096, 4096 + count // 2))),
        ("lists", (f'"{n:x}":[1000]' for n in range(4096, 4096 + count // 2))),
        ("numbers", (f'"{n:x}":{n}.5' for n in range(4096, 4096 + count))),
        ("texts", (f'"\\u0100{n:x}":""' for n in range(4096, 4096 + count))),
        ("one text", ()),
    ):
        some = "".join(f"{entry}," for entry in entries)
        wide = "a" * (22 * 2**20 - 5000 - len(some))  # one character makes all others four bytes wide
        yield name, f'{{{some}"":"\\ud83d\\ude00{wide}"}}'


def bombs(full: bool) -> Iterator[tuple[str, bytes]]:
    """What would take far more memory than it should; `full` means all that are large."""
    table, _, body = opened(made().to_bytes())
    for name, text in swelling():
        if full or name in ("pairs", "one text"):
            yield f"description with {name}", forged(table, description(text), body)
        if full:
            yield f"description of {name} alone", forged(table, text, body)
        yield f"table of {name}", forged(table, description(), body).replace(b"{", b'{"x":' + text[: 2**21].encode(), 1)
    for sign in ("[", '{"a":', "[],", '"",', "9", " ", "\0", "\ud83d"):
        for head in (
            b"",
            b'{"charlm":"',
            b'{"charlm":"{}","x":',
            b'{"charlm":',
            b'{"__metadata__":{"charlm":"{}"},"x":',
        ):
            for size in (2**20 - 999, 2**26 - 999) if full else (2**20 - 999,):
                long = head + (sign * (size // len(sign))).encode("utf-8", "surrogatepass")
                yield f"header of {sign!r} after {head!r}", len(long).to_bytes(8, "little") + long
    for length in (2**26 + 1, 2**31, 2**60, 2**64 - 1, 0):
        yield f"header of length {length}", length.to_bytes(8, "little") + b'{"charlm":"' + b"x" * 99
    for shape in ([2**31, 2**31], [2**62, 4], [10**30], [0, 2**40, 2**40], [0] * 65, [1] * 65 + [2], [2**64]):
        for end in (0, 8, 2**40, 2**64):
            entry = {"dtype": "F32", "shape": shape, "data_offsets": [0, end]}
            yield f"shape {shape[:3]} up to {end}", forged({**table, "head.bias": entry}, description(), body)
            yield f"only shape {shape[:3]} up to {end}", forged({"head.bias": entry}, description(), b"")
    changes: tuple[tuple[str, dict[str, Any]], ...] = (
        ("model", {"hidden": 2**31}),
        ("model", {"hidden": 16384, "layers": 64, "embedding": 16384}),
        ("model", {"layers": 10**9}),
        ("model", {"layers": 64}),
        ("model", {"embedding": 10**18}),
        ("train", {"batch": 10**18}),
        ("train", {"batch": 65536, "bptt": 65536}),
        ("data", {"tokenizer": "sentencepiece", "vocab_size": 10**9}),
        ("tokenizer", {"vocabulary": "a" * (20 * 2**20)}),
        ("tokenizer", {"kind": "sentencepiece"}),
        ("environment", {"threads": 10**18}),
    )
    for name, values in changes:
        yield f"{name} {str(values)[:60]}", forged(table, description("0", **{name: values}), body)


@pytest.mark.fault(30)
def test_bombs_are_refused_or_read_within_bounds(tmp_path: Path, tries: Tries, many: Callable[[int, int], int]) -> None:
    path = tmp_path / "bomb.safetensors"

    def load(data: bytes) -> None:
        path.write_bytes(data)
        load_checkpoint(path)

    for _, data in bombs(full=many(0, 1) == 1):  # one by one: many are large
        tries.survived(survives([data], load, size=len, allowed=(CheckpointError,)))


def test_the_bombs_are_as_large_as_what_is_accepted() -> None:
    for name, text in swelling():
        assert not too_large(description(text))
        assert too_large(description(text + " " * 5000))
        if name != "one text":
            assert too_large(description(text[: -(10**6)] + ',"":0' * 700))


@pytest.mark.fault(30)
def test_a_large_checkpoint_takes_its_own_size_and_no_second_copy(tmp_path: Path, tries: Tries) -> None:
    config = Config(model=ModelConfig(layers=1, hidden=4330, embedding=1))
    place, table = 0, {}
    for name, shape in weight_shapes(config.model, 256).items():
        size = 4 * int(np.prod(shape))
        table[name] = {"dtype": "F32", "shape": shape, "data_offsets": [place, place + size]}
        place += size
    model = made(**alone(made()), config=config, tokenizer=ByteTokenizer().state(), weights={})
    text = json.dumps(opened(model.to_bytes())[1])
    path = sparse(tmp_path / "large.safetensors", text, table, place, sign=True)
    assert path.stat().st_size > 300 * 10**6

    def used(path: Path) -> None:
        assert load_checkpoint(path).state_sha256

    tries.survived(survives([path], used, size=lambda path: path.stat().st_size))
