"""A text is read in the encoding that was named, strictly; what cannot be read is called what it is."""

from __future__ import annotations

import codecs
import io
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from processes import charlm as command
from processes import one_line

import charlm
from charlm.cli.sample import _prime
from charlm.errors import ConfigError, DataError
from charlm.keywords import TrainOptions
from charlm.storage.provenance import own_corpus
from charlm.text.corpus import load_corpus, read_text
from charlm.text.encoding import Reader, unmarked_utf16
from charlm.text.guess import _EAST, _SINGLE

QUOTED: Final = "He said “don’t” — it costs €5…\n" * 30
RUSSIAN: Final = "Где мой ключ? Пётр его не нашёл.\n" * 30
ENGLISH: Final = "The quick brown fox jumps over the lazy dog.\n" * 30
WIDE: Final = ("utf-16-le", "utf-16-be")


@pytest.mark.parametrize(
    "encoding", ["cp1252", "utf-16", "utf-32", "utf-16-le", "utf-8-sig", "iso8859-15", "hz", "utf-7"]
)
def test_a_text_is_read_in_the_encoding_that_was_named(tmp_path: Path, encoding: str) -> None:
    text = "Déjà vu, naïve café.\r\n\tEnd" if encoding != "hz" else "你好 text\r\n"
    path = tmp_path / "a.txt"
    path.write_bytes(text.encode(encoding))
    assert read_text(str(path), Reader(encoding)) == text
    corpus = load_corpus([str(path)], "0", encoding=encoding)
    (tmp_path / "utf8.txt").write_bytes(text.encode())
    same = load_corpus([str(tmp_path / "utf8.txt")], "0")
    assert (corpus.train, corpus.fingerprint) == (text, same.fingerprint)
    assert corpus.sources[0].sha256 == same.sources[0].sha256


@settings(max_examples=30)
@given(
    st.text(st.characters(codec="utf-8"), max_size=20), st.sampled_from(["utf-16-le", "utf-32-be", "gb18030", "utf-7"])
)
def test_any_text_comes_back_from_an_encoding_that_has_all_characters(text: str, encoding: str) -> None:
    assert Reader(encoding).decode(text.encode(encoding), "a.txt") == text


@pytest.mark.parametrize(
    ("encoding", "raw", "place"),
    [
        ("cp1252", b"one\ntwo \x81", "at byte 8, line 2"),
        ("ascii", b"caf\xe9", "at byte 3, line 1"),
        ("shift_jis", "一\n二\n".encode("shift_jis") + b"\x81", "at byte 6, line 3"),
        ("utf-16-le", "a\nb".encode("utf-16-le") + b"\0", "at byte 6, line 2"),
        ("utf-16-be", b"\0a\xd8\0\0b", "at byte 2, line 1"),
        ("utf-16", "in the order of any machine".encode("utf-16-be"), "at byte 0, line 1"),
    ],
)
def test_what_the_encoding_does_not_have_is_refused_with_byte_and_line(encoding: str, raw: bytes, place: str) -> None:
    with pytest.raises(DataError, match=rf"^a\.txt is not .*: .* {place}; nothing was written; "):
        Reader(encoding).decode(raw, "a.txt")


def test_half_a_surrogate_pair_is_no_text_in_any_encoding() -> None:
    with pytest.raises(DataError, match=r"a\.txt is not UTF-7: .*surrogates not allowed"):
        Reader("utf-7").decode(b"+2AA-", "a.txt")


@pytest.mark.parametrize("order", WIDE)
@given(
    st.sampled_from(["abcxyzäöüßéñ", "абвгдежзийклмнопрст", "αβγδεζηθικλμ", "אבגדהוזחטיכלמ"]).flatmap(
        lambda alphabet: st.lists(st.text(alphabet, min_size=2, max_size=9), min_size=1)
    )
)
def test_utf16_without_a_mark_is_recognised_in_every_alphabet(order: str, words: list[str]) -> None:
    text = "".join(f"“{word}”, " if number % 5 == 4 else f"{word} " for number, word in enumerate(words))
    assert unmarked_utf16(f"{text}\n".encode(order)) == order


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0")))
def test_no_text_without_nul_is_taken_for_utf16(text: str) -> None:
    assert unmarked_utf16(text.encode()) == ""


@pytest.mark.parametrize("text", ["name\0", "a, b\0c\0", "\0\0\0\0", "1\t2\t3\0\n", "\t\n\t\n\0\n"])
def test_a_few_nuls_are_kept_in_a_text(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.txt").write_text(text * 20)
    assert read_text(str(tmp_path / "a.txt")) == text * 20


@pytest.mark.parametrize("text", [QUOTED, RUSSIAN, ENGLISH])
@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", *WIDE])
def test_wide_encodings_are_named_and_the_command_reads_them(tmp_path: Path, text: str, encoding: str) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(text.encode(encoding))
    with pytest.raises(DataError) as raised:
        load_corpus([str(path)], "0")
    words = shlex.split(str(raised.value).rpartition("charlm train ")[2])
    assert words == [str(path), "--encoding", encoding]
    assert load_corpus([words[0]], "0", encoding=words[2]).train == text


@pytest.mark.parametrize(
    ("text", "encoding"), [(QUOTED, "cp1252"), (RUSSIAN, "cp1251"), (RUSSIAN, "koi8_r"), (RUSSIAN, "cp866")]
)
def test_an_older_encoding_is_named_with_a_command_that_can_be_pasted(tmp_path: Path, text: str, encoding: str) -> None:
    path = tmp_path / "my novel's.txt"
    path.write_bytes(text.encode(encoding))
    with pytest.raises(DataError, match=rf"is not UTF-8: .*; it looks like {encoding}: ") as raised:
        load_corpus([str(path)], "0")
    assert shlex.split(str(raised.value).rpartition("charlm train ")[2]) == [str(path), "--encoding", encoding]
    with pytest.raises(DataError, match=rf"it looks like {encoding}: iconv -f ") as raised:
        read_text(str(path))
    run = str(raised.value).rpartition(f"{encoding}: ")[2]
    if shutil.which("iconv"):
        subprocess.run(["sh", "-c", run], check=True)
        assert read_text(f"{path}.utf8") == text


@pytest.mark.skipif(not shutil.which("iconv"), reason="there is no iconv")
@pytest.mark.parametrize("encoding", [*_SINGLE, *_EAST, "utf-16", "utf-32", *WIDE])
def test_iconv_knows_every_encoding_that_may_be_suggested(encoding: str) -> None:
    words = shlex.split(Reader().command("a.txt", encoding))
    raw = "plain".encode(encoding)
    done = subprocess.run(words[:5], input=raw, capture_output=True, check=False)
    assert done.stdout.decode() == "plain", done.stderr


def test_no_encoding_is_suggested_for_bytes_that_may_be_anything() -> None:
    for raw in (b"caf\xe9!", b"\xff" * 300, bytes(range(128, 256)) * 3):
        with pytest.raises(DataError) as raised:
            Reader(corpus=("a.txt",)).decode(raw, "a.txt")
        assert str(raised.value).endswith("; find out its encoding, and read it by that name: --encoding NAME")


@pytest.mark.parametrize(
    ("raw", "kind"),
    [
        (b"%PDF-1.4\n%\xe2\xe3", "a PDF"),
        (b"%PDF-1.4\nplain", "a PDF"),
        (b"PK\x03\x04rest", "a zip file"),
        (b"PK\x03\x04..word/document.xml", "a Word document"),
        (b"PK\x03\x04..mimetypeapplication/epub+zip", "an EPUB book"),
        (b"\x89PNG\r\n\x1a\n\0", "a PNG image"),
    ],
)
def test_a_file_of_another_kind_is_called_what_it_is(tmp_path: Path, raw: bytes, kind: str) -> None:
    path = tmp_path / "some file"
    path.write_bytes(raw)
    for encoding in ("utf-8", "latin-1"):
        with pytest.raises(DataError, match=rf"some file is {kind}; nothing was written; "):
            load_corpus([str(path)], "0", encoding=encoding)
    (tmp_path / "text").write_text(ENGLISH)
    assert load_corpus([str(tmp_path)], "0").remarks == (f"skipped {path}: {kind}",)


def test_a_folder_is_read_in_the_encoding_and_binary_files_are_still_skipped(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(QUOTED.encode("cp1252"))
    (tmp_path / "b").write_bytes(b"\0\1\2\3")
    with pytest.raises(DataError, match=r"/a: it looks like cp1252: charlm train .* --encoding cp1252$"):
        load_corpus([str(tmp_path)], "0")
    corpus = load_corpus([str(tmp_path)], "0", encoding="cp1252")
    assert (corpus.train, corpus.remarks) == (QUOTED, (f"skipped {tmp_path}/b: binary",))
    (tmp_path / "a").write_bytes(QUOTED.encode("utf-16"))
    corpus = load_corpus([str(tmp_path)], "0", encoding="utf-16")
    assert (corpus.train, corpus.remarks) == (QUOTED, (f"skipped {tmp_path}/b: not UTF-16 at byte 0",))


def test_a_text_in_utf8_is_not_read_as_another_encoding_without_a_word() -> None:
    with pytest.raises(DataError, match=r"it is UTF-8: leave --encoding out$"):
        Reader("ascii", ("a.txt",)).decode(b"caf\xc3\xa9", "a.txt")
    with pytest.raises(DataError, match=r"it is UTF-8: all files must be in one encoding$"):
        Reader("ascii", ("a.txt", "b.txt")).decode(b"caf\xc3\xa9", "a.txt")


def test_a_run_in_another_encoding_is_resumed_and_its_text_found_as_it_was_read(tmp_path: Path) -> None:
    path, held = tmp_path / "a.txt", tmp_path / "held.txt"
    path.write_bytes(QUOTED.encode("cp1252"))
    held.write_bytes(QUOTED[:300].encode("cp1252"))
    options = TrainOptions(
        encoding="windows-1252", val=held, hidden=8, layers=1, steps=4, threads=1, device="cpu", precision="fp32"
    )
    charlm.train(path, checkpoints=tmp_path / "runs", stop=iter([None, None, "enough"]).__next__, **options)
    done = charlm.train(path, name="a", checkpoints=tmp_path / "runs", resume=True)
    assert (done.reason, done.config.data.encoding) == ("done", "cp1252")
    model = charlm.load(done.checkpoint)
    assert own_corpus(model.checkpoint, done.checkpoint).train == QUOTED
    assert model.was_trained_on(QUOTED)
    moved = held.rename(tmp_path / "moved.txt")
    assert own_corpus(model.checkpoint, done.checkpoint, [str(path), str(moved)]).val == QUOTED[:300]
    with pytest.raises(ConfigError, match="--encoding koi8-r contradicts the run, which has --encoding cp1252"):
        charlm.train(path, checkpoints=tmp_path / "runs", resume=True, encoding="koi8-r")


def test_standard_input_in_another_encoding_is_kept_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(QUOTED.encode("utf-16"))))
    done = charlm.train("-", checkpoints=tmp_path, encoding="utf-16", hidden=8, layers=1, steps=2, threads=1)
    assert str(own_corpus(charlm.load(done.checkpoint).checkpoint, done.checkpoint).train) in QUOTED


def test_on_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "old text.txt").write_bytes(QUOTED.encode("cp1252"))
    one_line(command("train", "old text.txt", cwd=tmp_path), 3, "charlm train 'old text.txt' --encoding cp1252")
    one_line(command("train", "old text.txt", "--encoding", "cp-1252", cwd=tmp_path), 2, "did you mean cp1252")
    asked = command("novelty", "--text", "old text.txt", cwd=tmp_path)
    one_line(asked, 3, "iconv -f cp1252 -t utf-8 'old text.txt' > 'old text.txt.utf8'")


def test_a_byte_order_mark_of_a_prime_is_no_character(tmp_path: Path) -> None:
    path = tmp_path / "prime.txt"
    path.write_bytes(codecs.BOM_UTF8 + b"The quick \r\n")
    assert _prime(None, str(path)) == "The quick \r\n"
