"""Writes docs/cli.md from the commands themselves: `make docs`. A test fails when the file is not what this writes."""

from __future__ import annotations

import os
from pathlib import Path

from typer.testing import CliRunner

from charlm.cli.main import app

COMMANDS = [
    "train",
    "sample",
    "fill",
    "eval",
    "score",
    "pairs",
    "novelty",
    "compare",
    "compress",
    "decompress",
    "export",
    "info",
    "verify",
    "push",
    "runs",
    "plot",
    "inspect",
    "inspect gradients",
    "inspect gates",
    "inspect cells",
    "inspect memory",
    "lags",
    "page",
    "data",
    "data list",
    "data get",
    "doctor",
    "help",
]
ALIASES = {"perplexity": "eval"}
HEAD = """# The command line

Made by `make docs` from the commands themselves. Do not edit it.

Exit codes: 0 done; 1 the operation failed; 2 usage or configuration; 3 bad data; 4 bad or missing checkpoint;
5 training diverged; 74 input or output; 129 hung up; 130 interrupted; 143 terminated. Results go to standard output,
everything else to standard error, where an error is one line. `--json` prints one object whose `schema` names the
command.

`charlm help COMMAND` prints the same text. `charlm --install-completion` lets the shell complete commands, options,
their values, and names of runs and corpora.

`--config FILE.toml` takes every option of `train` by its name, with `-` or `_`. The command line wins:

```toml
hidden = 256
dropout = 0.2
time = "10m"
```
"""


def reference() -> str:
    """The whole page."""
    os.environ["COLUMNS"] = "80"
    commands = f"```\n{_help('')}\n```\n"
    sections = [f"## charlm {name}\n\n```\n{_help(name)}\n```\n" for name in COMMANDS]
    aliases = [f"## charlm {alias}\n\nThe same as `charlm {name}`.\n" for alias, name in ALIASES.items()]
    return "\n".join([HEAD, commands, *sections, *aliases])


def _help(name: str) -> str:
    result = CliRunner().invoke(app, [*name.split(), "--help"], prog_name="charlm")
    return "\n".join(line.rstrip() for line in result.output.strip().splitlines())


if __name__ == "__main__":
    Path(__file__).with_name("cli.md").write_text(reference())
