"""Lossless compression of a text with a model's probabilities, by entropy coding.

The entropy coder is the range variant of asymmetric numeral systems (Duda 2013, arXiv:1311.2540) in the library
constriction (Bamler 2022, arXiv:2201.01741). It codes integers: each choice is an interval [begin, begin + frequency)
of [0, 2^24), and takes about log2(2^24 / frequency) bits. Compressor and decompressor compute the same frequencies,
token by token, with the same calls; sums have one order whatever the number of threads, so that both get the same
numbers to the last bit.

Frequencies (`_frequencies`). Of n possibilities with probabilities P, each gets floor(P (2^24 - n)) + 1, at least 1,
and the most probable one what is left, so that they add up to 2^24. In a scale of 16 instead of 2^24, with P = 0.7,
0.2 and 0.1: n = 3 and floor(P * 13) = 9, 2, 1; the rest of 1 goes to the first: 10, 2, 1; plus 1 each: 11, 3, 2.

Two-level choice (`_choose`). With a large vocabulary the 1s would take probability away from the likely tokens. Tokens
with P < 2^-12 are therefore combined into one possibility of a first choice; only if that is chosen, a second choice
says which of them. At most 4096 tokens are in the first one. With P = 0.9, 0.0999, and two of 0.00005: the first choice
is among 0.9, 0.0999 and 0.0001 (any other), the second between 0.5 and 0.5.

A choice takes at most -ln(1 - n / 2^24) nats more than -ln P: at most 2.4e-4 nats with 4096 tokens in the first choice,
1e-7 where the model is certain, and 0.004, on top of 8.3, for a second choice among 65,536. A character outside the
vocabulary is the escape and two more choices: which block of 1024 of the other characters, and which character in it.

A file is at most 0.1 % + 64 bytes larger than the model's negative log-likelihood, header included:

    3   signature: C7 43 5A
    1   version of the format, 1, times 16; plus the engine: 0 compiled, 1 NumPy. Arithmetic is float32
    12  model: the first bytes of the checkpoint's `state_sha256`
    4   build: the first bytes of a SHA-256 over everything that decides how numbers are rounded (`Engine`)
    4   CRC-32 of all other bytes of the file
    32  SHA-256 of the text as UTF-8
    1-6 number of tokens, seven bits a byte from the lowest, the high bit set on all but the last
    *   the coder's output: 32-bit words, little-endian, without the zero bytes at the end; of a file with more than
        2^18 tokens for each byte, as many zero bytes as bring it there

A token may take next to no bits, so a short file may hold a long text; a forged header could promise any. The last
rule bounds what a file of a given size can make a reader do before it finds that out.
"""

from __future__ import annotations

import platform
import zlib
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from importlib import metadata
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from charlm.config import ModelConfig
from charlm.errors import CharlmError, DataError
from charlm.generation.build import NoKernel
from charlm.generation.compiled import CompiledDecoder, kernel_for
from charlm.generation.decoder import Decoder, NumpyDecoder, Weights
from charlm.generation.engine import open_decoder
from charlm.runtime import processor
from charlm.storage.checkpoint import Checkpoint
from charlm.text.records import end_token
from charlm.text.tokenizer import Encoded, Ids, Tokenizer

ENGINES: Final = ("compiled", "numpy")
_MAGIC: Final = b"\xc7CZ"
_VERSION: Final = 1
_MODEL, _BUILD, _CRC, _TEXT = 12, 4, 4, 32  # bytes
_LONGEST_COUNT: Final = 6  # bytes: fewer than 2^42 tokens
_DENSEST: Final = 18  # at most 2^18 tokens for each byte of a file
_WHOLE: Final = 1 << 24  # the sum of the frequencies of a choice; the precision of the library
_RARE: Final = 2.0**-12  # tokens below this probability share one possibility of the first choice
_BLOCK: Final = 1024  # characters of a block of those outside the vocabulary
_SOME: Final = 2**16
_KEPT: Final = "nothing was written"
Shares = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Compressed:
    """A compressed text: `data` is the file, `nats` the engine's negative log-likelihood of the text, in nats."""

    data: bytes
    characters: int
    bytes: int  # of the text as UTF-8
    tokens: int
    nats: float
    engine: str

    @property
    def bits_per_character(self) -> float | None:
        """Bits of the file, header included, per character; None for the empty text."""
        return 8 * len(self.data) / self.characters if self.characters else None


def compress(checkpoint: Checkpoint, text: str, *, engine: str = "auto") -> Compressed:
    """Compress a text into a file that the same model, engine and build can decompress.

    `engine` is auto, compiled or numpy. The file is at most 0.1 % + 64 bytes larger than nats / (8 ln 2) bytes. Raises
    DataError if this is not Unicode text, ConfigError if the engine is not available, CharlmError if the library
    constriction is missing or the model's numbers are not finite.
    """
    writer = _Writer(_library())
    model = Engine(checkpoint, engine)
    encoded = model.tokenizer.encode(text)
    if model.tokenizer.decode(encoded) != text:
        raise CharlmError("the checkpoint's tokenizer does not reproduce this text", kept=_KEPT)
    predictor, escaped, nats = _Predictor(model), iter(encoded.escaped.tolist()), 0.0
    for token in _each(encoded.ids):
        nats += predictor.nats(token)
        predictor.choose(writer, token, next(escaped) if token == model.tokenizer.unseen else 0)
    raw = text.encode()
    header = _Header(ENGINES.index(model.name), model.model, model.build, sha256(raw).digest(), len(encoded.ids))
    data = header.padded(writer.payload())
    return Compressed(data, len(text), len(raw), len(encoded.ids), nats, model.name)


def _each(ids: Ids) -> Iterator[int]:
    """Each id; as Python's own integers all of them would take ten times the memory."""
    for at in range(0, len(ids), _SOME):
        yield from ids[at : at + _SOME].tolist()


def decompress(checkpoint: Checkpoint, data: bytes, *, engine: str = "auto") -> str:
    """The exact text that was compressed; the `engine` auto is the one that the file names.

    Raises DataError if the file was not written by `compress`; CharlmError if it is damaged, if it was made with
    another model, engine or build, or if the SHA-256 of the text differs from the one in the file.
    """
    header, payload = _Header.parse(data)
    here, wanted = checkpoint.state_sha256[: 2 * _MODEL], header.model.hex()
    if here != wanted:
        raise CharlmError(
            f"the file was made with another model, whose state_sha256 begins {wanted}; this one's begins {here}",
            kept=_KEPT,
            hint="charlm info shows the state_sha256 of a checkpoint",
        )
    model = _same_engine(checkpoint, header, engine)
    reader, predictor = _Reader(_library(), payload), _Predictor(model)
    ids, escaped = array("i"), array("i")
    for _ in range(header.tokens):
        token, point = predictor.choose(reader)
        ids.append(token)
        if token == model.tokenizer.unseen:
            escaped.append(point)
    text = model.tokenizer.decode(Encoded(np.array(ids, dtype=np.int32), np.array(escaped, dtype=np.int32)))
    if header.padded(reader.payload()) != data or sha256(text.encode()).digest() != header.text:
        raise CharlmError(
            "the decompressed text differs from the original: the file is damaged, or was made on another machine",
            kept=_KEPT,
            hint="decompress it on the machine where it was compressed",
        )
    return text


def _same_engine(checkpoint: Checkpoint, header: _Header, engine: str) -> Engine:
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


class Engine:
    """A checkpoint with a decoder whose results do not depend on the number of threads.

    `build` identifies everything that decides how numbers are rounded: the machine code of the compiled decoder or the
    version of NumPy, the version of constriction, and the architecture and instruction sets of the processor.
    """

    def __init__(self, checkpoint: Checkpoint, engine: str = "auto") -> None:
        self.tokenizer: Tokenizer = checkpoint.open_tokenizer()
        self.end = end_token(self.tokenizer, checkpoint.config.data.records)
        self.model = bytes.fromhex(checkpoint.state_sha256)[:_MODEL]
        weights = {name: np.asarray(weight).view(_InOrder) for name, weight in checkpoint.weights.items()}
        self.decoder: Decoder = _open(checkpoint.config.model, weights, engine)
        self.name = ENGINES[not isinstance(self.decoder, CompiledDecoder)]
        parts = [self.name, np.__version__, metadata.version("constriction"), platform.machine()]
        parts += sorted(processor.features())
        if self.name == "compiled":
            parts.append(kernel_for(checkpoint.config.model).digest)
        self.build = sha256("\n".join(parts).encode()).digest()[:_BUILD]

    @cached_property
    def others(self) -> NDArray[np.int32]:
        """The code points outside a character vocabulary, in order."""
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
    """A matrix whose products are summed in a fixed order. BLAS would split the sums among threads."""

    def __rmatmul__(self, rows: Any) -> Any:
        return np.einsum("bi,ij->bj", np.ascontiguousarray(rows), np.ascontiguousarray(self), optimize=False)


class _OrderedDecoder(NumpyDecoder):
    def _matrix(self, weight: NDArray[Any]) -> NDArray[np.float32]:
        return super()._matrix(weight).view(_InOrder)


class _Predictor:
    """A model reading a text token by token, identically when compressing and decompressing."""

    def __init__(self, model: Engine) -> None:
        self._model, self._escape = model, model.tokenizer.escape
        self._state = model.decoder.init_state(1)
        self._read(model.tokenizer.start)

    def _read(self, token: int) -> None:
        if token == self._model.end:  # a record has ended, and the next knows nothing of it
            token, self._state = self._model.tokenizer.start, self._model.decoder.init_state(1)
        logits, self._state = self._model.decoder.step([token], self._state)
        row = logits[0].astype(np.float64)
        if not np.isfinite(row).all():
            raise CharlmError("the model's outputs are not finite numbers", kept=_KEPT, hint="charlm verify checks it")
        self._logits = row - row.max()
        self._terms = np.exp(self._logits)
        self._total = float(self._terms.sum())

    def nats(self, token: int) -> float:
        """-ln P of this token in nats, escape included, as in scores."""
        tokenizer = self._model.tokenizer
        if token == tokenizer.unseen:
            return tokenizer.unseen_nats
        return float(np.log(self._total) - self._logits[token]) + tokenizer.known_nats

    def choose(self, coder: _Coder, token: int = -1, point: int = 0) -> tuple[int, int]:
        """Code or decode the next token, and its code point if it is unseen, and let the model read it.

        A writer is given both; a reader returns them.
        """
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
        block = coder.choose(_uniform(-(-len(others) // _BLOCK)), block)
        place = coder.choose(_uniform(min(_BLOCK, len(others) - _BLOCK * block)), place)
        return int(others[_BLOCK * block + place])


def _uniform(number: int) -> Shares:
    return np.full(number, 1 / number)


def _choose(coder: _Coder, shares: Shares, wanted: int) -> int:
    """Code or decode one of the possibilities: the rare ones by a second choice among themselves."""
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


def _frequencies(shares: Shares) -> NDArray[np.int64]:
    """The frequencies, each less 1, of at least two possibilities whose probabilities sum to about 1.

    They add up to 2^24 - n; what rounding down leaves goes to the most probable one.
    """
    left = _WHOLE - len(shares)
    frequencies = (shares * left).astype(np.int64)
    frequencies[shares.argmax()] += left - int(frequencies.sum())
    return frequencies


class _Coder:
    """A sequence of choices, each an interval of [0, 2^24).

    The library takes the weights of n possibilities as floats, scales them to a sum of 2^24 - n, and begins the
    interval of possibility i at floor(sum of the first i) + i. Integers that add up to 2^24 - n are exact as 24-bit
    floats, and so are their sums, so that the intervals are exactly those of `_frequencies`.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._intervals = array("I")

    def choose(self, shares: Shares, wanted: int) -> int:
        """The possibility that is coded: the wanted one when writing, the decoded one when reading."""
        raise NotImplementedError

    def _note(self, frequencies: NDArray[np.int64], chosen: int) -> None:
        self._intervals.extend((int(frequencies[:chosen].sum()) + chosen, int(frequencies[chosen]) + 1))

    def _categorical(self, frequencies: Sequence[int] | NDArray[np.int64]) -> Any:
        return self._stream.model.Categorical(np.asarray(frequencies, dtype=np.float32), perfect=False)

    def payload(self) -> bytes:
        """The code of all choices so far. The coder is a stack, so they are coded from the last to the first.

        Each is coded as one of at most three possibilities: before the interval, the interval, after it.
        """
        coder = self._stream.stack.AnsCoder()
        for i in range(len(self._intervals) - 2, -1, -2):
            begin, frequency = self._intervals[i], self._intervals[i + 1]
            parts = [part - 1 for part in (begin, frequency, _WHOLE - begin - frequency) if part]
            coder.encode_reverse(int(begin > 0), self._categorical(parts))
        return bytes(coder.get_compressed().astype("<u4").tobytes().rstrip(b"\0"))


class _Writer(_Coder):
    def choose(self, shares: Shares, wanted: int) -> int:
        if len(shares) > 1:
            self._note(_frequencies(shares), wanted)
        return wanted


class _Reader(_Coder):
    def __init__(self, stream: Any, payload: bytes) -> None:
        super().__init__(stream)
        payload = payload.rstrip(b"\0")  # the library takes no zero word at the end
        words = np.frombuffer(payload + bytes(-len(payload) % 4), dtype="<u4")
        self._coder = stream.stack.AnsCoder(words.astype(np.uint32))

    def choose(self, shares: Shares, wanted: int) -> int:  # noqa: ARG002
        if len(shares) == 1:
            return 0
        frequencies = _frequencies(shares)
        chosen = int(self._coder.decode(self._categorical(frequencies)))
        self._note(frequencies, chosen)
        return chosen


def _library() -> Any:
    """The stream coders of constriction; raises CharlmError if it is not installed."""
    try:
        import constriction
    except ImportError as error:
        raise CharlmError(
            "compression needs the library constriction, which is not installed",
            kept=_KEPT,
            hint="pip install constriction",
        ) from error
    return constriction.stream


class _Header(NamedTuple):
    """The header of a compressed file."""

    engine: int
    model: bytes
    build: bytes
    text: bytes
    tokens: int

    def pack(self, payload: bytes) -> bytes:
        before = _MAGIC + bytes([_VERSION << 4 | self.engine]) + self.model + self.build
        after = self.text + _encode_integer(self.tokens) + payload
        return before + zlib.crc32(before + after).to_bytes(_CRC, "little") + after

    def padded(self, payload: bytes) -> bytes:
        """The whole file, with zero bytes at its end if it has too many tokens for its size."""
        size = len(self.pack(payload))
        return self.pack(payload + bytes(max(0, _least_bytes(self.tokens) - size)))

    @classmethod
    def parse(cls, data: bytes) -> tuple[_Header, bytes]:
        """The header and the coded choices of a file; raises DataError or CharlmError if it is not valid."""
        if not data.startswith(_MAGIC):
            raise DataError("the file was not written by charlm compress", kept=_KEPT)
        kind, at = int.from_bytes(data[len(_MAGIC) : len(_MAGIC) + 1]), len(_MAGIC) + 1
        parts = []
        for size in (_MODEL, _BUILD, _CRC, _TEXT):
            parts.append(data[at : at + size])
            at += size
        model, build, _, text = parts
        tokens, size = _decode_integer(data[at:])
        header, payload = cls(kind & 15, model, build, text, tokens), data[at + size :]
        if kind >> 4 != _VERSION:
            raise CharlmError("the file has another version of the format, or is damaged", kept=_KEPT)
        if not size or header.engine >= len(ENGINES) or header.pack(payload) != data:
            raise CharlmError(
                "the file is damaged: it is cut short or was changed", kept=_KEPT, hint="get the whole file again"
            )
        if len(data) < _least_bytes(tokens):
            raise CharlmError(
                f"the file is damaged or forged: its {len(data):,} bytes cannot hold the {tokens:,} tokens it promises",
                kept=_KEPT,
                hint="get the whole file again",
            )
        return header, payload


def _least_bytes(tokens: int) -> int:
    """The size that a file of so many tokens has at least."""
    return -(-tokens >> _DENSEST)


def _encode_integer(number: int) -> bytes:
    """An integer with seven bits in each byte, lowest first; the high bit is set on all but the last byte.

    >>> _encode_integer(300).hex(" ")
    'ac 02'
    """
    low = bytearray()
    while number > 127:
        low.append(number & 127 | 128)
        number >>= 7
    return bytes([*low, number])


def _decode_integer(data: bytes) -> tuple[int, int]:
    """The integer at the beginning of these bytes and its length in bytes, which is 0 if there is none."""
    number = 0
    for place, byte in enumerate(data[:_LONGEST_COUNT]):
        number |= (byte & 127) << 7 * place
        if byte < 128:
            return number, place + 1
    return 0, 0
