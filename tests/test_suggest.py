"""Usage errors name the command's own help, and what may have been meant."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.main import get_command

from charlm.cli import suggest
from charlm.cli.main import app, run


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line with which these arguments are refused."""
    assert run(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("charlm: ")
    assert err.count("\n") == 1
    return err.strip()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("trian", "did you mean charlm train? See charlm --help"),
        ("generate", "did you mean charlm sample?"),
        ("evaluate", "did you mean charlm eval?"),
        ("ls", "did you mean charlm runs?"),
        ("curves", "did you mean charlm plot?"),
        ("plot", "charlm plot needs -o, --output FILE; see charlm plot --help"),
        ("train t.txt --tensorboard", "did you mean --log?"),
        ("compare", "charlm compare needs CORPUS...; see charlm compare --help"),
        ("get", "did you mean charlm data get?"),
        ("data fetch", "did you mean charlm data get? See charlm data --help"),
        ("data", "charlm data needs a command; see charlm data --help"),
        ("help trian", "did you mean charlm train?"),
        ("help data gte", "did you mean charlm data get?"),
        ("help train foo", "charlm train has no command 'foo'"),
        ("train t.txt --hiden 3", "did you mean --hidden? See charlm train --help"),
        ("train t.txt --temperature 1", "charlm sample and charlm fill have it; see charlm train --help"),
        ("train t.txt --baselines", "charlm eval has it"),
        ("train t.txt --learning-rate 1", "did you mean --lr?"),
        ("train t.txt --rnn_size 1", "did you mean --hidden?"),
        ("sample --prompt x", "did you mean --prime?"),
        ("sample --textt x", "did you mean charlm fill --text?"),
        ("--quiet train t.txt", "it goes after a command, as in charlm train --quiet"),
        ("train --hidden", "requires an argument; see charlm train --help"),
        ("train --json=3", "does not take a value; see charlm train --help"),
        ("train -x", "charlm train has no option -x; see charlm train --help"),
        ("sample one two", "unexpected argument 'two'; see charlm sample --help"),
        ("score", "charlm score needs --text FILE; see charlm score --help"),
        ("compress", "charlm compress needs FILE; see charlm compress --help"),
        ("data get", "charlm data get needs NAME; see charlm data get --help"),
        ("data get names --too x", "did you mean --to? See charlm data get --help"),
        ("score --text t.txt --words many", "--words must be an integer"),
        ("eval --cold-windows many", "--cold-windows must be an integer from 1; see charlm eval --help"),
        ("eval --cold-windows 0", "--cold-windows must be an integer from 1; see charlm eval --help"),
    ],
)
def test_a_usage_error_says_what_may_have_been_meant(
    capsys: pytest.CaptureFixture[str], arguments: str, words: str
) -> None:
    assert words in refusal(capsys, *arguments.split())


def test_a_file_in_place_of_a_command_is_what_one_would_train_on(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my text.txt").write_text("text")
    assert "did you mean charlm train 'my text.txt'?" in refusal(capsys, "my text.txt")


def test_whatever_is_unlike_everything_is_not_guessed_at(capsys: pytest.CaptureFixture[str]) -> None:
    assert refusal(capsys, "xyzzy") == "charlm: there is no command 'xyzzy'; see charlm --help"


def test_words_that_people_try_lead_to_what_exists() -> None:
    commands = dict(suggest._commands(get_command(app)))
    options = {name for command in commands.values() for name in suggest._long_options(command)}
    assert suggest.COMMANDS.keys() - {"--version"} <= commands.keys()
    assert {f"--{name}" for name in suggest.OPTIONS} <= options
    for words in suggest.COMMANDS.values():
        assert not set(words.split()) & commands.keys()
