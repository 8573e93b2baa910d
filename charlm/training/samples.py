"""Short texts that a network writes while it is trained, for whoever watches."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from charlm.config import ModelConfig, SampleConfig
from charlm.generation.decoder import Weights
from charlm.generation.engine import open_decoder
from charlm.generation.generate import collect, generate
from charlm.text.tokenizer import Tokenizer

EVERY: Final = 15.0  # seconds, at least, between two samples
SAMPLE: Final = SampleConfig(length=160, temperature=0.8, seed=0)


class Samples:
    """Says when a sample is due, and makes it; nothing of it has an effect on what is learned."""

    def __init__(
        self,
        config: ModelConfig,
        tokenizer: Tokenizer,
        *,
        stop: str = "",
        now: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._config, self._tokenizer, self._stop, self._now = config, tokenizer, stop, now
        self._last = now()

    def due(self) -> bool:
        return self._now() - self._last >= EVERY

    def sample(self, weights: Weights) -> str:
        """A text of `SAMPLE`'s length, or to where the model stops, written with these weights."""
        decoder = open_decoder(self._config, weights, threads=1)
        prime = "" if self._stop else None  # a record begins with the start input, a text where a line does
        text = collect(generate(decoder, self._tokenizer, SAMPLE, prime=prime, stops=(self._stop,)), 1)[0]
        self._last = self._now()
        return text
