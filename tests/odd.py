"""Texts that nobody means to learn from, and the small runs that learn from them all the same."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

import charlm

PLAIN: Final = "The cat sat on the mat.\n" * 20
TINY: Final = ("--steps", "2", "--hidden", "8", "--layers", "1", "--threads", "1", "--precision", "fp32")
# CSI (also as one character), a title, a link, the clipboard, DCS, BEL, backspace, DEL, carriage return, overrides,
# isolates, what has no width, other line ends; none of which charlm or rich ever writes to a terminal itself.
COMMANDS: Final = (
    *(
        "\x1b[6n",
        "\x9b6n",
        "\x1b]0;title\x07",
        "\x1b]8;;http://x\x1b\\",
        "\x1b]52;c;eA==\x07",
        "\x1bP+q\x1b\\",
        "\x1bc",
    ),
    *(
        "\x07",
        "\x08",
        "\x7f",
        "a\rb",
        "\x0e",
        "\x85",
        "\x90",
        "\u202e",
        "\u2066",
        "\u2069",
        "\u200b",
        "\u2028",
        "\u2029",
    ),
)
HOSTILE: Final = "".join(COMMANDS) + "ok\n"
OBEYED: Final = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u200b\u2028-\u202e\u2060-\u206f\ud800-\udfff]")


def trained(folder: Path, text: str | bytes, name: str = "odd", **options: Any) -> charlm.LanguageModel:
    """The model of a run of two steps on this text."""
    file = folder / f"{name}.txt"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    given = {"steps": 2, "hidden": 8, "layers": 1, "device": "cpu", "precision": "fp32", "threads": 1, **options}
    done = charlm.train(file, name=name, checkpoints=folder / "checkpoints", force=True, **given)
    return charlm.load(done.checkpoint, device="cpu")
