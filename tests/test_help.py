"""Help as a person reads it: it fits the terminal, is grouped, names no Python types and cuts nothing off."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from charlm.cli.help import GENERAL, HEADINGS, OUTPUT
from charlm.cli.main import app
from charlm.config import EVAL_OPTIONS, SAMPLE_OPTIONS, TRAIN_OPTIONS
from charlm.options import flag
from charlm.training.defaults import PRESETS


def paths(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every command and group, as the words after `charlm`."""
    yield path
    for name, command in getattr(group, "commands", {}).items():
        yield from paths(command, (*path, name))


PATHS = sorted(paths(get_command(app)))


def shown(*arguments: str, columns: int = 80) -> str:
    result = CliRunner().invoke(app, list(arguments), prog_name="charlm", env={"COLUMNS": str(columns)})
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize("path", PATHS, ids=" ".join)
@pytest.mark.parametrize("columns", [60, 80, 120])
def test_every_help_fits_the_terminal_and_parts_no_word(path: tuple[str, ...], columns: int) -> None:
    text = shown(*path, "--help", columns=columns)
    assert max(map(len, text.splitlines())) < columns
    assert not re.search(r"<\w|list\[|str\b|\.\.\.\s*$", text.replace("COMMAND ...", ""), re.MULTILINE)
    wide = shown(*path, "--help", columns=10_000)
    assert text.split() == wide.split()


def test_a_long_list_of_choices_stands_on_a_line_of_its_own() -> None:
    lines = shown("train", "--help").splitlines()
    assert "  --precision auto|fp32|tf32|bf16|fp16" in lines
    assert "  --tokenizer char|byte|sentencepiece" in lines


def test_train_is_grouped_by_what_a_person_looks_for() -> None:
    text = shown("train", "--help")
    assert re.findall(r"^(\w.*):$", text, re.MULTILINE) == [
        "What to train on",
        "The model",
        "Regularisation",
        "The optimizer",
        "Length of training",
        "The run",
        "The machine",
        "Output",
        "General",
    ]
    sections = dict(re.findall(r"^(\w[^\n]*):\n((?:  .*\n?)+)", text, re.MULTILINE))
    for heading, options in {
        "What to train on": ["CORPUS...", "--tokenizer", "--val"],
        "The model": ["--cell", "--layers", "--hidden"],
        "The run": ["--name", "--preset", "--resume", "--config", "--seed"],
        "The machine": ["--device", "--threads"],
        OUTPUT: ["--json"],
        GENERAL: ["--quiet", "--help"],
    }.items():
        for option in options:
            assert option in sections[heading], f"{option} is not under {heading}"
    assert all(spec.group in HEADINGS for spec in TRAIN_OPTIONS.values())


def test_every_option_stands_once_with_its_default() -> None:
    for name, specs in {"train": TRAIN_OPTIONS, "sample": SAMPLE_OPTIONS, "eval": EVAL_OPTIONS}.items():
        text = shown(name, "--help")
        assert all(text.count(f"  {flag(option)} ") == 1 for option in specs)
    assert re.search(r"--layers N +number of layers \(default: 2; dilated 8,", shown("train", "--help"))
    assert "(default: 0)" not in re.sub(r"--(seed|top-k|min-p).*\n.*", "", shown("sample", "--help"))
    assert all(name in shown("train", "--help") for name in PRESETS)


def test_an_alias_is_listed_once_beside_its_command_and_has_help_of_its_own() -> None:
    text = shown("--help")
    assert text.count("perplexity  ") == 1
    assert re.search(r"^  eval, perplexity  Score text", text, re.MULTILINE)
    own = shown("perplexity", "--help")
    assert own.startswith("Usage: charlm perplexity ")
    assert own.replace("charlm perplexity [", "charlm eval [") == shown("eval", "--help")


def test_each_command_has_a_summary_on_one_line() -> None:
    text = shown("--help")
    for name, command in get_command(app).commands.items():  # type: ignore[attr-defined]
        assert command.hidden or re.search(rf"^  {name}\S*(, \w+)? +[A-Z].*[^.]$", text, re.MULTILINE), name
    assert len(re.findall(r"^ {15,}", text.split("Options:")[0], re.MULTILINE)) == 0  # no second line


@pytest.mark.parametrize("path", PATHS, ids=" ".join)
def test_the_help_command_says_what_the_help_option_does(path: tuple[str, ...]) -> None:
    assert shown("help", *path) == shown(*path, "--help")


@pytest.mark.parametrize("arguments", ["--help", "train --help", "help score", "--version", "trian", "train --hiden 3"])
def test_help_and_usage_errors_import_nothing_heavy(arguments: str) -> None:
    code = (
        "import sys; from charlm.cli.main import run; run(sys.argv[1:]);"
        "sys.exit(str({'torch', 'numpy', 'rich', 'matplotlib', 'sentencepiece'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments.split()], capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1] == "set()"
