"""Choices among possibilities of given probabilities, as bits: entropy coding.

The entropy coder is the range variant of asymmetric numeral systems (Duda 2013, arXiv:1311.2540) in the library
constriction (Bamler 2022, arXiv:2201.01741). It codes integers: each choice is an interval [begin, begin + frequency)
of [0, 2^24), and takes about log2(2^24 / frequency) bits. It is a stack: what is decoded first is coded last, so that
two numbers for each choice of a block are in memory.

Frequencies (`_frequencies`). Of n possibilities with probabilities P, each gets floor(P (2^24 - n)) + 1, at least 1,
and the most probable one what is left, so that they add up to 2^24. In a scale of 16 instead of 2^24, with P = 0.7,
0.2 and 0.1: n = 3 and floor(P * 13) = 9, 2, 1; the rest of 1 goes to the first: 10, 2, 1; plus 1 each: 11, 3, 2.

Two-level choice (`choose`). With a large vocabulary the 1s would take probability away from the likely tokens. Tokens
with P < 2^-12 are therefore combined into one possibility of a first choice; only if that is chosen, a second choice
says which of them. At most 4096 tokens are in the first one. With P = 0.9, 0.0999, and two of 0.00005: the first choice
is among 0.9, 0.0999 and 0.0001 (any other), the second between 0.5 and 0.5.

A choice takes at most -ln(1 - n / 2^24) nats more than -ln P: at most 2.4e-4 nats with 4096 tokens in the first choice,
1e-7 where the model is certain, and 0.004, on top of 8.3, for a second choice among 65,536.

This module knows nothing of texts, models or files.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from charlm.errors import CharlmError

_WHOLE: Final = 1 << 24  # the sum of the frequencies of a choice; the precision of the library
_RARE: Final = 2.0**-12  # possibilities below this probability share one of the first choice
Shares = NDArray[np.float64]


def uniform(number: int) -> Shares:
    """The probabilities of so many possibilities that are equally likely."""
    return np.full(number, 1 / number)


def choose(coder: Coder, shares: Shares, wanted: int) -> int:
    """Code or decode one of the possibilities: the rare ones by a second choice among themselves."""
    rare = shares < _RARE
    seconds = np.flatnonzero(rare)
    if not len(seconds):
        return coder.choose(shares, wanted)
    firsts = np.flatnonzero(~rare)
    among, together = shares[seconds], float(shares[seconds].sum())
    first = len(firsts) if wanted < 0 or rare[wanted] else int(np.searchsorted(firsts, wanted))
    first = coder.choose(np.append(shares[firsts], together), first)
    if first < len(firsts):
        return int(firsts[first])
    return int(seconds[coder.choose(among / (together or 1), int(np.searchsorted(seconds, wanted)))])


def _frequencies(shares: Shares) -> NDArray[np.int64]:
    """The frequencies, each less 1, of at least two possibilities whose probabilities sum to about 1.

    They add up to 2^24 - n; what rounding down leaves goes to the most probable one.
    """
    left = _WHOLE - len(shares)
    frequencies = (shares * left).astype(np.int64)
    frequencies[shares.argmax()] += left - int(frequencies.sum())
    return frequencies


class Coder:
    """A sequence of choices, each an interval of [0, 2^24).

    The library takes the weights of n possibilities as floats, scales them to a sum of 2^24 - n, and begins the
    interval of possibility i at floor(sum of the first i) + i. Integers that add up to 2^24 - n are exact as 24-bit
    floats, and so are their sums, so that the intervals are exactly those of `_frequencies`.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._intervals = array("I")

    def choose(self, shares: Shares, wanted: int) -> int:
        """The possibility that is coded: the wanted one when writing, the decoded one when reading."""
        raise NotImplementedError

    def _note(self, frequencies: NDArray[np.int64], chosen: int) -> None:
        self._intervals.extend((int(frequencies[:chosen].sum()) + chosen, int(frequencies[chosen]) + 1))

    def _categorical(self, frequencies: Sequence[int] | NDArray[np.int64]) -> Any:
        return self._stream.model.Categorical(np.asarray(frequencies, dtype=np.float32), perfect=False)

    def code(self) -> bytes:
        """The code of all choices so far. The coder is a stack, so they are coded from the last to the first.

        Each is coded as one of at most three possibilities: before the interval, the interval, after it.
        """
        coder = self._stream.stack.AnsCoder()
        for i in range(len(self._intervals) - 2, -1, -2):
            begin, frequency = self._intervals[i], self._intervals[i + 1]
            parts = [part - 1 for part in (begin, frequency, _WHOLE - begin - frequency) if part]
            coder.encode_reverse(int(begin > 0), self._categorical(parts))
        return bytes(coder.get_compressed().astype("<u4").tobytes().rstrip(b"\0"))


class Encoder(Coder):
    """Takes choices that are coded later."""

    def choose(self, shares: Shares, wanted: int) -> int:
        if len(shares) > 1:
            self._note(_frequencies(shares), wanted)
        return wanted


class Decoder(Coder):
    """Finds the choices that a code stands for; its own `code` is that of the choices found."""

    def __init__(self, stream: Any, code: bytes) -> None:
        super().__init__(stream)
        code = code.rstrip(b"\0")  # the library takes no zero word at the end
        words = np.frombuffer(code + bytes(-len(code) % 4), dtype="<u4")
        self._coder = stream.stack.AnsCoder(words.astype(np.uint32))

    def choose(self, shares: Shares, wanted: int) -> int:  # noqa: ARG002
        if len(shares) == 1:
            return 0
        frequencies = _frequencies(shares)
        chosen = int(self._coder.decode(self._categorical(frequencies)))
        self._note(frequencies, chosen)
        return chosen


def library() -> Any:
    """The stream coders of constriction; raises CharlmError if it is not installed."""
    try:
        import constriction
    except ImportError as error:
        raise CharlmError(
            "compression needs the library constriction, which is not installed",
            kept="nothing was written",
            hint="pip install constriction",
        ) from error
    return constriction.stream
