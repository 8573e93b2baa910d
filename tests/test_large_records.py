"""Records on the disk are divided, dealt out and scored as the same records in memory, in bounded memory."""

from __future__ import annotations

import io
import os
import sys
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from itertools import count, pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from on_disk import TINY, read_in_pieces

import charlm
from charlm.config import DataConfig, ModelConfig
from charlm.errors import DataError
from charlm.evaluation import comparison
from charlm.evaluation import score as scoring
from charlm.evaluation.comparison import compare
from charlm.evaluation.score import score, score_stored
from charlm.models.network import Network, initialise
from charlm.runtime.random import Purpose, uniforms, uniforms_of
from charlm.text import large, record_store, shuffle
from charlm.text.corpus import Corpus, Source, load_corpus
from charlm.text.large import StoredCorpus, open_corpus
from charlm.text.position import Position
from charlm.text.record_lanes import RecordLanes
from charlm.text.records import edges_of, record_blocks, record_edges, records_of
from charlm.text.split import FILES, Chooser, cuts
from charlm.text.stored import Numbers, StoredIds
from charlm.text.tokenizer import tokenize, train_tokenizer

KINDS: Final = ("line", "paragraph", "file")
TEXT: Final = "".join(f"{number} bottles\n of bière…\r\n\n“{number * 7 % 31}” ▁ of beer\n\n\n" for number in range(200))
PROFILE = settings(derandomize=True, deadline=None, max_examples=60, database=None)
FRESH = count()
PIECES: Final = st.lists(
    st.sampled_from(["a", "bc", " ", "\t", "\n", "\n", "\r", "\r\n", "\n\n", "…", "é"]), max_size=30
)
TEXTS: Final = st.lists(PIECES.map("".join), min_size=1, max_size=5)
SHARES: Final = st.sampled_from([("0", "0"), ("0.1", "0"), ("0", "0.2"), ("0.1", "0.3"), ("0.5", "0.4")])


@pytest.fixture(scope="module", autouse=True)
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Every corpus is a large one, and is read and sorted in blocks of a few bytes; the cache is empty."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        read_in_pieces(patch, block=50)
        patch.setattr(record_store, "_BLOCK", 90)
        patch.setattr(scoring, "_RECORD_TOKENS", 300)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("texts")


def written(folder: Path, texts: Sequence[str]) -> list[str]:
    """Files with these contents."""
    place = folder / str(next(FRESH))
    place.mkdir()
    for number, text in enumerate(texts):
        (place / f"{number:03}.txt").write_bytes(text.encode())
    return [str(path) for path in sorted(place.iterdir())]


def content(corpus: Corpus | StoredCorpus) -> tuple[object, ...]:
    """All that the two kinds of corpus have in common."""
    parts = (str(corpus.train), str(corpus.val), str(corpus.test), str(corpus.stdin or ""))
    return (*parts, corpus.sources, corpus.remarks, corpus.split, corpus.fingerprint)


def said_of(read: Callable[..., object], paths: list[str], val: str, test: str, kind: str) -> str | None:
    """Why this cannot be read; None where it can."""
    try:
        read(paths, val, test, records=kind)
    except DataError as error:
        return str(error)
    return None


def same_as_in_memory(paths: list[str], val: str, test: str, kind: str) -> None:
    """The corpus of the store, made and found again, is the one of `load_corpus`; or both are refused alike."""
    if (refusal := said_of(load_corpus, paths, val, test, kind)) is not None:
        assert said_of(open_corpus, paths, val, test, kind) == refusal
        return
    expected = load_corpus(paths, val, test, records=kind)
    made, again = (open_corpus(paths, val, test, records=kind) for _ in range(2))
    assert isinstance(made, StoredCorpus)
    assert content(made) == content(again) == content(expected)


@PROFILE
@given(PIECES, st.sampled_from(KINDS), st.lists(st.integers(0, 40), max_size=6))
def test_records_are_found_in_pieces_of_a_text(pieces: list[str], kind: str, at: list[int]) -> None:
    text = "".join(pieces)
    edges = [0, *sorted(min(place, len(text)) for place in at), len(text)]
    parts = [text[begin:end] for begin, end in pairwise(edges)]
    assert [record for block in record_blocks(parts, kind) for record in block] == records_of(text, kind)


@PROFILE
@given(TEXTS, st.sampled_from(KINDS), SHARES)
def test_a_stored_corpus_of_records_is_the_one_in_memory(
    folder: Path, texts: list[str], kind: str, shares: tuple[str, str]
) -> None:
    paths = written(folder, texts)
    if any(texts):
        same_as_in_memory(paths, *shares, kind)


@PROFILE
@given(TEXTS, PIECES.map("".join), PIECES.map("".join), st.sampled_from(KINDS), st.integers(0, 5))
def test_files_are_held_out_without_the_records_that_are_trained_on(
    folder: Path, texts: list[str], val: str, test: str, kind: str, which: int
) -> None:
    """Files whose records have their ends already are read as they are, empty ones included."""
    ended = [text.replace("\n", "\x03") + "\x03" if which >= 3 and kind != "line" else text for text in (val, test)]
    *paths, val_file, test_file = written(folder, [*texts, *ended])
    held = [(val_file, "0"), (val_file, "0.3"), (val_file, test_file), ("0.3", test_file)][which % 4]
    if any(texts):
        same_as_in_memory(paths, *held, kind)


def test_an_end_inside_a_record_is_refused_where_it_stands(folder: Path) -> None:
    for kind in KINDS:
        same_as_in_memory(written(folder, ["fine\n\n" * 30 + "one\x03two\n\nthree"]), "0.1", "0", kind)


@PROFILE
@given(
    st.lists(st.integers(1, 9) | st.integers(1, 10**4), min_size=2, max_size=60),
    st.sampled_from([0.0, 0.001, 0.1, 0.6]),
    st.sampled_from([0.0, 0.001, 0.3]),
    st.integers(1, 60),
)
def test_what_is_held_out_is_known_after_one_pass(lengths: list[int], val: float, test: float, different: int) -> None:
    """Oracle: the split of files, which has all hashes in memory."""
    digests = [sha256(str(number % different).encode()).digest() for number in range(len(lengths))]
    sizes = np.array([lengths[number % different] for number in range(len(lengths))], dtype=np.int64)
    sources = [Source("", size, size, digest.hex()) for digest, size in zip(digests, sizes.tolist(), strict=True)]
    chooser = Chooser(val, test)
    keys = np.concatenate([chooser.push(digests[at : at + 7], sizes[at : at + 7]) for at in range(0, len(sizes), 7)])
    found = chooser.found()
    for cut, key, size in zip(cuts(sources, val, test, FILES), keys.tolist(), sizes.tolist(), strict=True):
        small = size <= found.longest
        part = "val" if small and key <= found.last_val else "test" if small and key >= found.first_test else "train"
        assert part == ("train" if cut.train else "val" if cut.val else "test")


def test_of_many_records_as_many_are_held_out_as_in_memory(folder: Path) -> None:
    (path,) = written(folder, ["".join(f"{number * 7919 % 1500}\n" for number in range(3000))])
    for shares in (("0.1", "0.2"), ("0.001", "0"), ("0", "0.5")):
        same_as_in_memory([path], *shares, "line")


def test_standard_input_is_kept_as_it_was(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(TEXT.encode())))
    run = trained("-", folder, "typed", records="line")
    assert run.run.corpus.read_bytes() == TEXT.encode()
    model = charlm.load(run.checkpoint, device="cpu")
    assert model.score(model.validation_text()).loss == pytest.approx(run.result.val_loss, abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tokenizer", ["char", "byte", "sentencepiece"])
def test_ids_and_edges_are_those_in_memory(folder: Path, tokenizer: str, kind: str) -> None:
    paths = written(folder, [TEXT[:4000], TEXT[4000:], *(f"{number} more" for number in range(20))])
    memory, disk = load_corpus(paths, "0.1", records=kind), open_corpus(paths, "0.1", records=kind)
    own = train_tokenizer(DataConfig(tokenizer=tokenizer, vocab_size=400 if tokenizer[0] == "s" else 0), memory.train)
    for expected, text in ((memory.train, disk.train), (memory.val, disk.val)):
        ids, found = own.encode(expected).ids, tokenize(own, text)
        assert found.ids[: len(found.ids)].tolist() == ids.tolist()
        for _ in range(2):
            edges = edges_of(found, own, kind)
            assert isinstance(edges, Numbers)
            assert edges.between(0, len(edges)).tolist() == record_edges(ids, own, kind).tolist()
            os.truncate(edges.path, 8)  # damaged, it is made again


# Lanes


def reference(lengths: list[int], batch: int, bptt: int, seed: int, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Pieces (begin, length) lane by lane: the order as sorts of all records give it."""
    edges = np.concatenate([[0], np.cumsum(lengths)])
    pieces = -(-np.array(lengths) // bptt)
    R, B = len(lengths), min(batch, len(lengths), max(1, int(pieces.sum()) // int(pieces.max())))
    shuffled = np.argsort(uniforms(seed, Purpose.SHUFFLE, number, 1, R)[0], kind="stable")
    ranked = shuffled[np.argsort(-pieces[shuffled], kind="stable")]
    turn, seat = np.divmod(np.arange(R), B)
    lane = np.empty(R, dtype=np.int64)
    lane[ranked] = np.where(turn % 2, B - 1 - seat, seat)
    order = shuffled[np.argsort(lane[shuffled], kind="stable")]
    table = [
        (lane[r], edges[r] + part * bptt, min(lengths[r] - part * bptt, bptt))
        for r in order.tolist()
        for part in range(pieces[r])
    ]
    return np.array([row[0] for row in table]), np.array([row[1:] for row in table])


@PROFILE
@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=60), st.integers(1, 12), st.integers(1, 16), st.integers(0, 2**63)
)
def test_records_are_dealt_out_in_blocks_as_all_at_once(
    folder: Path, lengths: list[int], batch: int, bptt: int, seed: int
) -> None:
    ids = np.arange(sum(lengths), dtype=np.int32)
    edges = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    (folder / "ids").write_bytes(ids.tobytes())
    (folder / "edges").write_bytes(edges.tobytes())
    kept = StoredIds(Numbers(folder / "ids", "i4", len(ids)), [(0, len(ids))])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shuffle, "_BLOCK", 7)
        how: dict[str, Any] = {"start": 10**6, "batch": batch, "bptt": bptt, "seed": seed}
        both = [RecordLanes(ids, edges, **how), RecordLanes(kept, Numbers(folder / "edges", "i8", len(edges)), **how)]
        for number in range(2):
            lanes, table = reference(lengths, batch, bptt, seed, number)
            read = [list[tuple[int, int]]() for _ in range(both[0].batch)]
            position = Position(number)
            while position.epoch == number:
                chunk, other = (one.read(position) for one in both)
                assert torch.equal(chunk.inputs, other.inputs)
                assert torch.equal(chunk.targets, other.targets)
                assert (chunk.scored, chunk.next) == (other.scored, other.next)
                assert chunk.lengths is not None
                for lane in np.flatnonzero(chunk.lengths).tolist():
                    read[lane].append((int(chunk.targets[0, lane]), int(chunk.lengths[lane])))
                position = chunk.next
            for lane, found in enumerate(read):
                assert found == [tuple(row) for row in table[lanes == lane].tolist()]


def test_numbers_of_chosen_streams_are_those_of_all() -> None:
    seed, epoch = 2**60 + 7, 2**33 + 5
    everything = uniforms(seed, Purpose.SHUFFLE, epoch, 1, 100)[0]
    chosen = np.array([99, 0, 41], dtype=np.uint8)
    assert uniforms_of(seed, Purpose.SHUFFLE, epoch, chosen).tolist() == everything[chosen].tolist()


def test_an_epoch_holds_a_few_bytes_a_record(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nine at the most while it is dealt out, in addition to blocks of a fixed size, and eight afterwards."""
    monkeypatch.setattr(shuffle, "_BLOCK", 2**11)
    R = 400_000
    lengths = np.random.default_rng(1).integers(1, 300, R)
    edges = np.concatenate([[0], np.cumsum(lengths)])
    ids = np.broadcast_to(np.int32(1), edges[-1:])[:1]
    tracemalloc.start()
    try:
        lanes = RecordLanes(ids, edges, start=1, batch=64, bptt=128, seed=1)
        resident, peak = tracemalloc.get_traced_memory()
        lanes.read(Position(1))
        assert tracemalloc.get_traced_memory()[1] <= 10 * R
    finally:
        tracemalloc.stop()
    assert resident <= 8.5 * R
    assert peak <= 10 * R


# Runs


def trained(path: str | list[str], folder: Path, name: str, **options: Any) -> charlm.Trained:
    paths = [path] if isinstance(path, str) else path
    return charlm.train(*paths, checkpoints=folder / "runs", name=name, **{**TINY, **options})


def outcome(run: charlm.Trained) -> tuple[object, ...]:
    checkpoint = charlm.load(run.run.last).checkpoint
    weights = {name: array.tobytes() for name, array in {**checkpoint.weights, **checkpoint.tensors}.items()}
    losses = [(row.step, row.train_loss, row.val_loss) for row in checkpoint.history]
    return weights, losses, checkpoint.corpus, checkpoint.state.position, checkpoint.config


@pytest.mark.parametrize(
    ("kind", "tokenizer"), [("line", "char"), ("paragraph", "sentencepiece"), ("file", "byte"), ("paragraph", "char")]
)
def test_a_run_on_stored_records_is_the_run_on_records_in_memory(folder: Path, kind: str, tokenizer: str) -> None:
    size = len(TEXT) // 8
    paths = written(folder, [TEXT[at : at + size] for at in range(0, len(TEXT), size)])
    options = {"records": kind, "tokenizer": tokenizer, "test": "0.2"}
    on_disk = trained(paths, folder, f"{kind}-{tokenizer}-disk", **options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(large, "LARGE", 10**6)
        in_memory = trained(paths, folder, f"{kind}-{tokenizer}-memory", **options)
    assert outcome(on_disk) == outcome(in_memory)
    assert on_disk.result.val_loss == pytest.approx(in_memory.result.val_loss, abs=1e-6)
    assert on_disk.result.test_loss == pytest.approx(in_memory.result.test_loss, abs=1e-6)


def test_a_run_on_stored_records_resumes_exactly(folder: Path) -> None:
    (path,) = written(folder, [TEXT])
    whole = trained(path, folder, "whole", records="line")
    stops = iter([None, None, None, "stop"])
    part = trained(path, folder, "part", records="line", stop=lambda: next(stops, None))
    assert part.reason == "stop"
    assert outcome(trained(path, folder, "part", records="line", resume=True)) == outcome(whole)


def test_stored_records_are_scored_as_in_memory(folder: Path) -> None:
    (path,) = written(folder, [TEXT * 2])
    memory, disk = load_corpus([path], "0.9", records="line"), open_corpus([path], "0.9", records="line")
    assert isinstance(disk, StoredCorpus)
    for kind in ("char", "byte"):
        tokenizer = train_tokenizer(DataConfig(tokenizer=kind), memory.train)
        network = Network(ModelConfig(cell="gru", layers=1, hidden=12, embedding=8), tokenizer.size)
        initialise(network, 3)
        network.eval()
        expected = score(network, tokenizer, tokenize(tokenizer, memory.val), records="line")
        cells = np.ones(9)
        found = score_stored(network, tokenizer, tokenize(tokenizer, disk.val), cells=cells, records="line")
        assert found.nats == pytest.approx(expected.nats, rel=1e-6)
        assert cells.sum() == pytest.approx(found.nats, rel=1e-6)
        assert (found.characters, found.bytes, found.words) == (expected.characters, expected.bytes, expected.words)


def test_eval_reads_stored_records_as_those_in_memory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (path,) = written(folder, [TEXT * 3])
    run = trained(path, folder, "evaluated", records="line", val="0.5")
    for model in (charlm.load(run.checkpoint, device="cpu"), charlm.load(run.checkpoint, device="cpu", records="none")):
        (expected,) = compare([model]).rows
        with monkeypatch.context() as patch:
            patch.setattr(comparison, "_LONG", 0)
            (found,) = compare([model]).rows
        assert found.score.nats == pytest.approx(expected.score.nats, rel=1e-6)
        assert found.score.characters == expected.score.characters
