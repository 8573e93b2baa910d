"""The position in a training text, a value that a checkpoint stores."""

from __future__ import annotations

from typing import NamedTuple


class Position(NamedTuple):
    """`offset` tokens into every lane, in the epoch's rotation of the text by `shift` tokens."""

    epoch: int = 0
    shift: int = 0
    offset: int = 0
