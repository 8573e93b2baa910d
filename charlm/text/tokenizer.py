"""Text to token ids and back, exactly: decode(encode(text)) == text for every text of Unicode scalar values.

There are three kinds of tokenizer with one interface. Token ids lie in 0..size-1. Two more ids occur only as *inputs*:

    size        start: read before the first token; never predicted
    size + 1    unseen: a character outside the vocabulary (character tokenizers only). The characters themselves are
                kept beside the ids, in order

A character vocabulary is that of the training text, so unseen characters need an escape probability (Good 1953; Katz
1987). With n1 of the N training characters seen exactly once, e = (n1 + 1/2) / (N + 1), and

    P(c) = (1 - e) softmax(c)           for a character c in the vocabulary V
    P(c) = e / (1112064 - |V|)          for every other Unicode scalar value

For example "hello" has N = 5 and n1 = 3 (h, e, o), so e = 3.5 / 6. Bytes and SentencePiece pieces (with byte fallback)
can spell every text, so their e is 0.

This module knows nothing of files, models or probabilities of tokens.
"""

from __future__ import annotations

import codecs
import hashlib
import json
import math
import reprlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Final, overload

import numpy as np
from numpy.typing import NDArray

from charlm.config import TOKENIZERS, DataConfig
from charlm.errors import CheckpointError, DataError
from charlm.text.store import stored_ids
from charlm.text.stored import StoredIds, StoredText, Text, blocks_of, lengths_in_utf8, line_blocks

SCALARS: Final = 0x110000 - 0x800  # Unicode scalar values: all code points but the surrogates
Ids = NDArray[np.int32]

_AT_ONCE: Final = 2**18  # characters that become bytes while they are in a processor's cache


@dataclass(frozen=True, slots=True)
class Encoded:
    """A text as ids [N], and the code points of its unseen characters [number of unseen ids], in order."""

    ids: Ids
    escaped: Ids


@dataclass(frozen=True, slots=True)
class TokenizerState:
    """A tokenizer as a checkpoint stores it: a table for JSON, and the bytes of a SentencePiece model, if any."""

    table: Mapping[str, Any]
    model: bytes = b""


class Tokenizer(ABC):
    """Text to ids and back. A new tokenizer is a subclass, and a line in `charlm.config.TOKENIZERS`."""

    kind: ClassVar[str]  # its name there
    options: ClassVar[tuple[str, ...]] = ()  # the options of `charlm.config.DataConfig` that `train` takes
    one_per_character: ClassVar[bool] = False  # whether every token is a character
    by_line: ClassVar[bool] = False  # whether it encodes a text line by line, and learns from one on the disk
    size: int
    escape: float = 0.0
    remarks: tuple[str, ...] = ()  # what a user should know of how it was learned

    @property
    def start(self) -> int:
        """The id of the start input."""
        return self.size

    @property
    def unseen(self) -> int:
        """The id of a character outside the vocabulary."""
        return self.size + 1

    @property
    def known_nats(self) -> float:
        """What the escape adds to the negative log-likelihood of every known token: -ln(1 - e), in nats."""
        return -math.log1p(-self.escape)

    @property
    def unseen_nats(self) -> float:
        """The negative log-likelihood of an unseen character: -ln(e / (1112064 - |V|)), in nats."""
        others = SCALARS - self.size
        return math.log(others / self.escape) if self.escape and others else math.inf

    @property
    @abstractmethod
    def pieces(self) -> Sequence[bytes]:
        """The UTF-8 bytes of each id [V]; a token may be part of a character."""

    @abstractmethod
    def encode(self, text: str) -> Encoded:
        """The ids of a text; raises DataError for a lone surrogate, which is not Unicode text."""

    def encode_stored(self, text: StoredText) -> Iterator[NDArray[np.integer[Any]]]:
        """The ids of a text on the disk, in blocks."""
        blocks = line_blocks(text) if self.by_line else iter([str(text)])
        return (self.encode(block).ids for block in blocks)

    def decode(self, encoded: Encoded) -> str:
        """The inverse of `encode`; ids that do not form valid UTF-8 give U+FFFD."""
        return b"".join([self.pieces[i] for i in encoded.ids]).decode("utf-8", "replace")

    @abstractmethod
    def state(self) -> TokenizerState:
        """What `restore` needs to make an equal tokenizer."""

    @classmethod
    @abstractmethod
    def train(cls, text: str, **options: Any) -> Tokenizer:
        """The tokenizer for a training text; `options` are those that the class lists."""

    @classmethod
    @abstractmethod
    def restore(cls, state: TokenizerState) -> Tokenizer:
        """The inverse of `state`; raises CheckpointError for anything that `state` could not have returned."""

    def adapt(self, text: Text) -> Tokenizer:  # noqa: ARG002 - most vocabularies cover every text
        """The tokenizer for a model that is fine-tuned on this text."""
        return self


@dataclass(frozen=True, slots=True)
class Tokens:
    """The ids of a text [N], with the counts that its score is divided by."""

    ids: Ids
    characters: int
    bytes: int
    words: int  # white-space-separated runs and line ends
    escaped: Ids  # the code points of characters that are not in the vocabulary, in order

    @property
    def unknown_characters(self) -> int:
        """How many those are."""
        return len(self.escaped)


@dataclass(frozen=True, slots=True)
class StoredTokens:
    """The same of a text on the disk; ids are read from there as they are needed."""

    ids: StoredIds
    characters: int
    bytes: int
    words: int
    unknown_characters: int


@overload
def tokenize(tokenizer: Tokenizer, text: str) -> Tokens: ...


@overload
def tokenize(tokenizer: Tokenizer, text: StoredText) -> StoredTokens: ...


@overload
def tokenize(tokenizer: Tokenizer, text: Text) -> Tokens | StoredTokens: ...


def tokenize(tokenizer: Tokenizer, text: Text) -> Tokens | StoredTokens:
    """A text's ids and counts.

    >>> tokens = tokenize(CharTokenizer.train("to be"), "to be\\n")
    >>> tokens.characters, tokens.words, tokens.unknown_characters
    (6, 3, 1)
    """
    if isinstance(text, StoredText):
        return _tokenize_stored(tokenizer, text)
    encoded = tokenizer.encode(text)
    words = len(text.split()) + text.count("\n")
    return Tokens(encoded.ids, len(text), len(utf8(text)), words, encoded.escaped)


def _tokenize_stored(tokenizer: Tokenizer, text: StoredText) -> StoredTokens:
    """A stored text's ids: its own numbers through a table where tokens are characters, or ids stored beside them."""
    if tokenizer.one_per_character:
        known = tokenizer.encode("".join(map(chr, text.alphabet))).ids
        ids = text.codes.through(np.concatenate([[tokenizer.unseen], known]).astype(np.int32))
        unknown = int(text.counts[known == tokenizer.unseen].sum())
    else:
        name = f"{_digest(tokenizer)}-{text.codes.name}"
        ids, unknown = stored_ids(text, name, tokenizer.encode_stored(text), tokenizer.size), 0
    return StoredTokens(ids, len(text), text.bytes, text.words or 0, unknown)


def _digest(tokenizer: Tokenizer) -> str:
    """A name for what this tokenizer does."""
    state = tokenizer.state()
    return hashlib.sha256(json.dumps(dict(state.table), sort_keys=True).encode() + state.model).hexdigest()[:16]


class Stream:
    """Decodes a stream of tokens piece by piece; bytes that are not UTF-8 become U+FFFD.

    >>> stream = Stream(ByteTokenizer())
    >>> [stream.push(byte) for byte in "é!".encode()], stream.close()
    (['', 'é', '!'], '')
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._pieces = tokenizer.pieces
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        """The characters that this token completes, perhaps none."""
        return self._decoder.decode(self._pieces[token])

    def close(self) -> str:
        """U+FFFD if the stream ended inside a character, else nothing."""
        return self._decoder.decode(b"", final=True)


class CharTokenizer(Tokenizer):
    """One token per character (code point); the vocabulary is that of the training text, in code point order.

    >>> tokenizer = CharTokenizer.train("hello")
    >>> tokenizer.vocabulary, tokenizer.escape == 3.5 / 6
    ('ehlo', True)
    >>> encoded = tokenizer.encode("help")
    >>> encoded.ids.tolist(), encoded.escaped.tolist() == [ord("p")]
    ([1, 0, 2, 5], True)
    >>> tokenizer.decode(encoded)
    'help'
    """

    kind = "char"
    one_per_character = True
    by_line = True

    def __init__(self, vocabulary: str, once: int, total: int) -> None:
        self.vocabulary = vocabulary
        self.size = len(vocabulary)
        self._once, self._total = once, total
        self.escape = (once + 0.5) / (total + 1)
        self._code_points = _code_points(vocabulary)
        self._id_of = np.full(0x110000, self.unseen, dtype=np.int32)
        self._id_of[self._code_points] = np.arange(self.size, dtype=np.int32)

    @classmethod
    def train(cls, text: Text, **options: Any) -> CharTokenizer:  # noqa: ARG003 - it has no options
        counts = Counter(text) if isinstance(text, str) else text.count()
        once = sum(count == 1 for count in counts.values())
        return cls("".join(sorted(counts)), once, len(text))

    @cached_property
    def pieces(self) -> Sequence[bytes]:
        return [character.encode() for character in self.vocabulary]

    def encode(self, text: str) -> Encoded:
        points = _code_points(text)
        ids = self._id_of[points]
        return Encoded(ids, points[ids == self.unseen])

    def decode(self, encoded: Encoded) -> str:
        known = np.append(self._code_points, [0, 0]).astype(np.int32)  # start never occurs, unseen is replaced
        points = known[encoded.ids]
        points[encoded.ids == self.unseen] = encoded.escaped
        return points.astype("<u4").tobytes().decode("utf-32-le")

    def state(self) -> TokenizerState:
        return TokenizerState(
            {"kind": self.kind, "vocabulary": self.vocabulary, "once": self._once, "total": self._total}
        )

    @classmethod
    def restore(cls, state: TokenizerState) -> CharTokenizer:
        match state.table:
            case {"vocabulary": str(vocabulary), "once": int(once), "total": int(total)}:
                return _restore_characters(vocabulary, once, total)
        raise CheckpointError("the checkpoint lacks the vocabulary or its counts")

    def adapt(self, text: Text) -> CharTokenizer:
        return self.train(text)


class ByteTokenizer(Tokenizer):
    """One token per byte of UTF-8; there are 256 for every text."""

    kind = "byte"
    by_line = True
    size = 256

    @cached_property
    def pieces(self) -> Sequence[bytes]:
        return [bytes([value]) for value in range(256)]

    def encode(self, text: str) -> Encoded:
        return Encoded(np.frombuffer(utf8(text), dtype=np.uint8).astype(np.int32), NOTHING)

    def encode_stored(self, text: StoredText) -> Iterator[NDArray[np.uint8]]:
        return (np.frombuffer(utf8(block), dtype=np.uint8) for block in blocks_of(text, _AT_ONCE))

    def state(self) -> TokenizerState:
        return TokenizerState({"kind": self.kind})

    @classmethod
    def train(cls, text: Text, **options: Any) -> ByteTokenizer:  # noqa: ARG003 - there is nothing to learn
        return cls()

    @classmethod
    def restore(cls, state: TokenizerState) -> ByteTokenizer:  # noqa: ARG003 - there is nothing to restore
        return cls()


NOTHING: Final = np.zeros(0, dtype=np.int32)


def train_tokenizer(data: DataConfig, text: Text) -> Tokenizer:
    """The tokenizer of these options for a training text [characters]."""
    kind: type[Tokenizer] = TOKENIZERS[data.tokenizer]
    learn: Callable[..., Tokenizer] = kind.train
    return learn(text if kind.by_line else str(text), **{name: getattr(data, name) for name in kind.options})


def restore_tokenizer(state: TokenizerState) -> Tokenizer:
    """The inverse of `Tokenizer.state`; raises CheckpointError for anything that it could not have returned."""
    kind = state.table.get("kind")
    if not isinstance(kind, str) or kind not in TOKENIZERS:
        raise CheckpointError(f"the checkpoint has a tokenizer of an unknown kind, {reprlib.repr(kind)}")
    tokenizer: Tokenizer = TOKENIZERS[kind].restore(state)
    return tokenizer


def _restore_characters(vocabulary: str, once: int, total: int) -> CharTokenizer:
    try:
        points = _code_points(vocabulary) if len(vocabulary) <= SCALARS else NOTHING
    except DataError as error:
        raise CheckpointError(f"the checkpoint's vocabulary cannot be used: {error}") from error
    if not len(points) or not (np.diff(points) > 0).all():
        raise CheckpointError("the checkpoint's vocabulary is not a sorted set of characters")
    if not len(points) <= total < 2**63 or not 0 <= once <= len(points):
        raise CheckpointError("the checkpoint's character counts contradict its vocabulary")
    return CharTokenizer(vocabulary, once, total)


def _code_points(text: str) -> Ids:
    try:
        return np.frombuffer(text.encode("utf-32-le"), dtype="<u4").astype(np.int32)
    except UnicodeEncodeError as error:
        raise _surrogate(error) from error


def utf8(text: str) -> bytes:
    """A text as UTF-8; raises DataError for a lone surrogate."""
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise _surrogate(error) from error


def _surrogate(error: UnicodeEncodeError) -> DataError:
    return DataError(f"the text has a lone surrogate at character {error.start}, so it is not Unicode text")


def utf8_sizes(text: str) -> NDArray[np.int64]:
    """The number of UTF-8 bytes of each character of a text [C].

    >>> utf8_sizes("aé…🙂").tolist()
    [1, 2, 3, 4]
    """
    return lengths_in_utf8(np.frombuffer(text.encode("utf-32-le"), dtype="<u4"))
