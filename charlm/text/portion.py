"""What is used of a long text by what takes many times its memory: n-gram models, compressors, the search for copies.

Whatever uses less than the whole text says so, in the words that stand beside the portion here.
"""

from __future__ import annotations

from typing import Final

from charlm.text.stored import Text, line_blocks

PORTION: Final = 2**24  # characters


def end_of_text(text: Text) -> tuple[str, str]:
    """The last characters of a training text; where that is not all, a remark.

    Consecutive ones, since a context that is cut is of no use; the last, since these come before the validation text.
    """
    if len(text) <= PORTION:
        return str(text), ""
    end = text[len(text) - PORTION :]
    return end, f"only the last {len(end):,} of {len(text):,} characters of the training text were used"


def beginning_of_text(name: str, text: Text) -> tuple[str, str]:
    """The first lines of a text that is scored or searched; where that is not all, a remark that names it.

    >>> beginning_of_text("a.txt", "a short one")
    ('a short one', '')
    """
    if len(text) <= PORTION:
        return str(text), ""
    first = next(line_blocks(text, PORTION))
    return first, f"only the first {len(first):,} of {len(text):,} characters of {name} were read"
