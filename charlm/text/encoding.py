"""Bytes to text, strictly; and for bytes that are not text in the encoding expected, what they are and how to go on.

Nothing is guessed silently: a text is read in UTF-8 or in the encoding that was named, or refused. A refusal says what
the bytes are where that is certain: a file of another kind, by its first bytes; UTF-16 or UTF-32, by a byte order mark
or by NULs at every second place; an older encoding, by `charlm.text.guess`. Otherwise it suggests no encoding at all.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from charlm.errors import DataError, quoted

UTF8: Final = "utf-8"
SNIFF: Final = 8192  # bytes in which a binary file shows a NUL
_KEPT: Final = "nothing was written"

# Which bytes begin a file that is no text; what it is; and what makes a text of it.
_KINDS: Final[Sequence[tuple[bytes, str, str]]] = (
    (b"%PDF-", "a PDF", "extract its text first, for example with pdftotext {}"),
    (b"\x1f\x8b", "a gzip file", "unpack it first: gunzip -k {}"),
    (b"BZh91AY&SY", "a bzip2 file", "unpack it first: bunzip2 -k {}"),
    (b"\xfd7zXZ\0", "an xz file", "unpack it first: unxz -k {}"),
    (b"\x28\xb5\x2f\xfd", "a zstd file", "unpack it first: unzstd {}"),
    (b"PK\x03\x04", "a zip file", "unpack it first: unzip {}"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip file", "unpack it first"),
    (b"Rar!\x1a\x07", "a RAR file", "unpack it first"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Office document", "save it as plain text first"),
    (b"\x89PNG", "a PNG image", "name a text file"),
    (b"\xff\xd8\xff", "a JPEG image", "name a text file"),
    (b"GIF87a", "a GIF image", "name a text file"),
    (b"GIF89a", "a GIF image", "name a text file"),
    (b"OggS\0", "an Ogg file", "name a text file"),
    (b"ID3\x02", "an MP3 file", "name a text file"),
    (b"ID3\x03", "an MP3 file", "name a text file"),
    (b"ID3\x04", "an MP3 file", "name a text file"),
    (b"SQLite format 3\0", "an SQLite database", "export a text from it first"),
)
# Inside a zip file, the documents that are one.
_ZIPPED: Final = (
    (b"application/epub+zip", "an EPUB book"),
    (b"word/", "a Word document"),
    (b"opendocument", "a document"),
)
_MARKS: Final = (  # the longer first: UTF-32 in little-endian order begins like UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


class NotText(Exception):
    """One of many files is no text in the encoding; the reason is its message."""


class _Undecodable(Exception):
    """Where the bytes of a file stop being text: the `offset`, and the bytes `around` it."""

    def __init__(self, reason: str, offset: int, around: bytes, error: UnicodeDecodeError | None) -> None:
        super().__init__(reason)
        self.reason, self.offset, self.around, self.error = reason, offset, around, error


class Piece(NamedTuple):
    """A piece of a text, which ends between two characters, and its bytes in UTF-8."""

    text: str
    utf8: bytes


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads texts in one encoding, and says how to go on where that fails.

    encoding    a name that `charlm.options.codec` returned
    corpus      the paths that `charlm train` was given; none for another command
    """

    encoding: str = UTF8
    corpus: tuple[str, ...] = ()

    def read(self, raw: bytes, path: str) -> str:
        """The text of a file's bytes; raises DataError for a file of another kind, and as `decode`.

        UTF-16 without a byte order mark can be UTF-8 as well, with NUL for every second character: it is refused.
        """
        if found := kind_of(raw):
            kind, hint = found
            raise DataError(f"{path} is {kind}", kept=_KEPT, hint=hint.format(quoted(path)))
        if self.encoding == UTF8 and (wide := unmarked_utf16(raw)):
            raise DataError(f"{path} is {_plain(wide)}, not UTF-8", kept=_KEPT, hint=self.command(path, wide))
        return self.decode(raw, path)

    def decode(self, raw: bytes, path: str) -> str:
        """The text of these bytes, strictly; DataError names the offset and the line of the first bad byte."""
        try:
            return _strictly(raw, self.encoding)
        except UnicodeDecodeError as error:
            line = raw[: error.start].decode(self.encoding, "ignore").count("\n") + 1
            raise DataError(
                f"{path} is not {_plain(self.encoding)}: {error.reason} at byte {error.start}, line {line}",
                kept=_KEPT,
                hint=self._advice(raw, path, error),
            ) from error
        except UnicodeError as error:
            raise DataError(f"{path} is not {_plain(self.encoding)}: {error}", kept=_KEPT) from error

    def pieces(self, blocks: Iterable[bytes], path: str) -> Iterator[Piece]:
        """The text of a file that is read in blocks, in pieces; raises DataError as `read` does."""
        try:
            yield from self._pieces(self._sniffed(blocks, path))
        except _Undecodable as bad:
            raise DataError(
                f"{path} is not {_plain(self.encoding)}: {bad.reason}",
                kept=_KEPT,
                hint=self._advice(bad.around, path, bad.error) if bad.error else "",
            ) from bad

    def sifted_pieces(self, blocks: Iterable[bytes]) -> Iterator[Piece]:
        """The same of one of many files; raises NotText with the reason where it is to be skipped."""
        wide = self.encoding.startswith(("utf-16", "utf-32"))
        try:
            for piece in self._pieces(self._sieved(blocks, wide=wide)):
                if wide and "\0" in piece.text:
                    raise NotText("binary")
                yield piece
        except _Undecodable as bad:
            where = f" at byte {bad.offset}" if bad.error else ""
            raise NotText(f"not {_plain(self.encoding)}{where}") from bad

    def _sniffed(self, blocks: Iterable[bytes], path: str) -> Iterator[bytes]:
        """The same blocks; raises DataError where the first shows that this is no text in the encoding."""
        for number, block in enumerate(blocks):
            if not number:
                if found := kind_of(block):
                    kind, hint = found
                    raise DataError(f"{path} is {kind}", kept=_KEPT, hint=hint.format(quoted(path)))
                if self.encoding == UTF8 and (other := unmarked_utf16(_even(block))):
                    raise DataError(f"{path} is {_plain(other)}, not UTF-8", kept=_KEPT, hint=self.command(path, other))
            yield block

    def _sieved(self, blocks: Iterable[bytes], *, wide: bool) -> Iterator[bytes]:
        """The same blocks; raises NotText where the first shows that this is no text in the encoding."""
        for number, block in enumerate(blocks):
            if not number:
                if found := kind_of(block):
                    raise NotText(found[0])
                if self.encoding == UTF8 and (other := wide_encoding(_even(block))):
                    raise NotText(f"{_plain(other)}, not UTF-8")
                if b"\0" in block[:SNIFF] and not wide:
                    raise NotText("binary")
            yield block

    def _pieces(self, blocks: Iterable[bytes]) -> Iterator[Piece]:
        """Text that ends between two characters, with its bytes in UTF-8; raises _Undecodable."""
        decoder, offset, line = codecs.getincrementaldecoder(self.encoding)(), 0, 1
        for block, last in _with_last(blocks):
            raw = decoder.getstate()[0] + block
            try:
                if not offset:
                    _check_mark(raw, self.encoding)
                text = decoder.decode(block, last)
                used = raw[: len(raw) - len(decoder.getstate()[0])]
                utf8 = used if self.encoding == UTF8 else text.encode()
            except UnicodeDecodeError as error:
                start = error.start if len(error.object) == len(raw) else 0
                line += raw[:start].decode(self.encoding, "ignore").count("\n")
                reason = f"{error.reason} at byte {offset + start}, line {line}"
                raise _Undecodable(reason, offset + start, raw, error) from error
            except UnicodeError as error:
                raise _Undecodable(str(error), offset, raw, None) from error
            offset += len(used)
            line += utf8.count(b"\n")
            yield Piece(text, utf8)

    def sift(self, raw: bytes) -> tuple[str, str]:
        """The text of one of many files; or no text, and why it is skipped."""
        wide = self.encoding.startswith(("utf-16", "utf-32"))
        if found := kind_of(raw):
            return "", found[0]
        if self.encoding == UTF8 and (other := wide_encoding(raw)):
            return "", f"{_plain(other)}, not UTF-8"
        if b"\0" in raw[:SNIFF] and not wide:
            return "", "binary"
        try:
            text = _strictly(raw, self.encoding)
        except UnicodeDecodeError as error:
            return "", f"not {_plain(self.encoding)} at byte {error.start}"
        except UnicodeError:
            return "", f"not {_plain(self.encoding)}"
        return ("", "binary") if wide and "\0" in text else (text, "")

    def command(self, path: str, encoding: str) -> str:
        """The command that reads this file in another encoding, to be pasted into a shell."""
        if len(self.corpus) == 1:  # several need not be in one encoding
            return f"charlm train {quoted(self.corpus[0])} --encoding {quoted(encoding)}"
        if path == "-":
            return f"pipe it through iconv -f {_for_iconv(encoding)} -t utf-8"
        return f"iconv -f {_for_iconv(encoding)} -t utf-8 {quoted(path)} > {quoted(path + '.utf8')}"

    def suggestion(self, raw: bytes, path: str) -> str:
        """What encoding these bytes are in, and the command that reads it; nothing where that is not certain."""
        if wide := wide_encoding(raw):
            return f"it is {_plain(wide)}: {self.command(path, wide)}"
        from charlm.text.guess import legacy_encoding

        found = legacy_encoding(raw)
        return f"it looks like {found}: {self.command(path, found)}" if found else ""

    def _advice(self, raw: bytes, path: str, error: UnicodeDecodeError) -> str:
        """How to go on with bytes that are not text in this encoding."""
        if self.encoding != UTF8 and decodes(raw, UTF8):
            several = len(self.corpus) > 1
            return f"it is UTF-8: {'all files must be in one encoding' if several else 'leave --encoding out'}"
        if b"\0" in raw[:SNIFF] and not wide_encoding(raw):
            return "it looks like a binary file: name a text file"
        if self.encoding == UTF8 and error.reason == "unexpected end of data":
            return "it ends inside a character, so it may be cut short: get the whole file"
        return self.suggestion(raw, path) or f"find out its encoding, and read it by that name: {_by_name(self)}"


def _by_name(reader: Reader) -> str:
    return "--encoding NAME" if reader.corpus else "iconv -f NAME -t utf-8"


def _for_iconv(encoding: str) -> str:
    """What iconv calls an encoding."""
    names = {"mac_roman": "macintosh", "utf-16-le": "utf-16le", "utf-16-be": "utf-16be"}
    return names.get(encoding, encoding.replace("_", "-"))


def kind_of(raw: bytes) -> tuple[str, str] | None:
    """What a file is that is no text, by its first bytes, and what to do with it; None where it may be a text."""
    for start, kind, hint in _KINDS:
        if raw.startswith(start):
            zipped = next((name for mark, name in _ZIPPED if mark in raw[:SNIFF]), "") if start[:2] == b"PK" else ""
            return (zipped, "save it as plain text first") if zipped else (kind, hint)
    return None


def wide_encoding(raw: bytes) -> str:
    """UTF-16 or UTF-32, if these bytes are that, by their byte order mark or without one; or nothing."""
    marked = next((name for mark, name in _MARKS if raw.startswith(mark) and decodes(raw, name)), "")
    return marked or unmarked_utf16(raw)


def unmarked_utf16(raw: bytes) -> str:
    """The byte order of UTF-16 without a mark, if these bytes are that, or nothing.

    In the alphabets below U+2000 and in punctuation every second byte of UTF-16 is 0x20 or less, and 0 for a space and
    a line end. A text in UTF-8 is not like that: nine of ten bytes at odd or even places, of them one in twenty NUL and
    more than are spaces, and hardly a NUL at the other places.

    >>> unmarked_utf16("Да, и".encode("utf-16-le")), unmarked_utf16(b"a text"), unmarked_utf16(bytes(8))
    ('utf-16-le', '', '')
    """
    marked = raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    if len(raw) < 4 or len(raw) % 2 or b"\0" not in raw or marked:
        return ""
    for first, name in ((1, "utf-16-le"), (0, "utf-16-be")):
        high, low = raw[first::2], raw[1 - first :: 2]
        nul = high.count(0)
        often = nul >= len(high) / 20 and nul > high.count(b" ") and nul >= 8 * low.count(0)
        if often and _up_to_space(high) >= 0.9 * len(high) and _up_to_space(low) <= 0.9 * len(low):
            return name if decodes(raw, name) else ""
    return ""


def _up_to_space(raw: bytes) -> int:
    return len(raw) - len(raw.translate(None, bytes(range(33))))


def decodes(raw: bytes, encoding: str) -> bool:
    """Whether these bytes are text in this encoding."""
    try:
        raw.decode(encoding)
    except UnicodeError:
        return False
    return True


def _check_mark(raw: bytes, encoding: str) -> None:
    """Raise UnicodeDecodeError where a text that needs a byte order mark begins with none."""
    if encoding in ("utf-16", "utf-32") and raw and not raw.startswith(tuple(mark for mark, _ in _MARKS)):
        raise UnicodeDecodeError(encoding, raw, 0, 2, "no byte order mark")  # Python would guess one


def _even(raw: bytes) -> bytes:
    return raw[: len(raw) - len(raw) % 2]


def _with_last(blocks: Iterable[bytes]) -> Iterator[tuple[bytes, bool]]:
    """Each block, and whether it is the last; one that is empty where there is none."""
    before: bytes | None = None
    for block in blocks:
        if before is not None:
            yield before, False
        before = block
    yield before or b"", True


def _strictly(raw: bytes, encoding: str) -> str:
    _check_mark(raw, encoding)
    text = raw.decode(encoding)
    if encoding != UTF8:
        text.encode()  # UTF-7, for one, can spell half a surrogate pair
    return text


def _plain(encoding: str) -> str:
    """A name of an encoding as people write it.

    >>> _plain("utf-16-le"), _plain("cp1252")
    ('UTF-16 (little-endian, without a byte order mark)', 'cp1252')
    """
    orders = {"utf-16-le": "little-endian", "utf-16-be": "big-endian"}
    if encoding in orders:
        return f"UTF-16 ({orders[encoding]}, without a byte order mark)"
    return encoding.upper() if encoding.startswith("utf-") else encoding
