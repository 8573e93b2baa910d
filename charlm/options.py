"""What an option is: its type, range and help, how its text is parsed, and how its value is checked.

This module knows no option by name; `charlm.config` has them. Values are checked once, by `check`, when they enter
charlm (a command line, a TOML file, a Python call, a checkpoint), and an error names the option and its range.
"""

from __future__ import annotations

import codecs
import os
import re
import reprlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from importlib import import_module
from typing import Any, Final, NamedTuple

from charlm.errors import ConfigError

Value = int | float | str | bool
UNTOUCHED: Final = "nothing was read or written"


def resolve(place: object) -> Any:
    """What stands at "module:object", imported now; anything that is no text is returned as it is."""
    if not isinstance(place, str):
        return place
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)


class Registry:
    """Implementations offered by name for one option, each imported when it is first used.

    A built-in is one line: its name and where it stands, as "module:object". Code outside charlm adds its own object.

    >>> cells = Registry(lstm="charlm.models.cells:LSTM")
    >>> cells.add("mine", object())
    >>> list(cells), "mine" in cells
    (['lstm', 'mine'], True)
    """

    def __init__(self, **places: str) -> None:
        self._entries: dict[str, Any] = dict(places)

    def add(self, name: str, implementation: object) -> None:
        """Offer an implementation, for the rest of this process; raises ValueError if the name is taken."""
        if name in self._entries:
            raise ValueError(f"{name!r} is taken")
        self._entries[name] = implementation

    def remove(self, name: str) -> None:
        """Withdraw what `add` offered."""
        del self._entries[name]

    def __getitem__(self, name: str) -> Any:
        entry = self._entries[name] = resolve(self._entries[name])
        return entry

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries


class Form(NamedTuple):
    """A text with a syntax of its own: what it must match, in words, and as help shows it."""

    pattern: re.Pattern[str]
    words: str
    metavar: str


FORMS: Final = {
    "duration": Form(
        re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,12})?)(s|m|h)"),
        "a duration above 0 such as 90s, 10m or 2h, at most 10000h",
        "90s|10m|2h",
    ),
    "every": Form(
        re.compile(r"([0-9]{1,12})|([0-9]{1,12}(?:\.[0-9]{1,12})?)(s|m|h)"),
        "a number of steps from 1, or a duration such as 60s",
        "N|60s",
    ),
    "device": Form(
        re.compile(r"auto|cpu|mps|cuda(:(0|[1-9][0-9]{0,2}))?"),
        "one of auto, cpu, cuda, cuda:N, mps",
        "auto|cpu|cuda|cuda:N|mps",
    ),
    "encoding": Form(
        re.compile(r"[A-Za-z0-9][A-Za-z0-9._:()+-]{0,59}"),
        "the name of a text encoding such as utf-8, cp1252 or koi8-r",
        "NAME",
    ),
    "licence": Form(
        re.compile(r"[a-z0-9][a-z0-9.+-]{0,59}"),
        "the identifier of a licence such as mit, apache-2.0 or cc-by-4.0",
        "ID",
    ),
}
# What other programs call an encoding that Python calls otherwise.
_OTHER_NAMES: Final = {"ansi": "cp1252", "unicode": "utf-16", "dos": "cp850", "oem": "cp850", "binary": "latin-1"}
_UNIT: Final = {"s": 1, "m": 60, "h": 3600}
_LONGEST: Final = 10_000 * 3600.0


@dataclass(frozen=True, slots=True)
class Option:
    """What one option may be. Bounds are inclusive unless `above` says that the lower one is not."""

    type: type[int] | type[float] | type[str] | type[bool]  # bool: a flag, given without a value
    help: str
    low: float = float("-inf")
    high: float = float("inf")
    above: bool = False
    offers: Iterable[str] = ()  # the values that it may have: a tuple, or a registry that can grow
    form: str = ""  # the name of a syntax in FORMS
    loose: bool = False  # a text that may be given as a number or a path
    group: str = ""  # the heading of --help under which it stands
    placeholder: str = ""  # what stands for its value in help, where its type does not say it

    @property
    def choices(self) -> tuple[str, ...]:
        """The values that it may have now; none where any will do."""
        return tuple(self.offers)

    @property
    def metavar(self) -> str:
        """What stands for a value in help."""
        if self.placeholder:
            return self.placeholder
        if self.choices:
            return "|".join(self.choices)
        if self.form:
            return FORMS[self.form].metavar
        return {int: "N", float: "X", bool: "", str: "FRACTION|FILE" if self.loose else "TEXT"}[self.type]

    @property
    def range(self) -> str:
        """The allowed values, in words.

        >>> Option(int, "", 1, 64).range
        'an integer from 1 to 64'
        """
        if self.choices:
            return "one of " + ", ".join(self.choices)
        if self.form:
            return FORMS[self.form].words
        if self.type in (str, bool):
            return "text" if self.type is str else "true or false"
        noun = "an integer" if self.type is int else "a number"
        lower = f"above {self.low:g}" if self.above else f"from {self.low:g}"
        return f"{noun} {lower} to {self.high:g}" if not self.above else f"{noun} {lower}, at most {self.high:g}"


def option(default: Value, what: Option) -> Any:
    """A dataclass field that is an option."""
    return field(default=default, metadata={"option": what})


def seconds(text: str) -> float:
    """A duration in seconds.

    >>> seconds("90s"), seconds("10m"), seconds("2h")
    (90.0, 600.0, 7200.0)
    """
    match = FORMS["duration"].pattern.fullmatch(text)
    if match is None:
        raise ValueError(text)
    return float(match[1]) * _UNIT[match[2]]


def every(text: str) -> tuple[int, float]:
    """An interval as (steps, seconds), one of them 0.

    >>> every("100"), every("60s")
    ((100, 0.0), (0, 60.0))
    """
    return (int(text), 0.0) if text.isdigit() else (0, seconds(text))


def codec(name: str) -> str:
    """Python's own name of a text encoding; raises LookupError if there is none of this name.

    >>> codec("Windows-1252"), codec("latin1")
    ('cp1252', 'iso8859-1')
    """
    try:
        found = codecs.lookup(name).name
        b"a".decode(found)  # refuses what is no encoding of text, such as hex
    except UnicodeError:
        pass
    except ValueError as error:  # a NUL in the name
        raise LookupError(name) from error
    return found


def _near(value: object, what: Option) -> str:
    """Names of encodings like this one, as a hint."""
    if what.form != "encoding" or not isinstance(value, str):
        return ""
    from encodings.aliases import aliases

    asked = value.lower().replace("_", "-")
    known = {name.replace("_", "-"): None for pair in aliases.items() for name in pair}
    near = [name for name in get_close_matches(asked, known, 12, 0.7) if _is_codec(name)]
    found = [_OTHER_NAMES[asked]] if asked in _OTHER_NAMES else list(dict.fromkeys(map(codec, near)))[:3]
    return f"did you mean {' or '.join(found)}?" if found else ""


def flag(name: str) -> str:
    """
    >>> flag("dropout_input")
    '--dropout-input'
    """
    return "--" + name.replace("_", "-")


def parse(text: str | bool, what: Option) -> Value:
    """The text of a command line in the option's own type where it can be, else as it is: `check` refuses that.

    A flag is true or false there, and no text.

    >>> parse("3", Option(int, "")), parse("three", Option(int, ""))
    (3, 'three')
    """
    try:
        return text if what.type is bool else what.type(text)
    except ValueError:
        return text


_QUOTE: Final = reprlib.Repr()
_QUOTE.maxstring = _QUOTE.maxother = _QUOTE.maxlong = 500  # what is not an option need not be quoted whole


def check(name: str, value: object, what: Option) -> Value:
    """`value` in the option's own type, or a `ConfigError` that names the option and its range."""
    if what.loose and isinstance(value, (int, float, os.PathLike)) and not isinstance(value, bool):
        value = str(value)
    if what.type is float and isinstance(value, int) and not isinstance(value, bool) and _allowed(value, what):
        value = float(value)
    if isinstance(value, bool) != (what.type is bool) or not isinstance(value, what.type) or not _allowed(value, what):
        raise ConfigError(
            f"{flag(name)} must be {what.range}, not {_QUOTE.repr(value)}", kept=UNTOUCHED, hint=_near(value, what)
        )
    return codec(value) if what.form == "encoding" and isinstance(value, str) else value


def check_all(given: Mapping[str, object], known: Mapping[str, Option]) -> dict[str, Value]:
    """Every given option checked; an unknown one is a `ConfigError` that suggests the nearest."""
    for name in given:
        if name not in known:
            near = get_close_matches(name, known, 1)
            hint = f"did you mean {flag(near[0])}?" if near else "docs/cli.md and --help list them"
            raise ConfigError(f"there is no option {flag(name)}", kept=UNTOUCHED, hint=hint)
    return {name: check(name, value, known[name]) for name, value in given.items()}


def _allowed(value: int | float | str, what: Option) -> bool:
    if isinstance(value, str):
        if what.form:
            return FORMS[what.form].pattern.fullmatch(value) is not None and _meaningful(value, what.form)
        return not what.choices or value in what.choices
    above_low = what.low < value if what.above else what.low <= value
    return above_low and value <= what.high  # NaN fails both comparisons


def _meaningful(value: str, form: str) -> bool:
    """Whether what has this syntax can be meant: a duration above 0, an encoding that there is."""
    if form in ("device", "licence"):
        return True
    if form == "encoding":
        return _is_codec(value)
    return int(value) >= 1 if value.isdigit() else 0 < seconds(value) <= _LONGEST


def _is_codec(name: str) -> bool:
    try:
        codec(name)
    except LookupError:
        return False
    return True
