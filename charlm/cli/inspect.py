"""charlm inspect gradients, charlm inspect gates, charlm inspect cells"""

from __future__ import annotations

from dataclasses import replace
from itertools import zip_longest
from typing import TYPE_CHECKING, Annotated, Final, NamedTuple

import typer

from charlm.cli import complete
from charlm.cli.command import CheckpointArgument, FolderOption, JsonOption, Settings, command
from charlm.cli.help import OUTPUT, WHICH, Group
from charlm.cli.outputs import Screen, check_outputs, check_picture, check_replaced_picture, is_stdout, picture_kind
from charlm.config import DEFAULT_FOLDER, INSPECTION, EvalConfig
from charlm.errors import ConfigError
from charlm.options import Option, check_all

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from charlm.inspection.gradients import Reached
    from charlm.inspection.subject import Reading
    from charlm.language_model import LanguageModel

_KEPT: Final = "nothing was inspected"
_KINDS: Final = (".png", ".svg", ".pdf")
_LONGEST: Final = 1_000_000  # characters over which places are spread
_PARAMETERS: Final = 200_000  # of fresh networks
_MOST: Final = 200_000  # characters at which the states of all units are in memory
_RANDOM: Final = 4000  # random characters, besides those of the distance

TextOption = Annotated[
    str | None,
    typer.Option(
        help="text to read, - for standard input (default: the validation text of the run)",
        metavar="FILE",
        rich_help_panel=WHICH,
    ),
]
PictureOption = Annotated[
    str | None,
    typer.Option(
        "-o",
        "--output",
        help="picture to write, as its name ends: .png, .svg or .pdf",
        metavar="FILE",
        rich_help_panel=OUTPUT,
    ),
]


def register(app: typer.Typer) -> None:
    group = typer.Typer(cls=Group, rich_markup_mode=None, help="Look into recurrent networks: gradients, gates, cells.")
    app.add_typer(group, name="inspect")
    command(group, "gradients", _GRADIENTS)(gradients)
    command(group, "gates", _GATES)(gates)
    command(group, "cells", _CELLS)(cells)


class _Gradients(NamedTuple):
    distance: int
    places: int
    parameters: int | None
    seed: int


_GRADIENT_OPTIONS: Final = {
    "distance": Option(int, "largest distance", 1, 1000, group=INSPECTION),
    "places": Option(int, "places of the text to average over", 1, 1000, group=INSPECTION),
    "parameters": Option(
        int,
        f"parameters of the fresh networks (default: those of the first RUN, or {_PARAMETERS})",
        1000,
        10**8,
        group=INSPECTION,
    ),
    "seed": Option(int, "random seed of the fresh networks", 0, 2**63 - 1, group=INSPECTION),
}
_GRADIENT_DEFAULTS: Final = {"distance": 300, "places": 16, "seed": 0}


def _check_gradients(given: Mapping[str, object]) -> _Gradients:
    checked = {**_GRADIENT_DEFAULTS, "parameters": None, **check_all(given, _GRADIENT_OPTIONS)}
    return _Gradients(**checked)  # type: ignore[arg-type]


_GRADIENTS: Final = Settings(_GRADIENT_OPTIONS, _check_gradients, _GRADIENT_DEFAULTS)


def gradients(
    screen: Screen,
    config: _Gradients,
    run: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RUN",
            help="files, run folders or run names (default: only networks that have not been trained)",
            autocompletion=complete.runs,
            rich_help_panel=WHICH,
        ),
    ] = None,
    text: Annotated[
        str | None,
        typer.Option(
            help="text to read, - for standard input (default: the validation text of each run, or random characters)",
            metavar="FILE",
            rich_help_panel=WHICH,
        ),
    ] = None,
    checkpoints: FolderOption = DEFAULT_FOLDER,
    output: PictureOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show how far gradients reach back: the norm of dJ/dh against the distance.

    J is the loss of one character, h a state so many tokens before it; for an LSTM c is shown, too. The norm is
    averaged over places of the text (geometric mean), in float64. Beside each RUN stand fresh tanh, GRU and LSTM
    networks with as many parameters. Without a RUN they are shown with other forget biases, and with Xavier in place
    of orthogonal recurrent matrices.
    """
    screen = _checked(screen, output, text, as_json=as_json)

    from charlm import api
    from charlm.report.reaches import reaches_picture, reaches_report
    from charlm.runtime.settings import computing

    given = None if text is None else _read(text)
    models = [api.open_model(name, EvalConfig(), checkpoints=checkpoints) for name in run or ()]
    for name, model in zip(run or (), models, strict=True):
        screen.note_model(name, model.path)
        _check_gradient(screen, model)
    _check_different(models)
    readings = [_reading(model, given) for model in models]
    with computing():
        found = [*_trained(models, readings, config), *_fresh(screen, models, readings, given, config)]
    if output is not None:
        screen.write_file(output, reaches_picture(found, picture_kind(output)))
    if as_json:
        paths = [str(model.path) for model in models]
        networks = [
            {
                "name": one.name,
                "checkpoint": path,
                "parameters": one.parameters,
                "reaches": [reach.record() for reach in one.reaches],
            }
            for one, path in zip_longest(found, paths)
        ]
        screen.json("inspect", distance=config.distance, places=config.places, networks=networks)
    elif not (screen.data and screen.quiet):
        reaches_report(screen.out, found)


def _trained(models: Sequence[LanguageModel], readings: Sequence[Reading], config: _Gradients) -> Iterator[Reached]:
    """The models, each on its text."""
    import numpy as np

    from charlm.inspection.gradients import reached
    from charlm.inspection.subject import open_network

    for name, model, read in zip(_names(models), models, readings, strict=True):
        network = open_network(model.config.model, model.checkpoint.weights, np.float64)
        yield reached(name, network, read, distance=config.distance, places=config.places)


def _fresh(
    screen: Screen,
    models: Sequence[LanguageModel],
    readings: Sequence[Reading],
    given: str | None,
    config: _Gradients,
) -> Iterator[Reached]:
    """Networks that have not been trained, on the text of the first model, or of their own."""
    from charlm.config import ModelConfig
    from charlm.inspection.fresh import fresh_network, plain_starts, random_text, varied_starts
    from charlm.inspection.gradients import reached
    from charlm.inspection.subject import reading
    from charlm.models.sizing import parameters_of
    from charlm.text.tokenizer import CharTokenizer

    if models:
        like, vocabulary, read = models[0].config.model, models[0].tokenizer.size, readings[0]
        starts = plain_starts(like, config.parameters or parameters_of(like, vocabulary), vocabulary)
    else:
        content = random_text(_RANDOM + config.distance, config.seed) if given is None else given
        tokenizer = CharTokenizer.train(content)
        vocabulary, read = tokenizer.size, reading(content, tokenizer)
        starts = varied_starts(ModelConfig(layers=1), config.parameters or _PARAMETERS, vocabulary)
    for start in starts:
        screen.note(start.name)
        network = fresh_network(start, vocabulary, config.seed)
        yield reached(start.name, network, read, distance=config.distance, places=config.places)


_LENGTH: Final = {
    "length": Option(int, "characters to read, from the beginning of the text", 1, 10**7, group=INSPECTION)
}
_LENGTH_DEFAULTS: Final = {"length": 20_000}
_GATES: Final = Settings(
    _LENGTH, lambda given: int({**_LENGTH_DEFAULTS, **check_all(given, _LENGTH)}["length"]), _LENGTH_DEFAULTS
)


def gates(
    screen: Screen,
    length: int,
    run: CheckpointArgument = None,
    text: TextOption = None,
    checkpoints: FolderOption = DEFAULT_FOLDER,
    output: PictureOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show how often each gate is open or shut, by layer and unit.

    A gate is low in the lowest tenth of its range and high in the highest: a sigmoid below 0.1 or above 0.9, a tanh
    below -0.8 or above 0.8. The picture has a point for each unit (Karpathy, Johnson and Fei-Fei 2015).
    """
    screen = _checked(screen, output, text, as_json=as_json)
    model, read = _opened(screen, run, checkpoints, text, length)

    from charlm.inspection.saturation import saturation
    from charlm.inspection.subject import open_network
    from charlm.report.gates import gates_picture, gates_report

    found = saturation(open_network(model.config.model, model.checkpoint.weights), read)
    if output is not None:
        screen.write_file(output, gates_picture(_names([model])[0], found, picture_kind(output)))
    if as_json:
        screen.json(
            "inspect",
            checkpoint=str(model.path),
            characters=len(read.text),
            gates=[one.record() for one in found],
        )
    elif not (screen.data and screen.quiet):
        gates_report(screen.out, found)


class _Cells(NamedTuple):
    length: int
    show: int


_CELL_OPTIONS: Final = {
    "length": replace(_LENGTH["length"], high=_MOST),
    "show": Option(int, "characters to show coloured in a terminal", 0, 10**6, group=OUTPUT),
}
_CELL_DEFAULTS: Final = {**_LENGTH_DEFAULTS, "show": 1500}
_CELLS: Final = Settings(
    _CELL_OPTIONS,
    lambda given: _Cells(**{**_CELL_DEFAULTS, **check_all(given, _CELL_OPTIONS)}),  # type: ignore[arg-type]
    _CELL_DEFAULTS,
)


def cells(
    screen: Screen,
    config: _Cells,
    run: CheckpointArgument = None,
    text: TextOption = None,
    unit: Annotated[
        str | None,
        typer.Option(
            help="look at this unit alone, both counted from 1 (default: find units among all)",
            metavar="LAYER:NUMBER",
            rich_help_panel=INSPECTION,
        ),
    ] = None,
    checkpoints: FolderOption = DEFAULT_FOLDER,
    output: Annotated[
        str | None,
        typer.Option(
            "-o", "--output", help="HTML page to write, with the text coloured", metavar="FILE", rich_help_panel=OUTPUT
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Find cells that follow quotation, brackets, lines, indentation and words.

    A cell is c of an LSTM, h of any other network. For each feature the unit is taken that follows it most closely in
    the first half of the text. The second half scores it, and decides by a permutation test over all units whether that
    is luck. Then the cell is held at its mean: what this costs is what it is good for. In a terminal the text is
    coloured by the clearest cell, or by --unit.
    """
    outputs = [] if output is None else [output]
    check_outputs(outputs, [] if text is None else [text], as_json=as_json)
    if output is not None and not (output.lower().endswith(".html") or is_stdout(output)):
        raise ConfigError(f"--output must end in .html, not {output}", kept=_KEPT)
    screen = screen.beside(outputs)
    model, read = _opened(screen, run, checkpoints, text, config.length)

    from charlm.inspection.cells import Activity, find_cells, unit_of
    from charlm.inspection.subject import open_network
    from charlm.report.cells import cells_page, cells_report, coloured, title_of

    network = open_network(model.config.model, model.checkpoint.weights)
    named = None if unit is None else unit_of(network, unit, str(model.path))
    activity = Activity(network, read)
    findings, costs = find_cells(activity, activity.units if named is None else [named])
    state = network.cell.states[-1]
    shown = {one: (title_of(one, state, findings), activity.of([one])[:, 0]) for one in costs}
    if output is not None:
        name = _names([model])[0]
        screen.write_file(output, cells_page(name, read.text, findings, costs, shown).encode())
    if as_json:
        screen.json(
            "inspect",
            checkpoint=str(model.path),
            state=state,
            characters=len(read.text),
            units=len(activity.units) if named is None else 1,
            features=[one.record() for one in findings],
            costs=[{"unit": str(one), "bits_per_character": cost} for one, cost in costs.items()],
            activity=None if named is None else shown[named][1].astype(float).tolist(),
        )
    elif not (screen.data and screen.quiet):
        clearest = max((one for one in findings if one.found), key=lambda one: abs(one.correlation or 0), default=None)
        seen = named or (clearest and clearest.unit)
        if seen is not None and config.show and output is None:
            coloured(screen.out, shown[seen][0], read.text, shown[seen][1], config.show)
        cells_report(screen.out, findings, costs)


def _opened(
    screen: Screen, run: str | None, checkpoints: str, text: str | None, length: int
) -> tuple[LanguageModel, Reading]:
    """The model, and the beginning of the text that was named, or of its validation text."""
    from charlm import api

    given = None if text is None else _read(text, length)
    model = api.open_model(run, EvalConfig(), checkpoints=checkpoints)
    screen.note_model(run, model.path)
    _check_model(screen, model)
    return model, _reading(model, given, length)


def _check_gradient(screen: Screen, model: LanguageModel) -> None:
    """Refuse what has no gradient through time, and say which way a backward model goes."""
    _check_model(screen, model)
    if model.records != "none":
        raise ConfigError(
            f"{model.path} reads records ({model.records}), each from the initial state: no gradient leaves a record",
            kept=_KEPT,
            hint="use a model of one text",
        )


def _check_different(models: Sequence[LanguageModel]) -> None:
    """Refuse a model that is there twice."""
    for number, model in enumerate(models):
        if model.path in [other.path for other in models[:number]]:
            raise ConfigError(f"{model.path} is given twice", kept=_KEPT)


def _check_model(screen: Screen, model: LanguageModel) -> None:
    """Refuse what is not recurrent, and say which way a backward model goes."""
    from charlm.inspection.subject import check_recurrent

    check_recurrent(model.config.model, str(model.path))
    if model.backward:
        screen.note(f"{model.path} reads backward: what it has read at a character is that character and all after it")


def _checked(screen: Screen, output: str | None, text: str | None, *, as_json: bool) -> Screen:
    """Refuse a picture that could not be written; returns the screen of what is shown beside it."""
    outputs = [] if output is None else [output]
    check_outputs(outputs, [] if text is None else [text], as_json=as_json)
    if output is not None:
        check_picture("--output", output, _KINDS)
        check_replaced_picture(output)
    return screen.beside(outputs)


def _read(text: str, length: int = _LONGEST) -> str:
    """The beginning of a text that was named."""
    from charlm.text.large import open_text

    return open_text(text)[:length]


def _reading(model: LanguageModel, given: str | None, length: int = _LONGEST) -> Reading:
    """What a model reads: the text that was named, or the beginning of its validation text."""
    from charlm.inspection.subject import reading

    content = model.open_validation_text()[:length] if given is None else given
    return reading(content, model.tokenizer, model.records, backward=model.backward)


def _names(models: Sequence[LanguageModel]) -> list[str]:
    from charlm.report.evaluation import run_names

    return list(run_names(str(model.path) for model in models).values())
