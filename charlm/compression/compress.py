"""Lossless compression of a text with a model's probabilities.

A text is coded block by block, each as `charlm.compression.coder` codes it; the model reads on from one to the next, so
that a block costs a few bytes and no more. The file is the one that `charlm.compression.container` describes: at most
0.1 % + 64 bytes larger than the model's negative log-likelihood, and 16 more for each block after the first. Memory
does not depend on the length of a text that is on the disk.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from typing import BinaryIO, Final

import numpy as np

from charlm.compression.coder import Decoder, Encoder, library
from charlm.compression.container import ENGINES, MODEL, Header, Packer, Write, parse
from charlm.compression.predictor import Engine, Predictor
from charlm.config import DataConfig, ModelConfig
from charlm.errors import CharlmError
from charlm.generation.build import NoKernel
from charlm.generation.compiled import kernel_for
from charlm.storage.checkpoint import Checkpoint
from charlm.text.direction import as_trained
from charlm.text.stored import Text, line_blocks
from charlm.text.tokenizer import Encoded, Ids, Tokenizer

_CHARACTERS: Final = 2**21  # of a block
_SOME: Final = 2**16
_KEPT: Final = "nothing was written"


@dataclass(frozen=True, slots=True)
class Compressed:
    """A compressed text: `size` is that of the file, `nats` the engine's negative log-likelihood, in nats."""

    size: int
    characters: int
    bytes: int  # of the text as UTF-8
    tokens: int
    nats: float
    engine: str

    @property
    def bits_per_character(self) -> float | None:
        """Bits of the file, header included, per character; None for the empty text."""
        return 8 * self.size / self.characters if self.characters else None


@dataclass(frozen=True, slots=True)
class Restored:
    """A text that was decompressed; `size` is that of the compressed file."""

    size: int
    characters: int
    bytes: int


def compress(checkpoint: Checkpoint, text: Text, write: Write, *, engine: str = "auto") -> Compressed:
    """Compress a text into a file, in pieces for `write`, that the same model, engine and build can decompress.

    `engine` is auto, compiled or numpy. The file is at most 0.1 % + 64 bytes larger than nats / (8 ln 2) bytes, and 16
    for each 2,097,152 characters. Raises DataError if this is not Unicode text, ConfigError if the engine is not
    available, CharlmError if the library constriction is missing or the model's numbers are not finite; what was
    written until then is of no use.
    """
    stream = library()
    model = Engine(checkpoint, engine)
    reading = _Reading(model, checkpoint.config.data)
    packer = Packer(Header(ENGINES.index(model.name), model.model, model.build), write)
    for block in _blocks(model.tokenizer, text):
        coder = Encoder(stream)
        packer.add(reading.block(block, coder), coder.code())
    packer.finish(reading.sha256.digest())
    return Compressed(packer.size, len(text), reading.bytes, reading.tokens, reading.nats, model.name)


class _Reading:
    """A text that a model reads, block by block, and what it has come to."""

    def __init__(self, model: Engine, data: DataConfig) -> None:
        self._tokenizer, self._predictor, self._data = model.tokenizer, Predictor(model), data
        self.sha256, self.nats, self.tokens, self.bytes = sha256(), 0.0, 0, 0

    def block(self, text: str, coder: Encoder) -> int:
        """Note the choices of the next block; returns the number of its tokens.

        A backward model reads each block from its end: blocks come in the order of the text.
        """
        encoded = self._tokenizer.encode(as_trained(text, self._data))
        if as_trained(self._tokenizer.decode(encoded), self._data) != text:
            raise CharlmError("the checkpoint's tokenizer does not reproduce this text", kept=_KEPT)
        escaped = iter(encoded.escaped.tolist())
        for token in _each(encoded.ids):
            self.nats += self._predictor.nats(token)
            self._predictor.choose(coder, token, next(escaped) if token == self._tokenizer.unseen else 0)
        raw = text.encode()
        self.sha256.update(raw)
        self.tokens, self.bytes = self.tokens + len(encoded.ids), self.bytes + len(raw)
        return len(encoded.ids)


def _blocks(tokenizer: Tokenizer, text: Text) -> Iterator[str]:
    """The blocks of a text, at least one; they end where the tokenizer would end a token, too."""
    if not tokenizer.by_line or not len(text):
        yield str(text)
        return
    yield from line_blocks(text, _CHARACTERS)


def _each(ids: Ids) -> Iterator[int]:
    """Each id; as Python's own integers all of them would take ten times the memory."""
    for at in range(0, len(ids), _SOME):
        yield from ids[at : at + _SOME].tolist()


def decompress(checkpoint: Checkpoint, file: BinaryIO, write: Write, *, engine: str = "auto") -> Restored:
    """The exact text that was compressed, as UTF-8, in pieces for `write` that end between two characters.

    The file is read twice. The `engine` auto is the one that the file names. Raises DataError if the file was not
    written by `compress`; CharlmError if it is damaged, or was made with another model, engine or build, which is known
    before anything is written; CharlmError, too, at the end, if the SHA-256 of the text differs from the one in the
    file: then what was written is not the text.
    """
    contents = parse(file)
    _require_model(checkpoint, contents.header)
    model = _same_engine(checkpoint, contents.header, engine)
    stream, predictor, found = library(), Predictor(model), sha256()
    characters = size = 0
    for block in contents.blocks():
        coder = Decoder(stream, block.code)
        text = as_trained(_decoded(model.tokenizer, predictor, coder, block.tokens), checkpoint.config.data)
        if block._replace(code=coder.code()).filled() != block.code:
            raise _differs()
        raw = text.encode()
        found.update(raw)
        write(raw)
        characters, size = characters + len(text), size + len(raw)
    if found.digest() != contents.sha256:
        raise _differs()
    return Restored(contents.size, characters, size)


def _decoded(tokenizer: Tokenizer, predictor: Predictor, coder: Decoder, tokens: int) -> str:
    """The text of a block of so many tokens."""
    ids, escaped = array("i"), array("i")
    for _ in range(tokens):
        token, point = predictor.choose(coder)
        ids.append(token)
        if token == tokenizer.unseen:
            escaped.append(point)
    return tokenizer.decode(Encoded(np.array(ids, dtype=np.int32), np.array(escaped, dtype=np.int32)))


def _differs() -> CharlmError:
    return CharlmError(
        "the decompressed text differs from the original: the file is damaged, or was made on another machine",
        kept=_KEPT,
        hint="decompress it on the machine where it was compressed",
    )


def _require_model(checkpoint: Checkpoint, header: Header) -> None:
    """Raise CharlmError where the file was made with another model."""
    here, wanted = checkpoint.state_sha256[: 2 * MODEL], header.model.hex()
    if here != wanted:
        raise CharlmError(
            f"the file was made with another model, whose state_sha256 begins {wanted}; this one's begins {here}",
            kept=_KEPT,
            hint="charlm info shows the state_sha256 of a checkpoint",
        )


def _same_engine(checkpoint: Checkpoint, header: Header, engine: str) -> Engine:
    """The engine that the file was made with; raises CharlmError where another one is wanted, or it is not here."""
    wanted = ENGINES[header.engine]
    if wanted == "compiled":
        _require_compiled(checkpoint.config.model)
    if engine not in ("auto", wanted):
        raise CharlmError(
            f"the file was made with the {wanted} engine, not with {engine}", kept=_KEPT, hint=f"use --engine {wanted}"
        )
    model = Engine(checkpoint, wanted)
    if model.build != header.build:
        raise CharlmError(
            f"the file was made with another build of the {wanted} engine, {header.build.hex()}; "
            f"here it is {model.build.hex()}",
            kept=_KEPT,
            hint="decompress it with the processor, compiler and package versions of its compression",
        )
    return model


def _require_compiled(config: ModelConfig) -> None:
    """Raise CharlmError where the compiled decoder is not available: no other engine can take its place."""
    try:
        kernel_for(config)
    except NoKernel as problem:
        raise CharlmError(
            f"the file was made with the compiled engine, which is not available here ({problem})",
            kept=_KEPT,
            hint="install the C compiler of its compression, or compress the text there again with --engine numpy",
        ) from problem
