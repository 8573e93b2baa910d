"""A text that a person and a model write in turns, with the model's state kept from one turn to the next.

A turn reads what the person adds, and the model writes on after it. The state is always that after the text as it
stands: where the writing was stopped, what the decoder has sampled beyond that is not in it. Random numbers are those
of `charlm.generation.generate`: token t of text k uses u(seed, k, t). In a corpus of one text k is 0, so that turns in
which nothing is added write, together, what one sample of their common length would. In a corpus of records k counts
the records, so that they are those of one call with `count`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from charlm.config import SampleConfig
from charlm.generation.decoder import Decoder, DecoderState
from charlm.generation.generate import overlap
from charlm.generation.sampling import Floats, SamplingParameters
from charlm.runtime.random import Purpose, uniform
from charlm.text.records import end_of, printed_end
from charlm.text.tokenizer import Stream, Tokenizer

_MOST: Final = 16  # tokens that are sampled in one call: whoever stops the writing waits for them
_TURNS: Final = 100  # the last ones can be taken back


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a text stands: the model's logits [1, V] and state after it, and which random number comes next."""

    logits: Floats
    state: DecoderState
    number: int = 0  # of the text or record
    position: int = 0  # tokens drawn in it so far
    begins: int = 0  # the part with which the text begins
    behind: str = ""  # the stop text that would stand here


class Conversation:
    """A text that is read and written in turns; those of a model of records begin anew behind each record.

    text         all of it so far, records as they are printed
    """

    def __init__(self, decoder: Decoder, tokenizer: Tokenizer, records: str = "none") -> None:
        self._decoder, self._tokenizer = decoder, tokenizer
        self._end, self._between = end_of(records), printed_end(records)
        start = np.array([[tokenizer.start]])
        self._beginning = _Place(*decoder.after(start, decoder.init_state(1)))
        self._place = self._beginning
        self._parts: list[str] = []
        self._past: deque[tuple[int, _Place]] = deque(maxlen=_TURNS)

    @property
    def text(self) -> str:
        """The text so far."""
        return "".join(self._parts[self._place.begins :])

    def read(self, text: str) -> int:
        """Begin a turn with this text; returns how many of its characters the model has never seen.

        With an empty one the model simply goes on; where a stop text ended its last turn, behind that. Raises DataError
        for what is no Unicode text, which is not read.
        """
        text = text or self._place.behind
        unseen = len(self._tokenizer.encode(text).escaped)
        self._keep()
        *records, text = text.split(self._end) if self._end else [text]
        for record in records:
            self._end_record(record)
        self._advance(text, self._encode(text))
        return unseen

    def write(self, config: SampleConfig, stop: str = "") -> Generator[str, None, None]:
        """Write on, piece by piece: up to `config.length` characters, the text `stop` or the end of the record.

        Whoever closes the iterator earlier keeps what it has yielded.
        """
        settings = SamplingParameters(config.temperature, config.top_k, config.top_p, config.min_p)
        draft, steps = _Draft(config.length, self._end, stop, Stream(self._tokenizer)), 1
        logits, state, position = self._place.logits, self._place.state, self._place.position
        try:
            while not draft.done:
                numbers = self._numbers(config.seed, position, steps)
                tokens, logits, state = self._decoder.sample(logits, state, numbers, settings)
                position += len(tokens)
                piece = draft.push(tokens[:, 0].tolist())
                if draft.settled:
                    self._parts.append(draft.take())
                    self._place = replace(self._place, logits=logits, state=state, position=position, behind="")
                if piece:
                    yield piece
                steps = min(2 * steps, _MOST, max(1, draft.left))
        finally:
            self._settle(draft, stop)
        if draft.found == self._end and self._end:
            yield self._between

    def undo(self) -> str | None:
        """Take back the last turn, and return what it added; None if there is none."""
        if not self._past:
            return None
        parts, self._place = self._past.pop()
        taken = "".join(self._parts[parts:])
        del self._parts[parts:]
        return taken

    def begin(self) -> None:
        """Begin another text, in a turn of its own, which can be taken back."""
        self._keep()
        self._begin(len(self._parts))

    def _keep(self) -> None:
        self._past.append((len(self._parts), self._place))

    def _begin(self, begins: int) -> None:
        self._place = replace(self._beginning, number=self._place.number + 1, begins=begins)

    def _end_record(self, rest: str) -> None:
        self._parts.append(rest + self._between)
        self._begin(self._place.begins)

    def _encode(self, text: str) -> list[int]:
        return [int(token) for token in self._tokenizer.encode(text).ids]

    def _numbers(self, seed: int, position: int, steps: int) -> NDArray[np.float64]:
        """The uniform numbers [T, 1] of the next tokens."""
        where = range(position, position + steps)
        return np.array([[uniform(seed, Purpose.SAMPLE, at, self._place.number)] for at in where])

    def _advance(self, text: str, ids: list[int], drawn: int = 0, behind: str = "") -> None:
        """Add a text and read its ids; of the random numbers this many were used."""
        place = replace(self._place, position=self._place.position + drawn, behind=behind)
        if ids:
            logits, state = self._decoder.after(np.array(ids)[:, None], place.state)
            place = replace(place, logits=logits, state=state)
        self._place = place
        self._parts += [text] * bool(text)

    def _settle(self, draft: _Draft, stop: str) -> None:
        """Go to where the text ends that was shown, in a token or between two."""
        text, whole, rest = draft.kept
        if draft.found and draft.found == self._end:
            self._end_record(text)
            return
        drawn = len(draft.tokens) if draft.found else whole + bool(rest)
        if drawn:
            ids = [*draft.tokens[:whole], *self._encode(rest)]
            self._advance(text, ids, drawn, stop if draft.found else "")


class _Draft:
    """What the model writes in one turn, from where its state was known last.

    left      characters that it may still write
    found     the text that has ended it, if one has
    """

    def __init__(self, length: int, end: str, stop: str, stream: Stream) -> None:
        self.left, self._ends, self._stream = length, [text for text in (end, stop) if text], stream
        self.found, self.tokens = "", list[int]()
        self._text, self._after = "", list[int]()  # and how many characters there are after each token
        self._shown = 0

    @property
    def done(self) -> bool:
        return bool(self.found) or not self.left

    def push(self, tokens: list[int]) -> str:
        """The text that can be shown after these tokens; those behind the end are left out."""
        for token in tokens:
            self._push(token)
            if self.done:
                break
        held = 0 if self.done else max((overlap(self._text, end) for end in self._ends), default=0)
        before, self._shown = self._shown, len(self._text) - held
        return self._text[before : self._shown]

    def _push(self, token: int) -> None:
        fresh = self._stream.push(token)
        self.tokens.append(token)
        self._after.append(len(self._text) + len(fresh))
        self._text += fresh[: self.left]
        self.left -= len(fresh[: self.left])
        if found := [(at, end) for end in self._ends if (at := self._text.find(end)) >= 0]:
            at, self.found = min(found, key=lambda pair: pair[0])  # of two in one place the end of a record
            self._text = self._text[:at]

    @property
    def settled(self) -> bool:
        """Whether all tokens so far are shown, whole."""
        whole = bool(self._after) and self._after[-1] == self._shown > ([0, *self._after])[-2]
        return whole and not self.found and self._shown == len(self._text)

    def take(self) -> str:
        """The text, which is in the state by now; the draft goes on behind it."""
        text, self._text, self._shown = self._text, "", 0
        self.tokens.clear()
        self._after.clear()
        return text

    @property
    def kept(self) -> tuple[str, int, str]:
        """The text that was shown, the number of its whole tokens, and the part of one behind those."""
        text = self._text[: self._shown]
        if not text:
            return "", 0, ""
        last = bisect_left(self._after, len(text))
        if self._after[last] == len(text):
            return text, last + 1, ""
        return text, last, text[self._after[last - 1] if last else 0 :]
