"""Curves are a picture, whatever a run's numbers and its name are."""

from __future__ import annotations

import io
import sys
from dataclasses import replace
from typing import Any

import pytest

from charlm.report.plots import curves
from charlm.storage.records import Metrics


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


def size(picture: bytes | None) -> tuple[int, ...]:
    image = pytest.importorskip("matplotlib.image")
    assert picture is not None
    assert picture.startswith(b"\x89PNG\r\n\x1a\n")
    shape: tuple[int, ...] = image.imread(io.BytesIO(picture), format="png").shape
    return shape


def test_curves_are_a_png_of_nine_by_six_inches() -> None:
    assert size(curves("a run", rows(40)))[:2] == (720, 1080)


@pytest.mark.parametrize(
    "some",
    [[], rows(1), rows(3), rows(5, val_loss=None), rows(5, grad_norm=0.0), rows(5, lr=0.0), rows(2, train_loss=0.0)],
)
def test_any_numbers_make_a_picture(some: list[Metrics]) -> None:
    assert size(curves("a run", some))[:2] == (720, 1080)


@pytest.mark.parametrize("name", ["$x_$", "50% of $\\alpha", "日本語", "\U0001f600", "a\nb\x1b", "_under_", "x" * 200])
def test_any_name_makes_a_picture_without_a_warning(name: str) -> None:
    assert size(curves(name, rows(4)))[:2] == (720, 1080)


def test_other_numbers_make_another_picture() -> None:
    pytest.importorskip("matplotlib")
    assert curves("a run", rows(20)) == curves("a run", rows(20))
    assert curves("a run", rows(20)) != curves("a run", rows(20, train_loss=2.0))
    assert curves("a run", rows(20)) != curves("another run", rows(20))


def test_without_matplotlib_there_is_no_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert curves("a run", rows(4)) is None
