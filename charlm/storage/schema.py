"""The metadata of a checkpoint: everything but the tensors, as one JSON text; docs/checkpoint.md lists its fields.

Anyone can make a file with a correct hash, so nothing in this text is trusted: its size once parsed is bounded, and
every field is validated before use. `_REQUIRED` is the schema.
"""

from __future__ import annotations

import json
import math
import reprlib
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any, Final

from charlm.errors import CheckpointError
from charlm.options import FORMS
from charlm.text.split import WAYS

FORMAT: Final = 1
Kind = Callable[[Any], bool]
Table = Mapping[str, Any]  # a JSON object from outside; what stands in it is checked before it becomes a record

# Parsed JSON can take a hundred times the memory of its text. The worst within these limits takes 235 MB, and what a
# text in 100,000 files needs lies within them.
_LARGEST: Final = 22 * 2**20
_MOST_ENTRIES: Final = 620_000
_DEEPEST: Final = 32


def to_json(value: Mapping[str, object]) -> str:
    """Canonical JSON: sorted names, no spaces, ASCII; raises ValueError for a number that is not finite."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def too_large(text: str) -> bool:
    """Whether parsing this JSON could take more memory than a checkpoint may."""
    return len(text) > _LARGEST or sum(map(text.count, "[{,")) > _MOST_ENTRIES


def from_json(text: str) -> Table:
    """The metadata as a table in which every required field is present and of the right type.

    Raises CheckpointError for every other text.
    """
    if too_large(text):
        raise CheckpointError("its metadata is too large")
    try:
        table: Any = json.loads(text, parse_float=_finite, parse_constant=_finite) if text.isascii() else None
    except (ValueError, RecursionError) as error:
        raise CheckpointError("its metadata cannot be read") from error
    if not isinstance(table, dict) or _deeper(table, _DEEPEST):
        raise CheckpointError("its metadata cannot be read")
    if (found := table.get("format")) != FORMAT or not _count(found):
        raise CheckpointError(f"it has format {reprlib.repr(found)}; this charlm reads format {FORMAT}")
    training = table.get("training")
    whole = isinstance(training, dict) and "plan" in training
    fault = _fault(table, {**_REQUIRED, "training": _TRAINING if whole else _MODEL_ALONE})
    if fault is not None:
        raise CheckpointError(f"its metadata is invalid: {fault[1:]} is missing or of the wrong type")
    return table


def row_from_json(line: bytes) -> Table:
    """A row of metrics.jsonl, in which every field is present and of the right type; raises ValueError otherwise."""
    return _line_of(line, _ROW)


def sample_from_json(line: bytes) -> Table:
    """The same of a row of samples.jsonl."""
    return _line_of(line, _SAMPLE)


def _line_of(line: bytes, shape: Table) -> Table:
    try:
        row: Any = json.loads(line, parse_float=_finite, parse_constant=_finite)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if (fault := _fault(row, shape)) is not None:
        raise ValueError(f"{fault[1:]} is missing or of the wrong type")
    return {name: row[name] for name in shape}


def _finite(digits: str) -> float:
    if not math.isfinite(number := float(digits)):
        raise ValueError(digits)
    return number


def _deeper(value: object, levels: int) -> bool:
    """Whether tables and lists are nested more than so many levels deep."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return any(not levels or _deeper(part, levels - 1) for part in inner if isinstance(part, (dict, list)))


def _fault(value: Any, shape: Any) -> str | None:
    """Where a value violates a schema such as `_REQUIRED`, as .name.name[0], or None.

    >>> _fault({"seconds": 1, "inexact": ["cpu", 3]}, _REQUIRED["bookkeeping"])
    '.metrics_length'
    >>> _fault({"seconds": 1, "metrics_length": 9, "inexact": ["cpu", 3]}, _REQUIRED["bookkeeping"])
    '.inexact[1]'
    """
    match shape:
        case tuple():
            faults = [_fault(value, each) for each in shape]
            return None if None in faults else faults[-1]
        case dict() if isinstance(value, dict):
            for name, inner in shape.items():
                key = name.removesuffix("?")
                if key not in value:
                    if key == name:
                        return f".{key}"
                elif (fault := _fault(value[key], inner)) is not None:
                    return f".{key}{fault}"
            return None
        case [inner] if isinstance(value, list):
            return next((f"[{i}]{f}" for i, part in enumerate(value) if (f := _fault(part, inner)) is not None), None)
    return None if callable(shape) and shape(value) else ""


def _text(value: object) -> bool:
    return isinstance(value, str)


def _flag(value: object) -> bool:
    return isinstance(value, bool)


def _count(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _several(value: object) -> bool:
    return _count(value) and value != 0


def _number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -1e300 < value < 1e300


def _seconds(value: Any) -> bool:
    return _number(value) and 0 <= value < 1e12


def _positive(value: Any) -> bool:
    return _number(value) and value > 0


def _none(value: object) -> bool:
    return value is None


def _zero(value: object) -> bool:
    return _count(value) and value == 0


def _nothing(value: object) -> bool:
    return value == {}


def _device(value: object) -> bool:
    return isinstance(value, str) and FORMS["device"].pattern.fullmatch(value) is not None


def _precision(value: object) -> bool:
    return isinstance(value, str) and value in ("fp32", "tf32", "bf16", "fp16")


def _split(value: object) -> bool:
    return isinstance(value, str) and value in WAYS


def _position(value: object) -> bool:
    return isinstance(value, dict) and value.keys() == {"epoch", "shift", "offset"} and all(map(_count, value.values()))


def _pairs(value: object, first: Kind, second: Kind) -> bool:
    return isinstance(value, list) and all(
        isinstance(pair, list) and len(pair) == 2 and first(pair[0]) and second(pair[1]) for pair in value
    )


def _rollbacks(value: object) -> bool:
    """The step that diverged, and the one rolled back to."""
    return _pairs(value, _count, _count)


def _step_losses(value: object) -> bool:
    """Nats and tokens of the last steps."""
    return _pairs(value, _number, _several)


def _some_step_losses(value: object) -> bool:
    return value != [] and _step_losses(value)


def _plan(value: Any) -> bool:
    """Knots (step, progress) from (0, 0) to (total, 1); only the last may be at the step of the one before."""
    if not _pairs(value, _count, _number) or len(value) < 2 or value[0] != [0, 0] or value[-1][1] != 1:
        return False
    rising = all(a[0] < b[0] and a[1] <= b[1] <= 1 for a, b in pairwise(value[:-1]))
    return rising and bool(value[-2][0] <= value[-1][0] and value[-1][0] >= 1)


# The schema of the metadata. {..} is a table with these names, of which those with ? may be missing; [x] a list
# of x; (x, y) is x or y; a function says yes or no. Other names are ignored.
_LOSS: Final = (_none, _number)
_RESULT: Final = {
    **dict.fromkeys(("steps", "characters_seen"), _count),
    "train_loss": _number,
    "seconds": _seconds,
    "best_val_loss": _LOSS,
    "characters_per_second?": (_none, _count),
    "test_loss?": _LOSS,
    "test_bits_per_character?": _LOSS,
    "temperature?": (_none, _number),
    "planned_steps?": (_none, _count),
    "closing_seconds?": (_none, _seconds),
    "stopped": _flag,
}
_REQUIRED: Final[Table] = {
    "config": {"model": {}, "data": {}, "optim": {}, "train": {}},
    "tokenizer": {"kind": _text},
    "bookkeeping": {
        "seconds": _seconds,
        "metrics_length": _count,
        "samples_length?": _count,
        "inexact?": [_text],
        "init_from?": _text,
    },
    "history": [
        {
            **dict.fromkeys(("step", "characters_seen?", "characters_per_second?"), _count),
            **dict.fromkeys(("train_loss", "val_loss"), _number),
            "seconds": _seconds,
        }
    ],
    "corpus": {
        "fingerprint": _text,
        "train_characters": _count,
        "val_characters": _count,
        "test_characters?": _count,
        "split?": _split,
        "sources": [
            {
                **dict.fromkeys(("path", "sha256"), _text),
                **dict.fromkeys(("bytes", "characters"), _count),
                **dict.fromkeys(("held_out", "test?"), _flag),
            }
        ],
    },
    "environment": {
        **dict.fromkeys(("python", "torch", "reason", "system?", "device_name?"), _text),
        "device": _device,
        "threads": _several,
        "processes?": _several,
        "precision": _precision,
    },
    "result": (
        _nothing,
        {**_RESULT, "val_loss": _none},
        {**_RESULT, "val_loss": _number, "val_bits_per_character": _number, "val_perplexity": _LOSS},
    ),
}
_ROW: Final[Table] = {
    **dict.fromkeys(("step", "characters_seen", "characters_per_second"), _count),
    **dict.fromkeys(("train_loss", "lr"), _number),
    **dict.fromkeys(("val_loss", "grad_norm"), _LOSS),
    "seconds": _seconds,
}
_SAMPLE: Final[Table] = {"step": _count, "seconds": _seconds, "text": _text}
_MODEL_ALONE: Final = {"step": _count, "best": _LOSS}
_STATE: Final = {
    "plan": _plan,
    "position": _position,
    **dict.fromkeys(("checks", "tokens_seen", "best_step", "bad_checks", "good_steps"), _count),
    "best": _LOSS,
    "loss_scale": _positive,
    "stopped": _flag,
    "unsettled?": [_text],
    "rollbacks?": _rollbacks,
    "seed?": _count,
    "validation_characters?": _count,
    "start?": _number,
    "optimizer?": {},
}
_TRAINING: Final = (
    {**_STATE, "step": _zero, "recent": _step_losses},
    {**_STATE, "step": _several, "recent": _some_step_losses},
)
