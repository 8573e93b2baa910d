"""Tables fit a terminal without breaking a word, and foreign text in them is shown as it is."""

from __future__ import annotations

import io
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from charlm.report.console import Verbatim, console, entry, excerpt, facts, heading, table
from charlm.report.tables import Cut, cut_end, cut_middle, layout, wrap

PROFILE = settings(derandomize=True, deadline=None, max_examples=200, database=None)
FOREIGN = [
    "[slug].txt",
    "[/]",
    "[bold red]x[/bold red]",
    "[link=http://x]y[/link]",
    ":smile:",
    "\x1b[31mred",
    "a\u202eb",
]
HASH = "0123456789abcdef" * 4
FIGURES = st.text("0123456789.,", min_size=1, max_size=9)
NAMES = st.text(st.characters(categories=["L", "N", "P", "Zs"]), max_size=60)


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Screen:
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setenv("COLUMNS", "80")
    return Screen()


@PROFILE
@given(
    width=st.integers(50, 120),
    columns=st.integers(1, 6),
    names=st.lists(NAMES, min_size=1, max_size=5),
    data=st.data(),
)
def test_a_table_fits_and_figures_stay_whole(width: int, columns: int, names: list[str], data: st.DataObject) -> None:
    rows = [[name, *data.draw(st.lists(FIGURES, min_size=columns, max_size=columns))] for name in names]
    header = ["", *data.draw(st.lists(NAMES, min_size=columns, max_size=columns))]
    blocks = layout(header, rows, width)
    assert all(cell_len(line) <= width for block in blocks for line in [*block.header, *block.body])
    assert all(len(block.body) == len(rows) for block in blocks)
    for number, row in enumerate(rows):
        tails = " ".join(block.body[number][min(24, len(block.body[number])) :] for block in blocks)
        shown = " ".join(block.body[number] for block in blocks)
        assert all(figure in shown for figure in row[1:]), tails


def test_a_table_that_fits_is_one_block_as_wide_as_its_cells() -> None:
    (block,) = layout(["", "bits", "name"], [["one", "1.5", "x"], ["eleven", "10.25", "yes"]], 80)
    assert block == (["         bits  name"], ["one       1.5     x", "eleven  10.25   yes"])
    assert layout(["", "a" * 300], [["x", "1"]], None) == [(["   " + "a" * 300], ["x" + " " * 301 + "1"])]


def test_several_columns_may_stand_to_the_left() -> None:
    (block,) = layout(["run", "n", "state"], [["a", "1", "done"], ["bcd", "10", "x"]], 80, left=(0, 2))
    assert block == (["run   n  state"], ["a     1  done", "bcd  10  x"])
    names = [["a" * 40, "1", "b" * 40]]
    (block,) = layout(["run", "n", "text"], names, 53, left=(0, 2))
    (line,) = block.body
    assert cell_len(line) == 53
    assert line.count("…") == 2


def test_headers_wrap_between_words_before_columns_move_below() -> None:
    (block,) = layout(["word", "bits per character", "bits each time"], [["w" * 60, "1.00", "2.00"]], 44)
    assert [line.split() for line in block.header] == [["bits"], ["bits", "per", "each"], ["word", "character", "time"]]
    first, second = layout(["", "one", "two"], [["label", "1" * 30, "2" * 30]], 50)
    assert first.body == ["label  " + "1" * 30]
    assert second.body == ["label  " + "2" * 30]
    assert second.header == [" " * 34 + "two"]


def test_names_are_cut_in_the_middle_and_texts_at_the_end() -> None:
    name = "a/very/long/path/to/some/file.txt"
    assert cut_middle(name, 15) == "a/very/…ile.txt"
    assert cut_end(name, 15) == "a/very/long/pa…"
    for cut in (cut_middle, cut_end):
        assert cut(name, 40) == name
        assert all(cell_len(cut("日本語テキスト", width)) <= width for width in range(1, 20))


@PROFILE
@given(st.text(st.characters(categories=["L", "N", "P"]) | st.just(" "), max_size=200), st.integers(1, 60))
def test_wrapping_keeps_all_words(text: str, width: int) -> None:
    lines = wrap(text, width)
    assert " ".join(lines).split() == text.split()
    assert all(cell_len(line) <= width or " " not in line.strip() for line in lines)


@pytest.mark.parametrize("name", FOREIGN)
@pytest.mark.parametrize("pipe", [True, False])
def test_foreign_text_is_shown_wherever_it_stands(screen: Screen, name: str, pipe: bool) -> None:
    stream = io.StringIO() if pipe else screen
    out = console(stream)
    table(out, ["", name], [[name, "1"]], title=name)
    heading(out, name)
    facts(out, [(name, name), ("v", Verbatim(name))])
    entry(out, name, [name])
    excerpt(out, name, name)
    shown = name.replace("\x1b", "␛").replace("\u202e", "⟨U+202E⟩")
    assert stream.getvalue().count(shown) == 11
    assert "\x1b" not in stream.getvalue()


def test_a_hash_is_never_broken_at_80_columns(screen: Screen) -> None:
    out = console(screen)
    facts(out, [("state", f"{HASH} (can be resumed)"), ("a name of some length", HASH), ("next", "word " * 30)])
    entry(out, "tiny", ["word " * 30, HASH])
    lines = screen.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert screen.getvalue().count(HASH) == 3
    assert all(re.fullmatch(r"(word ?)*", line.removeprefix("next").strip()) for line in lines if "word" in line)


def test_what_is_to_be_copied_is_one_line_however_long(screen: Screen) -> None:
    command = "charlm sample " + "'a folder'/" * 20
    facts(console(screen), [("next", Verbatim(command))])
    assert screen.getvalue() == f"next  {command}\n"


def test_one_long_cell_pads_no_other_row() -> None:
    """Whole in a pipe, for whoever copies it; the figures of its own row follow it."""
    (block,) = layout(["name", "bits"], [["n" * 20_000, "1"], ["short", "2"]], None)
    assert block.body[0] == "n" * 20_000 + "     1"
    assert len(block.body[1]) < 100


@pytest.mark.parametrize("cut", [cut_end, cut_middle])
def test_what_has_no_width_is_cut_as_well(cut: Cut) -> None:
    """A word of accents alone has no cells."""
    for text in ("e" + "\u0301" * 20_000, "\u0301" * 20_000 + "e", "\u200c" * 20_000):
        assert len(cut(text, 60)) < 1100
        assert cell_len(cut(text, 60)) <= 60
    assert cut("e\u0301" * 50, 60) == "e\u0301" * 50
