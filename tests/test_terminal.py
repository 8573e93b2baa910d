"""`charlm train` in a terminal: its live display, and what is left of it when the command ends, however it does."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from processes import ENDLESS, PATIENCE, SMALL, TEXT, Terminal, in_terminal


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "sums.txt").write_text(TEXT)
    return tmp_path


def displayed(shown: str) -> bool:
    return "━" in shown and "char/s" in shown


def put_right(screen: Terminal, *, cleared: bool = True) -> list[str]:
    """The cursor is there again, and of the display nothing; returns what stands on the screen."""
    screen.read_until(lambda _: False)
    assert "\x1b[?25l" in screen.shown
    assert screen.cursor_is_shown
    lines = screen.picture()
    assert not cleared or not any("━" in line or "char/s" in line for line in lines), lines
    assert "Traceback" not in screen.shown
    return [line for line in lines if line.strip()]


def test_the_display_goes_when_training_is_done(place: Path) -> None:
    options = ["--steps", "300", "--patience", "0", *SMALL]
    with in_terminal("train", "sums.txt", *options, cwd=place) as (process, screen):
        lines = put_right(screen)
        assert displayed(screen.shown)
        assert process.wait(PATIENCE) == 0
    assert any(line.startswith("finished after 300 steps") for line in lines)
    assert any(line.startswith("next") and "charlm train sums.txt --name sums-2" in line for line in lines[-4:])


def test_ctrl_c_in_a_terminal_saves_and_takes_the_display_away(place: Path) -> None:
    with in_terminal("train", "sums.txt", *ENDLESS, cwd=place) as (process, screen):
        screen.read_until(displayed)
        os.write(screen.main, b"\x03")
        lines = put_right(screen)
        assert process.wait(PATIENCE) == 130
    assert lines[-1].startswith("charlm: interrupted; step ")


def test_ctrl_c_twice_in_a_terminal_gives_the_cursor_back(place: Path) -> None:
    with in_terminal("train", "sums.txt", "--checkpoint-every", "1", *ENDLESS, cwd=place) as (process, screen):
        screen.read_until(displayed)
        os.write(screen.main, b"\x03\x03\x03")
        lines = put_right(screen, cleared=False)
        assert process.wait(PATIENCE) == 130
    assert any(line.startswith("charlm: ") for line in lines[-3:])


def test_ctrl_c_before_the_first_step_gives_the_cursor_back(place: Path) -> None:
    with in_terminal("train", "sums.txt", *ENDLESS, cwd=place) as (process, screen):
        screen.read_until(lambda shown: "\x1b[?25l" in shown)  # torch is still to be imported
        os.write(screen.main, b"\x03")
        lines = put_right(screen)
        assert process.wait(PATIENCE) == 130
    assert lines[-1] == "charlm: interrupted"
    assert not (place / "checkpoints").exists()


@pytest.mark.fault(9)
def test_a_folder_that_vanishes_ends_training_and_the_display(place: Path) -> None:
    with in_terminal("train", "sums.txt", *ENDLESS, cwd=place) as (process, screen):
        screen.read_until(displayed)
        (place / "checkpoints").rename(place / "gone")  # what is removed file by file may be written again meanwhile
        shutil.rmtree(place / "gone")
        lines = put_right(screen)
        assert process.wait(PATIENCE) == 74
    assert "charlm: cannot write checkpoints/sums/" in "".join(lines)
    assert not (place / "checkpoints").exists()
