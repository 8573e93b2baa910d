"""charlm eval, and charlm perplexity, which is the same"""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from charlm.cli.command import CorpusOption, FolderOption, Screen, command
from charlm.config import EVAL_OPTIONS, EvalConfig, check_eval
from charlm.options import Value


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
    corpus: CorpusOption = None,
    exact: Annotated[
        bool, typer.Option("--exact", help="one unbroken pass instead of lanes: slower, and the reference")
    ] = False,
    baselines: Annotated[
        bool,
        typer.Option("--baselines", help="beside counted models and compressors that have read the training text"),
    ] = False,
    dynamic: Annotated[
        bool, typer.Option("--dynamic", help="also as it goes on learning from the text that it reads")
    ] = False,
    mix: Annotated[bool, typer.Option("--mix", help="also mixed with a counted model, Kneser-Ney of order 8")] = False,
    cold_windows: Annotated[
        int | None,
        typer.Option(
            help="also the mean over windows of N characters, each read from zero state",
            metavar="N",
            min=1,
            show_default=False,
        ),
    ] = None,
    checkpoints: FolderOption = "checkpoints",
    as_json: Annotated[bool, typer.Option("--json", help="print the report as JSON")] = False,
) -> None:
    """Report loss, bits per character, bits per byte and perplexity of text under a model.

    Several models and several texts make a matrix: which model predicts which text best, and how sure that is.
    """
    config = check_eval(options)

    from charlm import api
    from charlm.text.corpus import read_text

    if dynamic:
        api.check_dynamic(config)
    texts = [(path, read_text(path)) for path in text or ()]
    models = [api.load(what, checkpoints=checkpoints, **options) for what in checkpoint or (None,)]
    if not checkpoint:
        screen.note_newest(models[0].path)

    from charlm.evaluation.comparison import ComparisonOptions, compare

    wanted = ComparisonOptions(
        exact=exact, dynamic=dynamic, mix=mix, baselines=baselines, cold_windows=cold_windows or 0
    )
    comparison = compare(models, texts, corpus or (), wanted)
    for model in models:
        for name in (name for name, content in texts if model.was_trained_on(content)):
            screen.note(
                f"{name} is a text that {model.path} was trained on: this figure says how well it is known by heart"
            )
    if as_json:
        more = {"comparisons": [pair.record() for pair in comparison.network_pairs()]} if len(models) > 1 else {}
        if baselines:
            more["standings"] = [pair.record() for pair in comparison.baseline_pairs()]
        screen.json("eval", exact=exact, results=[row.record() for row in comparison.rows], **more)
        return
    from charlm.report.evaluation import comparison_report

    comparison_report(screen.out, comparison)
    how = "in one unbroken pass" if exact else "in lanes, within 0.0005 bits a character of the exact pass (--exact)"
    screen.note(f"scored by the {config.engine} in {config.precision}, {how}")
