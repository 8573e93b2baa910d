"""`python -m bench.lectures`: run the commands of docs/lectures.md, in their order, in an empty folder.

The page is the script. What the last command of a block prints goes into the output below the block, and the pictures
that are written go to docs/lectures/, so that neither can differ from the commands. With `--folder DIR` they are run
there, and what each printed is kept there: the same command goes on where it was interrupted, and runs nothing twice.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Final

from bench.machine import machine

ROOT: Final = Path(__file__).parents[2]
PAGE: Final = ROOT / "docs" / "lectures.md"
PICTURES: Final = ROOT / "docs" / "lectures"
PAGE_PICTURE: Final = re.compile(r"!\[[^\]]+\]\(lectures/([\w-]+\.svg)\)")
_BLOCK: Final = r"```sh\n(.*?)```\n"
_OUTPUT: Final = r"(\n<!-- output: make lectures -->\n```text\n)(.*?)(```\n<!-- end -->\n)"


def commands(block: str) -> list[list[str]]:
    """The commands of a block, each as words; a line that ends in a backslash goes on in the next one.

    >>> commands("charlm eval a \\\\\\n  --exact  # slow\\ncharlm runs\\n")
    [['charlm', 'eval', 'a', '--exact'], ['charlm', 'runs']]
    """
    lines = block.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def blocks(page: str) -> Iterator[str]:
    """The blocks of commands of the page."""
    return (match[1] for match in re.finditer(_BLOCK, page, re.DOTALL))


class Session:
    """Runs commands in a folder, and keeps what they print in a file there."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._kept = folder, folder / "printed.json"
        folder.mkdir(parents=True, exist_ok=True)
        self._printed: dict[str, str] = json.loads(self._kept.read_text()) if self._kept.exists() else {}

    def run(self, words: Sequence[str]) -> str:
        """What a command prints to standard output; what it says beside that is for whoever watches."""
        line = shlex.join(words)
        if line not in self._printed:
            print("$", line, flush=True)
            program = words[1:] if words[0] == "python" else ["-m", *words]
            environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
            options: dict[str, Any] = {"cwd": self.folder, "env": environment, "stdout": subprocess.PIPE, "text": True}
            done = subprocess.run([sys.executable, *program], check=False, **options)
            if done.returncode:
                raise SystemExit(f"{line} ended with {done.returncode}; the page is as it was")
            self._printed[line] = "".join(line.rstrip() + "\n" for line in done.stdout.splitlines())
            self._kept.write_text(json.dumps(self._printed, indent=1))
        return self._printed[line]


def filled(page: str, session: Session) -> str:
    """The page with the outputs of its commands."""

    def run_block(match: re.Match[str]) -> str:
        block, before, _, after = match.groups()
        *_, last = [session.run(words) for words in commands(block)]
        return f"```sh\n{block}```\n" + (f"{before}{last}{after}" if before else "")

    return re.sub(f"{_BLOCK}(?:{_OUTPUT})?", run_block, page, flags=re.DOTALL)


def trimmed(svg: str) -> str:
    """The same picture in a sixth less: places to a tenth of a point, and lines that are not indented."""
    places = re.sub(r' (?:d|x|y)="[^"]*"', lambda match: re.sub(r"(\.\d)\d+", r"\1", match[0]), svg)
    return re.sub(r"\n +", "\n", places)


def made() -> str:
    """What the figures were made with."""
    here = machine()
    versions = f"Python {platform.python_version()}, PyTorch {here['torch']}"
    return f"Made on {here['date'][:10]} with {versions}, on one core of {here['processor']}."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", metavar="DIR", help="where to run the commands (default: a temporary folder)")
    kept = parser.parse_args().folder
    with nullcontext(kept) if kept else tempfile.TemporaryDirectory() as name:
        page = filled(PAGE.read_text(), Session(Path(name)))
        shutil.rmtree(PICTURES, ignore_errors=True)
        PICTURES.mkdir()
        for picture in PAGE_PICTURE.findall(page):
            PICTURES.joinpath(picture).write_text(trimmed(Path(name, picture).read_text()))
    PAGE.write_text(re.sub(r"(?<=<!-- made: make lectures -->\n).*(?=\n<!-- end -->)", made(), page))
    print(f"wrote {PAGE} and its pictures")


if __name__ == "__main__":
    main()
