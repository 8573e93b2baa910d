"""Foreign text on a terminal is shown, never obeyed; figures read well."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from matrix import Tries
from rich.cells import cell_len

from charlm.report.words import bits, duration, figure, one_line, replaced, visible

PROFILE = settings(derandomize=True, deadline=None, max_examples=500, database=None)
BIDI = {0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)}
CONTROLS = {*range(32), *range(0x7F, 0xA0), 0x2028, 0x2029, *BIDI}
# What moves, hides or reorders what stands around it without being seen, as the standard's charts list it.
UNSEEN = {0x200B, *range(0x2060, 0x2065), *range(0x206A, 0x2070), 0xFEFF, 0xE0001}
UNSEEN |= {*range(0xFFF9, 0xFFFC), *range(0x1D173, 0x1D17B), *range(0x1BCA0, 0x1BCA4), *range(0x13430, 0x13440)}
SHOWN = CONTROLS - {9, 10} | UNSEEN | set(range(0xD800, 0xE000))
SPELLING = {0xAD, 0x180E, 0x200C, 0x200D, *range(0x600, 0x606), 0x6DD, 0x70F, 0x890, 0x891, 0x8E2, 0x110BD, 0x110CD}
STAYING = {"Lu", "Ll", "Lt", "Lm", "Lo", "Mn", "Mc", "Me", "Nd", "Nl", "No", "Pc", "Pd", "Ps", "Pe", "Pi", "Pf", "Po"}
STAYING |= {"Sm", "Sc", "Sk", "So", "Zs", "Co"}
TEXTS = st.text(st.one_of(st.characters(), st.sampled_from(sorted(map(chr, CONTROLS)))))


@pytest.mark.fault(39)
def test_of_all_code_points_those_that_command_a_terminal_are_shown_and_the_others_stay(tries: Tries) -> None:
    """Every one there is; what is neither (unassigned, of no use to anybody) may go either way, but stays harmless."""
    for point in range(0x110000):
        character = chr(point)
        shown = visible(character)
        if point in SHOWN:
            assert shown != character
            assert shown.isprintable()
        elif point in SPELLING or unicodedata.category(character) in STAYING:
            assert shown == character
        assert len(one_line(character).splitlines()) <= 1
    tries.survived(0x110000)


@pytest.mark.fault(39)
def test_a_text_is_shown_character_by_character_however_it_is_cut(
    tries: Tries, many: Callable[[int, int], int]
) -> None:
    """So that a stream of pieces shows what the whole would, and no two harmless pieces make a command."""

    @settings(PROFILE, max_examples=many(300, 5000))
    @given(TEXTS, TEXTS)
    @example("\x1b", "[31m")
    @example("\U0001f468\u200d", "\U0001f469")
    def check(one: str, other: str) -> None:
        assert visible(one + other) == visible(one) + visible(other) == "".join(map(visible, one + other))
        tries.survived()

    check()


@pytest.mark.fault(39)
@PROFILE
@given(TEXTS)
@example("\x1b]0;title\x07\x1b[2J\x9b31m\r\x08\x7f\u202e\u2066")
def test_no_control_character_survives_but_line_ends_and_tabs(text: str) -> None:
    assert not CONTROLS & set(map(ord, visible(text))) - {9, 10}
    assert visible(text).count("\n") == text.count("\n")
    assert visible(text).count("\t") == text.count("\t")


@pytest.mark.fault(39)
@PROFILE
@given(TEXTS)
@example("two\nlines\tand a tab")
def test_one_line_is_one_line(text: str) -> None:
    assert not CONTROLS & set(map(ord, one_line(text)))
    assert len(one_line(text).splitlines()) <= 1


@pytest.mark.fault(39)
@pytest.mark.parametrize("point", sorted(CONTROLS - {9, 10}))
def test_every_control_is_shown_as_a_sign_of_its_own(point: int) -> None:
    shown = visible(f"a{chr(point)}b")
    assert shown[0] + shown[-1] == "ab"
    sign = chr(0x2400 + point) if point < 32 else "\u2421" if point == 127 else f"⟨U+{point:04X}⟩"
    assert shown[1:-1] == sign


@pytest.mark.fault(39)
@PROFILE
@given(st.text(st.characters(categories=["L", "M", "N", "P", "S", "Zs"])))
def test_letters_marks_numbers_signs_and_spaces_stay_as_they_are(text: str) -> None:
    assert visible(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "\U0001f600 \u2764\ufe0f \u270c\U0001f3fd",
        "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466",
        "\U0001f3f3\ufe0f\u200d\U0001f308",
        "\U0001f1e9\U0001f1ea",
        "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",
        "1\ufe0f\u20e3",
        "می\u200cخواهم  Donau\u00addampf\u00adschiff  ᠨᠠᠶᠮ\u180eᠠ  شارة\u06ddآية",
        "नमस्ते  ไทย  עברית  العربية  e\u0301\u0323",
        "a\u00a0b\u3000c\ue000",
    ],
)
def test_emoji_and_scripts_survive(text: str) -> None:
    assert visible(text) == text


@pytest.mark.fault(39)
@PROFILE
@given(TEXTS)
def test_what_has_been_made_visible_stays_as_it_is(text: str) -> None:
    assert visible(visible(text)) == visible(text)


@pytest.mark.fault(39)
@pytest.mark.parametrize("text", ["\ud800", "\u200b", "\u2060", "\ufeff", "\U000e0001", "\uffff", "\u0378"])
def test_what_nobody_can_see_is_shown_by_its_number(text: str) -> None:
    assert visible(text) == f"⟨U+{ord(text):04X}⟩"


@PROFILE
@given(TEXTS)
@example("…─━╸⟨⟩ 漢字 e\u0301 می\u200cخواهم")
def test_what_an_encoding_lacks_is_replaced_by_ascii_of_the_same_width(text: str) -> None:
    shown = replaced(one_line(text))
    assert shown.isascii()
    assert cell_len(replaced(letters := "".join(filter(str.isalpha, text)))) == cell_len(letters)
    assert replaced("…─⟨U+202E⟩") == "~-<U+202E>"


def test_durations_in_words() -> None:
    table = {0: "0.0 s", 8.25: "8.2 s", 59.9: "59.9 s", 60: "1:00", 75.4: "1:15", 3599: "59:59", 3600: "1:00:00"}
    assert {value: duration(value) for value in table} == table
    assert duration(360_000) == "100:00:00"


def test_figures_for_a_table() -> None:
    assert [figure(value) for value in (0.0, 1.23456, -2.0, 9999.5, 10_000, 1.5e9)] == [
        "0.0000",
        "1.2346",
        "-2.0000",
        "9,999.5000",
        "10,000",
        "1,500,000,000",
    ]
    assert [figure(value) for value in (None, float("nan"), float("inf"), -float("inf"))] == ["-"] * 4
    assert figure(2.0, 1) == "2.0"


def test_nats_in_bits() -> None:
    assert [bits(0), bits(0.6931471805599453), bits(1)] == pytest.approx([0, 1, 1.4426950408889634], abs=1e-15)
