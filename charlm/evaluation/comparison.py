"""Comparison of models on texts: networks, mixtures with them, and baselines.

A `Row` is one model's score of one text, with the means of its resampled texts. Rows of one text are resampled in the
same places (`charlm.evaluation.bootstrap`) whatever their tokenizers, because the series are those of characters. The
kinds of model are:

    network         a trained model, as it is (`lstm`) or with dynamic evaluation (`lstm, dynamic`)
    cold windows    a network that reads every N characters from the zero state (`lstm, cold windows of 256`)
    mixture         a network mixed with modified Kneser-Ney of order 8 (`lstm + kneser-ney 8`)
    counts          an n-gram model of the network's training text and tokenizer (`kneser-ney 6`)
    code length     a compressor that has read the training text (`xz`); not a probability model, without interval

This module knows nothing of training or printing. It finds the training text of a checkpoint, and reads no other files.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any, Final, Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from charlm.config import BACKWARD
from charlm.errors import ConfigError
from charlm.evaluation.baselines import HIGHEST_ORDER, code_lengths, ngram_nats
from charlm.evaluation.bootstrap import Floats, Interval, block_length, difference, interval, resampled_means
from charlm.evaluation.mixture import mix
from charlm.evaluation.score import Score, add_escape, add_to_cells
from charlm.models.ngram import Counts, KneserNey
from charlm.storage.checkpoint import Checkpoint, finite
from charlm.storage.provenance import own_corpus
from charlm.text.portion import beginning_of_text, end_of_text
from charlm.text.stored import StoredText, Text
from charlm.text.tokenizer import Ids, Tokenizer, Tokens, tokenize, utf8_sizes

MIXED_ORDER: Final = 8  # of the n-gram model in mixtures
VALIDATION_TEXT: Final = "validation text"
_LONG: Final = 2**24  # characters from which a text stays on the disk
_READ: Final = 2**18  # characters of it that are cut into cold windows at once
_CELL: Final = 1024  # characters of it that are resampled together

Kind = Literal["network", "cold windows", "mixture", "counts", "code length"]


class LoadedModel(Protocol):
    """The protocol of a loaded model; `charlm.language_model.LanguageModel` follows it."""

    @property
    def path(self) -> Path: ...

    @property
    def checkpoint(self) -> Checkpoint: ...

    @property
    def tokenizer(self) -> Tokenizer: ...

    @property
    def records(self) -> str: ...

    def open_validation_text(self, corpus: Sequence[str] = ()) -> Text: ...

    def as_read(self, text: str) -> str: ...

    def prepare(self) -> None: ...

    def score_stored(
        self,
        text: StoredText,
        cells: NDArray[np.float64] | None = None,
        *,
        exact: bool = False,
        dynamic: bool = False,
    ) -> Score: ...

    def nats(self, text: str, *, exact: bool = False, dynamic: bool = False) -> NDArray[np.float32]: ...

    def cold_nats(self, text: str, window: int) -> NDArray[np.float64]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonOptions:
    """Which rows to compute besides those of the networks, and whether to score in one exact pass."""

    exact: bool = False
    dynamic: bool = False
    mix: bool = False
    baselines: bool = False
    cold_windows: int = 0  # characters in each; 0: none

    @property
    def counts(self) -> bool:
        """Whether the training text is needed."""
        return self.mix or self.baselines


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """The score of one text under one model; `means` are resampled bits per character [R], or None."""

    text: str
    number: int  # of the text: rows with the same number can be compared
    checkpoint: str
    model: str
    kind: Kind
    score: Score
    means: Floats | None
    seconds: float | None = None  # taken to read the text

    @property
    def bits_per_character(self) -> float:
        return self.score.bits_per_character

    @property
    def interval(self) -> Interval | None:
        """The 95 % interval of the bits per character, or None."""
        return interval(self.means)

    def record(self) -> dict[str, object]:
        """The row for JSON: null for figures that do not exist."""
        score = self.score
        return {
            "text": self.text,
            "checkpoint": self.checkpoint,
            "model": self.model,
            "kind": self.kind,
            "characters": score.characters,
            "bytes": score.bytes,
            "words": score.words,
            "tokens": score.tokens,
            "unknown_characters": score.unknown_characters,
            "nats": finite(score.nats),
            "loss": finite(score.loss),
            "bits_per_character": finite(score.bits_per_character),
            "interval": None if self.interval is None else list(self.interval),
            "bits_per_byte": finite(score.bits_per_byte),
            "perplexity": finite(score.perplexity),
            "word_perplexity": finite(score.word_perplexity),
            "characters_per_second": finite(score.characters / self.seconds) if self.seconds else None,
        }


@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """Two rows of one text: the one with fewer bits per character is the winner; of equals, the first."""

    winner: Row
    runner_up: Row

    @property
    def difference(self) -> float:
        """How many more bits per character the runner-up has, 0 or above."""
        return self.runner_up.bits_per_character - self.winner.bits_per_character

    @property
    def factor(self) -> float:
        """The ratio of the two perplexities per character, 1 or above."""
        return 2.0**self.difference if self.difference < 1000 else math.inf

    @property
    def interval(self) -> Interval | None:
        """The paired 95 % interval of the difference, or None."""
        return difference(self.runner_up.means, self.winner.means)

    @property
    def sure(self) -> bool:
        """Whether the interval excludes 0."""
        return self.interval is not None and self.interval[0] > 0

    def record(self) -> dict[str, object]:
        return {
            "text": self.winner.text,
            "winner": self.winner.checkpoint,
            "winner_model": self.winner.model,
            "runner_up": self.runner_up.checkpoint,
            "runner_up_model": self.runner_up.model,
            "difference_bits_per_character": finite(self.difference),
            "perplexity_factor": finite(self.factor),
            "interval": None if self.interval is None else list(self.interval),
            "sure": self.sure,
        }


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """All rows, in the order of models and texts; for each, the network, its mixtures, and the baselines.

    Networks with the same training text and tokenizer share their baseline rows, which exist once: `baselines_of` maps
    each checkpoint to the one that holds them. `verbatim` names texts, by number, that occur as a whole in the
    training text of a checkpoint; it is known only where the training text was needed.
    """

    rows: tuple[Row, ...]
    baselines_of: Mapping[str, str]
    verbatim: frozenset[tuple[int, str]]
    remarks: tuple[str, ...] = ()  # what was done with less than a whole text

    @property
    def networks(self) -> tuple[Row, ...]:
        """The rows of networks without dynamic evaluation: one for each model and text."""
        return tuple(row for row in self.rows if row.kind == "network" and not row.model.endswith(_DYNAMIC))

    def texts(self) -> list[list[Row]]:
        """The rows of each text, in the order of the texts."""
        ordered = sorted(self.rows, key=lambda row: row.number)
        return [list(rows) for _, rows in groupby(ordered, key=lambda row: row.number)]

    def network_pairs(self) -> list[Pair]:
        """For each text that several networks have scored, the two best."""
        pairs = (best_two(row for row in rows if row in self.networks) for rows in self.texts())
        return [pair for pair in pairs if pair is not None]

    def baseline_pairs(self) -> list[Pair]:
        """For each network and text with n-gram models, the network and the best of these."""
        pairs = []
        for network in self.networks:
            best = rank(row for row in self.beside(network) if row.kind == "counts")[:1]
            pairs.append(best_two([network, *best]))
        return [pair for pair in pairs if pair is not None]

    def beside(self, network: Row) -> list[Row]:
        """The other rows of the same text that belong to this network: its mixtures and baselines."""
        owners = dict.fromkeys(("network", "cold windows", "mixture"), network.checkpoint)
        owner = self.baselines_of.get(network.checkpoint)
        rows = (row for row in self.rows if row.number == network.number and row is not network)
        return [row for row in rows if row.checkpoint == owners.get(row.kind, owner)]


def rank(rows: Iterable[Row]) -> list[Row]:
    """The rows with finite figures, from the fewest bits per character to the most."""
    figures = (row for row in rows if math.isfinite(row.bits_per_character))
    return sorted(figures, key=lambda row: row.bits_per_character)


def best_two(rows: Iterable[Row]) -> Pair | None:
    """The two best rows, or None if fewer have finite figures."""
    best = rank(rows)[:2]
    return Pair(*best) if len(best) == 2 else None


def compare(
    models: Sequence[LoadedModel],
    texts: Sequence[tuple[str, Text]] = (),
    corpus: Sequence[str] = (),
    options: ComparisonOptions | None = None,
) -> Comparison:
    """Score every text, given as (name, content), under every model; without texts, each model's validation text.

    `corpus` says where the models' own texts are now, if they have moved. Raises DataError, before anything is scored,
    if such a text is needed and is missing or has another fingerprint; ConfigError if a model cannot be evaluated
    dynamically or in a mixture.
    """
    options = options or ComparisonOptions()
    for model in models:
        _check_mixture(model, options)
    remarks: list[str] = []
    named: list[list[tuple[str, Text]]] = [
        _given(texts, models, options, remarks) or [_validation_text(model, corpus, options, remarks)]
        for model in models
    ]
    read = [[(name, _as_read(model, text)) for name, text in own] for model, own in zip(models, named, strict=True)]
    training = [_Training.of(model, corpus) for model in models] if options.counts else []
    first = [training.index(one) for one in training]  # equal ones share the rows of the first
    baselines_of = {str(model.path): str(models[place].path) for model, place in zip(models, first, strict=False)}
    numbers: dict[tuple[str, object], int] = {}
    verbatim = set()
    rows: list[Row] = []
    for place, (model, own) in enumerate(zip(models, read, strict=True)):
        train = training[first[place]] if training else None
        for name, text in own:
            number = numbers.setdefault((name, text if isinstance(text, str) else text.name), len(numbers))
            if not isinstance(text, str):
                rows += _stored_rows(model, name, text, number, options)
                continue
            reading = _Reading(model, name, text, number)
            rows += _network_rows(reading, train, options)
            if train is None:
                continue
            if text and text in train.text:
                verbatim.add((number, str(model.path)))
            if options.baselines and first[place] == place:
                rows += _baseline_rows(reading, train)
    remarks += [f"n-gram models and compressors: {one.remark}" for one in training if one.remark]
    return Comparison(tuple(rows), baselines_of, frozenset(verbatim), tuple(dict.fromkeys(remarks)))


def _check_mixture(model: LoadedModel, options: ComparisonOptions) -> None:
    """Raise ConfigError where a mixture would be of two directions, whose probabilities are not of one text."""
    if options.mix and model.checkpoint.config.data.direction == BACKWARD:
        raise ConfigError(
            f"--mix needs a forward model, as n-gram models are, but {model.path} reads backward",
            kept="nothing was scored",
            hint="leave out --mix",
        )


_DYNAMIC: Final = ", dynamic"


_Float = TypeVar("_Float", bound=np.floating[Any])


def _given(
    texts: Sequence[tuple[str, Text]], models: Sequence[LoadedModel], options: ComparisonOptions, remarks: list[str]
) -> list[tuple[str, Text]]:
    """The texts, long ones on the disk; in memory where a model reads records, for all models are resampled alike."""
    found = [(name, _kept(name, text, options, remarks)) for name, text in texts]
    in_memory = any(model.records != "none" for model in models)
    return [(name, str(text)) for name, text in found] if in_memory else found


def _validation_text(
    model: LoadedModel, corpus: Sequence[str], options: ComparisonOptions, remarks: list[str]
) -> tuple[str, Text]:
    return VALIDATION_TEXT, _kept(f"the {VALIDATION_TEXT}", model.open_validation_text(corpus), options, remarks)


def _kept(name: str, text: Text, options: ComparisonOptions, remarks: list[str]) -> Text:
    """A text, on the disk where it is long; for n-gram models and compressors its beginning, in memory."""
    if not options.counts:
        return text if len(text) > _LONG else str(text)
    first, remark = beginning_of_text(name, text)
    remarks += [remark] if remark else []
    return first


def _as_read(model: LoadedModel, text: Text) -> Text:
    return model.as_read(text) if isinstance(text, str) else text  # stored records have their ends


def _stored_rows(
    model: LoadedModel, name: str, text: StoredText, number: int, options: ComparisonOptions
) -> Iterator[Row]:
    """The network's rows for a text on the disk, resampled by pieces of `_CELL` characters in place of single ones."""
    cell, window = model.checkpoint.config.model.kind, options.cold_windows
    reads: list[tuple[str, Kind, Callable[[Floats], Score]]] = [
        (cell, "network", lambda cells: model.score_stored(text, cells, exact=options.exact))
    ]
    if options.dynamic:
        reads.append((cell + _DYNAMIC, "network", lambda cells: model.score_stored(text, cells, dynamic=True)))
    if window:
        reads.append((_cold_name(cell, window), "cold windows", lambda cells: _cold_score(model, text, window, cells)))
    for what, kind, read in reads:
        cells = np.zeros(max(1, len(text) // _CELL))
        model.prepare()
        began = time.perf_counter()
        score = read(cells)
        seconds = time.perf_counter() - began
        by_character = model.tokenizer.one_per_character or kind == "cold windows"
        means = _cell_means(cells, len(text)) if by_character else None
        yield Row(name, number, str(model.path), what, kind, score, means, seconds)


def _cell_means(cells: Floats, characters: int) -> Floats | None:
    """The means of resampled texts, made of pieces of a text, from the nats of each piece."""
    per_cell = characters / len(cells)
    length = max(1, round(block_length(characters) / per_cell))
    return resampled_means(cells / per_cell / math.log(2), length=length)


def _cold_score(model: LoadedModel, text: StoredText, window: int, cells: Floats) -> Score:
    """The score of a text of which every `window` characters are read from the zero state."""
    nats, size = 0.0, window * max(1, _READ // window)
    for at in range(0, len(text), size):
        own = model.cold_nats(text[at : at + size], window)
        nats += float(own.sum())
        add_to_cells(cells, np.arange(at, at + len(own)), own, len(text))
    return Score.of(nats, tokenize(model.tokenizer, text))


def _cold_name(cell: str, window: int) -> str:
    return f"{cell}, cold windows of {window}"


class _Reading:
    """One text under one model."""

    def __init__(self, model: LoadedModel, name: str, text: str, number: int) -> None:
        self.model, self.name, self.text, self.number = model, name, text, number
        self.cell = model.checkpoint.config.model.kind

    @cached_property
    def tokens(self) -> Tokens:
        return tokenize(self.model.tokenizer, self.text)

    def timed(self, read: Callable[[], NDArray[_Float]]) -> tuple[NDArray[_Float], float]:
        self.model.prepare()
        began = time.perf_counter()
        return read(), time.perf_counter() - began

    def row(self, model: str, kind: Kind, nats: NDArray[np.floating[Any]], seconds: float | None = None) -> Row:
        series = character_nats(self.model.tokenizer, self.tokens.ids, self.text, nats)
        score = Score.of(float(nats.sum(dtype=np.float64)), self.tokens)
        return self._row(model, kind, score, resampled_means(series / math.log(2)), seconds)

    def cold(self, window: int) -> Row:
        series, seconds = self.timed(lambda: self.model.cold_nats(self.text, window))
        score = Score.of(float(series.sum()), self.tokens)
        return self._row(
            _cold_name(self.cell, window), "cold windows", score, resampled_means(series / math.log(2)), seconds
        )

    def coded(self, model: str, score: Score) -> Row:
        return self._row(model, "code length", score, None, None)

    def _row(self, model: str, kind: Kind, score: Score, means: Floats | None, seconds: float | None) -> Row:
        return Row(self.name, self.number, str(self.model.path), model, kind, score, means, seconds)


@dataclass(slots=True)
class _Training:
    """A training text with its tokenizer; equal ones give equal n-gram models, which are counted once."""

    fingerprint: str
    tokenizer: Any
    text: str = field(compare=False)
    ids: Ids = field(compare=False)
    size: int = field(compare=False)
    remark: str = field(compare=False)  # where the text is not all of it
    _counts: Counts | None = field(default=None, compare=False)

    @staticmethod
    def of(model: LoadedModel, corpus: Sequence[str]) -> _Training:
        found = own_corpus(model.checkpoint, model.path, corpus)
        text, remark = end_of_text(found.train)
        tokenizer = model.tokenizer
        ids = tokenizer.encode(text).ids
        return _Training(found.fingerprint, tokenizer.state(), text, ids, tokenizer.size, remark)

    def counts(self, order: int) -> Counts:
        if self._counts is None or self._counts.order < order:
            self._counts = Counts(self.ids, self.size, order)
        return self._counts


def _network_rows(reading: _Reading, train: _Training | None, options: ComparisonOptions) -> Iterator[Row]:
    """The rows of the network, and of its mixtures."""
    model, text, cell = reading.model, reading.text, reading.cell
    read = {cell: reading.timed(lambda: model.nats(text, exact=options.exact))}
    if options.dynamic:
        read[cell + _DYNAMIC] = reading.timed(lambda: model.nats(text, dynamic=True))
    for name, (nats, seconds) in read.items():
        yield reading.row(name, "network", nats, seconds)
    if options.cold_windows:
        yield reading.cold(options.cold_windows)
    if train is None or not options.mix:
        return
    ids = reading.tokens.ids
    ngram = KneserNey(train.counts(_highest(options)), MIXED_ORDER)
    other = add_escape(ngram.nats(ids), ids, model.tokenizer)
    for name, (nats, _) in read.items():
        mixed = mix([nats, other], ids) if len(ids) else nats
        yield reading.row(f"{name} + {ngram.name}", "mixture", mixed)


def _baseline_rows(reading: _Reading, train: _Training) -> Iterator[Row]:
    """The rows of the n-gram models and of the compressors."""
    ids = reading.tokens.ids
    for name, nats in ngram_nats(train.counts(HIGHEST_ORDER), reading.model.tokenizer, ids):
        yield reading.row(name, "counts", nats)
    for name, score in code_lengths(train.text, reading.text, reading.tokens):
        yield reading.coded(name, score)


def _highest(options: ComparisonOptions) -> int:
    """The highest order that these options need, up to which sequences are counted once."""
    return HIGHEST_ORDER if options.baselines else MIXED_ORDER


def character_nats(tokenizer: Tokenizer, ids: Ids, text: str, nats: NDArray[np.floating[Any]]) -> Floats:
    """The nats of each character of a text [C], from those of its tokens [N]; their sum is the same.

    The nats of a token are spread evenly over its bytes, and a character has the sum over its bytes. So a character
    that is one token keeps its nats, those of a piece of several characters are divided among them, and a character of
    several tokens has their sum. A token without bytes, if there is one, counts for the character at its place.
    """
    given = np.asarray(nats, dtype=np.float64)
    if tokenizer.one_per_character or not text:
        return given
    lengths = np.array([len(piece) for piece in tokenizer.pieces], dtype=np.int64)[ids]
    owner = np.repeat(np.arange(len(text)), utf8_sizes(text))
    spread = np.bincount(owner, np.repeat(given / np.maximum(lengths, 1), lengths), minlength=len(text))
    empty = lengths == 0
    places = owner[np.minimum(np.cumsum(lengths)[empty], len(owner) - 1)]
    np.add.at(spread, places, given[empty])
    return spread.astype(np.float64, copy=False)
