"""`charlm sample --interactive` in a pipe and at a terminal, against single samples of the same seed."""

from __future__ import annotations

import io
import os
import re
import signal
import stat
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, Final

import pytest
from odd import COMMANDS, OBEYED, trained
from processes import CHARLM, PATIENCE, TEXT, Terminal, charlm, in_terminal, one_line, wait_until

import charlm as library
from charlm.cli.interactive import keep_history, recall_history
from charlm.cli.main import run

NAMES: Final = "emma\nada\nanna\nbob\n" * 40
SAMPLE: Final = ("sample", "sums", "--interactive", "--seed", "7", "--engine", "numpy")
ENDLESS: Final = (*SAMPLE, "--length", "1000000000")
CTRL_C, CTRL_D, UP, CTRL_A = b"\x03", b"\x04", b"\x1b[A", b"\x01"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model of a text, one of records, and one that writes what terminals obey."""
    folder = tmp_path_factory.mktemp("interactive")
    trained(folder, TEXT, "sums", hidden=16, steps=20)
    trained(folder, NAMES, "names", records="line", steps=20)
    trained(folder, "".join(COMMANDS) * 40, "hostile")
    return folder


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of this test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


def said(place: Path, *lines: str, arguments: tuple[str, ...] = SAMPLE) -> subprocess.CompletedProcess[str]:
    """What this many lines lead to, in this process: without a terminal nothing else is different."""
    return fed(place, "".join(f"{line}\n" for line in lines).encode(), arguments)


def fed(place: Path, data: bytes, arguments: tuple[str, ...] = SAMPLE) -> subprocess.CompletedProcess[str]:
    out, err, stdin = (io.TextIOWrapper(io.BytesIO(given), "utf-8", newline="") for given in (b"", b"", data))
    with redirect_stdout(out), redirect_stderr(err), pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setattr(sys, "stdin", stdin)
        code = run(arguments)
    return subprocess.CompletedProcess(arguments, code, written(out), written(err))


def written(stream: io.TextIOWrapper) -> str:
    stream.seek(0)
    return stream.read()


def sampled(place: Path, prime: str, length: int, **options: Any) -> str:
    """One sample of the same seed."""
    model = library.load("sums", checkpoints=place / "checkpoints", device="cpu")
    return model.sample(prime=prime, length=length, **{"seed": 7, "engine": "numpy", **options})


# in a pipe


def test_standard_output_has_the_continuations_alone_which_are_one_sample(place: Path) -> None:
    done = said(place, "12 times", "", "", arguments=(*SAMPLE, "--length", "40"))
    assert (done.returncode, done.stdout) == (0, sampled(place, "12 times", 120))
    assert done.stderr == "> > > > \n"
    assert said(place, "12 times", "", "", arguments=(*SAMPLE, "--length", "40", "-q")).stderr == ""


def test_a_text_goes_on_where_it_stopped_and_is_printed_and_saved_as_a_whole(place: Path, tmp_path: Path) -> None:
    file = tmp_path / "two words.txt"
    lines = ["a b", "is\\", "ends in \\\\", "::c", ":length 0", ":text", f":save {file}"]
    done = said(place, *lines, arguments=(*SAMPLE, "--length", "5"))
    assert done.returncode == 0, done.stderr
    whole = re.fullmatch(r"(?s)(.{15})(a b(.{5})is\nends in \\(.{5}):c(.{5}))", done.stdout)
    assert whole
    assert whole[1] == whole[3] + whole[4] + whole[5]
    assert file.read_text() == whole[2]


def test_a_file_that_exists_is_never_overwritten(place: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.txt"
    file.write_text("mine")
    one = said(place, f":save {file}", arguments=(*SAMPLE, "-q"))
    one_line(one, 2, "mine.txt exists; it is unchanged")
    assert file.read_text() == "mine"
    one_line(said(place, f":save {tmp_path}/none/a.txt", arguments=(*SAMPLE, "-q")), 74, "no such folder")
    one_line(said(place, ":save", arguments=(*SAMPLE, "-q")), 2, "needs the name of a file")


def test_settings_change_the_next_turns_and_undo_brings_the_same_again(place: Path) -> None:
    lines = [":undo", "12", ":undo", ":seed 8", "12", ":undo", ":temperature 0", ":len 9", "12"]
    done = said(place, *lines, arguments=(*SAMPLE, "--length", "30", "--prime", "12"))
    first, second = sampled(place, "12", 30), sampled(place, "12", 9)
    other = sampled(place, "12", 30, seed=8)
    cold = sampled(place, "12", 9, temperature=0)
    assert done.stdout == first + first + other + cold
    assert first.startswith(second)
    assert "took back 32 characters; the text is empty" in done.stderr
    assert "seed 8\n" in done.stderr


def test_every_turn_is_taken_back_one_after_another(place: Path) -> None:
    done = said(place, "a", "b", "c", ":undo", ":undo", ":text", arguments=(*SAMPLE, "--length", "10"))
    assert done.stdout[30:] == "a" + done.stdout[:10]
    one_line(said(place, ":undo", arguments=(*SAMPLE, "-q")), 2, "there is no turn to take back")


def test_a_new_text_is_another_one(place: Path) -> None:
    done = said(place, "", ":new", "", ":text", arguments=(*SAMPLE, "--length", "50"))
    assert done.stdout[:50] == sampled(place, "", 50)
    assert done.stdout[50:100] == done.stdout[100:] != done.stdout[:50]


def test_an_empty_line_goes_on_behind_the_stop_text(place: Path) -> None:
    done = said(place, "", "", "", ":text", arguments=(*SAMPLE, "--length", "1000", "--stop", "\n"))
    lines = sampled(place, "", 1000).split("\n")[:3]
    assert done.stdout == "".join(lines) + "\n".join(lines)


def test_a_model_of_records_writes_one_for_each_line(place: Path) -> None:
    records = ("sample", "names", "-i", "--seed", "7", "--engine", "numpy")
    model = library.load("names", checkpoints=place / "checkpoints", device="cpu")
    names = [f"{name}\n" for name in model.samples(count=5, seed=7, engine="numpy")]
    assert said(place, *[""] * 5, arguments=records).stdout == "".join(names)
    one = said(place, "em", "", ":text", arguments=records).stdout
    assert one[len(one) // 2 - 1 :] == "em" + one[: len(one) // 2 - 1]


def test_the_last_line_needs_no_end_and_lines_may_end_as_on_windows(place: Path) -> None:
    short = (*SAMPLE, "--length", "20")
    plain, other = (fed(place, data, short) for data in ("ä\nb\n".encode(), "\ufeffä\r\nb".encode()))
    assert plain.stdout == other.stdout
    assert "1 character is not in the vocabulary" in plain.stderr


def test_lines_are_utf_8_whatever_the_locale(place: Path) -> None:
    done = charlm(*SAMPLE, cwd=place, stdin="ä漢\n:text\n", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0", LC_ALL="C")
    assert done.stdout.startswith(sampled(place, "ä漢", 500))
    assert done.stdout[500:] == "ä漢" + done.stdout[:500]


# mistakes


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (":tmperature 1", "there is no command :tmperature; the text is unchanged; did you mean :temperature"),
        (":t", "did you mean :temperature or :top-k or :top-p or :text?"),
        (":)", ":help lists them; a text that begins with : is entered as ::"),
        (":temperature hot", ":temperature must be a number from 0 to 1e+09, not 'hot'; it is still 1.0"),
        (":seed -1", ":seed must be an integer from 0"),
        (":length 1.5", "it is still 500"),
        (":top-p 0", ":top-p must be a number above 0, at most 1"),
    ],
)
def test_a_mistake_in_a_pipe_is_one_line_and_ends_the_command(place: Path, line: str, words: str) -> None:
    one_line(said(place, line, "never read", arguments=(*SAMPLE, "-q")), 2, words)


def test_a_line_that_is_not_utf_8_is_named(place: Path) -> None:
    done = fed(place, b"ok\nab\xff\n", (*SAMPLE, "-q", "--length", "3"))
    assert (done.returncode, len(done.stdout)) == (3, 3)
    assert done.stderr == "charlm: line 2 of standard input is not UTF-8: byte FF at offset 2; it was not read\n"


@pytest.mark.parametrize("option", ["--count 2", "--json", "--novelty", "--prime-file -"])
def test_options_that_make_no_sense_at_a_prompt_are_refused(place: Path, option: str) -> None:
    done = fed(place, b"", ("sample", "sums", "-i", *option.split()))
    one_line(done, 2, f"{option.removesuffix(' 2')} and --interactive cannot be combined")


def test_a_reader_that_has_gone_is_no_error(place: Path) -> None:
    line = f"yes '' | {CHARLM} {' '.join(SAMPLE)} 2>err | head -c 1000 | wc -c"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {line}; echo ${{PIPESTATUS[1]}}"],
        cwd=place,
        text=True,
        capture_output=True,
        check=False,
        timeout=PATIENCE,
    )
    assert done.stdout.split() == ["1000", "0"]


# at a terminal


@contextmanager
def at_prompt(place: Path, *arguments: str, before: tuple[str, ...] = ()) -> Iterator[tuple[Any, Terminal]]:
    with in_terminal(*(arguments or SAMPLE), cwd=place, before=before) as (process, screen):
        prompts(screen, 1)
        yield process, screen


def prompts(screen: Terminal, count: int) -> None:
    """Wait for the prompt of this number."""
    screen.read_until(lambda shown: len(re.findall(r"(?:^|[\n\rhl])> ", shown)) >= count)


def enter(screen: Terminal, *keys: bytes) -> None:
    for key in keys:
        os.write(screen.main, key)


def waits(process: Any) -> None:
    """Wait until it waits for keys: a signal between its prompt and that is seen by readline at the next key only."""
    wait_until(lambda: Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "S")


def ended(process: Any, screen: Terminal, code: int = 0) -> str:
    screen.read_until(lambda _: False)
    assert process.wait(PATIENCE) == code
    assert "Traceback" not in screen.shown
    return screen.shown.replace("\r\n", "\n")


def test_a_session_at_a_terminal(place: Path, home: Path) -> None:
    with at_prompt(place, *SAMPLE, "--length", "30") as (process, screen):
        enter(screen, b"times 12", CTRL_A, b"3 ", b"\n")  # edited
        prompts(screen, 2)
        enter(screen, b":nonsense\n")
        prompts(screen, 3)
        enter(screen, UP, UP, b"\n")
        prompts(screen, 4)
        enter(screen, CTRL_D)
        shown = ended(process, screen)
    assert sampled(place, "3 times 12", 30) in shown
    assert "there is no command :nonsense" in shown
    assert recall_history() == ["3 times 12", ":nonsense", "3 times 12"]
    assert stat.S_IMODE((home / "charlm/history").stat().st_mode) == 0o600


def test_ctrl_c_stops_a_continuation_and_keeps_what_is_written(place: Path, tmp_path: Path) -> None:
    file = tmp_path / "text"
    with at_prompt(place, *ENDLESS) as (process, screen):
        enter(screen, b"12\n")
        screen.read_until(lambda shown: shown.count("\n") > 30)
        enter(screen, CTRL_C)
        prompts(screen, 2)
        enter(screen, f":save {file}\n".encode())
        prompts(screen, 3)
        enter(screen, b":length 20\n", b"\n", b":save " + str(file).encode() + b"2\n", b":quit\n")
        ended(process, screen)
    text, more = file.read_text(), Path(f"{file}2").read_text()
    assert text.startswith("12")
    assert more[2:] == sampled(place, "12", len(text) + 18)
    assert len(more) == len(text) + 20


def test_ctrl_c_at_the_prompt_clears_the_line_and_twice_ends(place: Path) -> None:
    with at_prompt(place, *SAMPLE, "--length", "10") as (process, screen):
        enter(screen, b"never read\\\n", b"nor this")
        screen.read_until(lambda shown: "nor this" in shown)
        waits(process)
        enter(screen, CTRL_C)
        prompts(screen, 2)
        enter(screen, b"12\n")
        prompts(screen, 3)
        enter(screen, b":text\n")
        for count in (4, 5):
            prompts(screen, count)
            waits(process)
            enter(screen, CTRL_C)
        shown = ended(process, screen, 130)
    assert "12" + sampled(place, "12", 10) in shown
    assert shown.count("Ctrl-C again or Ctrl-D ends") == 2
    assert shown.rstrip().endswith("charlm: interrupted")
    assert "12" in recall_history()


def test_a_signal_at_the_prompt_leaves_the_terminal_as_it_was(place: Path) -> None:
    side = termios.ECHO | termios.ICANON
    with at_prompt(place) as (process, screen):
        kept = os.dup(screen.main)
        assert not termios.tcgetattr(kept)[3] & side  # readline echoes itself
        waits(process)
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 143
        assert termios.tcgetattr(kept)[3] & side == side
        os.close(kept)


def test_control_characters_are_shown_and_not_obeyed(place: Path) -> None:
    hostile = ("sample", "hostile", "-i", "--length", "2000", "--engine", "numpy", "--prime", "\x1b[6n\u202e")
    with at_prompt(place, *hostile) as (process, screen):
        enter(screen, b":text\n")
        prompts(screen, 2)
        enter(screen, CTRL_D)
        shown = ended(process, screen)
    ours = re.sub(r"\x1b\[\?2004[hl]|\r", "", shown)  # of readline: bracketed paste
    assert not OBEYED.search(ours)
    assert "␛[6n⟨U+202E⟩" in ours


def test_bytes_that_are_no_text_are_refused_and_the_prompt_comes_again(place: Path) -> None:
    with at_prompt(place, *SAMPLE, "--length", "5") as (process, screen):
        enter(screen, b"ab\xff\n")
        prompts(screen, 2)
        enter(screen, CTRL_D)
        shown = ended(process, screen)
    assert "charlm" not in shown.split("> ")[-1]
    assert "the line is not UTF-8: byte FF at offset 2; it was not read" in shown


def test_where_output_is_no_terminal_only_the_continuation_goes_there(place: Path, tmp_path: Path) -> None:
    command = ("sh", "-c", f'exec "$@" > {tmp_path}/out', "sh")
    with at_prompt(place, *SAMPLE, "--length", "30", before=command) as (process, screen):
        enter(screen, b"12\n")
        prompts(screen, 2)
        enter(screen, CTRL_D)
        ended(process, screen)
    assert (tmp_path / "out").read_text() == sampled(place, "12", 30)


# history


def test_the_newest_thousand_lines_are_kept_for_their_owner_alone(home: Path) -> None:
    keep_history([f"line {n}" for n in range(900)])
    keep_history([f"more {n}" for n in range(200)])
    assert recall_history() == [f"line {n}" for n in range(100, 900)] + [f"more {n}" for n in range(200)]
    file = home / "charlm/history"
    assert (stat.S_IMODE(file.stat().st_mode), stat.S_IMODE(file.parent.stat().st_mode)) == (0o600, 0o700)


def test_lines_that_cannot_be_entered_again_are_not_kept() -> None:
    keep_history(["two\nlines", "\x1b[A", "x" * 5000, "ä漢"])
    assert recall_history() == ["ä漢"]


@pytest.mark.parametrize("damage", [b"\xff\xfe\n\0\n", b"no end", b"\n" * 10**7, b""])
def test_a_damaged_history_is_no_error(home: Path, damage: bytes) -> None:
    keep_history(["a"])
    (home / "charlm/history").write_bytes(damage)
    recall_history()
    keep_history(["b"])
    assert recall_history()[-1] == "b"


def test_without_a_home_there_is_no_history_and_no_error(
    place: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", "/")
    keep_history(["a"])
    assert recall_history() == []
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    (tmp_path / "file").write_text("")
    with at_prompt(place, *SAMPLE, "--length", "5") as (process, screen):
        enter(screen, b"12\n")
        prompts(screen, 2)
        enter(screen, CTRL_D)
        ended(process, screen)
