"""Records: many independent texts in one corpus, such as names, sentences, poems or messages.

    line        each line is a record
    paragraph   records are separated by blank lines
    file        each file is a record

A corpus of records is kept as one text in which each record is followed by its end: the line end for lines, and U+0003
(END OF TEXT) for records that may have lines in them. So the end is a character like any other: it is predicted, it is
charged, and with each tokenizer it is one token. What is special is what follows it: the next record begins from the
initial state and with the start input, and knows nothing of the one before.

    lines "emma\\n" and "ada\\n" (^ is the start input, $ the line end)

        inputs   ^ e m m a    ^ a d a
        targets  e m m a $    a d a $
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from charlm.errors import DataError
from charlm.text.split import FILES, cuts
from charlm.text.store import stored_edges
from charlm.text.stored import Loaded, Numbers, Text
from charlm.text.tokenizer import Ids, StoredTokens, Tokenizer, Tokens

LINE: Final = "line"
PARAGRAPH: Final = "paragraph"
FILE: Final = "file"
_END: Final = {LINE: "\n", PARAGRAPH: "\x03", FILE: "\x03"}
_SEPARATED: Final = {
    LINE: "put each on a line of its own",
    PARAGRAPH: "put a blank line between two paragraphs, or use --records line",
    FILE: "name several files or a folder, or use --records line or paragraph",
}
_LINE_END: Final = {LINE: "\n", PARAGRAPH: "\n"}  # of the last line of a record, where it is printed
_BETWEEN: Final = {LINE: "", PARAGRAPH: "\n"}  # what parts it from the next one
_LOOKED_AT: Final = 1_000_000  # characters
_MANY: Final = 200  # lines
_MOST: Final = 2**16  # records of a group
_SHORT: Final = 60  # characters, of all but a few lines
_SPACED: Final = 0.1  # of lines with more than one word
_SORTED: Final = 0.9  # of lines that come before the next
_BLANK: Final = re.compile(r"(?:\r?\n[ \t]*){2,}")  # lines between two paragraphs


def end_of(kind: str) -> str:
    """The character behind each record; nothing where a corpus is one text."""
    return _END.get(kind, "")


def printed_end(kind: str) -> str:
    """What follows a record of this kind where it is printed; nothing where a text is."""
    return _LINE_END.get(kind, "")


def printed_between(kind: str) -> str:
    """What stands between two records of this kind where they are printed; NUL where they may have any lines."""
    return _BETWEEN.get(kind, "\0")


def records_of(text: str, kind: str, name: str = "the text") -> list[str]:
    """The records of a file, without their ends; those without a visible character are left out.

    Raises DataError where the end of a record stands inside one.

    >>> records_of("emma\\r\\n\\nada", "line"), records_of("one\\ntwo\\n\\n\\nthree\\n", "paragraph")
    (['emma', 'ada'], ['one\\ntwo', 'three'])
    """
    if kind == LINE:
        found = text.split("\n")
        found = [line.removesuffix("\r") for line in found] if "\r" in text else found
    elif kind == PARAGRAPH:
        found = [part.strip("\r\n") for part in _BLANK.split(text)]
    else:
        found = [text]
    if kind != LINE and (at := text.find(end_of(kind))) >= 0:
        raise _ended_inside(name, at)
    return list(filter(str.strip, found))


def record_blocks(pieces: Iterable[str], kind: str, name: str = "the text") -> Iterator[list[str]]:
    """The same of a text that is read in pieces: the records that end in one, or in a few. One is held in memory whole.

    >>> list(record_blocks(["em", "ma\\nada\\nbo", "b"], "line"))
    [['emma', 'ada'], ['bob']]
    """
    cut = {LINE: _cut_at_lines, PARAGRAPH: _cut_at_blanks}.get(kind, _uncut)
    checked = pieces if kind == LINE else _without_end(pieces, kind, name)
    for text in cut(checked):
        if found := records_of(text, kind, name):
            yield found


def _cut_at_lines(pieces: Iterable[str]) -> Iterator[str]:
    left: list[str] = []
    for piece in pieces:
        lines, end, rest = piece.rpartition("\n")
        if end:
            yield "".join([*left, lines])
            left = []
        left.append(rest)
    yield "".join(left)


def _cut_at_blanks(pieces: Iterable[str]) -> Iterator[str]:
    """Texts that end with blank lines; `blank` may be the beginning of some, with which the next piece goes on."""
    left, blank = list[str](), ""
    for piece in pieces:
        text = blank + piece
        ends = [match.end() for match in _BLANK.finditer(text) if text[match.end() : match.end() + 2] not in ("", "\r")]
        if ends:
            yield "".join([*left, text[: ends[-1]]])
            left, text = [], text[ends[-1] :]
        visible = text.rstrip(" \t\r\n")
        left.append(visible)
        blank = text[len(visible) :]
    yield "".join([*left, blank])


def _uncut(pieces: Iterable[str]) -> Iterator[str]:
    yield "".join(pieces)


def _without_end(pieces: Iterable[str], kind: str, name: str) -> Iterator[str]:
    """The same pieces; raises DataError where the end of a record stands in one."""
    before = 0
    for piece in pieces:
        if (at := piece.find(end_of(kind))) >= 0:
            raise _ended_inside(name, before + at)
        before += len(piece)
        yield piece


def _ended_inside(name: str, at: int) -> DataError:
    return DataError(
        f"{name} has the control character U+0003, which ends a record, at character {at:,}",
        kept="nothing was written",
        hint="remove it, or use --records line",
    )


def joined(records: Iterable[str], kind: str) -> str:
    """Records as one text, each followed by its end."""
    return end_of(kind).join([*records, ""])


def as_records(text: str, kind: str, name: str = "the text") -> str:
    """A text as a corpus of its records; one that is such a corpus already stays as it is.

    >>> as_records("emma\\r\\nada", "line"), as_records("so it goes", "none")
    ('emma\\nada\\n', 'so it goes')
    """
    end = end_of(kind)
    if not end or (kind != LINE and text.endswith(end)):
        return text
    return joined(records_of(text, kind, name), kind)


def without_duplicates(text: str, others: Iterable[str], kind: str) -> tuple[str, int]:
    """A corpus without the records that stand in one of the others, and how many those were."""
    end = end_of(kind)
    known = {record for other in others for record in other.split(end)}
    found = text.split(end)[:-1]
    kept = [record for record in found if record not in known]
    return joined(kept, kind), len(found) - len(kept)


def refuse_too_few(count: int, kind: str) -> None:
    """Raise DataError where a corpus has fewer than two records."""
    if count < 2:
        raise DataError(
            f"--records {kind} needs two records at least, but the text has {count}",
            kept="nothing was written",
            hint=_SEPARATED[kind],
        )


def describe_parts(kind: str, counts: Sequence[int]) -> str:
    """How many records there are for training, for validation and for the test, in words.

    >>> describe_parts("line", [9, 1, 0])
    '10 records (line): 9 for training, 1 for validation, chosen by hash'
    """
    names = zip(("training", "validation", "test"), counts, strict=True)
    said = ", ".join(f"{count:,} for {name}" for name, count in names if count)
    return f"{sum(counts):,} records ({kind}): {said}{', chosen by hash' * any(counts[1:])}"


def describe_duplicates(left_out: int, known: int) -> Iterator[str]:
    """What a user should know of records that are in several parts."""
    if left_out:
        yield f"{left_out:,} validation records are in the training or test text, too, and are left out"
    if known:
        yield f"{known:,} test records are in the training text, too; they are scored like the others"


@dataclass(frozen=True, slots=True)
class Division:
    """The records of a corpus by their parts, in the order in which they were read."""

    train: list[str]
    val: list[str]
    test: list[str]


@dataclass(frozen=True, slots=True)
class _Record:
    characters: int
    sha256: str


def divide(records: Sequence[str], val: float, test: float) -> Division:
    """Hold out whole records, about these shares of the text.

    A record's part depends on its own content, as a file's does in `charlm.text.split`: equal records are in one part.
    """
    known = [_Record(len(record), sha256(record.encode("utf-8", "surrogatepass")).hexdigest()) for record in records]
    found = Division([], [], [])
    for record, cut in zip(records, cuts(known, val, test, FILES), strict=True):
        part = found.train if cut.train else found.val if cut.val else found.test
        part.append(record)
    return found


def end_token(tokenizer: Tokenizer, kind: str) -> int | None:
    """The id of a record's end, which is one token with each tokenizer; None where a corpus is one text."""
    end = end_of(kind)
    return int(tokenizer.encode(end).ids[0]) if end else None


def record_edges(ids: Ids, tokenizer: Tokenizer, kind: str, escaped: Ids | None = None) -> NDArray[np.int64]:
    """Where the records of a corpus begin among its ids [N], and behind them N: [R + 1].

    Record r is ids[edges[r] : edges[r + 1]], with its end. A corpus that is no records has none. An end that is not in
    the vocabulary, because the model was trained on one text, is found among the `escaped` characters.

    >>> from charlm.text.tokenizer import ByteTokenizer
    >>> record_edges(ByteTokenizer().encode("emma\\nada\\n").ids, ByteTokenizer(), "line").tolist()
    [0, 5, 9]
    """
    end = end_token(tokenizer, kind)
    if end is None or not len(ids):
        return np.zeros(1, dtype=np.int64)
    ends = ids == end
    if end == tokenizer.unseen and escaped is not None:
        ends[ends] = escaped == ord(end_of(kind))
    return np.concatenate([[0], np.flatnonzero(ends[:-1]) + 1, [len(ids)]]).astype(np.int64)


def edges_of(tokens: Tokens | StoredTokens, tokenizer: Tokenizer, kind: str) -> NDArray[np.int64] | Numbers:
    """`record_edges` of a tokenized text; of one on the disk, whose vocabulary has the end, they are there, too."""
    if isinstance(tokens, StoredTokens) and (end := end_token(tokenizer, kind)) is not None and len(tokens.ids):
        return stored_edges(tokens.ids, end, end_of(kind))
    ids = tokens.ids[: len(tokens.ids)] if isinstance(tokens, Tokens) else np.zeros(0, dtype=np.int32)
    return record_edges(ids, tokenizer, kind)


def edge_groups(edges: NDArray[np.int64] | Numbers, size: int) -> Iterator[NDArray[np.int64]]:
    """The edges of records in groups, each of one record at least and otherwise of at most `size` tokens.

    >>> [group.tolist() for group in edge_groups(np.array([0, 2, 4, 9, 10]), 4)]
    [[0, 2, 4], [4, 9], [9, 10]]
    """
    kept, first = edges if isinstance(edges, Numbers) else Loaded(edges), 0
    while first < len(kept) - 1:
        found = kept.between(first, first + min(size, _MOST) + 1)
        count = max(1, int(np.searchsorted(found, found[0] + size, side="right")) - 1)
        yield found[: count + 1].astype(np.int64)
        first += count


def seem_independent(text: Text) -> str:
    """Why the lines of a text seem to be records, in words; nothing where they do not.

    >>> seem_independent("emma\\n" * 1000), seem_independent("It was the best of times.\\n" * 1000)
    ('short lines of one word each', '')
    """
    lines = [line for line in text[:_LOOKED_AT].split("\n")[:-1] if line.strip()]
    if len(lines) < _MANY or sorted(map(len, lines))[int(0.95 * len(lines))] > _SHORT:
        return ""
    if sum(" " in line.strip() for line in lines) < _SPACED * len(lines):
        return "short lines of one word each"
    rising = sum(one < other for one, other in pairwise(lines)) / len(lines)
    return "short lines in alphabetical order" if rising > _SORTED else ""
