"""Whether an exported model computes what charlm computes: its file, run in onnxruntime, beside the NumPy decoder.

Both read the same 1,000 characters with the state carried, and then three ids side by side: the start input, an unseen
character and a known one. At every position all log-probabilities p (of the file) and q (of the decoder) are compared:

    difference = max |p - q| / max(1, max |q|)

Both compute in float32, whose rounding is relative to the largest logit. Of trained models of all cells it is 3e-7 to
7e-7, and two swapped gates make it 0.4 and more (docs/log.md).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from charlm.config import SampleConfig
from charlm.errors import CharlmError
from charlm.generation.decoder import Decoder, NumpyDecoder
from charlm.generation.generate import generate
from charlm.storage.checkpoint import Checkpoint
from charlm.storage.provenance import own_corpus
from charlm.text.tokenizer import Tokenizer

TOLERANCE: Final = 1e-5
CHARACTERS: Final = 1000
_KEPT: Final = "nothing was written"
States = Mapping[str, NDArray[np.float32]]
Pair = tuple[float, float]  # relative, absolute


@dataclass(frozen=True, slots=True, kw_only=True)
class Parity:
    """How far the log-probabilities of an exported model are from charlm's.

    difference   the largest |p - q| / max(1, max |q|)
    nats         the largest |p - q|
    text         what was read: `validation text`, or `generated text` where that is missing or too short
    """

    difference: float
    nats: float
    characters: int
    text: str


class ExportedModel:
    """A file of `charlm export --format onnx` in onnxruntime; it knows nothing but the file."""

    def __init__(self, data: bytes) -> None:
        runtime = onnxruntime()
        options = runtime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session = runtime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        self.about: Mapping[str, str] = self._session.get_modelmeta().custom_metadata_map
        self._widths = {state.name: int(state.shape[1]) for state in self._session.get_inputs()[1:]}

    def init_state(self, lanes: int) -> States:
        """The zero state: arrays [B, H] by name."""
        names: list[str] = json.loads(self.about["states"])
        return {name: np.zeros((lanes, self._widths[name]), dtype=np.float32) for name in names}

    def step(self, ids: NDArray[np.int64], states: States) -> tuple[NDArray[np.float32], States]:
        """Logits [B, V] after an id [B] in each lane, and the states after it."""
        logits, *following = self._session.run(None, {"ids": ids, **states})
        return logits, dict(zip(states, following, strict=True))


def onnxruntime() -> Any:
    """The library onnxruntime; raises CharlmError where it is not installed."""
    try:
        import onnxruntime as library
    except ImportError as error:
        raise CharlmError(
            "export to ONNX needs the library onnxruntime, which is not installed: it checks the file",
            kept=_KEPT,
            hint="pip install 'charlm-cli[onnx]'",
        ) from error
    return library


def check_parity(data: bytes, checkpoint: Checkpoint, path: Path) -> Parity:
    """Compare a file with the checkpoint, read from `path`, that it was made of.

    Raises CharlmError if they differ by more than `TOLERANCE`, or a figure is not finite.
    """
    decoder, tokenizer = NumpyDecoder(checkpoint.config.model, checkpoint.weights), checkpoint.open_tokenizer()
    text, which = _text(checkpoint, path, decoder, tokenizer)
    ids = np.concatenate([[tokenizer.start], tokenizer.encode(text).ids]).astype(np.int64)
    differences = _differences(ExportedModel(data), decoder, ids, [tokenizer.start, tokenizer.unseen, 0])
    for position, (difference, _) in enumerate(differences):
        if not difference <= TOLERANCE:  # NaN is not
            raise CharlmError(
                f"the exported model does not compute what charlm does: at token {position:,} of the {which} "
                f"log-probabilities differ by {difference:.2g} of the largest, and {TOLERANCE:g} is allowed",
                kept=_KEPT,
                hint="try another version of onnxruntime",
            )
    relative, absolute = (max(column) for column in zip(*differences, strict=True))
    return Parity(difference=relative, nats=absolute, characters=len(text), text=which)


def _text(checkpoint: Checkpoint, path: Path, decoder: Decoder, tokenizer: Tokenizer) -> tuple[str, str]:
    """1,000 characters of the run's validation text, or else of a text that the model generates; and which it is."""
    with suppress(CharlmError):  # the text is missing, or has changed
        found = own_corpus(checkpoint, path).val[:CHARACTERS]
        if len(found) == CHARACTERS:
            return found, "validation text"
    config = SampleConfig(length=CHARACTERS, seed=0)
    return "".join(piece.text for piece in generate(decoder, tokenizer, config, prime="")), "generated text"


def _differences(model: ExportedModel, decoder: Decoder, ids: NDArray[np.int64], last: list[int]) -> list[Pair]:
    """The differences after each of these ids, and after the `last` ones, which are read side by side."""
    states, decoder_state = model.init_state(1), decoder.init_state(1)
    found = []
    for number in range(len(ids) + 1):
        if number < len(ids):
            now = ids[number : number + 1]
        else:
            now = np.array(last, dtype=np.int64)
            states = {name: np.repeat(part, len(last), axis=0) for name, part in states.items()}
            decoder_state = [tuple(np.repeat(part, len(last), axis=0) for part in layer) for layer in decoder_state]
        logits, states = model.step(now, states)
        expected, decoder_state = decoder.step(now, decoder_state)
        found.append(_difference(_log_softmax(logits), _log_softmax(expected)))
    return found


def _difference(p: NDArray[np.float64], q: NDArray[np.float64]) -> Pair:
    """The difference of log-probabilities [B, V], relative to the largest and in nats; NaN where one is not finite."""
    if p.shape != q.shape or not np.isfinite(p).all():
        return math.nan, math.nan
    largest = np.abs(p - q).max(axis=-1)
    return float((largest / np.maximum(1, np.abs(q).max(axis=-1))).max()), float(largest.max())


def _log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Log-probabilities [B, V], in double precision."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    found: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return found
