"""Baselines for a neural model on the same text: n-gram models, and general-purpose compressors.

N-gram models (`charlm.models.ngram`) read the same tokens with the same escape, so they are probability models over the
same characters, and their figures are `Score`s like any other. Nothing about them is fitted to the scored text:
discounts come from the training text, everything else is fixed here. They count the whole training text, as it was
joined from its files, with a start symbol before its first token only.

A compressor's figure is a code length: C(train + text) - C(train), the additional bits that it needs for the text after
the training text. It is not comparable in every respect. The compressor adapts to the scored text while it reads it, it
forgets what lies further back than its window (gzip 32 KiB, bz2 a block of 900 kB), and its code is a whole number of
bytes with headers, so that for a text of a few characters the figure means little.

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
from typing import Any, Final

from charlm.evaluation.score import Score, add_escape
from charlm.models.ngram import AddDelta, Backoff, Counts, Floats, KneserNey, NGram, WittenBell
from charlm.text.tokenizer import Ids, Tokenizer, Tokens

MODELS: Final[Mapping[type[NGram], Sequence[int]]] = {  # methods and their orders
    AddDelta: (3, 5),
    Backoff: (5,),
    WittenBell: (5, 6),
    KneserNey: range(1, 11),
}


def highest_order(models: Mapping[type[NGram], Sequence[int]]) -> int:
    """The highest order of these models, up to which sequences are counted."""
    return max(max(orders) for orders in models.values())


HIGHEST_ORDER: Final = highest_order(MODELS)


def ngram_nats(
    counts: Counts, tokenizer: Tokenizer, ids: Ids, models: Mapping[type[NGram], Sequence[int]] = MODELS
) -> Iterator[tuple[str, Floats]]:
    """Name, and -ln P of each token [N] in nats, escape included, of n-gram models of these methods and orders."""
    for method, orders in models.items():
        for order, nats in enumerate(method(counts, max(orders)).nats_by_order(ids), 1):
            if order in orders:
                yield f"{method.method} {order}", add_escape(nats, ids, tokenizer)


def code_lengths(train: str, text: str, tokens: Tokens) -> Iterator[tuple[str, Score]]:
    """Name and C(train + text) - C(train) of each compressor at its highest level; xz needs up to 0.7 GB of memory.

    The bits of a code length are converted to nats so that its figures can be compared; its counts are those of the
    tokens of the text.
    """
    before, whole = train.encode(), (train + text).encode()
    for name, compress in _compressors().items():
        bits = 8 * (len(compress(whole)) - len(compress(before)))
        yield name, Score.of(bits * math.log(2), tokens)


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
    """Zstandard at level 22, if Python (from 3.14) or the package `zstandard` provides it."""
    if importlib.util.find_spec("compression") and importlib.util.find_spec("compression.zstd"):
        library: Any = importlib.import_module("compression.zstd")
        return lambda data: library.compress(data, 22)
    if importlib.util.find_spec("zstandard"):
        package: Any = importlib.import_module("zstandard")
        return lambda data: package.ZstdCompressor(level=22).compress(data)
    return None
