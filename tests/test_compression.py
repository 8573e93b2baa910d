"""Compressed texts are reproduced exactly, with the size that the model's likelihood gives; other files are refused."""

from __future__ import annotations

import json
import math
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import fresh_kernel, random_network, synthetic_text
from processes import charlm as process
from processes import one_line

import charlm
from charlm import compression
from charlm.cli.main import run
from charlm.compression import ENGINES, Compressed, compress, decompress
from charlm.config import Config, DataConfig, ModelConfig
from charlm.errors import CharlmError, ConfigError, DataError
from charlm.evaluation.score import ScorableDecoder, exact_nats
from charlm.generation.engine import open_decoder
from charlm.models.network import export_weights
from charlm.storage.checkpoint import Checkpoint
from charlm.text.tokenizer import CharTokenizer, Tokenizer, train_tokenizer

LEARNED = synthetic_text(3000, seed=21)
KINDS = ["char", "byte", "sentencepiece"]
ODD = {
    "empty": "",
    "one": "e",
    "unseen": "Ω",
    "line ends": "a\r\nb\rc\n\n",
    "NUL": "\0a\0\0",
    "mark": "\ufeffte",
    "emoji": "\U0001f600 te \U0001f1e9\U0001f1ea\u200d",
    "edges": "\ud7ff\ue000\uffff\U00010000\U0010ffff\x7f\x80",
    "spaces": "▁▁ ▁ <0x0A><unk>\t",
    "many": "".join(map(chr, range(0x4E00, 0x4E00 + 300))),
}


def checkpoint_of(tokenizer: Tokenizer, *, seed: int = 5, scale: float = 0.5, **options: Any) -> Checkpoint:
    model = ModelConfig(**({"hidden": 12, "layers": 1, "embedding": 6} | options))
    weights = export_weights(random_network(model, tokenizer.size, seed=seed, scale=scale))
    return Checkpoint(config=Config(model=model), tokenizer=tokenizer.state(), weights=weights)


@pytest.fixture(scope="module")
def checkpoints() -> dict[str, Checkpoint]:
    """Of each kind of tokenizer a model with random weights."""
    return {kind: checkpoint_of(train_tokenizer(DataConfig(tokenizer=kind, vocab_size=320), LEARNED)) for kind in KINDS}


def within_bound(done: Compressed) -> None:
    assert len(done.data) <= 1.001 * done.nats / (8 * math.log(2)) + 64


def there_and_back(checkpoint: Checkpoint, text: str, engine: str = "auto") -> Compressed:
    done = compress(checkpoint, text, engine=engine)
    assert decompress(checkpoint, done.data) == text
    assert (done.characters, done.bytes) == (len(text), len(text.encode()))
    within_bound(done)
    return done


# what goes in comes out


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", ODD.values(), ids=ODD)
def test_odd_texts_are_reproduced(checkpoints: dict[str, Checkpoint], kind: str, engine: str, text: str) -> None:
    assert there_and_back(checkpoints[kind], text, engine).engine == engine


@given(text=st.text(max_size=60), kind=st.sampled_from(KINDS))
@settings(max_examples=60)
def test_any_text_is_reproduced(checkpoints: dict[str, Checkpoint], text: str, kind: str) -> None:
    there_and_back(checkpoints[kind], text)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_every_kind_of_model(cell: str, engine: str) -> None:
    tokenizer = CharTokenizer.train(LEARNED)
    for layers, embedding in ((1, 0), (2, 5)):
        checkpoint = checkpoint_of(tokenizer, cell=cell, layers=layers, embedding=embedding)
        there_and_back(checkpoint, LEARNED[:200] + "Ω", engine)


@pytest.mark.parametrize("vocabulary", ["a", "ab"])
def test_the_smallest_vocabularies(vocabulary: str) -> None:
    there_and_back(checkpoint_of(CharTokenizer.train(vocabulary * 9)), "abba" * 20)


# what it costs


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", KINDS)
def test_the_size_is_that_of_a_score_with_this_engine(
    checkpoints: dict[str, Checkpoint], kind: str, engine: str
) -> None:
    checkpoint, text = checkpoints[kind], synthetic_text(4000, seed=22) + "Ω日本\U0001f600"
    done = there_and_back(checkpoint, text, engine)
    decoder = open_decoder(checkpoint.config.model, checkpoint.weights, engine=engine)
    tokenizer = checkpoint.open_tokenizer()
    scored = exact_nats(ScorableDecoder(decoder), tokenizer, tokenizer.encode(text).ids)
    assert done.nats == pytest.approx(float(scored.sum(dtype=np.float64)), rel=1e-6)
    assert len(done.data) > done.nats / (8 * math.log(2))


def test_a_certain_model_needs_almost_no_bits() -> None:
    """And where it is sure of the wrong thing, what is all but impossible can still be written."""
    tokenizer = CharTokenizer.train("a" * 10_000_000 + "bb")
    checkpoint = checkpoint_of(tokenizer)
    weights = {name: 0 * weight for name, weight in checkpoint.weights.items()}
    for far in (30, 10_000):
        weights["head.bias"] = np.array([far, 0], dtype=np.float32)
        sure = Checkpoint(config=checkpoint.config, tokenizer=checkpoint.tokenizer, weights=weights)
        assert len(there_and_back(sure, "a" * 3000).data) <= 60
        there_and_back(sure, "aab" * 20 + "\U0001f600" * 5 + "a" * 50)


def test_unseen_characters_take_the_bits_of_the_escape() -> None:
    text = "".join(chr(0x3400 + 37 * k % 6000) for k in range(1500))
    there_and_back(checkpoint_of(CharTokenizer.train(LEARNED)), text)


# choices, without a model


def coded(shares: list[compression.Shares], wanted: list[int]) -> bytes:
    """The bytes of these choices, which must lead back to them."""
    stream = compression._library()
    writer = compression._Writer(stream)
    for row, choice in zip(shares, wanted, strict=True):
        compression._choose(writer, row, choice)
    payload = writer.payload()
    reader = compression._Reader(stream, payload)
    assert [compression._choose(reader, row, -1) for row in shares] == wanted
    assert reader.payload() == payload
    return payload


@given(
    sizes=st.lists(st.integers(1, 3000), min_size=1, max_size=8),
    seed=st.integers(0, 2**32),
    spread=st.sampled_from([0.0, 1.0, 10.0, 1000.0]),
)
@settings(max_examples=60)
def test_choices_are_decoded_for_any_probabilities(sizes: list[int], seed: int, spread: float) -> None:
    rng = np.random.default_rng(seed)
    shares = []
    for size in sizes:
        logits = spread * rng.standard_normal(size)
        terms = np.exp(logits - logits.max())
        shares.append(terms / terms.sum())
    coded(shares, [int(rng.integers(size)) for size in sizes])


@pytest.mark.parametrize("size", [2, 4096, 4097, 65_536])
def test_equal_probabilities_take_their_logarithm(size: int) -> None:
    shares, wanted = [np.full(size, 1 / size)] * 40, [0, size - 1, *range(1, 39)]
    wanted = [choice % size for choice in wanted]
    assert len(coded(shares, wanted)) <= 40 * math.log2(size) / 8 * 1.001 + 4


def test_almost_certain_choices_take_their_nats() -> None:
    """The coder's own rounding would show here: a few nats in all."""
    rng, p = np.random.default_rng(1), 1 - 2.0**-9
    wanted = (rng.random(30_000) > p).astype(int).tolist()
    nats = -sum(math.log(1 - p if choice else p) for choice in wanted)
    assert len(coded([np.array([p, 1 - p])] * len(wanted), wanted)) <= 1.001 * nats / (8 * math.log(2)) + 4


@pytest.mark.parametrize("frequencies", [[1, 2**24 - 1], [2**24 - 2, 1, 1], [5, 2**23, 2**23 - 12, 7]])
def test_the_library_takes_our_frequencies_as_they_are(frequencies: list[int]) -> None:
    """Both ends of every interval; the lowest 24 bits of the coder's state are the place in it."""
    stream = compression._library()
    model = stream.model.Categorical(np.array(frequencies, dtype=np.float32) - 1, perfect=False)
    ends = np.cumsum([0, *frequencies])
    for symbol in range(len(frequencies)):
        for place in (ends[symbol], ends[symbol + 1] - 1):
            coder = stream.stack.AnsCoder(np.array([place, 2**20], dtype=np.uint32))
            assert coder.decode(model) == symbol


@pytest.mark.compiler
def test_files_do_not_depend_on_the_number_of_threads(tmp_path: Path) -> None:
    """Wide enough for the libraries to share the work out, if they did."""
    (tmp_path / "t.txt").write_text(LEARNED[:300])
    options: dict[str, Any] = {"steps": 1, "hidden": 400, "embedding": 100, "batch": 1, "bptt": 8, "precision": "fp32"}
    trained = charlm.train(tmp_path / "t.txt", checkpoints=tmp_path, device="cpu", **options)
    for engine in ENGINES:
        files = []
        for threads in "12":
            env: dict[str, Any] = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), threads)
            arguments = ["t.txt", "--model", str(trained.checkpoint), "--output", "t.cz", "--engine", engine]
            done = process("compress", *arguments, cwd=tmp_path, **env)
            assert done.returncode == 0, done.stderr
            files.append((tmp_path / "t.cz").read_bytes())
        assert files[0] == files[1]


# what is not taken


def refused(checkpoint: Checkpoint, data: bytes, words: str, **options: str) -> None:
    with pytest.raises(CharlmError, match=words) as caught:
        decompress(checkpoint, data, **options)
    assert caught.value.exit_code == (1 if data.startswith(b"\xc7CZ") else 3)


def test_every_truncation_and_every_flipped_bit_is_refused(checkpoints: dict[str, Checkpoint]) -> None:
    checkpoint = checkpoints["char"]
    data = compress(checkpoint, LEARNED[:60]).data
    for size in range(len(data)):
        refused(checkpoint, data[:size], "damaged|not written by charlm compress")
    for place in range(len(data)):
        for bit in range(8):
            flipped = bytearray(data)
            flipped[place] ^= 1 << bit
            refused(checkpoint, bytes(flipped), "damaged|not written by charlm compress")
    refused(checkpoint, data + b"\0", "damaged")
    refused(checkpoint, b"", "not written by charlm compress")
    refused(checkpoint, b"Call me Ishmael.", "not written by charlm compress")


def test_a_forged_file_whose_checksum_holds_is_refused_too(checkpoints: dict[str, Checkpoint]) -> None:
    checkpoint = checkpoints["char"]
    header, payload = compression._Header.parse(compress(checkpoint, LEARNED[:60]).data)
    forged = [
        header.pack(payload + b"\0"),
        header.pack(payload + b"\1"),
        header.pack(payload[:-1]),
        header.pack(b""),
        header.pack(bytes([payload[0] ^ 1]) + payload[1:]),
        header._replace(text=bytes(32)).pack(payload),
        header._replace(tokens=header.tokens - 1).pack(payload),
        header._replace(tokens=header.tokens + 1).pack(payload),
        header._replace(tokens=0).pack(payload),
    ]
    for data in forged:
        refused(checkpoint, data, "differs from the original")
    refused(checkpoint, header._replace(tokens=2**42).pack(payload), "damaged")
    refused(checkpoint, header._replace(engine=2).pack(payload), "damaged")
    header, payload = compression._Header.parse(compress(checkpoints["byte"], "éé").data)
    refused(
        checkpoints["byte"], header._replace(tokens=3).pack(payload), "differs from the original"
    )  # nor is it UTF-8


@pytest.mark.parametrize("tokens", [2**42 - 1, 2**41, 2**32, 2**31 - 1, 2**30, 2**26])
def test_a_forged_count_is_refused_before_anything_grows(
    checkpoints: dict[str, Checkpoint], monkeypatch: pytest.MonkeyPatch, tokens: int
) -> None:
    """No model is opened: the size of the file bounds what it may promise, whatever stands in its other fields."""
    header, payload = compression._Header.parse(compress(checkpoints["char"], LEARNED[:60]).data)
    monkeypatch.setattr(compression, "Engine", None)
    for changed in (header, header._replace(model=bytes(12)), header._replace(engine=1, build=bytes(4))):
        for end in (b"", payload, payload + bytes(100)):
            refused(
                checkpoints["char"], changed._replace(tokens=tokens).pack(end), "damaged or forged: its [0-9]+ bytes"
            )


def test_headers_forged_at_random_end_soon(checkpoints: dict[str, Checkpoint]) -> None:
    """Checksums hold, everything else is anything; a count that the size allows costs at most its decoding."""
    checkpoint, rng = checkpoints["char"], random.Random(28)  # noqa: S311
    good, payload = compression._Header.parse(compress(checkpoint, LEARNED[:60]).data)
    for _ in range(300):
        fields: dict[str, Any] = {
            "engine": rng.choice([good.engine, rng.randrange(16)]),
            "model": rng.choice([good.model, rng.randbytes(12)]),
            "build": rng.choice([good.build, rng.randbytes(4)]),
            "text": rng.randbytes(32),
            "tokens": rng.choice([rng.randrange(200), rng.randrange(2**25, 2**42)]),
        }
        end = rng.choice([payload, rng.randbytes(rng.randrange(40)), payload[: rng.randrange(len(payload))]])
        with pytest.raises(CharlmError):
            decompress(checkpoint, compression._Header(**fields).pack(end))


def test_a_text_that_takes_next_to_no_bits_fills_its_file_to_the_bound(
    checkpoints: dict[str, Checkpoint], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compression, "_DENSEST", 0)  # one token a byte, rather than 262,144
    for checkpoint in checkpoints.values():
        done = compress(checkpoint, LEARNED)
        assert len(done.data) >= done.tokens
        assert decompress(checkpoint, done.data) == LEARNED
        header, payload = compression._Header.parse(done.data)
        refused(checkpoint, header.pack(payload + b"\0"), "differs from the original")
        refused(checkpoint, header._replace(tokens=len(done.data) + 1).pack(payload), "forged")


@pytest.mark.compiler
def test_another_model_engine_or_build_is_named(checkpoints: dict[str, Checkpoint]) -> None:
    checkpoint = checkpoints["char"]
    data = compress(checkpoint, LEARNED[:60], engine="numpy").data
    refused(checkpoint_of(checkpoint.open_tokenizer(), seed=6), data, checkpoint.state_sha256[:24])
    refused(checkpoint, data, "made with the numpy engine", engine="compiled")
    header, payload = compression._Header.parse(data)
    refused(checkpoint, header._replace(build=b"abcd").pack(payload), "another build of the numpy engine, 61626364")
    refused(checkpoint, header._replace(engine=0).pack(payload), "another build of the compiled engine")


def test_the_same_weights_with_another_vocabulary_are_refused(checkpoints: dict[str, Checkpoint]) -> None:
    checkpoint = checkpoints["char"]
    tokenizer = checkpoint.open_tokenizer()
    assert isinstance(tokenizer, CharTokenizer)
    moved = CharTokenizer("".join(chr(ord(c) + 1) for c in tokenizer.vocabulary), 2, len(LEARNED))
    other = Checkpoint(config=checkpoint.config, tokenizer=moved.state(), weights=checkpoint.weights)
    refused(other, compress(checkpoint, LEARNED[:60]).data, "differs from the original")


def test_lone_surrogates_and_a_model_that_overflows_are_refused(checkpoints: dict[str, Checkpoint]) -> None:
    checkpoint = checkpoints["char"]
    weights = {name: np.full_like(weight, 3e38) for name, weight in checkpoint.weights.items()}
    broken = Checkpoint(config=checkpoint.config, tokenizer=checkpoint.tokenizer, weights=weights)
    with np.errstate(all="ignore"), pytest.raises(CharlmError, match="not finite"):
        compress(broken, "te")
    with pytest.raises(DataError, match="surrogate"):
        compress(checkpoint, "a\ud800")


@pytest.mark.compiler
def test_without_the_library_or_the_compiler(
    checkpoints: dict[str, Checkpoint], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Where another engine is asked for as well, no advice leads back to the one that is missing."""
    checkpoint = checkpoints["char"]
    data = compress(checkpoint, "te", engine="compiled").data
    with fresh_kernel(), monkeypatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path))
        patch.setenv("CC", "no-such-compiler")
        for engine in ("auto", "compiled", "numpy"):
            with pytest.raises(CharlmError, match=r"compiled engine, which is not available here .*no-such") as caught:
                decompress(checkpoint, data, engine=engine)
            assert "install the C compiler" in str(caught.value)
            assert "use --engine" not in str(caught.value)
        with pytest.raises(ConfigError):
            compress(checkpoint, "te", engine="compiled")
        assert decompress(checkpoint, compress(checkpoint, "te").data) == "te"
    monkeypatch.setitem(sys.modules, "constriction", None)
    with pytest.raises(CharlmError, match=r"pip install constriction"):
        compress(checkpoint, "te")
    refused(checkpoint, data, r"pip install constriction")


# the commands


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two runs, a text and what became of it."""
    folder = tmp_path_factory.mktemp("coding")
    (folder / "learned.txt").write_text(LEARNED)
    options: dict[str, Any] = {"steps": 20, "hidden": 16, "batch": 4, "bptt": 16, "precision": "fp32", "threads": 1}
    for seed, name in enumerate(["one", "two"]):
        charlm.train(folder / "learned.txt", name=name, checkpoints=folder / "runs", device="cpu", seed=seed, **options)
    (folder / "text.txt").write_bytes((synthetic_text(800, seed=9) + "日本\r\n\0\U0001f600").encode())
    done = process(*command(folder, "compress", "text.txt", "text.cz"), "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    (folder / "record.json").write_text(done.stdout)
    return folder


def command(place: Path, name: str, source: str, output: str, model: str = "one") -> list[str]:
    return [name, str(place / source), "--model", model, "--output", str(place / output), "--checkpoints", "runs"]


def test_the_commands_there_and_back(place: Path) -> None:
    record = json.loads((place / "record.json").read_text())
    text = (place / "text.txt").read_bytes()
    assert record["schema"] == "charlm.compress/1"
    assert (record["characters"], record["bytes"]) == (len(text.decode()), len(text))
    size = (place / "text.cz").stat().st_size
    assert record["compressed_bytes"] == size <= 1.001 * record["nats"] / (8 * math.log(2)) + 64
    assert record["bits_per_character"] == pytest.approx(8 * size / record["characters"])
    (place / "back.txt").write_text("what was there")
    done = process(*command(place, "decompress", "text.cz", "back.txt"), cwd=place)
    assert (done.returncode, done.stdout) == (0, "")
    assert "wrote" in done.stderr
    assert (place / "back.txt").read_bytes() == text


def test_an_empty_text_and_standard_input(place: Path) -> None:
    here = ["--model", "one", "--checkpoints", "runs", "--json"]
    for text in ("", "te té"):
        done = process("compress", "-", "--output", "stdin.cz", *here, cwd=place, stdin=text)
        record = json.loads(done.stdout)
        assert record["characters"] == len(text)
        assert (record["bits_per_character"] is None) == (text == "")
        done = process("decompress", "stdin.cz", "--output", "/dev/stderr", *here, "-q", cwd=place)
        assert (done.returncode, done.stderr) == (0, text)
        assert json.loads(done.stdout)["schema"] == "charlm.decompress/1"


@pytest.mark.compiler
def test_nothing_is_written_when_anything_is_wrong(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    (place / "old").write_text("what was there")
    data = (place / "text.cz").read_bytes()
    header, payload = compression._Header.parse(data)
    (place / "short.cz").write_bytes(data[:-1])
    (place / "forged.cz").write_bytes(header._replace(text=bytes(32)).pack(payload))
    (place / "latin1.txt").write_bytes(b"caf\xe9")
    wrong: list[tuple[int, str, list[str]]] = [
        (1, "another model", command(place, "decompress", "text.cz", "old", "two")),
        (1, "compiled engine, not with numpy", [*command(place, "decompress", "text.cz", "old"), "--engine", "numpy"]),
        (1, "damaged", command(place, "decompress", "short.cz", "old")),
        (1, "differs from the original", command(place, "decompress", "forged.cz", "old")),
        (3, "not written by charlm compress", command(place, "decompress", "text.txt", "old")),
        (3, "not UTF-8", command(place, "compress", "latin1.txt", "old")),
        (4, "nobody", command(place, "compress", "text.txt", "old", "nobody")),
        (74, "nothing.txt", command(place, "compress", "nothing.txt", "old")),
        (74, "no such folder", command(place, "compress", "text.txt", "nowhere/old")),
        (74, "is a folder", command(place, "compress", "text.txt", ".")),
        (2, "an input and an output", command(place, "compress", "text.txt", "text.txt")),
        (2, "an input and an output", command(place, "compress", "text.txt", "runs/one/best.safetensors")),
        (2, "--engine", [*command(place, "compress", "text.txt", "old"), "--engine", "steam"]),
    ]
    files = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
    for code, words, arguments in wrong:
        assert run(arguments) == code, arguments
        shown = capsys.readouterr()
        assert shown.out == ""
        assert shown.err.startswith("charlm: ")
        assert shown.err.count("\n") == 1
        assert words in shown.err
    assert {path: path.read_bytes() for path in place.rglob("*") if path.is_file()} == files


@pytest.mark.compiler
def test_without_a_compiler_the_other_engine_does_the_same(place: Path) -> None:
    env: dict[str, Any] = {"CC": "false", "XDG_CACHE_HOME": str(place / "cache")}
    one_line(process(*command(place, "decompress", "text.cz", "none.txt"), cwd=place, **env), 1, "compiled engine")
    assert not (place / "none.txt").exists()
    done = process(*command(place, "compress", "text.txt", "numpy.cz"), "--json", cwd=place, **env)
    assert json.loads(done.stdout)["engine"] == "numpy"
    assert process(*command(place, "decompress", "numpy.cz", "numpy.txt"), cwd=place).returncode == 0
    assert (place / "numpy.txt").read_bytes() == (place / "text.txt").read_bytes()
