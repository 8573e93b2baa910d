"""The levels and colours in which terminal and page show surprisal, and a page what a cell does.

Six levels, each from twice as many bits per character as the one below. In each palette lightness goes one way from
level to level, so that their order can be seen with any eyes, and every level brings its own background and letters,
so that it does not depend on what the terminal's are.
"""

from __future__ import annotations

from typing import Final

from charlm.report.words import one_line

LEVELS: Final = (0.5, 1.0, 2.0, 4.0, 8.0)  # bits per character at which the next of six levels begins
NAMES: Final = ("under ½", "½ to 1", "1 to 2", "2 to 4", "4 to 8", "8 bits and more")
# Background and letters of each level. On a page the more surprising is further from the paper, darker on white and
# lighter on black; a terminal's paper is unknown, and these are six of its 256 colours.
LIGHT: Final = (
    ("#ffffff", "#1b1b1f"),
    ("#fdf0c8", "#1b1b1f"),
    ("#fbcf7a", "#1b1b1f"),
    ("#f0955a", "#1b1b1f"),
    ("#b5386a", "#ffffff"),
    ("#47156c", "#ffffff"),
)
DARK: Final = (
    ("#15161c", "#d8d9e0"),
    ("#2d2452", "#e6e6f0"),
    ("#612b7a", "#ffffff"),
    ("#a83a72", "#ffffff"),
    ("#f0925c", "#15161c"),
    ("#fbe68a", "#15161c"),
)
# The same of seven levels from the lowest below 0 to the highest above it: blue and orange, which nobody takes for each
# other, and the further from 0 the further from the paper.
DIVERGING_LIGHT: Final = (
    ("#1a5296", "#ffffff"),
    ("#6fa8dc", "#1b1b1f"),
    ("#d3e5f6", "#1b1b1f"),
    LIGHT[0],
    ("#fbe3cb", "#1b1b1f"),
    ("#ee9a4d", "#1b1b1f"),
    ("#98410a", "#ffffff"),
)
DIVERGING_DARK: Final = (
    ("#a6d2ff", "#15161c"),
    ("#2f659f", "#ffffff"),
    ("#1c3350", "#e6e6f0"),
    DARK[0],
    ("#45290f", "#f5ebe2"),
    ("#94541b", "#ffffff"),
    ("#ffc890", "#15161c"),
)
TERMINAL: Final = (
    ("#00005f", "#d7d7ff"),
    ("#005f87", "#ffffff"),
    ("#008787", "#000000"),
    ("#5faf5f", "#000000"),
    ("#afd75f", "#000000"),
    ("#ffff5f", "#000000"),
)


def style(level: tuple[str, str]) -> str:
    """Background and letters as rich names them.

    >>> style(("#000000", "#ffffff"))
    '#ffffff on #000000'
    """
    back, ink = level
    return f"{ink} on {back}"


def sign(character: str) -> str:
    """What stands for a character where each has to be seen: a line end and a tab, too.

    >>> sign("a"), sign("\\n"), sign("\\x1b")
    ('a', '↵', '␛')
    """
    return "↵" if character == "\n" else one_line(character)
