"""Texts and names full of commands to a terminal: shown on one, exact in a pipe, obeyed only on request."""

from __future__ import annotations

import os
import re
import subprocess
import threading
from pathlib import Path
from typing import Any, Final

import pytest
from odd import HOSTILE, OBEYED, PLAIN, trained
from processes import CHARLM, Terminal, terminal

import charlm
from charlm.cli.main import run
from charlm.report.console import console
from charlm.report.progress import Progress
from charlm.training import samples

# What rich itself writes: attributes and colours, lines up, erased lines, the cursor shown and hidden.
DISPLAY: Final = re.compile(r"\x1b\[(?:[0-9;]*m|\d*A|2K|\?25[hl])|\r")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run that learned from nothing but commands."""
    folder = tmp_path_factory.mktemp("escapes")
    trained(folder, HOSTILE * 20, "hostile")
    return folder


def on_terminal(*arguments: str, cwd: Path, **env: str) -> str:
    """What a command that ends by itself writes to a terminal; lines end there as terminals end them."""
    with terminal() as screen:
        streams: dict[str, Any] = {"stdin": screen.side, "stdout": screen.side, "stderr": screen.side}
        with subprocess.Popen([CHARLM, *arguments], cwd=cwd, env={**os.environ, **env}, **streams) as process:
            os.close(screen.side)
            shown = screen.read_until(lambda _: False)
            process.wait(60)
    return shown.replace("\r\n", "\n")


@pytest.mark.fault(39)
def test_samples_are_shown_on_a_terminal_exact_in_a_pipe_and_obeyed_only_on_request(place: Path) -> None:
    (place / "prime.txt").write_bytes(HOSTILE.encode())
    options = ["sample", "hostile", "--prime-file", "prime.txt", "--length", "600", "--temperature", "1e9"]
    options += ["--seed", "0"]
    piped = subprocess.run([CHARLM, *options], cwd=place, capture_output=True, check=True).stdout.decode()
    assert piped.startswith(HOSTILE)
    assert len(piped) == len(HOSTILE) + 600
    assert set(HOSTILE) == set(piped)
    shown = on_terminal(*options, cwd=place)
    assert not OBEYED.search(shown)
    assert shown.count("␛") == piped.count("\x1b")
    assert shown.count("⟨U+202E⟩") == piped.count("\u202e")
    raw = on_terminal(*options, "--raw", cwd=place)
    assert raw.count("\x1b") == piped.count("\x1b")
    assert "\u202e" in raw


@pytest.mark.fault(39)
def test_names_are_shown_wherever_they_are_named(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In what info tells, in errors, in tables and notes; on a dumb terminal rich adds no commands of its own."""
    monkeypatch.chdir(place)
    name = HOSTILE.replace("/", "")
    (place / name).write_text(PLAIN)
    charlm.train(name, name="named", steps=1, hidden=4, layers=1, device="cpu", threads=1, precision="fp32")
    for arguments in (
        ["info", "named"],
        ["info", name],
        ["sample", "named", "--prime-file", "\x1b[6n\u202e"],
        ["train", name, "--val", "\x1b[6n"],
        ["train", "plain.txt", "--name", "\x1b[6n\u202e"],
        ["sample", "--\x1b[6n\u202e"],
        ["\x1b[6n\u202e"],
    ):
        shown = on_terminal(*arguments, cwd=place, TERM="dumb", COLUMNS="80")
        assert not OBEYED.search(shown), arguments
        assert re.search(r"(␛|\\x1b)\[6n", re.sub(r"\s", "", shown)), arguments
    for arguments in (["eval", "named", "--text", name], ["eval", "named", "--corpus", name]):
        assert run(arguments) == 0
        said = capsys.readouterr()
        assert not OBEYED.search(said.out + said.err), arguments


@pytest.mark.fault(39)
def test_what_a_model_writes_while_it_learns_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "EVERY", 0.0)
    monkeypatch.setattr("charlm.report.progress._REFRESH", 0.0)
    monkeypatch.setenv("TERM", "xterm-256color")
    screen, name = Terminal(), "\x1b[6n\u202e.txt"
    (tmp_path / name).write_bytes(HOSTILE.encode() * 20)
    reader = threading.Thread(target=screen.read_until, args=[lambda _: False])
    with os.fdopen(screen.side, "w", encoding="utf-8") as file:
        reader.start()
        with Progress(console(file), quiet=False) as progress:
            options: dict[str, Any] = {"steps": 4, "hidden": 8, "threads": 1, "precision": "fp32", "device": "cpu"}
            charlm.train(tmp_path / name, name="shown", checkpoints=tmp_path, on_event=progress, **options)
    reader.join(30)
    os.close(screen.main)
    assert "sample ──" in DISPLAY.sub("", screen.shown)
    assert "␛" in screen.shown
    assert not OBEYED.search(DISPLAY.sub("", screen.shown))
