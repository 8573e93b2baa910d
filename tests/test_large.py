"""A corpus on the disk has the parts, the split and the fingerprint of the same corpus in memory, and trains alike."""

from __future__ import annotations

import gzip
import io
import json
import lzma
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matrix import Tries
from on_disk import TINY, read_in_pieces
from victims import KILLED, Point, Victims, events, said

import charlm
from charlm.cli.main import run
from charlm.config import DataConfig, ModelConfig
from charlm.errors import CharlmError, DataError
from charlm.evaluation import comparison
from charlm.evaluation.comparison import ComparisonOptions, compare
from charlm.evaluation.score import score, score_stored
from charlm.models.network import Network, initialise
from charlm.storage import provenance
from charlm.text import files, large, portion, store
from charlm.text.corpus import Corpus, load_corpus
from charlm.text.lanes import Lanes
from charlm.text.large import StoredCorpus, open_corpus
from charlm.text.position import Position
from charlm.text.records import edges_of, record_edges
from charlm.text.stored import Numbers, StoredIds, StoredText
from charlm.text.tokenizer import ByteTokenizer, CharTokenizer, StoredTokens, Tokenizer, tokenize, train_tokenizer
from charlm.training.events import Event, Remark

TEXT: Final = "".join(
    f"{number} bottles of bière on the wall… “{number * 7 % 31}” ▁ of beer\n" for number in range(600)
)
PROFILE = settings(derandomize=True, deadline=None, max_examples=60, database=None)
FRESH = count()


@pytest.fixture(scope="module", autouse=True)
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Every corpus is a large one, and is read in blocks of a few bytes; the cache is empty."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        read_in_pieces(patch, block=500)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("texts")


def written(folder: Path, texts: Sequence[str | bytes]) -> list[str]:
    """Files with these contents."""
    place = folder / str(next(FRESH))
    place.mkdir()
    for number, text in enumerate(texts):
        (place / f"{number:03}.txt").write_bytes(text if isinstance(text, bytes) else text.encode())
    return [str(path) for path in sorted(place.iterdir())]


def opened(*arguments: Any, **options: Any) -> StoredCorpus:
    found = open_corpus(*arguments, **options)
    assert isinstance(found, StoredCorpus)
    return found


def content(corpus: Corpus | StoredCorpus) -> tuple[object, ...]:
    """All that the two kinds of corpus have in common."""
    parts = (str(corpus.train), str(corpus.val), str(corpus.test), str(corpus.stdin or ""))
    return (*parts, corpus.sources, corpus.remarks, corpus.split, corpus.fingerprint)


def said_of(read: Callable[..., object], *arguments: Any) -> str | None:
    """Why this cannot be read; None where it can."""
    try:
        read(*arguments)
    except DataError as error:
        return str(error)
    return None


ANY: Final = st.text(st.characters(codec="utf-8"), max_size=300) | st.text("ab\r\n \u2581", max_size=300)


@PROFILE
@given(st.lists(ANY, min_size=1, max_size=4), st.sampled_from(["0", "0.1", "0.5"]), st.sampled_from(["0", "0.3"]))
def test_a_stored_corpus_is_the_one_in_memory(folder: Path, texts: list[str], val: str, test: str) -> None:
    paths = written(folder, texts)
    if (refusal := said_of(load_corpus, paths, val, test)) is not None:
        assert said_of(open_corpus, paths, val, test) == refusal
        return
    expected = load_corpus(paths, val, test)
    made, again = opened(paths, val, test), opened(paths, val, test)
    assert content(made) == content(again) == content(expected)


def test_many_files_are_held_out_whole_and_one_may_be_named(folder: Path) -> None:
    paths = written(folder, [f"file {number} has this much to say\n" * (number % 5 + 1) for number in range(30)])
    assert opened(paths, "0.2", "0.1").split == "files"
    assert content(opened(paths, "0.2", "0.1")) == content(load_corpus(paths, "0.2", "0.1"))
    place = str(Path(paths[0]).parent)
    assert content(opened([place], "0.2")) == content(load_corpus([place], "0.2"))
    assert content(opened(paths[1:], paths[0])) == content(load_corpus(paths[1:], paths[0]))
    with pytest.raises(DataError, match="has the same content and is training text"):
        open_corpus(paths, "0.2", paths[3])


def test_files_of_a_folder_that_are_no_text_are_skipped_alike(folder: Path) -> None:
    bad = [b"fine\n", b"\0\1\2", b"begins well\n" * 20 + b"\xff", "wide".encode("utf-16"), b"%PDF-1.4"]
    place = str(Path(written(folder, [*bad, TEXT])[0]).parent)
    expected = load_corpus([place], "0.1")
    assert content(opened([place], "0.1")) == content(expected) == content(opened([place], "0.1"))
    assert len(expected.sources) == 2


@pytest.mark.fault(36)
@pytest.mark.parametrize(
    ("raw", "encoding"),
    [
        (b"one\ntwo\n" * 30 + b"\xff" + b"three\n" * 90, "utf-8"),
        (TEXT.encode() + b"\xc3", "utf-8"),
        (b"\xed\xa0\x80" * 40, "utf-8"),
        (TEXT.encode("utf-16-le"), "utf-8"),
        (TEXT.encode(), "ascii"),
        (TEXT.encode("utf-16-le"), "utf-16"),
    ],
)
def test_a_byte_that_is_no_text_is_named_by_offset_and_line(folder: Path, raw: bytes, encoding: str) -> None:
    (path,) = written(folder, [raw])
    with pytest.raises(DataError) as expected:
        load_corpus([path], "0.1", encoding=encoding)
    with pytest.raises(DataError) as raised:
        open_corpus([path], "0.1", encoding=encoding)
    assert str(raised.value).split("; ")[0] == str(expected.value).split("; ")[0]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "cp1252", "gb18030", "utf-7"])
def test_every_encoding_is_read_in_pieces(folder: Path, encoding: str) -> None:
    text = TEXT.replace("▁", "") if encoding == "cp1252" else TEXT
    (path,) = written(folder, [text.encode(encoding)])
    expected = load_corpus([path], "0.1", encoding=encoding)
    assert content(opened([path], "0.1", encoding=encoding)) == content(expected)


def test_standard_input_is_read_once_and_small_ones_stay_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def typed() -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(TEXT.encode())))

    typed()
    expected = load_corpus(["-"], "0.1")
    typed()
    assert content(opened(["-"], "0.1")) == content(expected)
    monkeypatch.setattr(large, "LARGE", 10**6)
    typed()
    found = open_corpus(["-"], "0.1")
    assert isinstance(found, Corpus)
    assert content(found) == content(expected)


@pytest.mark.parametrize("size", [200, 300, 70_000])
def test_alphabets_of_any_size_are_stored(folder: Path, size: int) -> None:
    points = [point for point in range(32, size + 2500) if not 0xD800 <= point < 0xE000][:size]
    text = "".join(map(chr, points)) * 2 + "the end\n"
    (path,) = written(folder, [text])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "READ", 9001)
        patch.setattr(store, "BLOCK", 9001)
        found = opened([path], "0")
    assert (str(found.train), found.train.bytes) == (text, len(text.encode()))
    expected, got = CharTokenizer.train(text), CharTokenizer.train(found.train)
    assert got.state() == expected.state()


def pair(folder: Path, text: str = TEXT, val: str = "0.1") -> tuple[Corpus, StoredCorpus]:
    (path,) = written(folder, [text])
    return load_corpus([path], val), opened([path], val)


@pytest.mark.parametrize("kind", ["char", "byte", "sentencepiece"])
def test_each_tokenizer_gives_the_same_ids(folder: Path, kind: str) -> None:
    memory, disk = pair(folder)
    data = DataConfig(tokenizer=kind, vocab_size=400 if kind == "sentencepiece" else 0)
    one, other = train_tokenizer(data, memory.train), train_tokenizer(data, disk.train)
    assert one.state() == other.state()
    for text, kept in ((memory.train, disk.train), (memory.val, disk.val)):
        expected, found = tokenize(one, text), tokenize(other, kept)
        assert found.ids[: len(found.ids)].tolist() == expected.ids.tolist()
        assert (found.characters, found.bytes) == (expected.characters, expected.bytes)
        assert found.unknown_characters == expected.unknown_characters
        places = np.array([[0, len(expected.ids) - 1], [7, 3]])
        assert found.ids.at(places).tolist() == expected.ids[places].tolist()
    assert tokenize(other, disk.val).words == tokenize(one, memory.val).words


def test_unknown_characters_are_counted(folder: Path) -> None:
    _, disk = pair(folder)
    tokenizer = CharTokenizer.train("abc\n")
    found = tokenize(tokenizer, disk.val)
    expected = tokenize(tokenizer, str(disk.val))
    assert found.unknown_characters == expected.unknown_characters > 0
    assert found.ids[:40].tolist() == expected.ids[:40].tolist()


@PROFILE
@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=5), st.integers(0, 90), st.integers(0, 90))
def test_spans_are_read_like_what_they_join(folder: Path, spans: list[tuple[int, int]], begin: int, end: int) -> None:
    path = folder / "numbers"
    whole = np.arange(40, dtype="u2") * 3
    path.write_bytes(whole.tobytes())
    ids = StoredIds(Numbers(path, "u2", 40), spans)
    joined = np.concatenate([whole[:0], *(whole[low:high] for low, high in spans if low < high)])
    assert len(ids) == len(joined)
    assert ids[begin:end].tolist() == joined[begin:end].tolist()
    assert ids.at(np.arange(len(joined))).tolist() == joined.tolist()
    anywhere = np.random.default_rng(begin).integers(0, max(1, len(joined)), (3, 4 if len(joined) else 0))
    assert ids.at(anywhere, scattered=True).tolist() == ids.at(anywhere).tolist() == joined[anywhere].tolist()


@PROFILE
@given(st.integers(1, 9), st.integers(1, 30), st.integers(0, 3))
def test_lanes_read_the_same_chunks_from_the_disk(folder: Path, batch: int, bptt: int, epochs: int) -> None:
    path = folder / "lanes"
    ids = np.arange(97, dtype=np.int32)
    path.write_bytes(ids.astype("u1").tobytes())
    one = Lanes(ids, start=200, batch=batch, bptt=bptt, seed=5)
    other = Lanes(StoredIds(Numbers(path, "u1", 97), [(0, 97)]), start=200, batch=batch, bptt=bptt, seed=5)
    position = Position()
    while position.epoch <= epochs:
        expected, found = one.read(position), other.read(position)
        assert torch.equal(expected.inputs, found.inputs)
        assert torch.equal(expected.targets, found.targets)
        assert (expected.scored, expected.next) == (found.scored, found.next)
        position = expected.next


def trained(path: str, folder: Path, name: str, **options: Any) -> charlm.Trained:
    return charlm.train(path, checkpoints=folder / "runs", name=name, **{**TINY, **options})


def outcome(run: charlm.Trained) -> tuple[object, ...]:
    checkpoint = charlm.load(run.run.last).checkpoint
    weights = {name: array.tobytes() for name, array in {**checkpoint.weights, **checkpoint.tensors}.items()}
    losses = [(row.step, row.train_loss, row.val_loss) for row in checkpoint.history]
    return weights, losses, checkpoint.corpus, checkpoint.state.position


@pytest.mark.parametrize("kind", ["char", "byte", "sentencepiece"])
def test_a_run_on_a_stored_text_is_the_run_on_the_text_in_memory(folder: Path, kind: str) -> None:
    (path,) = written(folder, [TEXT])
    on_disk = trained(path, folder, f"{kind}-disk", tokenizer=kind)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(large, "LARGE", 10**6)
        in_memory = trained(path, folder, f"{kind}-memory", tokenizer=kind)
    assert outcome(on_disk) == outcome(in_memory)
    assert on_disk.result.val_loss == pytest.approx(in_memory.result.val_loss, abs=1e-6)
    model = charlm.load(on_disk.checkpoint, device="cpu")
    assert model.score(model.validation_text()).loss == pytest.approx(on_disk.result.val_loss, abs=1e-6)


def test_a_run_on_a_stored_text_resumes_exactly(folder: Path) -> None:
    (path,) = written(folder, [TEXT])
    whole = trained(path, folder, "whole")
    stops = iter([None, None, None, "stop"])
    part = trained(path, folder, "part", stop=lambda: next(stops, None))
    assert part.reason == "stop"
    assert outcome(trained(path, folder, "part", resume=True)) == outcome(whole)


def test_a_large_text_is_scored_as_in_memory(folder: Path) -> None:
    memory, disk = pair(folder, TEXT * 3, "0.9")
    for tokenizer in (CharTokenizer.train(memory.train), ByteTokenizer()):
        network = Network(ModelConfig(cell="gru", layers=1, hidden=12, embedding=8), tokenizer.size)
        initialise(network, 3)
        network.eval()
        expected = score(network, tokenizer, tokenize(tokenizer, memory.val))
        found = score_stored(network, tokenizer, stored_tokens(tokenizer, disk.val))
        assert found.nats == pytest.approx(expected.nats, rel=1e-9)
        assert (found.characters, found.bytes, found.words) == (expected.characters, expected.bytes, expected.words)
        assert found.tokens == expected.tokens


def stored_tokens(tokenizer: Tokenizer, text: StoredText) -> StoredTokens:
    return tokenize(tokenizer, text)


def test_drift_of_lanes_is_measured_as_in_memory(folder: Path) -> None:
    """A model that remembers everything drifts, until the text is read in one pass."""

    class Counting:
        def init_state(self, lanes: int) -> torch.Tensor:
            return torch.zeros(lanes)

        def __call__(self, ids_TB: torch.Tensor, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            seen = state + (ids_TB % 7).float().cumsum(0)
            logits = torch.stack([torch.sin(seen / 50 + number) for number in range(256)], -1)
            return logits, seen[-1]

    memory, disk = pair(folder, TEXT, "0.9")
    tokenizer = ByteTokenizer()
    expected = score(Counting(), tokenizer, tokenize(tokenizer, memory.val))
    assert score_stored(Counting(), tokenizer, stored_tokens(tokenizer, disk.val)).nats == pytest.approx(expected.nats)


# The store: made once, made again where it cannot be used, whole whatever happens


def stores() -> list[Path]:
    place = Path(os.environ["XDG_CACHE_HOME"], "charlm", "corpora")
    return [path for path in place.iterdir() if path.is_dir()]


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def test_an_unchanged_text_is_not_read_again_and_a_changed_one_is(
    own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = own_cache / "a.txt"
    path.write_text(TEXT, encoding="utf-8")
    before = content(opened([str(path)], "0.1"))
    with monkeypatch.context() as patch:
        patch.setattr(large._Request, "_make", None)
        assert content(opened([str(path)], "0.1")) == before
    path.write_text(TEXT.upper(), encoding="utf-8")
    assert str(opened([str(path)], "0").train) == TEXT.upper()
    assert len(stores()) == 2
    moved = path.rename(own_cache / "b.txt")
    assert str(opened([str(moved)], "0").train) == TEXT.upper()
    assert len(stores()) == 2


def cut_codes(place: Path) -> None:
    os.truncate(place / "codes", 1000)


def longer_codes(place: Path) -> None:
    with (place / "codes").open("ab") as file:
        file.write(b"\1")


def other_codes(place: Path) -> None:
    data = (place / "codes").read_bytes()
    (place / "codes").write_bytes(bytes(len(data)))


def no_codes(place: Path) -> None:
    (place / "codes").unlink()


def other_version(place: Path) -> None:
    header = json.loads((place / "header.json").read_text())
    (place / "header.json").write_text(json.dumps({**header, "format": 0}))


def of_another_text(place: Path) -> None:
    header = json.loads((place / "header.json").read_text())
    (place / "header.json").write_text(json.dumps({**header, "key": "0" * 32}))


def cut_header(place: Path) -> None:
    os.truncate(place / "header.json", 100)


@pytest.mark.fault(47)
@pytest.mark.parametrize(
    "damage", [cut_codes, longer_codes, other_codes, no_codes, other_version, of_another_text, cut_header]
)
def test_a_store_that_cannot_be_used_is_made_again_and_that_is_said(
    own_cache: Path, damage: Callable[[Path], None]
) -> None:
    path = own_cache / "a.txt"
    path.write_text(TEXT, encoding="utf-8")
    before = content(opened([str(path)], "0.1"))
    (place,) = stores()
    damage(place)
    found = opened([str(path)], "0.1")
    assert content(found)[:5] == before[:5]
    (remark,) = found.remarks
    assert remark.startswith("the stored corpus could not be used and was made again: ")
    assert content(opened([str(path)], "0.1")) == before


def cut_short(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def changed(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


@pytest.mark.fault(47)
@pytest.mark.parametrize("damage", [cut_short, changed])
@pytest.mark.parametrize("kind", ["byte", "sentencepiece"])
def test_ids_and_edges_that_are_damaged_are_made_again(
    own_cache: Path, kind: str, damage: Callable[[Path], None]
) -> None:
    path = own_cache / "a.txt"
    path.write_text(TEXT, encoding="utf-8")
    corpus = opened([str(path)], "0.1", records="line")
    tokenizer = train_tokenizer(DataConfig(tokenizer=kind, vocab_size=400 * (kind != "byte")), corpus.train)
    expected = tokenize(tokenizer, str(corpus.train)).ids
    edges = record_edges(expected, tokenizer, "line").tolist()
    for _ in range(2):
        tokens = tokenize(tokenizer, corpus.train)
        found = edges_of(tokens, tokenizer, "line")
        assert isinstance(found, Numbers)
        assert tokens.ids[: len(tokens.ids)].tolist() == expected.tolist()
        assert found.between(0, len(found)).tolist() == edges
        for kept in corpus.train.folder.glob("*.*s"):
            damage(kept)


def test_old_stores_make_room_for_new_ones(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_MOST", 150_000)
    for number in range(6):
        path = own_cache / f"{number}.txt"
        path.write_text(TEXT + str(number), encoding="utf-8")
        opened([str(path)], "0.1")
        for place in stores():
            header = place / "header.json"
            os.utime(header, (header.stat().st_mtime - 60,) * 2)
    kept = stores()
    assert 1 <= len(kept) < 6
    assert sum(file.stat().st_size for place in kept for file in place.iterdir()) <= 150_000
    assert str(opened([str(own_cache / "0.txt")], "0").train) == TEXT + "0"


def test_without_a_cache_a_store_lives_as_long_as_the_process(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = own_cache / "a.txt"
    path.write_text(TEXT, encoding="utf-8")
    monkeypatch.setattr(store, "cache_folder", lambda: None)
    monkeypatch.setattr(store, "_own", [])
    assert content(opened([str(path)], "0.1")) == content(load_corpus([str(path)], "0.1"))
    assert store._own[0].is_dir()
    assert not (own_cache / "cache").exists()


PATCHES: Final = {"charlm.text.large.LARGE": 0, "charlm.text.files.READ": 500}
COMMAND: Final = ["train", "a.txt", "--steps", "1", "--hidden", "8", "--embedding", "8", "--bptt", "16", "-q"]
COMMAND_ON_CPU: Final = [*COMMAND, "--device", "cpu", "--precision", "fp32"]


@pytest.fixture
def victims(own_cache: Path) -> Iterator[Victims]:
    (own_cache / "a.txt").write_text(TEXT, encoding="utf-8")
    an_hour_ago = (own_cache / "a.txt").stat().st_mtime - 3600
    os.utime(own_cache / "a.txt", (an_hour_ago, an_hour_ago))
    with Victims() as server:
        yield server


@pytest.mark.fault(48)
@pytest.mark.parametrize("records", ["none", "line"])
def test_a_full_disk_leaves_nothing_behind_and_is_said(
    own_cache: Path, victims: Victims, tries: Tries, many: Callable[[int, int], int], records: str
) -> None:
    """The same stands for an archive that unpacks to more than the disk holds."""
    command, sizes = [*COMMAND_ON_CPU, "--records", records], many(6, 40)
    for number in range(sizes):
        limit = 1 + len(TEXT) * number // sizes
        assert victims.run(own_cache, command, patches=PATCHES, largest_file=limit) == 74
        (line,) = said(own_cache).splitlines()
        assert line.startswith("charlm: cannot store the corpus in ")
        assert "nothing was kept; free space there, or set XDG_CACHE_HOME" in line
        assert not stores()
        assert not (own_cache / "checkpoints").exists()
        tries.survived()
    assert victims.run(own_cache, command, patches=PATCHES) == 0


@pytest.mark.fault(49)
@pytest.mark.parametrize("records", ["none", "line"])
def test_a_kill_half_way_costs_the_store_and_the_next_run_removes_it(
    own_cache: Path, victims: Victims, tries: Tries, many: Callable[[int, int], int], records: str
) -> None:
    command, scope = [*COMMAND_ON_CPU, "--records", records], "_Request._make"
    assert victims.run(own_cache, command, patches=PATCHES, kill_at=Point(scope, 1)) == 0
    points = events(own_cache)
    (first,) = stores()
    for number in range(tried := many(8, 60) if records == "none" else many(3, 20)):
        for place in stores():
            for file in place.iterdir():
                file.unlink()
            place.rmdir()
        at = 1 + (points - 1) * number // tried
        assert victims.run(own_cache, [*command, "--force"], patches=PATCHES, kill_at=Point(scope, 1, at)) == KILLED
        assert victims.run(own_cache, [*command, "--force"], patches=PATCHES) == 0
        assert stores() == [first]
        tries.survived()


KINDS: Final = [("byte", "line"), ("sentencepiece", "none")]


def command_for(kind: str, records: str) -> list[str]:
    size = ["--vocab-size", "400"] if kind == "sentencepiece" else []
    return [*COMMAND_ON_CPU, "--tokenizer", kind, *size, "--records", records, "--force"]


@pytest.mark.fault(47)
@pytest.mark.parametrize(("kind", "records"), KINDS)
def test_the_command_makes_a_damaged_store_again_and_says_so(
    own_cache: Path, victims: Victims, kind: str, records: str
) -> None:
    command = [word for word in command_for(kind, records) if word != "-q"]
    assert victims.run(own_cache, command, patches=PATCHES) == 0
    trained = charlm.load(own_cache / "checkpoints" / "a").checkpoint.state_sha256
    assert "made again" not in said(own_cache)
    cut_codes(stores()[0])
    assert victims.run(own_cache, command, patches=PATCHES) == 0
    assert "the stored corpus could not be used and was made again: " in said(own_cache)
    assert charlm.load(own_cache / "checkpoints" / "a").checkpoint.state_sha256 == trained


@pytest.mark.fault(48)
@pytest.mark.parametrize(("kind", "records"), KINDS)
def test_a_disk_that_fills_with_ids_leaves_the_store_and_is_said(
    own_cache: Path, victims: Victims, kind: str, records: str
) -> None:
    assert victims.run(own_cache, [*COMMAND_ON_CPU, "--records", records, "--name", "before"], patches=PATCHES) == 0
    (place,) = stores()
    before = sorted(path.name for path in place.iterdir())
    assert victims.run(own_cache, command_for(kind, records), patches=PATCHES, largest_file=5000) == 74
    (line,) = said(own_cache).splitlines()
    assert line.startswith("charlm: cannot store the corpus in ")
    assert "free space there, or set XDG_CACHE_HOME" in line
    assert sorted(path.name for path in place.iterdir()) == before
    assert not (own_cache / "checkpoints" / "a").exists()
    assert victims.run(own_cache, command_for(kind, records), patches=PATCHES) == 0


@pytest.mark.fault(48)
@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress])
def test_an_archive_that_unpacks_to_more_than_the_disk_holds(
    own_cache: Path, victims: Victims, pack: Callable[[bytes], bytes]
) -> None:
    (own_cache / "a.txt").write_bytes(pack(TEXT.encode()))
    assert (own_cache / "a.txt").stat().st_size < 20_000 < len(TEXT)
    assert victims.run(own_cache, COMMAND_ON_CPU, patches=PATCHES, largest_file=20_000) == 74
    assert said(own_cache).startswith("charlm: cannot store the corpus in ")
    assert not stores()
    assert not (own_cache / "checkpoints").exists()


@pytest.mark.fault(49)
@pytest.mark.parametrize(("kind", "records"), KINDS)
def test_what_a_kill_leaves_of_ids_is_removed_when_they_are_made(
    own_cache: Path, victims: Victims, kind: str, records: str
) -> None:
    command = command_for(kind, records)
    assert victims.run(own_cache, command, patches=PATCHES) == 0
    (place,) = stores()
    made = sorted(path.name for path in place.iterdir())
    for path in place.glob("*.ids"):
        path.unlink()
    halfway = Point("_write_all", 1, 6)
    assert victims.run(own_cache, command, patches=PATCHES, kill_at=halfway) == KILLED
    assert [path for path in place.iterdir() if path.name.startswith(".making")]
    assert victims.run(own_cache, command, patches=PATCHES) == 0
    assert sorted(path.name for path in place.iterdir()) == made


@pytest.mark.fault(49)
def test_two_processes_make_one_store(own_cache: Path) -> None:
    (own_cache / "a.txt").write_text(TEXT, encoding="utf-8")
    code = (
        "import sys; from charlm.text import files, large; large.LARGE = 0; files.READ = 300; files.SETTLED = -1e6\n"
        "sys.stdin.read(1); print(large.open_corpus(['a.txt'], '0.1').fingerprint)"
    )
    command = [sys.executable, "-c", code]
    both = [
        subprocess.Popen(command, cwd=own_cache, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for one in both:
        assert one.stdin is not None
        one.stdin.write("x")
        one.stdin.flush()
    assert {one.communicate(timeout=60)[0].strip() for one in both} == {
        load_corpus([str(own_cache / "a.txt")], "0.1").fingerprint
    }
    assert len(stores()) == 1


def test_a_large_text_from_standard_input_is_kept_with_the_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(TEXT.encode())))
    run = trained("-", folder, "typed")
    assert run.run.corpus.read_text(encoding="utf-8") == TEXT
    model = charlm.load(run.checkpoint, device="cpu")
    assert model.score(model.validation_text()).loss == pytest.approx(run.result.val_loss, abs=1e-6)


def test_a_validation_text_whose_score_takes_long_is_mentioned(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("charlm.training.session._LONG_SCORE", 100)
    text, remarks = folder / "text.txt", list[str]()
    text.write_text("once upon a time\n" * 200)

    def note(event: Event) -> None:
        if isinstance(event, Remark):
            remarks.append(event.text)

    for val in ("0.1", "0.02"):
        charlm.train(text, checkpoints=folder, force=True, val=val, steps=1, hidden=8, on_event=note)
    (found,) = [remark for remark in remarks if "scored at the end" in remark]
    assert found.startswith("all 340 characters")
    assert "--val 0.03 " in found


def test_errors_are_those_of_the_command(own_cache: Path) -> None:
    with pytest.raises(CharlmError, match="at least 2 are needed"):
        open_corpus([*written(own_cache, ["a"])], "0.1")


def test_a_long_validation_text_is_evaluated_on_the_disk(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (path,) = written(folder, [TEXT * 4])
    for kind in ("char", "byte"):
        model = charlm.load(trained(path, folder, f"long-{kind}", tokenizer=kind, val="0.5").checkpoint, device="cpu")
        (expected,) = compare([model]).rows
        with monkeypatch.context() as patch:
            patch.setattr(comparison, "_LONG", 0)
            patch.setattr(comparison, "_CELL", 16)
            (found,) = compare([model]).rows
            assert len({row.number for row in compare([model, model]).rows}) == 1
        assert found.score.nats == pytest.approx(expected.score.nats, rel=1e-6)
        counts = {name: value for name, value in found.record().items() if isinstance(value, int)}
        assert counts.items() <= expected.record().items()
        assert expected.interval is not None
        if kind == "char":
            assert found.interval == pytest.approx(expected.interval, abs=0.02)
        else:
            assert found.interval is None


def test_ngram_models_and_novelty_say_what_they_leave_out(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(portion, "PORTION", 2000)
    (path,) = written(folder, [TEXT])
    model = charlm.load(trained(path, folder, "sampled").checkpoint, device="cpu")
    found = compare([model], options=ComparisonOptions(baselines=True))
    train = TEXT[: model.checkpoint.corpus.train_characters]
    remark = f"only the last 2,000 of {len(train):,} characters of the training text were used"
    assert found.remarks[-1] == f"n-gram models and compressors: {remark}"
    index = provenance.training_index(model.checkpoint, model.path)
    assert index.remark == remark
    assert index.novelty(train[-500:]).longest is not None
    longest = index.novelty(train[-2500:]).longest
    assert longest is not None
    assert longest.length == 2000


def test_a_long_text_that_is_compared_or_searched_is_read_to_a_bound_and_that_is_said(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every row is that of the first lines, so that the models can be compared."""
    (path,) = written(folder, [TEXT])
    model = charlm.load(trained(path, folder, "bounded").checkpoint, device="cpu")
    monkeypatch.setattr(portion, "PORTION", 1000)
    first = TEXT[: TEXT.rindex("\n", 0, 1000) + 1]
    options = ComparisonOptions(mix=True)
    found, alone = (compare([model], [("a.txt", text)], options=options) for text in (TEXT, first))
    assert found.remarks[0] == f"only the first {len(first):,} of {len(TEXT):,} characters of a.txt were read"
    assert len(alone.remarks) == 1  # the training text
    assert [row.record() | {"characters_per_second": 0} for row in found.rows] == [
        row.record() | {"characters_per_second": 0} for row in alone.rows
    ]
    (validation,) = compare([model], options=options).rows[:1]
    assert validation.score.characters <= 1000
    given = ["--text", str(path), "--checkpoints", str(folder / "runs"), "-q"]
    for arguments in (["novelty", "bounded"], ["eval", "bounded", "--mix"]):
        assert run([*arguments, *given]) == 0
        shown = " ".join(capsys.readouterr().out.split())
        assert "Less than all: only the first" in shown
        assert "characters of the training text were used" in shown
        assert run([*arguments, *given, "--json"]) == 0
        assert len(json.loads(capsys.readouterr().out)["remarks"]) == 2
