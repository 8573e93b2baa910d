"""The direction in which a model reads a text: forward, or backward, from its last character to its first.

A backward model predicts each character from those that follow it. It is a forward model of the reversed text, and
that is all: texts are turned before they become ids, and what is found out about their characters is turned back. No
network, score or decoder knows of it.

Code points are reversed, so that a combining mark comes before its letter, and a line end of two characters is \\n\\r
for the model. In a corpus of records each record is reversed by itself, and its end stays behind it:

    one text    "so it goes"      -> "seog ti os"
    lines       "emma\\nada\\n"     -> "amme\\nada\\n"

Turning a text twice gives the text again. Legend: C characters.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from charlm.config import BACKWARD, DataConfig
from charlm.errors import DataError
from charlm.text.records import end_of
from charlm.text.stored import StoredText, Text

_Value = TypeVar("_Value", bound=np.generic)


@overload
def as_trained(text: str, data: DataConfig) -> str: ...


@overload
def as_trained(text: Text, data: DataConfig) -> Text: ...


def as_trained(text: Text, data: DataConfig) -> Text:
    """A text as a model that was trained with these options reads it; raises DataError as `turned`."""
    return turned(text, data.records) if data.direction == BACKWARD else text


@overload
def turned(text: str, records: str = "none") -> str: ...


@overload
def turned(text: StoredText, records: str = "none") -> StoredText: ...


def turned(text: Text, records: str = "none") -> Text:
    """A text as a backward model reads it, or such a text as it was; `records` is one of `charlm.config.RECORDS`.

    Raises DataError for records on the disk.

    >>> turned("so it goes"), turned("emma\\nada\\n", "line")
    ('seog ti os', 'amme\\nada\\n')
    """
    end = end_of(records)
    if isinstance(text, str):
        return end.join(part[::-1] for part in text.split(end)) if end else text[::-1]
    if end:
        raise DataError(
            "records of more than 8 MiB cannot be read backward",
            kept="nothing was written",
            hint="use fewer of them, or leave out --direction backward",
        )
    return text.turned()


def turned_values(values: NDArray[_Value], text: str, records: str = "none") -> NDArray[_Value]:
    """What was found out about the characters [C, ...] of a text that was turned, in the order of the text itself.

    >>> turned_values(np.arange(7), "emma\\na\\n", "line").tolist()
    [3, 2, 1, 0, 4, 5, 6]
    """
    found: NDArray[_Value] = values[_places(text, records)]
    return found


def _places(text: str, records: str) -> NDArray[Any]:
    """Where each character of a text stands in the turned one [C]."""
    found = [np.arange(end - 1, begin - 1, -1) for begin, end in _parts(text, end_of(records))]
    return np.concatenate([np.zeros(0, dtype=np.int64), *found])


def _parts(text: str, end: str) -> Iterator[tuple[int, int]]:
    """Where each part of a text that is reversed by itself begins and ends; the ends of records are such parts."""
    begin = 0
    while end and (at := text.find(end, begin)) >= 0:
        yield begin, at
        yield at, at + 1
        begin = at + 1
    yield begin, len(text)
