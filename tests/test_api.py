"""charlm as a Python library: what it lists, which options it takes, what it prints, and what it leaves alone."""

from __future__ import annotations

import inspect
import os
import pydoc
import random
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np
import pytest
import torch
from mypy import api as mypy
from oracles import synthetic_text
from processes import terminal

import charlm
from charlm.api import TrainingRequest, open_model, run
from charlm.config import (
    EVAL_OPTIONS,
    EXPORT_OPTIONS,
    FILL_OPTIONS,
    SAMPLE_OPTIONS,
    TRAIN_DEFAULTS,
    TRAIN_OPTIONS,
    WORD_OPTIONS,
    EvalConfig,
    ExportConfig,
    SampleConfig,
    WordConfig,
    check_train,
)
from charlm.errors import ConfigError
from charlm.keywords import EvalOptions, ExportOptions, FillOptions, SampleOptions, TrainOptions, WordOptions
from charlm.options import Option, Registry
from charlm.runtime.settings import computing
from charlm.training.events import Event, Finished, Validated, ignore

TINY: dict[str, Any] = {"steps": 6, "hidden": 8, "layers": 1, "batch": 2, "bptt": 8, "device": "cpu", "seed": 1}
ROOT = Path(charlm.__file__).parent.parent


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "synthetic.txt"
    path.write_text(synthetic_text(2_000, seed=1), encoding="utf-8")
    return path


# what there is


def test_the_package_lists_its_api() -> None:
    assert dir(charlm) == sorted(charlm.__all__)
    assert {"train", "load", "LanguageModel", "Trained", "CharlmError"} <= set(dir(charlm))
    for name in dir(charlm):
        assert getattr(charlm, name) is not None


def test_importing_and_listing_it_is_light() -> None:
    code = "import sys, charlm; dir(charlm); print({'torch', 'numpy', 'rich', 'typing'} & set(sys.modules))"
    loaded = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert loaded.stdout == "set()\n"


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'charlm' has no attribute 'trian'"):
        charlm.trian  # type: ignore[attr-defined]  # noqa: B018


# options


@pytest.mark.parametrize(
    ("table", "options"),
    [
        (TrainOptions, TRAIN_OPTIONS),
        (SampleOptions, SAMPLE_OPTIONS),
        (FillOptions, FILL_OPTIONS),
        (EvalOptions, EVAL_OPTIONS),
        (WordOptions, WORD_OPTIONS),
        (ExportOptions, EXPORT_OPTIONS),
    ],
)
def test_type_checkers_know_every_option_with_its_type(table: type, options: Mapping[str, Option]) -> None:
    hints = get_type_hints(table)
    assert list(hints) == list(options)
    for name, what in options.items():
        if what.choices and not isinstance(what.offers, Registry):
            assert get_origin(hints[name]) is Literal
            assert get_args(hints[name]) == what.choices, name
        elif what.loose:
            assert what.type in get_args(hints[name]), name
        else:
            assert hints[name] in (what.type, what.type | None), name


@pytest.mark.parametrize(
    ("function", "options", "defaults"),
    [
        (charlm.train, TRAIN_OPTIONS, TRAIN_DEFAULTS),
        (charlm.LanguageModel.sample, SAMPLE_OPTIONS, asdict(SampleConfig())),
        (charlm.LanguageModel.samples, SAMPLE_OPTIONS, asdict(SampleConfig())),
        (charlm.load, EVAL_OPTIONS, asdict(EvalConfig())),
        (charlm.LanguageModel.words, WORD_OPTIONS, asdict(WordConfig())),
        (charlm.LanguageModel.export, EXPORT_OPTIONS, asdict(ExportConfig())),
    ],
)
def test_help_shows_every_option_with_its_default_and_meaning(
    function: Callable[..., object], options: Mapping[str, Option], defaults: Mapping[str, object]
) -> None:
    shown = inspect.signature(function).parameters
    text = pydoc.plain(pydoc.render_doc(function))
    words = " ".join(text.split())
    assert inspect.Parameter.VAR_KEYWORD not in [parameter.kind for parameter in shown.values()]
    for name, what in options.items():
        assert shown[name].kind is inspect.Parameter.KEYWORD_ONLY
        assert shown[name].default == defaults.get(name) or repr(shown[name].default) == "automatic"
        assert f"{name} {what.help.removesuffix(')')}" in words
        assert ", ".join(what.choices) in words
    assert max(map(len, text.splitlines()[4:])) <= 80


def test_signatures_read_like_source() -> None:
    text = str(inspect.signature(charlm.train))
    assert text.startswith("(*corpus: PathLike, name: str | None = None, checkpoints: PathLike = 'checkpoints', ")
    assert "dropout: float = automatic, model: str = 'recurrent', cell: str = 'lstm', layers: int = 2, " in text
    assert "decay: Literal['linear', 'cosine', 'none'] = 'linear'" in text
    assert text.endswith("seed: int = 0, log: Literal['none', 'tensorboard'] = 'none') -> Trained")


GOOD = """\
import pathlib
import charlm

trained = charlm.train("x", pathlib.Path("y"), hidden=3, val=0.1, decay="linear", time="10m", cell="mine", lr=1)
figure: float = trained.parameters
model = charlm.load("x", engine="decoder", precision="int8")
text: str = model.sample(temperature=0.5, top_k=5, prime="It")
texts: tuple[str, ...] = model.samples(count=2, length=3)
bits: float = model.score(text, exact=True).bits_per_character
rows: int = len(model.words(text, blank="before", words_by="punctuation"))
"""
BAD = """\
charlm.trian("x")
charlm.train("x", hiden=3)
charlm.train("x", hidden="big")
charlm.train("x", decay="exponential")
charlm.train("x", precision="fp8")
charlm.train("x", progres=False)
charlm.load("x", precison="int8")
charlm.load("x", engine="compiled")
model.sample(temprature=0.5)
model.sample(temperature="hot")
model.samples(3)
model.score(text, exakt=True)
model.score(3)
model.words(text, blank="behind")
"""


def test_mypy_refuses_misspelled_options_and_wrong_types(tmp_path: Path) -> None:
    script, config = tmp_path / "script.py", tmp_path / "mypy.ini"
    script.write_text(GOOD + BAD)
    needed = (
        "charlm",
        "charlm.api",
        "charlm.language_model",
        "charlm.keywords",
        "charlm.config",
        "charlm.options",
        "charlm.errors",
    )
    skipped = ("charlm.*", "torch.*", "numpy.*")  # which would take ten times as long
    followed = "".join(f"[mypy-{name}]\nfollow_imports = silent\n" for name in needed)
    left_out = "".join(f"[mypy-{name}]\nfollow_imports = skip\nfollow_imports_for_stubs = True\n" for name in skipped)
    config.write_text(f"[mypy]\n{left_out}{followed}")
    shown, error, _ = mypy.run([f"--config-file={config}", f"--cache-dir={tmp_path}", "--no-pretty", str(script)])
    assert not error
    found = {int(line.split(":")[1]) for line in shown.splitlines() if ": error:" in line}
    first = GOOD.count("\n") + 1
    assert found == set(range(first, first + BAD.count("\n"))), shown


def test_what_a_type_checker_did_not_see_is_refused_with_the_nearest_name(corpus: Path) -> None:
    with pytest.raises(ConfigError, match=r"no option --hiden.*did you mean --hidden\?"):
        charlm.train(corpus, hiden=3)  # type: ignore[call-arg]
    assert list(corpus.parent.iterdir()) == [corpus]


def test_options_are_checked_once(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was checked is handed on: neither a run nor a model looks at the options again."""
    options = check_train(TINY | {"threads": 1})
    for name in ("api.check_train", "api.check_eval", "language_model.check_sample"):
        monkeypatch.setattr(f"charlm.{name}", lambda _: pytest.fail("checked again"))
    request = TrainingRequest(corpus=(str(corpus),), options=options, checkpoints=str(corpus.parent))
    trained = run(request, on_event=ignore)
    model = open_model(trained.checkpoint, config=EvalConfig(device="cpu", threads=1))
    assert len("".join(piece.text for piece in model.stream(SampleConfig(length=7)))) == 7


# representations


def test_representations_say_what_there_is(corpus: Path, tmp_path: Path) -> None:
    trained = charlm.train(corpus, checkpoints=tmp_path, threads=1, **TINY)
    model = charlm.load(trained.checkpoint)
    loss = f"validation loss {trained.result.val_loss:.4f} nats"
    characters = len(set(corpus.read_text()[:1800]))
    assert repr(trained) == f"Trained({str(trained.run.best)!r}: done, 6 steps, {loss})"
    assert repr(model) == f"LanguageModel({str(trained.run.best)!r}: 1 x 8 lstm, {characters} characters, {loss})"
    score = model.score("ab ab")
    assert repr(score) == (
        f"Score(5 characters: {score.loss:.4f} nats or {score.bits_per_character:.4f} bits per character, "
        f"perplexity {score.perplexity:.2f})"
    )
    for shown in (trained, model, score, model.surprisal("ab ab", likeliest=3), model.checkpoint):
        assert len(repr(shown)) < 250
        assert "array" not in repr(shown)


def test_closing_figures_are_attributes_and_items(corpus: Path, tmp_path: Path) -> None:
    result = charlm.train(corpus, checkpoints=tmp_path, threads=1, **TINY).result
    assert result.val_loss == result["val_loss"] is not None
    assert result.steps == result["steps"] == 6
    with pytest.raises(KeyError):
        result["loss"]


def test_a_run_without_validation_and_a_stopped_one_have_representations(corpus: Path, tmp_path: Path) -> None:
    whole = charlm.train(corpus, name="whole", checkpoints=tmp_path, threads=1, val=0, **TINY)
    assert repr(whole).endswith(f"done, 6 steps, training loss {whole.result.train_loss:.4f} nats)")
    asked = iter(range(10))
    halves = charlm.train(
        corpus,
        name="halves",
        checkpoints=tmp_path,
        threads=1,
        stop=lambda: "half" if next(asked) == 4 else None,
        **TINY,
    )
    assert ": half, 4 steps, " in repr(halves)
    assert repr(charlm.load("halves", checkpoints=tmp_path)).startswith("LanguageModel(")


# progress


def follow(corpus: Path, **options: Any) -> list[Event]:
    events: list[Event] = []
    charlm.train(corpus, checkpoints=corpus.parent, threads=1, force=True, on_event=events.append, **TINY, **options)
    return events


def test_nothing_is_shown_in_a_pipe_unless_asked_for(corpus: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for progress in (None, False):
        assert isinstance(follow(corpus, progress=progress)[-1], Finished)
        assert capfd.readouterr() == ("", "")
    assert isinstance(follow(corpus, progress=True)[-1], Finished)
    out, err = capfd.readouterr()
    assert not out
    assert "finished after 6 steps" in err
    assert "\x1b" not in err


@pytest.mark.parametrize(("progress", "shown"), [("None", True), ("False", False)])
def test_a_script_in_a_terminal_shows_progress_unless_told_otherwise(corpus: Path, progress: str, shown: bool) -> None:
    script = (
        f"import charlm; charlm.train({str(corpus)!r}, checkpoints={str(corpus.parent)!r}, threads=1, "
        f"progress={progress}, **{TINY!r})"
    )
    with terminal() as screen:
        subprocess.run([sys.executable, "-c", script], stdout=screen.side, stderr=screen.side, check=True)
        os.write(screen.side, b"END")
        text = screen.read_until(lambda text: "END" in text)
        assert screen.cursor_is_shown
    assert ("finished after 6 steps" in text) == shown
    assert ("\x1b" in text) == shown


class Handle:
    """What IPython's `display` hands back: the output of a cell, which can be replaced."""

    def __init__(self, content: Mapping[str, str]) -> None:
        self.shown = [content]

    def update(self, content: Mapping[str, str], *, raw: bool) -> None:
        assert raw
        self.shown.append(content)


def test_a_notebook_shows_progress_in_one_output(
    corpus: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    handles: list[Handle] = []

    def display(content: Mapping[str, str], *, raw: bool, display_id: bool) -> Handle:
        assert raw
        assert display_id
        handles.append(Handle(content))
        return handles[-1]

    shell = SimpleNamespace(kernel=object())
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(display=display))
    events = follow(corpus)
    assert capfd.readouterr() == ("", "")
    [output] = handles
    assert len(output.shown) > 3
    assert any("sample ─" in c["text/plain"] or "left" in c["text/plain"] for c in output.shown), "a live display"
    final = output.shown[-1]
    assert "finished after 6 steps" in final["text/plain"]
    assert sum(isinstance(event, Validated) for event in events) == final["text/plain"].count(": training loss ")
    assert final["text/html"].startswith("<pre")
    assert final["text/html"].endswith("</pre>")
    assert "\x1b" not in final["text/html"] + final["text/plain"]
    assert follow(corpus, progress=False)
    assert len(handles) == 1, "not where it is told not to"


def test_ipython_in_a_terminal_is_no_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    from charlm.report.watch import in_notebook

    assert not in_notebook()
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: None))
    assert not in_notebook()
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=SimpleNamespace))
    assert not in_notebook()


# the process


def state_of_the_process() -> dict[str, object]:
    backends: Any = torch.backends
    return {
        "threads": torch.get_num_threads(),
        "environment": {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"},
        "torch": torch.get_rng_state().tolist(),
        "numpy": str(np.random.get_state()),
        "python": random.getstate(),
        "default type": torch.get_default_dtype(),
        "gradients": torch.is_grad_enabled(),
        "deterministic": (torch.are_deterministic_algorithms_enabled(), backends.cudnn.deterministic),
        "products": torch.get_float32_matmul_precision(),
        "switches": (
            backends.cuda.matmul.allow_tf32,
            backends.cudnn.allow_tf32,
            backends.cudnn.benchmark,
            *(each.fp32_precision for each in (backends.cuda.matmul, backends.cudnn, backends.cudnn.rnn)),
            *(each.fp32_precision for each in (backends.mkldnn, backends.mkldnn.matmul)),
        ),
    }


@pytest.fixture(params=["untouched", "chosen"])
def settings(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, object]]:
    """The process before: as it comes up, or with choices of a program's own."""
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    with computing():  # puts back what this chooses
        torch.backends.cudnn.deterministic = False
        torch.backends.cudnn.allow_tf32 = True
        del os.environ["CUBLAS_WORKSPACE_CONFIG"]
        if request.param == "chosen":
            os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":16:8"
            torch.set_num_threads(3)
            torch.manual_seed(17)
            torch.set_float32_matmul_precision("medium")
        yield state_of_the_process()


def test_training_leaves_the_process_as_it_was(corpus: Path, settings: dict[str, object]) -> None:
    charlm.train(corpus, checkpoints=corpus.parent, threads=2, dropout=0.2, **TINY)
    assert state_of_the_process() == settings


def test_training_that_fails_does_too(corpus: Path, settings: dict[str, object]) -> None:
    def fail(event: Event) -> None:
        if isinstance(event, Validated):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        charlm.train(corpus, checkpoints=corpus.parent, threads=2, on_event=fail, **TINY)
    assert state_of_the_process() == settings
    with pytest.raises(ConfigError, match="exists"):
        charlm.train(corpus, checkpoints=corpus.parent, threads=2, **TINY)
    assert state_of_the_process() == settings


@pytest.mark.parametrize("engine", ["network", "decoder"])
def test_a_model_leaves_it_too(
    small_model: charlm.LanguageModel, settings: dict[str, object], engine: Literal["network", "decoder"]
) -> None:
    model = charlm.load(small_model.path, device="cpu", threads=2, engine=engine)
    model.score("to be or not to be")
    model.surprisal("to be", likeliest=2)
    model.position_losses("to be")
    model.nats("to be", exact=True)
    model.sample(length=3, threads=1)
    if engine == "network":
        model.nats("to be", dynamic=True)
    assert state_of_the_process() == settings
    with pytest.raises(AttributeError):
        model.score(3)  # type: ignore[arg-type]
    assert state_of_the_process() == settings


def test_a_score_does_not_depend_on_the_settings_of_the_program(
    small_model: charlm.LanguageModel, settings: dict[str, object]
) -> None:
    assert settings
    text = synthetic_text(3_000, seed=9)
    model = charlm.load(small_model.path, device="cpu", threads=1)
    assert model.score(text) == charlm.load(small_model.path, device="cpu", threads=1).score(text)


def test_only_a_command_keeps_the_memory_that_it_frees(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The C library's settings cannot be read, so they could not be put back."""
    monkeypatch.setattr("charlm.runtime.processor.keep_memory", lambda: pytest.fail("in a program of somebody else"))
    charlm.train(corpus, checkpoints=corpus.parent, threads=1, **TINY)
    charlm.load("synthetic", checkpoints=corpus.parent, device="cpu").score("to be")
    command = """
import sys
from charlm.__main__ import main
from charlm.runtime import processor
processor.keep_memory = lambda: print("kept")
sys.exit(main())
"""
    given = ["eval", "synthetic", "--checkpoints", str(corpus.parent), "--text", str(corpus), "--device", "cpu"]
    done = subprocess.run([sys.executable, "-c", command, *given], capture_output=True, text=True, check=True)
    assert "kept" in done.stdout.splitlines()
