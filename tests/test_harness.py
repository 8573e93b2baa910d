"""Models in the lm-evaluation-harness: what each kind of request gets, with and without the library."""

from __future__ import annotations

import importlib.util
import json
import math
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

import charlm
import charlm.harness
from charlm.errors import CharlmError, ConfigError
from charlm.harness import Requests, loading_options, register, sampling_options, stops, tokens_within
from charlm.text.sentencepiece import SentencePieceTokenizer

LIBRARY = importlib.util.find_spec("lm_eval") is not None
NEEDED = pytest.mark.skipif(not LIBRARY, reason="lm_eval is not installed")
TEXT = "".join(f"the {name} is here.\nthe {name}s are here.\n" for name in ("cat", "dog", "hen") for _ in range(40))
SMALL: dict[str, Any] = {"hidden": 24, "layers": 1, "device": "cpu", "precision": "fp32", "threads": 1, "dropout": 0}


@pytest.fixture(scope="module", params=["none", "line", "byte"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> charlm.LanguageModel:
    folder: Path = tmp_path_factory.mktemp("harness")
    (folder / "t.txt").write_text(TEXT)
    options: dict[str, Any] = {**SMALL, "tokenizer": "byte"} if request.param == "byte" else {**SMALL}
    options["records"] = "line" if request.param == "line" else "none"
    trained = charlm.train(folder / "t.txt", checkpoints=folder, steps=40, lr=0.02, progress=False, **options)
    return charlm.load(trained.checkpoint, device="cpu")


def before(model: charlm.LanguageModel) -> str:
    return "" if model.records == "line" else "\n"


def test_a_continuation_gets_what_the_text_gets_more_than_its_context(model: charlm.LanguageModel) -> None:
    requests = [("the cat", " is"), ("", "the dogs are"), ("the €", "£"), ("the cat is here.", "")]
    found = Requests(model).loglikelihood(requests)
    for (context, continuation), (logarithm, _) in zip(requests, found, strict=True):
        whole, start = (
            model.separate_nats([before(model) + text])[0].sum(dtype=np.float64)
            for text in (context + continuation, context)
        )
        assert logarithm == pytest.approx(start - whole, rel=1e-5, abs=1e-5)


def test_pairs_without_an_end_are_the_same(model: charlm.LanguageModel) -> None:
    pair = ("the cat is here", "the cat are here")
    (judged,) = model.pairs([pair], end="").judged
    found = Requests(model).loglikelihood([("", text) for text in pair])
    bits = [-logarithm / math.log(2) for logarithm, _ in found]
    assert bits == pytest.approx([judged.better.bits, judged.worse.bits], rel=1e-5)


def test_what_the_model_writes_greedily_is_greedy(model: charlm.LanguageModel) -> None:
    """By the decoder, which is other code: what it writes at temperature 0, and that with another last character."""
    for context in ("the cat", "", "the hens"):
        (text,) = Requests(model).generate_until([(context, {"max_gen_toks": 6})])
        assert text
        other = text[:-1] + ("x" if text[-1] != "x" else "y")
        greedy = [found for _, found in Requests(model).loglikelihood([(context, text), (context, other)])]
        assert greedy == [True, False]
    assert Requests(model).loglikelihood([("the cat", ""), ("the ca", "€")])[0][1]
    assert not Requests(model).loglikelihood([("the ca", "€")])[0][1]


def test_a_rolling_text_is_scored_as_a_text(model: charlm.LanguageModel) -> None:
    texts = ["the cat is here.", "the dog", "", "the cat is here. " * 30]
    one = charlm.load(model.path, device="cpu", records="none")
    expected = [-one.score(text, exact=True).nats if text else 0 for text in texts]
    assert Requests(model).loglikelihood_rolling(texts) == pytest.approx(expected, rel=1e-5)


def test_generation_ends_where_it_should(model: charlm.LanguageModel) -> None:
    ask = Requests(model).generate_until
    (whole,) = ask([("the cat", {"max_gen_toks": 8, "until": []})])
    assert whole == model.sample(prime=before(model) + "the cat", length=8, temperature=0)
    assert ask([("the cat", {"max_gen_toks": 8, "until": [whole[3:5], "never"]})]) == [whole[: whole.find(whole[3:5])]]
    sampled = {"max_gen_toks": 8, "do_sample": True, "temperature": 2.0, "until": "\n"}
    assert ask([("the", sampled)]) == ask([("the", sampled)])
    with pytest.raises(ConfigError):
        ask([("the", {"max_gen_toks": -3})])


def test_options_of_tasks_become_ours() -> None:
    assert sampling_options({}) == {"seed": 0, "length": 256, "temperature": 0.0}
    assert sampling_options({"do_sample": True, "max_new_tokens": 3, "seed": 7}) == {
        "seed": 7,
        "length": 3,
        "temperature": 1.0,
    }
    assert sampling_options({"do_sample": False, "temperature": 0.7})["temperature"] == 0
    assert sampling_options({"temperature": 0.7, "top_k": 4})["temperature"] == 0.7
    assert [stops("."), stops(["a", "", "b"]), stops(None)] == [["."], ["a", "b"], []]
    assert loading_options({"device": "cpu"}) == {"device": "cpu"}
    assert loading_options({"device": None, "batch_size": 1, "max_batch_size": 9, "threads": 2}) == {"threads": 2}


def test_a_token_of_context_and_continuation_is_the_continuations() -> None:
    tokenizer = SentencePieceTokenizer.train(TEXT, vocab_size=300, sentencepiece="bpe")
    text = "the cats are here."
    for cut in range(len(text) + 1):
        first = tokens_within(tokenizer, text, text[:cut])
        pieces = [tokenizer.pieces[number] for number in tokenizer.encode(text).ids]
        assert len(b"".join(pieces[:first])) <= cut
        assert first == len(pieces) or len(b"".join(pieces[: first + 1])) > cut


@pytest.mark.skipif(LIBRARY, reason="lm_eval is installed")
def test_without_the_library_one_line_says_how_to_get_it() -> None:
    with pytest.raises(CharlmError, match=r"pip install 'charlm-cli\[eval-harness\]'"):
        register()
    done = subprocess.run([sys.executable, "-m", "charlm.harness", "run"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)


def test_the_entry_point_names_the_class_of_models(
    model: charlm.LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a harness that looks for entry points loads it; here with a base class in the place of the library's."""
    (found,) = entry_points(group="lm_eval.models", name="charlm")
    library = ModuleType("lm_eval.api.model")
    library.LM = type("LM", (), {})  # type: ignore[attr-defined]
    for name in ("lm_eval", "lm_eval.api"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, library.__name__, library)
    charlm.harness._class_of_models.cache_clear()
    try:
        kind = found.load()
        assert f"{kind.__module__}:{kind.__qualname__}" == found.value
        requests = [SimpleNamespace(args=("the cat", " is"))]
        made = kind(pretrained=str(model.path), device="cpu", batch_size=1)
        assert made.loglikelihood(requests) == Requests(model).loglikelihood([requests[0].args])
    finally:
        charlm.harness._class_of_models.cache_clear()


TASK = """\
task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
doc_to_text: "{context}"
metadata:
  version: 1
"""
KINDS = {
    "charlm_pairs": ("", 'output_type: multiple_choice\ndoc_to_target: 0\ndoc_to_choice: "{{[good, bad]}}"\n'),
    "charlm_rolling": ("", 'output_type: loglikelihood_rolling\ndoc_to_target: "{{good}}"\n'),
    "charlm_generate": (
        "{{good}}",
        "output_type: generate_until\ndoc_to_target: end\ngeneration_kwargs: {until: [x]}\n",
    ),
}


@NEEDED
@pytest.mark.parametrize("model", ["none"], indirect=True)
@pytest.mark.filterwarnings("default")
def test_the_library_evaluates_local_tasks(
    model: charlm.LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own command, in a process of its own: accuracy of pairs, perplexity, generation."""
    pairs = [("the cat is here.", "the cat are here."), ("the dogs are here.", "the dogs is here.")]
    data = tmp_path / "pairs.jsonl"
    data.write_text("".join(json.dumps({"good": good, "bad": bad}) + "\n" for good, bad in pairs))
    for name, (context, rest) in KINDS.items():
        (tmp_path / f"{name}.yaml").write_text(TASK.format(name=name, data=data, context=context) + rest)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    names = ",".join(KINDS)
    command = f"run --model charlm --model_args pretrained={model.path},threads=1 --tasks {names}"
    more = ["--include_path", str(tmp_path), "--output_path", str(tmp_path / "out"), "--log_samples"]
    done = subprocess.run(
        [sys.executable, "-m", "charlm.harness", *command.split(), *more], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (path,) = (tmp_path / "out").rglob("results*.json")
    results = json.loads(path.read_text())["results"]
    judged = model.pairs(pairs, end="")
    assert results["charlm_pairs"]["acc,none"] == judged.total.accuracy
    nats = -sum(Requests(model).loglikelihood_rolling([good for good, _ in pairs]))
    size = sum(len(good) for good, _ in pairs)
    assert results["charlm_rolling"]["bits_per_byte,none"] == pytest.approx(nats / size / math.log(2), rel=1e-5)
    (path,) = (tmp_path / "out").rglob("samples_charlm_generate*.jsonl")
    written = [json.loads(line)["resps"] for line in path.read_text().splitlines()]
    expected = Requests(model).generate_until([(good, {"until": ["x"]}) for good, _ in pairs])
    assert written == [[[text]] for text in expected]
