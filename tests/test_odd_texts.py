"""Odd texts all the way through train, sample and eval: short, strange, hostile, from pipes, among other things."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import subprocess
import threading
import time
import unicodedata
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from matrix import Tries
from odd import COMMANDS, HOSTILE, PLAIN, TINY, trained
from processes import CHARLM, one_line
from processes import charlm as command

import charlm
from charlm.cli.main import run
from charlm.config import DataConfig
from charlm.errors import DataError
from charlm.text.tokenizer import Tokenizer, train_tokenizer


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of an ordinary text."""
    folder = tmp_path_factory.mktemp("odd")
    trained(folder, PLAIN, "plain")
    return folder


@pytest.fixture
def inside(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(place)
    return place


# 35: short texts


def can_be_learned(text: str, kind: str) -> bool:
    """SentencePiece learns from what stands between line ends, its own mark for a space, and NUL."""
    return kind != "sentencepiece" or bool(set(text) - set("\r\n\0\u2581"))


@pytest.mark.fault(35)
@pytest.mark.parametrize("kind", ["char", "byte", "sentencepiece"])
def test_short_texts_are_learned_written_and_scored_or_refused(
    tmp_path: Path, kind: str, tries: Tries, many: Callable[[int, int], int]
) -> None:
    """Every share of every text; the window given, 64 tokens in 4 lanes, is more than most of them have."""
    texts = [
        "",
        "a",
        "ab",
        "aa",
        "\n",
        "\n\n",
        "a\n",
        "abc",
        "\0\0",
        "\r\n",
        "\u2581\u2581",
        "\ufeff\ufeff",
        "😀é",
        "   ",
    ]
    texts += ["abcdefghij", "ab" * 10, *("a" * n for n in (8, 54, 65, 500))]
    texts += ["a" * n for n in range(4, many(4, 70))]
    (tmp_path / "val").write_text("xyz")
    for text in texts:
        for val in ("0", "0.1", "0.5", "0.9", str(tmp_path / "val")):
            share = Fraction(val) if val[0] == "0" else Fraction(0)
            left = text[: int(len(text) * (1 - share))]
            options: dict[str, Any] = {
                "tokenizer": kind,
                "val": val,
                **({"batch": 4, "bptt": 64} if val < "0.5" else {}),
            }
            if len(left) < 2 or not can_be_learned(left, kind):
                with pytest.raises(DataError, match=r"at least 2 are needed|sentencepiece cannot learn from"):
                    trained(tmp_path, text, f"{len(text)}", **options)
                assert not (tmp_path / "checkpoints" / f"{len(text)}").exists()
            else:
                model = trained(tmp_path, text, **options)
                assert len(model.sample(length=7, prime=text[:2])) == 7
                score = model.score(text, exact=True)
                assert math.isfinite(score.nats)
                assert score.characters == len(text)
                if kind == "char" and set(text) == {"a"}:  # nothing to choose from: only the escape costs
                    assert model.sample(length=3) == "aaa"
                    assert score.loss == pytest.approx(-math.log1p(-0.5 / (len(left) + 1)))
            tries.survived()


@pytest.mark.fault(35)
def test_two_characters_pass_through_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ab.txt").write_text("ab")
    (tmp_path / "a.txt").write_text("a")
    for val in ("0.1", "0.9", "a.txt"):
        code = run(
            ["train", "a.txt" if val == "a.txt" else "ab.txt", "--val", val, "--checkpoints", str(tmp_path / "c")]
        )
        assert code == 3
        err = capsys.readouterr().err
        assert "for training; at least 2 are needed; nothing was written" in err
        assert err.count("\n") == 1
    assert not (tmp_path / "c").exists()
    assert command("train", "ab.txt", "--val", "0", "-q", *TINY, cwd=tmp_path).returncode == 0
    assert len(charlm.load("ab").sample(length=9)) == 9


# 36: any Unicode

ODD: Final = {
    "mark": "\ufeffone\ntwo\n" * 5,
    "line ends": "one\r\ntwo\rthree\nfour\n\r\u2028five\u0085\u2029" * 5,
    "nul": "one\0two\0\0\n" * 5,
    "composed": unicodedata.normalize("NFC", "Åëõ ñü ệ ǖ\n") * 5,
    "decomposed": unicodedata.normalize("NFD", "Åëõ ñü ệ ǖ\n") * 5,
    "no characters": "\ufdd0\ufffe\uffff\U0001fffe\U0010ffff a\n" * 5,
    "edges": "\ud7ff\ue000\ufffd\U00010000\U0010fffd\x7f\x80\u07ff\u0800\n" * 5,
    "astral": "😀👨‍👩‍👧🏳️‍🌈🇩🇪 𝔘𝔫𝔦 𓀀\n" * 5,
    "piece marks": "\u2581\u2581 a\u2581 <0x0A> <unk> </s>\n" * 5,
    "hostile": HOSTILE * 5,
    "all that two bytes can be": "".join(map(chr, range(0x800))),
}


@pytest.mark.fault(36)
@pytest.mark.parametrize("kind", ["char", "byte", "sentencepiece"])
@pytest.mark.parametrize("name", ODD)
def test_any_text_is_kept_to_the_byte(tmp_path: Path, name: str, kind: str) -> None:
    """The file's hash is the text's; what was held out is found again; ids lead back to it."""
    text = ODD[name]
    model = trained(tmp_path, text, tokenizer=kind, val="0.2")
    held = model.validation_text()
    learned = text[: len(text) - len(held)]
    assert len(held) == math.ceil(len(text) / 5)
    assert learned + held == text
    source, digests = model.checkpoint.corpus.sources[0], [hashlib.sha256(p.encode()) for p in (learned, held, text)]
    assert source.sha256 == digests[2].hexdigest() == hashlib.sha256((tmp_path / "odd.txt").read_bytes()).hexdigest()
    whole = hashlib.sha256(digests[0].digest() + digests[1].digest()).hexdigest()
    assert model.checkpoint.corpus.fingerprint == whole
    for part in (text, learned, held, text[::-1]):
        assert model.tokenizer.decode(model.tokenizer.encode(part)) == part
    assert math.isfinite(model.score(text).nats)


@pytest.mark.fault(36)
@pytest.mark.parametrize("kind", ["char", "byte", "sentencepiece"])
def test_ids_lead_back_to_any_text_and_surrogates_are_refused(
    kind: str, tries: Tries, many: Callable[[int, int], int]
) -> None:
    tokenizer: Tokenizer = train_tokenizer(DataConfig(tokenizer=kind, vocab_size=400), PLAIN + HOSTILE)

    @settings(max_examples=many(100, 3000))
    @given(
        st.one_of(st.text(), st.lists(st.sampled_from([*COMMANDS, "\u2581", " ", "\n", "\ud800", "the"])).map("".join))
    )
    @example("\ud83d\ude00")
    @example("a\udcff")
    def check(text: str) -> None:
        lone = re.search("[\ud800-\udfff]", text)
        if lone is None:
            assert tokenizer.decode(tokenizer.encode(text)) == text
        else:
            with pytest.raises(DataError, match="lone surrogate"):
                tokenizer.encode(text)
        tries.survived()

    check()


@pytest.mark.fault(36)
@pytest.mark.parametrize("text", ["\ud800", "ab\udfff", "\ude00\ud83d"])
def test_surrogates_in_python_are_refused_with_their_place(place: Path, text: str) -> None:
    model = charlm.load("plain", checkpoints=place / "checkpoints")
    lone = re.search("[\ud800-\udfff]", text)
    assert lone is not None
    for use in (model.score, lambda prime: model.sample(prime=prime, length=1)):
        with pytest.raises(DataError, match=f"lone surrogate at character {lone.start()}"):
            use(text)


NOT_UTF8: Final = {
    b"\xff": "binary",
    b"\x80": "alone",
    b"\xc0\x80": "too long a form of NUL",
    b"\xe0\x80\x80": "too long",
    b"\xed\xa0\x80": "a surrogate",
    b"\xed\xb0\x80\xed\xa0\x80": "two",
    b"\xf4\x90\x80\x80": "beyond Unicode",
    b"\xf0\x9f\x98": "cut off",
    b"\xe2\x82\n": "cut off by a line end",
    b"caf\xe9": "Latin-1",
}


@pytest.mark.fault(36)
@pytest.mark.parametrize("bad", NOT_UTF8, ids=NOT_UTF8.values())
def test_every_command_refuses_what_is_not_utf8_with_byte_and_line(
    inside: Path, bad: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    (inside / "bad.txt").write_bytes("é\r\n".encode() + bad)
    at = 4 + (3 if bad.startswith(b"caf") else 0)
    for arguments in (
        ["train"],
        ["eval", "plain", "--text"],
        ["sample", "plain", "--prime-file"],
        ["train", "plain.txt", "--name", "bad", "--val"],
    ):
        assert run([*arguments, "bad.txt"]) == 3
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        assert "bad.txt is not UTF-8: " in err
        assert f"at byte {at}, line 2; nothing was written; " in err
    assert not (inside / "checkpoints" / "bad").exists()


# 37: pipes, and more than memory holds


@pytest.mark.fault(37)
def test_a_run_from_a_pipe_stands_alone(tmp_path: Path) -> None:
    """Written slowly, with a pause inside a character; scored later, when nobody writes any more."""
    content = ("ordinary é\r\n" * 30).encode()
    os.mkfifo(tmp_path / "fifo")
    arguments = [CHARLM, "train", "fifo", "--json", "-q", *TINY]
    with subprocess.Popen(arguments, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        with (tmp_path / "fifo").open("wb", buffering=0) as pipe:
            for chunk in (content[:10], content[10:200], content[200:]):
                pipe.write(chunk)
                time.sleep(0.05)
        record = json.loads(process.communicate(timeout=60)[0])
    assert (tmp_path / "checkpoints/fifo/corpus.txt").read_bytes() == content
    model = charlm.load("fifo", checkpoints=tmp_path / "checkpoints", device="cpu")
    assert model.score(model.validation_text()).loss == pytest.approx(record["val_loss"], abs=1e-6)


@pytest.mark.fault(37)
@pytest.mark.usefixtures("inside")
def test_texts_to_score_and_to_go_on_from_may_come_from_pipes(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (
        ["eval", "plain", "--json", "--text", "fifo"],
        ["sample", "plain", "--length", "0", "--json", "--prime-file", "fifo"],
    ):
        os.mkfifo("fifo")
        writer = threading.Thread(target=lambda: Path("fifo").write_bytes("The cat\r\né".encode()), daemon=True)
        writer.start()
        assert run(arguments) == 0
        writer.join(10)
        os.unlink("fifo")
        said = json.loads(capsys.readouterr().out)
        if arguments[0] == "eval":
            assert (said["results"][0]["bytes"], said["results"][0]["unknown_characters"]) == (11, 2)
        else:
            assert said["samples"] == ["The cat\r\né"]


@pytest.mark.fault(37)
def test_a_prime_larger_than_memory_is_one_line_and_nothing_is_written(place: Path) -> None:
    """A file of 64 GB, all holes, for a process that may have 4; zeros without end for one that may have 0.7.

    Other commands read such a text from the disk (tests/test_large.py, tests/test_long_texts.py).
    """
    with (place / "huge.txt").open("wb") as file:
        file.truncate(64 << 30)
    for what, kilobytes, redirected in (("huge.txt", 4 << 20, ""), ("-", 700 << 10, " < /dev/zero")):
        limited = ("bash", "-c", f'ulimit -v "$0"; exec "$@"{redirected}', str(kilobytes))
        done = command("sample", "plain", "--prime-file", what, cwd=place, before=limited)
        one_line(done, 1, "does not fit into memory; nothing was written")
    (place / "huge.txt").unlink()
    assert {path.name for path in (place / "checkpoints").iterdir()} == {"plain"}


# 38: unknown characters


@pytest.mark.fault(38)
@pytest.mark.parametrize("text", ["☃", "☃é\0😀\U0010ffff" * 300], ids=["one", "many"])
def test_a_text_of_unknown_characters_has_the_loss_of_the_formula(
    inside: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    learned = PLAIN[: len(PLAIN) - math.ceil(len(PLAIN) / 10)]
    once = sum(learned.count(character) == 1 for character in set(learned))
    escape = (once + 0.5) / (len(learned) + 1)
    nats = len(text) * math.log((1_112_064 - len(set(learned))) / escape)
    (inside / "unknown.txt").write_text(text)
    for exact in ([], ["--exact"]):
        assert run(["eval", "plain", "--text", "unknown.txt", "--json", *exact]) == 0
        row = json.loads(capsys.readouterr().out)["results"][0]
        assert row["unknown_characters"] == row["characters"] == len(text)
        assert row["nats"] == pytest.approx(nats, rel=1e-6)


@pytest.mark.fault(38)
@pytest.mark.parametrize(
    ("prime", "count"), [("☃", "1 character"), ("☃é\0😀\U0010ffff", "5 characters"), ("The ☃at", "1 character")]
)
def test_a_prime_of_unknown_characters_works_with_a_note(
    inside: Path, prime: str, count: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (inside / "prime.txt").write_text(prime)
    assert run(["sample", "plain", "--prime-file", "prime.txt", "--length", "20", "--seed", "0", "--json"]) == 0
    out, err = capsys.readouterr()
    verb = "is" if count.startswith("1 ") else "are"
    assert f"{count} of the prime {verb} not in the vocabulary" in err
    sample = json.loads(out)["samples"][0]
    assert sample[: len(prime)] == prime
    assert len(sample) == len(prime) + 20
    assert set(sample[len(prime) :]) <= set(PLAIN)
    model = charlm.load("plain")
    assert sample == prime + model.sample(prime=prime, length=20, seed=0)
