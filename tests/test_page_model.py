"""The page's model and sampler, run in Node.js, against charlm's own; without Node.js these tests are skipped."""

from __future__ import annotations

import base64
import json
import math
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
from oracles import random_network, synthetic_text

from charlm.config import DataConfig, ModelConfig, SampleConfig
from charlm.evaluation.surprisal import surprisal
from charlm.generation.decoder import Decoder, NumpyDecoder
from charlm.generation.generate import collect, generate
from charlm.generation.sampling import distribution, next_token
from charlm.inspection.subject import open_network, reading
from charlm.inspection.trace import memories
from charlm.models.network import Network, export_weights
from charlm.report.cells import levels
from charlm.report.levels import sign
from charlm.report.page import bundle
from charlm.report.page.model_page import describe_network, describe_tokenizer
from charlm.report.page.weights import CELLS, pack_weights
from charlm.runtime.random import Purpose, philox, uniform
from charlm.text.records import as_records, end_of
from charlm.text.tokenizer import Tokenizer, train_tokenizer

NODE: Final = shutil.which("node")
FOLDER: Final = Path(bundle.__file__).parent
LEARNED: Final = synthetic_text(3000, seed=61)
Ask = Callable[..., Any]

pytestmark = pytest.mark.skipif(NODE is None, reason="there is no Node.js")


@pytest.fixture(scope="module")
def ask(tmp_path_factory: pytest.TempPathFactory) -> Ask:
    """A function that gives tests/page_driver.js a task, beside copies of the page's modules."""
    folder = tmp_path_factory.mktemp("modules")
    for path in [*FOLDER.glob("*.js"), Path(__file__).with_name("page_driver.js")]:
        shutil.copy(path, folder)
    (folder / "package.json").write_text('{"type": "module"}')

    def run(what: str, **task: Any) -> Any:
        done = subprocess.run(
            [str(NODE), str(folder / "page_driver.js")],
            input=json.dumps({"what": what, **task}),
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


def of(network: Network, precision: str = "fp32") -> dict[str, Any]:
    """A network as the page has it."""
    packed = pack_weights(network.config, export_weights(network), precision)
    about = describe_network(network.config, network.vocabulary, packed)
    return {"network": about, "weights": base64.b64encode(packed.data).decode()}


def decoder(network: Network, precision: str = "fp32") -> NumpyDecoder:
    return NumpyDecoder(network.config, export_weights(network), precision)


def options(config: SampleConfig) -> dict[str, float]:
    return {"temperature": config.temperature, "topK": config.top_k, "topP": config.top_p, "minP": config.min_p}


def logits_after(model: Decoder, ids: list[int]) -> Any:
    return model.read(np.array(ids)[:, None], model.init_state(1))[0][:, 0]


def test_random_numbers_are_charlms(ask: Ask) -> None:
    """The authors' known answers, and any seed, position and number of 64, 53 and 32 bits."""
    ones = 2**32 - 1
    digits = [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344, 0xA4093822, 0x299F31D0]
    counters = [[0] * 6, [ones] * 6, digits]
    assert ask("philox", counters=counters) == [list(philox(tuple(c[:4]), tuple(c[4:]))) for c in counters]  # type: ignore[arg-type]
    assert ask("philox", counters=[[0] * 6])[0][0] == 0x6627E8D5
    draw = np.random.default_rng(1)
    places = [(0, 0, 0), (2**63 - 1, 2**53 - 1, ones), (7, 2**32, 1)]
    places += [tuple(int(draw.integers(0, most)) for most in (2**63 - 1, 2**40, 2**32)) for _ in range(200)]  # type: ignore[misc]
    found = ask("uniform", places=[[str(seed), position, number] for seed, position, number in places])
    assert found == [uniform(seed, Purpose.SAMPLE, position, number) for seed, position, number in places]


@pytest.mark.parametrize(
    "config",
    [
        SampleConfig(),
        SampleConfig(temperature=0),
        SampleConfig(temperature=1e-30),
        SampleConfig(temperature=0.7, top_k=4),
        SampleConfig(temperature=1.3, top_p=0.8),
        SampleConfig(min_p=0.2),
        SampleConfig(temperature=1.1, top_k=7, top_p=0.9, min_p=0.05),
        SampleConfig(top_k=1),
    ],
)
def test_a_number_selects_the_token_that_it_selects_in_charlm(ask: Ask, config: SampleConfig) -> None:
    draw = np.random.default_rng(2)
    logits = draw.normal(0, 2, (400, 23)).astype(np.float32).round(1)  # with equal ones among them
    uniforms = draw.random(400)
    settings = {"temperature": config.temperature, "top_k": config.top_k, "top_p": config.top_p, "min_p": config.min_p}
    expected = [next_token(row, u, **settings) for row, u in zip(logits, uniforms, strict=True)]  # type: ignore[arg-type]
    assert ask("tokens", logits=logits.tolist(), uniforms=uniforms.tolist(), options=options(config)) == expected


def test_the_likeliest_tokens_are_the_largest_logits(ask: Ask) -> None:
    logits = np.random.default_rng(3).normal(0, 3, 50).astype(np.float32)
    ids, probabilities, total = ask("likeliest", logits=logits.tolist(), k=10)
    p = distribution(logits)
    assert ids == np.argsort(-logits)[:10].tolist()
    np.testing.assert_allclose(probabilities, np.sort(p)[::-1][:10], rtol=1e-5)
    assert total == pytest.approx(float(np.log(np.exp(logits.astype(np.float64)).sum())), abs=1e-9)


@pytest.mark.parametrize("fast", [True, False], ids=["wasm", "javascript"])
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize(
    "shape",
    [{"layers": 1, "embedding": 0}, {"layers": 3, "embedding": 5}, {"layers": 3, "embedding": 24, "skip": True}],
)
def test_logits_are_the_decoders(ask: Ask, cell: str, shape: dict[str, Any], fast: bool) -> None:
    """After the start, a character that was never seen, and others; units and vocabulary fill no whole block."""
    vocabulary, hidden = 21, 19
    network = random_network(ModelConfig(cell=cell, hidden=hidden, **shape), vocabulary, seed=5, scale=0.3)
    ids = [vocabulary, *np.random.default_rng(4).integers(0, vocabulary, 40).tolist(), vocabulary + 1, 3, 4]
    found = ask("read", **of(network), ids=ids, fast=fast)
    assert found["fast"] is fast
    np.testing.assert_allclose(found["logits"], logits_after(decoder(network), ids), rtol=0, atol=2e-5)


@pytest.mark.parametrize("cell", CELLS)
def test_8_bit_weights_give_the_logits_of_8_bit_weights(ask: Ask, cell: str) -> None:
    network = random_network(ModelConfig(cell=cell, layers=2, hidden=19, embedding=5), 21, seed=6, scale=0.3)
    ids = [21, *np.random.default_rng(4).integers(0, 21, 20).tolist()]
    found = np.array(ask("read", **of(network, "int8"), ids=ids)["logits"])
    np.testing.assert_allclose(found, logits_after(decoder(network, "int8"), ids), rtol=0, atol=2e-5)
    assert np.abs(found - logits_after(decoder(network), ids)).max() > 1e-3  # fp32 is something else


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_a_state_that_was_saved_is_gone_on_from(ask: Ask, cell: str) -> None:
    network = random_network(ModelConfig(cell=cell, layers=2, hidden=16, embedding=4), 21, seed=7)
    ids = [21, *range(21)]
    first, again, restored, kept = ask("again", **of(network), ids=ids, keep=9)
    assert first == again
    assert restored == kept
    np.testing.assert_allclose(kept, logits_after(decoder(network), ids[:9])[-1], atol=2e-5)


def tokenizer_of(kind: str) -> Tokenizer:
    return train_tokenizer(DataConfig(tokenizer=kind), LEARNED)


@pytest.mark.parametrize("prime", ["", "Sa é¶漢"])
@pytest.mark.parametrize("kind", ["char", "byte"])
@pytest.mark.parametrize("config", [SampleConfig(seed=2**40 + 3), SampleConfig(seed=1, temperature=0.8, top_p=0.9)])
def test_the_text_is_that_of_charlm_sample(ask: Ask, kind: str, prime: str, config: SampleConfig) -> None:
    """Tokens are compared as text; bytes of a random network spell little that is UTF-8."""
    tokenizer = tokenizer_of(kind)
    network = random_network(ModelConfig(hidden=16, layers=2, embedding=8), tokenizer.size, seed=9, scale=0.3)
    settings = SampleConfig(**{**options_of(config), "length": 300})
    expected = collect(generate(decoder(network), tokenizer, settings, prime=prime or None), 1)[0]
    text, ended = ask(
        "write",
        **of(network),
        tokenizer=describe_tokenizer(tokenizer),
        prime=prime,
        seed=str(config.seed),
        options=options(config),
        tokens=600,
    )
    assert text[:300] == expected
    assert not ended


def options_of(config: SampleConfig) -> dict[str, Any]:
    names = ("temperature", "top_k", "top_p", "min_p", "seed")
    return {name: getattr(config, name) for name in names}


@pytest.mark.parametrize("records", ["line", "paragraph"])
def test_a_record_ends_with_its_end(ask: Ask, records: str) -> None:
    tokenizer = train_tokenizer(DataConfig(), as_records("ada\nemma\n\nann\n", records))
    network = random_network(ModelConfig(hidden=16, layers=1, embedding=8), tokenizer.size, seed=3)
    settings = SampleConfig(seed=5, length=1000, count=3)
    expected = collect(generate(decoder(network), tokenizer, settings, prime="", stops=(end_of(records),)), 3)
    common = {**of(network), "tokenizer": describe_tokenizer(tokenizer), "records": records}
    for number, record in enumerate(expected):
        found = ask("write", **common, prime="", seed="5", number=number, options=options(settings), tokens=1000)
        assert found == [record, True]


@pytest.mark.parametrize("records", ["none", "line", "paragraph", "file"])
@pytest.mark.parametrize("kind", ["char", "byte"])
def test_the_bits_of_a_text_are_those_of_the_score(ask: Ask, kind: str, records: str) -> None:
    tokenizer = tokenizer_of(kind)
    network = random_network(ModelConfig(hidden=16, layers=2, embedding=8), tokenizer.size, seed=10, scale=0.3)
    text = LEARNED[:150] + "☃ “ß”\r\n \n\n漢字🙂 e\u0301"
    read = as_records(text, records)
    judged = surprisal(network, tokenizer, read, likeliest=5, records=records)
    found = ask("judge", **of(network), tokenizer=describe_tokenizer(tokenizer), text=text, records=records, k=5)
    assert found["text"] == read
    assert found["unknown"] == judged.unknown_characters
    np.testing.assert_allclose(found["bits"], judged.unit_nats / math.log(2), atol=1e-4)
    first = judged.first_tokens
    np.testing.assert_array_equal(found["own"], judged.ids[first])
    np.testing.assert_array_equal(found["tokens"], np.diff(np.append(first, len(judged.ids))))
    assert judged.likeliest is not None
    np.testing.assert_array_equal(np.reshape(found["ids"], (-1, 5)), judged.likeliest.ids[first])
    expected = judged.likeliest.probabilities[first]
    np.testing.assert_allclose(np.reshape(found["probabilities"], (-1, 5)), expected, atol=1e-5)


ALL: Final = [(layer, unit) for layer in (1, 2) for unit in range(1, 17)]


def traced(ask: Ask, network: Network, kind: str = "char", records: str = "none", precision: str = "fp32") -> Any:
    """What the page finds that all cells do over a text with unknown characters, and the text as it is read."""
    tokenizer, text = tokenizer_of(kind), LEARNED[:150] + "☃ “ß”\r\n \n\n漢字🙂 e\u0301\n"
    found = ask(
        "trace",
        **of(network, precision),
        tokenizer=describe_tokenizer(tokenizer),
        text=text,
        records=records,
        cells=ALL,
    )
    read = reading(text, tokenizer, records)
    assert (found["text"], found["all"]) == (read.text, len(read.text))
    return np.array(found["cells"]).T, read


@pytest.mark.parametrize(
    ("cell", "kind", "records"),
    [
        *((cell, "char", "none") for cell in CELLS),
        ("gru", "byte", "none"),
        ("lstm", "char", "line"),
        ("rnn", "byte", "file"),
    ],
)
def test_what_cells_do_is_what_charlm_inspect_says(ask: Ask, cell: str, kind: str, records: str) -> None:
    config = ModelConfig(cell=cell, hidden=16, layers=2, embedding=24, skip=cell in ("gru", "mingru"))
    network = random_network(config, tokenizer_of(kind).size, seed=12, scale=0.3)
    cells, read = traced(ask, network, kind, records)
    expected = memories(open_network(config, export_weights(network)), read)[read.token_of]
    np.testing.assert_allclose(cells, expected, rtol=0, atol=2e-5)
    assert expected.std() > 0.05


def test_what_cells_do_with_8_bit_weights_is_what_they_do_in_the_decoder(ask: Ask) -> None:
    tokenizer = tokenizer_of("char")
    network = random_network(ModelConfig(hidden=16, layers=2, embedding=8), tokenizer.size, seed=13, scale=0.3)
    cells, read = traced(ask, network, precision="int8")
    model = decoder(network, "int8")
    _, state = model.read(read.inputs[:, None], model.init_state(1))
    np.testing.assert_allclose(cells[-1], np.concatenate([layer[-1][0] for layer in state]), atol=1e-3)


def test_levels_of_activity_are_those_of_reports(ask: Ask) -> None:
    draw = np.random.default_rng(5)
    for values in (draw.normal(0, 2, 300), np.zeros(5), np.array([0.3]), draw.random(7) - 2):
        own = values.astype(np.float32)
        assert ask("levels", values=own.tolist()) == levels(own).tolist()


def test_signs_are_those_of_reports(ask: Ask) -> None:
    text = "a é漢\t\n\x00\x1b\x7f\x80\x9b\u2028\u2029\ufeff\u200b\u200d\u202e\u2066\u00ad\u3000\xa0"
    text += "\ue000\u0600\U000e0041🙂\uffff"
    assert ask("signs", text=text) == list(map(sign, text))
