"""Overlaps with the training text are exactly those that a plain search finds."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from processes import charlm, one_line

from charlm import train
from charlm.report.overlap import describe_novelty
from charlm.storage.provenance import training_files
from charlm.text.corpus import load_corpus
from charlm.text.overlap import LENGTHS, Novelty, TrainingIndex


def index(*texts: str) -> TrainingIndex:
    return TrainingIndex([(f"{number}.txt", text) for number, text in enumerate(texts)])


def by_hand(files: Sequence[str], text: str) -> list[int]:
    """The matching statistics by their definition."""
    return [
        max(k for k in range(len(text) - i + 1) if any(text[i : i + k] in file for file in files) or k == 0)
        for i in range(len(text))
    ]


def maximal(files: Sequence[str], text: str, least: int) -> set[tuple[int, int]]:
    """(offset, length) of what stands in a file and cannot be made longer to either side."""

    def stands(begin: int, end: int) -> bool:
        return begin >= 0 and end <= len(text) and any(text[begin:end] in file for file in files)

    return {
        (i, j - i)
        for i in range(len(text))
        for j in range(i + least, len(text) + 1)
        if stands(i, j) and not stands(i - 1, j) and not stands(i, j + 1)
    }


def without_repeats(passages: set[tuple[int, int]], places: list[int]) -> set[tuple[int, int]]:
    """Those that do not overlap the same training passage as it occurred before."""
    before: dict[tuple[int, int], int] = {}
    kept = set()
    for offset, length in sorted(passages):
        if offset - before.get((places[offset], length), -length) >= length:
            kept.add((offset, length))
        before[places[offset], length] = offset
    return kept


def check(files: Sequence[str], text: str) -> Novelty:
    """All that must hold of any report, whatever the texts."""
    searched, whole = index(*files), "".join(files)
    lengths, places = searched.matching_statistics(text)
    assert lengths.tolist() == by_hand(files, text)
    for i, (length, place) in enumerate(zip(lengths.tolist(), places.tolist(), strict=True)):
        assert not length or whole[place : place + length] == text[i : i + length]
    found = searched.novelty(text)
    assert found.characters == len(text)
    assert (found.longest.length if found.longest else 0) == max(lengths.tolist(), default=0)
    expected = maximal(files, text, LENGTHS[0])
    listed = without_repeats(expected, places.tolist())
    assert [(-p.length, p.offset) for p in found.passages] == sorted((-k, i) for i, k in listed)
    for k in LENGTHS:
        inside = {i + j for i, length in expected if length >= k for j in range(length)}
        assert found.shares[k] == pytest.approx(len(inside) / len(text) if text else 0)
    for overlap in (*found.passages, *([found.longest] if found.longest else [])):
        assert overlap.passage == text[overlap.offset : overlap.offset + overlap.length]
        number = int(overlap.file.removesuffix(".txt"))
        place = overlap.training_offset - sum(map(len, files[:number]))
        assert files[number][place : place + overlap.length] == overlap.passage
        assert overlap.line == files[number].count("\n", 0, place) + 1
    return found


letters = st.text(alphabet="ab\n", max_size=40)


@given(st.lists(letters, max_size=4), letters)
@example([], "a")
@example(["", ""], "")
@example(["a"], "a")
@example(["ab", "ba"], "abba")
def test_matches_are_those_found_by_hand(files: list[str], text: str) -> None:
    check(files, text)


@given(st.text(alphabet="ab", max_size=12), st.integers(1, 30), st.text(alphabet="abc", max_size=12))
@example("ab", 30, "")
@example("a", 30, "a")
def test_texts_that_repeat_themselves(unit: str, times: int, rest: str) -> None:
    """Here many places match equally far and overlaps are long, so that all of the doubling is needed."""
    check([unit * times + rest, rest + unit * 3], rest + unit * (times // 2) + rest)


@given(st.lists(st.text(max_size=20), max_size=3), st.text(max_size=20))
def test_any_characters_at_all(files: list[str], text: str) -> None:
    check(files, text)
    check([*files, text], text)


def test_many_passages_of_every_length() -> None:
    rng = random.Random(5)  # noqa: S311
    files = ["".join(rng.choices("abcdefgh\n", k=300)) for _ in range(3)]
    text = "".join(
        file[begin : begin + rng.randrange(1, 130)] for file in files * 2 for begin in [rng.randrange(len(file))]
    )
    found = check(files, text)
    assert found.passages[0].length > 100
    assert 0 < found.shares[100] < found.shares[50] < found.shares[20] < 1


def prose(size: int, seed: int) -> str:
    """Letters at random, and nothing of twenty characters that another seed has."""
    rng = random.Random(seed)  # noqa: S311
    return "".join(rng.choices("abcdefghijklmnopqrstuvwxyz      \n", k=size))


def test_a_planted_quotation_is_found_where_it_stands() -> None:
    training, quoted = prose(30_000, 1), prose(20_000, 2)
    quotation = training[12_345:12_545]
    text = quoted[:5000] + "#" + quotation + "#" + quoted[5000:]
    found = index(training).novelty(text)
    assert found.longest is not None
    assert found.passages == (found.longest,)
    assert (found.longest.offset, found.longest.length, found.longest.training_offset) == (5001, 200, 12_345)
    assert found.longest.passage == quotation
    assert found.longest.line == training[:12_345].count("\n") + 1
    assert found.shares == dict.fromkeys(LENGTHS, 200 / len(text))


def test_a_large_text_agrees_with_a_plain_search() -> None:
    """More than one block of comparisons, and more than eight bits of codes."""
    rng = random.Random(9)  # noqa: S311
    training = "".join(chr(0x4E00 + rng.randrange(300)) for _ in range(40_000))
    text = "".join(training[p : p + rng.randrange(1, 60)] for p in rng.choices(range(40_000), k=1000))
    lengths, places = index(training).matching_statistics(text)
    for i, (length, place) in enumerate(zip(lengths.tolist(), places.tolist(), strict=True)):
        assert training.startswith(text[i : i + length], place)
        if i % 50 == 0 and i + length < len(text):
            assert text[i : i + length + 1] not in training
    # What begins a character later ends no earlier.
    assert (np.diff(lengths + np.arange(len(lengths))) >= 0).all()


def test_no_match_runs_from_one_file_into_the_next() -> None:
    first, second = "The first file ends with these words, ", "and with these the second begins."
    found = check([first, second], first + second)
    assert {overlap.passage for overlap in found.passages} == {first, second}
    assert [(p.file, p.training_offset) for p in found.passages] == [("0.txt", 0), ("1.txt", len(first))]
    assert check([first + second], first + second).passages[0].length == len(first + second)


def test_characters_beyond_the_first_plane_count_as_one() -> None:
    quotation = "𝒜𝓁𝒾𝒸ℯ 🐇🎩 𐍈 was beginning to get"
    found = check(["🐇🎩\n" + quotation + "🫖", "z"], "🎩" + quotation + "!")
    assert [(p.offset, p.length, p.training_offset, p.line) for p in found.passages] == [(1, len(quotation), 3, 2)]
    assert check(["e\u0301t\u00e9 e\u0301t\u00e9"], "\u00e9te\u0301").passages == ()  # nothing is normalised


def test_a_text_that_is_the_training_text_is_one_passage() -> None:
    text = "It was the best of times, it was the worst of times.\n" * 3
    found = check([text], text)
    assert [(p.offset, p.length, p.training_offset, p.line) for p in found.passages] == [(0, len(text), 0, 1)]
    assert found.shares == {20: 1, 50: 1, 100: 1}


@pytest.mark.parametrize("files", [[], [""], ["abc"], ["a longer training text than that"]])
@pytest.mark.parametrize("text", ["", "abc", "Ω", "longer training"])
def test_what_is_too_short_has_no_passages(files: list[str], text: str) -> None:
    found = check(files, text)
    assert found.passages == ()
    assert found.shares == {20: 0, 50: 0, 100: 0}


@pytest.mark.parametrize("unit", ["A", "ab", "abcde", "It rains. "])
def test_a_run_that_is_longer_than_in_training_is_one_passage(unit: str) -> None:
    """Its overlaps would have as many characters as the square of its length; so had the comparisons."""
    rest = prose(500, 4)
    times = 40_000 // len(unit)
    found = index(unit * (times // 2) + rest).novelty(unit * times + rest)
    run = len(unit) * (times // 2)
    assert [p.length for p in found.passages] == [run + len(rest), run]
    assert found.passages[1].passage == unit * (times // 2)
    assert found.shares == dict.fromkeys(LENGTHS, 1.0)
    assert len(json.dumps(found.record())) < 5 * found.characters


def test_the_report_grows_with_the_text_even_where_passages_overlap_much() -> None:
    """Here training has the text's windows, each in a file of its own."""
    text = prose(600, 5)
    found = index(*(f"{text[i : i + 100]}#" for i in range(0, 500, 3))).novelty(text)
    record = found.record()
    passages: Any = record["passages"]
    assert len(passages) > 100
    assert sum(len(one["passage"] or "") for one in passages) <= 4 * len(text)
    given = [one["passage"] is not None for one in passages]
    assert given == sorted(given, reverse=True)
    assert given[0]
    for one in passages:
        assert one["passage"] in (None, text[one["offset"] : one["offset"] + one["length"]])


@given(st.lists(st.tuples(st.sampled_from(["a", "b", "ab", "ba", "aab"]), st.integers(1, 12)), max_size=4), st.data())
def test_runs_within_runs_agree_with_a_plain_search(parts: list[tuple[str, int]], data: st.DataObject) -> None:
    text = "".join(unit * times for unit, times in parts)
    cut = data.draw(st.integers(0, len(text)))
    lengths, _ = index(text[cut:], "ab" * 10).matching_statistics(text)
    assert lengths.tolist() == by_hand([text[cut:], "ab" * 10], text)


def test_one_index_serves_several_texts() -> None:
    searched = index("a training text, which stays as it is")
    first = searched.novelty("which stays as it is")
    assert searched.novelty("something else").passages == ()
    assert searched.novelty("which stays as it is") == first


@pytest.mark.parametrize("test", ["0", "0.2"])
@pytest.mark.parametrize("val", ["0", "0.1", "0.25", "file"])
def test_only_the_training_part_of_each_file_is_searched(tmp_path: Path, val: str, test: str) -> None:
    contents = {"a.txt": "0123456789" * 7, "b.txt": "abcdefghi", "empty.txt": "", "held.txt": "held out"}
    for name, content in contents.items():
        (tmp_path / name).write_text(content)
    corpus = load_corpus(
        [str(tmp_path / name) for name in ("a.txt", "empty.txt", "b.txt")],
        str(tmp_path / "held.txt") if val == "file" else val,
        test,
    )
    files = training_files(corpus, val, test)
    assert "".join(text for _, text in files) == corpus.train
    assert [Path(name).name for name, _ in files] == ["a.txt", "empty.txt", "b.txt"]
    assert all(contents[Path(name).name].startswith(text) for name, text in files)


def test_files_that_are_held_out_whole_are_not_searched(tmp_path: Path) -> None:
    for number in range(40):
        (tmp_path / f"{number:02}").write_text(f"Speech {number}.\n")
    corpus = load_corpus([str(tmp_path)], "0.2", "0.2")
    files = training_files(corpus, "0.2", "0.2")
    assert files == [(source.path, Path(source.path).read_text()) for source in corpus.sources if not source.held_out]
    assert 10 < len(files) < 40


def test_a_report_in_words() -> None:
    files = [prose(400, 3)]
    for size, words in [(10, "No 20"), (30, "turns of phrase"), (60, "sentences"), (200, "100.0 % of this text")]:
        assert words in describe_novelty(index(*files).novelty(files[0][:size]))
    assert "empty" in describe_novelty(index(*files).novelty(""))


def run_on_two_files(folder: Path) -> Path:
    """The folder, with a run in it that is called two."""
    files = [folder / "first.txt", folder / "second.txt"]
    for seed, path in enumerate(files, start=1):
        path.write_text(prose(2000, seed))
    options: dict[str, Any] = {"steps": 1, "hidden": 8, "batch": 2, "bptt": 8, "precision": "fp32", "threads": 1}
    train(*files, name="two", checkpoints=folder / "checkpoints", device="cpu", **options)
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_on_two_files(tmp_path_factory.mktemp("novelty"))


def test_the_command_shows_a_planted_quotation_and_where_it_comes_from(place: Path) -> None:
    source = (place / "second.txt").read_text()
    (place / "text.txt").write_text("# " + source[500:700] + " #")
    done = charlm("novelty", "two", "--text", "text.txt", cwd=place)
    assert (done.returncode, done.stderr) == (0, "")
    line = source.count("\n", 0, 500) + 1
    assert f"200 characters from character 3: {place / 'second.txt'}, line {line}" in done.stdout
    assert source[500:600].replace("\n", "␊") in done.stdout
    assert "98.0 %" in done.stdout
    report = json.loads(charlm("novelty", "--text", "text.txt", "--json", cwd=place).stdout)
    assert (report["schema"], report["characters"], report["longest"]) == ("charlm.novelty/1", 204, 200)
    assert report["shares"] == {"20": 200 / 204, "50": 200 / 204, "100": 200 / 204}
    assert report["passages"] == [report["longest_overlap"]]
    assert report["passages"][0] == {
        "offset": 2,
        "length": 200,
        "training_offset": 1800 + 500,
        "file": str(place / "second.txt"),
        "line": line,
        "passage": source[500:700],
    }


def test_the_command_reads_standard_input_and_validation_text_is_new(place: Path) -> None:
    held_out = (place / "first.txt").read_text()[1800:]
    done = charlm("novelty", "two", "--text", "-", "--json", cwd=place, stdin=held_out)
    report = json.loads(done.stdout)
    assert (report["text"], report["characters"], report["passages"]) == ("-", 200, [])
    assert 0 < report["longest"] < 20
    empty = charlm("novelty", "two", "--text", "-", "--json", cwd=place, stdin="")
    assert (empty.returncode, empty.stderr) == (0, "")
    report = json.loads(empty.stdout)
    assert (report["characters"], report["longest"], report["longest_overlap"]) == (0, 0, None)
    assert report["shares"] == {"20": 0, "50": 0, "100": 0}
    assert "The text is empty" in charlm("novelty", "two", "--text", "-", cwd=place, stdin="").stdout


def test_more_passages_than_a_terminal_shows_are_counted_and_nothing_is_obeyed(place: Path) -> None:
    source = (place / "first.txt").read_text()
    text = "\x1b[31m".join(source[begin : begin + 30] for begin in range(0, 360, 30))
    done = charlm("novelty", "two", "--text", "-", cwd=place, stdin=text)
    assert "and 2 more passages" in done.stdout
    assert done.stdout.count("first.txt, line") == 10
    assert "\x1b" not in done.stdout


def test_a_training_text_that_moved_or_changed(tmp_path: Path) -> None:
    run_on_two_files(tmp_path)
    (tmp_path / "second.txt").rename(tmp_path / "moved.txt")
    one_line(charlm("novelty", "two", "--text", "first.txt", cwd=tmp_path), 3, "second.txt", "give its current path")
    moved = ["--corpus", "first.txt", "--corpus", "moved.txt"]
    report = json.loads(charlm("novelty", "two", "--text", "moved.txt", "--json", *moved, cwd=tmp_path).stdout)
    assert (report["longest"], Path(report["passages"][0]["file"]).name) == (1800, "moved.txt")
    (tmp_path / "moved.txt").write_text("changed")
    one_line(
        charlm("novelty", "two", "--text", "first.txt", *moved, cwd=tmp_path), 3, "moved.txt", "not the run's text"
    )


def test_mistakes_of_the_command(place: Path) -> None:
    one_line(charlm("novelty", "two", cwd=place), 2, "--text")
    one_line(charlm("novelty", "nobody", "--text", "first.txt", cwd=place), 4, "nobody")
    one_line(charlm("novelty", "two", "--text", "nothing.txt", cwd=place), 74, "nothing.txt")


def test_novelty_of_a_sample_leaves_out_its_prime(place: Path) -> None:
    """A model continues 200 characters of its own corpus greedily; with the prime they would all be overlaps."""
    prime = (place / "first.txt").read_text()[:200]
    options = ["--prime", prime, "--length", "60", "--temperature", "0", "--novelty"]
    done = charlm("sample", "two", *options, "--json", cwd=place)
    found = json.loads(done.stdout)
    (novelty,) = found["novelty"]
    assert novelty["characters"] == 60
    shown = charlm("sample", "two", *options, "--no-echo", cwd=place)
    assert shown.stdout == found["samples"][0][200:]
    assert "longest overlap" in shown.stderr
    several = charlm("sample", "two", *options, "--count", "2", "--json", cwd=place)
    assert len(json.loads(several.stdout)["novelty"]) == 2
