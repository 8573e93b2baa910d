"""The page of a model: one HTML file that runs it, with no server and no network.

It has parts where the model writes and where a text is read, which a script fills (main.js and the modules beside it),
and parts that are markup alone: those that are given (`Source.inside`), what the model is, and how it was trained.
`PARTS` lists the last two.

Names of files are shown without their folders, since a page may be published. This module does not need torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from string import Template
from typing import Any, Final, NamedTuple

from charlm.config import BACKWARD, ModelConfig
from charlm.errors import ConfigError
from charlm.generation.generate import LENGTH, LONGEST
from charlm.models.architecture import architecture_of
from charlm.models.cells import RECURRENT, cell_of
from charlm.report.levels import LEVELS, NAMES
from charlm.report.page.bundle import bundle, framed, part
from charlm.report.page.curves import Row, curves
from charlm.report.page.markup import table
from charlm.report.page.samples import samples_list
from charlm.report.page.weights import CELLS, PackedWeights, pack_weights
from charlm.report.words import bits, duration, figure, file_size, one_line
from charlm.storage.checkpoint import Checkpoint
from charlm.storage.records import TrainingSample
from charlm.text.tokenizer import ByteTokenizer, CharTokenizer, Tokenizer

MOST: Final = 20_000_000  # bytes of weights
LONGEST_TEXT: Final = 200_000  # characters
_KEPT: Final = "nothing was written"
_FILES: Final = 10


class CellsPart(NamedTuple):
    """What is known of the model's cells: markup, and those that were found, as layer, unit and what it follows."""

    markup: str = ""
    found: Sequence[tuple[int, int, str]] = ()


NO_CELLS: Final = CellsPart()


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A part of the page: where links lead, its title, and its markup."""

    id: str
    title: str
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What a page is made of.

    name       of the model, as `charlm sample` takes it
    rows       of its metrics, or its validations
    samples    that it wrote while it was trained
    text       to be read when the page is opened
    cells      that were found
    inside     further parts: gradients, memory
    """

    name: str
    path: Path
    checkpoint: Checkpoint
    rows: Sequence[Row] = ()
    samples: Sequence[TrainingSample] = ()
    text: str = ""
    precision: str = "fp32"
    cells: CellsPart = NO_CELLS
    inside: Sequence[Section] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """The page, and how many bytes of it are weights before they become text."""

    content: str
    weights: int


def model_page(source: Source) -> Page:
    """The page of a recurrent model; raises ConfigError for what a page cannot run."""
    checkpoint = source.checkpoint
    model, tokenizer = checkpoint.config.model, checkpoint.open_tokenizer()
    packed = checked_weights(source)
    sections = [*source.inside, *(section for make in PARTS if (section := make(source)) is not None)]
    records = checkpoint.config.data.records
    links = [
        ("write", "Write"),
        ("surprisal", "Surprisal"),
        ("cells", "Cells"),
        *((one.id, one.title) for one in sections),
    ]
    body = Template(part("model.html")).substitute(
        name=escape(one_line(source.name)),
        summary=escape(_summary(checkpoint, tokenizer)),
        links="".join(f'<a href="#{name}">{title}</a>' for name, title in links),
        temperature=f"{_temperature(checkpoint):g}",
        length=LENGTH if records == "none" else LONGEST,
        unit="character" if tokenizer.one_per_character else "byte",
        state=cell_of(model).states[-1],
        found=source.cells.markup,
        sections="".join(map(_markup, sections)),
    )
    data = {
        "network": describe_network(model, tokenizer.size, packed),
        "tokenizer": describe_tokenizer(tokenizer),
        "records": records,
        "run": source.name,
        "precision": source.precision,
        "levels": LEVELS,
        "levelNames": NAMES,
        "text": source.text,
        "cells": {"state": cell_of(model).states[-1], "found": source.cells.found},
    }
    content = framed(
        title=f"{one_line(source.name)} - charlm",
        body=body,
        script=bundle("main"),
        data=data,
        weights=packed.data,
        wasm=True,
    )
    return Page(content=content, weights=len(packed.data))


def describe_network(config: ModelConfig, vocabulary: int, packed: PackedWeights) -> dict[str, Any]:
    """What model.js has to know of a network besides the bytes of its weights."""
    return {
        "cell": config.cell,
        "layers": config.layers,
        "hidden": config.hidden,
        "skip": config.skip,
        "states": cell_of(config).states,
        "vocabulary": vocabulary,
        "tensors": packed.tensors,
    }


def describe_tokenizer(tokenizer: Tokenizer) -> dict[str, Any]:
    """What text.js has to know of a tokenizer of characters or bytes."""
    vocabulary = tokenizer.vocabulary if isinstance(tokenizer, CharTokenizer) else ""
    return {"kind": tokenizer.kind, "vocabulary": vocabulary, "escape": tokenizer.escape}


def checked_weights(source: Source) -> PackedWeights:
    """What the page holds of the model; raises ConfigError where it cannot run or hold the model, or its text."""
    _check(source)
    packed = pack_weights(source.checkpoint.config.model, source.checkpoint.weights, source.precision)
    _check_size(source, packed)
    return packed


def _check(source: Source) -> None:
    model, path, tokenizer = source.checkpoint.config.model, source.path, source.checkpoint.open_tokenizer()
    if architecture_of(model) is not RECURRENT or model.cell not in CELLS:
        raise ConfigError(
            f"a page runs recurrent models ({', '.join(CELLS)}), and {path} is {model.kind}",
            kept=_KEPT,
            hint="charlm score --html makes a page of a text with any model",
        )
    if not isinstance(tokenizer, CharTokenizer | ByteTokenizer):
        raise ConfigError(
            f"a page reads characters or bytes, and {path} reads {tokenizer.kind} tokens",
            kept=_KEPT,
            hint="charlm score --html makes a page of a text with any model",
        )
    if source.checkpoint.config.data.direction == BACKWARD:
        raise ConfigError(
            f"a page writes forward, and {path} reads a text backward (--direction backward)",
            kept=_KEPT,
            hint="use a forward model",
        )
    if len(source.text) > LONGEST_TEXT:
        raise ConfigError(
            f"the text has {len(source.text):,} characters; a page reads at most {LONGEST_TEXT:,}",
            kept=_KEPT,
            hint="give a part of it, or use charlm score --html",
        )


def _check_size(source: Source, packed: PackedWeights) -> None:
    size = len(packed.data)
    if size <= MOST:
        return
    hint = "charlm sample runs it in a terminal"
    if source.precision == "fp32":
        smaller = len(pack_weights(source.checkpoint.config.model, source.checkpoint.weights, "int8").data)
        hint = f"--precision int8 makes that {file_size(smaller)}" if smaller <= MOST else hint
    raise ConfigError(
        f"{source.path} has {file_size(size)} of weights in {source.precision}, which would be a page of "
        f"{file_size(size * 4 // 3)}; a page holds at most {file_size(MOST)} of weights",
        kept=_KEPT,
        hint=hint,
    )


def _temperature(checkpoint: Checkpoint) -> float:
    """The one to begin with."""
    found = checkpoint.result.temperature if checkpoint.result else None
    return 1.0 if found is None else found


def _summary(checkpoint: Checkpoint, tokenizer: Tokenizer) -> str:
    """The model in a sentence."""
    model, corpus = checkpoint.config.model, checkpoint.corpus
    unit = "characters" if tokenizer.one_per_character else "bytes"
    network = (
        f"{model.layers} x {model.hidden} {model.kind}, {checkpoint.parameters:,} parameters, {tokenizer.size} {unit}"
    )
    trained = f"trained on {corpus.train_characters:,} characters" if corpus.train_characters else ""
    return "; ".join(filter(None, [network, trained, _loss(checkpoint)]))


def _loss(checkpoint: Checkpoint) -> str:
    result, best = checkpoint.result, checkpoint.training.best
    loss = result.val_loss if result and result.val_loss is not None else best
    return f"{figure(bits(loss))} bits per character on its validation text" if loss is not None else ""


def _markup(section: Section) -> str:
    return (
        f'<section id="{section.id}" aria-labelledby="{section.id}-title">\n'
        f'<h2 id="{section.id}-title">{section.title}</h2>\n{section.content}</section>\n'
    )


def about(source: Source) -> Section:
    """What the model is, and what it was trained on."""
    checkpoint = source.checkpoint
    options = [(name.replace("_", "-"), str(value)) for name, value in checkpoint.config.flat().items()]
    content = table("Summary", [], _facts(source), name="facts")
    content += f"<details><summary>All options</summary>{table('Options', [], options, name='facts')}</details>\n"
    return Section(id="model", title="The model", content=content)


def training(source: Source) -> Section | None:
    """How its losses fell, and what it wrote on the way."""
    content = curves(source.rows) + samples_list(source.samples)
    return Section(id="training", title="Training", content=content) if content else None


PARTS: Final[tuple[Callable[[Source], Section | None], ...]] = (about, training)


def _facts(source: Source) -> list[tuple[str, str]]:
    checkpoint = source.checkpoint
    config, corpus, state, result = checkpoint.config, checkpoint.corpus, checkpoint.training, checkpoint.result
    model, train, optim = config.model, config.train, config.optim
    tokenizer = checkpoint.open_tokenizer()
    unit = "characters" if tokenizer.one_per_character else "bytes"
    dropout = ", ".join(f"{name} {getattr(model, 'dropout_' + name):g}" for name in ("input", "between", "output"))
    names = [one_line(Path(one.path).name) for one in corpus.training_sources[:_FILES]]
    more = len(corpus.training_sources) - len(names)
    held = f", {corpus.val_characters:,} more for validation" if corpus.val_characters else ""
    rows = [
        ("network", f"{model.layers} x {model.hidden} {model.kind}, embedding {model.embedding or 'one-hot'}"),
        ("parameters", f"{checkpoint.parameters:,}, in this page as {source.precision}"),
        ("vocabulary", f"{tokenizer.size:,} {unit}"),
        ("trained on", ", ".join(names) + (f" and {more:,} more" if more else "") or "-"),
        ("training text", f"{corpus.train_characters:,} characters{held}"),
        *([("records", config.data.records)] if config.data.records != "none" else []),
        ("steps", f"{state.step:,} of {train.batch} x {train.bptt} tokens, {duration(checkpoint.bookkeeping.seconds)}"),
        ("optimizer", f"{optim.optimizer}, learning rate {optim.lr:g}"),
        ("dropout", dropout),
    ]
    losses = [
        ("best validation loss", state.best),
        ("validation loss", result.val_loss if result else None),
        ("test loss", result.test_loss if result else None),
    ]
    rows += [
        (name, f"{loss:.4f} nats, {bits(loss):.4f} bits per character") for name, loss in losses if loss is not None
    ]
    return rows
