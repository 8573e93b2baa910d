"""Surprisal against the exact score, a softmax by hand and independent totals; the command that shows it."""

from __future__ import annotations

import ast
import csv
import io
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import memoryless_decoder, networks_by_tokenizer, random_network, synthetic_text
from processes import charlm as process

import charlm
from charlm.cli.main import run
from charlm.config import ModelConfig
from charlm.evaluation.score import ScorableDecoder, Score, exact_nats, score
from charlm.evaluation.surprisal import Surprisal, cold_nats, position_losses, surprisal
from charlm.models.network import Network
from charlm.report.character_csv import character_csv
from charlm.report.console import console
from charlm.report.page.page import page
from charlm.report.surprisal import Scored, surprisal_report
from charlm.text.tokenizer import ByteTokenizer, CharTokenizer, Tokenizer, tokenize

LEARNED = synthetic_text(3000, seed=21)
TEXT = "Ω" + synthetic_text(700, seed=22) + "\n\n  \tend “straße” 日本\U0001f600 ▁▁x\r\n" + synthetic_text(500, seed=23)
KINDS = ["char", "byte", "sentencepiece"]
BIT = math.log(2)
Pair = tuple[Network, Tokenizer]


@pytest.fixture(scope="module")
def pairs() -> dict[str, Pair]:
    return networks_by_tokenizer(LEARNED, seed=5)


@pytest.fixture(params=KINDS)
def pair(request: pytest.FixtureRequest, pairs: dict[str, Pair]) -> Pair:
    return pairs[request.param]


def judged(pair: Pair, text: str, **options: Any) -> Surprisal:
    return surprisal(*pair, text, **options)


# sums and units


def test_all_sums_are_the_exact_score(pair: Pair) -> None:
    exact = score(*pair, tokenize(pair[1], TEXT), exact=True)
    found = judged(pair, TEXT)
    assert found.total.nats == pytest.approx(exact.nats, rel=1e-9)
    assert found.total.bits_per_character == pytest.approx(exact.bits_per_character, abs=1e-6)
    assert found.unknown_characters == exact.unknown_characters
    space = sum(found.character_nats[i] for i, character in enumerate(TEXT) if character.isspace())
    for nats in (
        found.unit_nats.sum(),
        found.character_nats.sum(),
        sum(line.nats for line in found.lines()),
        sum(word.nats for word in found.words()) + space,
    ):
        assert nats == pytest.approx(exact.nats, rel=1e-6)


def test_units_are_the_smallest_runs_that_text_and_tokens_share(pair: Pair) -> None:
    found, tokenizer = judged(pair, TEXT), pair[1]
    assert "".join(found.units()) == TEXT
    assert found.spans.shape == (len(found.ids), 2)
    for unit, (text, nats) in enumerate(zip(found.units(), found.unit_nats, strict=True)):
        own = np.flatnonzero(found.unit_of == unit)
        assert own[0] == found.first_tokens[unit]
        assert {tuple(span) for span in found.spans[own]} == {(found.starts[unit], found.starts[unit + 1])}
        assert nats == pytest.approx(found.nats[own].sum(dtype=np.float64))
        if not tokenizer.one_per_character:
            assert b"".join(tokenizer.pieces[token] for token in found.ids[own]) == text.encode()
            assert len(own) == 1 or len(text) == 1


def test_a_character_of_several_bytes_is_their_sum(pairs: dict[str, Pair]) -> None:
    found = judged(pairs["byte"], "é€a\U0001f600")
    assert found.spans.tolist() == [[0, 1]] * 2 + [[1, 2]] * 3 + [[2, 3]] + [[3, 4]] * 4
    assert found.character_nats[1] == pytest.approx(found.nats[2:5].sum())
    np.testing.assert_allclose(found.nats, exact_nats(*pairs["byte"], found.ids))


def test_a_piece_of_several_characters_is_spread_evenly(pairs: dict[str, Pair]) -> None:
    found = judged(pairs["sentencepiece"], TEXT)
    lengths = np.diff(found.starts)
    assert lengths.max() > 1
    assert len(found.ids) > len(lengths), "no character needed several byte pieces"
    unit = int(lengths.argmax())
    spread = found.character_nats[found.starts[unit] : found.starts[unit + 1]]
    np.testing.assert_allclose(spread, found.unit_nats[unit] / lengths[unit])


@settings(max_examples=40)
@given(text=st.text(max_size=30), kind=st.sampled_from(KINDS))
def test_any_text_is_the_join_of_its_units_lines_and_words(pairs: dict[str, Pair], text: str, kind: str) -> None:
    found = judged(pairs[kind], text)
    assert "".join(found.units()) == text
    assert "".join(text[line.start : line.end] for line in found.lines()) == text
    assert [text[word.start : word.end] for word in found.words()] == text.split()
    assert sum(line.nats for line in found.lines()) == pytest.approx(found.total.nats, rel=1e-6)


# alternatives


def test_alternatives_are_a_softmax_by_hand(pair: Pair) -> None:
    network, tokenizer = pair
    found = judged(pair, TEXT[:80], likeliest=10)
    assert found.likeliest is not None
    state, before = network.init_state(1), tokenizer.start
    with torch.inference_mode():
        for token, ids, probabilities in zip(
            found.ids.tolist(), found.likeliest.ids, found.likeliest.probabilities, strict=True
        ):
            logits, state = network(torch.tensor([[before]]), state)
            powers = [math.exp(x) for x in logits[0, 0].tolist()]
            expected = [(1 - tokenizer.escape) * power / math.fsum(powers) for power in powers]
            np.testing.assert_allclose(probabilities, sorted(expected, reverse=True)[:10], rtol=1e-5)
            np.testing.assert_allclose(probabilities, [expected[k] for k in ids], rtol=1e-5)
            assert len(set(ids.tolist())) == 10
            before = token
    plain = judged(pair, TEXT[:80])
    assert plain.likeliest is None
    np.testing.assert_array_equal(found.nats, plain.nats)


def test_alternatives_cross_chunks_and_end_where_requested(pairs: dict[str, Pair]) -> None:
    whole = judged(pairs["char"], TEXT, likeliest=3).likeliest
    part = judged(pairs["char"], TEXT, likeliest=3, within=300).likeliest
    assert whole is not None
    assert part is not None
    assert whole.ids.shape == (len(TEXT), 3)
    np.testing.assert_array_equal(part.ids, whole.ids[:300])
    none = judged(pairs["char"], TEXT, likeliest=3, within=0).likeliest
    assert none is not None
    assert none.probabilities.shape == (0, 3)


def test_no_more_alternatives_than_there_are_and_the_rest_is_the_escape() -> None:
    tokenizer = CharTokenizer.train("aabbc")
    found = surprisal(ScorableDecoder(memoryless_decoder([0.5, 0.3, 0.2])), tokenizer, "ab☃", likeliest=10)
    assert found.likeliest is not None
    assert tokenizer.escape == 0.25
    np.testing.assert_allclose(found.likeliest.probabilities, [[0.375, 0.225, 0.15]] * 3, rtol=1e-6)
    assert found.likeliest.ids.tolist() == [[0, 1, 2]] * 3
    expected = [-math.log(0.375), -math.log(0.225), -math.log(0.25 / (1_112_064 - 3))]
    np.testing.assert_allclose(found.character_nats, expected, rtol=1e-6)
    assert found.unknown_characters == 1


# totals


def test_lines_and_words_equal_an_independent_count(pair: Pair) -> None:
    text = "the cat\n\nthe  dog\r\nand the\tcat"
    found = judged(pair, text)
    bits = (found.character_nats / BIT).tolist()
    lines = [(0, 8), (8, 9), (9, 19), (19, 30)]
    assert [(line.start, line.end) for line in found.lines()] == lines
    for line, (start, end) in zip(found.lines(), lines, strict=True):
        assert line.bits == pytest.approx(sum(bits[start:end]))
        assert line.bits_per_character == pytest.approx(sum(bits[start:end]) / (end - start))
    places = {"the": [0, 9, 23], "cat": [4, 27], "dog": [14], "and": [19]}
    worst = {word.text: word for word in found.worst_words(99)}
    assert worst.keys() == places.keys()
    for word, starts in places.items():
        each = [sum(bits[start : start + 3]) for start in starts]
        assert worst[word].count == len(starts)
        assert worst[word].bits == pytest.approx(sum(each))
        assert worst[word].mean_bits == pytest.approx(sum(each) / len(each))
        assert worst[word].bits_per_character == pytest.approx(sum(each) / len(each) / 3)
    means = [word.bits_per_character for word in found.worst_words(99)]
    assert means == sorted(means, reverse=True)
    assert [word.text for word in found.worst_words(2)] == [word.text for word in found.worst_words(99)][:2]


def test_of_equal_words_those_with_more_bits_come_first() -> None:
    model = ScorableDecoder(memoryless_decoder([0.25] * 4))
    found = surprisal(model, CharTokenizer(" abc", once=0, total=10**9), "a bb c c c ab")
    assert [word.text for word in found.worst_words(5)] == ["c", "ab", "bb", "a"]


def test_of_the_least_expected_words_each_ideograph_is_one() -> None:
    text = "他说：“Ab cd”，日本のコンピュータ\U00020000."
    found = surprisal(ScorableDecoder(memoryless_decoder([0.25] * 4)), CharTokenizer(" abc", once=0, total=10**9), text)
    words = [word.text for word in found.worst_words(99)]
    assert sorted(words, key=text.index) == [
        "他",
        "说",
        "：“Ab",
        "cd”，",
        "日",
        "本",
        "の",
        "コンピュータ",
        "\U00020000",
        ".",
    ]


def test_an_empty_text_has_nothing_of_anything(pair: Pair) -> None:
    found = judged(pair, "", likeliest=10)
    assert (found.total.nats, found.lines(), found.words(), found.units(), found.worst_words(3)) == (0, (), (), [], ())
    assert math.isnan(found.total.bits_per_character)
    assert found.record()["bits_per_character"] is None
    assert found.likeliest is not None
    assert found.likeliest.ids.shape == (0, 10)
    assert position_losses(*pair, "") == ()


def test_a_record_holds_null_where_a_figure_is_none() -> None:
    found = surprisal(
        ScorableDecoder(memoryless_decoder([math.nan, 0.5])), CharTokenizer("ab", once=0, total=9), "ab\nb"
    )
    record = json.loads(json.dumps(found.record(), allow_nan=False))
    assert record["nats"] is None
    assert record["tokens"][0] == ["a", None]
    assert record["tokens"][2][1] > 20
    rows = list(csv.DictReader(io.StringIO(character_csv([Scored("x", found)]))))
    assert rows[0]["bits"] == ""


def test_losses_by_place_are_those_of_segments_read_one_by_one(pair: Pair) -> None:
    rows = position_losses(*pair, TEXT, segment=100)
    assert [(row.first, row.last) for row in rows] == [
        (1, 1), (2, 2), (3, 4), (5, 8), (9, 16), (17, 32), (33, 64), (65, 100)
    ]  # fmt: skip
    parts = [TEXT[at : at + 100] for at in range(0, len(TEXT), 100)]
    alone = [judged(pair, part).character_nats for part in parts]
    assert len(alone) > 2
    for row in rows:
        own = [nats for part in alone for nats in part[row.first - 1 : row.last]]
        assert row.characters == len(own)
        assert row.bits_per_character == pytest.approx(sum(own) / len(own) / BIT, rel=1e-5)
    assert [(row.first, row.last) for row in position_losses(*pair, "abc")] == [(1, 1), (2, 2), (3, 3)]


def test_cold_windows_are_an_explicit_loop_from_zero_state(pairs: dict[str, Pair]) -> None:
    network, tokenizer = pairs["char"]
    expected = []
    for at in range(0, len(TEXT), 64):
        state, before = network.init_state(1), tokenizer.start
        for token in tokenizer.encode(TEXT[at : at + 64]).ids.tolist():
            logits, state = network(torch.tensor([[before]]), state)
            probabilities = torch.softmax(logits[0, 0].detach().double(), -1) * (1 - tokenizer.escape)
            known = token < tokenizer.size
            expected.append(-math.log(probabilities[token]) if known else tokenizer.unseen_nats)
            before = token
    assert cold_nats(network, tokenizer, TEXT, window=64) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("window", [1, 7, 100, 10**6])
def test_cold_windows_are_texts_of_their_own(pair: Pair, window: int) -> None:
    alone = [judged(pair, TEXT[at : at + window]).character_nats for at in range(0, len(TEXT), window)]
    assert cold_nats(*pair, TEXT, window=window) == pytest.approx(np.concatenate(alone), rel=1e-4)
    assert cold_nats(*pair, "", window=window).shape == (0,)


# what is shown


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(text: str, monkeypatch: pytest.MonkeyPatch, *, color: bool = True, pipe: bool = False) -> str:
    for name in ("NO_COLOR", "FORCE_COLOR", "COLORTERM", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    tokenizer = ByteTokenizer()
    network = random_network(ModelConfig(hidden=8, layers=1, embedding=4), tokenizer.size, seed=6)
    stream = io.StringIO() if pipe else Screen()
    surprisal_report(console(stream, color=color), [Scored("a.txt", surprisal(network, tokenizer, text))])
    return stream.getvalue()


def test_a_terminal_gets_the_text_in_colours_and_nothing_that_commands_it(monkeypatch: pytest.MonkeyPatch) -> None:
    out = shown("one\ttwo\x1b[31m[red]\u202e\r\nthree \x9b2J", monkeypatch)
    assert "48;5;" in out
    commands = [part[: part.find("m")] for part in out.split("\x1b[")[1:]]
    assert all(set(command) <= set("0123456789;") and not command.startswith("31") for command in commands)
    plain = "".join(part[part.find("m") + 1 :] if n else part for n, part in enumerate(out.split("\x1b[")))
    assert "␛[31m[red]⟨U+202E⟩␍↵\n" in plain
    assert "\x9b" not in out
    assert "⟨U+009B⟩" in plain
    assert "8 bits and more" in plain


@pytest.mark.parametrize("how", [{"color": False}, {"pipe": True}])
def test_without_colours_there_are_totals_of_each_line(monkeypatch: pytest.MonkeyPatch, how: dict[str, bool]) -> None:
    out = shown("one two\nthree\x1b[31m\n" + "x" * 500, monkeypatch, **how)
    assert "\x1b" not in out
    rows = [line.split(maxsplit=3) for line in out.splitlines()[1:4]]
    assert [row[0] for row in rows] == ["1", "2", "3"]
    assert [row[3] for row in rows][:2] == ["one two", "three␛[31m"]
    assert rows[2][3] == "x" * (59 if "pipe" in how else 44) + "…"
    assert "pipe" in how or max(map(len, out.splitlines())) == 80


def test_an_overflowing_perplexity_is_a_dash_as_in_eval_and_a_long_word_is_cut() -> None:
    """The figures of `Score`, which `eval` prints; one word may be as long as a genome."""
    word = "ACGT" * 5000
    places = np.arange(len(word))
    nats = np.full(len(word), 1e4, dtype=np.float32)
    found = Surprisal(word, np.zeros(len(word), np.int32), nats, np.append(places, len(word)), places, 0)
    whole = Score(float(nats.sum(dtype=np.float64)), len(word), len(word), 1, len(word), 0)
    assert math.isinf(whole.perplexity)
    assert found.total.perplexity == whole.perplexity
    stream = io.StringIO()
    surprisal_report(console(stream), [Scored("dna.txt", found)], show_text=False)
    assert stream.getvalue().splitlines()[1].split()[-1] == "-"
    content = page("m", [Scored("dna.txt", found)], CharTokenizer("ACGT", once=0, total=9))
    assert '<th scope="row"><bdi>perplexity per character</bdi></th><td>-</td>' in content
    for shown in (stream.getvalue(), content.split("<caption>Least expected words")[1].split("</table>")[0]):
        assert word[:59] + "…" in shown
        assert word[:61] not in shown


def test_the_csv_gives_every_character_back(pair: Pair) -> None:
    text = 'a,b"c"\'\\ \\n\n\t\r\x00\x1b\u202e\u2028\ufeff日\U0001f600=1+1'
    found = judged(pair, text)
    rows = list(csv.DictReader(io.StringIO(character_csv([Scored("x", found)]))))
    assert list(rows[0]) == ["offset", "character", "bits", "record", "entropy", "rank"]
    assert [int(row["offset"]) for row in rows] == list(range(len(text)))
    cells = [row["character"] for row in rows]
    escaped = [cell if cell[:1] != "\\" else ast.literal_eval(f'"{cell}"') for cell in cells]
    assert "".join(escaped) == text
    assert all(cell.isprintable() for cell in cells)
    np.testing.assert_allclose([float(row["bits"]) for row in rows], found.character_nats / BIT, rtol=1e-8)
    several = list(csv.DictReader(io.StringIO(character_csv([Scored("x", found), Scored("y\n", found)]))))
    assert [row["text"] for row in several] == ["x"] * len(text) + ["y␊"] * len(text)


# the command


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("score")
    (folder / "t.txt").write_text(LEARNED, encoding="utf-8")
    charlm.train(folder / "t.txt", checkpoints=folder / "checkpoints", steps=3, hidden=8, threads=1)
    return folder


def score_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = run(["score", "t", "--threads", "1", *arguments])
    return code, *capsys.readouterr()


def test_json_has_the_figures_of_every_text(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    (place / "a.txt").write_text("tee\n☃ tea", encoding="utf-8")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b""), encoding="utf-8"))
    code, out, _ = score_of(capsys, "--text", "a.txt", "--text", "-", "--text", "t.txt", "--json", "--words", "3")
    assert code == 0
    report = json.loads(out, parse_constant=pytest.fail)
    assert report["schema"] == "charlm.score/1"
    first, empty, last = report["results"]
    assert [row["text"] for row in report["results"]] == ["a.txt", "-", "t.txt"]
    assert "".join(text for text, _ in first["tokens"]) == "tee\n☃ tea"
    assert sum(bits for _, bits in first["tokens"]) == pytest.approx(first["nats"] / BIT)
    assert [line["characters"] for line in first["lines"]] == [4, 5]
    assert {word["word"] for word in first["worst_words"]} == {"tee", "☃", "tea"}
    assert empty["tokens"] == empty["lines"] == empty["worst_words"] == empty["since_cold_start"] == []
    assert empty["bits_per_character"] is None
    assert len(last["worst_words"]) == 3
    model = charlm.load("t", device="cpu", threads=1)
    assert last["nats"] == pytest.approx(model.score(LEARNED, exact=True).nats, rel=1e-9)
    assert sum(row["characters"] for row in last["since_cold_start"]) == last["characters"] == len(LEARNED)


def test_files_are_written_and_the_text_is_not_printed_then(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(place)
    options = ["--html", "o.html", "--csv", "o.csv", "--plot", "o.SVG"]
    code, out, err = score_of(capsys, "--text", "t.txt", *options)
    assert (code, err.count("wrote o.")) == (0, 3)
    assert "least expected words" in out
    assert LEARNED.split("\n")[1][:30] not in out
    assert (place / "o.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert (place / "o.SVG").read_bytes().startswith(b"<?xml")
    code, out, _ = score_of(capsys, "--text", "t.txt", "--csv", "-")
    assert out == (place / "o.csv").read_text(encoding="utf-8")
    assert out.count("\n") == len(LEARNED) + 1
    (place / "link.csv").symlink_to("o.csv")
    assert score_of(capsys, "--text", "t.txt", "--csv", "link.csv", "-q")[0] == 0
    assert (place / "link.csv").is_symlink()
    assert score_of(capsys, "--text", "t.txt", "--csv", "/dev/null", "-q")[0] == 0
    assert Path("/dev/null").is_char_device()
    assert not list(place.glob(".*.tmp"))


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--text", "none.txt"], 74, ["none.txt"]),
        (["--text", "bad.txt"], 3, ["bad.txt", "byte 2"]),
        (["--text", "t.txt", "--html", "no/such/o.html"], 74, ["no/such/o.html"]),
        (["--text", "t.txt", "--csv", "."], 74, ["folder"]),
        (["--text", "t.txt", "--csv", "./t.txt"], 2, ["t.txt"]),
        (["--text", "t.txt", "--csv", "x", "--html", "./x"], 2, ["same name"]),
        (["--text", "t.txt", "--csv", "-", "--json"], 2, ["--json", "--csv"]),
        (["--text", "t.txt", "--plot", "o.gif"], 2, [".png", ".svg"]),
        (["--text", "-", "--text", "-"], 2, ["standard input"]),
        (["--text", "t.txt", "--words", "-1"], 2, ["--words"]),
        (["--text", "t.txt", "--checkpoints", "nowhere"], 4, ["nowhere"]),
        ([], 2, ["--text"]),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_line_and_nothing_is_touched(
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    words: list[str],
) -> None:
    monkeypatch.chdir(place)
    (place / "bad.txt").write_bytes(b"ok\xff")
    found, out, err = score_of(capsys, *arguments)
    assert (found, out, err.count("\n")) == (code, "", 1), err
    assert all(word in err for word in words)
    assert (place / "t.txt").read_text(encoding="utf-8") == LEARNED


def test_in_a_pipe_from_standard_input(place: Path) -> None:
    done = process("score", "--text", "-", "--threads", "1", cwd=place, stdin="one\ntwo\n")
    assert done.returncode == 0
    assert [line.split()[3] for line in done.stdout.splitlines()[1:3]] == ["one", "two"]
    assert "newest run" in done.stderr
    assert "\x1b" not in done.stdout
