"""charlm eval, and charlm perplexity, which is the same"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Final

import typer

from charlm.cli import complete
from charlm.cli.command import CorpusOption, FolderOption, JsonOption, Settings, command
from charlm.cli.help import WHICH
from charlm.cli.outputs import Screen
from charlm.config import DEFAULT_FOLDER, EVAL_OPTIONS, SCORING, EvalConfig, check_eval

if TYPE_CHECKING:
    from charlm.evaluation.comparison import Comparison, ComparisonOptions
    from charlm.language_model import LanguageModel
    from charlm.text.stored import Text

SETTINGS: Final = Settings(EVAL_OPTIONS, check_eval, asdict(EvalConfig()))


def register(app: typer.Typer) -> None:
    command(app, "eval", SETTINGS, aliases=("perplexity",))(evaluate)


def evaluate(
    screen: Screen,
    config: EvalConfig,
    checkpoint: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="CHECKPOINT",
            help="files, run folders, run names or hf:OWNER/NAME (default: the newest run)",
            autocompletion=complete.runs,
            rich_help_panel=WHICH,
        ),
    ] = None,
    text: Annotated[
        list[str] | None,
        typer.Option(
            help="text to score, - for standard input; may be repeated (default: the run's validation text)",
            metavar="FILE",
            rich_help_panel=WHICH,
        ),
    ] = None,
    corpus: CorpusOption = None,
    checkpoints: FolderOption = DEFAULT_FOLDER,
    exact: Annotated[
        bool,
        typer.Option(
            "--exact",
            help="score in one pass; lanes, the default, are faster and agree within 0.0005 bits per character",
            rich_help_panel=SCORING,
        ),
    ] = False,
    baselines: Annotated[
        bool,
        typer.Option(
            "--baselines",
            help="compare with n-gram models and compressors that have seen the training text",
            rich_help_panel=SCORING,
        ),
    ] = False,
    dynamic: Annotated[
        bool,
        typer.Option(
            "--dynamic",
            help="also score by dynamic evaluation: the model keeps learning as it reads",
            rich_help_panel=SCORING,
        ),
    ] = False,
    mix: Annotated[
        bool,
        typer.Option(
            "--mix", help="also score a mixture with a Kneser-Ney n-gram model of order 8", rich_help_panel=SCORING
        ),
    ] = False,
    cold_windows: Annotated[
        int | None,
        typer.Option(
            help="also report the mean loss over windows of N characters, each read from a zero state",
            metavar="N",
            min=1,
            rich_help_panel=SCORING,
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Score text: loss, bits per character and perplexity.

    Several models and several texts give a matrix: which model predicts which text best, with confidence intervals.
    `charlm perplexity` is the same command.
    """
    from charlm import api
    from charlm.evaluation.comparison import ComparisonOptions, compare
    from charlm.language_model import check_dynamic
    from charlm.text.large import open_text

    if dynamic:
        check_dynamic(config)
    texts = [(path, open_text(path)) for path in text or ()]
    models = [api.open_model(what, config, checkpoints=checkpoints) for what in checkpoint or (None,)]
    for model in models:
        for option in [name for name, wanted in (("--dynamic", dynamic), ("--cold-windows", cold_windows)) if wanted]:
            model.check_one_text(option)
    for what, model in zip(checkpoint or (None,), models, strict=True):
        screen.note_model(what, model.path)
    if config.engine == "decoder":
        screen.note_engine("auto", models[0].config.model)
    wanted = ComparisonOptions(
        exact=exact, dynamic=dynamic, mix=mix, baselines=baselines, cold_windows=cold_windows or 0
    )
    comparison = compare(models, texts, corpus or (), wanted)
    _note_training_texts(screen, models, texts)
    if as_json:
        _print_json(screen, comparison, wanted, several=len(models) > 1)
        return
    from charlm.report.evaluation import comparison_report

    comparison_report(screen.out, comparison)
    how = "in one pass" if exact else "in lanes, within 0.0005 bits per character of one pass (--exact)"
    if all(model.records != "none" for model in models):
        how = "each record by itself"
    screen.note(f"scored by the {config.engine} in {config.precision}, {how}")


def _note_training_texts(screen: Screen, models: Sequence[LanguageModel], texts: Sequence[tuple[str, Text]]) -> None:
    for model in models:
        for name in (name for name, content in texts if model.was_trained_on(content)):
            screen.note(f"{model.path} was trained on {name}: this measures memorisation, not generalisation")


def _print_json(screen: Screen, comparison: Comparison, wanted: ComparisonOptions, *, several: bool) -> None:
    more: dict[str, object] = {"comparisons": [pair.record() for pair in comparison.network_pairs()]} if several else {}
    if wanted.baselines:
        more["standings"] = [pair.record() for pair in comparison.baseline_pairs()]
    if wanted.counts:
        more["remarks"] = list(comparison.remarks)
    screen.json("eval", exact=wanted.exact, results=[row.record() for row in comparison.rows], **more)
