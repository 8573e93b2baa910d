"""A text's figures as the page's script reads them: columns of whole numbers, deflated and in base64.

A column travels byte by byte: all low bytes, then all higher ones, which packs well since neighbours are alike. Bits
are q / 500, probabilities (q / 4095)^2.
"""

from __future__ import annotations

import base64
import math
import zlib
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from charlm.evaluation.surprisal import Surprisal
from charlm.report.levels import sign
from charlm.report.words import INVISIBLE
from charlm.text.tokenizer import Tokenizer

_MOST: Final = 65535  # of two bytes: 131 bits and more, or none


class Packed(NamedTuple):
    """The first units' figures: their number, the bytes of each column's numbers, and all columns."""

    units: int
    widths: list[int]
    packed: str


def pack(surprisal: Surprisal, units: int) -> tuple[Packed, set[int]]:
    """The first `units` units' figures, and the tokens that they name.

    Of each unit: bits, its length, its number of tokens, and of its first token the id, the ids of the k alternatives
    and their probabilities.
    """
    first = surprisal.first_tokens[:units]
    own, known = surprisal.ids[first], surprisal.likeliest
    ids = known.ids[first] if known is not None else np.zeros((units, 0), dtype=np.int32)
    roots = np.sqrt(known.probabilities[first]) if known is not None else np.zeros((units, 0))
    tokens = np.diff(np.append(surprisal.first_tokens, len(surprisal.ids)))[:units]
    bits = np.nan_to_num(surprisal.unit_nats[:units] / math.log(2) * 500, nan=_MOST, posinf=_MOST)
    columns = [np.rint(np.minimum(bits, _MOST)), np.diff(surprisal.starts[: units + 1]), np.minimum(tokens, 255), own]
    columns += [*ids.T, *np.rint(np.nan_to_num(roots.T) * 4095)]
    wide = 2 if units and max(own.max(), ids.max(initial=0)) > 255 else 1
    widths = [2, 4, 1, wide, *[wide] * ids.shape[1], *[2] * ids.shape[1]]
    raw = b"".join(_planes(column, width) for column, width in zip(columns, widths, strict=True))
    packed = base64.b64encode(zlib.compress(raw, 9)).decode()
    return Packed(units, widths, packed), {*own.tolist(), *np.unique(ids).tolist()}


def _planes(column: NDArray[np.generic], width: int) -> bytes:
    """Whole numbers [U] as `width` planes of U bytes."""
    return b"".join((column.astype(np.int64) >> 8 * plane & 255).astype(np.uint8).tobytes() for plane in range(width))


def token_name(tokenizer: Tokenizer, token: int) -> str:
    """What the page calls a token: its text with every character shown, or its bytes."""
    if token >= tokenizer.size:
        return "unknown"
    try:
        text = tokenizer.pieces[token].decode()
        return f"U+{ord(text):04X}" if text in INVISIBLE else "".join(map(sign, text)).replace(" ", "␣")
    except UnicodeDecodeError:
        return "byte " + tokenizer.pieces[token].hex(" ").upper()
