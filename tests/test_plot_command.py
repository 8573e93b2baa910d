"""`charlm plot`: the lines in the picture are the rows of metrics.jsonl, and nothing else is needed."""

from __future__ import annotations

import json
import math
import os
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from charlm.cli.main import run as cli
from charlm.report import run_curves as module
from charlm.report.run_curves import Curve, run_curves
from charlm.storage.records import Metrics

pytest.importorskip("matplotlib")


def rows(count: int, *, validated: int = 3, scale: float = 1.0, pace: float = 1.0) -> list[Metrics]:
    """Rows every ten steps; each third of them has a validation, if any has."""
    return [
        Metrics(
            step=10 * n,
            characters_seen=6400 * n,
            train_loss=scale * 3 / (n + 1),
            seconds=pace * n,
            characters_per_second=6400,
            val_loss=scale * 3.5 / (n + 1) if validated and n % validated == 0 else None,
            grad_norm=0.5,
            lr=0.01,
        )
        for n in range(1, count + 1)
    ]


def written(folder: Path, some: list[Metrics], end: str = "") -> Path:
    folder.mkdir(parents=True)
    text = "".join(json.dumps(asdict(row)) + "\n" for row in some)
    (folder / "metrics.jsonl").write_text(text + end)
    return folder


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def drawn(monkeypatch: pytest.MonkeyPatch, curves: list[Curve], against: str = "seconds") -> Any:
    """The axes of the picture."""
    from matplotlib.figure import Figure

    figures = []

    def keep(draw: Any, *_: Any) -> bytes:
        figures.append(Figure())
        draw(figures[-1])
        return b""

    with monkeypatch.context() as here:
        here.setattr(module, "render", keep)
        run_curves(curves, against)
    return figures[0].axes[0]


@pytest.mark.parametrize("against", ["seconds", "steps", "characters"])
def test_the_lines_are_the_rows(monkeypatch: pytest.MonkeyPatch, against: str) -> None:
    curves = [Curve("one", rows(12)), Curve("two", rows(9, validated=0, scale=0.5))]
    axes = drawn(monkeypatch, curves, against)
    name = {"seconds": "seconds", "steps": "step", "characters": "characters_seen"}[against]
    thin, thick, alone = axes.get_lines()
    assert list(thin.get_xdata()) == [getattr(row, name) for row in curves[0].rows]
    validations = [row for row in curves[0].rows if row.val_loss is not None]
    assert list(thick.get_xdata()) == [getattr(row, name) for row in validations]
    assert list(thick.get_ydata()) == pytest.approx([(row.val_loss or 0) / math.log(2) for row in validations])
    assert list(alone.get_ydata()) == pytest.approx([row.train_loss / math.log(2) for row in curves[1].rows])
    assert thin.get_color() == thick.get_color() != alone.get_color()
    assert thin.get_linewidth() < thick.get_linewidth()
    lowest = 3.5 / 13 / math.log(2)
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [f"one: {lowest:.3f}", "two (training)"]


def test_many_runs_are_told_apart_by_colour_and_style(monkeypatch: pytest.MonkeyPatch) -> None:
    axes = drawn(monkeypatch, [Curve(f"run {n}", rows(6, scale=1 + n / 10)) for n in range(20)])
    looks = {(line.get_color(), line.get_linestyle()) for line in axes.get_lines() if line.get_label()[0] != "_"}
    assert len(looks) == 20


def test_the_legend_lists_runs_up_to_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    axes = drawn(monkeypatch, [Curve(f"run {n}", rows(3)) for n in range(200)])
    entries = [text.get_text() for text in axes.get_legend().get_texts()]
    assert entries[-1] == "and 172 more"
    assert entries[:-1] == [f"run {n}: {3.5 / 4 / math.log(2):.3f}" for n in range(28)]
    assert len(axes.get_lines()) == 401


@pytest.mark.parametrize(("pace", "unit"), [(1.0, "seconds"), (60.0, "minutes"), (3600.0, "hours")])
def test_time_has_a_unit_that_suits_it(monkeypatch: pytest.MonkeyPatch, pace: float, unit: str) -> None:
    axes = drawn(monkeypatch, [Curve("one", rows(9, pace=pace))])
    assert axes.get_xlabel() == f"training time ({unit})"
    ticks = [float(text) for text in axes.xaxis.get_major_formatter().format_ticks(axes.get_xticks())]
    assert 8 in ticks
    assert len(ticks) <= 12


@pytest.mark.parametrize(
    "some",
    [
        rows(1),
        rows(1, validated=1),
        rows(4, validated=1, scale=1e9),
        [replace(row, seconds=0.0, step=0, characters_seen=0) for row in rows(3)],
        [replace(row, train_loss=0.0) for row in rows(3)],
    ],
)
@pytest.mark.parametrize("name", ["a run", "$x_$\x1b", "_" * 80])
def test_any_rows_and_names_make_a_picture(some: list[Metrics], name: str) -> None:
    for against in ("seconds", "steps", "characters"):
        assert run_curves([Curve(name, some), Curve("other", rows(5))], against).startswith(b"\x89PNG")


@pytest.mark.parametrize(("kind", "begin"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF-")])
def test_the_same_rows_make_the_same_picture(kind: str, begin: bytes) -> None:
    pictures = {run_curves([Curve("one", rows(9))], kind=kind) for _ in range(3)}
    assert len(pictures) == 1
    assert pictures.pop().startswith(begin)


# the command


def test_runs_are_drawn_by_name_and_folder_also_while_they_train(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written(place / "checkpoints/one", rows(7), end='{"step": 80, "tra')  # which is just being written
    written(place / "elsewhere/two", rows(5, validated=0))
    (place / "losses.png").write_bytes(b"")
    assert cli(["plot", "one", "elsewhere/two/", "-o", "losses.png", "--x", "steps", "--json"]) == 0
    out, err = capsys.readouterr()
    assert (place / "losses.png").read_bytes().startswith(b"\x89PNG")
    assert err.startswith("wrote losses.png, ")
    record = json.loads(out)
    first = rows(6)[-1]
    assert record == {
        "schema": "charlm.plot/1",
        "picture": "losses.png",
        "x": "steps",
        "runs": [
            {
                "run": "checkpoints/one",
                "rows": 7,
                "validations": 2,
                "steps": 70,
                "characters_seen": 44800,
                "seconds": 7.0,
                "train_loss": 3 / 8,
                "best_val_loss": first.val_loss,
                "best_step": 60,
            },
            {
                "run": "elsewhere/two",
                "rows": 5,
                "validations": 0,
                "steps": 50,
                "characters_seen": 32000,
                "seconds": 5.0,
                "train_loss": 0.5,
                "best_val_loss": None,
                "best_step": None,
            },
        ],
    }


def test_without_a_run_the_newest_is_named(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("old", "new"):
        written(place / "checkpoints" / name, rows(7))
        (place / "checkpoints" / name / "last.safetensors").write_bytes(b"")
    os.utime(place / "checkpoints/old/last.safetensors", (10**9,) * 2)
    assert cli(["plot", "-o", "new.svg"]) == 0
    assert "using the newest run: checkpoints/new" in capsys.readouterr().err
    picture = (place / "new.svg").read_text()
    assert "new: " in picture  # matplotlib says in a comment what it draws
    assert cli(["plot", "checkpoints/new/last.safetensors", "-o", "file.svg"]) == 0
    assert (place / "file.svg").read_text() == picture


def test_runs_of_one_name_are_called_by_their_folders(place: Path) -> None:
    written(place / "checkpoints/one", rows(7))
    written(place / "elsewhere/one", rows(7))
    assert cli(["plot", "one", "elsewhere/one", "-o", "both.svg", "-q"]) == 0
    picture = (place / "both.svg").read_text()
    assert "checkpoints/one: " in picture
    assert "elsewhere/one: " in picture


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ("one -o p.gif", 2, "--output must end in .png, .svg or .pdf, not p.gif; nothing was written"),
        ("one -o none/p.png", 74, "cannot write none/p.png: no such folder"),
        ("one -o text.png", 2, "text.png exists and is not a picture; nothing was written"),
        ("one one -o p.png", 2, "checkpoints/one is given twice; nothing was drawn"),
        ("one nobody -o p.png", 4, "there is no run 'nobody'; charlm runs lists those in checkpoints"),
        ("empty -o p.png", 4, "checkpoints/empty has no metrics yet; nothing was drawn"),
        ("broken -o p.png", 3, "checkpoints/broken/metrics.jsonl, line 2: it is no row of metrics"),
        ("infinite -o p.png", 3, "checkpoints/infinite/metrics.jsonl, line 1: it is no row of metrics"),
        ("deep -o p.png", 3, "checkpoints/deep/metrics.jsonl, line 1: it is no row of metrics"),
        ("one -o p.png --x epochs", 2, "--x must be one of seconds, steps, characters"),
        ("one --json -o -", 2, "two outputs go to standard output"),
        ("one", 2, "charlm plot needs -o, --output FILE"),
    ],
)
def test_what_cannot_be_drawn_is_refused(
    place: Path, capsys: pytest.CaptureFixture[str], arguments: str, code: int, words: str
) -> None:
    written(place / "checkpoints/one", rows(7))
    written(place / "checkpoints/empty", [])
    written(place / "checkpoints/broken", rows(1), end='{"step": 20}\n')
    written(place / "checkpoints/infinite", [], end=json.dumps(asdict(replace(rows(1)[0], lr=math.inf))) + "\n")
    written(place / "checkpoints/deep", [], end="[" * 100_000 + "\n")
    (place / "text.png").write_text("a text")
    before = sorted(place.rglob("*"))
    assert cli(["plot", *arguments.split()]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"charlm: {words}")
    assert err.count("\n") == 1
    assert sorted(place.rglob("*")) == before
    assert (place / "text.png").read_text() == "a text"


def test_without_matplotlib_one_line_says_so(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    written(place / "checkpoints/one", rows(7))
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert cli(["plot", "one", "-o", "p.png"]) == 1
    assert "cannot draw p.png: matplotlib is not installed; nothing was written; pip install" in capsys.readouterr().err
