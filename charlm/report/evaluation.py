"""What people see of `charlm eval` beyond one model's figures: rankings, who wrote what, and how sure that is."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

from charlm.evaluation.bootstrap import Interval
from charlm.evaluation.comparison import Comparison, Pair, Row, rank
from charlm.report.console import Console, paragraphs, table
from charlm.report.words import figure, one_line

_INTERVALS = (
    "Intervals are 95 %, by block bootstrap: where figures would lie with other passages like those of this text. "
    "Another text may lie further off, and so may a model that is trained again with another seed."
)

_BY_HEART = (
    "But all of this text stands word for word in what the model was trained on: the figures say how well each "
    "knows it by heart, and counts and compressors forget nothing."
)


def comparison_report(out: Console, comparison: Comparison) -> None:
    """The networks' figures; then what was asked for beside them, as tables and in words."""
    networks = comparison.networks
    score_table(out, [row.record() for row in networks])
    names = _names(comparison.rows)
    comparisons = comparison.network_pairs()
    for rows in comparison.texts():
        if any(row not in networks for row in rows):
            paragraphs(out, [""])
            _ranking(out, rows, names if len(names) > 1 else {})
    if len({row.number for row in networks}) > 1 and comparisons:
        paragraphs(out, [""])
        _matrix(out, networks, names)
    lines = [_compared_in_words(pair, names) for pair in comparisons]
    for network in networks:
        called = f"{names[network.checkpoint]} ({network.model})" if len(names) > 1 else f"the {network.model}"
        known = (network.number, network.checkpoint) in comparison.verbatim
        lines += describe_ranking(network, comparison.beside(network), called, known=known)
    if not lines and len(networks) == 1:
        lines = [meaning(networks[0].record()["perplexity"])]
    elif lines:
        paragraphs(out, [""])
        if any(row.interval for row in comparison.rows):
            lines.append(_INTERVALS)
    paragraphs(out, lines)


def _ranking(out: Console, rows: Sequence[Row], names: dict[str, str]) -> None:
    """All rows of a text, from the fewest bits to the most, and what each needs more than the first network.

    `names` tell checkpoints apart, where there are several. Counts need that if they are of several training texts.
    """
    taught = len({row.checkpoint for row in rows if row.kind == "counts"}) > 1
    network = next(row for row in rows if row.kind == "network")
    own = network.bits_per_character
    lines = []
    for row in [*rank(rows), *(row for row in rows if row not in rank(rows))]:
        bits = row.bits_per_character
        than = "" if row is network else f"{bits - own:+.4f}" if math.isfinite(bits - own) else "-"
        whose = f"{names[row.checkpoint]}: " if names and (taught or row.kind in ("network", "mixture")) else ""
        perplexity = figure(row.score.perplexity, 3)
        kind = f" ({row.kind})" if row.kind == "code length" else ""
        lines.append((f"{whose}{row.model}{kind}", figure(bits), _span(row.interval), perplexity, than))
    whom = f"than {names.get(network.checkpoint, network.model)}"
    table(out, network.text, ["", "bits/char", "95 % interval", "perplexity", whom], lines)


def _matrix(out: Console, networks: Sequence[Row], names: dict[str, str]) -> None:
    """Bits per character of each model on each text."""
    texts = {row.number: row.text for row in networks}
    best = {number: rank(row for row in networks if row.number == number)[:1] for number in texts}
    lines = []
    for checkpoint in dict.fromkeys(row.checkpoint for row in networks):
        own = {row.number: row for row in networks if row.checkpoint == checkpoint}
        cells = [
            figure(own[number].bits_per_character) + (" *" if own[number] in best[number] else "  ")
            if number in own
            else "-  "
            for number in texts
        ]
        lines.append((names[checkpoint], *cells))
    table(out, "bits per character (*: the fewest)", ["", *(f"{text}  " for text in texts.values())], lines)


def _compared_in_words(pair: Pair, names: dict[str, str]) -> str:
    winner, other = names[pair.winner.checkpoint], names[pair.runner_up.checkpoint]
    if not pair.difference:
        return f"{pair.winner.text}: {winner} and {other} predict it equally well."
    return (
        f"{pair.winner.text}: {winner} predicts it best, with {figure(pair.winner.bits_per_character)} bits a "
        f"character; {other} comes next and needs {_more(pair)}."
    )


def _more(pair: Pair) -> str:
    """How much a runner-up needs more, and how sure that is."""
    factor = f"{figure(pair.difference)} more, a perplexity {figure(pair.factor, 3)} times as high"
    if pair.interval is None:
        return f"{factor} (of so short a text nobody can say how sure that is)"
    low, high = pair.interval
    if pair.sure:
        return f"{factor} (95 %: {figure(low)} to {figure(high)}, so other passages of the kind would say the same)"
    return f"{factor} (95 %: {figure(low)} to {figure(high)}, so other passages of the kind may say the opposite)"


def describe_ranking(network: Row, beside: Sequence[Row], called: str, *, known: bool = False) -> list[str]:
    """Where a network, `called` so, stands among the rows beside it; a sentence a line, none where there are no rows.

    `known` says that the training text has all of this text in it.
    """
    counts = rank(row for row in beside if row.kind == "counts")
    codes = rank(row for row in beside if row.kind == "code length")
    made = [row for row in beside if row.kind in ("network", "mixture")]
    if not rank([network]):
        return [meaning(None)] if beside else []
    lines = []
    if counts:
        lines.append(_between(network, called, [*counts, *codes]))
        lines.append(_against_counts(network, counts[0]))
        lines.append(_BY_HEART if known else _as_counting(network, counts))
    if codes:
        lines.append(_against_codes(network, codes[0]))
    return [*lines, *(_made_in_words(network, row, called if not lines else "it") for row in made)]


def _between(network: Row, called: str, others: Sequence[Row]) -> str:
    better = [row for row in rank(others) if row.bits_per_character < network.bits_per_character]
    worse = [row for row in rank(others) if row not in better]
    stands = f"On {network.text} {called} needs {figure(network.bits_per_character)} bits a character"
    if network.interval:
        stands += f" (95 %: {_span(network.interval)})"
    if not better:
        return f"{stands}: fewer than all {len(others)} baselines, of which {_named(worse[0])} is the best."
    if not worse:
        return f"{stands}: more than all {len(others)} baselines, of which {_named(better[-1])} is the worst."
    place = f"better than {len(worse)} of {len(others)} baselines"
    return f"{stands}: {place}, between {_named(better[-1])} and {_named(worse[0])}."


def _against_counts(network: Row, best: Row) -> str:
    if best.bits_per_character >= network.bits_per_character:
        pair = Pair(network, best)
        return f"The best counted model, {best.model}, needs {_more(pair)}."
    return f"Against the best counted model, {best.model}, it needs {_more(Pair(best, network))}."


def _as_counting(network: Row, counts: Sequence[Row]) -> str:
    """What that means: after how many characters' context counting does as well."""
    beaten = [row for row in counts if row.bits_per_character > network.bits_per_character]
    if len(beaten) == len(counts):
        return (
            "So it has learned from its training text what no count of neighbouring tokens has: regularities that "
            "reach further, or that hold beyond the very sequences that it has read."
        )
    orders = {int(row.model.rsplit(" ", 1)[1]): row for row in counts if row.model.startswith("kneser-ney ")}
    reached = list(takewhile(lambda order: orders[order] in beaten, sorted(orders)))
    if not reached:
        return (
            "That is no better than knowing how often each token occurs: it has learned too little, "
            "or the text is of another kind than what it was trained on."
        )
    order = reached[-1]
    context = f"the {order - 1} tokens before" if order > 2 else "the token before" if order == 2 else "no token before"
    return (
        f"So it knows more than counting what follows {context} would tell (kneser-ney {order}), but counts from the "
        "same training text do better still: it is too small or too little trained for that text."
    )


def _against_codes(network: Row, best: Row) -> str:
    more = best.bits_per_character - network.bits_per_character
    factor = best.bits_per_character / network.bits_per_character if network.bits_per_character else float("inf")
    length = f"{best.model}, which has read the training text too, needs {figure(abs(more))}"
    if more >= 0:
        return f"The best compressor, {length} more: its code for this text is {figure(factor, 2)} times as long."
    return f"The best compressor, {length} fewer: its code for this text is shorter, {figure(factor, 2)} times as long."


def _made_in_words(network: Row, row: Row, called: str) -> str:
    """What a row that is made of the network gains or loses against it."""
    if not rank([row]):
        return f"{row.model}: there is no figure."
    gains = row.bits_per_character <= network.bits_per_character
    pair = Pair(row, network) if gains else Pair(network, row)
    name = row.model.removeprefix(network.model).removeprefix(", ").removeprefix(" + ")
    what = "Learning as it reads," if name == "dynamic" else f"Together with {name}"
    if name.startswith("dynamic + "):
        what = f"Learning as it reads, and together with {name.removeprefix('dynamic + ')},"
    less = f"{figure(pair.difference)} bits a character {'fewer' if gains else 'more'}"
    sure = ""
    if pair.interval is not None:
        sure = f" (95 %: {_span(pair.interval)}{'' if pair.sure else ', so maybe nothing'})"
    return f"{what} {called} needs {less}{sure}: {figure(row.bits_per_character)}."


def _named(row: Row) -> str:
    return f"{row.model} ({figure(row.bits_per_character)})"


def _span(interval: Interval | None) -> str:
    return "-" if interval is None else f"{figure(interval[0])} to {figure(interval[1])}"


def _names(rows: Sequence[Row]) -> dict[str, str]:
    """What each checkpoint is called: its run, unless two are called the same."""
    paths = {row.checkpoint: Path(row.checkpoint) for row in rows}
    runs = {
        name: path.parent.name if path.stem in ("best", "last", "previous") and path.parent.name else name
        for name, path in paths.items()
    }
    often = Counter(runs.values())
    return {name: run if often[run] == 1 else name for name, run in runs.items()}


def score_table(out: Console, results: Sequence[Mapping[str, Any]]) -> None:
    """The report of `eval`: one column a text, one row a figure."""
    columns = ["", *(f"{one_line(str(row['text']))}" for row in results)]
    lines: list[tuple[str, Callable[[Mapping[str, Any]], str]]] = [
        ("bits per character", lambda r: figure(r["bits_per_character"])),
        ("  95 % interval", lambda r: "-" if r["interval"] is None else " to ".join(map(figure, r["interval"]))),
        ("loss (nats per character)", lambda r: figure(r["loss"])),
        ("perplexity per character", lambda r: figure(r["perplexity"], 3)),
        ("bits per byte", lambda r: figure(r["bits_per_byte"])),
        ("word perplexity", lambda r: figure(r["word_perplexity"], 1)),
        ("characters", lambda r: f"{r['characters']:,}"),
        ("  never seen in training", lambda r: f"{r['unknown_characters']:,}"),
        ("bytes", lambda r: f"{r['bytes']:,}"),
        ("words and line ends", lambda r: f"{r['words']:,}"),
        ("tokens", lambda r: f"{r['tokens']:,}"),
        ("characters per second", lambda r: figure(r["characters_per_second"], 0)),
    ]
    several = len({row["checkpoint"] for row in results}) > 1
    if several:
        lines.insert(0, ("model", lambda r: str(r["checkpoint"])))
    table(out, "", columns, [(name, *(show(row) for row in results)) for name, show in lines])


def meaning(perplexity: float | None) -> str:
    """A perplexity in words."""
    if perplexity is None:
        return "There was nothing to score."
    return f"The model is as unsure as a choice among {figure(perplexity, 1)} equally likely characters."
