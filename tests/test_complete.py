"""What the Tab key offers: values of options, runs, corpora and presets, by the protocol that the shells use."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from processes import CHARLM, charlm

from charlm.config import CELLS, ENGINES, EVAL_OPTIONS, SAMPLE_OPTIONS, TRAIN_OPTIONS
from charlm.options import Option, flag
from charlm.text.known import KNOWN


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with two runs, one elsewhere, and something that is no run."""
    for name in ("checkpoints/alice", "checkpoints/bob", "elsewhere/carol"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "last.safetensors").write_bytes(b"")
    (tmp_path / "checkpoints/empty").mkdir()
    (tmp_path / "checkpoints/file").write_text("")
    return tmp_path


def offered(line: str, cwd: Path) -> list[str]:
    """What is offered for the last word of this line, as bash asks for it; a space at the end begins a new word."""
    words = f"charlm {line}".split(" ")
    done = charlm(
        cwd=cwd, _CHARLM_COMPLETE="complete_bash", COMP_WORDS="\n".join(words), COMP_CWORD=str(len(words) - 1)
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


COMMANDS: dict[str, dict[str, Option]] = {"train": TRAIN_OPTIONS, "sample": SAMPLE_OPTIONS, "eval": EVAL_OPTIONS}


@pytest.mark.parametrize(
    ("command", "name"),
    [(command, name) for command, options in COMMANDS.items() for name, spec in options.items() if spec.choices],
)
def test_every_option_with_choices_offers_them(command: str, name: str, tmp_path: Path) -> None:
    assert offered(f"{command} {flag(name)} ", tmp_path) == list(COMMANDS[command][name].choices)


@pytest.mark.parametrize(
    ("line", "values"),
    [
        ("train t.txt --cell ls", ["lstm"]),
        ("train t.txt --cell=g", ["gru"]),
        ("train t.txt --cell = g", ["gru"]),  # as bash parts it
        ("train t.txt --cell =", list(CELLS)),
        ("train --device c", ["cpu", "cuda"]),
        ("train --preset ", ["josef-k", "josef-k-2017"]),
        ("train --name ", ["alice", "bob"]),
        ("train --init-from b", ["bob"]),
        ("train --checkpoints elsewhere --name ", ["carol"]),
        ("sample a", ["alice"]),
        ("sample --checkpoints elsewhere ", ["carol"]),
        ("sample --checkpoints nowhere ", []),
        ("eval alice ", ["alice", "bob"]),
        ("perplexity b", ["bob"]),
        ("score --text t.txt ", ["alice", "bob"]),
        ("novelty a", ["alice"]),
        ("pairs a", ["alice"]),
        ("info b", ["bob"]),
        ("plot a", ["alice"]),
        ("plot --x s", ["seconds", "steps"]),
        ("verify b", ["bob"]),
        ("sample hf : a", []),  # as bash parts hf:a, which is on the Hub
        ("sample hf:a", []),
        ("eval alice hf : ada/novel @ b", []),
        ("push a", ["alice"]),
        ("push alice b", []),
        ("compress t.txt --model ", ["alice", "bob"]),
        ("compress --engine c", ["compiled"]),
        ("sample --engine ", list(ENGINES)),
        ("data ", ["list", "get"]),
        ("data get ", list(KNOWN)),
        ("help no", ["novelty"]),
        ("help data g", ["get"]),
        ("help train ", []),
        ("tr", ["train"]),
        ("train --hid", ["--hidden"]),
    ],
)
def test_values_are_offered(place: Path, line: str, values: list[str]) -> None:
    assert offered(line, place) == values


def test_bash_itself_completes(place: Path) -> None:
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("no bash here")
    script = """
        eval "$("$1" --show-completion bash)"
        COMP_WORDS=(charlm train --cell ls) COMP_CWORD=3
        PATH="${1%/*}:$PATH" _charlm_completion charlm
        echo "${COMPREPLY[@]}"
        COMP_WORDS=(charlm info "") COMP_CWORD=2
        PATH="${1%/*}:$PATH" _charlm_completion charlm
        echo "${COMPREPLY[@]}"
    """
    env = {**os.environ, "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    done = subprocess.run(
        [bash, "--norc", "-c", script, "bash", CHARLM], cwd=place, env=env, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == ["lstm", "alice bob"]


@pytest.mark.parametrize("line", ["train --preset ", "data get ", "sample ", "train --cell "])
def test_completion_does_not_import_torch(place: Path, line: str) -> None:
    code = "import sys; from charlm.cli.main import run; run([]); sys.exit('torch' in sys.modules)"
    words = f"charlm {line}".split(" ")
    env = {"_CHARLM_COMPLETE": "complete_bash", "COMP_WORDS": "\n".join(words), "COMP_CWORD": str(len(words) - 1)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=place, env={**os.environ, **env}, capture_output=True, check=False
    )
    assert done.returncode == 0
    assert done.stdout
