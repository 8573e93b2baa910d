"""Surprisal by character and by word: against a softmax by hand, sums of the score, and records read one by one."""

from __future__ import annotations

import csv
import io
import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from oracles import memoryless_decoder, networks_by_tokenizer, synthetic_text

import charlm
from charlm.cli.main import run
from charlm.config import WordConfig
from charlm.errors import ConfigError
from charlm.evaluation.columns import WordTable, character_table, word_table
from charlm.evaluation.score import ScorableDecoder, score, text_nats
from charlm.evaluation.surprisal import Places, Surprisal, surprisal
from charlm.keywords import TrainOptions
from charlm.models.network import Network
from charlm.report.character_csv import character_csv
from charlm.report.surprisal import Scored
from charlm.report.word_tsv import word_tsv
from charlm.text.records import as_records, end_of
from charlm.text.tokenizer import ByteTokenizer, CharTokenizer, Tokenizer, tokenize

LEARNED = synthetic_text(3000, seed=31) + "'\".,"
KINDS = ["char", "byte", "sentencepiece"]
RECORDS = ["none", "line", "paragraph", "file"]
BLANKS = ["before", "after", "none"]
DIVISIONS = ["space", "punctuation"]
TEXT = "Ω " + LEARNED[:300] + "\n\n  \tthe “straße” 日本\U0001f600 it's,\u0301 3.14\n\n" + LEARNED[40:90] + "  \n x"
BIT = math.log(2)
Pair = tuple[Network, Tokenizer]


@pytest.fixture(scope="module")
def pairs() -> dict[str, Pair]:
    return networks_by_tokenizer(LEARNED, seed=6)


@pytest.fixture(params=KINDS)
def pair(request: pytest.FixtureRequest, pairs: dict[str, Pair]) -> Pair:
    return pairs[request.param]


def judged(pair: Pair, text: str, records: str = "none", **options: Any) -> Surprisal:
    return surprisal(*pair, as_records(text, records), forecast=True, records=records, **options)


def words_of(found: Surprisal, **options: str) -> WordTable:
    return word_table(found, WordConfig(**options))


def each_token(pair: Pair, text: str) -> list[tuple[float, int]]:
    """Entropy before each token in bits and the token's rank, by a softmax and sorting; read token by token."""
    network, tokenizer = pair
    found = []
    state, before = network.init_state(1), tokenizer.start
    with torch.inference_mode():
        for token in tokenizer.encode(text).ids.tolist():
            logits, state = network(torch.tensor([[before]]), state)
            values = logits[0, 0].double().numpy()
            chances = np.exp(values) / np.exp(values).sum()
            order = [*np.argsort(-values, kind="stable").tolist(), token]
            found.append((-float(chances @ np.log2(chances)), order.index(token) + 1))
            before = token
    return found


# entropy and rank


def test_entropy_and_rank_are_those_of_a_softmax_read_token_by_token(pair: Pair) -> None:
    text = TEXT[:2] + TEXT[-120:]
    found = judged(pair, text).forecast
    assert found is not None
    expected = each_token(pair, text)
    np.testing.assert_allclose(found.entropy, [entropy for entropy, _ in expected], rtol=1e-4)
    assert found.rank.tolist() == [rank for _, rank in expected]
    assert len(set(found.rank.tolist())) > 10


@pytest.mark.parametrize("records", ["line", "paragraph"])
def test_entropy_and_rank_of_records_are_those_of_each_alone(pair: Pair, records: str) -> None:
    whole, end = judged(pair, TEXT, records), end_of(records)
    alone = [each_token(pair, record + end) for record in whole.text.split(end)[:-1]]
    assert len(alone) > 2
    assert whole.forecast is not None
    np.testing.assert_allclose(whole.forecast.entropy, [e for record in alone for e, _ in record], rtol=1e-3)
    assert whole.forecast.rank.tolist() == [rank for record in alone for _, rank in record]


def test_chunks_and_alternatives_change_nothing(pairs: dict[str, Pair]) -> None:
    text = LEARNED[:900]  # chunks are of 256
    plain, both = judged(pairs["char"], text), judged(pairs["char"], text, likeliest=3)
    assert plain.forecast is not None
    assert both.forecast is not None
    assert both.likeliest is not None
    np.testing.assert_array_equal(plain.forecast.rank, both.forecast.rank)
    np.testing.assert_array_equal(plain.forecast.entropy, both.forecast.entropy)
    first = both.forecast.rank == 1
    assert first.any()
    np.testing.assert_array_equal(both.likeliest.ids[:, 0] == both.ids, first)
    assert surprisal(*pairs["char"], text).forecast is None


@pytest.mark.parametrize("records", ["line", "paragraph"])
def test_alternatives_of_records_are_those_of_each_alone(pair: Pair, records: str) -> None:
    end, found = end_of(records), judged(pair, TEXT, records, likeliest=3).likeliest
    texts = as_records(TEXT, records).split(end)[:-1]
    alone = [judged(pair, text, records, likeliest=3).likeliest for text in texts]
    assert found is not None
    ids = np.concatenate([one.ids for one in alone if one is not None])
    chances = np.concatenate([one.probabilities for one in alone if one is not None])
    np.testing.assert_allclose(found.probabilities, chances, rtol=1e-4)
    assert (found.ids == ids).mean() > 0.98  # but where two are equally likely


@pytest.mark.parametrize("records", ["none", "line"])
def test_each_token_is_seen_once_and_never_all_distributions_together(records: str) -> None:
    V, text = 256, "a line of a text\n" * 2000
    tokenizer = ByteTokenizer()
    encoded, largest = tokenizer.encode(text), 0
    seen = np.zeros(len(encoded.ids), dtype=np.int64)

    def watch(logits_TBV: torch.Tensor, targets: Places, places: Places, scored: NDArray[np.bool_]) -> None:
        nonlocal largest
        largest = max(largest, logits_TBV.numel())
        assert (encoded.ids[places[scored]] == targets[scored]).all()
        np.add.at(seen, places[scored], 1)

    model = ScorableDecoder(memoryless_decoder([1 / V] * V))
    text_nats(model, tokenizer, encoded, exact=True, records=records, watchers=[watch])
    assert (seen == 1).all()
    assert largest <= 2**24 // 2 < len(text) * V


def test_of_a_known_distribution() -> None:
    """Of equally likely ones each has the best rank; what is not in the vocabulary comes after all."""
    model = ScorableDecoder(memoryless_decoder([0.5, 0.25, 0.25]))
    found = surprisal(model, CharTokenizer.train("aabbc"), "abc☃", forecast=True).forecast
    assert found is not None
    assert found.rank.tolist() == [1, 2, 2, 4]
    np.testing.assert_allclose(found.entropy, 1.5, rtol=1e-6)


def test_an_end_that_training_never_saw_is_not_every_other_such_character(pairs: dict[str, Pair]) -> None:
    text = "☃ a\n\n☃☃ b\n\nc ☃"
    found = judged(pairs["char"], text, "paragraph")
    assert found.unknown_characters == sum(character not in LEARNED for character in found.text) >= 4 + 3
    alone = [judged(pairs["char"], part, "paragraph").nats for part in text.split("\n\n")]
    np.testing.assert_allclose(found.nats, np.concatenate(alone), rtol=1e-5)
    whole = score(*pairs["char"], tokenize(pairs["char"][1], found.text), records="paragraph")
    assert whole.nats == pytest.approx(found.total.nats, rel=1e-6)


# sums


@pytest.mark.parametrize("records", RECORDS)
@pytest.mark.parametrize("words_by", DIVISIONS)
@pytest.mark.parametrize("blank", BLANKS)
def test_words_and_ends_add_up_to_the_score(pair: Pair, records: str, words_by: str, blank: str) -> None:
    found = judged(pair, TEXT, records)
    table = words_of(found, words_by=words_by, blank=blank)
    whole = score(*pair, tokenize(pair[1], found.text), exact=True, records=records)
    blanks = [
        nats for nats, character in zip(found.character_nats, found.text, strict=True)
        if character.isspace() and character != end_of(records)
    ]  # fmt: skip
    left_out = sum(blanks) if blank == "none" else 0
    assert table.bits.sum() * BIT + left_out == pytest.approx(whole.nats, rel=1e-6)
    assert table.characters.sum() + len(blanks) * (blank == "none") == whole.characters
    assert table.is_end.sum() == found.text.count(end_of(records)) * bool(end_of(records))


@pytest.mark.parametrize("records", ["line", "paragraph"])
@pytest.mark.parametrize("blank", BLANKS)
def test_rows_of_a_record_are_those_of_it_alone(pair: Pair, records: str, blank: str) -> None:
    found = judged(pair, TEXT, records)
    table, end = words_of(found, blank=blank), end_of(records)
    texts = found.text.split(end)[:-1]
    parts = found.record_parts()
    assert len(parts) == len(texts) == table.record[-1]
    for number, (text, part) in enumerate(zip(texts, parts, strict=True), 1):
        own = table.record == number
        alone = words_of(judged(pair, text, records), blank=blank)
        assert table.word[own].tolist() == alone.word.tolist() == [*text.split(), end]
        assert table.number[own].tolist() == alone.number.tolist() == list(range(1, own.sum() + 1))
        np.testing.assert_allclose(table.bits[own], alone.bits, rtol=1e-4)
        assert part.characters == len(text) + 1
        assert part.nats == pytest.approx(score(*pair, tokenize(pair[1], text + end), exact=True).nats, rel=1e-5)


def test_where_blanks_go(pairs: dict[str, Pair]) -> None:
    text = " ab  c\nd \n\n\tef"
    found = judged(pairs["char"], text)
    bits = (found.character_nats / BIT).tolist()
    for blank, spans in {
        "none": [(1, 3), (5, 6), (7, 8), (12, 14)],
        "before": [(0, 3), (3, 6), (6, 8), (8, 14)],
        "after": [(0, 5), (5, 7), (7, 12), (12, 14)],
    }.items():
        table = words_of(found, blank=blank)
        assert table.word.tolist() == ["ab", "c", "d", "ef"]
        assert table.characters.tolist() == [end - start for start, end in spans]
        np.testing.assert_allclose(table.bits, [sum(bits[start:end]) for start, end in spans])
        assert table.record.tolist() == [1] * 4
    lines = judged(pairs["char"], text, "line")
    table = words_of(lines, blank="before")
    assert lines.text == " ab  c\nd \n\tef\n"
    assert table.word.tolist() == ["ab", "c", "\n", "d", "\n", "ef", "\n"]
    assert table.characters.tolist() == [3, 3, 1, 2, 1, 3, 1]
    assert words_of(lines, blank="after").characters.tolist() == [5, 1, 1, 2, 1, 3, 1]
    assert table.record.tolist() == [1, 1, 1, 2, 2, 3, 3]
    assert table.number.tolist() == [1, 2, 3, 1, 2, 1, 2]


@pytest.mark.parametrize("blank", BLANKS)
def test_entropy_and_rank_of_a_word_are_those_of_its_first_character(pair: Pair, blank: str) -> None:
    found = judged(pair, TEXT)
    table, characters = words_of(found, blank=blank), character_table(found)
    starts = [part.start for part in found.words()]
    np.testing.assert_array_equal(table.rank, characters.rank[starts])
    np.testing.assert_array_equal(table.entropy, characters.entropy[starts])
    assert found.forecast is not None
    for unit, (start, end) in enumerate(itertools.pairwise(found.starts.tolist())):  # the unit's first token, for all
        assert set(characters.rank[start:end].tolist()) == {found.forecast.rank[found.first_tokens[unit]]}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('It\'s "done".', ["It's", '"', "done", '"', "."]),
        ("well-known - a", ["well-known", "-", "a"]),
        ("'tis dogs' x--y", ["'", "tis", "dogs", "'", "x", "-", "-", "y"]),
        ("3.14, 1,000. 5", ["3.14", ",", "1,000", ".", "5"]),
        ("e.g. a.b", ["e", ".", "g", ".", "a", ".", "b"]),
        ("e\u0301t नमस्ते می\u200cخواهم l’été", ["e\u0301t", "नमस्ते", "می\u200cخواهم", "l’été"]),
        ("\u2764\ufe0f!snake_case", ["\u2764\ufe0f", "!", "snake_case"]),
        (" \n\t", []),
        ("", []),
    ],
)
def test_words_by_punctuation(pairs: dict[str, Pair], text: str, words: list[str]) -> None:
    assert words_of(judged(pairs["byte"], text), words_by="punctuation").word.tolist() == words


@settings(max_examples=60, deadline=None)
@given(
    text=st.text(st.one_of(st.characters(codec="utf-8"), st.sampled_from(" \n\t.'3a")), max_size=30),
    kind=st.sampled_from(KINDS),
    records=st.sampled_from(["none", "line"]),
    blank=st.sampled_from(BLANKS),
)
def test_any_text(pairs: dict[str, Pair], text: str, kind: str, records: str, blank: str) -> None:
    found = judged(pairs[kind], text, records)
    end = end_of(records)
    records_there = found.text.split(end)[:-1] if end else [found.text]
    spaced, parted = (words_of(found, words_by=by, blank=blank) for by in DIVISIONS)
    expected = [word for record in records_there for word in [*record.split(), *[end] * bool(end)]]
    assert spaced.word.tolist() == expected
    assert "".join(parted.word) == "".join(expected)
    assert parted.is_end.sum() == spaced.is_end.sum()
    if blank != "none" and expected:
        assert spaced.characters.sum() == parted.characters.sum() == len(found.text)
    characters = character_table(found)
    assert "".join(characters.character) == found.text
    assert characters.bits.sum() * BIT == pytest.approx(found.total.nats, rel=1e-6)
    assert ((characters.rank >= 1) & (characters.entropy >= 0)).all()
    texts = [Scored("x", found)]
    rows = word_tsv(WordConfig(blank=blank), texts).split("\n")
    assert {line.count("\t") for line in rows[:-1]} == {6}
    assert len(rows) == len(expected) + 2


def test_the_end_of_a_paragraph_is_no_part_of_its_last_word_or_of_the_next_line(pairs: dict[str, Pair]) -> None:
    found = judged(pairs["char"], "one two\n\nthree\nfour", "paragraph")
    assert found.text == "one two\x03three\nfour\x03"
    assert [found.text[word.start : word.end] for word in found.words()] == ["one", "two", "three", "four"]
    assert {word.text for word in found.worst_words(9)} == {"one", "two", "three", "four"}
    assert [found.text[line.start : line.end] for line in found.lines()] == ["one two\x03", "three\n", "four\x03"]
    assert judged(pairs["char"], "a\x03b").record_edges.tolist() == [0, 3]  # elsewhere it is like any other


# files


def test_the_columns_of_one_model_and_of_several(pairs: dict[str, Pair]) -> None:
    text = "say \\n\t\x1b[1m\n“NA” \u202e"
    own, other = ([Scored("a.txt", judged(pairs[kind], text, "line"))] for kind in ("char", "sentencepiece"))
    config = WordConfig(blank="before")
    rows = list(csv.DictReader(io.StringIO(word_tsv(config, own)), delimiter="\t", quoting=csv.QUOTE_NONE))
    assert list(rows[0]) == ["record", "number", "word", "characters", "bits", "entropy", "rank"]
    assert [row["word"] for row in rows] == ["say", "\\\\n", "\\x1b[1m", "\\n", "“NA”", "\\u202e", "\\n"]
    table = words_of(own[0].surprisal, blank="before")
    np.testing.assert_allclose([float(row["bits"]) for row in rows], table.bits, rtol=1e-8)
    np.testing.assert_allclose([float(row["entropy"]) for row in rows], table.entropy, rtol=1e-8)
    assert [int(row["rank"]) for row in rows] == table.rank.tolist()
    both = list(csv.DictReader(io.StringIO(word_tsv(config, own, other, names=["A", "b\tc"])), delimiter="\t"))
    assert list(both[0])[4:] == ["bits_A", "entropy_A", "rank_A", "bits_b␉c", "entropy_b␉c", "rank_b␉c"]
    assert [row["bits_A"] for row in both] == [row["bits"] for row in rows]
    second = words_of(other[0].surprisal, blank="before")
    np.testing.assert_allclose([float(row["bits_b␉c"]) for row in both], second.bits, rtol=1e-8)


def test_the_csv_of_one_model_and_of_several(pairs: dict[str, Pair]) -> None:
    found = {
        kind: [Scored(name, judged(pairs[kind], text, "line")) for name, text in (("x", "ab\nc"), ("y", "d,"))]
        for kind in ("char", "byte")
    }
    one = list(csv.DictReader(io.StringIO(character_csv(found["char"]))))
    assert list(one[0]) == ["offset", "character", "bits", "text", "record", "entropy", "rank"]
    assert [(row["text"], row["character"], row["record"]) for row in one] == [
        *[("x", "a", "1"), ("x", "b", "1"), ("x", "\\n", "1"), ("x", "c", "2"), ("x", "\\n", "2")],
        *[("y", "d", "1"), ("y", ",", "1"), ("y", "\\n", "1")],
    ]
    both = list(csv.DictReader(io.StringIO(character_csv(found["char"], found["byte"], names=["A", "B"]))))
    figures = ["bits_A", "entropy_A", "rank_A", "bits_B", "entropy_B", "rank_B"]
    assert list(both[0]) == ["offset", "character", "record", *figures, "text"]
    for name in ("bits", "entropy", "rank"):
        assert [row[f"{name}_A"] for row in both] == [row[name] for row in one]
    tables = [character_table(one.surprisal) for one in found["byte"]]
    assert [int(row["rank_B"]) for row in both] == [rank for table in tables for rank in table.rank.tolist()]


def test_what_is_not_finite_or_was_not_computed_is_left_out() -> None:
    model = ScorableDecoder(memoryless_decoder([math.nan, 0.5]))
    found = surprisal(model, CharTokenizer("ab", once=0, total=9), "a b", forecast=True)
    line = word_tsv(WordConfig(), [Scored("x", found)]).splitlines()[1]
    assert line.split("\t")[2:] == ["a", "1", "", "", "3"]
    plain = surprisal(ScorableDecoder(memoryless_decoder([0.5, 0.5])), CharTokenizer("ab", once=0, total=9), "a")
    assert word_tsv(WordConfig(), [Scored("x", plain)]).splitlines()[1].split("\t")[5:] == ["", ""]


# the command and the library


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("columns")
    (folder / "t.txt").write_text(LEARNED, encoding="utf-8")
    (folder / "a.txt").write_text("the tea\nno tea", encoding="utf-8")
    trained: dict[str, TrainOptions] = {"text": {}, "lines": {"records": "line"}, "bytes": {"tokenizer": "byte"}}
    for name, options in trained.items():
        small: TrainOptions = {"steps": 3, "hidden": 8, "threads": 1, **options}
        charlm.train(folder / "t.txt", checkpoints=folder / "checkpoints", name=name, **small)
    return folder


def score_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = run(["score", "--threads", "1", "--text", "a.txt", *arguments])
    return code, *capsys.readouterr()


def test_the_command_writes_what_the_library_returns(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    code, out, _ = score_of(capsys, "lines", "--words-tsv", "-", "--blank", "after", "--words-by", "punctuation")
    assert code == 0
    rows = list(csv.DictReader(io.StringIO(out), delimiter="\t"))
    model = charlm.load("lines", device="cpu", threads=1)
    table = model.words("the tea\nno tea", blank="after", words_by="punctuation")
    assert [row["word"] for row in rows] == ["the", "tea", "\\n", "no", "tea", "\\n"]
    assert [int(row["record"]) for row in rows] == table.record.tolist() == [1, 1, 1, 2, 2, 2]
    assert table.is_end.tolist() == [False, False, True] * 2
    np.testing.assert_allclose([float(row["bits"]) for row in rows], table.bits, rtol=1e-6)
    assert table.bits.sum() * BIT == pytest.approx(model.score("the tea\nno tea").nats, rel=1e-5)
    characters = model.characters("the tea\nno tea")
    assert len(characters) == 15
    assert repr(table) == f"WordTable(4 words: {table.bits.sum():.4f} bits)"
    assert repr(characters) == f"CharacterTable(15 characters: {characters.bits.sum():.4f} bits)"
    assert {len(column) for column in table.columns().values()} == {len(table)} == {6}
    assert list(characters.columns()) == ["character", "record", "bits", "entropy", "rank"]
    with pytest.raises(ConfigError, match=r"--blank must be one of before, after, none"):
        model.words("a", blank="behind")  # type: ignore[arg-type]


def test_several_models_stand_side_by_side(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    code, out, err = score_of(capsys, "text", "bytes", "--words-tsv", "w.tsv", "--csv", "c.csv")
    assert (code, err.count("wrote")) == (0, 2)
    assert [line.split()[:2] for line in out.splitlines()[1:3]] == [["text", "14"], ["bytes", "14"]]
    rows = list(csv.DictReader(io.StringIO((place / "w.tsv").read_text()), delimiter="\t"))
    for name in ("text", "bytes"):
        table = charlm.load(name, device="cpu", threads=1).words("the tea\nno tea")
        np.testing.assert_allclose([float(row[f"bits_{name}"]) for row in rows], table.bits, rtol=1e-5)
    assert (place / "c.csv").read_text().startswith("offset,character,record,bits_text,entropy_text,rank_text,bits_by")
    code, out, _ = score_of(capsys, "text", "lines", "--records", "line", "--words-tsv", "-", "-q")
    assert (code, out.count("\n")) == (0, 7)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["text", "lines", "--csv", "o.csv"], ["reads one text", "records (line)", "--records"]),
        (["text", "bytes"], ["side by side", "--csv", "--words-tsv", "charlm eval"]),
        (["text", "bytes", "--csv", "o.csv", "--html", "o.html"], ["--html shows one model"]),
        (["text", "bytes", "--csv", "o.csv", "--json"], ["--json shows one model"]),
        (["text", "text", "--csv", "o.csv"], ["given twice"]),
        (["text", "checkpoints/text", "--csv", "o.csv"], ["given twice"]),
        (["text", "--blank", "before", "--csv", "o.csv"], ["--blank", "--words-tsv"]),
        (["text", "--words-tsv", "o.tsv", "--words-by", "commas"], ["--words-by must be one of space, punctuation"]),
        (["text", "--words-tsv", "-", "--csv", "-"], ["two outputs go to standard output", "--words-tsv -"]),
        (["text", "--words-tsv", "a.txt"], ["a.txt is an input and an output"]),
    ],
    ids=" ".join,
)
def test_a_mistake_is_one_line_and_nothing_is_written(
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    words: list[str],
) -> None:
    monkeypatch.chdir(place)
    before = sorted(place.iterdir())
    code, out, err = score_of(capsys, *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert all(word in err for word in words), err
    assert sorted(place.iterdir()) == before
