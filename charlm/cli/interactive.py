"""charlm sample --interactive: a prompt at which a person and the model write a text in turns.

Prompts, remarks and errors go to standard error, continuations and what `:text` prints to standard output. On a
terminal lines are edited with the system's readline, and those entered are kept for the next time: the newest of them,
in the cache folder, for their owner alone. In a pipe the first error ends the command; at a terminal nothing is lost by
one.
"""

from __future__ import annotations

import io
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from difflib import get_close_matches
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Final, NamedTuple

from charlm.cli import signals, streams
from charlm.cli.outputs import Screen, check_outputs, is_stdout
from charlm.config import SAMPLE_OPTIONS, SampleConfig
from charlm.errors import INTERRUPTED, CharlmError, ConfigError, DataError, StoppedError
from charlm.options import UNTOUCHED, Value, check, parse
from charlm.report.words import one_line, visible
from charlm.runtime import cache

if TYPE_CHECKING:
    from charlm.language_model import LanguageModel

_PROMPT: Final = "> "
_MORE: Final = "... "  # where a line goes on in the next one
_HISTORY: Final = "history"  # the name of its file
_KEPT: Final = 1000  # lines of it
_LONGEST: Final = 1000  # characters of one that is kept
_LARGEST: Final = 2**23  # bytes of a file that is read
_SHOWN: Final = 60  # characters of the text that are shown again after :undo
_SETTINGS: Final = ("temperature", "top_k", "top_p", "min_p", "length", "seed")


def check_interactive(refused: Mapping[str, bool]) -> None:
    """Refuse, before anything is read, those of these options that were given; raises ConfigError."""
    for option, given in refused.items():
        if given:
            raise ConfigError(
                f"{option} and --interactive cannot be combined", kept=UNTOUCHED, hint="leave out one of them"
            )


def converse(
    screen: Screen, model: LanguageModel, config: SampleConfig, *, prime: str, stop: str, echo: bool, raw: bool
) -> None:
    """Answer lines until they end; a prime is the first of them, and on a terminal it is shown with `echo`."""
    session = _Session(screen, model, config, stop, raw=raw)
    if not sys.stdin.isatty():
        session.run(_Pipe(screen), prime)
        return
    screen.note("enter a text to continue, or an empty line to go on; :help lists commands, Ctrl-D ends")
    if echo and sys.stdout.isatty():
        session.show(prime)
    with _keyboard() as keyboard:
        session.run(keyboard, prime)


class _Pipe:
    """Lines of a standard input that is no terminal: UTF-8, whatever the locale."""

    forgiving = False  # a script must not go on after an error

    def __init__(self, screen: Screen) -> None:
        self._prompts, self._number = not screen.quiet, 0

    def line(self, prompt: str) -> str | None:
        """The next line without its end; None at the end of the input. Raises DataError."""
        self._write(prompt)
        data = sys.stdin.buffer.readline()
        if not data:
            self._write("\n")
            return None
        self._number += 1
        text = _decoded(data, f"line {self._number} of standard input")
        return re.sub(r"\r?\n\Z", "", text.removeprefix("\ufeff") if self._number == 1 else text)

    def _write(self, text: str) -> None:
        if self._prompts:
            print(text, end="", file=sys.stderr, flush=True)  # noqa: T201

    def stopped(self) -> bool:
        """Whether the continuation is to be stopped: here Ctrl-C ends the command."""
        return False


def _decoded(data: bytes, name: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise DataError(
            f"{name} is not UTF-8: byte {data[error.start]:02X} at offset {error.start}", kept="it was not read"
        ) from error


class _Keyboard:
    """Lines of a terminal, edited with readline where there is one. Ctrl-C raises KeyboardInterrupt in `line` alone."""

    forgiving = True

    def __init__(self) -> None:
        self._asking = self._interrupted = False
        self.edited = sys.stdout.isatty()  # otherwise Python's input() would write the prompt there all the same
        self.entered: list[str] = []

    def answer(self) -> bool:
        """Answer Ctrl-C. One that has not yet been heeded is followed by the end of the command."""
        if self._asking:
            self._asking = False
            raise KeyboardInterrupt
        before, self._interrupted = self._interrupted, True
        return not before

    def stopped(self) -> bool:
        """Whether the continuation is to be stopped."""
        return self._interrupted

    def line(self, prompt: str) -> str | None:
        """The next line; None at the end of the input. Raises KeyboardInterrupt, and DataError if it is not UTF-8."""
        self._interrupted, self._asking = False, True
        try:
            text = self._input(prompt)
        except EOFError:
            print(file=sys.stderr)  # noqa: T201
            return None
        finally:
            self._asking = False
        if any("\ud800" <= character <= "\udfff" for character in text):
            text = _decoded(text.encode(sys.stdin.encoding, "surrogateescape"), "the line")
        self.entered += [text] * (text.strip() != "")
        return text

    def _input(self, prompt: str) -> str:
        if self.edited:
            return input(prompt)
        print(prompt, end="", file=sys.stderr, flush=True)  # noqa: T201
        return input()


@contextmanager
def _keyboard() -> Iterator[_Keyboard]:
    """A keyboard whose history is read first and written at the end; the terminal is put right however it ends."""
    keyboard = _Keyboard()
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")  # what cannot be read is no reason to end
    with _terminal_kept(), _history(keyboard.entered, wanted=keyboard.edited), signals.answered(keyboard.answer):
        yield keyboard


@contextmanager
def _terminal_kept() -> Iterator[None]:
    """Readline changes the terminal while it waits for a line; a signal that ends the process then changes it back."""
    try:
        termios = import_module("termios")
    except ImportError:
        yield
        return
    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    with signals.cleaned_up(lambda: termios.tcsetattr(terminal, termios.TCSANOW, before)):
        yield


@contextmanager
def _history(entered: list[str], *, wanted: bool) -> Iterator[None]:
    """Offer the lines of earlier sessions, and keep those that are `entered` meanwhile; without readline nothing."""
    try:
        readline = import_module("readline") if wanted else None
    except ImportError:
        readline = None
    if readline is None:
        yield
        return
    for line in recall_history():
        with suppress(ValueError):  # what the locale cannot spell
            readline.add_history(line)
    keep = partial(keep_history, entered)
    try:
        with signals.cleaned_up(keep):
            yield
    finally:
        keep()


def recall_history() -> list[str]:
    """The lines that are kept, the oldest first; none where they cannot be read."""
    folder = cache.cache_folder()
    try:
        path = folder / _HISTORY if folder else None
        if path is None or not path.is_file() or path.stat().st_size > _LARGEST:
            return []
        return path.read_bytes().decode("utf-8", "replace").split("\n")[:-1][-_KEPT:]
    except OSError:
        return []


def keep_history(entered: Sequence[str]) -> None:
    """Keep these lines behind those of other sessions, the newest thousand; nothing happens where they cannot be."""
    folder = cache.cache_folder()
    lines = [line for line in entered if len(line) <= _LONGEST and line.isprintable()]
    if folder and lines:
        with suppress(OSError):
            kept = [*recall_history(), *lines][-_KEPT:]
            cache.replace(folder / _HISTORY, "".join(f"{line}\n" for line in kept).encode("utf-8", "replace"))


class _Command(NamedTuple):
    """What a line that begins with : can ask for."""

    argument: str
    help: str
    obey: Callable[[_Session, str], None]


class _Session:
    """The text of one session, and what its lines do to it."""

    def __init__(self, screen: Screen, model: LanguageModel, config: SampleConfig, stop: str, *, raw: bool) -> None:
        self.screen, self.config = screen, config
        self.conversation = model.conversation(config)
        self.over = False
        self._stop, self._raw = stop, raw

    def run(self, lines: _Pipe | _Keyboard, prime: str) -> None:
        """Answer the prime, if there is one, and line after line to their end."""
        if prime:
            self._turn(prime, lines.stopped)
        while not self.over:
            try:
                self._next(lines)
            except StoppedError:
                raise
            except CharlmError as error:
                if not lines.forgiving:
                    raise
                self.say(str(error))

    def _next(self, lines: _Pipe | _Keyboard) -> None:
        if (entry := _entry(lines)) is None:
            self.over = True
        else:
            self._answer(entry, lines.stopped)

    def say(self, text: str) -> None:
        """A line for whoever watches."""
        print(one_line(text), file=sys.stderr)  # noqa: T201

    def show(self, text: str) -> None:
        """Text on standard output; control characters are shown on a terminal."""
        streams.write_data((visible(text) if sys.stdout.isatty() and not self._raw else text).encode())

    def end_line(self, text: str) -> None:
        """On a terminal, the prompt that follows this text stands on a line of its own."""
        if sys.stdout.isatty() and not text.endswith("\n"):
            streams.write_data(b"\n")

    def _answer(self, entry: str, stopped: Callable[[], bool]) -> None:
        if entry.startswith(":") and not entry.startswith("::"):
            name, _, argument = entry[1:].partition(" ")
            _command(name).obey(self, argument.strip())
        else:
            self._turn(entry.removeprefix(":") if entry.startswith("::") else entry, stopped)

    def _turn(self, text: str, stopped: Callable[[], bool]) -> None:
        """Read a text and write on after it."""
        if unseen := self.conversation.read(text):
            verb = "s are" if unseen > 1 else " is"
            self.screen.note(f"{unseen} character{verb} not in the vocabulary; read as the mean embedding")
        piece = "\n"
        with closing(self.conversation.write(self.config, self._stop)) as pieces:
            for piece in pieces:
                self.show(piece)
                if stopped():
                    break
        self.end_line("" if stopped() else piece)  # behind ^C

    def set(self, name: str, text: str) -> None:
        """Change an option of sampling, or show it."""
        if text:
            value = _checked(name, text, getattr(self.config, name))
            self.config = replace(self.config, **{name: value})  # type: ignore[arg-type]
        self.say(f"{_spelt(name)} {getattr(self.config, name)}")

    def undo(self) -> None:
        taken = self.conversation.undo()
        if taken is None:
            raise ConfigError("there is no turn to take back", kept="the text is unchanged")
        text = self.conversation.text
        tail = "the text is empty" if not text else f"the text ends: {text[-_SHOWN:]}"
        self.say(f"took back {len(taken):,} characters; {tail}")

    def save(self, name: str) -> None:
        """Write the text to a file that does not exist yet."""
        path = os.path.expanduser(name)
        if not path or is_stdout(path):
            raise ConfigError(":save needs the name of a file", kept="nothing was written")
        check_outputs([path])
        if os.path.lexists(path):
            raise ConfigError(f"{path} exists", kept="it is unchanged", hint="choose another name")
        self.screen.write_file(path, self.conversation.text.encode())

    def print_text(self) -> None:
        text = self.conversation.text
        self.show(text)
        self.end_line(text or "\n")

    def begin(self) -> None:
        self.conversation.begin()
        self.say("a new text begins; :undo goes back")

    def help(self) -> None:
        rows = [(f":{name} {command.argument}".rstrip(), command.help) for name, command in _COMMANDS.items()]
        for term, text in [*_LINES, *rows]:
            self.say(f"  {term:<15} {text}")

    def quit(self) -> None:
        self.over = True


_LINES: Final = (
    ("TEXT", "read it after the text so far, and continue"),
    ("(empty line)", "go on; after a --stop text, behind it"),
    ("TEXT\\", "a line end, and more in the next line; \\\\ is a \\"),
    ("::TEXT", "a text that begins with :"),
)
_COMMANDS: Final = {
    **{
        name.replace("_", "-"): _Command(
            SAMPLE_OPTIONS[name].metavar,
            f"{SAMPLE_OPTIONS[name].help}",
            lambda session, text, name=name: session.set(name, text),  # type: ignore[misc]
        )
        for name in _SETTINGS
    },
    "undo": _Command("", "take back the last turn; may be repeated", lambda session, _: session.undo()),
    "new": _Command("", "begin a new text", lambda session, _: session.begin()),
    "text": _Command("", "print the whole text so far", lambda session, _: session.print_text()),
    "save": _Command("FILE", "write it to a new file", lambda session, name: session.save(name)),
    "help": _Command("", "show this list; a command can be shortened", lambda session, _: session.help()),
    "quit": _Command("", "end, as Ctrl-D does", lambda session, _: session.quit()),
}


def _command(name: str) -> _Command:
    """The command of this name, or the only one that begins so; raises ConfigError, which names those that are near."""
    meant = [known for known in _COMMANDS if known.startswith(name) and name]
    if name in _COMMANDS or len(meant) == 1:
        return _COMMANDS[name if name in _COMMANDS else meant[0]]
    near = " or ".join(f":{known}" for known in meant or get_close_matches(name, _COMMANDS, 3, 0.5))
    asked = f"did you mean {near}?" if near else ":help lists them; a text that begins with : is entered as ::"
    raise ConfigError(f"there is no command :{name}", kept="the text is unchanged", hint=asked)


def _spelt(name: str) -> str:
    return name.replace("_", "-")


def _checked(name: str, text: str, current: object) -> Value:
    """The value of an option, from what was entered."""
    what = SAMPLE_OPTIONS[name]
    try:
        return check(name, parse(text, what), what)
    except ConfigError:
        raise ConfigError(
            f":{_spelt(name)} must be {what.range}, not {text[:_SHOWN]!r}", kept=f"it is still {current}"
        ) from None


def _entry(lines: _Pipe | _Keyboard) -> str | None:
    """What is entered next, perhaps in several lines; Ctrl-C clears it. Raises StoppedError after a second one."""
    try:
        return _joined(lines)
    except KeyboardInterrupt:
        print("\n(Ctrl-C again or Ctrl-D ends)", file=sys.stderr)  # noqa: T201
    try:
        return _joined(lines)
    except KeyboardInterrupt:
        raise StoppedError("interrupted", kept="", hint="", exit_code=INTERRUPTED) from None


def _joined(lines: _Pipe | _Keyboard) -> str | None:
    r"""The next line, with those that it goes on in: it ends in a single \, which stands for a line end."""
    line = lines.line(_PROMPT)
    if line is None or (line.startswith(":") and not line.startswith("::")):
        return line
    parts = []
    while line is not None and line.endswith("\\") and not line.endswith("\\\\"):
        parts.append(line[:-1] + "\n")
        line = lines.line(_MORE)
    last = line or ""
    return "".join(parts) + (last[:-1] if last.endswith("\\\\") else last)
