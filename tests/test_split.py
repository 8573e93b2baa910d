"""Parts of a text: disjoint, together the whole, about as large as asked for, and steady when files come and go."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from charlm.errors import DataError
from charlm.text.corpus import Corpus, Source, load_corpus
from charlm.text.split import CHARACTERS, FILES, MANY, SEVERAL, SHORT, cuts, way_of

PROFILE = settings(derandomize=True, deadline=None, max_examples=100, database=None)


def files(lengths: Sequence[int], seed: int = 0) -> list[Source]:
    """Files of these lengths, each with another content."""
    hashes = (hashlib.sha256(f"{seed} {number}".encode()).hexdigest() for number in range(len(lengths)))
    return [Source(str(k), length, length, sha) for k, (length, sha) in enumerate(zip(lengths, hashes, strict=True))]


def part_of(sources: Sequence[Source], val: float, test: float) -> dict[str, str]:
    """The part that each file belongs to, by its hash; fails where a file is cut."""
    found = {}
    for source, cut in zip(sources, cuts(sources, val, test, FILES), strict=True):
        ends = (0, cut.train, cut.val, source.characters)
        (found[source.sha256],) = (name for name, a, b in zip(("train", "val", "test"), ends, ends[1:]) if a < b)  # noqa: B905
    return found


def speeches(folder: Path, count: int, seed: int = 0) -> list[str]:
    """A folder with so many short files, and their contents in the order of their names."""
    lengths = np.random.default_rng(seed).integers(5, 40, count)
    texts = [f"{number}. " + "word " * int(length) + "\n" for number, length in enumerate(lengths)]
    folder.mkdir()
    for number, text in enumerate(texts):
        (folder / f"{number:05}.txt").write_text(text)
    return texts


def parts(corpus: Corpus) -> tuple[str, str, str]:
    return corpus.train, corpus.val, corpus.test


@pytest.mark.parametrize("shares", [(0.1, 0.0), (0.1, 0.1), (0.0, 0.2), (0.3, 0.3)])
@pytest.mark.parametrize("count", [SEVERAL, 30, 300])
def test_no_file_is_cut_and_no_part_that_was_asked_for_is_empty(count: int, shares: tuple[float, float]) -> None:
    for seed in range(20):
        found = part_of(files([100 + k for k in range(count)], seed), *shares)
        wanted = {"train", *(name for name, share in zip(("val", "test"), shares, strict=True) if share)}
        assert len(found) == count
        assert set(found.values()) == wanted


@pytest.mark.parametrize("seed", range(20))
def test_the_share_is_about_what_was_asked_for(seed: int) -> None:
    """A sum of independent choices: within four standard deviations, of files and of characters."""
    sources = files([int(length) for length in np.random.default_rng(seed).integers(50, 300, 2096)], seed)
    found = part_of(sources, 0.1, 0.2)
    for name, share in (("val", 0.1), ("test", 0.2)):
        held = [source.characters for source in sources if found[source.sha256] == name]
        deviation = (share * (1 - share) / len(sources)) ** 0.5
        assert abs(len(held) / len(sources) - share) < 4 * deviation
        assert abs(sum(held) / sum(source.characters for source in sources) - share) < 5 * deviation


@PROFILE
@given(st.lists(st.integers(1, 1000), min_size=60, max_size=120), st.integers(0, 10**6), st.integers(0), st.randoms())
def test_files_that_come_or_go_or_change_places_move_no_other(
    lengths: list[int], seed: int, where: int, rng: random.Random
) -> None:
    sources = files([50 + length for length in lengths], seed)
    before = part_of(sources, 0.1, 0.1)
    new = Source("new", 70, 70, hashlib.sha256(b"new").hexdigest())
    at = where % len(sources)
    after = part_of([*sources[:at], new, *sources[at:]], 0.1, 0.1)
    assert {name: part for name, part in after.items() if name != new.sha256} == before
    rng.shuffle(sources)
    assert part_of(sources, 0.1, 0.1) == before
    assert part_of(sources[1:], 0.1, 0.1).items() <= before.items()


def test_adding_a_test_takes_from_the_training_text_alone() -> None:
    sources = files([100] * 300)
    without, with_test = part_of(sources, 0.1, 0.0), part_of(sources, 0.1, 0.1)
    changed = {(without[name], with_test[name]) for name in without if without[name] != with_test[name]}
    assert changed == {("train", "test")}


def test_equal_files_are_in_one_part_and_count_once() -> None:
    twice = [source for source in files([100] * 40) for _ in range(2)]
    assert len(part_of(twice, 0.2, 0.2)) == 40  # a file in two parts would be cut, or counted twice
    assert way_of(twice) == FILES
    assert way_of(files([100] * (SEVERAL - 1)) * 9) == CHARACTERS


def test_a_file_that_is_most_of_the_text_is_trained_on() -> None:
    for seed in range(40):
        sources = files([100] * 30 + [50_000], seed)
        assert part_of(sources, 0.1, 0.1)[sources[-1].sha256] == "train"


@pytest.mark.parametrize(
    ("lengths", "way"),
    [
        ([143] * 2096, FILES),
        ([143] * SEVERAL, FILES),
        ([143] * (SEVERAL - 1), CHARACTERS),
        ([SHORT] * (MANY - 1), CHARACTERS),
        ([SHORT] * MANY, FILES),
        ([500_000] * 100, FILES),
        ([1_000_000], CHARACTERS),
        ([143] * (SEVERAL - 1) + [0] * 50, CHARACTERS),  # empty files do not count
    ],
)
def test_files_are_held_out_whole_where_they_are_many_or_short(lengths: list[int], way: str) -> None:
    assert way_of(files(lengths)) == way
    assert way_of(files(lengths), CHARACTERS) == CHARACTERS


@pytest.mark.parametrize("wanted", [FILES, CHARACTERS])
def test_a_split_that_was_made_once_stays_what_the_files_become(wanted: str) -> None:
    assert way_of(files([10**6] * 5), wanted) == wanted
    assert way_of(files([143] * 100), wanted) == wanted
    assert way_of(files([10**6]), FILES) == CHARACTERS  # one file cannot be in two parts


def test_whole_files_of_a_folder_are_held_out_and_said_once(tmp_path: Path) -> None:
    texts = speeches(tmp_path / "speech", 400)
    corpus = load_corpus([str(tmp_path / "speech")], "0.1", "0.1")
    by_part: dict[tuple[bool, bool], list[str]] = {}
    for text, source in zip(texts, corpus.sources, strict=True):
        by_part.setdefault((source.held_out, source.test), []).append(text)
    train, val, test = (by_part[key] for key in ((False, False), (True, False), (True, True)))
    assert parts(corpus) == ("".join(train), "".join(val), "".join(test))
    assert corpus.split == FILES
    said = f"validation: {len(val)} of 400 files, chosen by hash; test: {len(test)}"
    assert corpus.remarks == (said,)
    assert load_corpus([str(tmp_path / "speech")], "0").remarks == ()


def test_a_file_that_is_added_to_a_folder_moves_no_other_and_a_moved_folder_none(tmp_path: Path) -> None:
    speeches(tmp_path / "speech", 100)
    before = load_corpus([str(tmp_path / "speech")], "0.1")
    (tmp_path / "speech" / "0.txt").write_text("first of all\n")
    after = load_corpus([str((tmp_path / "speech").rename(tmp_path / "moved"))], "0.1")
    assert {source.sha256 for source in before.sources if source.held_out} <= {
        source.sha256 for source in after.sources if source.held_out
    }
    assert before.val == after.val.replace("first of all\n", "")


@pytest.mark.parametrize(
    ("val", "test", "wanted"),
    [
        ("0.2", "0.1", ("0123456", "78", "9")),
        ("0.1", "0.2", ("0123456", "7", "89")),  # 0.1 + 0.2 is above 0.3 in floating point
        ("0", "0.3", ("0123456", "", "789")),
        ("0.3", "0", ("0123456", "789", "")),
        ("0.45", "0.45", ("0", "1234", "56789")),
    ],
)
def test_training_validation_and_test_text_follow_each_other(
    tmp_path: Path, val: str, test: str, wanted: tuple[str, str, str]
) -> None:
    (tmp_path / "a.txt").write_text("0123456789" * 2)
    doubled = parts(load_corpus([str(tmp_path / "a.txt")], val, test))
    assert "".join(doubled) == "0123456789" * 2
    (tmp_path / "a.txt").write_text("0123456789")
    (tmp_path / "b.txt").write_text("abcdefghij")
    corpus = load_corpus([str(tmp_path / "a.txt"), str(tmp_path / "b.txt")], val, test)
    letters = str.maketrans("0123456789", "abcdefghij")
    if val != "0.45":
        assert parts(corpus) == tuple(part + part.translate(letters) for part in wanted)
    assert corpus.split == CHARACTERS


def test_a_test_file_is_no_part_of_the_others(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).write_text(f"the text of {name}\n")
    a, b, c = (str(tmp_path / name) for name in "abc")
    corpus = load_corpus([a], b, c)
    assert parts(corpus) == ("the text of a\n", "the text of b\n", "the text of c\n")
    assert [(source.held_out, source.test) for source in corpus.sources] == [
        (False, False),
        (True, False),
        (True, True),
    ]
    for val, test in ((b, a), (b, b), ("0", a), ("0.1", a)):
        with pytest.raises(DataError, match=r"has the same content and is (training|validation) text"):
            load_corpus([a], val, test)
    (tmp_path / "b").write_text("")
    with pytest.raises(DataError, match=r"b is empty; .*--test takes a file"):
        load_corpus([a], "0", b)


def test_the_fingerprint_knows_the_test_text_and_is_what_it_was_without_one() -> None:
    old = hashlib.sha256(hashlib.sha256(b"a").digest() + hashlib.sha256(b"b").digest()).hexdigest()
    assert Corpus("a", "b", (), ()).fingerprint == old
    assert len({Corpus("a", "b", (), (), test=test).fingerprint for test in ("", "c", "d")}) == 3


def test_files_that_run_into_each_other_are_remarked_on(tmp_path: Path) -> None:
    for name, text in (("a", "one"), ("b", "two\n"), ("c", ""), ("d", "three")):
        (tmp_path / name).write_text(text)
    said = "1 of 3 files lacks a final line end: the next file begins in the middle of a line"
    assert load_corpus([str(tmp_path)], "0").remarks == (said,)
    assert load_corpus([str(tmp_path / "a")], "0").remarks == ()
