"""Baselines: n-gram models, scored like a network, and compressors."""

from __future__ import annotations

import bz2
import gzip
import importlib.util
import lzma
import math
import sys
from collections import Counter
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from oracles import Baseline, baselines, score_ngrams, synthetic_text

from charlm.config import DataConfig
from charlm.evaluation.baselines import code_lengths
from charlm.evaluation.score import Score
from charlm.models.ngram import AddDelta, Backoff, Counts, KneserNey, NGram, WittenBell
from charlm.text.tokenizer import SCALARS, ByteTokenizer, CharTokenizer, Tokenizer, tokenize, train_tokenizer

TRAIN, TEXT = synthetic_text(20_000, seed=7), synthetic_text(22_000, seed=7)[20_000:]
ALL: dict[type[NGram], list[int]] = {AddDelta: [2], Backoff: [1, 3], WittenBell: [3], KneserNey: [1, 4]}


def rows(tokenizer: Tokenizer, train: str, text: str) -> list[Baseline]:
    return score_ngrams(train, text, tokenizer, ALL)


@pytest.fixture(scope="module", params=["char", "byte", "sentencepiece"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return train_tokenizer(DataConfig(tokenizer=request.param, vocab_size=320), TRAIN)


def test_all_rows_of_a_text(tokenizer: Tokenizer) -> None:
    tokens = tokenize(tokenizer, TEXT)
    found = baselines(TRAIN, TEXT, tokenizer)
    names = [row.model for row in found]
    assert [name for name in names if name.startswith("kneser-ney")] == [f"kneser-ney {n}" for n in range(1, 11)]
    assert {"add-delta 3", "backoff 5", "witten-bell 5", "gzip", "bz2", "xz"} < set(names)
    assert len(set(names)) == len(names)
    for row in found:
        assert row.kind == ("code length" if row.model in ("gzip", "bz2", "xz", "zstd") else "counts")
        assert (row.score.characters, row.score.bytes, row.score.words) == (2000, len(TEXT.encode()), tokens.words)
        assert row.score.tokens == len(tokens.ids)
        assert 0.5 < row.score.bits_per_character < 9
    figures = {row.model: row.score.bits_per_character for row in found}
    assert figures["kneser-ney 5"] < min(figures["add-delta 5"], figures["backoff 5"], figures["gzip"])


# n-gram models


def test_a_row_is_the_sum_over_tokens_and_the_escape(tokenizer: Tokenizer) -> None:
    text = "Om☃ Ωe?\n"
    ids = tokenizer.encode(text).ids
    counts = Counts(tokenizer.encode(TRAIN).ids, tokenizer.size, 4)
    models = [AddDelta(counts, 2), Backoff(counts, 1), Backoff(counts, 3), WittenBell(counts, 3)]
    found = rows(tokenizer, TRAIN, text)
    for model, row in zip([*models, KneserNey(counts, 1), KneserNey(counts, 4)], found, strict=True):
        nats = 0.0
        for t, token in enumerate(ids.tolist()):
            if token == tokenizer.unseen:
                nats -= math.log(tokenizer.escape / (SCALARS - tokenizer.size))
            else:
                nats += model.nats(ids[: t + 1])[t] - math.log(1 - tokenizer.escape)
        assert row.model == model.name
        assert row.score.nats == pytest.approx(nats, rel=1e-12)
        assert row.score.unknown_characters == (2 if tokenizer.escape else 0)
        assert row.score.loss == row.score.nats / 8


def test_probabilities_of_all_characters_sum_to_one() -> None:
    """Over the vocabulary by name, and over all other characters, which have equal probabilities."""
    tokenizer = CharTokenizer.train(TRAIN)
    for context in ("", "Om", "☃"):
        before = rows(tokenizer, TRAIN, context)
        after = [rows(tokenizer, TRAIN, context + character) for character in tokenizer.vocabulary + "☃"]
        for row, behind in enumerate(zip(*after, strict=True)):
            p = [math.exp(before[row].score.nats - longer.score.nats) for longer in behind]
            assert math.fsum(p[:-1]) + (SCALARS - tokenizer.size) * p[-1] == pytest.approx(1, abs=1e-9)


def test_order_one_by_hand() -> None:
    """Counted on aab: add-delta with 1/2 each, and the escape of one character seen once among three."""
    tokenizer = CharTokenizer.train("aab")
    (row,) = score_ngrams("aab", "ab☃", tokenizer, {AddDelta: [1]})
    e = (1 + 0.5) / (3 + 1)
    p = (1 - e) * (2 + 0.5) / 4 * (1 - e) * (1 + 0.5) / 4 * e / (1_112_064 - 2)
    assert (row.model, row.kind) == ("add-delta 1", "counts")
    assert row.score == Score(row.score.nats, characters=3, bytes=5, words=1, tokens=3, unknown_characters=1)
    assert row.score.nats == pytest.approx(-math.log(p))


def test_order_one_scores_bytes_by_their_frequencies() -> None:
    """And is divided by characters, of which there are fewer."""
    tokenizer = ByteTokenizer()
    text = "é" * 50
    (row,) = score_ngrams(text * 100, text, tokenizer, {KneserNey: [1]})
    assert row.score.bits_per_character == pytest.approx(2, abs=1e-3)
    assert row.score.bits_per_byte == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("text", ["", "a", "☃"])
def test_texts_of_hardly_any_characters(tokenizer: Tokenizer, text: str) -> None:
    found = baselines(TRAIN, text, tokenizer)
    assert len(found) >= 18
    for row in found:
        assert row.score.characters == len(text)
        assert math.isfinite(row.score.nats)
        assert math.isnan(row.score.loss) == (not text)
        assert text or row.score.nats == 0


def test_a_training_text_of_two_characters() -> None:
    tokenizer = CharTokenizer.train("ab")
    found = baselines("ab", "ba", tokenizer)
    assert all(np.isfinite(row.score.loss) for row in found)


# compressors


def test_code_lengths_are_the_compressors_own(tokenizer: Tokenizer) -> None:
    def bits(files: list[bytes]) -> int:
        return 8 * (len(files[1]) - len(files[0]))

    texts = [TRAIN.encode(), TRAIN.encode() + TEXT.encode()]
    expected = {
        "gzip": bits([gzip.compress(text, 9) for text in texts]),
        "bz2": bits([bz2.compress(text, 9) for text in texts]),
        "xz": bits([lzma.compress(text, preset=9 | lzma.PRESET_EXTREME) for text in texts]),
    }
    found = dict(code_lengths(TRAIN, TEXT, tokenize(tokenizer, TEXT)))
    for name, length in expected.items():
        assert found[name].bits_per_character == pytest.approx(length / 2000)
        assert found[name].perplexity == pytest.approx(2 ** (length / 2000))


def test_compressors_learn_from_the_training_text() -> None:
    text = "".join(np.random.default_rng(1).permutation(list(TRAIN[:3000])))
    tokens = tokenize(ByteTokenizer(), text)
    known = {name: score.nats for name, score in code_lengths(text + TRAIN[:50], text, tokens)}
    new = {name: score.nats for name, score in code_lengths(TRAIN, text, tokens)}
    for name in ("gzip", "xz"):
        assert known[name] < new[name] / 20
    assert new["xz"] < 8 * 3000 * math.log(2)


def test_zstandard_is_used_where_it_is_present(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python's own before the package; both are stood in for, by a compressor that halves."""
    tokens = tokenize(ByteTokenizer(), TEXT)
    present = importlib.util.find_spec("zstandard") or sys.version_info >= (3, 14)
    assert ("zstd" in [name for name, _ in code_lengths(TRAIN, TEXT, tokens)]) == bool(present)
    asked: list[str] = []

    def halved(data: bytes, level: int, who: str) -> bytes:
        asked.append(who)
        assert level == 22
        return data[::2]

    class Compressor:
        def __init__(self, level: int) -> None:
            self.level = level

        def compress(self, data: bytes) -> bytes:
            return halved(data, self.level, "package")

    own = SimpleNamespace(compress=lambda data, level: halved(data, level, "own"))
    stands_in = {"compression.zstd": own, "zstandard": SimpleNamespace(ZstdCompressor=Compressor)}
    for names, expected in ((["zstandard"], "package"), (["compression.zstd", "zstandard"], "own")):
        there = {*names, *(["compression"] if expected == "own" else [])}
        monkeypatch.setattr(importlib.util, "find_spec", lambda name, there=there: name if name in there else None)
        for name in names:
            module = ModuleType(name)
            vars(module).update(vars(stands_in[name]))
            monkeypatch.setitem(sys.modules, name, module)
        score = dict(code_lengths("ab" * 8, "ab" * 4, tokenize(ByteTokenizer(), "ab" * 4)))["zstd"]
        assert score.nats == pytest.approx(8 * 4 * math.log(2))
        assert Counter(asked) == {expected: 2}
        asked.clear()
