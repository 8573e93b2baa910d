"""Compressed texts are reproduced exactly, with the size that the model's likelihood gives; other files are refused."""

from __future__ import annotations

import json
import math
import random
import sys
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from coded import Packed, packed, unpacked
from hypothesis import given, settings
from hypothesis import strategies as st
from on_disk import read_in_pieces
from oracles import fresh_kernel, random_network, synthetic_text
from processes import charlm as process
from processes import one_line, started, wait_until

import charlm
from charlm.cli.main import run
from charlm.compression import compress, container
from charlm.compression.coder import Decoder, Encoder, Shares, choose, library
from charlm.compression.container import ENGINES, Block, Header, pack_one_block, parse
from charlm.config import Config, DataConfig, ModelConfig
from charlm.errors import CharlmError, ConfigError, DataError
from charlm.evaluation.score import ScorableDecoder, exact_nats
from charlm.generation.engine import open_decoder
from charlm.models.network import export_weights
from charlm.storage.checkpoint import Checkpoint
from charlm.text.large import open_text
from charlm.text.stored import StoredText
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


def there_and_back(checkpoint: Checkpoint, text: str, engine: str = "auto", blocks: int = 1) -> Packed:
    file = packed(checkpoint, text, engine)
    assert unpacked(checkpoint, file.data) == text
    assert (file.done.characters, file.done.bytes) == (len(text), len(text.encode()))
    assert len(file.data) <= 1.001 * file.done.nats / (8 * math.log(2)) + 64 + 16 * (blocks - 1)
    return file


# what goes in comes out


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", ODD.values(), ids=ODD)
def test_odd_texts_are_reproduced(checkpoints: dict[str, Checkpoint], kind: str, engine: str, text: str) -> None:
    assert there_and_back(checkpoints[kind], text, engine).done.engine == engine


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
    file = there_and_back(checkpoint, text, engine)
    decoder = open_decoder(checkpoint.config.model, checkpoint.weights, engine=engine)
    tokenizer = checkpoint.open_tokenizer()
    scored = exact_nats(ScorableDecoder(decoder), tokenizer, tokenizer.encode(text).ids)
    assert file.done.nats == pytest.approx(float(scored.sum(dtype=np.float64)), rel=1e-6)
    assert len(file.data) > file.done.nats / (8 * math.log(2))


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


def coded(shares: list[Shares], wanted: list[int]) -> bytes:
    """The bytes of these choices, which must lead back to them."""
    stream = library()
    encoder = Encoder(stream)
    for row, choice in zip(shares, wanted, strict=True):
        choose(encoder, row, choice)
    code = encoder.code()
    decoder = Decoder(stream, code)
    assert [choose(decoder, row, -1) for row in shares] == wanted
    assert decoder.code() == code
    return code


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
    stream = library()
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


def opened(data: bytes) -> Alone:
    """A file of version 1, to be forged."""
    contents = parse(BytesIO(data))
    (block,) = contents.blocks()
    return Alone(contents.header, contents.sha256, block.tokens, block.code)


class Alone(NamedTuple):
    """The parts of a file of version 1; whatever they are, its checksum holds."""

    header: Header
    sha256: bytes
    tokens: int
    code: bytes

    def file(self) -> bytes:
        return pack_one_block(self.header, self.sha256, Block(self.tokens, self.code))

    def under(self, **fields: Any) -> Alone:
        """With another header."""
        return self._replace(header=self.header._replace(**fields))


def refused(checkpoint: Checkpoint, data: bytes, words: str, **options: str) -> None:
    with pytest.raises(CharlmError, match=words) as caught:
        unpacked(checkpoint, data, **options)
    assert caught.value.exit_code == (1 if data.startswith(b"\xc7CZ") else 3)


def test_every_truncation_and_every_flipped_bit_is_refused(checkpoints: dict[str, Checkpoint]) -> None:
    checkpoint = checkpoints["char"]
    data = packed(checkpoint, LEARNED[:60]).data
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
    whole = opened(packed(checkpoint, LEARNED[:60]).data)
    code = whole.code
    forged = [
        whole._replace(code=code + b"\0"),
        whole._replace(code=code + b"\1"),
        whole._replace(code=code[:-1]),
        whole._replace(code=b""),
        whole._replace(code=bytes([code[0] ^ 1]) + code[1:]),
        whole._replace(sha256=bytes(32)),
        whole._replace(tokens=whole.tokens - 1),
        whole._replace(tokens=whole.tokens + 1),
    ]
    for one in forged:
        refused(checkpoint, one.file(), "differs from the original")
    for tokens in (0, 1, 2**42):
        refused(checkpoint, whole._replace(tokens=tokens).file(), "damaged")
    refused(checkpoint, whole.under(engine=2).file(), "damaged")
    whole = opened(packed(checkpoints["byte"], "éé").data)
    refused(checkpoints["byte"], whole._replace(tokens=3).file(), "differs from the original")  # nor is it UTF-8


@pytest.mark.parametrize("tokens", [2**42 - 1, 2**41, 2**32, 2**31 - 1, 2**30, 2**26])
def test_a_forged_count_is_refused_before_anything_grows(
    checkpoints: dict[str, Checkpoint], monkeypatch: pytest.MonkeyPatch, tokens: int
) -> None:
    """No model is opened: the size of the file bounds what it may promise, whatever stands in its other fields."""
    whole = opened(packed(checkpoints["char"], LEARNED[:60]).data)
    monkeypatch.setattr(compress, "Engine", None)
    for changed in (whole, whole.under(model=bytes(12)), whole.under(engine=1, build=bytes(4))):
        for code in (b"", whole.code, whole.code + bytes(100)):
            one = changed._replace(tokens=tokens, code=code)
            refused(checkpoints["char"], one.file(), "damaged or forged: its [0-9]+ bytes")


def test_headers_forged_at_random_end_soon(checkpoints: dict[str, Checkpoint]) -> None:
    """Checksums hold, everything else is anything; a count that the size allows costs at most its decoding."""
    checkpoint, rng = checkpoints["char"], random.Random(28)  # noqa: S311
    good = opened(packed(checkpoint, LEARNED[:60]).data)
    for _ in range(300):
        header = Header(
            engine=rng.choice([good.header.engine, rng.randrange(16)]),
            model=rng.choice([good.header.model, rng.randbytes(12)]),
            build=rng.choice([good.header.build, rng.randbytes(4)]),
        )
        tokens = rng.choice([rng.randrange(200), rng.randrange(2**25, 2**42)])
        code = rng.choice([good.code, rng.randbytes(rng.randrange(40)), good.code[: rng.randrange(len(good.code))]])
        with pytest.raises(CharlmError):
            unpacked(checkpoint, Alone(header, rng.randbytes(32), tokens, code).file())


@pytest.mark.parametrize("characters", [2**21, 1000])
def test_a_text_that_takes_next_to_no_bits_fills_its_file_to_the_bound(
    checkpoints: dict[str, Checkpoint], monkeypatch: pytest.MonkeyPatch, characters: int
) -> None:
    monkeypatch.setattr(container, "_DENSEST", 0)  # one token a byte, rather than 262,144
    monkeypatch.setattr(compress, "_CHARACTERS", characters)
    for checkpoint in checkpoints.values():
        file = packed(checkpoint, LEARNED)
        assert len(file.data) >= file.done.tokens
        assert unpacked(checkpoint, file.data) == LEARNED
    if characters > len(LEARNED):
        whole = opened(file.data)
        refused(checkpoint, whole._replace(code=whole.code + b"\0").file(), "differs from the original")
        refused(checkpoint, whole._replace(tokens=len(file.data) + 1).file(), "forged")


@pytest.mark.compiler
def test_another_model_engine_or_build_is_named(checkpoints: dict[str, Checkpoint]) -> None:
    checkpoint = checkpoints["char"]
    data = packed(checkpoint, LEARNED[:60], "numpy").data
    refused(checkpoint_of(checkpoint.open_tokenizer(), seed=6), data, checkpoint.state_sha256[:24])
    refused(checkpoint, data, "made with the numpy engine", engine="compiled")
    whole = opened(data)
    refused(checkpoint, whole.under(build=b"abcd").file(), "another build of the numpy engine, 61626364")
    refused(checkpoint, whole.under(engine=0).file(), "another build of the compiled engine")


# texts of several blocks


@pytest.fixture
def blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A block has at most 20 characters."""
    monkeypatch.setattr(compress, "_CHARACTERS", 20)


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_text_of_several_blocks_is_reproduced(checkpoints: dict[str, Checkpoint], kind: str, engine: str) -> None:
    """At the cost of some bytes a block: the model reads on from one to the next."""
    text = LEARNED[:100] + "".join(ODD.values())
    many = there_and_back(checkpoints[kind], text, engine, blocks=len(text))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compress, "_CHARACTERS", 2**21)
        one = there_and_back(checkpoints[kind], text, engine)
    assert (one.data[3] >> 4, many.data[3] >> 4) == (1, 2)
    if kind != "sentencepiece":  # whose tokens may end otherwise where a long line is cut
        assert many.done.nats == one.done.nats
    assert unpacked(checkpoints[kind], one.data) == text  # as from an earlier charlm, however long the text


@given(text=st.text(max_size=90), kind=st.sampled_from(KINDS))
@settings(max_examples=40)
def test_any_text_of_several_blocks_is_reproduced(checkpoints: dict[str, Checkpoint], text: str, kind: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compress, "_CHARACTERS", 10)
        there_and_back(checkpoints[kind], text, blocks=max(1, len(text)))


@pytest.mark.usefixtures("blocks")
def test_a_text_on_the_disk_gives_the_same_file_and_is_restored_block_by_block(
    checkpoints: dict[str, Checkpoint], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    text = LEARNED[:300] + ODD["edges"] + ODD["many"]
    (tmp_path / "a.txt").write_bytes(text.encode())
    read_in_pieces(monkeypatch)
    stored = open_text(str(tmp_path / "a.txt"))
    assert isinstance(stored, StoredText)
    data = packed(checkpoints["char"], stored).data
    assert data == packed(checkpoints["char"], text).data
    pieces: list[bytes] = []
    compress.decompress(checkpoints["char"], BytesIO(data), pieces.append)
    assert "".join(piece.decode() for piece in pieces) == text
    assert max(len(piece.decode()) for piece in pieces) <= 20


@pytest.mark.usefixtures("blocks")
def test_every_truncation_and_every_flipped_bit_of_several_blocks_is_refused_at_once(
    checkpoints: dict[str, Checkpoint], monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = checkpoints["char"]
    data = packed(checkpoint, LEARNED[:60]).data
    monkeypatch.setattr(compress, "Engine", None)
    for size in range(len(data)):
        refused(checkpoint, data[:size], "damaged|not written by charlm compress")
    for place in range(len(data)):
        for bit in range(8):
            flipped = bytearray(data)
            flipped[place] ^= 1 << bit
            refused(checkpoint, bytes(flipped), "damaged|not written by charlm compress")
    refused(checkpoint, data + b"\0", "damaged")


def several(header: Header, sha256: bytes, parts: list[bytes]) -> bytes:
    """A file of version 2 with these parts between its header and its end; its checksum holds."""
    data = b"".join([header.pack(2), *parts, b"\0", sha256])
    return data + zlib.crc32(data).to_bytes(4, "little")


def part(tokens: int, code: bytes) -> bytes:
    """A block of less than 128 tokens and bytes, as the format has it."""
    return bytes([tokens, len(code)]) + code


@pytest.mark.usefixtures("blocks")
def test_forged_blocks_are_refused_too(checkpoints: dict[str, Checkpoint]) -> None:
    checkpoint, text = checkpoints["char"], LEARNED[:70]
    data = packed(checkpoint, text).data
    contents = parse(BytesIO(data))
    found = [(block.tokens, block.code) for block in contents.blocks()]
    assert sum(tokens for tokens, _ in found) == len(text)
    header, sha256, parts = contents.header, contents.sha256, [part(*block) for block in found]
    assert several(header, sha256, parts) == data
    tokens, code = found[1]
    for changed in (
        [parts[1], parts[0], *parts[2:]],
        parts[:-1],
        parts[1:],
        [*parts, parts[-1]],
        [],
        *([parts[0], part(*other), *parts[2:]] for other in [(tokens - 1, code), (tokens + 1, code)]),
        *([parts[0], part(tokens, other), *parts[2:]] for other in [code + b"\0", code + b"\1", code[:-1], b"\1"]),
    ):
        refused(checkpoint, several(header, sha256, changed), "differs from the original")
    refused(checkpoint, several(header, bytes(32), parts), "differs from the original")


@pytest.mark.parametrize(
    "forged",
    [
        b"\xff\xff\xff\x7f\x00",  # 2^28 tokens
        b"\x81\x80\x80\x08\x41" + bytes(65),  # 2^24 + 1 tokens
        b"\x80\x80\x80\x08\x3f" + bytes(63),  # 2^24 tokens, in one byte less than they may take
        b"\xff\xff\xff\xff\xff\x7f\xff\xff\xff\xff\xff\x7f",
        b"\x01\xff\xff\xff\xff\xff\x7f",  # a code of 2^42 bytes
        b"\x01\x15" + bytes(21),  # one token in 21 bytes
        b"\x80\x80\x80\x08\xff\xff\xff\x3f" + bytes(99),  # more code than the file has
        b"\x81\x00\x01\x01",  # numbers that are longer than they need to be
        b"\x80\x80\x80\x80\x80\x80\x80\x01",
    ],
)
def test_forged_frames_are_refused_before_anything_grows(
    checkpoints: dict[str, Checkpoint], monkeypatch: pytest.MonkeyPatch, forged: bytes
) -> None:
    """No more is read than a block may have, nor than the file has; and no model is opened."""
    contents = parse(BytesIO(packed(checkpoints["char"], LEARNED[:60]).data))
    monkeypatch.setattr(compress, "Engine", None)
    for before in ([], [part(2, b"abc")]):
        refused(checkpoints["char"], several(contents.header, bytes(32), [*before, forged]), "damaged")


def test_a_block_that_no_reader_would_take_is_not_written() -> None:
    packer = container.Packer(Header(0, bytes(12), bytes(4)), bytes)
    packer.add(2**24 + 1, b"abc")
    with pytest.raises(ValueError, match="16,777,217"):
        packer.add(1, b"d")


def test_the_same_weights_with_another_vocabulary_are_refused(checkpoints: dict[str, Checkpoint]) -> None:
    checkpoint = checkpoints["char"]
    tokenizer = checkpoint.open_tokenizer()
    assert isinstance(tokenizer, CharTokenizer)
    moved = CharTokenizer("".join(chr(ord(c) + 1) for c in tokenizer.vocabulary), 2, len(LEARNED))
    other = Checkpoint(config=checkpoint.config, tokenizer=moved.state(), weights=checkpoint.weights)
    refused(other, packed(checkpoint, LEARNED[:60]).data, "differs from the original")


def test_lone_surrogates_and_a_model_that_overflows_are_refused(checkpoints: dict[str, Checkpoint]) -> None:
    checkpoint = checkpoints["char"]
    weights = {name: np.full_like(weight, 3e38) for name, weight in checkpoint.weights.items()}
    broken = Checkpoint(config=checkpoint.config, tokenizer=checkpoint.tokenizer, weights=weights)
    with np.errstate(all="ignore"), pytest.raises(CharlmError, match="not finite"):
        packed(broken, "te")
    with pytest.raises(DataError, match="surrogate"):
        packed(checkpoint, "a\ud800")


@pytest.mark.compiler
def test_without_the_library_or_the_compiler(
    checkpoints: dict[str, Checkpoint], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Where another engine is asked for as well, no advice leads back to the one that is missing."""
    checkpoint = checkpoints["char"]
    data = packed(checkpoint, "te", "compiled").data
    with fresh_kernel(), monkeypatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path))
        patch.setenv("CC", "no-such-compiler")
        for engine in ("auto", "compiled", "numpy"):
            with pytest.raises(CharlmError, match=r"compiled engine, which is not available here .*no-such") as caught:
                unpacked(checkpoint, data, engine)
            assert "install the C compiler" in str(caught.value)
            assert "use --engine" not in str(caught.value)
        with pytest.raises(ConfigError):
            packed(checkpoint, "te", "compiled")
        assert unpacked(checkpoint, packed(checkpoint, "te").data) == "te"
    monkeypatch.setitem(sys.modules, "constriction", None)
    with pytest.raises(CharlmError, match=r"pip install constriction"):
        packed(checkpoint, "te")
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
    forged = opened(data)._replace(sha256=bytes(32)).file()
    (place / "short.cz").write_bytes(data[:-1])
    (place / "forged.cz").write_bytes(forged)
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


def test_nothing_reaches_standard_output_unless_all_is_well(place: Path) -> None:
    """Which is known at the end of the text only: its hash differs, or its last byte is no text."""
    good = opened((place / "text.cz").read_bytes())
    (place / "other.cz").write_bytes(good._replace(sha256=bytes(32)).file())
    (place / "cut.txt").write_bytes(b"te " * 300 + b"\xe9")
    here = ["--model", "one", "--checkpoints", "runs", "--output", "-"]
    one_line(process("decompress", "other.cz", *here, cwd=place), 1, "differs from the original", "nothing was written")
    one_line(process("compress", "cut.txt", *here, cwd=place), 3, "not UTF-8")
    done = process("decompress", "text.cz", *here, cwd=place)
    assert done.stdout.encode() == (place / "text.txt").read_bytes().replace(b"\r\n", b"\n")


def test_a_signal_leaves_no_part_of_a_file(place: Path) -> None:
    (place / "long.txt").write_text(synthetic_text(3000, seed=4) * 300)
    (place / "old.cz").write_text("what was there")
    before = set(place.iterdir())
    with started(*command(place, "compress", "long.txt", "old.cz"), cwd=place) as running:
        wait_until(lambda: len(set(place.iterdir()) - before) == 1)
        running.terminate()
        assert running.wait() == 143
    assert set(place.iterdir()) == before
    assert (place / "old.cz").read_text() == "what was there"
