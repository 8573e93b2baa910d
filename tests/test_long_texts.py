"""A text that is too long for memory is scored block by block, with the figures of the same text in memory."""

from __future__ import annotations

import csv
import io
import json
import math
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from on_disk import TINY, read_in_pieces
from oracles import networks_by_tokenizer

import charlm
from charlm.cli import score as command
from charlm.cli.main import run
from charlm.config import WordConfig
from charlm.errors import DataError, StorageError
from charlm.evaluation import comparison
from charlm.evaluation.columns import words_in
from charlm.evaluation.passages import Passage, WholeWords, passage_of
from charlm.evaluation.score import BlockReader, Scorable, exact_nats
from charlm.evaluation.surprisal import SurprisalReader, surprisal
from charlm.report.row_writer import RowWriter
from charlm.storage.durable import writing
from charlm.text import large
from charlm.text.corpus import read_text
from charlm.text.large import open_text
from charlm.text.stored import StoredText, line_blocks
from charlm.text.tokenizer import ByteTokenizer, Tokenizer

TEXT: Final = "".join(
    f"{number} bottles of bière on the wall… “{number * 7 % 31}” ▁ of beer,\n  take one's 3.14 down\n"
    for number in range(300)
)
SCORED: Final = "  \n" + TEXT[3000:16000].replace("wall", "Ω🙂all") + "and no more \n\n"
KINDS: Final = ["char", "byte", "sentencepiece"]
FIGURES: Final = ("characters", "bytes", "words", "tokens", "unknown_characters")


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def long(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Every text is a long one, and is read in blocks of some hundred characters."""
    read_in_pieces(monkeypatch)
    monkeypatch.setattr(comparison, "_LONG", 0)
    monkeypatch.setattr(comparison, "_CELL", 16)
    return monkeypatch


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with models of each tokenizer, and the text that is scored."""
    folder = tmp_path_factory.mktemp("models")
    (folder / "train.txt").write_text(TEXT, encoding="utf-8", newline="")
    (folder / "scored.txt").write_text(SCORED, encoding="utf-8", newline="")
    for kind in KINDS:
        size = {"vocab_size": 400} if kind == "sentencepiece" else {}
        options: dict[str, Any] = {**TINY, **size, "tokenizer": kind}
        charlm.train(folder / "train.txt", checkpoints=folder, name=kind, val="0.2", **options)
    return folder


def evaluated(place: Path, *arguments: str) -> list[dict[str, Any]]:
    """The rows of `charlm eval --json`."""
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", out)
        assert run(["eval", "--json", "--checkpoints", str(place), "--device", "cpu", "-q", *arguments]) == 0
    rows: list[dict[str, Any]] = json.loads(out.getvalue())["results"]
    return rows


# eval --text


@pytest.mark.parametrize("kind", KINDS)
def test_eval_has_the_figures_of_the_text_in_memory(
    place: Path, kind: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [str(place / "scored.txt"), str(place / "train.txt")]
    given = [kind, "--text", texts[0], "--text", texts[1], "--dynamic", "--cold-windows", "40"]
    expected = evaluated(place, *given)
    request.getfixturevalue("long")
    monkeypatch.setattr(comparison, "_READ", 130)
    found = evaluated(place, *given)
    assert len(found) == len(expected) == 6
    for row, other in zip(found, expected, strict=True):
        assert (row["text"], row["model"], row["kind"]) == (other["text"], other["model"], other["kind"])
        assert [row[name] for name in FIGURES] == [other[name] for name in FIGURES]
        assert row["nats"] == pytest.approx(other["nats"], rel=1e-5)
        assert (row["interval"] is None) == (kind != "char" and row["kind"] == "network")
        if row["interval"] is not None:
            assert row["interval"] == pytest.approx(other["interval"], abs=0.02)


def test_a_long_text_can_be_scored_in_one_pass(
    place: Path, long: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (found,) = evaluated(place, "char", "--text", str(place / "scored.txt"), "--exact")
    long.setattr(large, "LARGE", 10**6)
    (expected,) = evaluated(place, "char", "--text", str(place / "scored.txt"), "--exact")
    assert found["nats"] == pytest.approx(expected["nats"], rel=1e-7)
    assert run(["eval", "char", "--checkpoints", str(place), "--text", str(place / "train.txt")]) == 0
    assert "was trained on" in capsys.readouterr().err


@pytest.mark.usefixtures("long")
def test_ngram_models_and_models_of_records_have_a_long_text_in_memory(place: Path) -> None:
    given = ["byte", "--text", str(place / "scored.txt")]
    for option in (["--records", "line"], ["--mix"]):
        found = evaluated(place, *given, *option)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(large, "LARGE", 10**6)
            expected = evaluated(place, *given, *option)
        for row, other in zip(found, expected, strict=True):
            assert row["nats"] == pytest.approx(other["nats"], rel=1e-6)
            assert row["interval"] == pytest.approx(other["interval"], rel=1e-6)


def test_a_text_is_stored_once_and_what_is_no_text_is_refused_alike(long: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text(SCORED, encoding="utf-8", newline="")
    first = open_text(str(path))
    assert isinstance(first, StoredText)
    assert str(first) == SCORED
    assert first.words == len(SCORED.split()) + SCORED.count("\n")
    with long.context() as patch:
        patch.setattr(large, "making", None)
        assert str(open_text(str(path))) == SCORED
    long.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(SCORED.encode())))
    assert str(open_text("-")) == SCORED
    path.write_bytes(SCORED.encode() + b"\xff")
    for wrong, error in ((path, DataError), (tmp_path, StorageError), (tmp_path / "none", StorageError)):
        with pytest.raises(error) as expected:
            read_text(str(wrong))
        with pytest.raises(error) as found:
            open_text(str(wrong))
        assert str(found.value).split("; ")[0] == str(expected.value).split("; ")[0]


# Blocks


def in_blocks(model: Scorable, tokenizer: Tokenizer, text: str, size: int) -> np.ndarray[Any, Any]:
    reader = BlockReader(tokenizer)
    blocks = [tokenizer.encode(block).ids for block in line_blocks(text, size)]
    return np.concatenate([reader.nats(model, ids) for ids in blocks])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [120, 5000])
def test_each_token_of_a_block_is_within_a_two_thousandth_of_a_bit_of_one_pass(kind: str, size: int) -> None:
    network, tokenizer = networks_by_tokenizer(TEXT, seed=4)[kind]
    text = SCORED[:1500] if size < 1000 else SCORED
    expected = exact_nats(network, tokenizer, tokenizer.encode(text).ids)
    np.testing.assert_allclose(in_blocks(network, tokenizer, text, size), expected, atol=5e-4 * math.log(2))


class Counting:
    """A model that remembers everything, so that no context suffices."""

    def init_state(self, lanes: int) -> torch.Tensor:
        return torch.zeros(lanes)

    def __call__(self, ids_TB: torch.Tensor, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        seen = state + (ids_TB % 7).float().cumsum(0)
        return torch.stack([torch.sin(seen / 50 + number) for number in range(256)], -1), seen[-1]


def test_a_model_that_forgets_nothing_reads_all_that_was_before() -> None:
    tokenizer = ByteTokenizer()
    expected = exact_nats(Counting(), tokenizer, tokenizer.encode(SCORED).ids)
    found = in_blocks(Counting(), tokenizer, SCORED, 5000)
    np.testing.assert_allclose(found, expected, atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_units_entropy_and_rank_are_those_of_one_pass(kind: str) -> None:
    network, tokenizer = networks_by_tokenizer(TEXT, seed=4)[kind]
    whole = passage_of(surprisal(network, tokenizer, SCORED, forecast=True))
    reader = SurprisalReader(tokenizer)
    parts = [passage_of(reader.read(network, block)) for block in line_blocks(SCORED, 3000)]
    assert "".join(part.text for part in parts) == SCORED
    assert sum(part.unknown for part in parts) == whole.unknown
    for name in ("nats", "entropy", "rank"):
        found = np.concatenate([getattr(part, name) for part in parts])
        np.testing.assert_allclose(found, getattr(whole, name), atol=1e-4)


# Words across passages

ODD: Final = st.text(st.sampled_from("ab'.-3 \n\t,é\u3000"), max_size=40)


def made_up(text: str) -> Passage:
    nats = np.arange(1.0, len(text) + 1) ** 0.5
    return Passage(text, nats, nats * 2, np.arange(len(text)) + 1, np.unique([0, len(text)]))


@settings(derandomize=True, deadline=None, max_examples=150, database=None)
@given(
    text=ODD,
    cuts=st.lists(st.integers(0, 40), max_size=6),
    blank=st.sampled_from(["before", "after", "none"]),
    by=st.sampled_from(["space", "punctuation"]),
)
def test_words_are_the_same_wherever_a_text_is_cut(text: str, cuts: list[int], blank: str, by: str) -> None:
    whole, config = made_up(text), WordConfig(words_by=by, blank=blank)
    expected = words_in(whole, config)
    edges = sorted({0, len(text), *(min(cut, len(text)) for cut in cuts)})
    passages = [whole.part(begin, end) for begin, end in pairwise(edges)]
    cutter = WholeWords(blank)
    found = [words_in(one, config) for one in [*map(cutter.push, passages), cutter.close()] if one is not None]
    for name in ("word", "characters", "bits", "entropy", "rank"):
        joined = [value for table in found for value in table.columns()[name].tolist()]
        assert joined == pytest.approx(expected.columns()[name].tolist())
    rows: list[list[bytes]] = [[], []]
    for got, some in zip(rows, (passages, [whole]), strict=True):
        RowWriter(config, ["m"], None, got.append, several=False).write("x", [[one] for one in some])
    assert b"".join(rows[0]) == b"".join(rows[1])


# score --csv and --words-tsv


def scored(folder: Path, out: Path, *arguments: str) -> dict[str, list[dict[str, str]]]:
    """The rows of both files of `charlm score`."""
    names = {name: str(out / name) for name in ("c.csv", "w.tsv")}
    given = ["score", *arguments, "--text", str(folder / "scored.txt"), "--checkpoints", str(folder), "-q"]
    assert run([*given, "--device", "cpu", "--csv", names["c.csv"], "--words-tsv", names["w.tsv"]]) == 0
    tables = {}
    for name, path in names.items():
        text = Path(path).read_text(encoding="utf-8")
        assert not [left for left in out.iterdir() if left.name not in names]
        kind: dict[str, Any] = {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if name == "w.tsv" else {}
        tables[name] = list(csv.DictReader(io.StringIO(text), **kind))
    return tables


@pytest.mark.parametrize(
    ("models", "options"),
    [
        (["char"], ["--blank", "before", "--words-by", "punctuation"]),
        (["sentencepiece"], ["--blank", "after"]),
        (["char", "byte", "sentencepiece"], ["--blank", "none"]),
        (["byte"], ["--records", "line"]),
    ],
)
def test_rows_are_those_of_the_text_in_memory(
    place: Path, models: list[str], options: list[str], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    expected = scored(place, tmp_path, *models, *options)
    request.getfixturevalue("long")
    found = scored(place, tmp_path, *models, *options)
    assert len(found["c.csv"]) > 10_000
    for name, rows in expected.items():
        assert list(rows[0]) == list(found[name][0])
        for row, other in zip(found[name], rows, strict=True):
            for column, value in row.items():
                if column.startswith(("bits", "entropy")):
                    assert float(value) == pytest.approx(float(other[column]), abs=5e-3)
                elif not column.startswith("rank"):
                    assert value == other[column]


def test_totals_follow_and_two_texts_are_named(
    place: Path, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest
) -> None:
    texts = [str(place / name) for name in ("scored.txt", "train.txt")]
    given = ["score", "char", "byte", "--text", texts[0], "--text", texts[1], "--checkpoints", str(place)]
    said = []
    for _ in range(2):
        assert run([*given, "--device", "cpu", "--csv", "-"]) == 0
        said.append(capsys.readouterr())
        if len(said) == 1:
            request.getfixturevalue("long")
    (in_memory, found), count = said, sum(len(Path(text).read_text(encoding="utf-8")) for text in texts)
    assert len(found.out.splitlines()) == len(in_memory.out.splitlines()) == count + 1
    assert found.out.splitlines()[0] == in_memory.out.splitlines()[0]
    assert "least expected words are listed for texts of up to 8 MiB" in found.err
    totals = [line.split() for line in found.err.splitlines() if ".txt, " in line]
    assert len(totals) == 4
    expected = {tuple(line.split()[:4]) for line in in_memory.err.splitlines() if ".txt, " in line and "." in line[-6:]}
    assert {tuple(line[:4]) for line in totals} == expected


@pytest.mark.parametrize("output", [[], ["--html", "page.html", "--csv", "c.csv"], ["--json"]])
def test_what_shows_a_whole_text_says_how_long_it_may_be(
    place: Path, long: pytest.MonkeyPatch, tmp_path: Path, output: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    long.chdir(tmp_path)
    long.setattr(command, "_SHOWN", 1000)
    given = ["score", "char", "--text", str(place / "scored.txt"), "--checkpoints", str(place), *output]
    assert run(given) == 2
    said = capsys.readouterr().err
    assert f"{len(SCORED):,} characters; " in said
    assert "shows at most 1,000" in said
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_written_piece_by_piece_is_whole_or_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with writing(path) as write:
        write(b"one ")
        assert not path.exists()
        write(b"two")
    assert path.read_bytes() == b"one two"
    with pytest.raises(BrokenPipeError), writing(path) as write:  # noqa: PT012 - what is raised inside
        write(b"three")
        raise BrokenPipeError
    assert [(left.name, left.read_bytes()) for left in tmp_path.iterdir()] == [("a", b"one two")]
    with pytest.raises(StorageError, match="cannot write"), writing(tmp_path / "none" / "a"):
        pass
