"""The library parses only models that our own training could have written, and all of those."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from functools import cache

import pytest
from hostile import survives
from matrix import Tries

from charlm.errors import CheckpointError
from charlm.text.pieces import LARGEST_MODEL, check_model
from charlm.text.sentencepiece import SentencePieceTokenizer
from charlm.text.tokenizer import TokenizerState, restore_tokenizer

TEXTS = {
    "english": "".join(
        f"The {n}th kitten sleeps under {n * 7} bridges, while another one watches.\n" for n in range(90)
    ),
    "chinese": "".join(chr(0x4E00 + n * n % 700) + "，" * (n % 5 == 0) for n in range(3000)),
    "emoji": "\U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f3f3\ufe0f\u200d\U0001f308 \U0001f600\U00020000" * 60,
    "odd": "<unk> <s></s> <0x41><0x00> \0 \u2581 \ufeff \u202e \x1b[31m e\u0301 \t\u3000\x85 \r\n" * 40,
    "names of bytes": "<0x41><0x42><0xFF>" * 300,
    "long": "x" * 5000 + "\U00020000" * 3000,
}


@cache
def model(kind: str, text: str = "english", size: int = 400) -> bytes:
    return SentencePieceTokenizer.train(TEXTS[text], size, kind).state().model


# A protocol buffer by hand, from its definition: what a field is written as follows from the value's type.


def integer(value: int) -> bytes:
    low, rest = value & 127, value >> 7
    return bytes([low | 128]) + integer(rest) if rest else bytes([low])


def a_field(number: int, value: int | float | bytes) -> bytes:
    if isinstance(value, int):
        return integer(number * 8) + integer(value)
    if isinstance(value, float):
        return integer(number * 8 + 5) + struct.pack("<f", value)
    return integer(number * 8 + 2) + integer(len(value)) + value


def piece(word: bytes, score: float = -1.0, kind: int | None = None) -> bytes:
    return a_field(1, a_field(1, word) + a_field(2, score) + (b"" if kind is None else a_field(3, kind)))


UNKNOWN = piece(b"<unk>", 0.0, 2)
BYTES = b"".join(piece(f"<0x{value:02X}>".encode(), 0.0, 6) for value in range(256))
WORDS = piece(b"a") + piece("\u2581b".encode()) + piece("é".encode())
TRAINER = a_field(3, 1) + a_field(35, 1) + a_field(40, 0)
NORMALIZER = a_field(1, b"identity") + a_field(2, b"") + a_field(3, 0) + a_field(4, 0)
PARTS = {"unknown": UNKNOWN, "bytes": BYTES, "words": WORDS, "trainer": TRAINER, "normalizer": NORMALIZER}


def whole(**changed: bytes) -> bytes:
    """A model of these parts; `end` stands after all of them."""
    parts = {**PARTS, **changed}
    pieces = parts["unknown"] + parts["bytes"] + parts["words"]
    return pieces + a_field(2, parts["trainer"]) + a_field(3, parts["normalizer"]) + parts.get("end", b"")


def test_a_handmade_model_is_accepted() -> None:
    check_model(whole())
    tokenizer = restore_tokenizer(TokenizerState({"kind": "sentencepiece"}, whole()))
    assert tokenizer.size == 260
    assert tokenizer.decode(tokenizer.encode("a b é ü\n")) == "a b é ü\n"


@pytest.mark.parametrize("size", [300, 2000, 65536])
@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_models_written_by_training_are_accepted(kind: str, text: str, size: int) -> None:
    tokenizer = SentencePieceTokenizer.train(TEXTS[text], max(size, 257 + len(set(TEXTS[text]))), kind)
    check_model(tokenizer.state().model)
    assert tokenizer.decode(tokenizer.encode(TEXTS[text][:500])) == TEXTS[text][:500]


REFUSED = {
    "nothing": b"",
    "another file": b"PK\3\4" * 50,
    "no unknown word": whole(unknown=b""),
    "two unknown words": whole(words=piece(b"a", 0.0, 2)),
    "an unknown word that is not the first": whole(unknown=piece(b"b") + UNKNOWN),
    "a byte too few": whole(bytes=BYTES[len(piece(b"<0x00>", 0.0, 6)) :]),
    "a byte too many": whole(words=piece(b"<0x100>", 0.0, 6)),
    "a byte by another name": whole(bytes=BYTES.replace(b"<0x7F>", b"<0x7f>")),
    "a byte that is a word": whole(bytes=BYTES.replace(piece(b"<0x7F>", 0.0, 6), piece(b"<0x7F>", 0.0))),
    "a word twice": whole(words=WORDS + piece(b"a")),
    "an empty word": whole(words=piece(b"")),
    "a long word": whole(words=piece(b"x" * 129)),
    "a word with NUL": whole(words=piece(b"a\0b")),
    "a word that is not UTF-8": whole(words=piece(b"\xff")),
    "a word with a surrogate": whole(words=piece(b"\xed\xa0\x80")),
    **{f"score {score}": whole(words=piece(b"a", score)) for score in (float("nan"), float("inf"), -1e7, 1e38)},
    **{f"kind {kind}": whole(words=piece(b"a", 0.0, kind)) for kind in (0, 3, 4, 5, 7, 2**32 + 1, 2**64 - 1)},
    "a word without score": whole(words=a_field(1, a_field(1, b"a"))),
    "a word without text": whole(words=a_field(1, a_field(2, 0.0))),
    "two texts in a word": whole(words=a_field(1, a_field(1, b"a") + a_field(1, b"b") + a_field(2, 0.0))),
    "something else in a word": whole(words=a_field(1, a_field(1, b"a") + a_field(2, 0.0) + a_field(4, 1))),
    "a score written as an integer": whole(words=a_field(1, a_field(1, b"a") + a_field(2, 1))),
    **{f"model type {kind}": whole(trainer=a_field(3, kind) + a_field(35, 1)) for kind in (0, 3, 4, 2**32 + 1)},
    "two model types": whole(trainer=TRAINER + a_field(3, 2)),
    "no trainer": whole(trainer=b""),
    "no byte fallback": whole(trainer=a_field(3, 1) + a_field(35, 0)),
    "white space as suffix": whole(trainer=TRAINER + a_field(24, 1)),
    "another unknown id": whole(trainer=a_field(3, 1) + a_field(35, 1) + a_field(40, 1)),
    "an extension": whole(trainer=TRAINER + a_field(200, b"x")),
    "no normalizer": whole(normalizer=b""),
    "another normalizer": whole(normalizer=NORMALIZER.replace(b"identity", b"nmt_nfkc")),
    "a map of characters": whole(normalizer=NORMALIZER.replace(a_field(2, b""), a_field(2, b"\x08\0\0\0abcdefgh"))),
    "a second map of characters": whole(normalizer=NORMALIZER + a_field(2, b"\x08\0\0\0abcdefgh")),
    "rules": whole(normalizer=NORMALIZER + a_field(6, b"a\tb")),
    "a dummy prefix": whole(normalizer=NORMALIZER.replace(a_field(3, 0), a_field(3, 1))),
    "white space removed": whole(normalizer=NORMALIZER.replace(a_field(4, 0), a_field(4, 1))),
    "spaces not escaped": whole(normalizer=NORMALIZER + a_field(5, 0)),
    "something else to normalise": whole(normalizer=NORMALIZER + a_field(7, 1)),
    "a second trainer": whole(end=a_field(2, TRAINER)),
    "a second normalizer": whole(end=a_field(3, a_field(2, b"\x08\0\0\0abcdefgh"))),
    "a self-test": whole(end=a_field(4, a_field(1, a_field(1, b"a")))),
    "a denormalizer": whole(end=a_field(5, a_field(2, b"\x08\0\0\0abcdefgh"))),
    "an unknown part": whole(end=a_field(200, b"x")),
    "a group": whole(end=integer(2 * 8 + 3) + integer(2 * 8 + 4)),
    "eight bytes": whole(end=integer(2 * 8 + 1) + b"x" * 8),
    "field 0": whole(end=a_field(0, b"")),
    "a length beyond the end": whole(end=integer(10) + integer(2**63)),
    "a number of eleven bytes": whole(end=b"\x8a" + b"\x80" * 9 + b"\x01"),
    "a number that is too large": whole(end=b"\x8a" + b"\x80" * 8 + b"\x7f"),
    "a number written longer than it need be": whole(end=b"\x8a\x00\x00"),
    "a tag cut short": whole(end=b"\x8a"),
    "too many words": whole(words=b"".join(piece(f"w{n}".encode()) for n in range(65_600))),
    "too large": whole(trainer=TRAINER + a_field(7, b"x" * LARGEST_MODEL)),
}


@pytest.mark.fault(34)
@pytest.mark.parametrize("name", REFUSED)
def test_whatever_training_could_not_have_written_is_refused(name: str) -> None:
    with pytest.raises(CheckpointError, match="SentencePiece model"):
        restore_tokenizer(TokenizerState({"kind": "sentencepiece"}, REFUSED[name]))


def test_unused_training_options_are_accepted() -> None:
    check_model(whole(trainer=TRAINER + a_field(1, b"corpus.txt") + a_field(36, 1)))


def flip(data: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(data))
    return data[:place] + bytes([data[place] ^ (1 << rng.randrange(8))]) + data[place + 1 :]


def cut(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data))]


def swap(data: bytes, rng: random.Random) -> bytes:
    """A stretch stands where another stood, or once more."""
    begin, to, size = rng.randrange(len(data)), rng.randrange(len(data)), rng.randrange(1, 60)
    return data[:to] + data[begin : begin + size] + data[to + size * rng.randrange(2) :]


def number(data: bytes, rng: random.Random) -> bytes:
    """A huge number, or a small one, stands somewhere."""
    place = rng.randrange(len(data))
    put = integer(rng.choice([0, 1, 127, 128, 2**31, 2**32 - 1, 2**63, 2**64 - 1, rng.randrange(2**20)]))
    return data[:place] + put + data[place + rng.randrange(len(put) + 1) :]


def letters(data: bytes, rng: random.Random) -> bytes:
    """Bytes of words and scores: what most probably still passes."""
    place = rng.randrange(len(data))
    return data[:place] + bytes(rng.choice(b"abc \xe2\x96\x81\xc0\xff<>0x") for _ in range(3)) + data[place + 3 :]


MUTATIONS: tuple[Callable[[bytes, random.Random], bytes], ...] = (flip, cut, swap, number, letters)
PROBES = (
    "",
    "the kitten sleeps under 14 bridges",
    "é\u2581 \0\n<0x41> \U0001f600 \ufeff",
    "aaaa" * 200,
    "\u202e \r\n" * 20,
)


def used(data: bytes) -> None:
    """What charlm does with a model."""
    tokenizer = restore_tokenizer(TokenizerState({"kind": "sentencepiece"}, data))
    for text in PROBES:
        encoded = tokenizer.encode(text)
        assert all(0 <= token < tokenizer.size for token in encoded.ids.tolist())
        assert tokenizer.decode(encoded) == text


@pytest.mark.fault(34)
@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_models_changed_at_random_are_refused_or_work(
    kind: str, tries: Tries, many: Callable[[int, int], int], rng: random.Random
) -> None:
    start = model(kind)
    inputs = []
    for _ in range(many(500, 5000)):
        data = start
        for _ in range(rng.choice([1, 1, 1, 2, 5])):
            data = rng.choice(MUTATIONS)(data, rng) or b"\0"
        inputs.append(data)
    tries.survived(survives(inputs, used, size=len, allowed=(CheckpointError,)))


@pytest.mark.fault(34)
def test_some_changed_models_do_reach_the_library(rng: random.Random) -> None:
    passed = 0
    for _ in range(400):
        try:
            check_model(rng.choice([flip, letters])(model("unigram"), rng))
        except CheckpointError:
            continue
        passed += 1
    assert passed > 20
