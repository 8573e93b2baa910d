"""The options of `charlm.config` as keyword arguments of Python functions.

Type checkers and editors read the tables below; a test compares them with `charlm.config`. `documented` shows the same
options in help(), with defaults and meaning. Where a program can add choices (cells, optimizers, tokenizers, decoders)
the type is `str`; where the choices are fixed it is a `Literal`. An option that is left out is missing from the table,
so that a function can tell it from one that was given with its default value.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping
from textwrap import fill
from typing import Any, Final, Literal, TypedDict, TypeVar, get_type_hints

from charlm.config import AUTOMATIC, LEFT_OUT, LENGTH, MACHINE, MODEL, OPTIMIZER, REGULARISATION, RUN, SHORTHANDS, TEXT
from charlm.options import Option

_WIDTH: Final = 76  # and pydoc indents by 4
_ORDER: Final = (TEXT, MODEL, REGULARISATION, OPTIMIZER, LENGTH, RUN, MACHINE)  # after groups of a command's own
_UNBOUNDED: Final = 1e9  # a limit that no user meets need not be shown
_Function = TypeVar("_Function", bound=Callable[..., Any])


class TrainOptions(TypedDict, total=False):
    """The options of `charlm train`."""

    dropout: float
    model: str
    cell: str
    layers: int
    hidden: int
    embedding: int
    forget_bias: float
    skip: bool
    context: int
    heads: int
    radius: float
    dropout_input: float
    dropout_between: float
    dropout_output: float
    tokenizer: str
    vocab_size: int
    sentencepiece: Literal["unigram", "bpe"]
    val: str | float | os.PathLike[str]
    test: str | float | os.PathLike[str]
    encoding: str
    records: Literal["none", "line", "paragraph", "file"]
    direction: Literal["forward", "backward"]
    include: str
    exclude: str
    optimizer: str
    lr: float
    weight_decay: float
    warmup: int
    decay: Literal["linear", "cosine", "none"]
    average: float
    clip: float
    clip_mode: Literal["norm", "value"]
    batch: int
    bptt: int
    shuffle: int
    drop_state: float
    epochs: int
    steps: int
    time: str
    patience: int
    checkpoint_every: str | int
    device: str
    precision: Literal["auto", "fp32", "tf32", "bf16", "fp16"]
    threads: int
    seed: int
    log: Literal["none", "tensorboard"]


class SampleOptions(TypedDict, total=False):
    """The options of `charlm sample`."""

    length: int
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    count: int
    seed: int | None
    precision: Literal["fp32", "int8"]
    engine: str
    threads: int


class FillOptions(TypedDict, total=False):
    """The options of `charlm fill`."""

    length: int
    min_length: int
    max_length: int
    candidates: int
    look: int
    weight: float
    temperature: float
    count: int
    seed: int
    precision: Literal["fp32", "int8"]
    engine: str
    threads: int


class EvalOptions(TypedDict, total=False):
    """The options of `charlm eval`."""

    device: str
    engine: Literal["network", "decoder"]
    precision: Literal["fp32", "bf16", "fp16", "int8"]
    threads: int
    records: Literal["none", "line", "paragraph", "file"]


class WordOptions(TypedDict, total=False):
    """The options of words in `charlm score`."""

    words_by: Literal["space", "punctuation"]
    blank: Literal["before", "after", "none"]


class ExportOptions(TypedDict, total=False):
    """The options of `charlm export`."""

    format: str
    licence: str


class _Automatic:
    """The default of an option that is chosen by the text and the machine."""

    def __repr__(self) -> str:
        return "automatic"


class _Verbatim(str):
    """An annotation that help() shows as it is written, without quotes."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def documented(
    table: type, options: Mapping[str, Option], defaults: Mapping[str, object]
) -> Callable[[_Function], _Function]:
    """Show the options of a function's `**options: Unpack[table]` by name in help(), with defaults and meaning."""
    shown = {name: _default(name, defaults) for name in options}

    def decorate(function: _Function) -> _Function:
        function.__doc__ = f"{inspect.getdoc(function) or ''}\n\n{_list(options, shown)}\n"
        function.__signature__ = _signature(function, table, shown)  # type: ignore[attr-defined]
        return function

    return decorate


def _default(name: str, defaults: Mapping[str, object]) -> object:
    """An option's default as help() shows it."""
    value = defaults.get(name, _Automatic())
    return _Automatic() if name in AUTOMATIC or name in SHORTHANDS or value == LEFT_OUT else value


def _signature(function: Callable[..., Any], table: type, defaults: Mapping[str, object]) -> inspect.Signature:
    """The function's own parameters without `**options`, and a keyword for each option."""
    own = inspect.signature(function)
    parameters = [_unquoted(p) for p in own.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    hints = get_type_hints(table)
    keywords = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hints[name])
        for name, default in defaults.items()
    ]
    return inspect.Signature([*parameters, *keywords], return_annotation=_verbatim(own.return_annotation))


def _unquoted(parameter: inspect.Parameter) -> inspect.Parameter:
    return parameter.replace(annotation=_verbatim(parameter.annotation))


def _verbatim(annotation: object) -> object:
    return _Verbatim(annotation) if isinstance(annotation, str) else annotation


def _list(options: Mapping[str, Option], defaults: Mapping[str, object]) -> str:
    """The options by their groups."""
    groups: dict[str, list[str]] = {}
    for name, what in options.items():
        groups.setdefault(what.group, []).append(_entry(name, what, defaults[name]))
    ordered = sorted(groups.items(), key=lambda item: _ORDER.index(item[0]) if item[0] in _ORDER else -1)
    return "\n\n".join("\n".join([f"{group}:", *entries]) for group, entries in ordered)


def _entry(name: str, what: Option, default: object) -> str:
    meaning, remark = what.help[:-1].rsplit(" (", 1) if what.help.endswith(")") else (what.help, "")
    default_shown = "" if "default" in remark else f"default: {default}"
    notes = "; ".join(filter(None, [remark, _range(what), default_shown]))
    return fill(f"{meaning} ({notes})", _WIDTH, initial_indent=f"    {name:<16}  ", subsequent_indent=" " * 22)


def _range(what: Option) -> str:
    """The allowed values, in few words.

    >>> _range(Option(int, "", 1, 64)), _range(Option(float, "", 0, 1e9)), _range(Option(float, "", 0, 100, above=True))
    ('1 to 64', '', 'above 0, at most 100')
    >>> _range(Option(str, "", offers=("norm", "value")))
    'norm, value'
    """
    if what.choices:
        return ", ".join(what.choices)
    if what.form:
        return what.range
    if what.type is str or what.high >= _UNBOUNDED:
        return ""
    return f"above {what.low:g}, at most {what.high:g}" if what.above else f"{what.low:g} to {what.high:g}"
