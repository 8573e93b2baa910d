"""A text as the bytes that a model's probabilities leave of it: lossless compression by arithmetic coding.

The coder is the range variant of asymmetric numeral systems (Duda 2013, arXiv:1311.2540) of the library constriction
(Bamler 2022, arXiv:2201.01741). It works on whole numbers: each choice is an interval [begin, begin + frequency) of
[0, 2^24). Both directions compute the frequencies by the same calls, one token at a time in one stream, and sums have
one order whatever the number of threads, so that both see the same numbers to the bit.

A token is one choice or two. Those with P >= 2^-12 are told apart at once, all others count as one, and are told apart
by a second choice. Of n possibilities each gets floor(P (2^24 - n)) + 1 of the 2^24, the likeliest what is left. A
choice costs at most -ln(1 - n / 2^24) nats more than -ln P: at most 2.4e-4 nats where 4096 tokens share the first one,
1e-7 where the model is sure, and 0.004, on top of 8.3, for the second one among 65,536. A character that training never
showed is the escape and two choices more: which 1024 of the others, and which of these.

A file is at most 0.1 % + 64 bytes larger than the model's own nats, with its header:

    3   what it is: C7 43 5A
    1   the format's version, 1, times 16; plus the engine: 0 compiled, 1 NumPy. Arithmetic is float32
    12  the model: the first bytes of the checkpoint's `state_sha256`
    4   the build: the first bytes of a SHA-256 over all that decides how numbers are rounded (`Engine`)
    4   CRC-32 of all other bytes of the file
    32  SHA-256 of the text as UTF-8
    1-6 tokens, seven bits a byte from the lowest, the high bit set on all but the last
    *   what the coder left: 32-bit words, little endian, without the zeros at the end
"""

from __future__ import annotations

import platform
import zlib
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from importlib import metadata
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from charlm.config import ModelConfig
from charlm.errors import CharlmError, ConfigError, DataError
from charlm.generation.compiled import CompiledDecoder, library
from charlm.generation.decoder import Decoder, NumpyDecoder, Weights
from charlm.generation.engine import open_decoder
from charlm.runtime import processor
from charlm.storage.checkpoint import Checkpoint
from charlm.text.tokenizer import Encoded, Tokenizer

ENGINES: Final = ("compiled", "numpy")
_MAGIC: Final = b"\xc7CZ"
_VERSION: Final = 1
_MODEL, _BUILD, _CRC, _TEXT = 12, 4, 4, 32  # bytes
_LONGEST_COUNT: Final = 6  # bytes: below 2^42 tokens
_WHOLE: Final = 1 << 24  # what the frequencies of a choice add up to; the library's own precision
_RARE: Final = 2.0**-12
_BLOCK: Final = 1024
_KEPT: Final = "nothing was written"
Shares = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Compressed:
    """A compressed text: `data` is the whole file, `nats` what the engine itself charges for the text (natural log)."""

    data: bytes
    characters: int
    bytes: int  # of the text as UTF-8
    tokens: int
    nats: float
    engine: str

    @property
    def bits_per_character(self) -> float | None:
        """Of the file, with its header; None for the empty text."""
        return 8 * len(self.data) / self.characters if self.characters else None


def compress(checkpoint: Checkpoint, text: str, *, engine: str = "auto") -> Compressed:
    """The text as a file that the same model, engine and build turn back into it; `engine` is auto, compiled or numpy.

    The file is at most 0.1 % + 64 bytes larger than nats / (8 ln 2) bytes. Raises DataError for what is no Unicode
    text, ConfigError where the engine cannot be had, CharlmError where the coder's library is missing or the model
    gives no numbers.
    """
    writer = _Writer(_library())
    model = Engine(checkpoint, engine)
    encoded = model.tokenizer.encode(text)
    if model.tokenizer.decode(encoded) != text:
        raise CharlmError("the checkpoint's tokenizer does not give this text back", kept=_KEPT)
    walk, escaped, nats = _Walk(model), iter(encoded.escaped.tolist()), 0.0
    for token in encoded.ids.tolist():
        nats += walk.nats(token)
        walk.choose(writer, token, next(escaped) if token == model.tokenizer.unseen else 0)
    raw = text.encode()
    header = _Header(ENGINES.index(model.name), model.model, model.build, sha256(raw).digest(), len(encoded.ids))
    data = header.joined(writer.payload())
    return Compressed(data, len(text), len(raw), len(encoded.ids), nats, model.name)


def decompress(checkpoint: Checkpoint, data: bytes, *, engine: str = "auto") -> str:
    """The text that was compressed, exactly; `engine` auto is the one that the file names.

    Raises DataError for what is no compressed text of charlm's, CharlmError where the file is damaged, where it was
    made with another model, engine or build, and where the text is not the one whose SHA-256 the file has.
    """
    header, payload = _Header.parsed(data)
    here, wanted = checkpoint.state_sha256[: 2 * _MODEL], header.model.hex()
    if here != wanted:
        raise CharlmError(
            f"the file was made with another model, whose state_sha256 begins {wanted}; this one's begins {here}",
            kept=_KEPT,
            hint="charlm info tells which is which",
        )
    model = _same_engine(checkpoint, header, engine)
    reader, walk = _Reader(_library(), payload), _Walk(model)
    ids, escaped = array("i"), array("i")
    for _ in range(header.tokens):
        token, point = walk.choose(reader)
        ids.append(token)
        if token == model.tokenizer.unseen:
            escaped.append(point)
    text = model.tokenizer.decode(Encoded(np.array(ids, dtype=np.int32), np.array(escaped, dtype=np.int32)))
    if reader.payload() != payload or sha256(text.encode()).digest() != header.text:
        raise CharlmError(
            "what was decoded is not the text that was compressed: the file is damaged, or made on another machine",
            kept=_KEPT,
            hint="decompress it where it was compressed",
        )
    return text


def _same_engine(checkpoint: Checkpoint, header: _Header, engine: str) -> Engine:
    wanted = ENGINES[header.engine]
    if engine not in ("auto", wanted):
        raise CharlmError(
            f"the file was made with the {wanted} engine, not with {engine}", kept=_KEPT, hint=f"use --engine {wanted}"
        )
    try:
        model = Engine(checkpoint, wanted)
    except ConfigError as error:
        raise CharlmError(f"the file was made with the {wanted} engine, which is not to be had: {error}") from error
    if model.build != header.build:
        raise CharlmError(
            f"the file was made with another build of the {wanted} engine, {header.build.hex()}; "
            f"here it is {model.build.hex()}",
            kept=_KEPT,
            hint="decompress it with the processor, compiler and versions that it was compressed with",
        )
    return model


class Engine:
    """A checkpoint and what computes with it; no sum depends on the number of threads.

    `build` stands for all that decides how numbers are rounded: the compiled decoder's machine code or NumPy's
    version, the library that codes, and the processor's kind and instruction sets.
    """

    def __init__(self, checkpoint: Checkpoint, engine: str = "auto") -> None:
        self.tokenizer: Tokenizer = checkpoint.open_tokenizer()
        self.model = bytes.fromhex(checkpoint.state_sha256)[:_MODEL]
        weights = {name: np.asarray(weight).view(_InOrder) for name, weight in checkpoint.weights.items()}
        self.decoder: Decoder = _open(checkpoint.config.model, weights, engine)
        self.name = ENGINES[not isinstance(self.decoder, CompiledDecoder)]
        parts = [self.name, np.__version__, metadata.version("constriction"), platform.machine()]
        parts += sorted(processor.features())
        if self.name == "compiled":
            parts.append(sha256(Path(library()._name).read_bytes()).hexdigest())
        self.build = sha256("\n".join(parts).encode()).digest()[:_BUILD]

    @cached_property
    def others(self) -> NDArray[np.int32]:
        """The code points outside a vocabulary of characters, in order."""
        outside = np.ones(0x110000, dtype=bool)
        outside[0xD800:0xE000] = False
        outside[[ord(piece.decode()) for piece in self.tokenizer.pieces]] = False
        return np.flatnonzero(outside).astype(np.int32)


def _open(config: ModelConfig, weights: Weights, engine: str) -> Decoder:
    if engine != "numpy":
        decoder = open_decoder(config, weights, engine=engine)
        if isinstance(decoder, CompiledDecoder):
            return decoder
    return _OrderedDecoder(config, weights)


class _InOrder(np.ndarray[Any, np.dtype[Any]]):
    """A matrix that is multiplied from the left in an order of its own. BLAS splits its sums among threads."""

    def __rmatmul__(self, rows: Any) -> Any:
        return np.einsum("bi,ij->bj", np.ascontiguousarray(rows), np.ascontiguousarray(self), optimize=False)


class _OrderedDecoder(NumpyDecoder):
    def _matrix(self, weight: NDArray[Any]) -> NDArray[np.float32]:
        return super()._matrix(weight).view(_InOrder)


class _Walk:
    """A model on its way through a text, the same way in both directions."""

    def __init__(self, model: Engine) -> None:
        self._model, self._escape = model, model.tokenizer.escape
        self._state = model.decoder.init_state(1)
        self._read(model.tokenizer.start)

    def _read(self, token: int) -> None:
        logits, self._state = self._model.decoder.step([token], self._state)
        row = logits[0].astype(np.float64)
        if not np.isfinite(row).all():
            raise CharlmError("the model gives numbers that are not finite", kept=_KEPT)
        self._logits = row - row.max()
        self._terms = np.exp(self._logits)
        self._total = float(self._terms.sum())

    def nats(self, token: int) -> float:
        """-ln P of this token, as a score charges it."""
        tokenizer = self._model.tokenizer
        if token == tokenizer.unseen:
            return tokenizer.unseen_nats
        return float(np.log(self._total) - self._logits[token]) + tokenizer.known_nats

    def choose(self, coder: _Coder, token: int = -1, point: int = 0) -> tuple[int, int]:
        """The next token, and the code point behind it if it is unseen: coded, or (a reader's) decoded; then read."""
        tokenizer = self._model.tokenizer
        shares = self._terms * ((1 - self._escape) / self._total)
        if self._escape:
            shares = np.append(shares, self._escape)
        token = _choose(coder, shares, min(token, tokenizer.size))
        if token == tokenizer.size:
            token, point = tokenizer.unseen, self._choose_other(coder, point)
        self._read(token)
        return token, point

    def _choose_other(self, coder: _Coder, point: int) -> int:
        others = self._model.others
        block, place = divmod(int(np.searchsorted(others, point)), _BLOCK)
        block = coder.choose(_even(-(-len(others) // _BLOCK)), block)
        place = coder.choose(_even(min(_BLOCK, len(others) - _BLOCK * block)), place)
        return int(others[_BLOCK * block + place])


def _even(number: int) -> Shares:
    return np.full(number, 1 / number)


def _choose(coder: _Coder, shares: Shares, wanted: int) -> int:
    """One of the shares, the rare ones by a second choice among themselves."""
    rare = shares < _RARE
    seconds = np.flatnonzero(rare)
    if not len(seconds):
        return coder.choose(shares, wanted)
    firsts = np.flatnonzero(~rare)
    among, together = shares[seconds], float(shares[seconds].sum())
    first = len(firsts) if wanted < 0 or rare[wanted] else int(np.searchsorted(firsts, wanted))
    first = coder.choose(np.append(shares[firsts], together), first)
    if first < len(firsts):
        return int(firsts[first])
    return int(seconds[coder.choose(among / (together or 1), int(np.searchsorted(seconds, wanted)))])


def _spare(shares: Shares) -> NDArray[np.int64]:
    """Frequencies, each less 1, of at least two possibilities; what shares of about 1 leave is the likeliest's."""
    left = _WHOLE - len(shares)
    spare = (shares * left).astype(np.int64)
    spare[shares.argmax()] += left - int(spare.sum())
    return spare


class _Coder:
    """Choices as intervals of [0, 2^24), which the library codes as it would the whole distribution.

    The library gives possibility i of n floats the interval from floor(sum of the first i, scaled to 2^24 - n) + i.
    Whole numbers that add up to 2^24 - n are floats of 24 bits and so are their sums: all of it is exact.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._intervals = array("I")

    def choose(self, shares: Shares, wanted: int) -> int:
        """A possibility: the wanted one when writing, the one that was written when reading."""
        raise NotImplementedError

    def _note(self, spare: NDArray[np.int64], chosen: int) -> None:
        self._intervals.extend((int(spare[:chosen].sum()) + chosen, int(spare[chosen]) + 1))

    def _categorical(self, spare: Sequence[int] | NDArray[np.int64]) -> Any:
        return self._stream.model.Categorical(np.asarray(spare, dtype=np.float32), perfect=False)

    def payload(self) -> bytes:
        """All choices so far. What is coded last is decoded first, so this goes from the last choice to the first."""
        coder = self._stream.stack.AnsCoder()
        for i in range(len(self._intervals) - 2, -1, -2):
            begin, frequency = self._intervals[i], self._intervals[i + 1]
            parts = [part - 1 for part in (begin, frequency, _WHOLE - begin - frequency) if part]
            coder.encode_reverse(int(begin > 0), self._categorical(parts))
        return bytes(coder.get_compressed().astype("<u4").tobytes().rstrip(b"\0"))


class _Writer(_Coder):
    def choose(self, shares: Shares, wanted: int) -> int:
        if len(shares) > 1:
            self._note(_spare(shares), wanted)
        return wanted


class _Reader(_Coder):
    def __init__(self, stream: Any, payload: bytes) -> None:
        super().__init__(stream)
        words = np.frombuffer(payload + bytes(-len(payload) % 4), dtype="<u4")
        self._coder = stream.stack.AnsCoder(words.astype(np.uint32))

    def choose(self, shares: Shares, wanted: int) -> int:  # noqa: ARG002
        if len(shares) == 1:
            return 0
        spare = _spare(shares)
        chosen = int(self._coder.decode(self._categorical(spare)))
        self._note(spare, chosen)
        return chosen


def _library() -> Any:
    """The coder's library, which comes with an extra of the package."""
    try:
        import constriction
    except ImportError as error:
        raise CharlmError(
            "constriction, the library that codes, is not installed", kept=_KEPT, hint="pip install constriction"
        ) from error
    return constriction.stream


class _Header(NamedTuple):
    """What stands before the coded choices."""

    engine: int
    model: bytes
    build: bytes
    text: bytes
    tokens: int

    def joined(self, payload: bytes) -> bytes:
        before = _MAGIC + bytes([_VERSION << 4 | self.engine]) + self.model + self.build
        after = self.text + _count(self.tokens) + payload
        return before + zlib.crc32(before + after).to_bytes(_CRC, "little") + after

    @classmethod
    def parsed(cls, data: bytes) -> tuple[_Header, bytes]:
        """The header and the coded choices of a file that is whole."""
        if not data.startswith(_MAGIC):
            raise DataError("the file is no text that charlm compressed", kept=_KEPT, hint="charlm compress makes them")
        kind, at = int.from_bytes(data[len(_MAGIC) : len(_MAGIC) + 1]), len(_MAGIC) + 1
        parts = []
        for size in (_MODEL, _BUILD, _CRC, _TEXT):
            parts.append(data[at : at + size])
            at += size
        model, build, _, text = parts
        tokens, size = _counted(data[at:])
        header, payload = cls(kind & 15, model, build, text, tokens), data[at + size :]
        if kind >> 4 != _VERSION:
            raise CharlmError("the file was made by another version of charlm, or is damaged", kept=_KEPT)
        if not size or header.engine >= len(ENGINES) or header.joined(payload) != data:
            raise CharlmError(
                "the file is damaged: it is cut short or was changed", kept=_KEPT, hint="get it again, whole"
            )
        return header, payload


def _count(number: int) -> bytes:
    """Seven bits a byte, the lowest first."""
    low = bytearray()
    while number > 127:
        low.append(number & 127 | 128)
        number >>= 7
    return bytes([*low, number])


def _counted(data: bytes) -> tuple[int, int]:
    """The number that these bytes begin with, and how many of them it takes: 0 where there is none."""
    number = 0
    for place, byte in enumerate(data[:_LONGEST_COUNT]):
        number |= (byte & 127) << 7 * place
        if byte < 128:
            return number, place + 1
    return 0, 0
