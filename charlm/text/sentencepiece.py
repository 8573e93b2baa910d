"""SentencePiece as a lossless tokenizer: decoding the ids gives every text back exactly."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import chain
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from charlm.errors import CheckpointError, ConfigError, DataError
from charlm.runtime import limits
from charlm.text.pieces import check_model
from charlm.text.stored import Text
from charlm.text.tokenizer import NOTHING, Encoded, Tokenizer, TokenizerState, utf8

_SPACE_MARK: Final = re.compile("(\u2581+)")
_RUN: Final = 1000  # characters without a space, beyond which probabilities may not be finite
_WORD: Final = re.compile("[^ ]+")
_END: Final = re.compile("([\n\x03])")
_BYTEWISE: Final = re.compile("[\n\x03]|\u2581+")
_PARALLEL: Final = 2**18  # bytes from which several threads encode
_SAMPLE: Final = 2**23  # characters that a model is learned from,
_PIECES: Final = 64  # in so many pieces of a longer text, evenly spread
_UNSAFE: Final = re.compile("[\u2581\0\x03]+|(?<=<)(?=unk>|0x[0-9A-F]{2}>)")


class SentencePieceTokenizer(Tokenizer):
    """Pieces of a SentencePiece model (Kudo and Richardson 2018), encoded so that every text can be decoded exactly.

    1. The model is trained without normalisation, with white space kept, and with a byte piece for each of the 256
       bytes to fall back on.
    2. A text is encoded line by line and record by record, so that ids do not depend on how it is divided into blocks.
       A line end is always the byte piece <0x0A>, and the end of a record (U+0003) is <0x03>.
    3. SentencePiece writes a space as U+2581 and would decode a literal U+2581 as a space. Each run of that character
       is therefore encoded as byte pieces: "a b\u2581c" is split into "a b", "\u2581" and "c", and the middle part
       becomes <0xE2> <0x96> <0x81>.
    4. The pieces of each part are compared with its UTF-8 bytes. If they differ for any other reason, such as a NUL,
       the part is encoded as byte pieces too.
    """

    kind = "sentencepiece"
    options = ("vocab_size", "sentencepiece")
    by_line = True

    def __init__(self, model: bytes) -> None:
        check_model(model)  # before the library parses it, which does not check it
        from sentencepiece import SentencePieceProcessor

        self._model = model
        try:
            self._processor: Any = SentencePieceProcessor(model_proto=model)
            self.size = int(self._processor.get_piece_size())
        except RuntimeError as error:
            raise CheckpointError("the SentencePiece model in the checkpoint cannot be read") from error
        self._byte_ids = [int(self._processor.piece_to_id(f"<0x{value:02X}>")) for value in range(256)]
        self._byte_table = np.array(self._byte_ids, dtype=np.int32)

    @classmethod
    def train(
        cls,
        text: Text,
        vocab_size: int = 0,
        sentencepiece: str = "unigram",
        **options: Any,  # noqa: ARG003
    ) -> SentencePieceTokenizer:
        """A model trained on a text; raises DataError or ConfigError where the library cannot train one.

        Where unigram cannot learn from a text, such as one character repeated 8 to 54 times, BPE learns instead, and
        `remarks` says so.
        A text on the disk is learned from by a sample, of which `remarks` speaks, too.
        """
        if not isinstance(text, str):
            tokenizer = cls.train(_sample(text), vocab_size, sentencepiece)
            learned = f"the vocabulary was learned from a sample of {_SAMPLE:,} of the text's {len(text):,} characters"
            tokenizer.remarks = (*tokenizer.remarks, learned) if len(text) > _SAMPLE else tokenizer.remarks
            return tokenizer
        if not any(line.strip("\r") for line in _safe_lines(text)):
            raise DataError(
                "sentencepiece cannot learn from this text, which consists only of line ends",
                kept="nothing was written",
                hint="use --tokenizer char",
            )
        try:
            return cls(_learned(text, vocab_size, sentencepiece))
        except RuntimeError as error:
            required = 257 + len(set(text))
            if vocab_size < required and "vocab_size" in str(error):
                raise ConfigError(
                    f"--vocab-size {vocab_size} is too small: this text's characters and the 256 bytes need {required}",
                    kept="nothing was written",
                    hint=f"leave it out, or use --vocab-size {required} or more",
                ) from error
            if sentencepiece == "unigram":
                return cls._fallen_back(text, vocab_size, error)
            raise DataError(
                f"sentencepiece cannot learn from this text; it says: {_words(error)}",
                kept="nothing was written",
                hint="use --tokenizer char or byte",
            ) from error

    @classmethod
    def _fallen_back(cls, text: str, vocab_size: int, error: RuntimeError) -> SentencePieceTokenizer:
        tokenizer = cls.train(text, vocab_size, "bpe")
        why = f"SentencePiece's unigram algorithm cannot learn from this text ({_words(error)})"
        tokenizer.remarks = (f"{why}; its BPE algorithm was used instead",)
        return tokenizer

    @cached_property
    def pieces(self) -> Sequence[bytes]:
        names = [str(self._processor.id_to_piece(i)) for i in range(self.size)]
        pieces = [
            b"" if self._processor.is_control(i) or self._processor.is_unknown(i) else _unspace(names[i])
            for i in range(self.size)
        ]
        for value, token in enumerate(self._byte_ids):
            pieces[token] = bytes([value])
        return pieces

    def encode(self, text: str) -> Encoded:
        """Ids [N] of a text; nothing is ever escaped. Raises DataError for lone surrogates."""
        parts = _END.split(text)
        if "\u2581" in text:
            parts = [part for line in parts for part in _SPACE_MARK.split(line)]
        plain = [part for part in parts if part and not _BYTEWISE.fullmatch(part)]
        found = iter(self._encode_parts(plain))
        ids: list[NDArray[np.int32]] = [NOTHING]
        for part in filter(None, parts):
            ids.append(self._bytewise(utf8(part)) if _BYTEWISE.fullmatch(part) else next(found))
        return Encoded(np.concatenate(ids), NOTHING)

    def _encode_parts(self, parts: list[str]) -> Iterator[NDArray[np.int32]]:
        """The ids of each of these parts, which have no end and no U+2581; on all processors where they are many."""
        if not parts:
            return
        raws = [utf8(part) for part in parts]
        many = sum(map(len, raws)) >= _PARALLEL
        encoded = self._processor.encode(parts, out_type=int, num_threads=limits.threads().amount if many else 1)
        flat = np.fromiter(chain.from_iterable(encoded), np.int32, sum(map(len, encoded)))
        parted = np.split(flat, np.cumsum(list(map(len, encoded)))[:-1])
        exact = self._spell(flat, b"".join(raws)) and self._lengths(parted) == list(map(len, raws))
        for raw, ids in zip(raws, parted, strict=True):
            yield ids if exact or self._spell(ids, raw) else self._bytewise(raw)

    def _spell(self, ids: NDArray[np.int32], raw: bytes) -> bool:
        """Whether these ids spell these bytes; with one look-up, since there may be millions."""
        spelled, begins, lengths = self._spelling
        ends = np.cumsum(lengths[ids])
        if not len(ids) or ends[-1] != len(raw):
            return False
        places = np.repeat(begins[ids] - ends + lengths[ids], lengths[ids])
        places += np.arange(len(raw))
        return bool((spelled[places] == np.frombuffer(raw, dtype=np.uint8)).all())

    def _lengths(self, parts: Sequence[NDArray[np.int32]]) -> list[int]:
        """How many bytes the ids of each part spell."""
        ends = np.concatenate([[0], np.cumsum(self._spelling[2][np.concatenate(parts)])])
        edges = np.cumsum([0, *map(len, parts)])
        return [*map(int, np.diff(ends[edges]))]

    @cached_property
    def _spelling(self) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]:
        """The bytes of all pieces, and where each begins among them and how many they are [V]."""
        lengths = np.array(list(map(len, self.pieces)), dtype=np.int64)
        return np.frombuffer(b"".join(self.pieces), dtype=np.uint8), np.cumsum(lengths) - lengths, lengths

    def _bytewise(self, raw: bytes) -> NDArray[np.int32]:
        return self._byte_table[np.frombuffer(raw, dtype=np.uint8)]

    def state(self) -> TokenizerState:
        return TokenizerState({"kind": self.kind}, self._model)

    @classmethod
    def restore(cls, state: TokenizerState) -> SentencePieceTokenizer:
        return cls(state.model)


def _sample(text: Text) -> str:
    """Pieces of a text, evenly spread, which begin and end with lines where they can; a short text as a whole."""
    if len(text) <= _SAMPLE:
        return str(text)
    size = _SAMPLE // _PIECES
    begins = [(len(text) - size) * number // (_PIECES - 1) for number in range(_PIECES)]
    return "\n".join(_whole_lines(text[begin : begin + size]) for begin in begins)


def _whole_lines(piece: str) -> str:
    lines = piece.split("\n")
    return "\n".join(lines[1:-1] if len(lines) > 2 else lines)


def _unspace(piece: str) -> bytes:
    return piece.replace("\u2581", " ").encode()


def _learned(text: str, vocab_size: int, algorithm: str) -> bytes:
    """A SentencePiece model; raises RuntimeError where the library does."""
    from sentencepiece import SentencePieceTrainer

    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(_safe_lines(text)),
        model_writer=model,
        model_type=algorithm,
        vocab_size=vocab_size,
        hard_vocab_limit=False,
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        byte_fallback=True,
        character_coverage=1.0,
        max_sentence_length=2**30,
        num_threads=1,
        unk_id=0,
        bos_id=-1,
        eos_id=-1,
        pad_id=-1,
        minloglevel=2,
    )
    return model.getvalue()


def _words(error: RuntimeError) -> str:
    """What the library says, on one line and without its beginning, which never changes."""
    return " ".join(str(error).removeprefix("INTERNAL: ").split())


def _safe_lines(text: str) -> Iterable[str]:
    """The parts of a text that SentencePiece may learn from.

    Lines are split at U+2581, its mark for a space; at NUL, which it cannot represent; at the end of a record, U+0003;
    inside the names of its own special pieces, such as <unk>, which it would skip; and wherever 1,000 characters pass
    without a space, as in DNA or Chinese without line ends, of which it takes the probability as a whole.
    """
    lines = (part for line in text.split("\n") for part in _short_runs(line))
    return (part for line in lines for part in _UNSAFE.split(line) if part)


def _short_runs(line: str) -> list[str]:
    """
    >>> [len(part) for part in _short_runs("x" * 1500 + " y " + "z" * 1000)]
    [1000, 1503]
    """
    if len(line) <= _RUN:
        return [line]
    return _WORD.sub(lambda run: "\n".join(run[0][k : k + _RUN] for k in range(0, len(run[0]), _RUN)), line).split("\n")
