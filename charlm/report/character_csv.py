"""The surprisal of every character as CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence

from charlm.report.surprisal import Scored
from charlm.report.words import INVISIBLE, one_line


def character_csv(texts: Sequence[Scored]) -> str:
    """A row for each character: its offset from 0, the character, its bits; with several texts, also the text's name.

    A backslash is doubled; line ends, tabs and what is not safe to print or invisible are written as in Python: \\n,
    \\x1b, \\u202e.
    Bits of a token that is several characters are spread evenly over them; where they are not finite, there is nothing.

    >>> _written("a"), _written("\\\\"), _written("\\n"), _written("\\u202e")
    ('a', '\\\\\\\\', '\\\\n', '\\\\u202e')
    """
    several = len(texts) > 1
    written = io.StringIO()
    writer = csv.writer(written, lineterminator="\n")
    writer.writerow(["offset", "character", "bits", *["text"] * several])
    for text in texts:
        known = {character: _written(character) for character in set(text.surprisal.text)}
        name = [one_line(text.name)] * several
        values = (text.surprisal.character_nats / math.log(2)).tolist()
        for offset, (character, bits) in enumerate(zip(text.surprisal.text, values, strict=True)):
            writer.writerow([offset, known[character], f"{bits:.9g}" if math.isfinite(bits) else "", *name])
    return written.getvalue()


def _written(character: str) -> str:
    if character == "\\" or one_line(character) != character or character in INVISIBLE:
        return character.encode("unicode_escape").decode()
    return character
