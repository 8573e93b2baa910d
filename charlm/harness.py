"""charlm models in EleutherAI's lm-evaluation-harness, as model `charlm` (`pip install 'charlm-cli[eval-harness]'`).

    lm-eval run --model charlm --model_args pretrained=novel --tasks blimp

finds the model by its entry point, in versions of the harness that look for those of other packages (after 0.4.13). In
all of them `python -m charlm.harness run ...` is the same command, to which the model is known. In a Python program:

    charlm.harness.register()
    lm_eval.simple_evaluate("charlm", model_args={"pretrained": "novel"}, tasks=["blimp"])

`pretrained` is a checkpoint as `charlm.load` takes it, the newest run if left out. Its options can be given, too
(checkpoints, precision, engine, threads, records). The device is the harness's `--device`; the batch size is chosen by
charlm.

What the three kinds of requests get, each read by itself:

    loglikelihood           ln P(continuation | context). As for minimal pairs (`charlm.evaluation.pairs`), a model of
                            one text first reads a line end. But no end is charged, as with `charlm pairs --end ''`
    loglikelihood_rolling   ln P of a text from the initial state, as `charlm eval --exact` scores one text
    generate_until          what `charlm sample` writes, greedily by default. It ends before the texts in `until`, where
                            a record ends, or after `max_gen_toks` characters

`Requests` computes this without the library, which is imported when a model is registered.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray

from charlm.api import LanguageModel, load
from charlm.config import SAMPLE_OPTIONS, check_sample
from charlm.errors import CharlmError
from charlm.text.tokenizer import Tokenizer, utf8

NAME: Final = "charlm"
_LENGTH: Final = 256  # characters to generate, if a task does not say how many
_DEFAULT_DEVICE: Final = "cuda:0"
_LENGTHS: Final = (
    "max_gen_toks",
    "max_new_tokens",
    "max_tokens",
    "max_completion_tokens",
)  # the harness's names for it


class Requests:
    """What the harness asks of a model, in plain types."""

    def __init__(self, model: LanguageModel) -> None:
        from charlm.evaluation.pairs import frame_of

        model.check_forward("the lm-evaluation-harness", "nothing was evaluated")
        self.model = model
        self._before = frame_of(model.tokenizer, model.records).before

    def loglikelihood(self, requests: Sequence[tuple[str, str]]) -> list[tuple[float, bool]]:
        """For each (context, continuation): ln P, and whether each token of the continuation is the most probable one.

        A token that belongs to both counts as the continuation's.
        """
        texts = [self._before + context + continuation for context, continuation in requests]
        read, greedy = self.model.separate_nats(texts), self.model.separate_greedy(texts)
        found = []
        for (context, _), text, nats, likeliest in zip(requests, texts, read, greedy, strict=True):
            first = tokens_within(self.model.tokenizer, text, self._before + context)
            found.append((-float(nats[first:].sum(dtype=np.float64)), bool(likeliest[first:].all())))
        return found

    def loglikelihood_rolling(self, texts: Sequence[str]) -> list[float]:
        """ln P of each text."""
        return [-float(nats.sum(dtype=np.float64)) for nats in self.model.separate_nats(texts)]

    def generate_until(self, requests: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str]:
        """For each (context, options): the text that the model writes after the context."""
        return [self._generate(context, options) for context, options in requests]

    def _generate(self, context: str, options: Mapping[str, Any]) -> str:
        config = check_sample(sampling_options(options))
        ends = stops(options.get("until"))
        text = ""
        for piece in self.model.stream(config, prime=self._before + context):
            text += piece.text
            if any(end in text for end in ends):
                break
        return text[: min((at for end in ends if (at := text.find(end)) >= 0), default=len(text))]


def tokens_within(tokenizer: Tokenizer, text: str, beginning: str) -> int:
    """How many tokens of a text lie wholly within its beginning.

    >>> from charlm.text.tokenizer import ByteTokenizer
    >>> tokens_within(ByteTokenizer(), "né!", "né")
    3
    """
    if tokenizer.one_per_character:
        return len(beginning)
    lengths = np.array([len(piece) for piece in tokenizer.pieces], dtype=np.int64)
    ends: NDArray[np.int64] = np.cumsum(lengths[tokenizer.encode(text).ids])
    return int(np.searchsorted(ends, len(utf8(beginning)), side="right"))


def stops(until: object) -> list[str]:
    """The texts that end a generated one, of the harness's option `until`: a text, or a list of them."""
    given = [until] if isinstance(until, str) else until if isinstance(until, list | tuple) else []
    return [end for end in given if isinstance(end, str) and end]


def sampling_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a task as those of `charlm.config.SampleConfig`; without do_sample or a temperature: greedily.

    The seed is 0 unless it is given, so that a task has the same result each time.

    >>> sampling_options({"until": ["\\n"], "max_gen_toks": 20, "top_p": 0.9})
    {'seed': 0, 'top_p': 0.9, 'length': 20, 'temperature': 0.0}
    """
    lengths = [given[name] for name in _LENGTHS if given.get(name) is not None]
    sampled = given.get("do_sample", bool(given.get("temperature")))
    own = {name: value for name, value in given.items() if name in SAMPLE_OPTIONS and name not in ("count", "length")}
    temperature = float(own.get("temperature", 1.0)) if sampled else 0.0
    return {"seed": 0, **own, "length": lengths[0] if lengths else _LENGTH, "temperature": temperature}


def register() -> type:
    """Make charlm's models known to the harness as `charlm`; returns their class there.

    Raises CharlmError if the library is not installed.
    """
    kind = _class_of_models()
    from lm_eval.api.registry import register_model

    return cast("type", register_model(NAME)(kind))


def __getattr__(name: str) -> type:
    """`CharlmLM`, which the entry point `lm_eval.models` names, made when it is asked for."""
    if name == "CharlmLM":
        return _class_of_models()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@cache
def _class_of_models() -> type:
    """The class of charlm's models in the harness; raises CharlmError if the library is not installed."""
    try:
        from lm_eval.api.model import LM
    except ModuleNotFoundError as error:
        raise CharlmError(
            f"the module {error.name} of the lm-evaluation-harness is not installed",
            kept="nothing was evaluated",
            hint="pip install 'charlm-cli[eval-harness]'",
        ) from error

    class CharlmLM(LM):  # type: ignore[misc] # the library may not be installed
        """A charlm model; see `charlm.harness`."""

        tokenizer_name = NAME

        def __init__(self, pretrained: str | None = None, **options: Any) -> None:
            super().__init__()
            self.requests = Requests(load(pretrained, **loading_options(options)))

        def loglikelihood(self, requests: Iterable[Any], **_: object) -> list[tuple[float, bool]]:
            return self.requests.loglikelihood([request.args for request in requests])

        def loglikelihood_rolling(self, requests: Iterable[Any], **_: object) -> list[float]:
            return self.requests.loglikelihood_rolling([request.args[0] for request in requests])

        def generate_until(self, requests: Iterable[Any], **_: object) -> list[str]:
            return self.requests.generate_until([request.args for request in requests])

        def get_model_info(self) -> dict[str, str]:
            return {"checkpoint": str(self.requests.model.path)}

    CharlmLM.__qualname__ = CharlmLM.__name__  # where the entry point finds it, which the harness compares
    return CharlmLM


def loading_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """The options of `charlm.load` among the harness's, which also has batch sizes.

    Its device is cuda:0 unless one is named, on every machine: here that is the GPU if there is one.

    >>> loading_options({"threads": 2, "batch_size": 1, "max_batch_size": None, "device": "cuda:0"})
    {'threads': 2, 'device': 'auto'}
    """
    own = {name: value for name, value in given.items() if value is not None and not name.endswith("batch_size")}
    return {**own, "device": "auto"} if own.get("device") == _DEFAULT_DEVICE else own


def main() -> None:
    """The harness's command."""
    try:
        register()
        from lm_eval.__main__ import cli_evaluate

        cli_evaluate()
    except CharlmError as error:
        print(f"charlm: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
