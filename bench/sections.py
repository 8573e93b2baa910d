"""Sections of docs/results.md that can be written anew by themselves: what stands between two marks."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

PAGE: Final = Path("docs", "results.md")


def replace_section(marks: tuple[str, str], lines: Iterable[str]) -> None:
    """Put these lines, marks included, in the place of the page's section between the marks."""
    begin, end = map(re.escape, marks)
    page, found = re.subn(f"{begin}.*?{end}", lambda _: "\n".join(lines), PAGE.read_text(), flags=re.DOTALL)
    if not found:
        raise SystemExit(f"{PAGE} has no place for the section: {marks[0]}")
    PAGE.write_text(page)
