"""Files are read in blocks, unpacked, and refused where they are damaged or change; globs say which of a folder."""

from __future__ import annotations

import gzip
import lzma
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from matrix import Tries

import charlm
from charlm.errors import DataError, StorageError
from charlm.storage.provenance import find_corpus
from charlm.storage.records import CorpusRecord
from charlm.text import files, large
from charlm.text.corpus import load_corpus, read_text
from charlm.text.files import Globs, blocks

TEXT: Final = "".join(f"{number} bottles of bière on the wall of the inn…\n" for number in range(3000, 0, -1))
PACK: Final[Mapping[str, Callable[[bytes], bytes]]] = {
    "gz": gzip.compress,
    "xz": lzma.compress,
    "zst": zstandard.ZstdCompressor().compress,
}


@pytest.mark.parametrize("kind", PACK)
def test_a_packed_text_is_the_text_under_any_name(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "no suffix"
    path.write_bytes(PACK[kind](TEXT.encode()))
    assert read_text(str(path)) == TEXT
    (tmp_path / "plain").write_text(TEXT, encoding="utf-8")
    packed, plain = (load_corpus([str(tmp_path / name)], "0.1") for name in ("no suffix", "plain"))
    assert packed.fingerprint == plain.fingerprint
    assert [source.sha256 for source in packed.sources] == [source.sha256 for source in plain.sources]


@pytest.mark.parametrize("kind", PACK)
def test_several_packed_pieces_in_one_file_are_all_read(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"".join(PACK[kind](part.encode()) for part in ("one\n", "", "two\n")))
    assert read_text(str(path)) == "one\ntwo\n"


@pytest.mark.fault(46)
@pytest.mark.parametrize("kind", PACK)
def test_a_packed_file_that_is_cut_short_or_damaged_is_refused(
    tmp_path: Path, kind: str, tries: Tries, many: Callable[[int, int], int]
) -> None:
    path, data = tmp_path / f"a.{kind}", PACK[kind](TEXT.encode())
    count = many(12, 200)
    for number in range(count):
        path.write_bytes(data[: 8 + (len(data) - 9) * number // count])
        with pytest.raises(DataError, match=r"ends too early|damaged"):
            read_text(str(path))
        tries.survived()
    for number in range(count):
        at = 8 + (len(data) - 9) * number // count
        path.write_bytes(data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :])
        with suppress(DataError):
            assert read_text(str(path)) == TEXT or kind == "zst"  # which has no checksum unless it is asked for
        tries.survived()


def test_a_damaged_file_of_a_folder_is_named_and_the_others_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.gz").write_bytes(gzip.compress(TEXT.encode())[:-20])
    (tmp_path / "b.gz").write_bytes(gzip.compress(TEXT.encode()))
    corpus = load_corpus([str(tmp_path)], "0")
    assert corpus.train == TEXT
    (remark,) = corpus.remarks
    assert remark.startswith(f"skipped {tmp_path}/a.gz: a gzip file that ends too early")


@pytest.mark.fault(21)
@pytest.mark.parametrize("change", ["longer", "shorter", "other"])
def test_a_file_that_changes_while_it_is_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    monkeypatch.setattr(files, "READ", 1000)
    path = tmp_path / "a.txt"
    path.write_text(TEXT, encoding="utf-8")
    found = blocks(str(path))
    next(found)
    with path.open("r+b") as file:
        if change == "longer":
            file.seek(0, 2)
            file.write(b"more")
        elif change == "shorter":
            file.truncate(5000)
        else:
            file.truncate(0)
            file.write(TEXT.encode().upper())
    with pytest.raises(DataError, match="changed while it was read"):
        list(found)


def test_what_is_no_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="is a folder"):
        list(blocks(str(tmp_path)))
    with pytest.raises(StorageError, match="No such file"):
        list(blocks(str(tmp_path / "nothing")))
    with pytest.raises(StorageError):
        list(blocks("a\0b"))


@given(st.lists(st.binary(max_size=9), max_size=5), st.lists(st.integers(-1, 12), max_size=12))
def test_a_stream_gives_back_what_was_read_of_it_before(parts: list[bytes], sizes: list[int]) -> None:
    import io

    whole = b"".join(parts)
    file = io.BytesIO(whole)
    stream = files._Stream(file.read(6), file)
    assert b"".join([*(stream.read(size) for size in sizes), stream.read()]) == whole
    assert stream.bytes == len(whole)


def test_globs_choose_the_files_of_a_folder(tmp_path: Path) -> None:
    for name in ("a.txt", "b.md", "notes/c.txt", "notes/draft.txt", "d.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"{name}\n")

    def names(include: str = "", exclude: str = "") -> list[str]:
        corpus = load_corpus([str(tmp_path)], "0", globs=Globs.of(include, exclude))
        return corpus.train.split()

    assert names() == ["a.txt", "b.md", "d.csv", "notes/c.txt", "notes/draft.txt"]
    assert names("*.txt, *.md") == ["a.txt", "b.md", "notes/c.txt", "notes/draft.txt"]
    assert names("*.txt", "draft*") == ["a.txt", "notes/c.txt"]
    assert names(exclude="notes/*") == ["a.txt", "b.md", "d.csv"]


@pytest.mark.parametrize("largest", [None, 0])
@pytest.mark.parametrize(
    ("include", "exclude", "said"),
    [
        ("*.pdf,*.doc", "", "--include '*.pdf,*.doc' leaves none of the 3 files in {}, such as a.md; nothing was "
         "written; try --include '*.md', or leave it out"),
        ("*.txt", "", "--include '*.txt' leaves none of the 3 files in {}, such as a.md; nothing was written; "
         "try --include '*.txt.gz', or leave it out"),
        ("", "*", "--exclude '*' leaves none of the 3 files in {}, such as a.md; nothing was written; "
         "leave it out, or name fewer files by it"),
        ("*.md", "a*,c*", "--exclude 'a*,c*' leaves none of the 2 files in {} that --include '*.md' chooses, such as "
         "a.md; nothing was written; leave it out, or name fewer files by it"),
        ("*.gz", "z*", "{} contains no text files with --include '*.gz' and --exclude 'z*'; "
         "skipped {}/b.txt.gz: a gzip file that ends too early, after 3 bytes"),
    ],
)  # fmt: skip
def test_patterns_that_leave_nothing_of_a_folder_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, include: str, exclude: str, said: str, largest: int | None
) -> None:
    if largest is not None:
        monkeypatch.setattr(large, "LARGE", largest)
    (tmp_path / "a.md").write_text(TEXT)
    (tmp_path / "b.txt.gz").write_bytes(b"\x1f\x8b\x08")
    (tmp_path / "c.md").write_text(TEXT)
    with pytest.raises(DataError) as caught:
        large.open_corpus([str(tmp_path)], "0", globs=Globs.of(include, exclude))
    assert str(caught.value).startswith(said.format(tmp_path, tmp_path))


def test_a_run_remembers_its_globs(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts/a.txt").write_text(TEXT[:2000])
    (tmp_path / "texts/b.log").write_text(TEXT[2000:4000])
    options = {"steps": 2, "hidden": 8, "embedding": 8, "bptt": 16, "device": "cpu", "include": "*.txt"}
    trained = charlm.train(tmp_path / "texts", checkpoints=tmp_path / "runs", **options)  # type: ignore[arg-type]
    recorded = charlm.load(trained.checkpoint).checkpoint
    assert [Path(source.path).name for source in recorded.corpus.sources] == ["a.txt"]
    assert recorded.config.data.include == "*.txt"
    again = charlm.train(tmp_path / "texts", checkpoints=tmp_path / "runs", resume=True)
    assert again.checkpoint == trained.checkpoint


@pytest.mark.parametrize("kind", PACK)
def test_a_run_finds_its_packed_text_again_packed_or_not(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"a.{kind}"
    path.write_bytes(PACK[kind](TEXT.encode()))
    record = CorpusRecord.of(load_corpus([str(path)], "0.1"))
    assert find_corpus(record, "0.1").train == TEXT[: len(TEXT) - len(TEXT) // 10 - 1][: record.train_characters]
    path.unlink()
    path.write_text(TEXT, encoding="utf-8")
    assert find_corpus(record, "0.1").fingerprint == record.fingerprint
