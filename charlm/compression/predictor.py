"""What a model expects to come next in a text, to the last bit the same for who compresses and who decompresses.

Both compute the same probabilities, token by token, with the same calls; sums have one order whatever the number of
threads. A character outside the vocabulary is the escape and two more choices: which block of 1024 of the other
characters, and which character in it.
"""

from __future__ import annotations

import platform
from functools import cached_property
from hashlib import sha256
from importlib import metadata
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from charlm.compression.coder import Coder, choose, uniform
from charlm.compression.container import BUILD, ENGINES, MODEL
from charlm.config import ModelConfig
from charlm.errors import CharlmError
from charlm.generation.compiled import CompiledDecoder, kernel_for
from charlm.generation.decoder import Decoder, NumpyDecoder, Weights
from charlm.generation.engine import open_decoder
from charlm.runtime import processor
from charlm.storage.checkpoint import Checkpoint
from charlm.text.records import end_token
from charlm.text.tokenizer import Tokenizer

_BLOCK: Final = 1024  # characters of a block of those outside the vocabulary
_KEPT: Final = "nothing was written"


class Engine:
    """A checkpoint with a decoder whose results do not depend on the number of threads.

    `build` identifies everything that decides how numbers are rounded: the machine code of the compiled decoder or the
    version of NumPy, the version of constriction, and the architecture and instruction sets of the processor.
    """

    def __init__(self, checkpoint: Checkpoint, engine: str = "auto") -> None:
        self.tokenizer: Tokenizer = checkpoint.open_tokenizer()
        self.end = end_token(self.tokenizer, checkpoint.config.data.records)
        self.model = bytes.fromhex(checkpoint.state_sha256)[:MODEL]
        weights = {name: np.asarray(weight).view(_InOrder) for name, weight in checkpoint.weights.items()}
        self.decoder: Decoder = _open(checkpoint.config.model, weights, engine)
        self.name = ENGINES[not isinstance(self.decoder, CompiledDecoder)]
        parts = [self.name, np.__version__, metadata.version("constriction"), platform.machine()]
        parts += sorted(processor.features())
        if self.name == "compiled":
            parts.append(kernel_for(checkpoint.config.model).digest)
        self.build = sha256("\n".join(parts).encode()).digest()[:BUILD]

    @cached_property
    def others(self) -> NDArray[np.int32]:
        """The code points outside a character vocabulary, in order."""
        outside = np.ones(0x110000, dtype=bool)
        outside[0xD800:0xE000] = False
        outside[[ord(piece.decode()) for piece in self.tokenizer.pieces]] = False
        return np.flatnonzero(outside).astype(np.int32)


def _open(config: ModelConfig, weights: Weights, engine: str) -> Decoder:
    if engine != "numpy":
        decoder = open_decoder(config, weights, engine=engine)
        if isinstance(decoder, CompiledDecoder):
            return decoder
    return _OrderedDecoder(config, weights)


class _InOrder(np.ndarray[Any, np.dtype[Any]]):
    """A matrix whose products are summed in a fixed order. BLAS would split the sums among threads."""

    def __rmatmul__(self, rows: Any) -> Any:
        return np.einsum("bi,ij->bj", np.ascontiguousarray(rows), np.ascontiguousarray(self), optimize=False)


class _OrderedDecoder(NumpyDecoder):
    def _matrix(self, weight: NDArray[Any]) -> NDArray[np.float32]:
        return super()._matrix(weight).view(_InOrder)


class Predictor:
    """A model reading a text token by token, identically when compressing and decompressing."""

    def __init__(self, model: Engine) -> None:
        self._model, self._escape = model, model.tokenizer.escape
        self._state = model.decoder.init_state(1)
        self._read(model.tokenizer.start)

    def _read(self, token: int) -> None:
        if token == self._model.end:  # a record has ended, and the next knows nothing of it
            token, self._state = self._model.tokenizer.start, self._model.decoder.init_state(1)
        logits, self._state = self._model.decoder.step([token], self._state)
        row = logits[0].astype(np.float64)
        if not np.isfinite(row).all():
            raise CharlmError("the model's outputs are not finite numbers", kept=_KEPT, hint="charlm verify checks it")
        self._logits = row - row.max()
        self._terms = np.exp(self._logits)
        self._total = float(self._terms.sum())

    def nats(self, token: int) -> float:
        """-ln P of this token in nats, escape included, as in scores."""
        tokenizer = self._model.tokenizer
        if token == tokenizer.unseen:
            return tokenizer.unseen_nats
        return float(np.log(self._total) - self._logits[token]) + tokenizer.known_nats

    def choose(self, coder: Coder, token: int = -1, point: int = 0) -> tuple[int, int]:
        """Code or decode the next token, and its code point if it is unseen, and let the model read it.

        A writer is given both; a reader returns them.
        """
        tokenizer = self._model.tokenizer
        shares = self._terms * ((1 - self._escape) / self._total)
        if self._escape:
            shares = np.append(shares, self._escape)
        token = choose(coder, shares, min(token, tokenizer.size))
        if token == tokenizer.size:
            token, point = tokenizer.unseen, self._choose_other(coder, point)
        self._read(token)
        return token, point

    def _choose_other(self, coder: Coder, point: int) -> int:
        others = self._model.others
        block, place = divmod(int(np.searchsorted(others, point)), _BLOCK)
        block = coder.choose(uniform(-(-len(others) // _BLOCK)), block)
        place = coder.choose(uniform(min(_BLOCK, len(others) - _BLOCK * block)), place)
        return int(others[_BLOCK * block + place])
