"""Short texts that a network writes while it is trained, for whoever watches, and the temperature to begin with."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from charlm.config import BACKWARD, FORWARD, ModelConfig, SampleConfig
from charlm.evaluation.temperature import suitable_temperature
from charlm.generation.decoder import Decoder, Weights
from charlm.generation.engine import open_decoder
from charlm.generation.generate import collect, generate
from charlm.text.direction import turned
from charlm.text.records import end_of
from charlm.text.stored import StoredIds, Text
from charlm.text.tokenizer import Ids, Tokenizer

EVERY: Final = 15.0  # seconds, at least, between two samples
SAMPLE: Final = SampleConfig(length=160, temperature=0.8, seed=0)


class Samples:
    """Says when a sample is due, and makes it; nothing of it has an effect on what is learned."""

    def __init__(
        self,
        config: ModelConfig,
        tokenizer: Tokenizer,
        *,
        records: str = "none",
        direction: str = FORWARD,
        now: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._config, self._tokenizer, self._records, self._now = config, tokenizer, records, now
        self._backward = direction == BACKWARD
        self._last = now()

    def due(self) -> bool:
        return self._now() - self._last >= EVERY

    def sample(self, weights: Weights) -> str:
        """A text of `SAMPLE`'s length, or to where the model stops, written with these weights."""
        end = end_of(self._records)
        prime = "" if end else None  # a record begins with the start input, a text where a line does
        decoder = self._decoder(weights)
        text = collect(generate(decoder, self._tokenizer, SAMPLE, prime=prime, stops=(end,)), 1)[0]
        self._last = self._now()
        return turned(text) if self._backward else text

    def temperature(self, weights: Weights, train: Ids | StoredIds, validation: Text) -> float | None:
        """The temperature to begin with, for whoever samples with these weights; None where that cannot be said."""
        found = suitable_temperature(self._decoder(weights), self._tokenizer, train, validation, records=self._records)
        return found.temperature if found else None

    def _decoder(self, weights: Weights) -> Decoder:
        return open_decoder(self._config, weights, threads=1)
