"""What a SentencePiece model must look like before the library, which is C++ and trusts it, gets to see it.

A model is a protocol buffer: one field after another, each a tag (its number times 8, plus how its value is written)
and a value: a variable-length integer (0), four bytes (5), or a length and so many bytes (2). Only what charlm's own
training writes passes: different words with finite scores, one unknown word, the 256 bytes, and nothing that would
normalise a text. So no compiled normalisation rules, self-tests or other kinds of model are ever loaded.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from typing import Final

from charlm.errors import CheckpointError

LARGEST_MODEL: Final = 8 * 2**20
_MOST_PIECES: Final = 65_536 + 257  # the largest --vocab-size; bytes and the unknown word may come on top
_LONGEST_PIECE: Final = 128  # bytes; training stops at 16 characters
_LARGEST_SCORE: Final = 1e6  # beyond any log-probability of `unigram` or rank of `bpe`
_NORMAL, _UNKNOWN, _BYTE = 1, 2, 6
_BYTES: Final = frozenset(f"<0x{value:02X}>" for value in range(256))
_INTEGER, _TEXT, _FLOAT = 0, 2, 5
Value = int | bytes

# Fields by tag, with the values that they may have; a value of None may be any.
_PIECES, _TRAINER, _NORMALIZER = 1 * 8 + _TEXT, 2 * 8 + _TEXT, 3 * 8 + _TEXT
_WORD, _SCORE, _KIND = 1 * 8 + _TEXT, 2 * 8 + _FLOAT, 3 * 8 + _INTEGER
_TRAINED: Final[Mapping[int, tuple[Value, ...]]] = {
    3 * 8 + _INTEGER: (1, 2),  # model_type: unigram or bpe
    24 * 8 + _INTEGER: (0,),  # treat_whitespace_as_suffix
    35 * 8 + _INTEGER: (1,),  # byte_fallback
    40 * 8 + _INTEGER: (0,),  # unk_id
}
_TRAINED_ALWAYS: Final = {3 * 8 + _INTEGER, 35 * 8 + _INTEGER}
_LAST_OF_TRAINER: Final = 60  # its options have numbers below that; those not above have no say once it is trained
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
    """Raise CheckpointError for all but a model that our own training could have written."""
    try:
        _check(model)
    except (ValueError, IndexError) as error:
        raise CheckpointError(f"the SentencePiece model in the checkpoint cannot be used: {error}") from error


def _check(model: bytes) -> None:
    if not 0 < len(model) <= LARGEST_MODEL:
        raise ValueError(f"it has {len(model):,} bytes")
    parts: dict[int, bytes] = {}
    words: list[str] = []
    kinds: list[int] = []
    for tag, value in _fields(model):
        if tag == _PIECES and isinstance(value, bytes) and len(words) < _MOST_PIECES:
            word, kind = _piece(value)
            words.append(word)
            kinds.append(kind)
        elif tag in (_TRAINER, _NORMALIZER) and tag not in parts and isinstance(value, bytes):
            parts[tag] = value
        else:
            raise ValueError("it has a part too many")
    if len(set(words)) < len(words):
        raise ValueError("a word stands twice")
    if kinds.count(_UNKNOWN) != 1 or kinds[0] != _UNKNOWN:
        raise ValueError("its first word, and that alone, must be the unknown one")
    if {word for word, kind in zip(words, kinds, strict=True) if kind == _BYTE} != _BYTES:
        raise ValueError("it has no pieces for bytes to fall back on")
    trainer = _options(parts.get(_TRAINER, b""), _TRAINED, _TRAINED_ALWAYS)
    if any(tag // 8 > _LAST_OF_TRAINER for tag in trainer):
        raise ValueError("it was trained with options that are not known")
    normalizer = _options(parts.get(_NORMALIZER, b""), _NORMALIZED, _NORMALIZED_ALWAYS)
    if not normalizer.keys() <= _NORMALIZED.keys():
        raise ValueError("it normalises texts")


def _piece(data: bytes) -> tuple[str, int]:
    """A word and its kind."""
    fields = _table(data)
    word, score, kind = fields.pop(_WORD, b""), fields.pop(_SCORE, b""), fields.pop(_KIND, _NORMAL)
    if fields or not isinstance(word, bytes) or not isinstance(score, bytes) or not isinstance(kind, int):
        raise ValueError("a word has a part too many")
    if not 0 < len(word) <= _LONGEST_PIECE or b"\0" in word:
        raise ValueError("a word is empty, too long, or holds NUL")
    if len(score) != 4 or not abs(struct.unpack("<f", score)[0]) <= _LARGEST_SCORE:  # false for NaN, too
        raise ValueError("a word's score is missing or beyond all measure")
    if kind not in (_NORMAL, _UNKNOWN, _BYTE):
        raise ValueError("a word is of a kind that is not known")
    return word.decode(), kind


def _options(data: bytes, allowed: Mapping[int, tuple[Value, ...]], always: set[int]) -> dict[int, Value]:
    options = _table(data)
    for tag, value in options.items():
        if tag in allowed and value not in allowed[tag]:
            raise ValueError(f"its option {tag // 8} is not what training sets")
    if not always <= options.keys():
        raise ValueError("it lacks options that training sets")
    return options


def _table(data: bytes) -> dict[int, Value]:
    """The fields of a message that has each at most once."""
    table: dict[int, Value] = {}
    for tag, value in _fields(data):
        if tag in table:
            raise ValueError("an entry stands twice")
        table[tag] = value
    return table


def _fields(data: bytes) -> Iterator[tuple[int, Value]]:
    """Tag and value of each field.

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
            raise ValueError("a field is written in a way that is not known")
        length, place = _integer(data, place) if tag % 8 == _TEXT else (4, place)
        if length > len(data) - place:
            raise ValueError("it is cut short")
        yield tag, data[place : place + length]
        place += length


def _integer(data: bytes, place: int) -> tuple[int, int]:
    """The number at `place`, seven bits a byte, lowest first, and where it ends; at most 64 bits, written shortest."""
    number = 0
    for shift in range(0, 64, 7):
        byte = data[place]
        place += 1
        number |= (byte & 127) << shift
        if byte < 128:
            if number >= 2**64 or (byte == 0 and shift):
                break
            return number, place
    raise ValueError("a number is too long")
