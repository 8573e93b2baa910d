"""What an error suggests can be pasted: commands are quoted, and name the way on."""

from __future__ import annotations

import ast
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from odd import PLAIN, TINY, trained
from processes import CHARLM, PATIENCE

import charlm
from charlm.errors import CheckpointError, ConfigError, DataError, quoted
from charlm.storage.runs import find_checkpoint

ROOT: Final = Path(charlm.__file__).parent
NAMES: Final = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=12)


@given(NAMES)
@example("my novel.txt")
@example('it\'s "so"')
@example("$HOME `date` \\ !")
@example("two\nlines\x1b[31m")
@example("-x")
@example("Zwölf 漢字 \u202e")
def test_a_quoted_name_is_one_line_and_the_same_name_in_bash(name: str) -> None:
    shown = quoted(name)
    assert shown.isprintable()
    if shown.startswith("$'"):
        assert re.fullmatch(r"\$'([ -&(-\[\]-~]|\\x[0-9a-f]{2})*'", shown)
        raw = re.sub(rb"\\x(..)", lambda found: bytes.fromhex(found[1].decode()), shown[2:-1].encode())
        word = raw.decode()
    else:
        (word,) = shlex.split(shown)
    assert word == (f"./{name}" if name.startswith("-") and name != "-" else name)


def test_bytes_that_are_no_text_are_quoted_for_bash() -> None:
    assert quoted(os.fsdecode(b"caf\xe9")) == r"$'caf\xe9'"
    word = quoted(os.fsdecode(b"a b\xe9\n"))
    done = subprocess.run(["bash", "-c", f"printf %s {word}"], capture_output=True, check=True)
    assert done.stdout == b"a b\xe9\n"


COMMAND: Final = (
    r"\bcharlm "
    r"(train|sample|eval|perplexity|score|pairs|novelty|(de)?compress|info|verify|export|push|data|doctor)\b"
)


def suggestions() -> Iterator[tuple[str, ast.JoinedStr]]:
    """Every f-string of the package in which a command of charlm is suggested."""
    for path in sorted(ROOT.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                text = "".join(str(part.value) if isinstance(part, ast.Constant) else "\0" for part in node.values)
                if re.search(rf"{COMMAND}[^;,]*\0", text):
                    yield f"{path.relative_to(ROOT)}:{node.lineno}", node


FREE: Final = {"where"}  # empty, or made of an option and what is quoted


def test_every_name_in_a_suggested_command_is_quoted() -> None:
    """A static one: what stands in an f-string behind "charlm COMMAND" is `quoted`, or made of what is."""
    found = dict(suggestions())
    assert len(found) >= 3
    for place, node in found.items():
        if place.startswith("cli/suggest"):  # names of commands and options, which need no quotes
            continue
        command = False
        for part in node.values:
            if isinstance(part, ast.Constant):
                command = bool(re.search(rf"{COMMAND}[^;,]*$", str(part.value))) or (
                    command and not re.search("[;,]", str(part.value))
                )
            elif command and isinstance(part, ast.FormattedValue):
                value = ast.unparse(part.value)
                assert value.startswith("quoted(") or value in FREE, f"{place}: {value}"


def pasted(folder: Path, command: str) -> subprocess.CompletedProcess[str]:
    """What a user gets who pastes this line into bash."""
    assert command.startswith("charlm ")
    return subprocess.run(
        ["bash", "-c", command.replace("charlm", shlex.quote(CHARLM), 1)],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
        encoding="utf-8",
    )


ODD: Final = ["my novel.txt", "it's $b`c`.txt"]


@pytest.mark.parametrize("name", ODD)
def test_the_lines_at_the_end_of_training_can_be_pasted(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(PLAIN)
    done = pasted(tmp_path, f"charlm train {quoted(name)} {' '.join(TINY)}")
    assert done.returncode == 0, done.stderr
    sample, following = done.stdout.splitlines()[-2:]
    assert len(pasted(tmp_path, sample.removeprefix("sample").strip() + " --length 5 --engine numpy").stdout) == 5
    assert pasted(tmp_path, following.removeprefix("next").strip() + " --steps 2").returncode == 0


def test_a_text_where_a_checkpoint_is_expected_is_told_where_it_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my novel.txt").write_text(PLAIN)
    with pytest.raises(CheckpointError, match=r"it is a text: that goes to --text, and charlm train 'my novel\.txt'"):
        charlm.load("my novel.txt")
    Path("latin.txt").write_bytes("Zwölf Boxkämpfer".encode("latin-1"))
    with pytest.raises(CheckpointError, match="it is a text"):
        charlm.load("latin.txt")
    Path("noise").write_bytes(bytes(range(256)))
    with pytest.raises(CheckpointError, match="try another checkpoint"):
        charlm.load("noise")
    Path("empty").touch()
    with pytest.raises(CheckpointError, match="try another checkpoint"):
        charlm.load("empty")


def test_a_folder_of_runs_lists_them_newest_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for age, name in enumerate(["b", "it's new", "a", "oldest", "c", "d", "e"]):
        folder = Path("checkpoints") / name
        folder.mkdir(parents=True)
        (folder / "last.safetensors").touch()
        os.utime(folder / "last.safetensors", (10**9 - age, 10**9 - age))
    (Path("checkpoints") / "none").mkdir()
    words = "checkpoints is a folder of runs; name one of them, newest first: "
    names = "checkpoints/b, 'checkpoints/it'\"'\"'s new', checkpoints/a, checkpoints/oldest, checkpoints/c and 2 more"
    for what in ("checkpoints", "checkpoints/"):
        with pytest.raises(CheckpointError, match="^" + re.escape(words + names) + "$"):
            find_checkpoint(what)


def hint_of(folder: Path, **options: object) -> str:
    """The error of resuming a run with other options."""
    with pytest.raises(ConfigError) as caught:
        charlm.train(name="it's", checkpoints=folder / "checkpoints", resume=True, **options)  # type: ignore[arg-type]
    return str(caught.value)


def test_a_longer_run_is_told_how_to_train_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    trained(tmp_path, PLAIN, "it's")
    monkeypatch.setattr("charlm.training.again.DEFAULT_FOLDER", str(tmp_path / "checkpoints"))
    error = hint_of(tmp_path, time="1s")
    assert "--time 1s contradicts the run, which has --steps 2; nothing was changed; leave it out, or train" in error
    assert "--name 'it'\"'\"'s-2' --init-from 'it'\"'\"'s' --time 1s" in error
    command = error[error.index("charlm train") :]
    done = pasted(tmp_path, f"{command} --threads 1 --precision fp32 -q --json")
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "checkpoints" / "it's-2" / "last.safetensors").is_file()
    assert "--name 'it'\"'\"'s-3'" in hint_of(tmp_path, epochs=1)
    other = hint_of(tmp_path, hidden=9)
    assert "which has --hidden 8;" in other
    assert "--init-from" not in other


def test_a_length_that_the_run_does_not_have_is_never_named_as_nothing(tmp_path: Path) -> None:
    (tmp_path / "epoch.txt").write_text(PLAIN)
    options: dict[str, Any] = {"hidden": 8, "layers": 1, "device": "cpu", "precision": "fp32", "threads": 1}
    charlm.train(tmp_path / "epoch.txt", checkpoints=tmp_path, epochs=1, **options)
    for longer in (dict[str, Any](steps=7), dict[str, Any](time="9m")):
        with pytest.raises(ConfigError, match="which has --epochs 1;"):
            charlm.train(name="epoch", checkpoints=tmp_path, resume=True, **longer)


def test_a_project_that_moved_finds_its_text_by_its_content(tmp_path: Path) -> None:
    """At the same place relative to the run, whatever lies at other places of that name."""
    old, new = tmp_path / "old", tmp_path / "new" / "deeper"
    (old / "data").mkdir(parents=True)
    model = trained(old / "data", PLAIN, "book")
    shutil.move(model.path.parents[1], old / "checkpoints")
    (tmp_path / "new").mkdir()
    old.rename(new)
    run = new / "checkpoints" / "book"
    held_out = PLAIN[len(PLAIN) * 9 // 10 :]
    assert charlm.load(run).held_out() == held_out
    (run / "book.txt").write_text(PLAIN.replace("mat", "hat"))  # nearer, of the same size, but another text
    assert charlm.load(run).held_out() == held_out
    (new / "data" / "book.txt").rename(new / "renamed.txt")
    with pytest.raises(DataError, match=r"is not the run's text.*--corpus FILE"):
        charlm.load(run).held_out()
    (run / "book.txt").unlink()
    with pytest.raises(DataError, match=r"missing.*--corpus FILE"):
        charlm.load(run).held_out()
    assert charlm.load(run).held_out([str(new / "renamed.txt")]) == held_out
