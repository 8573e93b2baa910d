"""What is odd about the files of a corpus is said once for each kind, and only where it is so."""

from __future__ import annotations

import random
import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charlm.text.corpus import load_corpus
from charlm.text.remarks import Remark, Skipped, fold, fold_skipped, is_sorted_list

NAMES = st.lists(st.sampled_from("abcdefg"), min_size=1, max_size=12)


def names(count: int, seed: int = 1) -> list[str]:
    draw = random.Random(seed)  # noqa: S311
    return ["".join(draw.choices(string.ascii_lowercase, k=draw.randint(3, 9))) for _ in range(count)]


def lines(words: list[str]) -> str:
    return "".join(f"{word}\n" for word in words)


@pytest.mark.parametrize("count", [200, 5000, 100_000])
def test_a_sorted_list_is_known_and_the_same_shuffled_is_none(count: int) -> None:
    words = names(count)
    assert is_sorted_list(lines(sorted(words)))
    assert is_sorted_list(lines(sorted(words)).replace("\n", "\r\n"))
    assert is_sorted_list(lines(sorted((w.title() if len(w) % 2 else w for w in words), key=str.casefold)))
    assert not is_sorted_list(lines(words))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a\n" * 1000,  # no neighbours that differ
        lines(sorted(names(100))),  # short
        lines([f"{n:04} and so the story went on, and on, and further on" for n in range(500)]),  # long lines
        lines(sorted(names(3000))[:2000] + names(3000)),  # sorted only at the beginning
        "One long line of text. " * 1000,
    ],
)
def test_other_texts_are_no_sorted_lists(text: str) -> None:
    assert not is_sorted_list(text)


def test_a_sorted_list_is_remarked_on_once(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}.txt").write_text(lines(sorted(names(300, seed=number))))
    (remark,) = load_corpus([str(tmp_path)], "0.1").remarks
    assert f"{tmp_path}/0.txt, {tmp_path}/1.txt and {tmp_path}/2.txt have their lines in alphabetical order" in remark
    shuffled = tmp_path / "shuffled.txt"
    shuffled.write_text(lines(names(300)))
    assert load_corpus([str(shuffled)], "0.1").remarks == ()


def test_c1_control_characters_are_remarked_on_once(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("“don’t” ".encode("cp1252").decode("latin-1").encode() * 9)
    (remark,) = load_corpus([str(path)], "0").remarks
    assert remark.startswith(f"{path} has C1 control characters (U+0080 to U+009F)")
    (remark,) = load_corpus([str(path)], "0", encoding="latin-1").remarks


@given(st.lists(st.tuples(st.sampled_from("abcdefgh"), st.sampled_from(["has x", "begins with y"]))))
def test_there_is_one_line_for_each_kind(pairs: list[tuple[str, str]]) -> None:
    folded = list(fold(Remark(*pair) for pair in pairs))
    assert len(folded) == len({what for _, what in pairs})
    for line, what in zip(folded, dict.fromkeys(what for _, what in pairs), strict=True):
        about = [name for name, its in pairs if its == what]
        assert line.startswith(about[0])
        assert len(about) <= 4 or f" and {len(about) - 3} more " in line


@given(
    st.lists(
        st.tuples(st.text("ab/", min_size=1), st.integers(0, 9), st.sampled_from(["binary", "not UTF-8 at byte "]))
    )
)
def test_every_skipped_file_is_counted_and_few_are_named(some: list[tuple[str, int, str]]) -> None:
    skipped = [Skipped(name, f"{why}{place}" if why.endswith(" ") else why) for name, place, why in some]
    said = list(fold_skipped(skipped))
    assert len(said) <= 10
    for kind in {one.kind for one in skipped}:
        count = sum(one.kind == kind for one in skipped)
        if count > 5:
            assert sum(line.startswith(f"skipped {count} files ({kind}): ") for line in said) == 1
        else:
            assert all(f"skipped {one}" in said for one in skipped if one.kind == kind)


def test_thousands_of_binary_files_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a text\n")
    for number in range(3000):
        (tmp_path / f"{number:04}.png").write_bytes(b"\x89PNG\0\0")
    (remark,) = load_corpus([str(tmp_path)], "0").remarks
    first = ", ".join(f"{tmp_path}/000{number}.png" for number in range(3))
    assert remark == f"skipped 3,000 files (a PNG image): {first} and 2,997 more"
