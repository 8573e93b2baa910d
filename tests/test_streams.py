"""Data on standard output are UTF-8, and no words among them; words are in the encoding of the locale."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Final

import pytest
from odd import trained
from processes import CHARLM, PATIENCE

TEXT: Final = "Ein Zwölftel … ja — 漢字 می‌خواهم.\n" * 60
ENCODINGS: Final = {
    "latin-1": {"PYTHONIOENCODING": "latin-1"},
    "strict": {"PYTHONIOENCODING": "ascii:strict"},
    "C": {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"},
}
KINDS: Final = pytest.mark.parametrize("kind", ENCODINGS)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run called m, and the text that it was trained on."""
    folder = tmp_path_factory.mktemp("streams")
    trained(folder, TEXT, "m")
    return folder


def run(folder: Path, line: str, **env: str) -> subprocess.CompletedProcess[bytes]:
    """A line of the shell in which charlm is $C."""
    return subprocess.run(
        ["sh", "-c", line],
        cwd=folder,
        env={**os.environ, "C": CHARLM, **env},
        capture_output=True,
        check=False,
        timeout=PATIENCE,
    )


@KINDS
def test_words_are_replaced_where_the_encoding_lacks_them(place: Path, kind: str) -> None:
    """Our own ellipsis among them, on both streams."""
    env = ENCODINGS[kind]
    code = "latin-1" if kind == "latin-1" else "ascii"
    done = run(place, "$C info && $C novelty m --text m.txt", **env)
    assert (done.returncode, b"UnicodeEncodeError" in done.stderr) == (0, False), done.stderr
    out = done.stdout.decode(code)
    assert "~ " in out or "~\n" in out  # the fingerprint is cut
    assert "using the newest run" in done.stderr.decode(code)
    wrong = run(place, "$C info 'Zwölf … 漢字'", **env)
    assert (wrong.returncode, wrong.stderr.count(b"\n")) == (4, 1)
    wrong.stderr.decode(code)


@KINDS
def test_data_are_utf_8_whatever_the_locale(place: Path, kind: str) -> None:
    sample = "$C sample m --engine numpy --prime 'Zwölf … ' --length 3 --seed 1"
    for line in (sample, "$C compress m.txt --model m --output - | $C decompress - --model m --output - -q"):
        plain, other = run(place, line), run(place, line, **ENCODINGS[kind])
        assert (plain.returncode, other.returncode) == (0, 0), other.stderr
        if kind == "C" or "compress" in line:  # elsewhere arguments are read in UTF-8 all the same
            other.stdout.decode()
        assert plain.stdout == other.stdout
    report = run(place, "$C novelty m --text m.txt --json", **ENCODINGS[kind])
    assert json.loads(report.stdout)["longest_overlap"]["passage"] in TEXT


OUTPUTS: Final = pytest.mark.parametrize("where", ["-", "/dev/stdout", "/dev/fd/1", "here"])


@OUTPUTS
def test_no_word_is_mixed_into_data_on_standard_output(place: Path, where: str) -> None:
    """Also where the output is the very file that standard output is redirected to."""
    done = run(place, f"$C compress m.txt --model m --output {where} --engine numpy > here")
    assert (done.returncode, done.stdout) == (0, b""), done.stderr
    assert b"compressed" in done.stderr
    assert run(place, "$C decompress here --model m --output - | cmp - m.txt").returncode == 0
    both = run(place, f"$C compress m.txt --model m --output {where} --engine numpy > here 2>&1; cp here both")
    assert both.returncode == 0
    assert run(place, "$C decompress both --model m --output /dev/stdout 2>/dev/null | cmp - m.txt").returncode == 0


def test_score_writes_each_output_to_standard_output(place: Path) -> None:
    (place / "short.txt").write_text("ja.\n", encoding="utf-8")
    score = "$C score m --text short.txt --threads 1"
    for options, begins in (
        ("--html -", b"<!DOCTYPE html>"),
        ("--plot - -q", b"\x89PNG"),
        ("--csv /dev/stdout", b"off"),
    ):
        done = run(place, f"{score} {options}")
        assert (done.returncode, done.stdout[: len(begins)]) == (0, begins), done.stderr
        assert b"perplexity" not in done.stdout or b"html" in begins
        assert (b"perplexity" in done.stderr) is ("-q" not in options)


@pytest.mark.parametrize(
    "line",
    [
        "$C score m --text m.txt --csv - --html -",
        "$C score m --text m.txt --csv - --html /dev/stdout",
        "$C score m --text m.txt --json --html /dev/fd/1",
        "$C compress m.txt --model m --output - --json",
        "$C decompress m.cz --model m --output /dev/stdout --json",
    ],
)
def test_two_outputs_on_standard_output_are_refused(place: Path, line: str) -> None:
    done = run(place, line)
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"two outputs go to standard output" in done.stderr


def test_an_input_that_standard_output_would_overwrite_is_refused(place: Path) -> None:
    (place / "in.txt").write_text("text")
    done = run(place, "$C compress in.txt --model m --output - >> in.txt")
    assert (done.returncode, (place / "in.txt").read_text()) == (2, "text")
    assert b"in.txt is an input and an output" in done.stderr


def test_the_first_of_several_endless_samples_is_printed_until_its_reader_has_gone(place: Path) -> None:
    options = "--engine numpy --length 1000000000000 --seed 1"
    one, two = (run(place, f"$C sample m --count {count} {options} | head -c 100") for count in (1, 2))
    assert (one.returncode, two.returncode, two.stderr) == (0, 0, b"")
    assert (len(two.stdout), two.stdout) == (100, one.stdout)
