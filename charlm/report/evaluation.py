"""The report of `charlm eval`: the figures of each model, rankings, and which model predicts which text best."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from charlm.evaluation.comparison import Comparison, Row, rank
from charlm.report.comparison import describe_comparison, describe_perplexity, describe_ranking, span
from charlm.report.console import Console, paragraphs, table
from charlm.report.tables import cut_middle
from charlm.report.words import figure
from charlm.storage.hub import origin

Names = dict[str, str]

_INTERVALS: Final = (
    "Intervals are 95 % confidence intervals, by block bootstrap over the passages of a text. They do not cover other "
    "texts, or the same model trained with another seed."
)
_FIGURES: Final[tuple[tuple[str, Callable[[Row], str]], ...]] = (
    ("bits per character", lambda row: figure(row.bits_per_character)),
    ("  95 % interval", lambda row: span(row.interval)),
    ("loss (nats/character)", lambda row: figure(row.score.loss)),
    ("perplexity per character", lambda row: figure(row.score.perplexity, 3)),
    ("bits per byte", lambda row: figure(row.score.bits_per_byte)),
    ("word perplexity", lambda row: figure(row.score.word_perplexity, 1)),
    ("characters", lambda row: f"{row.score.characters:,}"),
    ("  not in the vocabulary", lambda row: f"{row.score.unknown_characters:,}"),
    ("bytes", lambda row: f"{row.score.bytes:,}"),
    ("words and line ends", lambda row: f"{row.score.words:,}"),
    ("tokens", lambda row: f"{row.score.tokens:,}"),
    ("characters per second", lambda row: figure(_speed(row), 0)),
)


def comparison_report(out: Console, comparison: Comparison) -> None:
    """The networks' figures; then what was asked for beside them, as tables and in words."""
    networks, names = comparison.networks, run_names(row.checkpoint for row in comparison.rows)
    score_tables(out, networks, names)
    for rows in comparison.texts():
        if any(row not in networks for row in rows):
            paragraphs(out, [""])
            ranking_table(out, rows, names)
    if len({row.number for row in networks}) > 1 and comparison.network_pairs():
        paragraphs(out, [""])
        matrix_table(out, networks, names)
    lines = _describe(comparison, names)
    if lines:
        paragraphs(out, ["", *lines, *[_INTERVALS] * any(row.interval for row in comparison.rows)])
    elif len(networks) == 1:
        paragraphs(out, [describe_perplexity(networks[0].score)])
    paragraphs(out, [f"Less than all: {remark}." for remark in comparison.remarks])


def _describe(comparison: Comparison, names: Names) -> list[str]:
    lines = [describe_comparison(pair, names) for pair in comparison.network_pairs()]
    for network in comparison.networks:
        called = f"{names[network.checkpoint]} ({network.model})" if len(names) > 1 else f"the {network.model}"
        known = (network.number, network.checkpoint) in comparison.verbatim
        lines += describe_ranking(network, comparison.beside(network), called, known=known)
    return lines


def score_tables(out: Console, rows: Sequence[Row], names: Names) -> None:
    """A figure a line. One model: a column a text. Several: a table a text, with a column a model."""
    if len(names) == 1:
        _score_table(out, "", [row.text for row in rows], rows)
        return
    for number, text in enumerate(dict.fromkeys(row.text for row in rows)):
        if number:
            paragraphs(out, [""])
        own = [row for row in rows if row.text == text]
        _score_table(out, text, [names[row.checkpoint] for row in own], own)


def _score_table(out: Console, title: str, columns: Sequence[str], rows: Sequence[Row]) -> None:
    lines = [(label, *map(show, rows)) for label, show in _FIGURES]
    table(out, ["", *columns], lines, title=title)


def _speed(row: Row) -> float | None:
    return row.score.characters / row.seconds if row.seconds else None


def ranking_table(out: Console, rows: Sequence[Row], names: Names) -> None:
    """All rows of a text, from the fewest bits per character to the most, and how each differs from the first network.

    Rows are headed by run names where there are several models; baselines only if they differ between the models.
    """
    several = len(names) > 1
    taught = len({row.checkpoint for row in rows if row.kind == "counts"}) > 1
    network = next(row for row in rows if row.kind == "network")
    lines = []
    for row in [*rank(rows), *(row for row in rows if not math.isfinite(row.bits_per_character))]:
        label = f"{row.model} (code length)" if row.kind == "code length" else row.model
        if several and (taught or row.kind in ("network", "cold windows", "mixture")):
            label = f"{names[row.checkpoint]}: {label}"
        perplexity = [] if several else [figure(row.score.perplexity, 3)]
        lines.append((label, figure(row.bits_per_character), span(row.interval), *perplexity, _against(row, network)))
    whom = f"vs. {names[network.checkpoint] if several else network.model}"
    columns = ["", "bits/char", "95 % interval", *["perplexity"] * (not several), whom]
    table(
        out,
        columns,
        lines,
        title=f"{network.text}: ranking",
        cut=partial(_cut_run, models=[line[0].rpartition(": ")[2] for line in lines]),
    )


def _against(row: Row, network: Row) -> str:
    difference = row.bits_per_character - network.bits_per_character
    return "" if row is network else f"{difference:+.4f}" if math.isfinite(difference) else "-"


def _cut_run(label: str, width: int, models: Sequence[str]) -> str:
    """Of `run: model` the run's name is cut, so that the longest of the models would fit beside it."""
    name, colon, model = label.rpartition(": ")
    left = width - len(colon) - max(map(len, models))
    return cut_middle(f"{cut_middle(name, max(3, left))}{colon}{model}" if colon else label, width)


def matrix_table(out: Console, networks: Sequence[Row], names: Names) -> None:
    """Bits per character of each model on each text."""
    texts = {row.number: row.text for row in networks}
    best = {number: rank(row for row in networks if row.number == number)[:1] for number in texts}
    lines = []
    for checkpoint in dict.fromkeys(row.checkpoint for row in networks):
        own = {row.number: row for row in networks if row.checkpoint == checkpoint}
        cells = [
            f"{figure(own[number].bits_per_character)} {'*' if own[number] in best[number] else ' '}"
            if number in own
            else "-  "
            for number in texts
        ]
        lines.append((names[checkpoint], *cells))
    table(out, ["", *(f"{text}  " for text in texts.values())], lines, title="bits per character (*: lowest)")


def run_names(checkpoints: Iterable[str]) -> Names:
    """A short name for each checkpoint: its run, its run and file, or its path, whichever tells it apart.

    A model on the Hub has its repository for a run, and its commit for a file.

    >>> run_names(["x/a/best.safetensors", "x/b/best.safetensors", "x/b/last.safetensors"]).values()
    dict_values(['a', 'b/best', 'b/last'])
    """
    paths = {name: Path(name) for name in checkpoints}
    models = {name: origin(path) for name, path in paths.items()}
    runs = {name: path.parent.name if _in_run(path) else name for name, path in paths.items()}
    runs |= {name: model.repository for name, model in models.items() if model}
    files = {name: f"{path.parent.name}/{path.stem}" if _in_run(path) else name for name, path in paths.items()}
    files |= {name: f"{model.repository}@{model.revision[:7]}" for name, model in models.items() if model}
    often, parted = Counter(runs.values()), Counter(files.values())
    return {
        name: runs[name] if often[runs[name]] == 1 else files[name] if parted[files[name]] == 1 else name
        for name in paths
    }


def _in_run(path: Path) -> bool:
    return path.stem in ("best", "last", "previous") and bool(path.parent.name)
