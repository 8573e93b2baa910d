"""Rows, comparisons and words of `charlm eval`: every figure recomputed from the definitions, commands end to end."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from oracles import baselines, synthetic_text
from processes import charlm as run
from processes import one_line
from typer.testing import CliRunner

import charlm
from charlm.cli.main import app
from charlm.config import DataConfig
from charlm.errors import ConfigError
from charlm.evaluation.bootstrap import interval, resampled_means
from charlm.evaluation.comparison import Comparison, ComparisonOptions, Kind, Row, character_nats, compare, rank
from charlm.evaluation.dynamic import dynamic_nats
from charlm.evaluation.mixture import mix
from charlm.evaluation.score import Score, add_escape, exact_nats
from charlm.evaluation.surprisal import surprisal
from charlm.models.network import Network, import_weights
from charlm.models.ngram import Counts, KneserNey
from charlm.report.comparison import describe_ranking
from charlm.report.console import console
from charlm.report.evaluation import comparison_report
from charlm.text.tokenizer import Tokenizer, tokenize, train_tokenizer

FIRST = synthetic_text(12_000, seed=7)
SECOND = "".join(f"{n} times {n % 7} is {n * (n % 7)}.\n" for n in range(600))
ODD = FIRST[:50] + "Ωé☃ naïve 🙂\n"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two texts, two runs of the first, of characters and of bytes, one of the second, and two texts of either kind."""
    folder = tmp_path_factory.mktemp("comparison")
    for name, text in {"first.txt": FIRST, "second.txt": SECOND}.items():
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "x.txt").write_text(synthetic_text(13_500, seed=7)[12_000:], encoding="utf-8")
    (folder / "y.txt").write_text("".join(f"{n} times {n % 7} is {n * (n % 7)}.\n" for n in range(700, 760)))
    options: dict[str, Any] = {"hidden": 24, "batch": 8, "bptt": 32, "precision": "fp32", "threads": 1, "steps": 60}
    runs: list[tuple[str, str, dict[str, Any]]] = [
        ("first", "first.txt", {}),
        ("again", "first.txt", {"seed": 5, "cell": "gru"}),
        ("bytes", "first.txt", {"tokenizer": "byte"}),
        ("second", "second.txt", {}),
    ]
    for name, corpus, more in runs:
        charlm.train(folder / corpus, name=name, checkpoints=folder / "checkpoints", device="cpu", **options | more)
    return folder


def loaded(place: Path, *names: str) -> list[charlm.LanguageModel]:
    return [charlm.load(name, checkpoints=place / "checkpoints", device="cpu", threads=1) for name in names]


def texts(place: Path, *names: str) -> list[tuple[str, str]]:
    return [(name, (place / name).read_text(encoding="utf-8")) for name in names]


def parsed(output: str) -> dict[str, Any]:
    """JSON without what JSON does not have."""

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    report: dict[str, Any] = json.loads(output, parse_constant=refuse)
    return report


# figures


@pytest.mark.parametrize("kind", ["char", "byte", "sentencepiece"])
def test_characters_have_their_tokens_nats(kind: str) -> None:
    """Against the units of `surprisal`: the same sums over every unit, and over single characters of plain text."""
    tokenizer: Tokenizer = train_tokenizer(DataConfig(tokenizer=kind, vocab_size=320), FIRST)
    for text in (FIRST[:300], ODD, "", "☃"):
        ids = tokenizer.encode(text).ids
        nats = np.random.default_rng(1).exponential(2, len(ids)).astype(np.float32)
        found = character_nats(tokenizer, ids, text, nats)
        assert found.shape == (len(text),)
        assert found.sum() == pytest.approx(float(nats.sum(dtype=np.float64)), rel=1e-12)
        judged = surprisal(_Given(tokenizer.size), tokenizer, text)
        own = character_nats(tokenizer, judged.ids, text, judged.nats)
        if text:
            assert np.add.reduceat(own, judged.starts[:-1]) == pytest.approx(judged.unit_nats)
        if text.isascii():
            assert own == pytest.approx(judged.character_nats)


class _Given:
    """A model whose logits depend on the token before."""

    def __init__(self, size: int) -> None:
        import torch

        self.logits = torch.randn(size + 2, size, generator=torch.Generator().manual_seed(1))

    def init_state(self, lanes: int) -> None:
        pass

    def __call__(self, ids_TB: Any, state: None) -> tuple[Any, None]:
        return self.logits[ids_TB], state


@pytest.mark.parametrize("name", ["first", "bytes"])
def test_every_row_is_what_its_definition_gives(place: Path, name: str) -> None:
    (model,) = loaded(place, name)
    text = ODD * 30
    options = ComparisonOptions(exact=True, dynamic=True, mix=True, baselines=True)
    rows = {row.model: row for row in compare([model], [("odd", text)], options=options).rows}
    tokenizer, tokens = model.tokenizer, tokenize(model.tokenizer, text)
    train = FIRST[: len(FIRST) - len(model.validation_text())]

    network = Network(model.config.model, tokenizer.size)
    import_weights(network, model.checkpoint.weights)
    static = exact_nats(network.eval(), tokenizer, tokens.ids)
    dynamic = dynamic_nats(network, tokenizer, tokens.ids)
    counts = Counts(tokenizer.encode(train).ids, tokenizer.size, 8)
    counted = add_escape(KneserNey(counts, 8).nats(tokens.ids), tokens.ids, tokenizer)
    wanted: dict[str, NDArray[Any]] = {
        "lstm": static,
        "lstm, dynamic": dynamic,
        "lstm + kneser-ney 8": mix([static, counted], tokens.ids),
        "lstm, dynamic + kneser-ney 8": mix([dynamic, counted], tokens.ids),
        "kneser-ney 8": counted,
    }
    for called, nats in wanted.items():
        row = rows[called]
        assert row.score.nats == pytest.approx(float(nats.sum(dtype=np.float64)), rel=1e-6)
        series = character_nats(tokenizer, tokens.ids, text, nats) / math.log(2)
        assert row.interval == pytest.approx(interval(resampled_means(series)), rel=1e-5)
        assert row.interval is not None
        assert row.interval[0] < row.bits_per_character < row.interval[1]
    assert rows["lstm"].score == model.score(text, exact=True)

    below = baselines(train, text, tokenizer)
    assert list(rows) == [*list(wanted)[:4], *(row.model for row in below)]
    for each in below:
        row = rows[each.model]
        assert (row.kind, row.seconds) == (each.kind, None)
        assert row.score == each.score
        assert (row.means is None) == (each.kind == "code length")


def test_a_network_reads_the_same_before_and_after_it_learned(place: Path) -> None:
    (model,) = loaded(place, "first")
    before = model.nats(ODD, exact=True)
    assert float(before.sum(dtype=np.float64)) == model.score(ODD, exact=True).nats
    assert float(model.nats(FIRST).sum(dtype=np.float64)) == model.score(FIRST).nats
    assert not np.array_equal(model.nats(ODD * 4, dynamic=True), model.nats(ODD * 4, exact=True))
    assert np.array_equal(model.nats(ODD, exact=True), before)
    decoding = charlm.load("first", checkpoints=place / "checkpoints", engine="decoder")
    with pytest.raises(ConfigError, match="--engine decoder"):
        decoding.nats(ODD, dynamic=True)


def test_models_of_one_training_text_share_their_baselines(place: Path) -> None:
    models = loaded(place, "first", "again", "bytes", "second")
    found = compare(models, texts(place, "x.txt"), options=ComparisonOptions(baselines=True))
    counted = [row for row in found.rows if row.kind == "counts"]
    owners = [Path(row.checkpoint).parent.name for row in counted if row.model == "kneser-ney 3"]
    assert owners == ["first", "bytes", "second"]
    for model, network in zip(models, found.networks, strict=True):
        assert network.checkpoint == str(model.path)
        owner = "first" if model.path.parent.name == "again" else model.path.parent.name
        beside = found.beside(network)
        assert {Path(row.checkpoint).parent.name for row in beside if row.kind == "counts"} == {owner}
    assert found.verbatim == frozenset()
    inside = compare(loaded(place, "first"), [("part", FIRST[500:900])], options=ComparisonOptions(mix=True))
    assert inside.verbatim == {(0, inside.rows[0].checkpoint)}


# comparisons


def test_the_author_of_a_text_is_recognised(place: Path) -> None:
    """A matrix of models of two tokenizers and texts of two kinds; all of it again from the single figures."""
    models = loaded(place, "first", "bytes", "second")
    named = texts(place, "x.txt", "y.txt")
    found = compare(models, named)
    assert [row.text for row in found.rows] == ["x.txt", "y.txt"] * 3
    assert [row.checkpoint for row in found.rows[::2]] == [str(model.path) for model in models]
    pairs = found.network_pairs()
    for (name, text), pair in zip(named, pairs, strict=True):
        figures = {str(model.path): model.score(text).bits_per_character for model in models}
        best, other = sorted(figures, key=lambda path: figures[path])[:2]
        record = pair.record()
        assert (record["text"], record["winner"], record["runner_up"]) == (name, best, other)
        gap = figures[other] - figures[best]
        assert record["difference_bits_per_character"] == pytest.approx(gap, rel=1e-9)
        assert record["perplexity_factor"] == pytest.approx(2**gap)
        series = {}
        for model in models:
            nats, ids = model.nats(text), model.tokenizer.encode(text).ids
            series[str(model.path)] = character_nats(model.tokenizer, ids, text, nats) / math.log(2)
        wanted = interval(resampled_means(series[other] - series[best]))
        assert wanted is not None
        assert record["interval"] == pytest.approx(wanted, rel=1e-6)
        assert record["sure"] == (wanted[0] > 0)
    assert Path(pairs[1].winner.checkpoint).parent.name == "second"
    assert pairs[1].sure


def test_validation_texts_of_different_runs_are_not_compared(place: Path) -> None:
    found = compare(loaded(place, "first", "second"))
    assert [row.number for row in found.rows] == [0, 1]
    assert found.network_pairs() == []
    same = compare(loaded(place, "first", "again", "bytes"))
    assert [row.number for row in same.rows] == [0, 0, 0]
    assert len(same.network_pairs()) == 1


@pytest.mark.parametrize("text", ["", "a", "too short."])
def test_texts_of_hardly_any_characters(place: Path, text: str) -> None:
    options = ComparisonOptions(dynamic=True, mix=True, baselines=True)
    found = compare(loaded(place, "first", "bytes"), [("little", text)], options=options)
    assert all(row.interval is None for row in found.rows)
    for row in found.rows:
        parsed(json.dumps(row.record(), allow_nan=False))
        assert (row.record()["bits_per_character"] is None) == (not text)
    for pair in [*found.network_pairs(), *found.baseline_pairs()]:
        assert text
        assert not pair.sure
        assert pair.record()["interval"] is None
    stream = io.StringIO()
    comparison_report(console(stream, color=False), found)
    assert ("nothing to score" if not text else "text too short for an interval") in stream.getvalue()
    assert "nan" not in stream.getvalue()


# words


def row(model: str, kind: Kind, bits: float, spread: float = 0.01, *, checkpoint: str = "a", number: int = 0) -> Row:
    """So many bits a character of a thousand characters, and resampled means that scatter evenly about them."""
    score = Score(bits * math.log(2) * 1000, 1000, 1000, 100, 1000, 0)
    means = None if kind == "code length" else bits + np.linspace(-spread, spread, 101)
    return Row("a text", number, checkpoint, model, kind, score, means)


COUNTS = [row(f"kneser-ney {order}", "counts", bits) for order, bits in enumerate([4.5, 3.5, 2.9, 2.4, 2.2], 1)]
OTHERS = [*COUNTS, row("xz", "code length", 2.6), row("gzip", "code length", 3.0)]


@pytest.mark.parametrize(
    ("bits", "words"),
    [
        (
            1.9,
            [
                "fewer than any of the 7 baselines",
                "kneser-ney 5 (2.2000)",
                "0.3000 more",
                "1.231 times",
                "longer contexts",
                "1.37",
            ],
        ),
        (2.3, ["better than 6 of 7", "between kneser-ney 5 (2.2000) and kneser-ney 4 (2.4000)", "previous 3 tokens"]),
        (2.7, ["between xz (2.6000) and kneser-ney 3 (2.9000)", "previous 2 tokens", "0.1000 fewer", "0.96 times"]),
        (4.0, ["kneser-ney 1", "no context"]),
        (5.0, ["more than any of the 7 baselines", "2.8000 more", "no better than knowing how often", "undertrained"]),
    ],
)
def test_a_ranking_in_words(bits: float, words: list[str]) -> None:
    said = " ".join(describe_ranking(row("lstm", "network", bits), OTHERS, "the lstm"))
    for word in [*words, f"{bits:.4f} bits per character"]:
        assert word in said


def test_significance_in_words() -> None:
    network = row("lstm", "network", 2.19, 0.05)
    assert any(", not significant" in line for line in describe_ranking(network, COUNTS, "the lstm"))
    network = row("lstm", "network", 2.1)
    assert any(", significant" in line for line in describe_ranking(network, COUNTS, "the lstm"))
    known = describe_ranking(network, COUNTS, "the lstm", known=True)
    assert any("memorisation, not generalisation" in line for line in known)
    assert not any("learned" in line for line in known)
    assert describe_ranking(network, [], "the lstm") == []


def test_mixtures_and_dynamic_evaluation_in_words() -> None:
    network = row("lstm", "network", 2.3)
    made = [
        row("lstm, dynamic", "network", 2.2),
        row("lstm + kneser-ney 8", "mixture", 2.1),
        row("lstm, dynamic + kneser-ney 8", "mixture", 2.4),
    ]
    first, second, third = describe_ranking(network, made, "the lstm")
    assert first.startswith("With dynamic evaluation, the lstm needs 0.1000 bits per character fewer")
    assert second.startswith("Mixed with kneser-ney 8, the lstm needs 0.2000 bits per character fewer")
    assert third.startswith("With dynamic evaluation and mixed with kneser-ney 8, the lstm needs 0.1000 bits per")
    assert "more" in third


def test_figures_that_do_not_exist_come_last_and_win_nothing() -> None:
    rows = [row("lstm", "network", math.inf), row("gru", "network", 2.0, checkpoint="b")]
    assert [each.model for each in rank(rows)] == ["gru"]
    found = Comparison(tuple(rows), {}, frozenset())
    assert found.network_pairs() == []
    far = Comparison((row("lstm", "network", 1.0), row("gru", "network", 2000.0)), {}, frozenset())
    assert far.network_pairs()[0].record()["perplexity_factor"] is None
    even = Comparison((rows[1], rows[1]), {}, frozenset()).network_pairs()[0]
    assert (even.difference, even.sure) == (0, False)


# the command


def evaluated(place: Path, *arguments: str) -> dict[str, Any]:
    done = CliRunner().invoke(app, ["eval", *arguments, "--checkpoints", str(place / "checkpoints"), "--json"])
    assert done.exit_code == 0, done.output
    return parsed(done.stdout)


def test_the_report_as_json(place: Path) -> None:
    named = ["--text", str(place / "x.txt"), "--text", str(place / "y.txt")]
    report = evaluated(place, "first", "second", *named, "--baselines", "--mix", "--dynamic")
    assert report["schema"] == "charlm.eval/1"
    rows = report["results"]
    assert len({tuple(row) for row in rows}) == 1  # the same fields in the same order
    names = [row["model"] for row in rows if row["text"].endswith("x.txt") and "first" in row["checkpoint"]]
    assert names[:4] == ["lstm", "lstm, dynamic", "lstm + kneser-ney 8", "lstm, dynamic + kneser-ney 8"]
    assert {"kneser-ney 6", "witten-bell 5", "xz", "gzip", "bz2"} < set(names)
    assert {row["kind"] for row in rows} == {"network", "mixture", "counts", "code length"}
    for row in rows:
        assert (row["interval"] is None) == (row["kind"] == "code length")
        assert row["loss"] == pytest.approx(row["bits_per_character"] * math.log(2))
        assert (row["characters_per_second"] is None) == (row["kind"] != "network")
    for name, pair in zip(["x.txt", "y.txt"], report["comparisons"], strict=True):
        plain = [row for row in rows if row["text"].endswith(name) and row["model"] == "lstm"]
        best, other = sorted(plain, key=lambda row: row["bits_per_character"])
        assert (pair["winner"], pair["runner_up"]) == (best["checkpoint"], other["checkpoint"])
        gap = other["bits_per_character"] - best["bits_per_character"]
        assert pair["difference_bits_per_character"] == pytest.approx(gap)
        assert pair["interval"][0] < gap < pair["interval"][1]
    assert [Path(pair["text"]).name for pair in report["standings"]] == ["x.txt", "y.txt"] * 2
    for pair in report["standings"]:
        assert {"lstm"} < {pair["winner_model"], pair["runner_up_model"]}
        assert pair["sure"] == (pair["interval"][0] > 0)


def test_without_options_it_is_what_it_was(place: Path) -> None:
    report = evaluated(place, "first")
    assert set(report) == {"schema", "exact", "results"}
    (row,) = report["results"]
    (model,) = loaded(place, "first")
    assert model.checkpoint.result is not None
    assert row["loss"] == model.checkpoint.result.val_loss
    assert (row["kind"], row["model"]) == ("network", "lstm")
    assert row["interval"][0] < row["bits_per_character"] < row["interval"][1]


def test_cold_windows_stand_beside_the_carried_state(place: Path) -> None:
    report = evaluated(place, "first", "--cold-windows", "50")
    carried, cold = report["results"]
    assert (carried["model"], cold["model"], cold["kind"]) == ("lstm", "lstm, cold windows of 50", "cold windows")
    assert carried["characters"] == cold["characters"]
    (model,) = loaded(place, "first")
    text = model.validation_text()
    windows = [text[at : at + 50] for at in range(0, len(text), 50)]
    nats = sum(model.score(window, exact=True).nats for window in windows)
    assert cold["loss"] == pytest.approx(nats / len(text), rel=1e-5)
    assert cold["interval"][0] < cold["bits_per_character"] < cold["interval"][1]
    assert "comparisons" not in report
    several = evaluated(place, "first", "second", "--text", str(place / "x.txt"), "--cold-windows", "50")
    (pair,) = several["comparisons"]  # of the networks as they are
    assert pair["winner_model"] == pair["runner_up_model"] == "lstm"
    done = CliRunner().invoke(
        app, ["eval", "first", "--cold-windows", "50", "--checkpoints", str(place / "checkpoints")]
    )
    assert f"In cold windows of 50 characters the lstm needs {cold['loss']:.4f} nats per character." in done.output


def test_tables_and_words(place: Path) -> None:
    stream = io.StringIO()
    named = texts(place, "x.txt", "y.txt")
    options = ComparisonOptions(baselines=True, mix=True)
    comparison_report(console(stream, color=False), compare(loaded(place, "first", "second"), named, options=options))
    shown = stream.getvalue()
    for words in ("*: lowest", "predicts it best", "second: kneser-ney 10", "first: lstm + kneser-ney 8", "95 %"):
        assert words in shown
    assert "nan" not in shown
    assert "y.txt: second predicts it best" in shown
    lines = shown.splitlines()
    begin = next(number for number, line in enumerate(lines) if line == "x.txt: ranking")
    figures = [float(line.split(" to ")[0].split()[-2]) for line in lines[begin + 2 : begin + 40] if " to " in line]
    assert figures[:30] == sorted(figures[:30])


def test_a_training_text_that_moved(place: Path, tmp_path: Path) -> None:
    (tmp_path / "own.txt").write_text(FIRST)
    options: dict[str, Any] = {"hidden": 8, "batch": 4, "bptt": 16, "precision": "fp32", "threads": 1, "steps": 2}
    charlm.train(tmp_path / "own.txt", checkpoints=tmp_path / "checkpoints", device="cpu", **options)
    (tmp_path / "own.txt").rename(tmp_path / "moved.txt")
    text = ["--text", str(place / "y.txt")]
    one_line(run("eval", "own", *text, "--baselines", cwd=tmp_path), 3, "own.txt", "give its current path")
    (model,) = (charlm.load("own", checkpoints=tmp_path / "checkpoints"),)
    found = compare([model], texts(place, "y.txt"), [str(tmp_path / "moved.txt")], ComparisonOptions(mix=True))
    assert [row.kind for row in found.rows] == ["network", "mixture"]
    one_line(run("eval", "own", *text, "--dynamic", "--engine", "decoder", cwd=tmp_path), 2, "--dynamic", "decoder")
