"""Figures and foreign text as words for people; no colours, no libraries."""

from __future__ import annotations

import math
import unicodedata

_KEPT = "\n\t"
# Format characters that words are spelt with: soft hyphen, Mongolian vowel separator, zero-width non-joiner and joiner.
INVISIBLE = "\u00ad\u180e\u200c\u200d"
# Others that are seen: signs of Arabic, Syriac and Kaithi that stand before the figures or letters they enclose.
_SIGNS = frozenset(map(chr, [*range(0x600, 0x606), 0x6DD, 0x70F, 0x890, 0x891, 0x8E2, 0x110BD, 0x110CD]))
# Our own signs where an encoding lacks them; what stands in tables is as wide as it was.
_PLAIN = {
    "…": "~",
    "─": "-",
    "━": "-",
    "╺": "-",
    "╸": "-",
    "│": "|",
    "⟨": "<",
    "⟩": ">",
    "½": "1/2",
    "“": '"',
    "”": '"',
}


def visible(text: str) -> str:
    """The text with control characters, escapes and bidirectional overrides shown instead of obeyed.

    Format characters that spelling needs stay.

    >>> visible("a\\x1b[31mb\\u202ec\\r\\n")
    'a␛[31mb⟨U+202E⟩c␍\\n'
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(map(_shown, text))


def _shown(character: str) -> str:
    point = ord(character)
    if character in _KEPT or character.isprintable() or unicodedata.category(character) in ("Zs", "Mn", "Co"):
        return character
    if character in INVISIBLE or character in _SIGNS or 0xE0020 <= point <= 0xE007F:  # the tags of flags
        return character
    if point < 32:
        return chr(0x2400 + point)
    return "␡" if point == 127 else f"⟨U+{point:04X}⟩"


def one_line(text: str) -> str:
    """`visible`, and on one line.

    >>> one_line("two\\nlines")
    'two␊lines'
    """
    return visible(text).replace("\n", "␊").replace("\t", "␉")


def escaped(text: str) -> str:
    """A text for a cell of a table that programs read: on one line, without a tab, and nothing of it is lost.

    A backslash is doubled; line ends, tabs and what is not safe to print or invisible are written as in Python.

    >>> print(escaped("ä\\\\ \\n\\x1b\\u202e"))
    ä\\\\ \\n\\x1b\\u202e
    """
    return "".join(map(_escaped, text))


def _escaped(character: str) -> str:
    if character == "\\" or one_line(character) != character or character in INVISIBLE:
        return character.encode("unicode_escape").decode()
    return character


def replaced(text: str) -> str:
    """ASCII for a text that an encoding lacks, as wide in a terminal: what reads alike, or question marks.

    >>> replaced("a…漢e\u0301")
    'a~??e'
    """
    return "".join(map(_plain, text))


def _plain(character: str) -> str:
    if character.isascii():
        return character
    if unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return ""
    return _PLAIN.get(character, "??" if unicodedata.east_asian_width(character) in "WF" else "?")


def duration(seconds: float) -> str:
    """
    >>> duration(8.25), duration(75), duration(3700)
    ('8.2 s', '1:15', '1:01:40')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}" if hours else f"{rest // 60}:{rest % 60:02}"


def short(count: int) -> str:
    """A count in few characters, for tables.

    >>> short(950), short(12_400), short(1_115_394), short(999_960)
    ('950', '12.4k', '1.1M', '1M')
    """
    return _scaled(count, ("", "k", "M", "G", "T"))


def file_size(count: int) -> str:
    """Bytes in few characters, in units of 1000.

    >>> file_size(950), file_size(5_800_000), file_size(12_345_678_901)
    ('950 B', '5.8 MB', '12.3 GB')
    """
    return _scaled(count, (" B", " kB", " MB", " GB", " TB"))


def _scaled(count: int, units: tuple[str, ...]) -> str:
    value, number = float(count), 0
    while round(value, 1) >= 1000 and number < len(units) - 1:
        value, number = value / 1000, number + 1
    return f"{value:.1f}".removesuffix(".0") + units[number]


def age(seconds: float) -> str:
    """How long ago something was, in its largest unit; a time to come is now.

    >>> age(5), age(150), age(7200), age(200_000), age(-3)
    ('5 s', '2 min', '2 h', '2 days', '0 s')
    """
    passed = max(0.0, seconds)
    units = ((86400, "days" if passed >= 2 * 86400 else "day"), (3600, "h"), (60, "min"))
    for length, unit in units:
        if passed >= length:
            return f"{passed // length:.0f} {unit}"
    return f"{int(passed)} s"


def figure(value: float | None, digits: int = 4) -> str:
    """A number for a table; a dash where there is none.

    >>> figure(1.23456), figure(None), figure(1234567.0), figure(float("inf"))
    ('1.2346', '-', '1,234,567', '-')
    """
    if value is None or not math.isfinite(value):
        return "-"
    if abs(value) >= 1e12:
        return f"{value:.3g}"
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:,.{digits}f}"


def bits(nats: float) -> float:
    """Nats to bits."""
    return nats / math.log(2)
