"""A run's folder: what a name leads to, who may write, and what is found after a crash."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from hostile import made
from hypothesis import given
from hypothesis import strategies as st

import charlm
from charlm.config import Config
from charlm.errors import CheckpointError, ConfigError, DataError, StorageError
from charlm.storage.checkpoint import Checkpoint, save_checkpoint
from charlm.storage.records import Bookkeeping, Metrics, TrainingSample
from charlm.storage.runs import Run, default_name, find_checkpoint, newest_run, open_run, remove_empty
from charlm.training.request import TrainingRequest

ROW = Metrics(
    step=10,
    characters_seen=640,
    train_loss=2.5,
    seconds=1.0,
    characters_per_second=640,
    val_loss=None,
    grad_norm=0.5,
    lr=0.01,
)
HOLDER = """
import fcntl, sys
with open(sys.argv[1], "a") as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    print("locked", flush=True)
    sys.stdin.read()
"""


def checkpoint(step: int) -> Checkpoint:
    return made(training=replace(made().state, step=step))


def saved(folder: Path, *names: str, age: int = 0) -> Run:
    """A run with these files, written `age` seconds before another time."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        path = folder / f"{name}.safetensors"
        path.write_bytes(b"stands for a checkpoint")
        os.utime(path, ns=((10**9 - age) * 10**9,) * 2)
    return Run(folder)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    run = Run(tmp_path / "book")
    run.folder.mkdir()
    return run


def step(run: Run) -> tuple[int, Path]:
    found = run.restore()
    assert found is not None
    return found[0].state.step, found[1]


@pytest.mark.parametrize(
    ("files", "meant"),
    [
        (("best", "last", "previous"), "best"),
        (("last", "previous"), "last"),
        (("previous",), "previous"),
        (("best",), "best"),
    ],
)
def test_a_run_means_its_best_checkpoint_by_folder_and_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: tuple[str, ...], meant: str
) -> None:
    run = saved(tmp_path / "runs" / "book", *files)
    expected = run.folder / f"{meant}.safetensors"
    assert find_checkpoint(str(run.folder)) == expected
    assert find_checkpoint("book", str(tmp_path / "runs")) == expected
    monkeypatch.chdir(tmp_path)
    saved(tmp_path / "checkpoints" / "book", *files)
    assert find_checkpoint("book") == Path("checkpoints", "book", f"{meant}.safetensors")


def test_a_file_means_itself(tmp_path: Path) -> None:
    run = saved(tmp_path / "book", "best", "last")
    assert find_checkpoint(str(run.last), str(tmp_path)) == run.last


def test_a_folder_of_texts_does_not_hide_the_run_of_the_same_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "book").mkdir()
    saved(tmp_path / "runs" / "book", "last")
    assert find_checkpoint("book", "runs") == Path("runs/book/last.safetensors")
    saved(tmp_path / "book", "last")
    assert find_checkpoint("book", "runs") == Path("book/last.safetensors")


def test_nothing_means_the_run_that_was_written_last(tmp_path: Path) -> None:
    saved(tmp_path / "older", "best", "last", age=100)
    saved(tmp_path / "newer", "last", age=10)
    saved(tmp_path / "mixed", "best", age=200)
    saved(tmp_path / "empty")
    (tmp_path / "a-file").write_text("is no run")
    assert find_checkpoint(None, str(tmp_path)) == tmp_path / "newer" / "last.safetensors"
    saved(tmp_path / "mixed", "last", age=5)
    assert newest_run(tmp_path) == Run(tmp_path / "mixed")
    assert find_checkpoint(None, str(tmp_path)) == tmp_path / "mixed" / "best.safetensors"


@pytest.mark.parametrize(
    "what", ["nowhere", "runs/nowhere", "", "empty", "nul\0name", "x" * 300, "book/best.safetensors/x"]
)
def test_what_leads_nowhere_is_a_missing_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    monkeypatch.chdir(tmp_path)
    saved(tmp_path / "book", "best")
    saved(tmp_path / "runs" / "empty")
    with pytest.raises(CheckpointError, match=r"charlm train CORPUS makes one"):
        find_checkpoint(what, "runs")


def test_without_any_run_there_is_no_newest(tmp_path: Path) -> None:
    saved(tmp_path / "empty")
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(CheckpointError, match="there is no run under"):
            find_checkpoint(None, str(folder))


def test_saving_keeps_the_checkpoint_before_and_the_best_apart(run: Run) -> None:
    assert (run.exists, run.restore(), run.load_best(made().config)) == (False, None, None)
    for number in (1, 2, 3):
        run.save_last(checkpoint(number))
    run.save_best(checkpoint(2))
    assert run.exists
    assert step(run) == (3, run.last)
    best = run.load_best(made().config)
    assert best is not None
    assert best.state.step == 2
    run.last.unlink()
    assert step(run) == (2, run.previous)


def test_a_model_alone_is_nothing_to_go_on_from(run: Run) -> None:
    save_checkpoint(run.last, made(training={"step": 3, "best": None}, tensors={}))
    with pytest.raises(CheckpointError, match="holds only a model"):
        run.restore()
    save_checkpoint(run.previous, checkpoint(2))
    assert step(run) == (2, run.previous)


@pytest.mark.fault(32)
@pytest.mark.parametrize("damage", ["empty", "cut", "flipped", "foreign"])
def test_a_damaged_last_checkpoint_gives_way_to_the_previous_one(run: Run, damage: str) -> None:
    run.save_last(checkpoint(1))
    run.save_last(checkpoint(2))
    whole = run.last.read_bytes()
    torn = {"empty": b"", "cut": whole[:-1], "flipped": whole[:-1] + b"\x01", "foreign": b"PK\3\4" * 99}[damage]
    run.last.write_bytes(torn)
    assert step(run) == (1, run.previous)
    run.previous.write_bytes(torn)
    with pytest.raises(CheckpointError, match=str(run.last)):
        run.restore()
    assert (run.last.read_bytes(), run.previous.read_bytes()) == (torn, torn)


def refused(run: Run) -> None:
    with pytest.raises(ConfigError, match="is being trained by another process"), Run(run.folder).locked():
        pytest.fail("two trainers hold one run")


def test_a_run_is_held_by_one_at_a_time(run: Run) -> None:
    for _ in range(2):
        with run.locked():
            refused(run)
            refused(run)
    with pytest.raises(ZeroDivisionError), run.locked():
        _ = 1 // 0
    with run.locked():
        refused(run)


@contextmanager
def holding(run: Run) -> Iterator[subprocess.Popen[bytes]]:
    """Another process that has locked the run."""
    with subprocess.Popen(
        [sys.executable, "-S", "-c", HOLDER, run.folder / ".lock"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"locked\n"
        try:
            yield process
        finally:
            process.kill()


def test_a_run_that_another_process_holds_is_refused_until_that_dies(run: Run) -> None:
    with holding(run) as process:
        refused(run)
        process.kill()
        process.wait()
        with run.locked():
            pass


def test_a_trainer_that_is_refused_does_not_take_the_lock_of_the_one_at_work_away(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("A text to be trained on. " * 9)
    run = open_run("busy", str(tmp_path))
    with run.locked():
        for _ in range(2):
            with pytest.raises(ConfigError, match="is being trained by another process"):
                charlm.train(
                    tmp_path / "text.txt",
                    name="busy",
                    checkpoints=tmp_path,
                    steps=1,
                    hidden=1,
                    device="cpu",
                    precision="fp32",
                    threads=1,
                )
        refused(run)


def test_a_run_that_cannot_be_written_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    run = open_run("book", str(tmp_path / "file"))
    with pytest.raises(StorageError, match="cannot write in"), run.locked():
        pytest.fail("there is nothing to hold")
    with pytest.raises(StorageError, match=r"cannot write .*metrics\.jsonl"):
        run.append_metrics(ROW)


@pytest.mark.parametrize(
    "name", ["", "-", "-x", "a\nb", "\x1b[31m", ".", "..", "a/b", "/", "../up", "a\\b", "nul\0", "x" * 256, "é" * 200]
)
def test_what_is_no_name_of_a_folder_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="--name must be at most 200 printable characters"):
        open_run(name, str(tmp_path))


@pytest.mark.parametrize("name", ["book", "Der Prozeß", "...", "a-", "*", "日本語", "a.b-c_d", "x" * 200])
def test_other_names_make_one_folder(tmp_path: Path, name: str) -> None:
    run = open_run(name, str(tmp_path))
    assert not run.exists
    with run.locked():
        assert os.listdir(tmp_path) == [name]


@given(st.one_of(st.text(), st.binary(min_size=1).map(os.fsdecode)).filter(lambda name: not {"\0", "/"} & set(name)))
def test_any_file_name_gives_a_run_a_name_that_is_accepted(name: str) -> None:
    assert open_run(default_name(name)).folder.name == default_name(name)
    request = TrainingRequest(corpus=(f"/texts/{name}.txt",))
    assert open_run(request.run.folder.name) == request.run


@given(st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=60))
def test_a_name_that_a_run_may_have_is_left_as_it_is(name: str) -> None:
    assert default_name(name) == name
    assert default_name(f"{name} {name}") == f"{name} {name}"


@pytest.mark.parametrize(
    ("stem", "name"),
    [
        ("10\u202f000", "10 000"),
        ("a\u00a0b", "a b"),
        ("نیم\u200cفاصله", "نیمفاصله"),
        ("-o", "o"),
        ("new\nline", "new line"),
        ("bell\a", "bell_"),
        ("\udce9", "_"),
        ("\u200b", "corpus"),
        ("é" * 200, "é" * 127),
    ],
)
def test_the_default_name_of_a_run_is_the_files_without_what_a_name_may_not_have(stem: str, name: str) -> None:
    assert default_name(stem) == name


def test_metrics_grow_row_by_row_and_are_cut_back(run: Run) -> None:
    assert run.read_metrics() == []
    lengths = [run.append_metrics(replace(ROW, step=number)) for number in range(5)]
    assert lengths == sorted(set(lengths))
    assert run.metrics.stat().st_size == lengths[-1]
    assert run.read_metrics() == [replace(ROW, step=number) for number in range(5)]
    run.cut_rows(Bookkeeping(metrics_length=lengths[2]))
    assert [row.step for row in run.read_metrics()] == [0, 1, 2]
    assert run.append_metrics(replace(ROW, step=3)) == lengths[3]
    assert [row.step for row in run.read_metrics()] == [0, 1, 2, 3]
    run.cut_rows(Bookkeeping())
    assert run.read_metrics() == []


@pytest.mark.parametrize("lost", [1, 10, 60, 10**6])
def test_metrics_that_lost_their_end_are_cut_to_whole_rows(run: Run, lost: int) -> None:
    lengths = [run.append_metrics(replace(ROW, step=number)) for number in range(3)]
    left = max(0, lengths[-1] - lost)
    os.truncate(run.metrics, left)
    run.cut_rows(Bookkeeping(metrics_length=lengths[-1]))
    assert [row.step for row in run.read_metrics()] == [n for n in range(3) if lengths[n] <= left]


def test_samples_grow_and_are_cut_back_beside_the_metrics(run: Run) -> None:
    """Whatever the model writes comes back; each file is cut to its own length."""
    texts = ['a\n"b"\u2028</script>', "\x00\x1b[31m\ud800", "", "漢\U0001f642"]
    rows = [TrainingSample(step=n, seconds=n / 2, text=text) for n, text in enumerate(texts)]
    assert run.read_samples() == []
    lengths = [run.append_sample(row) for row in rows]
    assert run.samples.stat().st_size == lengths[-1]
    assert run.read_samples() == rows
    kept = run.append_metrics(ROW)
    run.cut_rows(Bookkeeping(metrics_length=kept, samples_length=lengths[1]))
    assert (run.read_samples(), run.read_metrics()) == (rows[:2], [ROW])
    with run.samples.open("a") as file:
        file.write('{"step": 3, "half a ro')
    assert run.read_samples() == rows[:2]  # one that is just being written is none yet
    run.cut_rows(Bookkeeping(metrics_length=kept, samples_length=10**6))
    assert run.append_sample(rows[2]) == lengths[2]
    run.samples.write_text('{"step": 1, "text": "a"}\n')
    with pytest.raises(DataError, match=r"samples\.jsonl, line 1: it is no sample"):
        run.read_samples()


def test_metrics_without_a_file_need_no_cut(run: Run) -> None:
    run.cut_rows(Bookkeeping(metrics_length=100, samples_length=9))
    assert os.listdir(run.folder) == []


def test_clearing_removes_what_a_run_left_but_not_its_text(run: Run) -> None:
    own = (run.last, run.previous, run.best, run.metrics, run.samples, run.curves)
    for path in (*own, run.corpus, run.folder / "notes.txt", run.folder / ".lock"):
        path.write_text("something")
    run.clear()
    assert sorted(os.listdir(run.folder)) == [".lock", "corpus.txt", "notes.txt"]


def test_the_best_model_of_another_run_is_refused(run: Run) -> None:
    save_checkpoint(run.best, made())
    with pytest.raises(CheckpointError, match="belongs to another run"):
        run.load_best(Config())


def test_a_file_that_cannot_be_read_gives_way_to_the_previous_one(run: Run) -> None:
    run.save_last(checkpoint(1))
    run.save_last(checkpoint(2))
    run.last.unlink()
    run.last.mkdir()
    assert step(run) == (1, run.previous)


def test_the_present_checkpoint_may_be_kept_from_becoming_the_previous_one(run: Run) -> None:
    for number, keep in ((1, True), (2, True), (3, False)):
        run.save_last(checkpoint(number), keep=keep)
    assert step(run) == (3, run.last)
    run.last.unlink()
    assert step(run) == (1, run.previous)


def test_an_empty_run_is_taken_back_but_not_what_others_put_there(run: Run) -> None:
    with run.locked():
        pass
    (run.folder / "notes.txt").write_text("mine")
    remove_empty(run)
    assert (run.folder / "notes.txt").read_text() == "mine"
    (run.folder / "notes.txt").unlink()
    remove_empty(run)
    assert not run.folder.exists()
    remove_empty(run)


@pytest.mark.parametrize("name", ["last", "previous", "best"])
def test_a_run_that_has_saved_anything_is_not_empty(tmp_path: Path, name: str) -> None:
    run = saved(tmp_path / "book", name)
    remove_empty(run)
    assert os.listdir(run.folder) == [f"{name}.safetensors"]
