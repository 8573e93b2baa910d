"""What the commands of `charlm inspect` have in common: what they read, their pictures, and what they refuse."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

import typer

from charlm.cli.help import OUTPUT, WHICH
from charlm.cli.outputs import Screen, beside_picture
from charlm.config import INSPECTION, EvalConfig
from charlm.options import Option

if TYPE_CHECKING:
    from collections.abc import Sequence

    from charlm.inspection.subject import Reading
    from charlm.language_model import LanguageModel

KEPT: Final = "nothing was inspected"
_KINDS: Final = (".png", ".svg", ".pdf")
_LONGEST: Final = 1_000_000  # characters over which places are spread
LENGTH: Final = {
    "length": Option(int, "characters to read, from the beginning of the text", 1, 10**7, group=INSPECTION)
}
LENGTH_DEFAULTS: Final = {"length": 20_000}
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


def opened(
    screen: Screen, run: str | None, checkpoints: str, text: str | None, length: int
) -> tuple[LanguageModel, Reading]:
    """The model, and the beginning of the text that was named, or of its validation text."""
    from charlm import api

    given = None if text is None else read_text(text, length)
    model = api.open_model(run, EvalConfig(), checkpoints=checkpoints)
    screen.note_model(run, model.path)
    check_model(screen, model)
    return model, reading_of(model, given, length)


def check_model(screen: Screen, model: LanguageModel) -> None:
    """Refuse what is not recurrent, and say which way a backward model goes."""
    from charlm.inspection.subject import check_recurrent

    check_recurrent(model.config.model, str(model.path))
    if model.backward:
        screen.note(f"{model.path} reads backward: what it has read at a character is that character and all after it")


def checked(screen: Screen, output: str | None, text: str | None, *, as_json: bool) -> Screen:
    """Refuse a picture that could not be written; returns the screen of what is shown beside it."""
    return beside_picture(screen, output, [] if text is None else [text], kinds=_KINDS, as_json=as_json)


def read_text(text: str, length: int = _LONGEST) -> str:
    """The beginning of a text that was named."""
    from charlm.text.large import open_text

    return open_text(text)[:length]


def reading_of(model: LanguageModel, given: str | None, length: int = _LONGEST) -> Reading:
    """What a model reads: the text that was named, or the beginning of its validation text."""
    from charlm.inspection.subject import reading

    content = model.open_validation_text()[:length] if given is None else given
    return reading(content, model.tokenizer, model.records, backward=model.backward)


def names_of(models: Sequence[LanguageModel]) -> list[str]:
    from charlm.report.evaluation import run_names

    return list(run_names(str(model.path) for model in models).values())
