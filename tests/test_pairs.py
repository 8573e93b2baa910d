"""Minimal pairs: how files of them are read, what each text gets, and how judgements are counted."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import charlm
from charlm.cli.main import run
from charlm.errors import DataError
from charlm.evaluation.pairs import Accuracy, Frame, JudgedPair, PairScores, TextBits, frame_of
from charlm.report.pairs import describe_accuracy, pairs_tsv
from charlm.text.pairs import MinimalPair, agreement_pairs, read_pairs
from charlm.text.tokenizer import CharTokenizer

PROFILE = settings(derandomize=True, deadline=None, max_examples=60, database=None)
NAMES = ["emma", "ada", "bea", "ana", "dan", "amanda", "eva", "nan", "bob", "abe"]
TINY: dict[str, Any] = {"steps": 5, "hidden": 12, "layers": 1, "device": "cpu", "precision": "fp32", "threads": 1}
TEXTS = ["the cat is", "a", "two cats are here", "żółw", "the cat are", "the end.", "a" * 300, "no cat"]


@pytest.fixture(scope="module", params=["char", "byte", "sentencepiece", "line", "paragraph"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> charlm.LanguageModel:
    """A model of one text with each tokenizer, and one of records of each kind."""
    folder: Path = tmp_path_factory.mktemp("pairs")
    kind: str = request.param
    lines = [f"the cat is {name}.{'' if kind != 'paragraph' else chr(10)}\n" for name in NAMES * 30]
    (folder / "t.txt").write_text("".join(lines), encoding="utf-8")
    records = kind if kind in ("line", "paragraph") else "none"
    tokenizer = "char" if records != "none" else kind
    options: dict[str, Any] = {"records": records, "tokenizer": tokenizer, **TINY}
    if kind == "sentencepiece":
        options["vocab_size"] = 290
    trained = charlm.train(folder / "t.txt", checkpoints=folder, progress=False, **options)
    return charlm.load(trained.checkpoint, device="cpu")


def alone(model: charlm.LanguageModel, text: str) -> float:
    """The bits of a text and its end, scored alone through the model's own score."""
    if model.records != "none":
        return model.score(text).nats / math.log(2)
    first = len(model.tokenizer.encode("\n").ids)
    return float(model.nats(f"\n{text}\n", exact=True)[first:].sum(dtype=np.float64)) / math.log(2)


def test_each_text_gets_what_it_gets_alone(model: charlm.LanguageModel) -> None:
    found = model.pairs(zip(TEXTS, TEXTS[1:] + TEXTS[:1], strict=True))
    for one in found.judged:
        for text, bits in ((one.pair.better, one.better), (one.pair.worse, one.worse)):
            assert bits.bits == pytest.approx(alone(model, text), rel=1e-5)
            assert bits.characters == len(text) + 1
        assert one.correct == (one.better.bits < one.worse.bits)
    assert found.total.correct == sum(one.better.bits < one.worse.bits for one in found.judged)
    unseen = sum(c not in "".join(NAMES) + "the cat is ." for text in TEXTS for c in text)
    assert found.unknown_characters == (2 * unseen if model.config.data.tokenizer == "char" else 0)


def test_swapped_pairs_turn_the_accuracy_round(model: charlm.LanguageModel) -> None:
    pairs = [(one, other) for one in TEXTS for other in TEXTS if one < other]
    for per_character in (False, True):
        there = model.pairs(pairs, per_character=per_character).total
        back = model.pairs([(worse, better) for better, worse in pairs], per_character=per_character).total
        assert there.accuracy + back.accuracy == pytest.approx(1)
        assert there.interval == pytest.approx([1 - edge for edge in reversed(back.interval)])


def test_per_character_divides_by_the_characters_that_are_charged(model: charlm.LanguageModel) -> None:
    short, long = "a", "the cat is emma. the cat is ada."
    assert model.pairs([(long, short)]).total.correct == 0
    (one,) = model.pairs([(long, short)], per_character=True).judged
    rates = [alone(model, text) / (len(text) + 1) for text in (long, short)]
    assert one.correct == (rates[0] < rates[1])


def test_another_end_is_charged_in_the_place_of_the_usual_one(model: charlm.LanguageModel) -> None:
    """The bits of a text are those of its end without one, and of the end after it."""
    pair = ("the cat is", "the cat are")
    none, blank = (model.pairs([pair], end=end).judged[0] for end in ("", " "))
    assert none.better.characters + 1 == blank.better.characters == 11
    before = frame_of(model.tokenizer, model.records).before
    whole, start = (model.separate_nats([before + text])[0].sum(dtype=np.float64) for text in (pair[0] + " ", ""))
    assert blank.better.bits * math.log(2) == pytest.approx(whole - start, rel=1e-5)


def test_separate_texts_do_not_depend_on_each_other(model: charlm.LanguageModel) -> None:
    together = model.separate_nats([*TEXTS, "", TEXTS[0]])
    for text, nats in zip([*TEXTS, ""], together, strict=False):
        (single,) = model.separate_nats([text])
        assert len(single) == len(model.tokenizer.encode(text).ids)
        np.testing.assert_allclose(nats, single, rtol=1e-5, atol=1e-6)
    assert together[0].tolist() == together[-1].tolist()
    assert model.separate_nats([]) == []


def test_texts_that_differ_in_unseen_characters_alone_are_tied(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("ab\n" * 200)
    model = charlm.load(charlm.train(tmp_path / "t.txt", checkpoints=tmp_path, progress=False, **TINY).checkpoint)
    found = model.pairs([("ażb", "aźb"), ("ab", "aź")]).total
    assert (found.correct, found.ties, found.accuracy) == (1.5, 1, 0.75)
    assert describe_accuracy(found).startswith("The better text is the likelier one in 1 of 2 pairs, and as likely as")


def test_a_vocabulary_without_a_line_end_has_no_frame(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("ab" * 300)
    model = charlm.load(charlm.train(tmp_path / "t.txt", checkpoints=tmp_path, progress=False, **TINY).checkpoint)
    found = model.pairs([("abab", "abba")])
    assert found.frame == Frame("", "")
    assert found.judged[0].better.bits == pytest.approx(model.score("abab").nats / math.log(2), rel=1e-5)


def test_what_is_no_record_is_refused(tmp_path: Path) -> None:
    (tmp_path / "n.txt").write_text("\n".join(NAMES * 9))
    trained = charlm.train(tmp_path / "n.txt", checkpoints=tmp_path, records="line", progress=False, **TINY)
    with pytest.raises(DataError, match=r"pair 2 has '\\n' in it.*--records none"):
        charlm.load(trained.checkpoint).pairs([("a", "b"), ("a\nb", "b")])
    with pytest.raises(DataError, match="pair 1 has two equal texts"):
        charlm.load(trained.checkpoint).pairs([("a", "a")])
    with pytest.raises(DataError, match="there are no pairs"):
        charlm.load(trained.checkpoint).pairs([])


@PROFILE
@given(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=1, max_size=60))
def test_the_interval_holds_what_a_test_would_not_reject(results: list[float]) -> None:
    """The ends are the accuracies whose standard score, against the one found, is 1.96: what Wilson solved for."""
    found = Accuracy(len(results), sum(results), results.count(0.5))
    low, high = found.interval
    assert 0 <= low <= found.accuracy <= high <= 1
    for edge in (low, high):
        if 1e-9 < edge < 1 - 1e-9:
            error = math.sqrt(edge * (1 - edge) / found.pairs)
            assert abs(found.accuracy - edge) / error == pytest.approx(1.96, abs=1e-4)


def test_the_interval_is_near_a_bootstrap_of_the_pairs() -> None:
    results = np.repeat([1.0, 0.0], [150, 50])
    means = np.random.default_rng(1).choice(results, (4000, 200)).mean(axis=1)
    np.testing.assert_allclose(Accuracy(200, 150, 0).interval, np.quantile(means, [0.025, 0.975]), atol=0.01)


def judged(group: str, better: float, worse: float) -> JudgedPair:
    return JudgedPair(MinimalPair("it\tis", "it\\are", group), TextBits(better, 6, 0), TextBits(worse, 7, 1))


def test_accuracies_are_counted_by_hand_in_all_and_by_group() -> None:
    scores = PairScores(
        (judged("b", 1, 2), judged("a", 2, 1), judged("b", 3, 1), judged("a", 1, 1), judged("b", 1, 5)), Frame("", ".")
    )
    assert (scores.total.pairs, scores.total.correct, scores.total.ties, scores.total.accuracy) == (5, 2.5, 1, 0.5)
    assert list(scores.by_group) == ["b", "a"]
    assert [found.accuracy for found in scores.by_group.values()] == [2 / 3, 0.25]
    assert scores.record()["unknown_characters"] == 5
    assert PairScores((judged("", 1, 2),), Frame("", "")).by_group == {}
    rows = [line.split("\t") for line in pairs_tsv(scores.judged, range(1, 6)).splitlines()]
    assert rows[4] == ["4", "a", "it\\tis", "it\\\\are", "1", "1", "6", "7", "0.5"]
    assert {len(row) for row in rows} == {9}


def test_columns_and_objects_say_the_same() -> None:
    pairs = [MinimalPair("it is", "it are", "one"), MinimalPair(" they are ", "they is", 'two, "three"')]
    columns = "\ufeff" + "\r\n\r\n".join("\t".join(pair) for pair in pairs) + "\n"
    objects = "\n".join(
        json.dumps({"sentence_good": better, "sentence_bad": worse, "UID": group, "field": "syntax", "pair_id": 7})
        for better, worse, group in pairs
    )
    assert list(read_pairs(columns).pairs) == list(read_pairs(objects).pairs) == pairs
    assert (read_pairs(columns).lines, read_pairs(objects).lines) == ((1, 3), (1, 2))
    assert {pair.group for pair in read_pairs(objects, group="field").pairs} == {"syntax"}
    assert {pair.group for pair in read_pairs(objects, group="pair_id").pairs} == {"7"}


def test_a_group_is_a_field_that_all_objects_have() -> None:
    first = {"sentence_good": "a", "sentence_bad": "b", "UID": "u", "linguistics_term": "l"}
    second = {"sentence_good": "c", "sentence_bad": "d", "linguistics_term": "m"}
    read = read_pairs(f"{json.dumps(first)}\n{json.dumps(second)}")
    assert [pair.group for pair in read.pairs] == ["l", "m"]
    assert read_pairs('{"sentence_good": "a", "sentence_bad": "b"}').pairs == (MinimalPair("a", "b"),)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "p.tsv has no pairs"),
        (" \n\t\n", "p.tsv has no pairs"),
        ("it is\n", "line 1 of p.tsv has 1 columns, not two texts parted by a tab"),
        ("a\tb\n\nc\td\te\tf\n", "line 3 of p.tsv has 4 columns"),
        ("a\tb\tc\nd\te\n", "line 2 of p.tsv has 2 columns, but line 1 has 3"),
        ("a\tb\nd\te\tf\n", "line 2 of p.tsv has 3 columns, but line 1 has 2"),
        ("a\tb\nc\t \n", "line 2 of p.tsv has an empty text"),
        ("a\tb\nc\tc\n", "line 2 of p.tsv has two equal texts: 'c'"),
        (
            '{"sentence_good": "a"}',
            "line 1 of p.tsv has no sentence_bad; nothing was scored; its fields are sentence_g",
        ),
        ('{"sentence_good": "a", "sentence_bad": ["b"]}', "line 1 of p.tsv has no text as sentence_bad"),
        (r'{"sentence_good": "a\ud800", "sentence_bad": "b"}', "line 1 of p.tsv is no Unicode text: lone surrogate"),
        ('{"sentence_good": "a", "sentence_bad": "b"}\na\tb', "line 2 of p.tsv is no JSON object"),
        ("{" * 9999, "line 1 of p.tsv is no JSON object"),
    ],
)
def test_what_is_no_list_of_pairs_is_refused_by_its_line(
    tmp_path: Path, text: str, words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "p.tsv").write_text(text)
    assert run(["pairs", "none", str(tmp_path / "p.tsv")]) == DataError.exit_code
    out, err = capfd.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert words in err.replace(f"{tmp_path}/", "")
    assert "nothing was scored; " in err


def test_the_pairs_of_subject_and_verb_are_balanced() -> None:
    """In each group, each verb is right as often as it is wrong, so that a model without context gets 50 %."""
    read = agreement_pairs()
    assert (len(read.pairs), read.end) == (50, " ")
    counts = {name: len(list(pairs)) for name, pairs in groupby(read.pairs, key=lambda pair: pair.group)}
    assert counts == {"0 attractors": 14, "1 attractor": 12, "2 attractors": 12, "3 attractors": 12}
    verbs: Counter[tuple[str, str]] = Counter()
    for better, worse, group in read.pairs:
        (start, right), (same, wrong) = better.rsplit(" ", 1), worse.rsplit(" ", 1)
        assert start == same
        assert {right, wrong} in ({"is", "are"}, {"was", "were"}, {"has", "have"})
        verbs[group, right] += 1
        verbs[group, wrong] -= 1
    assert set(verbs.values()) == {0}
    assert len({pair.better for pair in read.pairs}) == 50


def test_an_attractor_has_the_other_number() -> None:
    """By the endings of nouns: of those behind the first preposition, as many as the group says, and no others."""
    preposition = " (?:from|of|to|behind|near|for|over|with|on|by|in|beyond) "
    for better, _, group in agreement_pairs().pairs:
        nouns = re.split(f"{preposition}| and ", better.rsplit(" ", 1)[0])
        subject, *attractors = [bool(re.search(r"(?:[^s]s|men|children)$", noun)) for noun in nouns]
        assert attractors == [not subject] * int(group[0]), better


def test_the_command_prints_the_same_as_python_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("t.txt").write_text("the cat is here.\nthe cats are here.\n" * 40)
    charlm.train("t.txt", progress=False, **TINY)
    Path("p.tsv").write_text("the cat is\tthe cat are\tone\nthe cats are\tthe cats is\tmany\nthe €\tthe £\tmany\n")
    scores = charlm.load("t").pairs(read_pairs(Path("p.tsv").read_text()).pairs)
    assert run(["pairs", "p.tsv", "--json", "--tsv", "out.tsv"]) == 0
    out, err = capfd.readouterr()
    printed = json.loads(out)
    assert {name: printed[name] for name in scores.record()} == scores.record()
    assert "using the newest run" in err
    assert "each text is read by itself, after a line end; its end, a line end, is charged" in err
    assert "2 characters of the texts do not occur in the training text" in err
    assert Path("out.tsv").read_text() == pairs_tsv(scores.judged, [1, 2, 3])
    assert run(["pairs", "t", "p.tsv", "-q"]) == 0
    out, err = capfd.readouterr()
    assert (err, len(out.splitlines())) == ("", 5)
    assert re.search(r"^many +2 +\d", out, re.MULTILINE)


def test_the_shipped_pairs_are_read_by_name_and_a_file_of_that_name_by_its_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("t.txt").write_text("the cat is here.\n" * 40)
    charlm.train("t.txt", progress=False, **TINY)
    Path("agreement").write_text("a\tb\n")
    assert run(["pairs", "t", "agreement", "--json"]) == 0
    shown, err = capfd.readouterr()
    assert (json.loads(shown)["pairs"], json.loads(shown)["end"]) == (50, " ")
    assert "its end, a blank, is charged" in err
    assert run(["pairs", "t", "./agreement", "--json", "-q"]) == 0
    assert json.loads(capfd.readouterr().out)["pairs"] == 1


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["pairs"], 2, "needs FILE; nothing was scored; see charlm pairs --help"),
        (["pairs", "t", "p.tsv", "--tsv", "p.tsv"], 2, "is an input and an output"),
        (["pairs", "t", "p.tsv", "--json", "--tsv", "-"], 2, "two outputs go to standard output"),
        (["pairs", "t", "p.tsv", "--group", "UID"], 3, "no JSON objects"),
        (["pairs", "t", "agreement", "--group", "UID"], 2, "has its groups"),
        (["pairs", "t", "nowhere.tsv"], 74, "cannot read nowhere.tsv"),
        (["pairs", "nowhere", "p.tsv"], 4, "nowhere"),
    ],
)
def test_a_mistake_is_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("p.tsv").write_text("a\tb\n")
    assert run(arguments) == code
    out, err = capfd.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert words in err


def test_the_frame_is_what_the_model_knows() -> None:
    assert frame_of(CharTokenizer.train("a\nb"), "paragraph") == Frame("", "\x03")
    assert frame_of(CharTokenizer.train("a\nb"), "none", "") == Frame("\n", "")
