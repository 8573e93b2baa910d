"""Filling gaps: probabilities against brute force, candidates, contexts, and what is refused."""

from __future__ import annotations

import json
import math
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import charlm
from charlm.cli.main import run
from charlm.errors import ConfigError, DataError
from charlm.generation.fill import split_at

TEXT = "abcb ab cab. " * 120
TINY: dict[str, Any] = {
    "hidden": 12,
    "layers": 1,
    "batch": 4,
    "bptt": 16,
    "precision": "fp32",
    "threads": 1,
    "lr": 0.01,
}
Models = tuple[charlm.LanguageModel, charlm.LanguageModel]


def both(folder: Path, text: str, **options: Any) -> Models:
    """A forward and a backward model of a text."""
    (folder / "t.txt").write_text(text)
    made = []
    for name in ("forward", "backward"):
        given = {**TINY, "direction": name, "device": "cpu", "progress": False, **options}
        made.append(charlm.train(folder / "t.txt", name=name, checkpoints=folder, **given).checkpoint)
    forward, backward = (charlm.load(path, device="cpu") for path in made)
    return forward, backward


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return both(tmp_path_factory.mktemp("fill"), TEXT, steps=40)


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> Models:
    lines = "\n".join(f"{a}{b}" for a in ("an", "be", "cab") for b in ("na", "ea", "b", "an") for _ in range(9))
    return both(tmp_path_factory.mktemp("names"), lines, steps=40, records="line", val=0)


def bits(model: charlm.LanguageModel, text: str, begin: int, end: int) -> float:
    """The bits of some characters of a text, from the model's own score of all of it."""
    return float(model.nats(text, exact=True)[begin:end].sum(dtype=np.float64)) / math.log(2)


@pytest.mark.parametrize(("length", "look", "weight"), [(1, 3, 0.5), (2, 0, 0.3), (3, 4, 0.5), (2, 99, 1.0)])
def test_probabilities_are_those_of_all_texts_of_a_small_vocabulary(
    models: Models, length: int, look: int, weight: float
) -> None:
    forward, backward = models
    before, after = "cab. ab", "b ab c?b"  # the ? is in neither vocabulary
    found = forward.fill(before, after, backward, length=length, look=look, weight=weight, candidates=2000, count=2000)
    vocabulary = sorted(set(TEXT))
    assert sorted(one.text for one in found) == ["".join(gap) for gap in product(vocabulary, repeat=length)]
    expected = {}
    for one in found:
        whole, at = before + one.text + after, len(before)
        ours = bits(forward, before + one.text + after[:look], at, at + length + look)
        theirs = bits(backward, (before[-look:] if look else "") + one.text + after, 0, min(look, at) + length)
        assert [one.forward.total, one.backward and one.backward.total] == pytest.approx([ours, theirs], rel=1e-4)
        assert one.forward.gap == pytest.approx(bits(forward, whole, at, at + length), rel=1e-4)
        expected[one.text] = 2.0 ** -((1 - weight) * ours + weight * theirs)
    total = sum(expected.values())
    for one in found:
        assert one.probability == pytest.approx(expected[one.text] / total, rel=1e-3, abs=1e-9)
    assert [one.probability for one in found] == sorted((one.probability for one in found), reverse=True)


def test_a_forward_model_alone_looks_ahead(models: Models) -> None:
    found = models[0].fill("cab. abc", " ab cab.", length=1, look=5, count=100)
    assert all(one.backward is None for one in found)
    assert sum(one.probability for one in found) == pytest.approx(1)
    weights = {one.text: 2.0**-one.forward.total for one in found}
    assert {one.text: one.probability for one in found} == pytest.approx(
        {text: weight / sum(weights.values()) for text, weight in weights.items()}
    )


def test_gaps_of_unknown_length_are_compared_by_all_that_is_charged(models: Models) -> None:
    forward, backward = models
    found = forward.fill("cab. ab", "ab cab. ", backward, weight=0.5, max_length=3, candidates=3000, count=3000)
    lengths = {len(one.text) for one in found}
    assert lengths == {1, 2, 3}
    assert sum(one.probability for one in found) == pytest.approx(1)
    scores = {one.text: one.forward.total / 2 + (one.backward.total if one.backward else math.nan) / 2 for one in found}
    assert found[0].text == min(scores, key=lambda text: scores[text])


def test_candidates_are_proposed_and_suggested(models: Models) -> None:
    forward, backward = models
    found = forward.fill("cab. ", " cab.", backward, length=5, candidates=20, count=100, also=["zzzzz", "cb ab"])
    again = forward.fill("cab. ", " cab.", backward, length=5, candidates=20, count=100, also=["zzzzz", "cb ab"])
    assert found == again
    texts = [one.text for one in found]
    assert {"zzzzz", "cb ab"} <= set(texts)
    assert not next(one for one in found if one.text == "zzzzz").proposed
    assert len(set(texts)) == len(texts) <= 22
    assert {len(text) for text in texts} == {5}
    likeliest = min(found, key=lambda one: one.forward.gap)
    assert forward.sample(prime="cab. ", length=5, temperature=0) == likeliest.text
    others = forward.fill("cab. ", " cab.", backward, length=5, candidates=20, count=100, seed=1)
    assert {one.text for one in others} != set(texts)


def test_one_context_may_be_empty(models: Models) -> None:
    forward, backward = models
    at_end = forward.fill("cab. a", "", backward, length=1, count=99)
    assert at_end[0].forward.beyond == 0
    assert {one.text: one.forward.gap for one in at_end}["b"] == pytest.approx(bits(forward, "cab. ab", 6, 7), rel=1e-4)
    at_start = forward.fill("", "b ab", backward, length=1, count=99)
    assert at_start[0].backward
    assert at_start[0].backward.beyond == 0
    with pytest.raises(DataError, match="no text before the gap, nor after it"):
        forward.fill("", "", backward)


def test_a_record_ends_where_its_text_does(names: Models) -> None:
    forward, backward = names
    found = forward.fill("a", "a", backward, max_length=3, candidates=60, count=99)
    assert not any("\n" in one.text for one in found)
    for one in found[:5]:
        text = f"a{one.text}a\n"
        assert one.forward.total == pytest.approx(bits(forward, text, 1, len(text)), rel=1e-4)
        assert one.backward
        assert one.backward.total == pytest.approx(
            bits(backward, text, 0, 1 + len(one.text)) + bits(backward, text, len(text) - 1, len(text)), rel=1e-4
        )
    with pytest.raises(DataError, match="ends a record"):
        forward.fill("anna\nb", "b")


def test_the_command_shows_what_the_library_finds(models: Models, capsys: pytest.CaptureFixture[str]) -> None:
    forward, backward = models
    places = [str(forward.path), str(backward.path)]
    best = forward.fill("cab. ab", "b ab", backward, length=2, count=3)
    assert run(["fill", *places, "--text", "cab. ab___b ab", "--length", "2", "--count", "3", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["schema"] == "charlm.fill/1"
    assert shown["fillings"] == [one.record() for one in best]
    assert run(["fill", *places, "--before", "cab. ab", "--after", "b ab", "--length", "2", "-q"]) == 0
    out = capsys.readouterr().out
    assert f"cab. ab[{best[0].text}]b ab" in out
    assert "backward bits" in out


def test_texts_in_files(models: Models, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "marked.txt").write_text("\ufeffcab. ab#b ab")
    (tmp_path / "before.txt").write_text("cab. ab")
    place = str(models[0].path)
    shown = []
    for words in (
        ["--file", str(tmp_path / "marked.txt"), "--gap", "#"],
        ["--before-file", str(tmp_path / "before.txt"), "--after", "b ab"],
    ):
        assert run(["fill", place, *words, "--json"]) == 0
        shown.append(json.loads(capsys.readouterr().out))
    assert shown[0] == shown[1]
    assert shown[0]["backward"] is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "needs a text with a gap"),
        (["--text", "no gap"], "the text has no gap: '___' must stand in it once"),
        (["--text", "a ___ b ___"], "the text has more than one gap"),
        (["--text", "a", "--gap", "longer than the text"], "the text has no gap"),
        (["--text", "a___b", "--gap", ""], "the text has no gap"),
        (["--text", "___"], "no text before the gap"),
        (["--text", "a___b", "--before", "a"], "--text and --before cannot be combined"),
        (["--before", "a", "--before-file", "b"], "--before and --before-file cannot be combined"),
        (["--text", "a___b", "--length", "0"], "--length must be an integer from 1 to 1000"),
        (["--text", "a___b", "--length", "2", "--max-length", "3"], "--length and --max-length cannot be combined"),
        (["--text", "a___b", "--min-length", "5", "--max-length", "3"], "--min-length 5 is more than --max-length 3"),
    ],
)
def test_what_makes_no_gap_is_refused(
    models: Models, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert run(["fill", str(models[0].path), *words]) in (2, 3)
    assert message in capsys.readouterr().err


def test_models_of_the_wrong_direction_are_refused(models: Models, tmp_path: Path) -> None:
    forward, backward = models
    with pytest.raises(ConfigError, match="filling a gap goes forward"):
        backward.fill("a", "b", forward)
    with pytest.raises(ConfigError, match="reads forward, and a gap is filled by"):
        forward.fill("a", "b", forward)
    (tmp_path / "t.txt").write_text(TEXT)
    made = charlm.train(tmp_path / "t.txt", checkpoints=tmp_path, tokenizer="byte", steps=1, progress=False, **TINY)
    with pytest.raises(ConfigError, match="has other tokens"):
        charlm.load(made.checkpoint).fill("a", "b")


def test_a_mark_may_overlap_itself() -> None:
    assert split_at("a____b", "___") == ("a", "_b")
