"""A run's own text is found where it was or where it is now, and is known by its content."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from charlm.errors import DataError
from charlm.storage.provenance import find_corpus, keep_stdin
from charlm.storage.records import CorpusRecord
from charlm.storage.runs import Run
from charlm.text.corpus import Corpus, Source, load_corpus
from charlm.text.large import StoredCorpus

TEXT = "The text of a run, which is long enough to be cut.\r\n"


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "book.txt"
    path.write_bytes(TEXT.encode())
    return path


def kept(corpus: Corpus) -> CorpusRecord:
    """A corpus as a checkpoint gives it back."""
    table: dict[str, Any] = json.loads(json.dumps(CorpusRecord.of(corpus).to_json()))
    return CorpusRecord.from_json(table)


def typed(monkeypatch: pytest.MonkeyPatch, content: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content.encode())))


def parts(corpus: Corpus | StoredCorpus) -> tuple[str, str]:
    return str(corpus.train), str(corpus.val)


def test_the_record_says_how_much_there_was_and_where(text: Path) -> None:
    corpus = load_corpus([str(text)], "0.1")
    table = kept(corpus)
    assert (table.train_characters, table.val_characters) == (len(TEXT) * 9 // 10, -(-len(TEXT) // 10))
    assert table.fingerprint == corpus.fingerprint
    assert [(source.path, source.characters) for source in table.sources] == [(str(text), len(TEXT))]


def test_a_text_is_found_at_its_recorded_path_from_anywhere(
    tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    table = kept(load_corpus([text.name], "0.1"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert parts(find_corpus(table, "0.1")) == parts(load_corpus([str(text)], "0.1"))


def test_a_text_that_moved_is_found_at_the_path_given(tmp_path: Path, text: Path) -> None:
    before = load_corpus([str(text)], "0.2")
    moved = text.rename(tmp_path / "moved.txt")
    found = find_corpus(kept(before), "0.2", [str(moved)])
    assert parts(found) == parts(before)
    assert found.sources[0].path == str(moved)


def test_a_folders_texts_are_found_again_whatever_came_beside_them(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / name).write_text(f"{name} holds a text. " * 3)
    before = load_corpus([str(tmp_path)], "0.5")
    (tmp_path / "later").write_text("not part of it")
    assert parts(find_corpus(kept(before), "0.5")) == parts(before)
    with pytest.raises(DataError, match="had 3 files and now has 4"):
        find_corpus(kept(before), "0.5", [str(tmp_path)])


@pytest.mark.parametrize(
    "changed", [TEXT + " ", TEXT[1:], TEXT.replace("\r\n", "\n"), "\ufeff" + TEXT, TEXT.swapcase()]
)
def test_a_changed_text_is_refused_by_name_unless_change_is_allowed(text: Path, changed: str) -> None:
    table = kept(load_corpus([str(text)], "0.1"))
    text.write_bytes(changed.encode())
    with pytest.raises(DataError, match=rf"{text} is not the run's text: {len(TEXT)} .*, {len(changed)} now"):
        find_corpus(table, "0.1")
    assert "".join(parts(find_corpus(table, "0.1", allow_change=True))) == changed


def test_the_one_file_of_several_that_changed_is_named(tmp_path: Path, text: Path) -> None:
    other = tmp_path / "other.txt"
    other.write_text("Another text.")
    table = kept(load_corpus([str(text), str(other)], "0"))
    assert find_corpus(table, "0").train == TEXT + "Another text."
    other.write_text("Another test.")
    with pytest.raises(DataError, match=rf"^{other} is not the run's text"):
        find_corpus(table, "0")


def test_a_text_that_is_split_otherwise_is_not_the_same(text: Path) -> None:
    with pytest.raises(DataError, match="split differently"):
        find_corpus(kept(load_corpus([str(text)], "0.1")), "0.2")


@pytest.mark.parametrize("test", ["0", "0.1"])
def test_a_split_by_whole_files_is_found_again_whatever_came_beside_them(tmp_path: Path, test: str) -> None:
    folder = tmp_path / "speech"
    folder.mkdir()
    for number in range(40):
        (folder / f"{number:02}").write_text(f"Speech {number}.\n")
    before = load_corpus([str(folder)], "0.2", test)
    (folder / "00a").write_text("Not part of it.\n")
    found = find_corpus(kept(before), "0.2", test=test)
    assert (found, found.split) == (before, "files")
    trained_on = [Path(source.path).read_text() for source in kept(before).training_sources]
    assert "".join(trained_on) == before.train
    moved = folder.rename(tmp_path / "moved")
    (moved / "00a").unlink()
    assert (*parts(find_corpus(kept(before), "0.2", [str(moved)], test=test)),) == parts(before)
    with pytest.raises(DataError, match="split differently"):
        find_corpus(kept(before), "0.3", [str(moved)], test=test)


def test_a_run_from_before_files_were_held_out_whole_keeps_its_split(tmp_path: Path) -> None:
    """Its checkpoint says nothing of a split, of a test text or of which source is one."""
    for number in range(40):
        (tmp_path / f"{number:02}").write_text(f"Speech {number}.\n")
    before = load_corpus([str(tmp_path)], "0.2", split="characters")
    table = json.loads(json.dumps(CorpusRecord.of(before).to_json()))
    assert all("test" not in source for source in table["sources"])
    del table["split"], table["test_characters"]
    found = find_corpus(CorpusRecord.from_json(table), "0.2")
    assert parts(found) == parts(before) != parts(load_corpus([str(tmp_path)], "0.2"))


def test_a_test_file_is_found_again_where_it_is_said_to_be_or_among_the_files_given(tmp_path: Path, text: Path) -> None:
    for name in ("held.txt", "last.txt"):
        (tmp_path / name).write_text(f"what {name} says")
    held, last = str(tmp_path / "held.txt"), str(tmp_path / "last.txt")
    before = load_corpus([str(text)], held, last)
    assert find_corpus(kept(before), held, test=last) == before
    moved = str((tmp_path / "last.txt").rename(tmp_path / "moved.txt"))
    for found in (
        find_corpus(kept(before), held, test=last, tested=moved),
        find_corpus(kept(before), held, [moved, str(text)], test=last),
    ):
        assert (*parts(found), found.test) == (TEXT, "what held.txt says", "what last.txt says")
    with pytest.raises(DataError, match=rf"missing: cannot read {last}"):
        find_corpus(kept(before), held, test=last)
    with pytest.raises(DataError, match="test file is missing from its record"):
        find_corpus(kept(load_corpus([str(text)], held)), held, test=last)


def test_a_missing_text_is_bad_data_even_if_change_is_allowed(tmp_path: Path, text: Path) -> None:
    table = kept(load_corpus([str(text)], "0.1"))
    text.unlink()
    with pytest.raises(DataError, match=rf"the run's own text is missing: cannot read {text}.*give its current path"):
        find_corpus(table, "0.1")
    with pytest.raises(DataError, match="missing"):
        find_corpus(table, "0.1", [str(tmp_path / "nowhere.txt")], allow_change=True)


def test_a_validation_file_is_part_of_the_text(tmp_path: Path, text: Path) -> None:
    held = tmp_path / "held.txt"
    held.write_text("what is validated on")
    table = kept(load_corpus([str(text)], str(held)))
    assert parts(find_corpus(table, str(held))) == (TEXT, "what is validated on")
    moved = text.rename(tmp_path / "moved.txt")
    assert parts(find_corpus(table, str(held), [str(moved)])) == (TEXT, "what is validated on")
    held.write_text("what is held back")
    with pytest.raises(DataError, match=rf"^{held} is not the run's text"):
        find_corpus(table, str(held), [str(moved)])
    held.unlink()
    with pytest.raises(DataError, match=rf"missing: cannot read {held}"):
        find_corpus(table, str(held), [str(moved)])


def test_a_validation_file_that_moved_is_found_where_it_is_said_to_be(tmp_path: Path, text: Path) -> None:
    held = tmp_path / "held.txt"
    held.write_text("what is validated on")
    before = load_corpus([str(text)], str(held))
    moved = held.rename(tmp_path / "moved.txt")
    assert parts(find_corpus(kept(before), str(held), held_out=str(moved))) == parts(before)
    moved.write_text("something else")
    with pytest.raises(DataError, match=rf"^{moved} is not the run's text"):
        find_corpus(kept(before), str(held), held_out=str(moved))


def test_files_of_other_runs_among_those_that_are_named_are_passed_over(tmp_path: Path, text: Path) -> None:
    other = tmp_path / "other.txt"
    other.write_text("of another run")
    mine, theirs = (kept(load_corpus([str(path)], "0.1")) for path in (text, other))
    moved, more = tmp_path / "moved.txt", tmp_path / "more.txt"
    text.rename(moved)
    other.rename(more)
    assert parts(find_corpus(mine, "0.1", [str(more), str(moved)]))[0].startswith(TEXT[:8])
    assert parts(find_corpus(theirs, "0.1", [str(more), str(moved)]))[0].startswith("of another")
    with pytest.raises(DataError, match="is not the run's text"):
        find_corpus(mine, "0.1", [str(more)])


def test_a_relative_validation_file_is_found_from_anywhere(
    tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "held.txt").write_text("what is validated on")
    monkeypatch.chdir(tmp_path)
    table = kept(load_corpus([str(text)], "held.txt"))
    monkeypatch.chdir("/")
    assert find_corpus(table, "held.txt").val == "what is validated on"


def test_what_came_from_standard_input_is_kept_with_the_run(
    tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(tmp_path / "run")
    run.folder.mkdir()
    typed(monkeypatch, "typed in\r\n")
    before = keep_stdin(load_corpus(["-", str(text)], "0.1"), run)
    assert run.corpus.read_bytes() == b"typed in\r\n"
    assert [source.path for source in before.sources] == [str(run.corpus), str(text)]
    assert parts(find_corpus(kept(before), "0.1")) == parts(before)


def test_a_validation_text_from_standard_input_is_kept_with_the_run(
    tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(tmp_path / "run")
    run.folder.mkdir()
    typed(monkeypatch, "typed in\r\n")
    before = keep_stdin(load_corpus([str(text)], "-"), run)
    assert parts(find_corpus(kept(before), "-")) == (TEXT, "typed in\r\n")


def test_a_test_text_from_standard_input_is_kept_with_the_run(
    tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(tmp_path / "run")
    run.folder.mkdir()
    typed(monkeypatch, "typed in\r\n")
    before = keep_stdin(load_corpus([str(text)], "0.1", "-"), run)
    found = find_corpus(kept(before), "0.1", test="-")
    assert (*parts(found), found.test) == (*parts(before), "typed in\r\n")


def test_without_standard_input_nothing_is_kept(tmp_path: Path, text: Path) -> None:
    corpus = load_corpus([str(text)], "0.1")
    assert keep_stdin(corpus, Run(tmp_path / "run")) is corpus
    assert list(tmp_path.iterdir()) == [text]


@pytest.mark.parametrize("path", ["", "/", "//", ".", "a\0b"])
def test_a_strangers_checkpoint_may_name_no_file_at_all(tmp_path: Path, path: str) -> None:
    source = Source(path=path, bytes=1, characters=1, sha256="00" * 32, held_out=False)
    with pytest.raises(DataError, match="the run's own text is missing"):
        find_corpus(CorpusRecord(fingerprint="00", sources=(source,)), "0", beside=tmp_path)
