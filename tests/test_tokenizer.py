"""Every text is decoded exactly, by every tokenizer; the escape is that of the definition."""

from __future__ import annotations

import io
import json
import math
import random
from collections import Counter
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sentencepiece import SentencePieceTrainer

import charlm
from charlm.config import DataConfig
from charlm.errors import CheckpointError, ConfigError, DataError
from charlm.keywords import TrainOptions
from charlm.text.sentencepiece import SentencePieceTokenizer, _safe_lines
from charlm.text.tokenizer import (
    ByteTokenizer,
    CharTokenizer,
    Encoded,
    Stream,
    Tokenizer,
    TokenizerState,
    restore_tokenizer,
    tokenize,
    train_tokenizer,
)
from charlm.training.events import Event, Remark

PROFILE = settings(derandomize=True, deadline=None, max_examples=150, database=None)
TEXT = "".join(
    f"The {size} {animal} sleeps under the {place}, while another {animal} is watching the {place}.\n"
    for size, animal, place in product(
        ("little", "old", "ﬁne"), ("kitten", "squirrel", "élan"), ("bridge", "window", "chestnut tree")
    )
)
KINDS = ("char", "byte", "unigram", "bpe")
AWKWARD = (
    *["", "\0", "a\0b\0", "\u2581", "the\u2581\u2581 \u2581kitten", "\r\n", "one\r\ntwo\rthree\n\r", "\ufeffThe"],
    *["\n", "\n\n\n", "<s></s><unk><pad>", "<0x41><0x0A>\n<0xFF>", "  The little  ", "\tThe\t\tkitten\t"],
    *["a\u2028b\u2029c\x85d\x0be\x0cf", "ﬁ Ａ ① ½ \u00a0\u3000\u200b\u00ad", "\ud7ff\ue000\uffff\U0010ffff"],
    *["e\u0301\u0323 ạ̈", "\U0001f468\u200d\U0001f469\u200d\U0001f467", "\U0001f3f3\ufe0f\u200d\U0001f308", "\ufffd"],
    "squirrel " * 4000,
)
WORDS = st.one_of(st.text(max_size=8), st.sampled_from(AWKWARD), st.sampled_from(TEXT.split(" ")))
TEXTS = st.lists(WORDS).map("".join)


@cache
def trained(kind: str) -> Tokenizer:
    if kind in ("char", "byte"):
        return train_tokenizer(DataConfig(tokenizer=kind), TEXT)
    return train_tokenizer(DataConfig(tokenizer="sentencepiece", vocab_size=330, sentencepiece=kind), TEXT)


def joined(tokenizer: Tokenizer, ids: list[int]) -> bytes:
    return b"".join(tokenizer.pieces[i] for i in ids)


@pytest.mark.parametrize("kind", KINDS)
@PROFILE
@given(text=TEXTS)
def test_decoding_reproduces_every_text(kind: str, text: str) -> None:
    assert trained(kind).decode(trained(kind).encode(text)) == text


@pytest.mark.parametrize("text", [*AWKWARD, TEXT])
@pytest.mark.parametrize("kind", KINDS)
def test_decoding_reproduces_awkward_texts(kind: str, text: str) -> None:
    assert trained(kind).decode(trained(kind).encode(text)) == text


@pytest.mark.parametrize("kind", KINDS[1:])
@PROFILE
@given(text=TEXTS)
def test_pieces_of_a_text_join_to_its_bytes_and_nothing_is_escaped(kind: str, text: str) -> None:
    encoded = trained(kind).encode(text)
    assert joined(trained(kind), encoded.ids.tolist()) == text.encode()
    assert len(encoded.escaped) == 0


@PROFILE
@given(text=TEXTS)
def test_characters_take_one_id_each_and_bytes_are_their_own_ids(text: str) -> None:
    vocabulary = sorted(set(TEXT))
    expected = [vocabulary.index(c) if c in vocabulary else len(vocabulary) + 1 for c in text]
    encoded = trained("char").encode(text)
    assert encoded.ids.tolist() == expected
    assert "".join(map(chr, encoded.escaped)) == "".join(c for c in text if c not in vocabulary)
    assert trained("byte").encode(text).ids.tolist() == list(text.encode())


@PROFILE
@given(text=st.text(min_size=1))
def test_character_vocabulary_is_what_training_shows_in_order(text: str) -> None:
    tokenizer = CharTokenizer.train(text)
    assert tokenizer.vocabulary == "".join(sorted(set(text)))
    assert tokenizer.pieces == [c.encode() for c in sorted(set(text))]
    assert (tokenizer.size, tokenizer.start, tokenizer.unseen) == (len(set(text)), len(set(text)), len(set(text)) + 1)


def test_escape_of_hello_by_hand() -> None:
    tokenizer = CharTokenizer.train("hello")  # h, e and o are seen once among five characters
    e = 3.5 / 6
    assert tokenizer.escape == pytest.approx(e, abs=1e-15)
    assert tokenizer.known_nats == pytest.approx(-math.log(1 - e), abs=1e-15)
    assert tokenizer.unseen_nats == pytest.approx(-math.log(e / (1_112_064 - 4)), abs=1e-12)


@PROFILE
@given(text=st.text(min_size=1))
def test_escape_is_good_turing_and_its_mass_is_shared_by_all_other_characters(text: str) -> None:
    tokenizer = CharTokenizer.train(text)
    once = list(Counter(text).values()).count(1)
    assert tokenizer.escape == pytest.approx((once + 0.5) / (len(text) + 1), rel=1e-12)
    others = 0x110000 - 2048 - len(set(text))
    assert others * math.exp(-tokenizer.unseen_nats) == pytest.approx(tokenizer.escape, rel=1e-9)
    assert math.exp(-tokenizer.known_nats) + tokenizer.escape == pytest.approx(1, rel=1e-12)


@pytest.mark.parametrize("kind", KINDS[1:])
def test_what_covers_every_text_needs_no_escape(kind: str) -> None:
    assert (trained(kind).escape, trained(kind).known_nats, trained(kind).unseen_nats) == (0, 0, math.inf)


def test_unseen_characters_are_kept_beside_the_ids_in_order() -> None:
    encoded = CharTokenizer.train("hello").encode("zéhé")
    assert encoded.ids.tolist() == [5, 5, 1, 5]
    assert "".join(map(chr, encoded.escaped)) == "zéé"


@pytest.mark.parametrize("text", ["\ud800", "abc\udfff", "\udc41\ud83d"])
@pytest.mark.parametrize("kind", KINDS)
def test_lone_surrogates_are_refused(kind: str, text: str) -> None:
    with pytest.raises(DataError, match=f"surrogate at character {3 if text[0] == 'a' else 0}"):
        trained(kind).encode(text)
    with pytest.raises(DataError, match="surrogate"):
        tokenize(trained(kind), text)


@pytest.mark.parametrize("kind", KINDS)
def test_a_tokenizer_is_restored_from_its_state(kind: str) -> None:
    state = trained(kind).state()
    again = restore_tokenizer(TokenizerState(json.loads(json.dumps(dict(state.table))), state.model))
    assert again.state() == state
    assert (again.size, again.escape) == (trained(kind).size, trained(kind).escape)
    assert list(again.pieces) == list(trained(kind).pieces)
    for text in AWKWARD:
        assert again.encode(text).ids.tolist() == trained(kind).encode(text).ids.tolist()


GOOD = {"kind": "char", "vocabulary": "abc", "once": 1, "total": 9}


@pytest.mark.parametrize(
    "table",
    [
        *({name: value for name, value in GOOD.items() if name != missing} for missing in GOOD),
        {},
        *({**GOOD, "kind": kind} for kind in ("words", None)),
        {**GOOD, "vocabulary": "acb"},
        {**GOOD, "vocabulary": "aab"},
        {**GOOD, "vocabulary": ""},
        {**GOOD, "vocabulary": "ab\ud800"},
        *({**GOOD, "once": once} for once in (10, 4, -1, 1.5, "1", "many", None)),
        *({**GOOD, "vocabulary": other} for other in (["a", "b"], None, "abc" * 10**6)),
        *({**GOOD, "total": other} for other in (2, -1, 2**63, "9", 9.0, None)),
        {**GOOD, "once": 10**400, "total": 10**401},
        {**GOOD, "total": math.inf},
        {**GOOD, "total": math.nan},
    ],
)
def test_broken_tables_are_refused(table: dict[str, object]) -> None:
    assert restore_tokenizer(TokenizerState(GOOD)).size == 3
    with pytest.raises(CheckpointError):
        restore_tokenizer(TokenizerState(table))


def test_broken_sentencepiece_models_are_refused_without_noise(capfd: pytest.CaptureFixture[str]) -> None:
    whole = trained("bpe").state().model
    for model in (b"", b"\0" * 99, b"no model at all " * 20, whole[: len(whole) // 2], whole[7:]):
        with pytest.raises(CheckpointError, match="SentencePiece model"):
            restore_tokenizer(TokenizerState({"kind": "sentencepiece"}, model))
    assert capfd.readouterr().err == ""  # the library, which is talkative, has not seen them


@pytest.mark.parametrize("kind", KINDS[2:])
@PROFILE
@given(lines=st.lists(st.one_of(st.text(max_size=20), st.sampled_from(TEXT.split("\n")))), data=st.data())
def test_sentencepiece_gives_the_same_ids_for_any_chunking_by_lines(
    kind: str, lines: list[str], data: st.DataObject
) -> None:
    whole = [line + "\n" for line in lines]
    cut = data.draw(st.integers(0, len(whole)))
    head, tail = (trained(kind).encode("".join(part)).ids.tolist() for part in (whole[:cut], whole[cut:]))
    assert head + tail == trained(kind).encode("".join(whole)).ids.tolist()


@pytest.mark.parametrize("kind", KINDS[2:])
def test_sentencepieces_mark_for_a_space_is_encoded_as_its_bytes(kind: str) -> None:
    left, right, sign = (trained(kind).encode(text).ids.tolist() for text in ("The old", "bridge", "\u2581"))
    assert joined(trained(kind), sign) == "\u2581".encode()
    assert len(sign) == 3
    assert trained(kind).encode("The old\u2581bridge").ids.tolist() == left + sign + right


@pytest.mark.parametrize("kind", KINDS[2:])
def test_sentencepiece_learns_pieces_and_learns_them_again(kind: str) -> None:
    first, second = (SentencePieceTokenizer.train(TEXT, 330, kind) for _ in range(2))
    assert first.state().model == second.state().model
    tokens = first.encode(TEXT).ids
    assert len(tokens) < 0.7 * len(TEXT)
    assert tokens.max() < first.size <= 330


@pytest.mark.parametrize("kind", KINDS[2:])
def test_sentencepiece_normalises_nothing_and_skips_no_long_line(kind: str) -> None:
    assert any("ﬁ".encode() in piece for piece in trained(kind).pieces)
    line = "One sentence that nobody ends, and another one after it, " * 1000
    tokenizer = SentencePieceTokenizer.train(line, 300, kind)  # would fail if this line, its only one, were skipped
    assert len(tokenizer.encode(line).ids) < 0.8 * len(line)


@pytest.mark.parametrize("more", [{}, {"normalization_rule_name": "identity"}, {"add_dummy_prefix": False}])
def test_another_trainers_model_that_normalises_is_refused(more: dict[str, Any]) -> None:
    model = io.BytesIO()
    lines = iter(TEXT.splitlines())
    options: dict[str, Any] = {"vocab_size": 290, "byte_fallback": True, "bos_id": -1, "eos_id": -1, "minloglevel": 2}
    SentencePieceTrainer.train(sentence_iterator=lines, model_writer=model, **options, **more)
    with pytest.raises(CheckpointError, match="it lacks options that training sets"):
        SentencePieceTokenizer(model.getvalue())


def test_a_vocabulary_of_all_characters_needs_no_escape() -> None:
    everything = "".join(chr(point) for point in range(0x110000) if not 0xD800 <= point < 0xE000)
    table = {"kind": "char", "vocabulary": everything, "once": 0, "total": 2 * len(everything)}
    tokenizer = restore_tokenizer(TokenizerState(table))
    assert (tokenizer.size, tokenizer.unseen_nats) == (1_112_064, math.inf)


@pytest.mark.parametrize("kind", KINDS[2:])
@pytest.mark.parametrize("size", [2, 256, 260])
def test_a_vocabulary_too_small_for_the_text_is_a_configuration_error(kind: str, size: int) -> None:
    with pytest.raises(ConfigError, match=rf"--vocab-size {size} is too small: .* need 283"):
        SentencePieceTokenizer.train(TEXT, size, kind)


@pytest.mark.parametrize("kind", KINDS[2:])
def test_a_vocabulary_that_the_text_cannot_fill_stays_smaller(kind: str) -> None:
    tokenizer = SentencePieceTokenizer.train(TEXT, 65536, kind)
    assert 256 < tokenizer.size < 2000
    assert tokenizer.decode(tokenizer.encode(TEXT)) == TEXT


@pytest.mark.parametrize("kind", KINDS[2:])
@pytest.mark.parametrize(
    "text",
    ["<unk>" * 9, "<0x41><0x42>", " ", "   ", " \n \n", "\t\n", "\u2028", "a", "\n a", "\r\n \r\n", "\ufeff\u3000"],
)
def test_hardly_any_text_is_enough_for_sentencepiece(kind: str, text: str) -> None:
    tokenizer = SentencePieceTokenizer.train(text, 300, kind)
    assert tokenizer.decode(tokenizer.encode(text + "more")) == text + "more"


def random_text(alphabet: str, length: int, width: int) -> str:
    draw = random.Random(1)  # noqa: S311
    return "\n".join("".join(draw.choices(alphabet, k=width)) for _ in range(length // width))


HAN = "".join(chr(0x4E00 + number) for number in range(0, 20_000, 67))


@pytest.mark.parametrize("kind", KINDS[2:])
@pytest.mark.parametrize(
    "text", [random_text(HAN, 30_000, 30_000), random_text("ACGT", 5000, 5000), "x" * 5000, "x" * 3000 + " y"]
)
def test_runs_without_a_space_of_any_length_are_learned_from(kind: str, text: str) -> None:
    tokenizer = SentencePieceTokenizer.train(text, 257 + len(set(text)) + 100, kind)
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.remarks == ()


def test_cutting_long_runs_changes_nothing_for_other_texts() -> None:
    long = "word and word " * 300
    assert list(_safe_lines(f"{TEXT}\n{long}")) == [line for line in [*TEXT.split("\n"), long] if line]
    assert "".join(_safe_lines("y" * 3500)) == "y" * 3500


def test_where_unigram_cannot_learn_bpe_does_and_says_so() -> None:
    tokenizer = SentencePieceTokenizer.train("a" * 20, 300, "unigram")
    assert tokenizer.decode(tokenizer.encode("aaa")) == "aaa"
    (remark,) = tokenizer.remarks
    assert "unigram algorithm cannot learn from this text" in remark
    assert "BPE algorithm was used instead" in remark
    assert SentencePieceTokenizer.train("a" * 20, 300, "bpe").remarks == ()


def test_learning_that_takes_long_is_announced_before_it_begins(tmp_path: Path) -> None:
    (tmp_path / "dna.txt").write_text(random_text("ACGT", 70_000, 70))
    events: list[Event] = []
    options = TrainOptions(tokenizer="sentencepiece", sentencepiece="bpe", vocab_size=280, steps=1, hidden=8, threads=1)
    charlm.train(tmp_path / "dna.txt", checkpoints=tmp_path, on_event=events.append, **options)
    assert isinstance(events[0], Remark)
    assert events[0].text.startswith("learning a vocabulary of 280 from ")


# As SentencePiece 0.2.2 says of a text of "\t\n" alone, and 0.2.3 of a score that is not finite.
STRANGE = (
    "INTERNAL: src/unigram_model_trainer.cc(617) [!required_chars_.empty()] \n",
    "INTERNAL: src/unigram_model_trainer.cc(211) [std::isfinite(score)] ",
)


@pytest.mark.parametrize("words", STRANGE)
def test_an_unknown_error_of_the_library_is_told_as_itself(monkeypatch: pytest.MonkeyPatch, words: str) -> None:
    learn = SentencePieceTrainer.train

    def failing(**options: Any) -> None:
        if options["model_type"] in broken:
            raise RuntimeError(words)
        learn(**options)

    monkeypatch.setattr(SentencePieceTrainer, "train", failing)
    broken = ["unigram"]
    tokenizer = SentencePieceTokenizer.train(TEXT, 400, "unigram")
    assert words.split("[")[1].split("]", maxsplit=1)[0] in tokenizer.remarks[0]
    assert tokenizer.decode(tokenizer.encode(TEXT)) == TEXT
    broken.append("bpe")
    for kind in KINDS[2:]:
        with pytest.raises(DataError) as raised:
            SentencePieceTokenizer.train(TEXT, 400, kind)
        assert words.split("[")[1].split("]", maxsplit=1)[0] in str(raised.value)
        assert "--vocab-size" not in str(raised.value)


@pytest.mark.parametrize("kind", KINDS[2:])
@pytest.mark.parametrize("text", ["", "\n", "\n\n\n", "\r\n\r\n", "\0\0", "\u2581\n\u2581"])
def test_a_text_without_anything_to_learn_from_is_bad_data(kind: str, text: str) -> None:
    with pytest.raises(DataError, match="sentencepiece cannot learn from this text"):
        SentencePieceTokenizer.train(text, 300, kind)


@pytest.mark.parametrize("kind", KINDS)
@PROFILE
@given(text=TEXTS)
def test_a_stream_of_tokens_is_the_decoded_text(kind: str, text: str) -> None:
    tokenizer, vocabulary = trained(kind), set(TEXT)
    known = "".join(c for c in text if kind != "char" or c in vocabulary)
    stream = Stream(tokenizer)
    assert "".join(stream.push(i) for i in tokenizer.encode(known).ids.tolist()) + stream.close() == known


@PROFILE
@given(raw=st.binary(max_size=40))
def test_bytes_that_are_no_text_become_replacement_characters(raw: bytes) -> None:
    stream = Stream(ByteTokenizer())
    expected = raw.decode("utf-8", "replace")
    assert "".join(stream.push(value) for value in raw) + stream.close() == expected
    ids = np.array(list(raw), dtype=np.int32)
    assert ByteTokenizer().decode(Encoded(ids, np.zeros(0, np.int32))) == expected


@pytest.mark.parametrize(
    ("text", "characters", "size", "words", "unknown"),
    [
        ("", 0, 0, 0, 0),
        ("to be", 5, 5, 2, 0),
        ("to be,\nor not\n", 14, 14, 6, 4),  # four runs, two line ends; unknown: a comma, an r, two line ends
        ("  bé \t bo\r\n", 11, 12, 3, 4),
        ("\n\n", 2, 2, 2, 2),
    ],
)
def test_counts_of_a_text_by_hand(text: str, characters: int, size: int, words: int, unknown: int) -> None:
    tokens = tokenize(CharTokenizer.train("to be on"), text)
    counts = (tokens.characters, tokens.bytes, tokens.words, tokens.unknown_characters)
    assert counts == (characters, size, words, unknown)
    assert len(tokens.ids) == characters
    assert len(tokenize(ByteTokenizer(), text).ids) == size
