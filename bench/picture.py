"""`python -m bench.picture`: train a small model, use it, and draw that terminal session as docs/session.svg.

Everything in the picture is what the commands printed: each runs in a terminal of its own, and what would be scrolled
over is left out. The same model's sample goes into README.md, and so does what its Python example prints. The text
is Python's own documentation, which may be distributed.
"""

from __future__ import annotations

import argparse
import os
import pty
import re
import shlex
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from fcntl import ioctl
from pathlib import Path
from termios import TIOCSWINSZ
from typing import Final, NamedTuple

from rich.console import Console
from rich.terminal_theme import TerminalTheme
from rich.text import Text

ROOT: Final = Path(__file__).parent.parent
PICTURE, README = ROOT / "docs" / "session.svg", ROOT / "README.md"
COLUMNS: Final = 96
PRIME: Final = 'The "for" statement'
BACKGROUND, FOREGROUND = (16, 20, 27), (208, 214, 222)
_NORMAL: Final = ["10141b", "eb6469", "7ec878", "e1b964", "69a5eb", "c88ce1", "5ac3c8", "d0d6de"]
_BRIGHT: Final = ["6e7682", "ff8282", "96e191", "f5d27d", "8cbeff", "dca5f5", "7ddce1", "f5f7fa"]
# rich's own frame without its web fonts, which a picture in a page may not load
FRAME: Final = """<svg class="rich-terminal" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{ font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace;
  font-size: {char_height}px; line-height: {line_height}px; }}
{styles}
</style>
<defs><clipPath id="{unique_id}-clip-terminal"><rect x="0" y="0" width="{terminal_width}" height="{terminal_height}"/>
</clipPath>{lines}</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""


def theme() -> TerminalTheme:
    """The sixteen colours of the picture's terminal."""
    normal, bright = ([(int(c[:2], 16), int(c[2:4], 16), int(c[4:], 16)) for c in row] for row in (_NORMAL, _BRIGHT))
    return TerminalTheme(BACKGROUND, FOREGROUND, normal, bright)


class Scene(NamedTuple):
    """A command, and how many lines of its output to show from the beginning and from the end."""

    command: str
    head: int = 99
    tail: int = 0


def main() -> None:
    parser = argparse.ArgumentParser(description="Train a small model and draw the session.")
    parser.add_argument("--time", default="110s", help="training time")
    parser.add_argument("--example-time", default="1m", help="training time of the README's Python example")
    parser.add_argument("--options", default="", help="more options of the training, in one text")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run("charlm data get python-docs", folder)  # not shown
        scenes = [
            Scene(f"charlm train data/python-docs.txt --name demo --time {asked.time} {asked.options}".strip(), 5, 14),
            Scene(f"charlm sample demo --prime '{PRIME}' --length 320 --temperature 0.7 --seed 3"),
            Scene("charlm score demo --text question.txt", 12),
        ]
        Path(folder, "question.txt").write_text(
            "The interpreter evaluates a lemon, then returns the value to the caller.\n"
        )
        draw([(scene, run(scene.command, folder)) for scene in scenes])
        sample = run(f"charlm sample demo --prime '{PRIME}' --length 600 --temperature 0.7 --seed 1", folder)
        page = fill_in(README.read_text(), "sample", plain(sample))
        README.write_text(fill_in(page, "output", example(page, asked.example_time, folder)))
    print(f"wrote {PICTURE} ({PICTURE.stat().st_size:,} bytes), the sample and the output in {README}")


def run(command: str, folder: str) -> list[str]:
    """What a command leaves on a terminal, line by line, with its colours."""
    master, slave = pty.openpty()
    ioctl(slave, TIOCSWINSZ, struct.pack("HHHH", 60, COLUMNS, 0, 0))
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": str(COLUMNS), "PYTHONPATH": str(ROOT)}
    environment.pop("NO_COLOR", None)
    arguments = [sys.executable, "-m", *shlex.split(command)]
    process = subprocess.Popen(arguments, cwd=folder, stdin=slave, stdout=slave, stderr=slave, env=environment)
    os.close(slave)
    written = b"".join(read(master))
    if process.wait():
        raise SystemExit(f"{command} ended with {process.returncode}:\n{written.decode()}")
    return screen(written.decode())


def read(terminal: int) -> Iterator[bytes]:
    while True:
        try:
            chunk = os.read(terminal, 2**16)
        except OSError:  # Linux's way to say that the other end was closed
            return
        if not chunk:
            return
        yield chunk


def screen(written: str) -> list[str]:
    """The lines that stay, of a program that erases whole lines and moves up to write again, as rich does."""
    lines, here = [""], 0
    for part in re.split(r"(\n|\x1b\[\d*[AK]|\x1b\[\?\d+[hl]|\r)", written):
        if part == "\n":
            here += 1
            lines += [""] * (here == len(lines))
        elif part.endswith("A") and part.startswith("\x1b"):
            here = max(0, here - int(part[2:-1] or 1))
        elif part.endswith("K") and part.startswith("\x1b"):
            lines[here] = ""
        elif part != "\r" and not part.startswith("\x1b[?"):
            lines[here] += part
    while lines and not lines[-1].strip():
        lines.pop()
    return lines


def draw(session: Sequence[tuple[Scene, list[str]]]) -> None:
    console = Console(record=True, width=COLUMNS, file=open(os.devnull, "w"), force_terminal=True)  # noqa: SIM115
    for scene, lines in session:
        console.print(Text.assemble(("$ ", "bright_black"), (scene.command, "bold")))
        cut = len(lines) > scene.head + scene.tail
        shown = [*lines[: scene.head], "\x1b[2m  ...\x1b[0m", *lines[len(lines) - scene.tail :]] if cut else lines
        for line in shown:
            console.print(Text.from_ansi(line), soft_wrap=False)
        console.print()
    PICTURE.write_text(console.export_svg(title="charlm", theme=theme(), code_format=FRAME, unique_id="charlm"))


def plain(lines: Sequence[str]) -> str:
    return "\n".join(Text.from_ansi(line).plain.rstrip() for line in lines)


def example(page: str, time: str, folder: str) -> str:
    """What the Python example of the README prints."""
    (block,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    code = block.replace('time="1m"', f"time={time!r}")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    return "\n".join(line.rstrip() for line in done.stdout.splitlines())


def fill_in(page: str, name: str, text: str) -> str:
    """The page with this text between its two comments."""
    new, found = re.subn(
        rf"(<!-- {name}: make picture -->\n```text\n).*?(\n```\n<!-- end -->)",
        lambda match: match[1] + text + match[2],
        page,
        flags=re.DOTALL,
    )
    if not found:
        raise SystemExit(f"{README} has no place for the {name}")
    return new


if __name__ == "__main__":
    main()
