"""Thousands of inputs at random, none of which may end in anything but a result or an error of our own kind."""

from __future__ import annotations

import importlib.util
import io
import json
import random
import re
import subprocess
import sys
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from hostile import Table, alone, forged, made, opened, survives
from hypothesis import given, settings
from hypothesis import strategies as st
from matrix import Tries

from charlm import api
from charlm.cli.main import run
from charlm.config import TRAIN_OPTIONS, Config, check_train, merge, read_toml
from charlm.errors import CheckpointError, ConfigError, DataError
from charlm.storage.checkpoint import Checkpoint, load_checkpoint
from charlm.text.corpus import load_corpus
from charlm.text.sentencepiece import SentencePieceTokenizer
from charlm.text.tokenizer import TokenizerState, restore_tokenizer

Many = Callable[[int, int], int]
ROOT = Path(__file__).parent.parent
TEXT = "".join(f"{n} kittens and {n * n} squirrels sleep under a bridge.\n" for n in range(60))
ODD: list[Any] = [None, True, False, -1, 0, 1, 2, 3, 255, 2**31, 2**63, 10**30, 10**400, 0.5, -0.0, 1e308, 1e-320]
ODD += ["", "\0", "../../x", "/dev/zero", "-", "\x1b[31m\u202e", "\ud800", "x" * 3000, "cpu", "cuda:7", "auto", "0.9"]
ODD += [[], {}, [[]], [0, 0], [[0, 0], [9, 1]], {"x": 1}, [None] * 9, "nan", "1e9", "lstm", "\U0001f600"]


def paths(value: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if isinstance(value, (dict, list)):
        for name, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield (*above, name)
            yield from paths(inner, (*above, name))


def mutated(table: Table, rng: random.Random) -> Table:
    """A table with one entry removed, replaced by something odd or by another entry, or there once more."""
    copy: Any = json.loads(json.dumps(table))
    places = list(paths(copy))
    if not places:
        return {"x": rng.choice(ODD)}
    inner, (*above, last) = copy, rng.choice(places)
    for name in above:
        inner = inner[name]
    match rng.randrange(4):
        case 0:
            del inner[last]
        case 1:
            source = copy
            for name in rng.choice(places):
                source = source[name]
            inner[last] = json.loads(json.dumps(source))
        case 2 if isinstance(inner, list):
            inner.append(inner[last])
        case _:
            inner[last] = rng.choice(ODD)
    return copy  # type: ignore[no-any-return]


def noise(data: bytes, rng: random.Random) -> bytes:
    """Some bytes changed, inserted or removed."""
    changed = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 8])):
        where = rng.randrange(len(changed) + 1)
        changed[where : where + rng.randrange(3)] = rng.choice([b"", b"\0", b"9", b'"', b"[", rng.randbytes(2)])
    return bytes(changed)


def forgery(start: bytes, rng: random.Random) -> bytes:
    """A checkpoint changed somewhere and signed anew."""
    table, description, body = opened(start)
    text = None
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        match rng.randrange(10):
            case 0 | 1:
                table = mutated(table, rng) or table
            case 2:
                where = rng.randrange(len(body))
                value = rng.choice([b"\0\0\xc0\x7f", b"\xff\xff\x7f\x7f", b"\x01\0\0\0", rng.randbytes(4)])
                body = (body[:where] + value + body[where + 4 :])[: len(body)]
            case 3:
                text = noise(json.dumps(description).encode(), rng).decode(errors="replace")
            case 4:
                section = rng.choice(["config", "corpus", "environment", "training", "result", "tokenizer"])
                description[section] = mutated(description.get(section) or {"x": 1}, rng)
            case _:
                description = mutated(description, rng) or description
    return forged(table, text if text is not None else json.dumps(description), body)


def shown(*arguments: str) -> None:
    """A command that must succeed, and show nothing that commands a terminal."""
    with redirect_stdout(io.StringIO()) as out:
        code = run(arguments)
    assert code == 0, arguments
    assert not [c for c in out.getvalue() if unicodedata.category(c) in ("Cc", "Cs", "Cf") and c != "\n"]


def taken(path: Path) -> None:
    """All that charlm does with a checkpoint that it has loaded, short of training."""
    checkpoint = load_checkpoint(path)
    for arguments in (["info"], ["info", "--json"], ["verify"]):
        shown(*arguments, str(path))
    model = api.load(path)
    model.sample(prime="to é", length=3)
    model.was_trained_on("a text")
    if checkpoint.resumable:
        state = checkpoint.state
        assert 0 <= state.plan.progress(state.step) <= 1
        assert state.step == 0 or state.recent_loss(10) is not None


STARTS: dict[str, Callable[[], Checkpoint]] = {
    "characters": made,
    "the model alone": lambda: made(**alone(made())),
    "sentencepiece": lambda: made(made().config.model, SentencePieceTokenizer.train(TEXT, 300, "bpe")),
}


@pytest.mark.fault(30)
@pytest.mark.parametrize("start", STARTS)
def test_checkpoints_forged_at_random_are_refused_or_harmless(
    tmp_path: Path, start: str, tries: Tries, many: Many, rng: random.Random
) -> None:
    data = STARTS[start]().to_bytes()
    path = tmp_path / "some.safetensors"

    def work(data: bytes) -> None:
        path.write_bytes(data)
        taken(path)

    work(data)
    inputs = [forgery(data, rng) for _ in range(many(150, 3000))]
    tries.survived(survives(inputs, work, size=len, allowed=(CheckpointError,)))


def collected(strategy: st.SearchStrategy[Any], count: int) -> list[Any]:
    """So many values of a Hypothesis strategy, the same in every run."""
    values: list[Any] = []

    @settings(max_examples=count, database=None, deadline=None, derandomize=True)
    @given(strategy)
    def collect(value: Any) -> None:
        values.append(value)

    collect()
    return values


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(ODD),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=6,
)
SORTED = st.text(max_size=30).map(lambda text: "".join(sorted(set(text))))
STATES = st.fixed_dictionaries(
    {"kind": st.sampled_from(["char", "char", "char", "byte", "sentencepiece", "words"]) | JSON},
    optional={
        "vocabulary": SORTED | st.text() | JSON,
        "once": st.integers(-1, 9) | JSON,
        "total": st.integers(0, 99) | JSON,
        "more": JSON,
    },
)


@pytest.mark.fault(30)
def test_tokenizers_of_any_json_are_refused_or_give_back_every_text(tries: Tries, many: Many) -> None:
    model = SentencePieceTokenizer.train(TEXT, 300, "unigram").state().model

    def work(table: Table) -> None:
        for data in (b"", model):
            tokenizer = restore_tokenizer(TokenizerState(table, data))
            assert tokenizer.decode(tokenizer.encode("some é \U0001f600\n")) == "some é \U0001f600\n"
            assert 0 <= tokenizer.escape < 1
            assert tokenizer.known_nats >= 0 <= tokenizer.unseen_nats

    inputs = collected(STATES, many(300, 5000))
    tries.survived(survives(inputs, work, allowed=(CheckpointError,)))


OPTIONS = st.dictionaries(
    st.sampled_from([*TRAIN_OPTIONS, "x"]), JSON | st.sampled_from(list(Config().flat().values()))
)


@pytest.mark.fault(30)
def test_configurations_of_any_json_are_refused_or_come_back(tries: Tries, many: Many) -> None:
    def work(values: Table) -> None:
        config = Config.checked(values)
        assert Config.checked(config.flat()) == config

    tries.survived(survives(collected(OPTIONS, many(300, 5000)), work, allowed=(ConfigError,)))


def toml(table: Table) -> str:
    """Options as somebody may write them."""
    return "".join(f"{name} = {json.dumps(value)}\n" for name, value in table.items())


LINES = st.sampled_from(
    [
        *(
            'name = "x"',
            "hidden = 8",
            "val = nan",
            "lr = inf",
            "time = 07:32:00",
            "seed = 1979-05-27",
            "[train]",
            "a.b = 1",
        ),
        *(
            '"" = 1',
            '"\\u0000" = 1',
            "x = [",
            "hidden = 0x10",
            "hidden = 1_0",
            "cell = '''gru'''",
            "hidden = 8",
            "\0",
            "é=1",
        ),
        *("seed = " + "9" * 5000, "x = " + "[" * 2000, "[" + "a." * 2000 + "b]", "tokenizer = 'sentencepiece'"),
    ]
)
FILES = st.one_of(
    OPTIONS.map(toml).map(lambda text: text.encode(errors="surrogatepass")),
    st.lists(LINES, max_size=6).map("\n".join).map(str.encode),
    st.binary(max_size=60),
)


@pytest.mark.fault(30)
def test_option_files_of_any_bytes_are_refused_or_mean_options(tmp_path: Path, tries: Tries, many: Many) -> None:
    path = tmp_path / "options.toml"

    def work(data: bytes) -> None:
        path.write_bytes(data)
        check_train(merge(read_toml(path), {"steps": 3}))

    tries.survived(survives(collected(FILES, many(300, 5000)), work, size=len, allowed=(ConfigError,)))


CHUNKS = st.sampled_from(
    [b"\xef\xbb\xbf", b"\xff\xfe", b"\0", b"\r\n", b"\r", b"\xed\xa0\x80", b"\xf0\x9f\x98", b"a", b" \n"]
)
BYTES = st.one_of(
    st.binary(max_size=80), st.text(max_size=80).map(str.encode), st.lists(CHUNKS | st.binary(max_size=3)).map(b"".join)
)


@pytest.mark.fault(30)
def test_texts_of_any_bytes_are_refused_or_read_exactly(tmp_path: Path, tries: Tries, many: Many) -> None:
    path = tmp_path / "text.txt"

    def work(data: bytes) -> None:
        path.write_bytes(data)
        for val in ("0", "0.1", "0.9"):
            corpus = load_corpus([str(path)], val)
            assert (corpus.train + corpus.val).encode() == data
            assert (corpus.sources[0].bytes, len(corpus.fingerprint)) == (len(data), 64)

    tries.survived(survives(collected(BYTES, many(300, 5000)), work, size=len, allowed=(DataError,)))


@pytest.mark.fault(30)
def test_inputs_that_grow_towards_new_code_are_survived_too(tmp_path: Path, tries: Tries, many: Many) -> None:
    """Guided by coverage, with atheris; `tests/fuzz_atheris.py SECONDS` runs it by itself."""
    if not many(0, 1):
        pytest.skip("only with --faults: it takes a minute")
    if importlib.util.find_spec("atheris") is None:
        pytest.skip("atheris is not installed")
    done = subprocess.run(
        [sys.executable, ROOT / "tests/fuzz_atheris.py", "60"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-5000:]
    match = re.search(r"tried (\d+) inputs", done.stdout)
    assert match is not None
    tries.survived(int(match[1]))
