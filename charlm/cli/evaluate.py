"""charlm eval, and charlm perplexity, which is the same"""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from charlm.cli.options import Screen, command
from charlm.config import EVAL_OPTIONS, EvalConfig, Value, check_eval

if TYPE_CHECKING:
    from charlm.api import LanguageModel


def register(app: typer.Typer) -> None:
    for name in ("eval", "perplexity"):
        command(app, name, EVAL_OPTIONS, asdict(EvalConfig()) | {"threads": None})(evaluate)


def evaluate(
    screen: Screen,
    options: dict[str, Value],
    checkpoint: Annotated[
        list[str] | None,
        typer.Argument(help="files, run folders or run names (default: the newest run)", show_default=False),
    ] = None,
    text: Annotated[
        list[str] | None,
        typer.Option(
            help="text to score, - for standard input; may be repeated (default: what the run held out)",
            metavar="FILE",
            show_default=False,
        ),
    ] = None,
    corpus: Annotated[
        list[str] | None,
        typer.Option(
            help="where the run's own text is now, if it moved; may be repeated", metavar="FILE", show_default=False
        ),
    ] = None,
    exact: Annotated[
        bool, typer.Option("--exact", help="one unbroken pass instead of lanes: slower, and the reference")
    ] = False,
    checkpoints: Annotated[str, typer.Option(help="folder of all runs", metavar="DIR")] = "checkpoints",
    as_json: Annotated[bool, typer.Option("--json", help="print the report as JSON")] = False,
) -> None:
    """Report loss, bits per character, bits per byte and perplexity of text under a model."""
    config = check_eval(options)

    from charlm import api
    from charlm.text.corpus import read_text

    texts = [(path, read_text(path)) for path in text or ()]
    models = [api.load(what, checkpoints=checkpoints, **options) for what in checkpoint or (None,)]
    if not checkpoint:
        screen.note_newest(models[0].path)
    results = []
    for model in models:
        for name, content in texts or [("held-out text", model.held_out(corpus or ()))]:
            results.append(_row(model, name, content, exact=exact))
            if texts and model.was_trained_on(content):
                screen.note(
                    f"{name} is a text that {model.path} was trained on: this figure says how well it is known by heart"
                )
    if as_json:
        screen.json("eval", exact=exact, results=results)
        return
    from charlm.report.terminal import meaning, paragraphs, score_table

    score_table(screen.out, results)
    if len(results) == 1:
        paragraphs(screen.out, [meaning(results[0]["perplexity"])])
    how = "in one unbroken pass" if exact else "in lanes, within 0.0005 bits a character of the exact pass (--exact)"
    screen.note(f"scored by the {config.engine} in {config.precision}, {how}")


def _row(model: LanguageModel, name: str, text: str, *, exact: bool) -> dict[str, Any]:
    from charlm.storage.checkpoint import finite

    model.prepare()
    began = time.perf_counter()
    score = model.score(text, exact=exact)
    took = time.perf_counter() - began
    return {
        "text": name,
        "checkpoint": str(model.path),
        "model": model.config.model.cell,
        "characters": score.characters,
        "bytes": score.bytes,
        "words": score.words,
        "tokens": score.tokens,
        "unknown_characters": score.unknown_characters,
        "nats": finite(score.nats),
        "loss": finite(score.loss),
        "bits_per_character": finite(score.bits_per_character),
        "bits_per_byte": finite(score.bits_per_byte),
        "perplexity": finite(score.perplexity),
        "word_perplexity": finite(score.word_perplexity),
        "characters_per_second": finite(score.characters / took) if score.characters else None,
    }
