"""What a neural model is judged against, on the same text: counted models, and general compressors.

Counted models (`charlm.models.ngram`) read the same tokens and pay the same escape, so they are true probability
models over the same characters, and their figures are `Score`s like any other. Nothing about them is fitted to the
scored text: discounts come from the training text, the rest is fixed here. They count one training text from end to
end, as it was joined from its files, with a start symbol before its first token alone.

A compressor's figure is a code length: how many more bits it needs for training text and scored text in a row than for
the training text alone, C(train + text) - C(train). That is no probability model: it has learned some of the scored
text by the time it comes to the rest, forgets what lies further back than its window (gzip 32 KiB, bz2 a block of 900
kB), and is rounded to what its format can express, so that for a text of a few characters it means little.

This module knows nothing of networks, training, files or printing.
"""

from __future__ import annotations

import bz2
import gzip
import importlib
import importlib.util
import lzma
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np

from charlm.evaluation.score import Score
from charlm.models.ngram import AddDelta, Backoff, Counts, Floats, KneserNey, NGram, WittenBell
from charlm.text.tokenizer import Ids, Tokenizer, Tokens

MODELS: Final[Mapping[type[NGram], Sequence[int]]] = {  # and their orders; all are counted up to the highest
    AddDelta: (3, 5),
    Backoff: (5,),
    WittenBell: (5, 6),
    KneserNey: range(1, 11),
}


def highest_order(models: Mapping[type[NGram], Sequence[int]]) -> int:
    """The order up to which is counted, once for all of them."""
    return max(max(orders) for orders in models.values())


HIGHEST_ORDER: Final = highest_order(MODELS)


@dataclass(frozen=True, slots=True)
class Baseline:
    """One row: "kneser-ney 6" or "xz", whether its nats are -ln P (counts) or a file's length (code length), and these.

    The score of a code length has its bits as nats, so that its figures compare; its counts are those of the tokens.
    """

    model: str
    kind: Literal["counts", "code length"]
    score: Score


def baselines(train: str, text: str, tokenizer: Tokenizer, tokens: Tokens) -> list[Baseline]:
    """All rows for a text, of which `tokens` are the tokens, after a training text."""
    return [*score_ngrams(tokenizer.encode(train).ids, tokenizer, tokens), *code_lengths(train, text, tokens)]


def score_ngrams(
    train: Ids, tokenizer: Tokenizer, tokens: Tokens, models: Mapping[type[NGram], Sequence[int]] = MODELS
) -> Iterator[Baseline]:
    """Counted models of these orders, counted on the ids of a training text [N]."""
    counts = Counts(train, tokenizer.size, highest_order(models))
    for name, nats in ngram_nats(counts, tokenizer, tokens.ids, models):
        yield Baseline(name, "counts", Score.of(float(nats.sum()), tokens))


def ngram_nats(
    counts: Counts, tokenizer: Tokenizer, ids: Ids, models: Mapping[type[NGram], Sequence[int]] = MODELS
) -> Iterator[tuple[str, Floats]]:
    """Name and nats, with the escape's price, of each token [N] under counted models of these orders."""
    for method, orders in models.items():
        for order, nats in enumerate(method(counts, max(orders)).nats_by_order(ids), 1):
            if order in orders:
                yield f"{method.method} {order}", charged(nats, ids, tokenizer)


def charged(nats: Floats, ids: Ids, tokenizer: Tokenizer) -> Floats:
    """What each token costs [N] when a model of the known ones charges these nats [N]: with the escape's price."""
    if not tokenizer.escape:
        return nats
    return np.where(ids < tokenizer.size, nats + tokenizer.known_nats, tokenizer.unseen_nats)


def code_lengths(train: str, text: str, tokens: Tokens) -> Iterator[Baseline]:
    """C(train + text) - C(train) for each compressor at its highest setting; xz takes up to 0.7 GB for that."""
    before, whole = train.encode(), (train + text).encode()
    for name, compress in _compressors().items():
        bits = 8 * (len(compress(whole)) - len(compress(before)))
        yield Baseline(name, "code length", Score.of(bits * math.log(2), tokens))


def _compressors() -> Mapping[str, Callable[[bytes], bytes]]:
    compressors: dict[str, Callable[[bytes], bytes]] = {
        "gzip": lambda data: gzip.compress(data, 9, mtime=0),
        "bz2": lambda data: bz2.compress(data, 9),
        "xz": lambda data: lzma.compress(data, preset=9 | lzma.PRESET_EXTREME),
    }
    if zstd := _zstd():
        compressors["zstd"] = zstd
    return compressors


def _zstd() -> Callable[[bytes], bytes] | None:
    """Zstandard at level 22, where Python (from 3.14) or the package `zstandard` has it."""
    if importlib.util.find_spec("compression") and importlib.util.find_spec("compression.zstd"):
        library: Any = importlib.import_module("compression.zstd")
        return lambda data: library.compress(data, 22)
    if importlib.util.find_spec("zstandard"):
        package: Any = importlib.import_module("zstandard")
        return lambda data: package.ZstdCompressor(level=22).compress(data)
    return None
