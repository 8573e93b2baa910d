"""`charlm runs`: what it says of a run is what the run's files say, whatever else lies beside it."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hostile import made
from odd import HOSTILE, OBEYED
from oracles import synthetic_text

import charlm
from charlm.cli.main import run as cli
from charlm.report.console import console
from charlm.report.runs import runs_report
from charlm.storage.checkpoint import load_checkpoint, read_outline, save_checkpoint
from charlm.storage.listing import list_runs
from charlm.storage.records import Metrics, ModelState, Plan
from charlm.storage.runs import Run

SMALL: dict[str, Any] = {"hidden": 8, "layers": 1, "batch": 4, "bptt": 16, "device": "cpu", "threads": 1}
SMALL |= {"precision": "fp32", "progress": False}
Answer = Callable[..., dict[str, Any]]


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def answer(capsys: pytest.CaptureFixture[str]) -> Answer:
    """What `charlm runs --json` prints."""

    def ask(*arguments: str) -> dict[str, Any]:
        capsys.readouterr()
        assert cli(["runs", "--json", *arguments]) == 0
        return dict(json.loads(capsys.readouterr().out, parse_constant=pytest.fail))

    return ask


def saved(name: str, *files: str, **fields: Any) -> Run:
    """A run with these checkpoints, which are made by hand and hold something in every field."""
    run = Run(Path("checkpoints") / name)
    run.folder.mkdir(parents=True, exist_ok=True)
    for file in files or ("last",):
        save_checkpoint(run.folder / f"{file}.safetensors", made(**fields))
    return run


def unfinished(**fields: Any) -> dict[str, Any]:
    return {"result": {}, **fields}


# what is said of a run


def test_figures_are_those_of_the_runs_own_files(place: Path, answer: Answer) -> None:
    (place / "book.txt").write_text(synthetic_text(9000, seed=3))
    charlm.train("book.txt", name="whole", steps=12, test=0.1, **SMALL)
    charlm.train("book.txt", name="half", steps=40, val=0, stop=after(10), **SMALL)
    runs = answer()["runs"]
    assert [(one["name"], one["state"]) for one in runs] == [("half", "interrupted"), ("whole", "finished")]
    for one in runs:
        checkpoint = load_checkpoint(Path(one["folder"]) / "last.safetensors")
        assert one["steps"] == checkpoint.state.step
        assert one["total_steps"] == checkpoint.state.plan.total
        assert one["model"]["parameters"] == checkpoint.parameters
        assert one["seconds"] == checkpoint.bookkeeping.seconds
        assert one["bytes"] == sum(size for _, size in sizes(Path(one["folder"])).items())
        assert one["text"] == {
            "name": "book.txt",
            "files": 1,
            "train_characters": checkpoint.corpus.train_characters,
            "val_characters": checkpoint.corpus.val_characters,
            "test_characters": checkpoint.corpus.test_characters,
        }
    half, whole = runs
    assert (half["steps"], half["progress"], half["val_loss"], half["test_loss"]) == (10, 0.25, None, None)
    result = load_checkpoint(Path("checkpoints/whole/best.safetensors")).result
    assert result is not None
    assert (whole["val_loss"], whole["test_loss"], whole["progress"]) == (result.val_loss, result.test_loss, 1.0)
    assert whole["val_bits_per_character"] == pytest.approx(result.val_bits_per_character)
    assert whole["test_bits_per_character"] == pytest.approx(result.test_bits_per_character)


def after(steps: int) -> Callable[[], str | None]:
    """A `stop` that ends training after this number of steps."""
    left = iter(range(steps))
    return lambda: None if next(left, None) is not None else "enough"


def sizes(folder: Path) -> dict[int, int]:
    """Bytes of the files in a folder; a second name of a file takes no room."""
    return {path.stat().st_ino: path.stat().st_size for path in folder.iterdir()}


def test_the_commands_do_what_they_say(place: Path, answer: Answer, capsys: pytest.CaptureFixture[str]) -> None:
    """One finishes an interrupted run; one trains another run, whose weights are the same."""
    (place / "a book.txt").write_text(synthetic_text(9000, seed=3))
    (place / "later.txt").write_text(synthetic_text(900, seed=4))
    charlm.train("a book.txt", name="b", steps=14, val="later.txt", dropout=0.2, stop=after(6), **SMALL)
    resume = answer()["runs"][0]["command"]
    assert resume == "charlm train --resume --name b"
    assert cli([*shlex.split(resume)[1:], "-q"]) == 0
    again = answer()["runs"][0]["command"]
    assert shlex.split(again)[2] == str(place / "a book.txt")
    assert "--name b-2" in again
    assert cli([*shlex.split(again)[1:], "-q"]) == 0
    capsys.readouterr()
    one, other = (charlm.load(name).checkpoint for name in ("b", "b-2"))
    assert {name: array.tobytes() for name, array in one.weights.items()} == {
        name: array.tobytes() for name, array in other.weights.items()
    }


def test_the_commands_name_another_folder(place: Path, answer: Answer) -> None:
    saved("book", **unfinished())
    (place / "checkpoints").rename(place / "my runs")
    (one,) = answer("--checkpoints", "my runs")["runs"]
    assert shlex.split(one["command"])[2:] == ["--resume", "--name", "book", "--checkpoints", "my runs"]


def test_runs_are_listed_by_when_they_changed(place: Path, answer: Answer) -> None:
    for number, name in enumerate(("b", "c", "a")):
        run = saved(name)
        os.utime(run.last, (10**9 + number,) * 2)
    assert [one["name"] for one in answer()["runs"]] == ["a", "c", "b"]
    (place / "checkpoints/b/metrics.jsonl").write_text("")  # as training does
    runs = answer()["runs"]
    assert [one["name"] for one in runs] == ["b", "a", "c"]
    assert runs[1]["changed"] == "2001-09-09T01:46:42Z"
    assert 0 <= runs[0]["age"] < 3600


# states


def row(step: int) -> Metrics:
    return Metrics(
        step=step,
        characters_seen=64 * step,
        train_loss=2.5,
        seconds=float(step),
        characters_per_second=64,
        val_loss=None,
        grad_norm=0.5,
        lr=0.01,
    )


def test_a_run_is_running_while_its_lock_is_held_and_its_last_row_is_ahead(answer: Answer) -> None:
    run = saved("book", **unfinished())
    for step in (5, 6):
        run.append_metrics(row(step))
    with run.metrics.open("a") as file:
        file.write('{"step": 7, "chara')  # which is just being written
    assert (answer()["runs"][0]["state"], answer()["runs"][0]["steps"]) == ("interrupted", 3)
    assert not run.lock.exists()
    with run.locked():
        (one,) = answer()["runs"]
        assert (one["state"], one["steps"], one["seconds"], one["progress"]) == ("running", 6, 6.0, 6 / 9)
    assert answer()["runs"][0]["state"] == "interrupted"


def test_a_run_that_has_only_begun_has_no_figures(place: Path, answer: Answer) -> None:
    run = Run(place / "checkpoints" / "book")
    with run.locked():
        (one,) = answer()["runs"]
    assert (one["state"], one["steps"], one["val_loss"], one["command"]) == ("running", 0, None, None)
    assert answer()["runs"] == []


def test_the_states_of_what_nobody_trains(answer: Answer) -> None:
    alone = {"training": ModelState(step=3, best=2.5), "tensors": {}}
    saved("finished")
    saved("interrupted", **unfinished())
    saved("model", "best", **unfinished(**alone))
    saved("whole-model", "best", **alone)
    saved("only-previous", "previous", **unfinished())
    garbage("damaged", "last", "previous")
    saved("saved-by-best", "best", **unfinished(**alone))
    garbage("saved-by-best", "last", "previous")
    saved("saved-by-previous", "previous", **unfinished())
    garbage("saved-by-previous", "last")
    found = {one["name"]: (one["state"], bool(one["problem"])) for one in answer()["runs"]}
    assert found == {
        "finished": ("finished", False),
        "interrupted": ("interrupted", False),
        "model": ("model", False),
        "whole-model": ("finished", False),
        "only-previous": ("interrupted", False),
        "damaged": ("damaged", True),
        "saved-by-best": ("damaged", True),
        "saved-by-previous": ("interrupted", True),
    }


def garbage(name: str, *files: str) -> None:
    folder = Path("checkpoints") / name
    folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        (folder / f"{file}.safetensors").write_bytes(b"no checkpoint")


def test_the_best_loss_of_an_unfinished_run_is_that_of_its_best_model(answer: Answer) -> None:
    """Which is saved before the state that knows of it."""
    saved("book", **unfinished())
    saved("book", "best", **unfinished(training=ModelState(step=4, best=1.5), tensors={}))
    assert answer()["runs"][0]["val_loss"] == 1.5


def test_the_total_of_a_time_budget_is_unknown_until_it_is_measured(answer: Answer) -> None:
    saved("book", **unfinished(training=replace(made().state, plan=Plan.of(10**12))))
    (one,) = answer()["runs"]
    assert (one["total_steps"], one["progress"]) == (None, None)


# what else lies there


def test_only_headers_are_read(answer: Answer) -> None:
    """With other numbers in its tensors a file no longer has its hash, and everything is said of it as before."""
    run = saved("book")
    before = answer()["runs"][0]
    data = bytearray(run.last.read_bytes())
    data[-1] ^= 1
    run.last.write_bytes(data)
    with pytest.raises(charlm.CharlmError, match="SHA-256"):
        load_checkpoint(run.last)
    after = answer()["runs"][0]
    assert {name: after[name] for name in after.keys() - {"age", "changed"}} == {
        name: before[name] for name in before.keys() - {"age", "changed"}
    }
    run.last.write_bytes(data[:-1])
    assert "truncated" in answer()["runs"][0]["problem"]


def test_an_outline_says_what_the_checkpoint_says() -> None:
    run = saved("book")
    outline, checkpoint = read_outline(run.last), load_checkpoint(run.last)
    for name in ("config", "training", "bookkeeping", "history", "corpus", "environment", "result", "parameters"):
        assert getattr(outline, name) == getattr(checkpoint, name)


def test_whatever_is_no_run_is_one_remark(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = saved("book")
    (place / "checkpoints/notes").mkdir()
    (place / "checkpoints/file.txt").write_text("a file")
    (place / "checkpoints/nowhere").symlink_to("nothing")
    (place / "checkpoints/loop").symlink_to("loop")
    (place / "checkpoints/link").symlink_to(run.folder.resolve())
    (place / "checkpoints/devices").mkdir()
    (place / "checkpoints/devices/last.safetensors").symlink_to("/dev/zero")
    os.mkfifo(place / "checkpoints/devices/.lock")
    assert cli(["runs"]) == 0
    out, err = capsys.readouterr()
    assert re.findall(r"^(\w+) +(\w+)", out, re.MULTILINE)[1:] == [
        ("devices", "damaged"),
        ("book", "finished"),
        ("link", "finished"),
    ]
    assert err.splitlines() == [
        "note: cannot read checkpoints/devices/last.safetensors: it is not a file",
        "note: left out: notes (no checkpoint)",
    ]
    assert cli(["runs", "-q"]) == 0
    assert capsys.readouterr().err == ""


def test_a_folder_that_cannot_be_read_is_left_out(answer: Answer, monkeypatch: pytest.MonkeyPatch) -> None:
    saved("book")
    scan = os.scandir

    def refuse(path: Any) -> Any:
        if str(path).endswith("book"):
            raise PermissionError(13, "Permission denied")
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    said = answer()
    assert said["runs"] == []
    assert said["skipped"] == [{"folder": "checkpoints/book", "reason": "Permission denied"}]


def test_a_run_that_is_removed_meanwhile_is_no_error(answer: Answer, monkeypatch: pytest.MonkeyPatch) -> None:
    run = saved("book")
    read = read_outline

    def removed(path: Path) -> Any:
        run.clear()
        return read(path)

    monkeypatch.setattr("charlm.storage.listing.read_outline", removed)
    said = answer()
    assert (said["runs"], said["skipped"]) == ([], [{"folder": "checkpoints/book", "reason": "no checkpoint"}])


def test_names_are_shown_and_not_obeyed(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = HOSTILE.replace("/", "").replace("\0", "")[:60]
    saved(name, **unfinished())
    garbage(name + "2", "last")
    (place / "checkpoints" / (name + "3")).mkdir()
    assert cli(["runs"]) == 0
    out, err = capsys.readouterr()
    assert not OBEYED.search(out + err)
    assert "␛" in out
    assert "␛" in err


# the folder


def test_without_any_run_it_says_how_to_train_one(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli(["runs"]) == 0
    assert capsys.readouterr().out == "There is no run in checkpoints; charlm train CORPUS trains one.\n"
    (place / "my runs").mkdir()
    assert cli(["runs", "--checkpoints", "my runs"]) == 0
    assert "charlm train CORPUS --checkpoints 'my runs' trains one." in capsys.readouterr().out
    assert not (place / "checkpoints").exists()


@pytest.mark.parametrize(
    ("folder", "code", "words"),
    [
        ("nowhere", 74, "cannot read nowhere: No such file or directory"),
        ("file", 74, "cannot read file: Not a directory"),
        (
            "checkpoints/book",
            2,
            "checkpoints/book is a run, not a folder of runs; charlm runs --checkpoints checkpoints lists it",
        ),
    ],
)
def test_what_is_no_folder_of_runs_is_refused(
    place: Path, capsys: pytest.CaptureFixture[str], folder: str, code: int, words: str
) -> None:
    saved("book")
    (place / "file").write_text("")
    assert cli(["runs", "--checkpoints", folder]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"charlm: {words}")


# the table


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("columns", [60, 80, 100, 120, 200])
@pytest.mark.parametrize("name", ["b", "a-name-that-is-longer-than-any-column-has-room-for"])
def test_the_table_fits_and_leaves_out_whole_columns(monkeypatch: pytest.MonkeyPatch, columns: int, name: str) -> None:
    saved(name, **unfinished(training=replace(made().state, step=123_456, plan=Plan.of(1_234_567))))
    saved("other")
    garbage("damaged", "last")
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm")
    screen = Terminal()
    found, _ = list_runs(Path("checkpoints"))
    runs_report(console(screen, color=False), found, [None] * len(found), found[0].changed)
    lines = screen.getvalue().splitlines()
    assert max(map(len, lines)) <= columns
    assert len(lines) <= 2 + 3  # one block, whose header has two lines at most
    text = screen.getvalue()
    for word in ("interrupted 10%", "finished", "damaged", "run", "state", "bits"):
        assert word in text
    assert ("lstm 1 x 2" in text) == (columns >= 100 or (len(name) == 1 and columns == 80))
    assert columns < 200 or "parameters" in text


def test_in_a_pipe_every_run_is_a_line_with_all_columns(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "b" * 100):
        saved(name, **unfinished())
    assert cli(["runs"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert re.split("  +", lines[0]) == [
        *("run", "state", "text", "model", "parameters", "validation loss", "validation bits"),
        *("steps", "time", "size", "age"),
    ]
    assert {line.split()[0] for line in lines[1:3]} == {"a", "b" * 100}
    commands = {line.removeprefix("resume with").strip() for line in lines[3:]}
    assert commands == {f"charlm train --resume --name {name}" for name in ("a", "b" * 100)}


def test_torch_is_not_imported() -> None:
    saved("book")
    code = "import sys; from charlm.cli.main import run; run(['runs']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode == 0
