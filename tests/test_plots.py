"""Curves are a picture, whatever a run's numbers, its name and the user's settings of matplotlib are."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from oracles import random_network, synthetic_text
from processes import SMALL, TEXT
from processes import charlm as run

from charlm.config import ModelConfig
from charlm.evaluation.surprisal import position_losses, surprisal
from charlm.report.picture import PictureError, Size, available, render
from charlm.report.plots import curves, loss_limits
from charlm.report.surprisal import Scored
from charlm.report.surprisal_plot import surprisal_curves
from charlm.storage.records import Metrics
from charlm.text.tokenizer import CharTokenizer

SHAPE = (1200, 1440)
INFINITE = float("inf")


def rows(count: int, **more: Any) -> list[Metrics]:
    return [
        replace(
            Metrics(
                step=n,
                characters_seen=1000 * n,
                train_loss=3 / n,
                seconds=float(n),
                characters_per_second=1000,
                val_loss=3.5 / n if n % 3 == 0 else None,
                grad_norm=1 / n,
                lr=0.01,
            ),
            **more,
        )
        for n in range(1, count + 1)
    ]


def size(picture: bytes) -> tuple[int, ...]:
    image = pytest.importorskip("matplotlib.image")
    assert picture.startswith(b"\x89PNG\r\n\x1a\n")
    shape: tuple[int, ...] = image.imread(io.BytesIO(picture), format="png").shape
    return shape


def test_curves_are_a_png_for_print() -> None:
    """7.2 by 6 inches at 200 dots an inch, small enough for a front page."""
    pytest.importorskip("matplotlib")
    picture = curves("a run", rows(400))
    assert size(picture)[:2] == SHAPE
    assert len(picture) < 200_000


@pytest.mark.parametrize(
    "some",
    [
        [],
        rows(1),
        rows(3),
        rows(5, val_loss=None),
        rows(5, grad_norm=0.0, lr=0.0),
        rows(5, grad_norm=None),
        rows(2, train_loss=0.0),
        rows(4, train_loss=INFINITE, val_loss=INFINITE),
        [*rows(3, train_loss=1e12, grad_norm=1e9), *rows(60)],
    ],
)
def test_any_numbers_make_a_picture(some: list[Metrics]) -> None:
    pytest.importorskip("matplotlib")
    assert size(curves("a run", some))[:2] == SHAPE


@pytest.mark.parametrize("name", ["$x_$", "50% of $\\alpha", "日本語\U0001f600", "a\nb\x1b", "_under_", "x" * 200])
def test_any_name_makes_a_picture_without_a_warning(name: str) -> None:
    pytest.importorskip("matplotlib")
    assert size(curves(name, rows(4)))[:2] == SHAPE


def test_other_numbers_make_another_picture() -> None:
    pytest.importorskip("matplotlib")
    assert curves("a run", rows(20)) == curves("a run", rows(20))
    assert curves("a run", rows(20)) != curves("a run", rows(20, train_loss=2.0))
    assert curves("a run", rows(20)) != curves("another run", rows(20))


def test_a_start_that_diverged_does_not_press_the_curve_together() -> None:
    usual = [1.5 + 3 * 0.95**n for n in range(100)]
    low, high = loss_limits(usual, [2.0])
    assert low < 1.5 + 3 * 0.95**99 < 2.0 < high
    assert loss_limits([1e9, 300.0, INFINITE, *usual], [2.0])[1] < 1.5 * high
    short = [5.9, 5.2, 4.7, 4.6]
    low, high = loss_limits(short, [])
    assert low < min(short)
    assert max(short) < high
    assert loss_limits([], []) == (0.0, 1.0)
    low, high = loss_limits([2.0], [])
    assert low < 2.0 < high


@pytest.mark.parametrize(("names", "kind"), [(["_a$x_$", "日本\x1b"], "png"), ([], "png"), (["_a$x_$", "b"], "svg")])
def test_any_texts_make_a_picture(names: list[str], kind: str) -> None:
    pytest.importorskip("matplotlib")
    text = synthetic_text(2000, seed=31)
    tokenizer = CharTokenizer.train(text)
    model = random_network(ModelConfig(hidden=8, layers=1, embedding=4), tokenizer.size, seed=8)
    texts = [
        Scored(name, surprisal(model, tokenizer, text), position_losses(model, tokenizer, text))
        for name, text in zip([*names, "empty"], [text, "x", ""], strict=False)
    ]
    surprisal_curves(texts, kind)  # matplotlib's own caches of fonts are filled by the first picture
    picture = surprisal_curves(texts, kind)
    assert picture.startswith(b"\x89PNG\r\n\x1a\n" if kind == "png" else b"<?xml")
    if kind == "svg":  # the other has no date to begin with
        assert {surprisal_curves(texts, kind) for _ in range(4)} == {picture}


# matplotlib itself


def test_without_matplotlib_there_is_no_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert not available()
    with pytest.raises(PictureError, match="not installed; pip install matplotlib"):
        curves("a run", rows(4))


def test_whatever_fails_while_drawing_is_a_picture_error() -> None:
    pytest.importorskip("matplotlib")

    def fail(_: object) -> None:
        raise ZeroDivisionError("a\nb")

    with pytest.raises(PictureError, match="matplotlib failed: ZeroDivisionError: a␊b"):
        render(fail, Size(1, 1))


def test_the_users_settings_are_neither_used_nor_changed() -> None:
    matplotlib = pytest.importorskip("matplotlib")
    plain = curves("a run", rows(4))
    with matplotlib.rc_context({"axes.facecolor": "black", "font.size": 30, "savefig.transparent": True}):
        before = dict(matplotlib.rcParams)
        assert curves("a run", rows(4)) == plain
        assert dict(matplotlib.rcParams) == before


_DRAW = """
import os, sys
before = dict(os.environ)
from charlm.report.picture import Size, render
picture = render(lambda figure: figure.subplots().plot([1, 2]), Size(2, 2))
assert os.environ.get("MPLBACKEND") == before.get("MPLBACKEND")
sys.stdout.buffer.write(picture)
"""


def test_back_end_settings_and_home_of_the_user_do_not_matter(tmp_path: Path) -> None:
    """A back end that is not installed, wrong and foreign settings, no home: one picture, not a word."""
    pytest.importorskip("matplotlib")
    (tmp_path / "matplotlibrc").write_text("axes.facecolor: black\nno.such.setting: 1\nfont.size: large\n")
    drawn = set()
    for more in (
        {"MPLBACKEND": "module://matplotlib_inline.backend_inline"},
        {"MPLBACKEND": "nonsense", "HOME": "/proc", "XDG_CACHE_HOME": "/proc", "XDG_CONFIG_HOME": "/proc"},
    ):
        env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), **more}
        done = subprocess.run([sys.executable, "-c", _DRAW], cwd=tmp_path, env=env, capture_output=True, check=False)
        assert (done.returncode, done.stderr) == (0, b"")
        drawn.add(done.stdout)
    assert len(drawn) == 1
    image = pytest.importorskip("matplotlib.image").imread(io.BytesIO(drawn.pop()), format="png")
    assert np.mean(image[..., :3]) > 0.8


def test_a_picture_that_fails_does_not_end_the_command(tmp_path: Path) -> None:
    """matplotlib reads a settings file where it is started, and fails on one that is not UTF-8."""
    pytest.importorskip("matplotlib")
    (tmp_path / "sums.txt").write_text(TEXT)
    (tmp_path / "matplotlibrc").write_bytes(b"# \xff\n")
    done = run("train", "sums.txt", "--steps", "2", *SMALL, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["steps"] == 2
    assert "curves.png was not drawn: matplotlib failed: " in done.stderr
    assert not (tmp_path / "checkpoints" / "sums" / "curves.png").exists()
    (tmp_path / "matplotlibrc").unlink()
    done = run("train", "sums.txt", "--steps", "2", *SMALL, "--force", "-q", cwd=tmp_path, MPLBACKEND="nonsense")
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "checkpoints" / "sums" / "curves.png").exists()
