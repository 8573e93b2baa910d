"""Texts on the command line: bytes of any locale, and escapes that the shell has not read."""

from __future__ import annotations

import os

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from charlm.cli.outputs import Screen
from charlm.cli.texts import given_text
from charlm.errors import DataError

SCREEN = Screen(quiet=False, color=False)


@given(st.text(st.characters(exclude_categories=["Cs"])))
@example("café 漢字 \U0001f600")
def test_a_text_is_what_its_utf_8_says_whatever_the_locale(text: str) -> None:
    """In the C locale each byte above 127 arrives as a surrogate."""
    quiet = Screen(quiet=True, color=False)
    assert given_text(quiet, "--prime", text) == text
    assert given_text(quiet, "--prime", text.encode().decode("ascii", "surrogateescape")) == text


@pytest.mark.parametrize("option", ["--prime", "--stop"])
@pytest.mark.parametrize(
    ("raw", "byte", "offset", "hint"),
    [
        ("café".encode("latin-1"), "E9", 3, "give {} 'café'"),
        ("don’t “ask”".encode("cp1252"), "92", 3, "give {} 'don’t “ask”'"),
        ("привет".encode("cp1251"), "EF", 0, "if its encoding was"),
        (b"\x81", "81", 0, "convert it"),
        (b"\xe9" * 200, "E9", 0, "convert it"),
    ],
)
def test_a_text_in_another_encoding_is_named_with_its_byte(
    option: str, raw: bytes, byte: str, offset: int, hint: str
) -> None:
    with pytest.raises(DataError, match=f"^{option} is not UTF-8: byte {byte} at offset {offset}; nothing") as caught:
        given_text(SCREEN, option, os.fsdecode(raw))
    assert hint.format(option) in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("text", [r"a\nb", r"\t", r"C:\new"])
def test_an_escape_is_remarked_on_and_kept(capsys: pytest.CaptureFixture[str], text: str) -> None:
    assert given_text(SCREEN, "--prime", text) == text
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "in --prime is taken as two characters; in bash write $'...\\" in err


@pytest.mark.parametrize("text", ["a\nb", r"\\n", r"\d", "n", ""])
def test_other_texts_need_no_remark(capsys: pytest.CaptureFixture[str], text: str) -> None:
    assert given_text(SCREEN, "--stop", text) == text
    assert capsys.readouterr() == ("", "")
