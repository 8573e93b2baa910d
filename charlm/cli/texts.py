"""Texts that stand on the command line itself, such as --prime: from the shell's bytes to Unicode."""

from __future__ import annotations

import os
import re
import shlex
from typing import Final

from charlm.cli.outputs import Screen
from charlm.errors import DataError

_ESCAPE: Final = re.compile(r"(?<!\\)\\[nrt]")
_SHOWN: Final = 80  # characters of a text that a hint repeats


def given_text(screen: Screen, option: str, text: str) -> str:
    r"""The text of this option, read as UTF-8 where the locale could not read it; raises DataError if it is not.

    A remark says that \n is not a line end, as in many languages it is.
    """
    if any("\ud800" <= character <= "\udfff" for character in text):
        text = _decoded(option, os.fsencode(text))
    if found := _ESCAPE.search(text):
        screen.note(f"{found[0]} in {option} is taken as two characters; in bash write $'...{found[0]}'")
    return text


def _decoded(option: str, raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise DataError(
            f"{option} is not UTF-8: byte {raw[error.start]:02X} at offset {error.start}",
            kept="nothing was read or written",
            hint=_hint(option, raw),
        ) from error


def _hint(option: str, raw: bytes) -> str:
    """The option in UTF-8, if its bytes are what the most common of the other encodings makes of it."""
    try:
        meant = raw.decode("cp1252")
    except UnicodeDecodeError:
        meant = ""
    if not 0 < len(meant) <= _SHOWN or not meant.isprintable():
        return "convert it to UTF-8"
    return f"if its encoding was Latin-1 or Windows-1252, give {option} {shlex.quote(meant)}"
