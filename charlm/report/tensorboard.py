"""What `--log tensorboard` writes: the rows of metrics.jsonl and the samples of a run, as TensorBoard reads them.

An event file is a sequence of records: the length of the data and its checksum, the data, their checksum (CRC-32C,
masked). The data are an event as a protocol buffer, whose classes tensorboardX has (an extra, `tensorboard`). Its own
writer is not used: it writes in a thread, which ends at the first error and then holds the training up.

metrics.jsonl stays the record of the run. A failure here is a remark, and training goes on without the log.
"""

from __future__ import annotations

import math
import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from charlm.errors import CharlmError
from charlm.report.words import one_line, visible
from charlm.storage.durable import append
from charlm.storage.records import Metrics
from charlm.storage.runs import EVENTS, Run
from charlm.training.events import Emit, Event, Recorded, Remark, Resumed, RolledBack, Sampled

_VERSION: Final = "brain.Event:2"  # of the format: the first event of every file
_MASK: Final = 0xA282EAD8
_SAMPLE: Final = "sample"


@contextmanager
def logged(log: str, run: Run, emit: Emit) -> Iterator[Emit]:
    """What a run's events are handed to while this lasts: `emit`, and the log that is wanted, if any.

    Raises CharlmError, before anything is trained, where the library for it is not installed.
    """
    if log == "none":
        yield emit
        return
    events = EventLog(run, emit)

    def both(event: Event) -> None:
        emit(event)
        events(event)

    yield both
    events.complete()


class EventLog:
    """Writes the event file of one run; it is handed the events of training, while the run is locked."""

    def __init__(self, run: Run, emit: Emit) -> None:
        self._run, self._emit = run, emit
        self._file: Path | None = None
        self._failed = False
        self._encode = _Encoder()

    def __call__(self, event: Event) -> None:
        if self._failed:
            return
        with self._harmless():
            match event:
                case Resumed():
                    self._begin(event.step)
                case RolledBack():
                    self._write([self._encode.restart(event.step)])
                case Recorded():
                    self._write([self._encode.row(event.row)])
                case Sampled():
                    self._write([self._encode.sample(event.step, event.text)])
                case _:
                    pass

    def complete(self) -> None:
        """After training: the rows of a run that had finished before, if nothing has been written of it."""
        if not self._failed and self._file is None and not self._run.event_files:
            with self._harmless(), self._run.locked():
                self._begin(0)

    @contextmanager
    def _harmless(self) -> Iterator[None]:
        """Whatever goes wrong is said once; nothing more is written then."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - a run is worth more than its log
            self._failed = True
            reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
            self._emit(Remark(text=f"TensorBoard's events cannot be written, training goes on: {one_line(reason)}"))

    def _begin(self, step: int) -> None:
        """Begin a file: what it gets replaces all after `step`; the first one gets all rows that there are."""
        if self._run.event_files:
            self._write([self._encode.restart(step)])
            return
        rows = self._run.read_metrics()
        begun = self._run.metrics.stat().st_mtime - rows[-1].seconds if rows else 0.0
        self._write([self._encode.row(row, begun + row.seconds) for row in rows])

    def _write(self, records: Sequence[bytes]) -> None:
        """Add records to the file, which is made at the first."""
        if self._file is None:
            number = len(self._run.event_files)  # files are read in the order of their names
            self._file = self._run.folder / f"{EVENTS}.{int(time.time()):010}.charlm.{number:03}"
            records = [self._encode.version(), *records]
        append(self._file, b"".join(records))


class _Encoder:
    """Events as records of a file; raises CharlmError where tensorboardX is not installed."""

    def __init__(self) -> None:
        try:
            from tensorboardX.crc32c import crc32c
            from tensorboardX.proto import event_pb2, summary_pb2, tensor_pb2, tensor_shape_pb2
        except ImportError as error:
            raise CharlmError(
                f"--log tensorboard needs tensorboardX, which cannot be imported ({one_line(str(error))})",
                kept="nothing was changed",
                hint="pip install 'charlm-cli[tensorboard]'",
            ) from error
        self._crc32c, self._events, self._summaries = crc32c, event_pb2, summary_pb2
        self._tensors, self._shapes = tensor_pb2, tensor_shape_pb2

    def version(self) -> bytes:
        return self._record(file_version=_VERSION)

    def restart(self, step: int) -> bytes:
        """What was logged after this step is no longer true."""
        log = self._events.SessionLog(status=self._events.SessionLog.START)
        return self._record(step=step + 1, session_log=log)

    def row(self, row: Metrics, at: float | None = None) -> bytes:
        """The figures of a row, each under its tag."""
        values = [self._summaries.Summary.Value(tag=tag, simple_value=value) for tag, value in scalars(row).items()]
        return self._record(at, step=row.step, summary=self._summaries.Summary(value=values))

    def sample(self, step: int, text: str) -> bytes:
        """A text, indented: TensorBoard shows Markdown, and this leaves it as it is."""
        lines = "\n".join(f"    {line}" for line in visible(text).split("\n"))
        tensor = self._tensors.TensorProto(
            dtype="DT_STRING",
            string_val=[lines.encode(errors="replace")],
            tensor_shape=self._shapes.TensorShapeProto(dim=[self._shapes.TensorShapeProto.Dim(size=1)]),
        )
        plugin = self._summaries.SummaryMetadata.PluginData(plugin_name="text")
        metadata = self._summaries.SummaryMetadata(plugin_data=plugin)
        value = self._summaries.Summary.Value(tag=_SAMPLE, metadata=metadata, tensor=tensor)
        return self._record(step=step, summary=self._summaries.Summary(value=[value]))

    def _record(self, at: float | None = None, **content: Any) -> bytes:
        """An event, framed; `at` is when it was, in seconds since 1970, if not now."""
        event = self._events.Event(wall_time=time.time() if at is None else at, **content)
        data: bytes = event.SerializeToString()
        length = struct.pack("<Q", len(data))
        return length + self._checksum(length) + data + self._checksum(data)

    def _checksum(self, data: bytes) -> bytes:
        crc: int = self._crc32c(data)
        return struct.pack("<I", ((crc >> 15 | crc << 17) + _MASK) & 0xFFFFFFFF)


def scalars(row: Metrics) -> Mapping[str, float]:
    """The figures of a row that TensorBoard plots against the step, by tag; losses in nats per character."""
    found = {
        "train/loss": row.train_loss,
        "validation/loss": row.val_loss,
        "train/learning_rate": row.lr,
        "train/gradient_norm": row.grad_norm,
        "train/characters_per_second": row.characters_per_second,
    }
    return {tag: value for tag, value in found.items() if value is not None and math.isfinite(value)}
