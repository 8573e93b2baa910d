"""Where results go, and the checks of outputs that come before any work.

Results go to standard output or to files, everything else to standard error. A file is written whole or not at all.
Data may go to standard output, too, named - or /dev/stdout; all words then go to standard error.
"""

from __future__ import annotations

import json
import os
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile, gettempdir
from typing import TYPE_CHECKING, Any, Final

from charlm.cli import signals, streams
from charlm.errors import CharlmError, ConfigError, StorageError

if TYPE_CHECKING:
    from charlm.config import ModelConfig
    from charlm.report.console import Console

STDOUT: Final = "-"
_KEPT: Final = "nothing was written"
_PICTURES: Final = (".png", ".svg")
_SIGNATURES: Final = (b"\x89PNG\r\n", b"%PDF-")
_BEGINNING: Final = 1024  # bytes in which an SVG says what it is


@dataclass(frozen=True, slots=True)
class Screen:
    """Where a command writes: results to `out`, everything else to `err`.

    Where standard output takes `data`, `out` is standard error.
    """

    quiet: bool
    color: bool
    data: bool = False

    def beside(self, outputs: Sequence[str]) -> Screen:
        """The screen of a command that writes data to these outputs: no word is mixed into them."""
        data = any(map(is_stdout, outputs))
        silent = any(is_stream(path, 2) for path in outputs) or (data and _one_file(1, 2))
        return replace(self, data=data, quiet=self.quiet or silent)

    @property
    def out(self) -> Console:
        from charlm.report.console import console

        return console(sys.stderr if self.data else sys.stdout, color=self.color)

    @property
    def err(self) -> Console:
        from charlm.report.console import console

        return console(sys.stderr, color=self.color)

    def note(self, text: str) -> None:
        """One line on standard error, unless --quiet."""
        from charlm.report.words import one_line

        if not self.quiet:
            print(one_line(text), file=sys.stderr)  # noqa: T201

    def note_model(self, what: str | None, path: Path) -> None:
        """Name the checkpoint that is used where the user did not: the newest run, or a commit on the Hub."""
        from charlm.storage.hub import origin

        if what is None:
            self.note(f"using the newest run: {path}")
        elif found := origin(path):
            self.note(f"using {found}")

    def note_engine(self, engine: str, model: ModelConfig) -> None:
        """Say why a model is computed with NumPy where its engine is chosen automatically, and that this is slower."""
        from charlm.generation.engine import why_slower

        if engine == "auto" and (why := why_slower(model)):
            self.note(f"{why}: using NumPy, which is slower")

    def print(self, text: str) -> None:
        """Plain text on standard output, unless data go there."""
        if self.data:
            self.note(text)
        else:
            print(text)  # noqa: T201

    def json(self, command: str, **content: Any) -> None:
        """The one JSON object of a command that reports."""
        self.print(json.dumps({"schema": f"charlm.{command}/1", **content}, allow_nan=False))

    def write_file(self, name: str, data: bytes) -> None:
        """Write a file whole or not at all; a pipe, a device, standard output as they are. Raises StorageError."""
        from charlm.storage.durable import write_durably

        path = Path(name)
        if is_stdout(name):
            _to_stdout(data)
        elif path.exists() and not path.is_file():
            try:
                path.write_bytes(data)
            except OSError as error:
                raise _unwritable(name, error) from error
        else:
            with signals.held():
                write_durably(Path(os.path.realpath(name)), data)
        self._note_written(name, len(data))

    @contextmanager
    def writing(self, name: str, *, whole: bool = False) -> Iterator[Callable[[bytes], None]]:
        """A function that writes to a file piece by piece; as `write_file` does, the file is there when all is done.

        A pipe or a device gets each piece at once, or nothing before all is done where only the `whole` is of use.
        """

        size = 0

        def write(data: bytes) -> None:
            nonlocal size
            size += len(data)
            put(data)

        with ExitStack() as stack:
            put: Callable[[bytes], object]
            stream = is_stdout(name) or (Path(name).exists() and not Path(name).is_file())
            if not stream:
                put = stack.enter_context(_replacing(Path(os.path.realpath(name))))
            else:
                put = _to_stdout if is_stdout(name) else stack.enter_context(_device(name))
                put = stack.enter_context(_kept_back(put)) if whole else put
            yield write
        self._note_written(name, size)

    def draw(self, path: Path, picture: Callable[[], bytes]) -> bool:
        """Draw a picture into a folder of runs, which are worth more than it: returns whether that could be done."""
        from charlm.storage.durable import write_durably

        try:
            drawn = picture()
            with signals.held():
                write_durably(path, drawn)
        except (CharlmError, OSError) as error:
            self.note(f"{path.name} was not drawn: {error}")
            return False
        return True

    def _note_written(self, name: str, size: int) -> None:
        where = f"{size:,} bytes to standard output" if is_stdout(name) else f"{name}, {size:,} bytes"
        self.note(f"wrote {where}")


def _to_stdout(data: bytes) -> None:
    streams.write_data(_for_people(data) if sys.stdout.isatty() else data)


@contextmanager
def _replacing(path: Path) -> Iterator[Callable[[bytes], None]]:
    """`charlm.storage.durable.writing`; a signal that ends the process leaves nothing behind."""
    from charlm.storage.durable import temporary_name, writing

    with signals.cleaned_up(partial(temporary_name(path).unlink, missing_ok=True)), writing(path) as write:
        yield write


@contextmanager
def _kept_back(put: Callable[[bytes], object]) -> Iterator[Callable[[bytes], None]]:
    """A function that keeps pieces on the disk, under no name; all of them go to `put` when the block is done."""
    sizes = list[int]()
    with TemporaryFile() as file:

        def keep(data: bytes) -> None:
            with _reported():
                file.write(data)
            sizes.append(len(data))

        yield keep
        with _reported():
            file.seek(0)
        for size in sizes:
            put(file.read(size))


@contextmanager
def _reported() -> Iterator[None]:
    """Say that there is no room for what is kept back."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"cannot write a temporary file in {gettempdir()}: {error.strerror}", kept=_KEPT, hint="free space there"
        ) from error


@contextmanager
def _device(name: str) -> Iterator[Callable[[bytes], None]]:
    """A function that writes to a pipe or a device."""
    try:
        file = open(name, "wb", buffering=0)  # noqa: SIM115 - closed below
    except OSError as error:
        raise _unwritable(name, error) from error

    def write(data: bytes) -> None:
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[file.write(rest) :]
        except OSError as error:
            raise _unwritable(name, error) from error

    with file:
        yield write


def _unwritable(name: str, error: OSError) -> StorageError:
    return StorageError(f"cannot write {name}: {error.strerror}", hint="choose another name")


def _for_people(data: bytes) -> bytes:
    """A text on a terminal: control characters are shown; other data are left as they are."""
    from charlm.report.words import visible

    with suppress(UnicodeDecodeError):
        return visible(data.decode()).encode(errors="replace")
    return data


def is_stdout(path: str) -> bool:
    """Whether an output of this name is standard output: -, /dev/stdout, or the file that it is redirected to."""
    return path == STDOUT or is_stream(path, 1)


def is_stream(path: str, descriptor: int) -> bool:
    """Whether the path leads to what is open as this descriptor; what goes to /dev/null cannot be mixed up."""
    try:
        place = os.stat(path)
        return os.path.samestat(place, os.fstat(descriptor)) and not os.path.samestat(place, os.stat(os.devnull))
    except (OSError, ValueError):
        return False


def _one_file(descriptor: int, other: int) -> bool:
    """Whether both lead to one file or pipe; not where that is a terminal, which nobody reads data from."""
    with suppress(OSError):
        return os.path.samestat(os.fstat(descriptor), os.fstat(other)) and not os.isatty(other)
    return False


def check_outputs(
    outputs: Sequence[str],
    inputs: Sequence[str | Path] = (),
    *,
    as_json: bool = False,
    options: Sequence[str] = ("--output",),
) -> None:
    """Refuse, before anything is computed, outputs that could not be written or would destroy an input.

    Raises ConfigError where two outputs are one file, two go to standard output (with `as_json` the JSON does), or an
    output is an input, StorageError where there is no folder to write in. Paths are compared as files: links are
    followed. Standard input (-) is no file. `options` are those that named the outputs.
    """
    named = [f"{option} {path}" for option, path in zip(options, outputs, strict=False) if is_stdout(path)]
    _check_stdout(["--json"] * as_json + named, inputs)
    outputs = [path for path in outputs if not is_stdout(path)]
    places = [os.path.realpath(path) for path in outputs]
    if len(set(places)) < len(places):
        raise ConfigError(f"two outputs have the same name: {', '.join(outputs)}", kept=_KEPT)
    read = {os.path.realpath(path) for path in inputs if path != STDOUT}
    for path, place in zip(outputs, places, strict=True):
        if place in read:
            raise ConfigError(f"{path} is an input and an output", kept=_KEPT, hint="choose another name")
        if not os.path.isdir(os.path.dirname(place)):
            raise StorageError(f"cannot write {path}: no such folder", kept=_KEPT, hint="make it, or choose another")
        if os.path.isdir(place):
            raise StorageError(f"cannot write {path}: it is a folder", kept=_KEPT, hint="name a file in it")


def _check_stdout(there: Sequence[str], inputs: Sequence[str | Path]) -> None:
    """Refuse what cannot all go to standard output, or would overwrite there what is read."""
    if len(there) > 1:
        raise ConfigError(
            f"two outputs go to standard output: {', '.join(there)}", kept=_KEPT, hint="give one of them a file"
        )
    if there and stat.S_ISREG(os.fstat(1).st_mode):
        for path in inputs:
            if path != STDOUT and is_stream(str(path), 1):
                raise ConfigError(f"{path} is an input and an output", kept=_KEPT, hint="choose another name")


def check_terminal(output: str, what: str) -> None:
    """Refuse to print bytes that are no text on a terminal; `what` they are stands at the beginning of the error."""
    if is_stdout(output) and sys.stdout.isatty():
        raise ConfigError(f"{what} cannot be shown on a terminal", kept=_KEPT, hint="name a file, or redirect it")


def picture_kind(path: str) -> str:
    """The format of a picture: that of its name, png on standard output."""
    return Path(path).suffix.lower().removeprefix(".") or "png"


def check_picture(option: str, path: str, kinds: Sequence[str] = _PICTURES) -> None:
    """Refuse a picture that could not be drawn: another format, or no matplotlib."""
    if Path(path).suffix.lower() not in kinds and not (is_stdout(path) and not Path(path).suffix):
        raise ConfigError(f"{option} must end in {_either(kinds)}, not {path}", kept=_KEPT)
    check_terminal(path, "a picture")
    from charlm.report import picture

    if not picture.available():
        raise CharlmError(f"cannot draw {path}: matplotlib is not installed", kept=_KEPT, hint="pip install matplotlib")


def _either(words: Sequence[str]) -> str:
    """
    >>> _either((".png", ".svg")), _either((".png", ".svg", ".pdf"))
    ('.png or .svg', '.png, .svg or .pdf')
    """
    return " or ".join([", ".join(words[:-1]), words[-1]])


def beside_picture(
    screen: Screen,
    output: str | None,
    texts: Sequence[str] = (),
    *,
    kinds: Sequence[str] = _PICTURES,
    as_json: bool,
) -> Screen:
    """Refuse a picture for --output that could not be written; returns the screen of what is shown beside it."""
    outputs = [] if output is None else [output]
    check_outputs(outputs, texts, as_json=as_json)
    if output is not None:
        check_picture("--output", output, kinds)
        check_replaced_picture(output)
    return screen.beside(outputs)


def check_replaced_picture(path: str) -> None:
    """Refuse to replace a file that is no picture, whatever its name says; an empty one may be replaced."""
    if is_stdout(path) or not os.path.isfile(path):
        return
    try:
        with open(path, "rb") as file:
            begin = file.read(_BEGINNING)
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}", kept=_KEPT, hint="choose another name") from error
    if begin and not begin.startswith(_SIGNATURES) and b"<svg" not in begin:
        raise ConfigError(f"{path} exists and is not a picture", kept=_KEPT, hint="choose another name, or remove it")
