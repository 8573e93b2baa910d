"""Validation of a SentencePiece model, before the C++ library, which trusts its input, parses it.

A model is a protocol buffer: a sequence of fields, each a tag (field number times 8, plus the wire type) and a value: a
variable-length integer (wire type 0), four bytes (5), or a length and that many bytes (2). Only models that charlm's
own training could have written are accepted: distinct pieces with finite scores, one unknown piece, the 256 byte
pieces, and no normalisation. So compiled normalisation rules, self-tests and other kinds of model are never loaded.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from typing import Final

from charlm.errors import CheckpointError

LARGEST_MODEL: Final = 8 * 2**20
_MOST_PIECES: Final = 65_536 + 257  # the largest --vocab-size, plus bytes and the unknown piece
_LONGEST_PIECE: Final = 128  # bytes; training stops at 16 characters
_LARGEST_SCORE: Final = 1e6  # above any log-probability (unigram) or rank (bpe)
_NORMAL, _UNKNOWN, _BYTE = 1, 2, 6
_BYTES: Final = frozenset(f"<0x{value:02X}>" for value in range(256))
_INTEGER, _TEXT, _FLOAT = 0, 2, 5
Value = int | bytes

# Fields by tag, with the values that they may have.
_PIECES, _TRAINER, _NORMALIZER = 1 * 8 + _TEXT, 2 * 8 + _TEXT, 3 * 8 + _TEXT
_NAME, _SCORE, _KIND = 1 * 8 + _TEXT, 2 * 8 + _FLOAT, 3 * 8 + _INTEGER
_TRAINED: Final[Mapping[int, tuple[Value, ...]]] = {
    3 * 8 + _INTEGER: (1, 2),  # model_type: unigram or bpe
    24 * 8 + _INTEGER: (0,),  # treat_whitespace_as_suffix
    35 * 8 + _INTEGER: (1,),  # byte_fallback
    40 * 8 + _INTEGER: (0,),  # unk_id
}
_TRAINED_ALWAYS: Final = {3 * 8 + _INTEGER, 35 * 8 + _INTEGER}
_LAST_OF_TRAINER: Final = 60  # training options have lower numbers; those not listed above have no effect later
_NORMALIZED: Final[Mapping[int, tuple[Value, ...]]] = {
    1 * 8 + _TEXT: (b"identity",),
    2 * 8 + _TEXT: (b"",),  # precompiled_charsmap: a trie that the library walks unchecked
    3 * 8 + _INTEGER: (0,),  # add_dummy_prefix
    4 * 8 + _INTEGER: (0,),  # remove_extra_whitespaces
    5 * 8 + _INTEGER: (1,),  # escape_whitespaces
    6 * 8 + _TEXT: (b"",),  # normalization_rule_tsv
}
_NORMALIZED_ALWAYS: Final = {1 * 8 + _TEXT, 3 * 8 + _INTEGER, 4 * 8 + _INTEGER}


def check_model(model: bytes) -> None:
    """Raise CheckpointError unless charlm's own training could have written this model."""
    try:
        _check(model)
    except (ValueError, IndexError) as error:
        raise CheckpointError(f"the SentencePiece model in the checkpoint cannot be used: {error}") from error


def _check(model: bytes) -> None:
    if not 0 < len(model) <= LARGEST_MODEL:
        raise ValueError(f"it has {len(model):,} bytes")
    parts: dict[int, bytes] = {}
    pieces: list[str] = []
    kinds: list[int] = []
    for tag, value in _fields(model):
        if tag == _PIECES and isinstance(value, bytes) and len(pieces) < _MOST_PIECES:
            piece, kind = _piece(value)
            pieces.append(piece)
            kinds.append(kind)
        elif tag in (_TRAINER, _NORMALIZER) and tag not in parts and isinstance(value, bytes):
            parts[tag] = value
        else:
            raise ValueError("it has an unexpected field")
    if len(set(pieces)) < len(pieces):
        raise ValueError("a piece occurs twice")
    if kinds.count(_UNKNOWN) != 1 or kinds[0] != _UNKNOWN:
        raise ValueError("its first piece, and no other, must be the unknown piece")
    if {piece for piece, kind in zip(pieces, kinds, strict=True) if kind == _BYTE} != _BYTES:
        raise ValueError("its byte pieces are not complete")
    trainer = _options(parts.get(_TRAINER, b""), _TRAINED, _TRAINED_ALWAYS)
    if any(tag // 8 > _LAST_OF_TRAINER for tag in trainer):
        raise ValueError("it was trained with unknown options")
    normalizer = _options(parts.get(_NORMALIZER, b""), _NORMALIZED, _NORMALIZED_ALWAYS)
    if not normalizer.keys() <= _NORMALIZED.keys():
        raise ValueError("it normalises text")


def _piece(data: bytes) -> tuple[str, int]:
    """A piece and its kind."""
    fields = _table(data)
    piece, score, kind = fields.pop(_NAME, b""), fields.pop(_SCORE, b""), fields.pop(_KIND, _NORMAL)
    if fields or not isinstance(piece, bytes) or not isinstance(score, bytes) or not isinstance(kind, int):
        raise ValueError("a piece has an unexpected field")
    if not 0 < len(piece) <= _LONGEST_PIECE or b"\0" in piece:
        raise ValueError("a piece is empty, too long, or contains NUL")
    if len(score) != 4 or not abs(struct.unpack("<f", score)[0]) <= _LARGEST_SCORE:  # false for NaN, too
        raise ValueError("the score of a piece is missing or out of range")
    if kind not in (_NORMAL, _UNKNOWN, _BYTE):
        raise ValueError("a piece is of an unknown kind")
    return piece.decode(), kind


def _options(data: bytes, allowed: Mapping[int, tuple[Value, ...]], always: set[int]) -> dict[int, Value]:
    options = _table(data)
    for tag, value in options.items():
        if tag in allowed and value not in allowed[tag]:
            raise ValueError(f"its option {tag // 8} differs from what training sets")
    if not always <= options.keys():
        raise ValueError("it lacks options that training sets")
    return options


def _table(data: bytes) -> dict[int, Value]:
    """The fields of a message in which none occurs twice."""
    table: dict[int, Value] = {}
    for tag, value in _fields(data):
        if tag in table:
            raise ValueError("a field occurs twice")
        table[tag] = value
    return table


def _fields(data: bytes) -> Iterator[tuple[int, Value]]:
    """Tag and value of each field of a message: here field 1 is the number 150, and field 2 the bytes "Hi".

    >>> list(_fields(bytes([8, 150, 1, 18, 2, 72, 105])))
    [(8, 150), (18, b'Hi')]
    """
    place = 0
    while place < len(data):
        tag, place = _integer(data, place)
        if tag % 8 == _INTEGER:
            number, place = _integer(data, place)
            yield tag, number
            continue
        if tag % 8 not in (_TEXT, _FLOAT):
            raise ValueError("a field has an unknown wire type")
        length, place = _integer(data, place) if tag % 8 == _TEXT else (4, place)
        if length > len(data) - place:
            raise ValueError("it is cut short")
        yield tag, data[place : place + length]
        place += length


def _integer(data: bytes, place: int) -> tuple[int, int]:
    """The variable-length integer at `place` and the place after it.

    Seven bits a byte, lowest first; the high bit says that another byte follows. At most 64 bits, and no padding.
    """
    number = 0
    for shift in range(0, 64, 7):
        byte = data[place]
        place += 1
        number |= (byte & 127) << shift
        if byte < 128:
            if number >= 2**64 or (byte == 0 and shift):
                break
            return number, place
    raise ValueError("a number has too many bytes")
