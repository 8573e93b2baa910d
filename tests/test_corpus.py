"""A corpus has exactly the text of its files, split as defined; everything that is skipped is named."""

from __future__ import annotations

import hashlib
import io
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matrix import Tries

from charlm.errors import ConfigError, DataError, StorageError
from charlm.text.corpus import Corpus, Source, load_corpus, read_text
from charlm.text.encoding import Reader

PROFILE = settings(derandomize=True, deadline=None, max_examples=200, database=None)
LONG = "Ten letters and some more of them."
# Table 3-7 of the Unicode standard: the longest beginning of some bytes that is well-formed UTF-8.
WELL_FORMED: Final = re.compile(
    rb"(?:[\x00-\x7f]|[\xc2-\xdf][\x80-\xbf]|\xe0[\xa0-\xbf][\x80-\xbf]|[\xe1-\xec\xee\xef][\x80-\xbf]{2}"
    rb"|\xed[\x80-\x9f][\x80-\xbf]|\xf0[\x90-\xbf][\x80-\xbf]{2}|[\xf1-\xf3][\x80-\xbf]{3}"
    rb"|\xf4[\x80-\x8f][\x80-\xbf]{2})*+"
)


def written(path: Path, content: str | bytes) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def typed(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content), encoding="ascii"))


@contextmanager
def piped(path: Path, chunks: Sequence[bytes], pause: float = 0) -> Iterator[str]:
    """A pipe in the file system, into which another thread writes once somebody reads."""

    def write() -> None:
        with path.open("wb", buffering=0) as file:
            for chunk in chunks:
                file.write(chunk)
                time.sleep(pause)

    os.mkfifo(path)
    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    yield str(path)
    writer.join(10)


@pytest.mark.fault(36)
@pytest.mark.parametrize(
    ("content", "remark"),
    [
        (b"one\r\ntwo\r\n", "has CR LF line ends"),
        (b"one\rtwo\r", "has CR line ends"),
        ("\ufeffone\n".encode(), "begins with a byte order mark"),
        (b"one\0two", "has NUL characters"),
    ],
)
def test_line_ends_marks_and_nul_are_kept_and_said(tmp_path: Path, content: bytes, remark: str) -> None:
    path = written(tmp_path / "a.txt", content)
    corpus = load_corpus([path], "0")
    assert corpus.train.encode() == content
    assert [remark in said for said in corpus.remarks] == [True]
    assert path in corpus.remarks[0]
    assert "kept" in corpus.remarks[0]
    held_out = load_corpus([written(tmp_path / "b.txt", LONG)], path)
    assert (held_out.val.encode(), held_out.remarks) == (content, corpus.remarks)


def test_an_ordinary_text_needs_no_remark(tmp_path: Path) -> None:
    assert load_corpus([written(tmp_path / "a.txt", "Grüße\n\tan\u2028alle \U0001f600\n")], "0").remarks == ()


@pytest.mark.fault(36)
def test_any_bytes_are_decoded_exactly_or_refused_where_they_stop_being_utf8(
    tries: Tries, many: Callable[[int, int], int]
) -> None:
    def check(raw: bytes) -> None:
        good = WELL_FORMED.match(raw)
        assert good is not None
        bad = good.end()
        if bad == len(raw):
            assert Reader().decode(raw, "a.txt").encode() == raw
        else:
            place = f"at byte {bad}, line {len(raw[:bad].split(bytes([10])))}; nothing was written"
            with pytest.raises(DataError, match=rf"^a\.txt is not UTF-8: .* {place}"):
                Reader().decode(raw, "a.txt")
        tries.survived()

    examples = settings(PROFILE, max_examples=many(300, 3000))
    examples(given(st.text(st.characters(codec="utf-8")).map(str.encode))(check))()
    examples(given(st.binary())(check))()
    pieces = [
        b"a",
        b"\n",
        b"\r\n",
        *map(str.encode, "é€😀"),
        b"\xff",
        b"\xc0\x80",
        b"\xed\xa0\x80",
        b"\xf4\x90",
        b"\xe2",
    ]
    examples(given(st.lists(st.sampled_from(pieces)))(lambda chosen: check(b"".join(chosen))))()
    text = "ab\né€\r\n😀z".encode()
    for place in range(len(text)):
        check(text[:place])
        for byte in range(256):
            check(text[:place] + bytes([byte]) + text[place + 1 :])
            check(text[:place] + bytes([byte]) + text[place:])


@pytest.mark.fault(36)
@pytest.mark.parametrize(
    ("content", "advice"),
    [
        (b"caf\xe9!", "find out its encoding"),
        (b"\xe2\x82", "cut short"),
        (b"\x7fELF\0\xff", "it looks like a binary file"),
        ("é".encode("utf-16"), "iconv -f utf-16"),
        (b"\xfe\xff\0a", "iconv -f utf-16"),
    ],
)
def test_what_is_not_utf8_comes_with_the_next_command_to_try(content: bytes, advice: str) -> None:
    with pytest.raises(DataError, match=advice):
        Reader().decode(content, "a.txt")


def test_a_tenth_of_1115394_characters_is_111540(tmp_path: Path) -> None:
    text = "".join(chr(97 + i * i % 26) for i in range(1_115_394))
    corpus = load_corpus([written(tmp_path / "a.txt", text)], "0.1")
    assert len(corpus.val) == 111_540
    assert corpus.train + corpus.val == text


@pytest.mark.fault(35)
def test_the_validation_share_is_exact_for_every_length(
    tmp_path: Path, tries: Tries, many: Callable[[int, int], int]
) -> None:
    """In whole numbers: with k hundredths held out of n characters, (100 - k) n // 100 are left to train on."""
    for length in (*range(many(21, 101)), 100, 333, 1000):
        text = "".join(chr(97 + k % 26) for k in range(length))
        path = written(tmp_path / "a.txt", text)
        for hundredths in range(91):
            left = (100 - hundredths) * length // 100
            if left < 2:
                with pytest.raises(DataError, match=rf"a\.txt: {length} character.*, of which {left} for training"):
                    load_corpus([path], f"{hundredths / 100}")
            else:
                corpus = load_corpus([path], f"0.{hundredths:02}")
                assert (corpus.train, corpus.val) == (text[:left], text[left:])
            tries.survived()


@pytest.mark.parametrize(
    ("val", "train", "held"),
    [
        ("0.1", "abcdefghiABCDEFGHI", "jJK"),  # a tenth of eleven characters is more than one
        ("0.25", "abcdefgABCDEFGH", "hijIJK"),
        ("0.5", "abcdeABCDE", "fghijFGHIJK"),
        ("0.75", "abAB", "cdefghijCDEFGHIJK"),
        ("0.9", "aA", "bcdefghijBCDEFGHIJK"),
        ("0", "abcdefghijABCDEFGHIJK", ""),
    ],
)
def test_the_end_of_each_file_is_validation_text(tmp_path: Path, val: str, train: str, held: str) -> None:
    files = [written(tmp_path / "1", "abcdefghij"), written(tmp_path / "2", "ABCDEFGHIJK")]
    corpus = load_corpus(files, val)
    assert (corpus.train, corpus.val) == (train, held)


def test_files_are_joined_unchanged_in_the_given_order_and_described(tmp_path: Path) -> None:
    second, first = written(tmp_path / "2.txt", "zwei é"), written(tmp_path / "1.txt", "eins")
    corpus = load_corpus([second, first, second], "0")
    assert corpus.train == "zwei éeinszwei é"
    assert corpus.val == ""
    digest = hashlib.sha256("zwei é".encode()).hexdigest()
    assert corpus.sources[0] == corpus.sources[2] == Source(second, 7, 6, digest)
    assert [source.path for source in corpus.sources] == [second, first, second]


def test_sources_are_recorded_by_their_absolute_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path / "a.txt", LONG)
    monkeypatch.chdir(tmp_path)
    assert load_corpus(["a.txt"], "0").sources[0].path == str(tmp_path / "a.txt")


def test_a_file_can_be_the_validation_text(tmp_path: Path) -> None:
    path, later = written(tmp_path / "a.txt", LONG), written(tmp_path / "later.txt", "later\r\n")
    corpus = load_corpus([path], later)
    assert (corpus.train, corpus.val) == (LONG, "later\r\n")
    assert [(source.path, source.held_out) for source in corpus.sources] == [(path, False), (later, True)]


@pytest.mark.fault(35)
def test_an_empty_or_missing_validation_file_is_refused(tmp_path: Path) -> None:
    path, empty = written(tmp_path / "a.txt", LONG), written(tmp_path / "empty.txt", "")
    with pytest.raises(DataError, match=r"empty\.txt is empty"):
        load_corpus([path], empty)
    with pytest.raises(StorageError, match=r"nowhere\.txt"):
        load_corpus([path], str(tmp_path / "nowhere.txt"))


@pytest.mark.fault(37)
def test_standard_input_is_read_exactly_and_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = "typed\r\nin é\0".encode()
    typed(monkeypatch, content)
    corpus = load_corpus([written(tmp_path / "a.txt", LONG), "-"], "0")
    assert corpus.train == LONG + content.decode()
    assert corpus.stdin == content.decode()
    assert [source.path for source in corpus.sources] == [str(tmp_path / "a.txt"), "-"]
    typed(monkeypatch, content)
    with pytest.raises(ConfigError, match="only once"):
        load_corpus(["-", "-"], "0")
    with pytest.raises(ConfigError, match="only once"):
        load_corpus(["-"], "-")
    assert read_text("-") == content.decode()


@pytest.mark.fault(37)
def test_validation_text_from_standard_input_can_be_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    typed(monkeypatch, b"held out")
    corpus = load_corpus([written(tmp_path / "a.txt", LONG)], "-")
    assert (corpus.train, corpus.val, corpus.stdin) == (LONG, "held out", "held out")


@pytest.mark.fault(37)
@pytest.mark.parametrize("pause", [0, 0.02])
def test_a_pipe_is_read_like_a_file_and_kept_like_standard_input(tmp_path: Path, pause: float) -> None:
    content = "é\r\n".encode() * 7
    with piped(tmp_path / "fifo", [content[k : k + 1] for k in range(len(content))], pause / 2) as path:
        corpus = load_corpus([path], "0")
    assert (corpus.train, corpus.stdin) == (content.decode(), content.decode())
    assert corpus.sources == (Source("-", 28, 21, hashlib.sha256(content).hexdigest()),)


@pytest.mark.fault(37)
def test_a_pipe_can_be_the_validation_text_and_two_are_refused_unread(tmp_path: Path) -> None:
    text = written(tmp_path / "a.txt", LONG)
    with piped(tmp_path / "fifo", [b"held ", b"out"]) as path:
        for paths, val in (([path, "-"], "0"), ([path, text, path], "0"), ([path], path), (["-"], path)):
            with pytest.raises(ConfigError, match="only once"):
                load_corpus(paths, val)
        corpus = load_corpus([text], path)
    assert (corpus.val, corpus.stdin) == ("held out", "held out")
    assert [(source.path, source.held_out) for source in corpus.sources] == [(text, False), ("-", True)]


@pytest.mark.fault(37)
def test_what_a_shell_substitutes_for_a_process_is_a_pipe(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.write(writing, b"from a process")
    os.close(writing)
    corpus = load_corpus([f"/dev/fd/{reading}"], "0")
    os.close(reading)
    assert corpus.stdin == "from a process"
    assert corpus.sources[0].path == "-"
    regular = written(tmp_path / "a.txt", LONG)
    assert load_corpus([regular], "0").stdin == ""


@pytest.mark.parametrize("name", ["nowhere.txt", "a.txt/below", "nul\0name", "x" * 300])
def test_a_file_that_is_not_there_is_an_input_error(tmp_path: Path, name: str) -> None:
    written(tmp_path / "a.txt", LONG)
    with pytest.raises(StorageError, match=r"cannot read .*nothing was written"):
        load_corpus([str(tmp_path / name)], "0")


def test_a_folder_where_a_text_is_meant_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="is a folder, not a file"):
        read_text(str(tmp_path))
    with pytest.raises(StorageError, match="is a folder, not a file"):
        load_corpus([written(tmp_path / "a.txt", LONG)], str(tmp_path))


@pytest.mark.fault(36)
@pytest.mark.parametrize(
    ("content", "place"),
    [
        (b"caf\xe9 au lait", "at byte 3, line 1"),
        (b"one\ntwo\n\xff", "at byte 8, line 3"),
        (b"one\r\ntwo \xc3", "at byte 9, line 2"),
        (b"\xed\xa0\x80", "at byte 0, line 1"),
        (b"ok\xc0\x80", "at byte 2, line 1"),
    ],
)
def test_what_is_not_utf8_is_refused_with_byte_and_line(tmp_path: Path, content: bytes, place: str) -> None:
    path = written(tmp_path / "a.txt", content)
    with pytest.raises(DataError, match=rf"a\.txt is not UTF-8: .* {place}"):
        load_corpus([path], "0.1")


@pytest.mark.fault(35)
@pytest.mark.parametrize(("content", "val"), [("", "0"), ("a", "0"), ("é", "0.1"), ("ab", "0.1"), ("abc", "0.5")])
def test_fewer_than_two_characters_to_train_on_are_refused(tmp_path: Path, content: str, val: str) -> None:
    with pytest.raises(DataError, match=rf"a\.txt: {len(content)} character.* at least 2 are needed"):
        load_corpus([written(tmp_path / "a.txt", content)], val)


@pytest.mark.fault(35)
def test_two_characters_are_enough(tmp_path: Path) -> None:
    assert load_corpus([written(tmp_path / "a.txt", "ab")], "0").train == "ab"


@pytest.mark.fault(35)
def test_a_validation_file_does_not_count_as_training_text(tmp_path: Path) -> None:
    one, other = written(tmp_path / "a.txt", "a"), written(tmp_path / "b.txt", "many more")
    with pytest.raises(DataError, match=r"a\.txt: 1 character, of which 1 .*; use a longer text$"):
        load_corpus([one], other)


@PROFILE
@given(st.tuples(st.text(), st.text()), st.tuples(st.text(), st.text()))
def test_fingerprints_are_equal_exactly_where_both_parts_are(one: tuple[str, str], two: tuple[str, str]) -> None:
    first, second = (Corpus(*parts, (), ()) for parts in (one, two))
    assert (first.fingerprint == second.fingerprint) == (one == two)
    moved = Corpus(*one, (Source("/elsewhere", 1, 1, ""),), ("a remark",), "typed")
    assert moved.fingerprint == first.fingerprint


def test_the_fingerprint_depends_on_the_split_and_not_on_the_path(tmp_path: Path) -> None:
    here, there = written(tmp_path / "a.txt", LONG), written(tmp_path / "b" / "c.txt", LONG)
    assert load_corpus([here], "0.1").fingerprint == load_corpus([there], "0.1").fingerprint
    assert load_corpus([here], "0.1").fingerprint != load_corpus([here], "0.2").fingerprint
    one, two = "ab", "a"
    assert Corpus(one, "c", (), ()).fingerprint != Corpus(two, "bc", (), ()).fingerprint
    assert Corpus("a", "b", (), ()).fingerprint != Corpus("b", "a", (), ()).fingerprint
