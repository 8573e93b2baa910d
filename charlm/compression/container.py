"""The file of a compressed text: a header, and the code of each block of the text.

Every file begins with

    3   signature: C7 43 5A
    1   version of the format, times 16; plus the engine: 0 compiled, 1 NumPy. Arithmetic is float32
    12  model: the first bytes of the checkpoint's `state_sha256`
    4   build: the first bytes of a SHA-256 over everything that decides how numbers are rounded (`Engine`)

A text that is one block is a file of version 1, as earlier versions of charlm wrote of every text:

    4   CRC-32 of all other bytes of the file
    32  SHA-256 of the text as UTF-8
    1-6 number of tokens
    *   code

A longer one is a file of version 2. Its blocks are whole characters, in order; the model reads on from one to the next:

    for each block:
        1-4 number of tokens, at least 1, at most 2^24
        1-5 bytes of code, at most 12 for each token, and 8
        *   code
    1   0
    32  SHA-256 of the text as UTF-8
    4   CRC-32 of all bytes before

Numbers have seven bits a byte, from the lowest; the high bit is set on all but the last. Code is 32-bit words,
little-endian, without the zero bytes at the end. A token may take next to no bits, so a short file may hold a long
text, and a forged one could promise any. So there are at most 2^18 tokens for each byte of a file of version 1, and for
each byte of code of one of version 2; where there would be more, zero bytes at the end of the code bring it there.
That bounds what a file of a given size can make a reader do before it finds that out.

A reader sees the whole frame, and the CRC-32, before anything is decoded. Of version 2 it holds a block at a time.

This module knows nothing of texts, models or coding.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final, NamedTuple

from charlm.errors import CharlmError, DataError

ENGINES: Final = ("compiled", "numpy")
MODEL, BUILD = 12, 4  # bytes
_MAGIC: Final = b"\xc7CZ"
_ONE_BLOCK, _BLOCKS = 1, 2  # versions
_HEAD, _CRC, _SHA256 = len(_MAGIC) + 1 + MODEL + BUILD, 4, 32  # bytes
_LONGEST_COUNT: Final = 6  # bytes: fewer than 2^42 tokens
_DENSEST: Final = 18  # at most 2^18 tokens for each byte
_MOST_TOKENS: Final = 2**24  # of one of several blocks
_LONGEST_TOKEN: Final = 12  # bytes of code: at most four choices of 24 bits
_REST: Final = 8  # bytes of code, beside those of its tokens
_KEPT: Final = "nothing was written"
_AGAIN: Final = "get the whole file again"
Write = Callable[[bytes], object]


class Header(NamedTuple):
    """What is needed to decompress a file."""

    engine: int
    model: bytes
    build: bytes

    def pack(self, version: int) -> bytes:
        return _MAGIC + bytes([version << 4 | self.engine]) + self.model + self.build


class Block(NamedTuple):
    """A block of a text: how many tokens it has, and their code; zero bytes at its end make it `least` bytes long."""

    tokens: int
    code: bytes
    least: int = 0

    def filled(self) -> bytes:
        return self.code + bytes(max(0, self.least - len(self.code)))


class Packer:
    """Writes a file, block by block. The first one waits for the second: alone, it is a file of version 1."""

    def __init__(self, header: Header, write: Write) -> None:
        self._header, self._put = header, write
        self._first: Block | None = None
        self._crc = self.size = 0

    def add(self, tokens: int, code: bytes) -> None:
        """Add a block; raises ValueError where it is too large to be one of several."""
        if self._first is None and not self.size:
            self._first = Block(tokens, code)
            return
        if self._first is not None:
            self._write(self._header.pack(_BLOCKS))
            self._write(_packed_block(self._first))
            self._first = None
        self._write(_packed_block(Block(tokens, code)))

    def finish(self, sha256: bytes) -> None:
        """Write the end, with the SHA-256 of the text."""
        if self._first is not None:
            self._write(pack_one_block(self._header, sha256, one_block(*self._first[:2])))
            return
        self._write(b"\0" + sha256)
        self._write(self._crc.to_bytes(_CRC, "little"))

    def _write(self, data: bytes) -> None:
        self._crc, self.size = zlib.crc32(data, self._crc), self.size + len(data)
        self._put(data)


def pack_one_block(header: Header, sha256: bytes, block: Block) -> bytes:
    """A file of version 1."""
    before, after = header.pack(_ONE_BLOCK), sha256 + _encode_integer(block.tokens) + block.filled()
    return before + zlib.crc32(before + after).to_bytes(_CRC, "little") + after


def one_block(tokens: int, code: bytes) -> Block:
    """The block of a file of version 1, whose other bytes count, too."""
    return Block(tokens, code, _least_bytes(tokens) - _HEAD - _CRC - _SHA256 - len(_encode_integer(tokens)))


def one_of_several(tokens: int, code: bytes) -> Block:
    """A block of a file of version 2."""
    return Block(tokens, code, _least_bytes(tokens))


def _packed_block(block: Block) -> bytes:
    if not 0 < block.tokens <= _MOST_TOKENS:
        raise ValueError(f"a block of {block.tokens:,} tokens")
    code = one_of_several(*block[:2]).filled()
    return _encode_integer(block.tokens) + _encode_integer(len(code)) + code


@dataclass(frozen=True, slots=True)
class Contents:
    """A file whose frame is whole: its header, the SHA-256 of its text, and its blocks, which are read when needed."""

    header: Header
    sha256: bytes
    size: int
    _file: BinaryIO
    _whole: Block | None  # the block of a file of version 1

    def blocks(self) -> Iterator[Block]:
        """Each block, with its code as it is in the file."""
        if self._whole is not None:
            yield self._whole
            return
        frame = _Frame(self._file, self.size)
        frame.take(_HEAD)
        yield from _blocks(frame)


def parse(file: BinaryIO) -> Contents:
    """What is in a file that can be read twice; raises DataError or CharlmError if it is not valid."""
    size = file.seek(0, os.SEEK_END)
    frame = _Frame(file, size)
    head = frame.take(min(_HEAD, size))
    if not head.startswith(_MAGIC):
        raise DataError("the file was not written by charlm compress", kept=_KEPT)
    at = len(_MAGIC) + 1
    version, engine = divmod(int.from_bytes(head[at - 1 : at]), 16)
    header = Header(engine, head[at : at + MODEL], head[at + MODEL :])
    if version not in (_ONE_BLOCK, _BLOCKS):
        raise CharlmError("the file has another version of the format, or is damaged", kept=_KEPT)
    if engine >= len(ENGINES):
        raise _damaged()
    return _parse_one_block(header, frame) if version == _ONE_BLOCK else _parse_blocks(header, frame)


def _parse_one_block(header: Header, frame: _Frame) -> Contents:
    crc = frame.take(_CRC)
    sha256 = frame.take(_SHA256)
    empty = one_block(frame.integer(), b"")
    _check_size(empty, frame.left, frame.size)
    block = empty._replace(code=frame.take(frame.left))
    if pack_one_block(header, sha256, block)[_HEAD : _HEAD + _CRC] != crc:
        raise _damaged()
    return Contents(header, sha256, frame.size, frame.file, block)


def _parse_blocks(header: Header, frame: _Frame) -> Contents:
    for _ in _blocks(frame):
        pass
    sha256 = frame.take(_SHA256)
    crc = frame.crc
    if frame.take(_CRC) != crc.to_bytes(_CRC, "little") or frame.left:
        raise _damaged()
    return Contents(header, sha256, frame.size, frame.file, None)


def _blocks(frame: _Frame) -> Iterator[Block]:
    """The blocks of a file of version 2; raises CharlmError for one that cannot be."""
    while tokens := frame.integer():
        size, empty = frame.integer(), one_of_several(tokens, b"")
        if tokens > _MOST_TOKENS:
            raise _damaged()
        _check_size(empty, size, size)
        yield empty._replace(code=frame.take(size))


def _check_size(block: Block, size: int, shown: int) -> None:
    """Raise CharlmError where so many bytes cannot be a block's code; `shown` are those that an error names."""
    most = max(block.least, _LONGEST_TOKEN * block.tokens + _REST)
    if not block.least <= size <= most:
        raise CharlmError(
            f"the file is damaged or forged: its {shown:,} bytes cannot be the {block.tokens:,} tokens it promises",
            kept=_KEPT,
            hint=_AGAIN,
        )


class _Frame:
    """The bytes of a file, one part after the other; each is known to be there before it is read."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self.file, self.size, self.left, self.crc = file, size, size, 0
        file.seek(0)

    def take(self, size: int) -> bytes:
        """The next bytes; raises CharlmError where there are fewer."""
        data = self.file.read(size) if size <= self.left else b""
        if len(data) < size:
            raise _damaged()
        self.crc, self.left = zlib.crc32(data, self.crc), self.left - size
        return data

    def integer(self) -> int:
        """The next number; raises CharlmError where there is none, or one with more bytes than it needs."""
        number = 0
        for place in range(_LONGEST_COUNT):
            byte = self.take(1)[0]
            number |= (byte & 127) << 7 * place
            if byte < 128 and (byte or not place):
                return number
        raise _damaged()


def _damaged() -> CharlmError:
    return CharlmError("the file is damaged: it is cut short or was changed", kept=_KEPT, hint=_AGAIN)


def _least_bytes(tokens: int) -> int:
    """The size that so many tokens have at least."""
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
