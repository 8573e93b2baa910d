"""A text written in turns: against single samples, and against a decoder that reads the whole text from its start."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Final

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from odd import trained
from oracles import memoryless_decoder, random_network, scripted_decoder

import charlm
from charlm.config import ModelConfig, SampleConfig
from charlm.errors import DataError
from charlm.generation.conversation import Conversation
from charlm.generation.decoder import Decoder, NumpyDecoder
from charlm.generation.generate import collect, generate
from charlm.generation.sampling import Floats
from charlm.models.network import export_weights
from charlm.text.tokenizer import ByteTokenizer, CharTokenizer, Tokenizer

PROFILE: Final = settings(derandomize=True, deadline=None, max_examples=25, database=None)
VOCABULARY: Final = "\n abcd"
TOKENIZER: Final = CharTokenizer.train(VOCABULARY)
TEXTS: Final = st.text(VOCABULARY + "é", max_size=6)
TURNS: Final = st.lists(st.tuples(TEXTS, st.integers(0, 40)), max_size=5)


def small(vocabulary: int) -> Decoder:
    config = ModelConfig(hidden=8, layers=2, embedding=4)
    return NumpyDecoder(config, export_weights(random_network(config, vocabulary, seed=1)))


CHARACTERS: Final = small(TOKENIZER.size)
BYTES: Final = small(256)


def config(length: int = 50, seed: int = 3, temperature: float = 1.0) -> SampleConfig:
    return SampleConfig(length=length, seed=seed, temperature=temperature)


def turn(talk: Conversation, text: str = "", length: int = 50, seed: int = 3, stop: str = "") -> str:
    talk.read(text)
    return "".join(talk.write(config(length, seed), stop))


def one_sample(prime: str, length: int, stop: str = "", seed: int = 3) -> str:
    return collect(generate(CHARACTERS, TOKENIZER, config(length, seed), prime=prime, stops=[stop]), 1)[0]


def logits_after(decoder: Decoder, tokenizer: Tokenizer, text: str) -> Floats:
    """What the model expects after a text, read token by token from the start."""
    logits, state = decoder.step([tokenizer.start], decoder.init_state(1))
    for token in tokenizer.encode(text).ids:
        logits, state = decoder.step([token], state)
    return logits


def stands_where_its_text_ends(talk: Conversation, decoder: Decoder, tokenizer: Tokenizer, text: str) -> bool:
    """The model goes on as it would after having read the text: greedily, so that no random number matters."""
    talk.read("")
    (written,) = itertools.islice(talk.write(SampleConfig(length=1, temperature=0)), 1)
    talk.undo()
    return written.encode() == tokenizer.pieces[int(np.argmax(logits_after(decoder, tokenizer, text)))]


@PROFILE
@given(TEXTS, st.lists(st.integers(0, 60), min_size=1, max_size=4))
def test_turns_without_a_text_write_what_one_sample_of_their_length_would(prime: str, lengths: list[int]) -> None:
    talk = Conversation(CHARACTERS, TOKENIZER)
    written = turn(talk, prime, lengths[0]) + "".join(turn(talk, "", length) for length in lengths[1:])
    assert written == one_sample(prime, sum(lengths))
    assert talk.text == prime + written


@PROFILE
@given(TURNS, st.sampled_from(["", "a", "ab", "\n\n", "cab"]))
def test_the_state_is_that_after_the_text_however_a_turn_ended(turns: list[tuple[str, int]], stop: str) -> None:
    talk, text = Conversation(CHARACTERS, TOKENIZER), ""
    behind = ""
    for added, length in turns:
        written = turn(talk, added, length, stop=stop)
        text += (added or behind) + written
        assert talk.text == text
        assert not stop or stop not in written
        behind = stop if len(written) < length else ""
    if not behind:
        assert stands_where_its_text_ends(talk, CHARACTERS, TOKENIZER, text)


@PROFILE
@given(TURNS, st.integers(0, 30))
def test_whoever_stops_the_writing_keeps_what_was_yielded_and_goes_on_as_if_it_had_not_stopped(
    turns: list[tuple[str, int]], pieces: int
) -> None:
    talk, whole = Conversation(CHARACTERS, TOKENIZER), Conversation(CHARACTERS, TOKENIZER)
    for added, length in turns:
        assert turn(talk, added, length) == turn(whole, added, length)
    talk.read("b")
    writing = talk.write(config(100))
    part = "".join(itertools.islice(writing, pieces))
    writing.close()
    assert talk.text.endswith("b" + part)
    assert stands_where_its_text_ends(talk, CHARACTERS, TOKENIZER, talk.text)
    assert part + turn(talk, "", 100 - len(part)) == turn(whole, "b", 100)


@PROFILE
@given(TURNS, st.integers(1, 6))
def test_turns_that_are_taken_back_leave_nothing_and_come_again_unless_the_seed_changes(
    turns: list[tuple[str, int]], back: int
) -> None:
    talk = Conversation(CHARACTERS, TOKENIZER)
    texts = [""]
    for added, length in turns:
        turn(talk, added, length)
        texts.append(talk.text)
    taken = [talk.undo() for _ in range(back)]
    assert talk.text == texts[max(0, len(turns) - back)]
    assert [text is None for text in taken] == [k >= len(turns) for k in range(back)]
    assert talk.text + "".join(reversed([text or "" for text in taken])) == texts[-1]
    for added, length in turns[max(0, len(turns) - back) :]:
        turn(talk, added, length)
    assert talk.text == texts[-1]


def test_another_seed_writes_another_text_after_undo() -> None:
    talk = Conversation(CHARACTERS, TOKENIZER)
    first = turn(talk, "a", 40)
    talk.undo()
    assert turn(talk, "a", 40, seed=4) == one_sample("a", 40, seed=4) != first


def test_a_hundred_turns_can_be_taken_back() -> None:
    talk = Conversation(CHARACTERS, TOKENIZER)
    for _ in range(120):
        turn(talk, "", 1)
    assert sum(talk.undo() is not None for _ in range(120)) == 100
    assert talk.text == one_sample("", 20)


def test_an_empty_text_goes_on_behind_the_stop_text_with_other_random_numbers() -> None:
    """Those that were used for the stop text would begin what follows it with the same token."""
    talk = Conversation(CHARACTERS, TOKENIZER)
    parts = [turn(talk, "", 1000, stop="a") for _ in range(20)]
    assert talk.text == "a".join(parts) == one_sample("", len(talk.text))
    assert "a" not in "".join(parts)


def test_another_text_after_a_stop_stands_where_the_stop_text_would_have() -> None:
    talk = Conversation(CHARACTERS, TOKENIZER)
    written = turn(talk, "", 1000, stop="a")
    turn(talk, "b", 0)
    assert talk.text == written + "b"


def test_bytes_are_kept_as_whole_characters_wherever_the_writing_stops() -> None:
    tokenizer = ByteTokenizer()
    script = "aé漢🙂"
    for pieces in range(8):
        talk = Conversation(scripted_decoder(script.encode(), 256), tokenizer)
        writing = talk.write(config(30))
        part = "".join(itertools.islice(writing, pieces))
        writing.close()
        assert (script * 9).startswith(part)
        assert talk.text == part
        talk.read("")
        rest = "".join(talk.write(config(30 - len(part))))
        assert part + rest == (script * 9)[:30]


@PROFILE
@given(TURNS, st.integers(0, 5))
def test_bytes_that_are_no_utf_8_leave_a_text_that_is_unicode(turns: list[tuple[str, int]], pieces: int) -> None:
    """Which is most of what a random model writes; U+FFFD stands for them."""
    talk = Conversation(BYTES, ByteTokenizer())
    for added, length in turns:
        assert len(turn(talk, added, length)) == length
    writing = talk.write(config(20))
    part = "".join(itertools.islice(writing, pieces))
    writing.close()
    assert talk.text.encode().decode().endswith(part)


# records


def test_turns_of_a_model_of_records_write_the_records_of_one_call() -> None:
    talk = Conversation(CHARACTERS, TOKENIZER, "line")
    written = [turn(talk, "", 1000) for _ in range(6)]
    config = SampleConfig(length=1000, seed=3, count=6)
    samples = collect(generate(CHARACTERS, TOKENIZER, config, prime="", stops=["\n"]), 6)
    assert written == [sample + "\n" for sample in samples]
    assert talk.text == "".join(written)
    talk.undo()
    assert turn(talk, "", 1000) == written[-1]


def test_a_record_begins_anew_behind_its_end_whoever_wrote_that() -> None:
    talk = Conversation(CHARACTERS, TOKENIZER, "line")
    turn(talk, "ab\ncd\na", 0)
    assert talk.text == "ab\ncd\na"
    talk.read("")
    (written,) = itertools.islice(talk.write(SampleConfig(length=1, temperature=0)), 1)
    assert written[0] == VOCABULARY[int(np.argmax(logits_after(CHARACTERS, TOKENIZER, "a")))]


def test_a_record_that_the_length_cut_goes_on() -> None:
    talk = Conversation(CHARACTERS, TOKENIZER, "line")
    whole = turn(talk, "", 1000)
    talk.undo()
    parts = [turn(talk, "", 1)]
    while not parts[-1].endswith("\n"):
        parts.append(turn(talk, "", 1))
    assert "".join(parts) == whole


# other


def test_a_new_text_is_another_one_and_can_be_taken_back() -> None:
    talk = Conversation(CHARACTERS, TOKENIZER)
    first = turn(talk, "", 60)
    talk.begin()
    assert talk.text == ""
    assert turn(talk, "", 60) == talk.text != first
    talk.undo()
    assert (talk.undo(), talk.text) == ("", first)
    assert first + turn(talk, "", 60) == one_sample("", 120)


def test_unseen_characters_are_counted_and_what_is_no_text_is_not_read() -> None:
    talk = Conversation(CHARACTERS, TOKENIZER)
    assert talk.read("aéb漢") == 2
    with pytest.raises(DataError):
        talk.read("\ud800")
    assert talk.text == "aéb漢"
    assert talk.undo() == "aéb漢"


def test_the_length_is_that_of_the_text_where_a_token_has_several_characters(tmp_path: Path) -> None:
    """SentencePiece: the last token is read as far as it is shown."""
    text = "the cat sat on the mat and the dog sat on the log. " * 100
    model = trained(tmp_path, text, "pieces", tokenizer="sentencepiece", vocab_size=300, steps=40, hidden=16)
    talk = model.conversation(config(7))
    for length in range(1, 12):
        before = talk.text
        assert len(turn(talk, "", length)) == length
        assert talk.text.startswith(before)
    again = model.conversation(config(7))
    for length in range(1, 12):
        turn(again, "", length)
    assert again.text == talk.text


@pytest.mark.parametrize("engine", ["numpy", "compiled"])
def test_each_decoder_writes_in_turns_what_it_writes_at_once(tmp_path: Path, engine: str) -> None:
    try:
        model = trained(tmp_path, VOCABULARY * 90, "turns")
        talk = model.conversation(SampleConfig(engine=engine, threads=1))
    except charlm.ConfigError:
        pytest.skip("no compiler")
    written = turn(talk, "ab", 33) + turn(talk, "", 1) + turn(talk, "", 66)
    assert written == model.sample(prime="ab", length=100, seed=3, engine=engine, threads=1)


def test_a_memoryless_model_is_sampled_with_the_documented_numbers() -> None:
    """Another text has the stream of its number, and its positions begin at 0."""
    decoder = memoryless_decoder([1 / TOKENIZER.size] * TOKENIZER.size)
    talk = Conversation(decoder, TOKENIZER)
    first = turn(talk, "", 30)
    talk.begin()
    both = collect(generate(decoder, TOKENIZER, SampleConfig(length=30, seed=3, count=2)), 2)
    assert [first, turn(talk, "", 30)] == list(both)
