"""Compressed texts in memory, for tests."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO

from charlm.compression.compress import Compressed, compress, decompress
from charlm.storage.checkpoint import Checkpoint
from charlm.text.stored import Text


@dataclass(frozen=True)
class Packed:
    """The bytes of a file, and what `compress` says of them."""

    data: bytes
    done: Compressed


def packed(checkpoint: Checkpoint, text: Text, engine: str = "auto") -> Packed:
    """A text, compressed."""
    file = BytesIO()
    done = compress(checkpoint, text, file.write, engine=engine)
    assert done.size == len(file.getvalue())
    return Packed(file.getvalue(), done)


def unpacked(checkpoint: Checkpoint, data: bytes, engine: str = "auto") -> str:
    """A text, restored."""
    file = BytesIO()
    done = decompress(checkpoint, BytesIO(data), file.write, engine=engine)
    text = file.getvalue().decode()
    assert (done.size, done.characters, done.bytes) == (len(data), len(text), len(file.getvalue()))
    return text
