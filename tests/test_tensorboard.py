"""`--log tensorboard`: read back record by record, the event files say what metrics.jsonl says, and never end a run."""

from __future__ import annotations

import errno
import json
import math
import struct
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from oracles import synthetic_text

import charlm
from charlm.cli.main import run as cli
from charlm.report import tensorboard
from charlm.report.tensorboard import EventLog
from charlm.storage import durable
from charlm.storage.checkpoint import load_checkpoint
from charlm.storage.records import Metrics
from charlm.storage.runs import Run
from charlm.training import samples
from charlm.training.events import Event, Recorded, Remark, Resumed, RolledBack, Sampled, Saved, Stepped

events_pb = pytest.importorskip("tensorboardX.proto.event_pb2")

SMALL: dict[str, Any] = {"hidden": 8, "layers": 1, "batch": 4, "bptt": 16, "device": "cpu", "threads": 1}
SMALL |= {"precision": "fp32", "progress": False, "patience": 0, "checkpoint_every": 20}
TAGS = {
    "train/loss": "train_loss",
    "validation/loss": "val_loss",
    "train/learning_rate": "lr",
    "train/gradient_norm": "grad_norm",
    "train/characters_per_second": "characters_per_second",
}
Scalars = dict[str, dict[int, float]]


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "book.txt").write_text(synthetic_text(9000, seed=3))
    return "book.txt"


# a reader of the format, by hand


def checksum(data: bytes) -> int:
    """CRC-32C bit by bit (RFC 3720, reflected polynomial 0x82F63B78), masked as in TFRecord files."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17 & 0xFFFFFFFF) + 0xA282EAD8) & 0xFFFFFFFF


def records(data: bytes) -> Iterator[bytes]:
    """The data of the records of a file; every length and every checksum is right."""
    while data:
        length, check = struct.unpack("<QI", data[:12])
        assert check == checksum(data[:8])
        content, check = data[12 : 12 + length], struct.unpack("<I", data[12 + length : 16 + length])[0]
        assert check == checksum(content)
        yield content
        data = data[16 + length :]


def logged(run: Run) -> list[Any]:
    """All events of a run, in the order in which TensorBoard reads them; each file begins with its version."""
    found = []
    for path in run.event_files:
        own = [events_pb.Event.FromString(record) for record in records(path.read_bytes())]
        assert own[0].file_version == "brain.Event:2"
        found += own[1:]
    return found


def shown(run: Run) -> tuple[Scalars, dict[int, str]]:
    """The scalars and texts that TensorBoard shows: a start discards what came before with its step or a later one."""
    scalars: Scalars = {}
    texts: dict[int, str] = {}
    for event in logged(run):
        if event.session_log.status == events_pb.SessionLog.START:
            for series in scalars.values():
                discard(series, event.step)
            discard(texts, event.step)
        for value in event.summary.value:
            if value.metadata.plugin_data.plugin_name == "text":
                texts[event.step] = value.tensor.string_val[0].decode()
            else:
                series = scalars.setdefault(value.tag, {})
                assert event.step not in series, "logged twice"
                series[event.step] = value.simple_value
    return scalars, texts


def discard(series: dict[int, Any], since: int) -> None:
    for step in [step for step in series if step >= since]:
        del series[step]


def in_metrics(run: Run) -> Scalars:
    """The same by metrics.jsonl, in the single precision that TensorBoard has."""
    rows = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    found = {
        tag: {row["step"]: single(row[name]) for row in rows if row[name] is not None} for tag, name in TAGS.items()
    }
    return {tag: series for tag, series in found.items() if series}


def single(value: float) -> float:
    return float(struct.unpack("<f", struct.pack("<f", value))[0])


def test_the_checksum_of_this_reader_is_the_standards() -> None:
    """CRC-32C of "123456789" is 0xE3069283."""
    unmasked = (checksum(b"123456789") - 0xA282EAD8) & 0xFFFFFFFF
    assert (unmasked << 15 | unmasked >> 17) & 0xFFFFFFFF == 0xE3069283


# runs


def train(corpus: str, **more: Any) -> Any:
    return charlm.train(corpus, name="book", **{**SMALL, "steps": 60, "log": "tensorboard", **more})


def test_the_event_file_has_the_rows_of_metrics(corpus: str) -> None:
    trained = train(corpus)
    (path,) = trained.run.event_files
    assert path.name.startswith("events.out.tfevents.")
    assert shown(trained.run)[0] == in_metrics(trained.run)
    assert set(TAGS) == shown(trained.run)[0].keys()
    times = [event.wall_time for event in logged(trained.run)]
    assert times == sorted(times)


def test_the_log_is_no_part_of_the_run(corpus: str) -> None:
    logged_run, plain = train(corpus), train(corpus, log="none", force=True)
    assert plain.run.event_files == []  # which --force has removed
    assert "log" not in plain.config.flat()
    again = train(corpus, force=True)
    states = {load_checkpoint(one.run.last).state_sha256 for one in (plain, again, logged_run)}
    assert len(states) == 1


class Killed(BaseException):
    """Ends a process in the tests' place."""


def killed_at(step: int) -> Callable[[Event], None]:
    def on_event(event: Event) -> None:
        if isinstance(event, Stepped) and event.step == step:
            raise Killed

    return on_event


def test_a_resumed_run_is_logged_once(corpus: str) -> None:
    """Killed at step 55 it goes on from step 40; the rows of the steps between are replaced."""
    with pytest.raises(Killed):
        train(corpus, steps=90, on_event=killed_at(55))
    run = Run(Path("checkpoints/book"))
    before = run.event_files[0].read_bytes()
    assert max(in_metrics(run)["train/loss"]) > 40
    train(corpus, steps=90, resume=True)
    assert run.event_files[0].read_bytes() == before
    assert len(run.event_files) == 2
    assert shown(run)[0] == in_metrics(run)
    starts = [event.step for event in logged(run) if event.HasField("session_log")]
    assert starts == [41]


def test_a_log_that_is_first_wanted_on_resume_has_all_rows(corpus: str) -> None:
    left = iter(range(33))
    stopped = train(corpus, log="none", stop=lambda: None if next(left, None) is not None else "enough")
    assert stopped.run.event_files == []
    resumed = train(corpus, resume=True)
    assert shown(resumed.run)[0] == in_metrics(resumed.run)
    times = {event.step: event.wall_time for event in logged(resumed.run)}
    seconds = {row.step: row.seconds for row in resumed.run.read_metrics()}
    assert times[30] - times[10] == pytest.approx(seconds[30] - seconds[10], abs=0.01)


def test_a_finished_run_can_still_be_logged(corpus: str) -> None:
    finished = train(corpus, log="none")
    for _ in range(2):  # the second time there is nothing left to do
        train(corpus, resume=True)
        assert len(finished.run.event_files) == 1
        assert shown(finished.run)[0] == in_metrics(finished.run)


def test_samples_are_texts_that_markdown_leaves_alone(corpus: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "EVERY", 0.0)
    said: list[Sampled] = []
    trained = train(corpus, steps=3, on_event=lambda event: said.append(event) if isinstance(event, Sampled) else None)
    texts = shown(trained.run)[1]
    assert len(texts) == len(said) == 3
    for event in said:
        assert texts[event.step] == "\n".join(f"    {line}" for line in event.text.split("\n"))


# events, by hand


def row(step: int, **more: Any) -> Recorded:
    made = Metrics(
        step=step,
        characters_seen=64 * step,
        train_loss=1 + 1 / step,
        seconds=float(step),
        characters_per_second=64,
        val_loss=None,
        grad_norm=0.5,
        lr=0.01,
    )
    return Recorded(row=replace(made, **more))


@pytest.fixture
def run(tmp_path: Path) -> Run:
    (tmp_path / "book").mkdir()
    return Run(tmp_path / "book")


def test_after_a_rollback_the_rows_of_the_steps_that_diverged_are_gone(run: Run) -> None:
    log = EventLog(run, lambda _: None)
    for event in (row(10), row(20), row(30), RolledBack(step=15), row(20, train_loss=9.0), row(25)):
        log(event)
    assert shown(run)[0]["train/loss"] == {10: single(1.1), 20: 9.0, 25: single(1.04)}
    assert len(run.event_files) == 1


def test_what_is_not_finite_is_left_out(run: Run) -> None:
    EventLog(run, lambda _: None)(row(10, val_loss=math.inf, grad_norm=None))
    assert shown(run)[0].keys() == {"train/loss", "train/learning_rate", "train/characters_per_second"}


def test_commands_to_a_terminal_and_half_characters_are_texts_like_others(run: Run) -> None:
    EventLog(run, lambda _: None)(Sampled(step=1, text="a\x1b[31m\udcffb"))
    assert shown(run)[1][1].startswith("    a␛[31m")


def test_names_of_files_are_in_order_also_within_a_second(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time", lambda: 1.5e9)
    for step in (10, 20, 30):
        log = EventLog(run, lambda _: None)
        if step > 10:
            log(Resumed(step=step - 10, path=run.last, exact=True))
        log(row(step))
    assert len(run.event_files) == 3
    assert list(shown(run)[0]["train/loss"]) == [10, 20, 30]


# what goes wrong


def test_a_failure_is_one_remark_and_training_goes_on(corpus: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = durable.append, iter(range(100))

    def full(path: Path, data: bytes) -> int:
        if next(calls) >= 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(path, data)

    said: list[Event] = []
    plain = train(corpus, log="none")
    monkeypatch.setattr(tensorboard, "append", full)
    trained = train(corpus, force=True, on_event=said.append)
    remarks = [event.text for event in said if isinstance(event, Remark) and "TensorBoard" in event.text]
    assert remarks == ["TensorBoard's events cannot be written, training goes on: No space left on device"]
    assert trained.result.val_loss == plain.result.val_loss
    assert next(calls) == 3
    assert [event.step for event in logged(trained.run)] == [1, 10]


def test_the_other_files_of_a_run_come_first(corpus: str) -> None:
    """Its log is told of a row after it is in metrics.jsonl, and after the first checkpoint."""
    order: list[str] = []

    def on_event(event: Event) -> None:
        if isinstance(event, (Saved, Recorded)):
            order.append(type(event).__name__)
            run = Run(Path("checkpoints/book"))
            assert isinstance(event, Saved) or run.read_metrics()[-1] == event.row

    train(corpus, steps=3, on_event=on_event)
    assert order[:2] == ["Saved", "Recorded"]


def test_without_the_library_one_line_says_so_before_anything_is_done(
    corpus: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in sys.modules if name.startswith("tensorboardX")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    assert cli(["train", corpus, "--log", "tensorboard", "--steps", "2"]) == 1
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith("charlm: --log tensorboard needs tensorboardX")
    assert err.endswith("nothing was changed; pip install 'charlm-cli[tensorboard]'\n")
    assert not Path("checkpoints").exists()


def test_the_command_line_resumes_with_and_without_it(corpus: str, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--hidden", "8", "--layers", "1", "--threads", "1", "--precision", "fp32", "--steps", "12", "-q"]
    assert cli(["train", corpus, *options]) == 0
    run = Run(Path("checkpoints/book"))
    assert run.event_files == []
    assert cli(["train", "--resume", "--name", "book", "--log", "tensorboard", "-q"]) == 0
    assert shown(run)[0] == in_metrics(run)
    assert cli(["train", "--resume", "--name", "book", "--log", "none", "-q"]) == 0
    Path("run.toml").write_text('log = "paper"\n')
    assert cli(["train", corpus, "--config", "run.toml", "--force"]) == 2
    assert "--log must be one of none, tensorboard, not 'paper'" in capsys.readouterr().err


def test_tensorboard_itself_reads_the_file(corpus: str) -> None:
    loader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    trained = train(corpus)
    read = loader.EventAccumulator(str(trained.run.folder))
    read.Reload()
    losses = {event.step: event.value for event in read.Scalars("train/loss")}
    assert losses == in_metrics(trained.run)["train/loss"]
