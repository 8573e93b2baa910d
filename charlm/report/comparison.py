"""Comparisons in sentences: how a network ranks among baselines, and how certain a difference between models is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Final

from charlm.evaluation.bootstrap import Interval
from charlm.evaluation.comparison import Pair, Row, rank
from charlm.evaluation.score import Score
from charlm.report.words import figure

_MEMORISED: Final = (
    "But all of this text occurs word for word in the training text: these figures measure memorisation, not "
    "generalisation. N-gram models and compressors keep the whole training text."
)
_BEYOND_NGRAMS: Final = (
    "So it has learned regularities that n-gram counts of the same training text miss: longer contexts, or sequences "
    "that the training text does not contain."
)
_NO_CONTEXT: Final = (
    "That is no better than knowing how often each token occurs: the model is undertrained, or the text is very "
    "different from the training text."
)


def describe_perplexity(score: Score) -> str:
    """A perplexity in words.

    >>> describe_perplexity(Score(nats=1e9, characters=2, bytes=2, words=1, tokens=2, unknown_characters=0))
    'The perplexity is too large to be represented.'
    """
    if not score.characters:
        return "The text is empty: there was nothing to score."
    if figure(score.perplexity) == "-":
        return "The perplexity is too large to be represented."
    return f"The model is as uncertain as if it chose among {figure(score.perplexity, 1)} equally likely characters."


def describe_comparison(pair: Pair, names: Mapping[str, str]) -> str:
    """Which of several models predicts a text best, and by how much; `names` are those of the checkpoints."""
    winner, other = names[pair.winner.checkpoint], names[pair.runner_up.checkpoint]
    if not pair.difference:
        return f"{pair.winner.text}: {winner} and {other} predict it equally well."
    return (
        f"{pair.winner.text}: {winner} predicts it best, with {figure(pair.winner.bits_per_character)} bits per "
        f"character; {other} is second and needs {_more(pair)}."
    )


def describe_ranking(network: Row, beside: Sequence[Row], called: str, *, known: bool = False) -> list[str]:
    """How a network, `called` so, ranks among the rows beside it; a sentence a line, none where there are no rows.

    `known` says that the training text contains all of this text.
    """
    if not rank([network]):
        return [describe_perplexity(network.score)] if beside else []
    ngrams = rank(row for row in beside if row.kind == "counts")
    codes = rank(row for row in beside if row.kind == "code length")
    lines = []
    if ngrams:
        lines.append(_rank(network, called, [*ngrams, *codes]))
        lines.append(_compare_with_ngrams(network, ngrams[0]))
        lines.append(_MEMORISED if known else _interpret(network, ngrams))
    if codes:
        lines.append(_compare_with_compressor(network, codes[0]))
    made = [row for row in beside if row.kind in ("network", "mixture")]
    lines += [_describe_cold(row, "it" if lines else called) for row in beside if row.kind == "cold windows"]
    return [*lines, *(_describe_made(network, row, "it" if lines else called) for row in made)]


def span(interval: Interval | None) -> str:
    return "-" if interval is None else f"{figure(interval[0])} to {figure(interval[1])}"


def _more(pair: Pair) -> str:
    """How much a runner-up needs more, and how certain that is."""
    factor = f"{figure(pair.difference)} more, a perplexity {figure(pair.factor, 3)} times as high"
    if pair.interval is None:
        return f"{factor} (text too short for an interval)"
    return f"{factor} (95 % interval: {span(pair.interval)}, {'' if pair.sure else 'not '}significant)"


def _rank(network: Row, called: str, others: Sequence[Row]) -> str:
    better = [row for row in rank(others) if row.bits_per_character < network.bits_per_character]
    worse = [row for row in rank(others) if row not in better]
    needs = f"On {network.text} {called} needs {figure(network.bits_per_character)} bits per character"
    if network.interval:
        needs += f" (95 % interval: {span(network.interval)})"
    if not better:
        return f"{needs}, fewer than any of the {len(others)} baselines; the best of them is {_named(worse[0])}."
    if not worse:
        return f"{needs}, more than any of the {len(others)} baselines; the worst of them is {_named(better[-1])}."
    place = f"better than {len(worse)} of {len(others)} baselines"
    return f"{needs}, {place}, between {_named(better[-1])} and {_named(worse[0])}."


def _compare_with_ngrams(network: Row, best: Row) -> str:
    if best.bits_per_character >= network.bits_per_character:
        return f"The best n-gram model, {best.model}, needs {_more(Pair(network, best))}."
    return f"Compared with the best n-gram model, {best.model}, it needs {_more(Pair(best, network))}."


def _interpret(network: Row, ngrams: Sequence[Row]) -> str:
    """What that means: how long a context an n-gram model needs to predict as well."""
    beaten = [row for row in ngrams if row.bits_per_character > network.bits_per_character]
    if len(beaten) == len(ngrams):
        return _BEYOND_NGRAMS
    orders = {int(row.model.rsplit(" ", 1)[1]): row for row in ngrams if row.model.startswith("kneser-ney ")}
    reached = list(takewhile(lambda order: orders[order] in beaten, sorted(orders)))
    if not reached:
        return _NO_CONTEXT
    order = reached[-1]
    context = f"the previous {order - 1} tokens" if order > 2 else "the previous token" if order == 2 else "no context"
    return (
        f"So it predicts better than an n-gram model that sees {context} (kneser-ney {order}), but worse than the best "
        "n-gram model of the same training text: it is too small or undertrained for this text."
    )


def _compare_with_compressor(network: Row, best: Row) -> str:
    more = best.bits_per_character - network.bits_per_character
    factor = best.bits_per_character / network.bits_per_character if network.bits_per_character else float("inf")
    needs = f"The best compressor, {best.model}, which has read the training text too, needs {figure(abs(more))}"
    return f"{needs} {'more' if more >= 0 else 'fewer'}: its code for this text is {figure(factor, 2)} times as long."


def _describe_cold(row: Row, called: str) -> str:
    """The figure to set beside those of models of fixed context, which are published in nats."""
    windows = row.model.partition(", ")[2]
    return f"In {windows} characters {called} needs {figure(row.score.loss)} nats per character."


def _describe_made(network: Row, row: Row, called: str) -> str:
    """What dynamic evaluation, a mixture or both gain or lose against the network alone."""
    if not rank([row]):
        return f"{row.model}: the score is not finite."
    gains = row.bits_per_character <= network.bits_per_character
    pair = Pair(row, network) if gains else Pair(network, row)
    name = row.model.removeprefix(network.model).removeprefix(", ").removeprefix(" + ")
    how = "With dynamic evaluation" if name == "dynamic" else f"Mixed with {name}"
    if name.startswith("dynamic + "):
        how = f"With dynamic evaluation and mixed with {name.removeprefix('dynamic + ')}"
    less = f"{figure(pair.difference)} bits per character {'fewer' if gains else 'more'}"
    sure = ""
    if pair.interval is not None:
        sure = f" (95 % interval: {span(pair.interval)}, {'' if pair.sure else 'not '}significant)"
    return f"{how}, {called} needs {less}{sure}: {figure(row.bits_per_character)}."


def _named(row: Row) -> str:
    return f"{row.model} ({figure(row.bits_per_character)})"
