"""A corpus is exactly what its files hold, split where the definition says; whatever is left out is named."""

from __future__ import annotations

import hashlib
import io
import os
import socket
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from charlm.errors import ConfigError, DataError, StorageError
from charlm.text.corpus import Corpus, Source, decode, load_corpus, read_text

PROFILE = settings(derandomize=True, deadline=None, max_examples=200, database=None)
LONG = "Ten letters and some more of them."


def written(path: Path, content: str | bytes) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def typed(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content), encoding="ascii"))


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


def test_an_ordinary_text_needs_no_remark(tmp_path: Path) -> None:
    assert load_corpus([written(tmp_path / "a.txt", "Grüße\n\tan\u2028alle \U0001f600\n")], "0").remarks == ()


@PROFILE
@given(text=st.text(alphabet=st.characters(codec="utf-8"), max_size=60))
def test_decoding_is_exact(text: str) -> None:
    assert decode(text.encode(), "a.txt") == text


def test_a_tenth_of_1115394_characters_is_111540(tmp_path: Path) -> None:
    text = "".join(chr(97 + i * i % 26) for i in range(1_115_394))
    corpus = load_corpus([written(tmp_path / "a.txt", text)], "0.1")
    assert len(corpus.val) == 111_540
    assert corpus.train + corpus.val == text


@pytest.mark.parametrize(
    ("val", "train", "held"),
    [
        ("0.1", "abcdefghiABCDEFGHI", "jJK"),  # a tenth of eleven characters is more than one
        ("0.25", "abcdefgABCDEFGH", "hijIJK"),
        ("0.5", "abcdeABCDE", "fghijFGHIJK"),
        ("0.75", "abAB", "cdefghijCDEFGHIJK"),
        ("0", "abcdefghijABCDEFGHIJK", ""),
    ],
)
def test_the_end_of_each_file_is_held_out(tmp_path: Path, val: str, train: str, held: str) -> None:
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


def test_a_file_can_be_the_held_out_text(tmp_path: Path) -> None:
    path, later = written(tmp_path / "a.txt", LONG), written(tmp_path / "later.txt", "later\r\n")
    corpus = load_corpus([path], later)
    assert (corpus.train, corpus.val) == (LONG, "later\r\n")
    assert [(source.path, source.held_out) for source in corpus.sources] == [(path, False), (later, True)]


def test_an_empty_or_missing_held_out_file_is_refused(tmp_path: Path) -> None:
    path, empty = written(tmp_path / "a.txt", LONG), written(tmp_path / "empty.txt", "")
    with pytest.raises(DataError, match=r"empty\.txt is empty"):
        load_corpus([path], empty)
    with pytest.raises(StorageError, match=r"nowhere\.txt"):
        load_corpus([path], str(tmp_path / "nowhere.txt"))


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


def test_held_out_text_from_standard_input_can_be_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    typed(monkeypatch, b"held out")
    corpus = load_corpus([written(tmp_path / "a.txt", LONG)], "-")
    assert (corpus.train, corpus.val, corpus.stdin) == (LONG, "held out", "held out")


def test_a_folder_is_read_recursively_in_the_order_of_paths(tmp_path: Path) -> None:
    for name in ("b.txt", "a/z.md", "a/b/deep", "c/.hidden", ".git/config", "a/.secret/x", "C.txt"):
        written(tmp_path / name, f"<{name}>")
    corpus = load_corpus([str(tmp_path)], "0")
    assert corpus.train == "<C.txt><a/b/deep><a/z.md><b.txt>"
    assert [source.path for source in corpus.sources] == [
        str(tmp_path / n) for n in ("C.txt", "a/b/deep", "a/z.md", "b.txt")
    ]
    assert corpus.remarks == ()


def test_what_a_folder_holds_beside_text_is_skipped_and_named(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    written(folder / "text.txt", LONG)
    skipped = {
        "latin": "not UTF-8 at byte 2",
        "picture": "binary",
        "pipe": "not a file",
        "socket": "not a file",
        "broken": "not a file",
        "linked": "a link to a folder",
        "loop": "a link to a folder",
    }
    written(folder / "latin", "caf\xe9"[1:].encode("latin-1"))
    written(folder / "picture", b"PNG\0\x01\x02")
    os.mkfifo(folder / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(folder / "socket"))
    written(tmp_path / "elsewhere" / "more.txt", "not to be read")
    (folder / "broken").symlink_to(tmp_path / "nowhere")
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    (folder / "loop").symlink_to(folder)
    corpus = load_corpus([str(folder)], "0")
    assert corpus.train == LONG
    assert sorted(corpus.remarks) == sorted(f"skipped {folder / name}: {why}" for name, why in skipped.items())


def test_links_to_files_are_read_and_a_link_to_a_folder_when_it_is_named(tmp_path: Path) -> None:
    written(tmp_path / "real" / "a.txt", LONG)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "link.txt").symlink_to(tmp_path / "real" / "a.txt")
    (tmp_path / "named").symlink_to(tmp_path / "real")
    assert load_corpus([str(tmp_path / "folder"), str(tmp_path / "named")], "0").train == LONG * 2


@pytest.mark.skipif(os.geteuid() == 0, reason="no permission stops root")
def test_what_may_not_be_read_is_named(tmp_path: Path) -> None:
    written(tmp_path / "text.txt", LONG)
    closed, locked = Path(written(tmp_path / "closed.txt", LONG)), tmp_path / "locked"
    locked.mkdir()
    closed.chmod(0)
    locked.chmod(0)
    try:
        corpus = load_corpus([str(tmp_path)], "0")
        assert corpus.train == LONG
        assert sorted(corpus.remarks) == [f"skipped {path}: Permission denied" for path in (closed, locked)]
        with pytest.raises(StorageError, match="Permission denied"):
            load_corpus([str(closed)], "0")
    finally:
        locked.chmod(0o700)


def test_a_folder_without_text_is_bad_data(tmp_path: Path) -> None:
    written(tmp_path / "picture", b"\0\1")
    with pytest.raises(DataError, match="holds no text"):
        load_corpus([str(tmp_path)], "0")


@pytest.mark.parametrize("name", ["nowhere.txt", "a.txt/below", "nul\0name", "x" * 300])
def test_a_file_that_is_not_there_is_an_input_error(tmp_path: Path, name: str) -> None:
    written(tmp_path / "a.txt", LONG)
    with pytest.raises(StorageError, match=r"cannot read .*nothing was written"):
        load_corpus([str(tmp_path / name)], "0")


def test_a_folder_where_a_text_is_meant_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="is a folder, not a text"):
        read_text(str(tmp_path))
    with pytest.raises(StorageError, match="is a folder, not a text"):
        load_corpus([written(tmp_path / "a.txt", LONG)], str(tmp_path))


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


@pytest.mark.parametrize(("content", "val"), [("", "0"), ("a", "0"), ("é", "0.1"), ("ab", "0.1"), ("abc", "0.5")])
def test_fewer_than_two_characters_to_train_on_are_refused(tmp_path: Path, content: str, val: str) -> None:
    with pytest.raises(DataError, match=rf"a\.txt: {len(content)} character.* at least 2 are needed"):
        load_corpus([written(tmp_path / "a.txt", content)], val)


def test_two_characters_are_enough(tmp_path: Path) -> None:
    assert load_corpus([written(tmp_path / "a.txt", "ab")], "0").train == "ab"


@PROFILE
@given(st.tuples(st.text(), st.text()), st.tuples(st.text(), st.text()))
def test_fingerprints_are_equal_exactly_where_both_parts_are(one: tuple[str, str], two: tuple[str, str]) -> None:
    first, second = (Corpus(*parts, (), ()) for parts in (one, two))
    assert (first.fingerprint == second.fingerprint) == (one == two)
    moved = Corpus(*one, (Source("/elsewhere", 1, 1, ""),), ("a remark",), "typed")
    assert moved.fingerprint == first.fingerprint


def test_the_fingerprint_moves_with_the_split_and_not_with_the_path(tmp_path: Path) -> None:
    here, there = written(tmp_path / "a.txt", LONG), written(tmp_path / "b" / "c.txt", LONG)
    assert load_corpus([here], "0.1").fingerprint == load_corpus([there], "0.1").fingerprint
    assert load_corpus([here], "0.1").fingerprint != load_corpus([here], "0.2").fingerprint
    one, two = "ab", "a"
    assert Corpus(one, "c", (), ()).fingerprint != Corpus(two, "bc", (), ()).fingerprint
    assert Corpus("a", "b", (), ()).fingerprint != Corpus("b", "a", (), ()).fingerprint
