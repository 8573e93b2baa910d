"""charlm inspect memory"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Final, NamedTuple

import typer

from charlm.cli.command import CheckpointArgument, CorpusOption, FolderOption, JsonOption, Settings, command
from charlm.cli.inspect.shared import PictureOption, TextOption, checked
from charlm.cli.outputs import Screen, picture_kind
from charlm.config import DEFAULT_FOLDER, EVAL_OPTIONS, INSPECTION, EvalConfig, check_eval, numbers_of
from charlm.errors import DataError, StorageError
from charlm.options import Option, check_all

if TYPE_CHECKING:
    from charlm.language_model import LanguageModel
    from charlm.report.memory import Example

_UNITS: Final = {"char": "character", "byte": "byte"}
_LONGEST: Final = 100_000


class _MemoryConfig(NamedTuple):
    """The options of `charlm inspect memory`, checked."""

    evaluation: EvalConfig
    contexts: list[int]
    positions: int | None
    at: int | None


_MEMORY: Final = {
    "contexts": Option(
        str,
        "characters before each scored one, longest 100,000 (default: 1,2,3,5,10,20,50,100,200,500,1000)",
        group=INSPECTION,
        placeholder="N,N,...",
    ),
    "positions": Option(
        int,
        "characters to score, evenly spread (default: as many as take some 20 seconds)",
        20,
        10**6,
        group=INSPECTION,
    ),
    "at": Option(
        int,
        "position of the character in the text to show as an example (default: the middle one)",
        0,
        10**12,
        group=INSPECTION,
    ),
}
_EVALUATION: Final = {name: EVAL_OPTIONS[name] for name in ("device", "threads", "records")}


def _check_memory(given: Mapping[str, object]) -> _MemoryConfig:
    values = check_all({name: value for name, value in given.items() if name in _MEMORY}, _MEMORY)
    contexts = numbers_of("contexts", str(values["contexts"]), 1, _LONGEST) if "contexts" in values else []
    evaluation = check_eval({name: value for name, value in given.items() if name not in _MEMORY})
    positions, at = (int(values[name]) if name in values else None for name in ("positions", "at"))
    return _MemoryConfig(evaluation, contexts, positions, at)


def register(group: typer.Typer) -> None:
    defaults = {name: asdict(EvalConfig())[name] for name in _EVALUATION}
    command(group, "memory", Settings({**_EVALUATION, **_MEMORY}, _check_memory, defaults))(memory)


def memory(
    screen: Screen,
    config: _MemoryConfig,
    checkpoint: CheckpointArgument = None,
    text: TextOption = None,
    corpus: CorpusOption = None,
    checkpoints: FolderOption = DEFAULT_FOLDER,
    output: PictureOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show how far back a model looks, and which characters its predictions depend on.

    Characters all over the text are predicted from 1, 2, 3, 5, ... 1,000 characters before them alone, and by n-gram
    models of the training text. Then the characters at distances 1 to 50 are weighed, by gradient times input and by
    occlusion (docs/inspection.md).
    """
    screen = checked(screen, output, text, as_json=as_json)

    from charlm import api
    from charlm.text.large import open_text
    from charlm.text.portion import beginning_of_text

    given = None if text is None else open_text(text)
    model = api.open_model(checkpoint, config.evaluation, checkpoints=checkpoints)
    screen.note_model(checkpoint, model.path)
    content, cut = beginning_of_text(
        text or "the validation text", model.open_validation_text(corpus or ()) if given is None else given
    )
    training, remark = _training_text(model, corpus or ())
    remarks = [one for one in (cut, remark) if one]
    found = model.memory(content, contexts=config.contexts, positions=config.positions, training_text=training)
    weighed = model.saliency(content)
    unit = _UNITS.get(model.tokenizer.kind, "token")
    example = _example(model, content, _middle(weighed.places.tolist()) if config.at is None else config.at)
    for one in remarks:
        screen.note(one)
    if output is not None:
        from charlm.report.memory import memory_curves

        screen.write_file(output, memory_curves(found, weighed, str(model.path), unit, picture_kind(output)))
    if as_json:
        screen.json(
            "inspect", checkpoint=str(model.path), text=text, unit=unit, remarks=remarks, **found.record(),
            attribution=weighed.record(), example=example.record() if example else None,
        )  # fmt: skip
    elif not (screen.data and screen.quiet):
        from charlm.report.console import paragraphs
        from charlm.report.memory import example_report, memory_report, saliency_report

        memory_report(screen.out, found, unit)
        paragraphs(screen.out, [""])
        saliency_report(screen.out, weighed, unit)
        if example:
            example_report(screen.out, example)


def _training_text(model: LanguageModel, corpus: Sequence[str]) -> tuple[str | None, str]:
    """The training text for n-gram models, or why there is none; and whether it is only a part."""
    from charlm.storage.provenance import own_corpus
    from charlm.text.portion import end_of_text

    try:
        training, cut = end_of_text(own_corpus(model.checkpoint, model.path, corpus).train)
    except (DataError, StorageError) as error:
        return None, f"no n-gram models, as the training text was not found: {error}"
    return training, f"n-gram models: {cut}" if cut else ""


def _middle(places: Sequence[int]) -> int | None:
    return places[len(places) // 2] if places else None


def _example(model: LanguageModel, content: str, at: int | None) -> Example | None:
    from charlm.inspection.saliency import DISTANCES
    from charlm.report.memory import Example

    if at is None:
        return None
    tokenizer, ids = model.tokenizer, model.tokenizer.encode(content).ids
    found = model.saliency(content, at=at)
    if tokenizer.one_per_character:
        return Example(list(content[at - DISTANCES : at]), content[at], found)
    pieces = [tokenizer.pieces[i].decode("utf-8", "replace") for i in ids[at - DISTANCES : at + 1]]
    return Example(pieces[:-1], pieces[-1], found)
