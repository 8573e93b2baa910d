"""charlm inspect gradients"""

from __future__ import annotations

from itertools import zip_longest
from typing import TYPE_CHECKING, Annotated, Final, NamedTuple

import typer

from charlm.cli import complete
from charlm.cli.command import FolderOption, JsonOption, Settings, command
from charlm.cli.help import WHICH
from charlm.cli.inspect.shared import KEPT, PictureOption, check_model, checked, names_of, read_text, reading_of
from charlm.cli.outputs import Screen, picture_kind
from charlm.config import DEFAULT_FOLDER, INSPECTION, EvalConfig
from charlm.errors import ConfigError
from charlm.options import Option, check_all

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from charlm.inspection.gradients import Reached
    from charlm.inspection.subject import Reading
    from charlm.language_model import LanguageModel

_PARAMETERS: Final = 200_000  # of fresh networks
_RANDOM: Final = 4000  # random characters, besides those of the distance


def register(group: typer.Typer) -> None:
    command(group, "gradients", _GRADIENTS)(gradients)


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
_GRADIENT_DEFAULTS: Final = {"distance": 1000, "places": 16, "seed": 0}


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
    screen = checked(screen, output, text, as_json=as_json)

    from charlm import api
    from charlm.report.reaches import reaches_picture, reaches_report
    from charlm.runtime.settings import computing

    given = None if text is None else read_text(text)
    models = [api.open_model(name, EvalConfig(), checkpoints=checkpoints) for name in run or ()]
    for name, model in zip(run or (), models, strict=True):
        screen.note_model(name, model.path)
        _check_gradient(screen, model)
    _check_different(models)
    readings = [reading_of(model, given) for model in models]
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

    for name, model, read in zip(names_of(models), models, readings, strict=True):
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


def _check_gradient(screen: Screen, model: LanguageModel) -> None:
    """Refuse what has no gradient through time, and say which way a backward model goes."""
    check_model(screen, model)
    if model.records != "none":
        raise ConfigError(
            f"{model.path} reads records ({model.records}), each from the initial state: no gradient leaves a record",
            kept=KEPT,
            hint="use a model of one text",
        )


def _check_different(models: Sequence[LanguageModel]) -> None:
    """Refuse a model that is there twice."""
    for number, model in enumerate(models):
        if model.path in [other.path for other in models[:number]]:
            raise ConfigError(f"{model.path} is given twice", kept=KEPT)
