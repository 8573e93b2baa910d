"""The command line as a user and a script meet it: real processes, exit codes, one line for each mistake."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from processes import CHARLM, PATIENCE, SMALL, TEXT, charlm, one_line, started, terminal

from charlm import api as charlm_api
from charlm.cli.main import run


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a text and a finished run of it."""
    folder = tmp_path_factory.mktemp("cli")
    (folder / "sums.txt").write_text(TEXT)
    done = charlm("train", "sums.txt", "--steps", "60", "--json", *SMALL, cwd=folder)
    assert done.returncode == 0, done.stderr
    (folder / "record.json").write_text(done.stdout)
    return folder


def test_the_final_record_has_what_scripts_read(place: Path) -> None:
    record = json.loads((place / "record.json").read_text())
    assert record["schema"] == "charlm.train/1"
    names = (
        "steps characters_seen train_loss val_loss val_bits_per_character best_val_loss seconds characters_per_second"
    )
    assert set(names.split()) | {"parameters", "checkpoint"} <= record.keys()
    assert record["steps"] == 60
    assert (place / record["checkpoint"]).exists()
    assert (place / "checkpoints/sums/curves.png").read_bytes().startswith(b"\x89PNG")


def test_eval_repeats_the_recorded_loss_and_perplexity_is_the_same_command(place: Path) -> None:
    record = json.loads((place / "record.json").read_text())
    reports = [json.loads(charlm(name, "sums", "--json", cwd=place).stdout) for name in ("eval", "perplexity")]
    assert reports[0]["schema"] == "charlm.eval/1"
    rows = [report["results"][0] for report in reports]
    assert rows[0]["loss"] == rows[1]["loss"] == pytest.approx(record["val_loss"], abs=1e-6)
    assert rows[0]["characters"] == len(TEXT) - int(len(TEXT) * 0.9)
    table = charlm("eval", cwd=place)
    assert "bits per character" in table.stdout
    assert "best.safetensors" in table.stderr  # the run that was meant is named


def test_eval_of_several_texts_and_of_standard_input(place: Path) -> None:
    (place / "odd.txt").write_text("€uro 7\n")
    report = json.loads(
        charlm(
            "eval", "sums", "--text", "odd.txt", "--text", "-", "--exact", "--json", cwd=place, stdin="1 is 2"
        ).stdout
    )
    assert [row["text"] for row in report["results"]] == ["odd.txt", "-"]
    assert report["results"][0]["unknown_characters"] > 0
    assert report["results"][0]["bytes"] == report["results"][0]["characters"] + 2
    empty = json.loads(charlm("eval", "sums", "--text", "-", "--json", cwd=place, stdin="").stdout)["results"][0]
    assert empty["loss"] is None
    assert empty["perplexity"] is None


def test_samples_are_exact_on_a_pipe_and_repeatable(place: Path) -> None:
    options = ("--length", "80", "--prime", "7 ", "--seed", "0", "--engine", "numpy")
    first, second = (charlm("sample", "sums", *options, cwd=place) for _ in range(2))
    assert first.stdout == second.stdout
    assert first.stdout.startswith("7 ")
    assert len(first.stdout) == 82
    assert first.stderr == ""
    other = charlm("sample", "sums", "--length", "80", "--seed", "1", cwd=place)
    assert len(other.stdout) == 80
    assert other.stdout not in first.stdout
    several = charlm("sample", "sums", "--length", "30", "--count", "3", "--no-echo", "--prime", "1", cwd=place)
    assert [len(text) for text in several.stdout.split("\0")] == [30, 30, 30]
    record = json.loads(charlm("sample", "sums", "--length", "30", "--count", "3", "--json", cwd=place).stdout)
    assert len(record["samples"]) == 3


def test_a_prime_from_standard_input_keeps_its_line_ends_and_stop_ends_the_sample(place: Path) -> None:
    command = [CHARLM, "sample", "sums", "--prime-file", "-", "--length", "400", "--stop", "\n"]
    done = subprocess.run(command, cwd=place, input=b"1\r\n2\n", capture_output=True, check=True)
    assert done.stdout.startswith(b"1\r\n2\n")
    assert 6 < len(done.stdout) < 400
    assert done.stdout.count(b"\n") == 2
    assert b"1 character of the prime is not in the vocabulary" in done.stderr


def test_a_traceback_on_request_keeps_the_exit_code(place: Path) -> None:
    done = charlm("data", "get", "moby-dick", "--traceback", cwd=place)
    assert done.returncode == 2
    assert "Traceback" in done.stderr


@pytest.mark.parametrize("kind", [EOFError, RuntimeError, KeyError])
def test_an_unforeseen_error_is_reported_as_what_it_is(
    kind: type[Exception], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken() -> None:
        raise kind("half a module")

    monkeypatch.setattr(charlm_api, "doctor", broken)
    assert run(["doctor"]) == 1
    said = capsys.readouterr().err.strip()
    assert re.fullmatch(rf"charlm: internal error \(please report\): {kind.__name__}: '?half a module'?; .+", said)


def test_info_verify_and_doctor_report(place: Path) -> None:
    info = json.loads(charlm("info", "sums", "--json", cwd=place).stdout)
    assert len(info["state_sha256"]) == 64
    assert info["config"]["hidden"] == 16
    assert "16 lstm" in charlm("info", "sums", cwd=place).stdout
    assert json.loads(charlm("verify", "sums", "--json", cwd=place).stdout)["whole"] is True
    doctor = json.loads(charlm("doctor", "--json", cwd=place).stdout)
    assert doctor["bit_exact"] is True


def test_data_is_listed_and_python_docs_need_no_network(place: Path) -> None:
    listed = json.loads(charlm("data", "list", "--json", cwd=place).stdout)["corpora"]
    assert {"python-docs", "tiny-shakespeare", "der-prozess"} <= {corpus["name"] for corpus in listed}
    done = charlm("data", "get", "python-docs", cwd=place)
    assert done.stdout == "data/python-docs.txt\n"
    assert len((place / "data/python-docs.txt").read_text()) > 400_000


def test_a_run_is_never_overwritten_without_being_told(place: Path) -> None:
    before = (place / "checkpoints/sums/last.safetensors").read_bytes()
    one_line(charlm("train", "sums.txt", cwd=place), 2, "exists", "--resume", "--force")
    assert charlm("train", "--resume", "-q", cwd=place).returncode == 0
    assert (place / "checkpoints/sums/last.safetensors").read_bytes() == before
    assert charlm("train", "sums.txt", "--name", "f", "--steps", "1", "-q", *SMALL, cwd=place).returncode == 0
    assert (
        charlm("train", "sums.txt", "--name", "f", "--steps", "2", "-q", "--force", *SMALL, cwd=place).returncode == 0
    )


BAD: list[tuple[list[str], int, list[str]]] = [
    (["train"], 2, ["no corpus"]),
    (["train", "sums.txt", "--hidden", "0"], 2, ["--hidden", "1 to 16384"]),
    (["train", "sums.txt", "--hidden", "-1"], 2, ["--hidden", "1 to 16384"]),
    (["train", "sums.txt", "--lr", "nan"], 2, ["--lr"]),
    (["train", "sums.txt", "--batch", "many"], 2, ["--batch", "1 to 65536"]),
    (["train", "sums.txt", "--time", "0s"], 2, ["--time", "90s"]),
    (["train", "sums.txt", "--no-such"], 2, ["--no-such"]),
    (["train", "sums.txt", "--steps", "3", "--epochs", "3"], 2, ["cannot be combined"]),
    (["train", "sums.txt", "--preset", "franz"], 2, ["josef-k"]),
    (["train", "sums.txt", "--name", "../x"], 2, ["--name"]),
    (["train", "sums.txt", "--config", "bad.toml"], 2, ["TOML"]),
    (["train", "sums.txt", "--config", "none.toml"], 74, ["none.toml"]),
    (["sample", "--temperature", "-1"], 2, ["--temperature"]),
    (["sample", "--top-p", "0"], 2, ["--top-p"]),
    (["sample", "nobody"], 4, ["nobody"]),
    (["sample", "--checkpoints", "nowhere"], 4, ["nowhere"]),
    (["info", "sums.txt"], 4, ["not a charlm checkpoint"]),
    (["verify", "sums.txt"], 4, ["not a charlm checkpoint"]),
    (["data", "get", "moby-dick"], 2, ["python-docs"]),
    (["nonsense"], 2, ["nonsense"]),
]


@pytest.mark.parametrize(
    ("arguments", "code", "words"), BAD, ids=lambda value: " ".join(map(str, value)) if isinstance(value, list) else ""
)
def test_a_mistake_is_one_line_with_the_right_code(
    place: Path, arguments: list[str], code: int, words: list[str]
) -> None:
    (place / "bad.toml").write_text("hidden == 3")
    one_line(charlm(*arguments, cwd=place), code, *words)


@pytest.mark.parametrize(
    ("content", "code", "words"),
    [
        (b"", 3, ["0 characters"]),
        (b"x", 3, ["1 character"]),
        (b"ab\ncd\xff", 3, ["byte 5", "line 2"]),
        (b"\x80\x04\x95", 3, ["not UTF-8"]),
        (None, 74, ["No such file"]),
    ],
)
def test_a_text_that_is_none_is_refused_before_anything_is_written(
    tmp_path: Path, content: bytes | None, code: int, words: list[str]
) -> None:
    if content is not None:
        (tmp_path / "t.txt").write_bytes(content)
    one_line(charlm("train", "t.txt", cwd=tmp_path), code, *words)
    assert not (tmp_path / "checkpoints").exists()


def test_devices_that_are_absent_and_folders_without_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text(TEXT)
    (tmp_path / "empty").mkdir()
    one_line(charlm("train", "empty", cwd=tmp_path), 3, "contains no text files")
    one_line(charlm("train", "t.txt", "--device", "cuda:99", cwd=tmp_path), 2, "--device cuda:99")
    assert not (tmp_path / "checkpoints").exists()


def test_options_come_from_a_file_and_the_command_line_wins(place: Path) -> None:
    (place / "run.toml").write_text(
        'name = "toml"\nhidden = 8\ndropout-input = 0.1\nval = 0.2\nsteps = 3\nthreads = 1\n'
    )
    done = charlm("train", "sums.txt", "--config", "run.toml", "--hidden", "12", "-q", cwd=place)
    assert done.returncode == 0, done.stderr
    config = json.loads(charlm("info", "toml", "--json", cwd=place).stdout)["config"]
    assert (config["hidden"], config["dropout_input"], config["val"], config["steps"]) == (12, 0.1, "0.2", 3)
    (place / "run.toml").write_text('name = "toml"\nforce = true\ntime = "10m"\n')
    done = charlm("train", "sums.txt", "--config", "run.toml", "--steps", "2", "-q", *SMALL, cwd=place)
    assert done.returncode == 0, done.stderr


def test_commands_that_are_suggested_can_be_pasted(place: Path) -> None:
    (place / "it's odd.txt").write_text(TEXT)
    done = charlm("train", "it's odd.txt", "--steps", "3", "-q", *SMALL, cwd=place)
    (suggested,) = re.findall(r"^sample +charlm (.*)$", done.stdout, re.MULTILINE)
    sampled = charlm(*shlex.split(suggested), "--length", "9", cwd=place)
    assert (sampled.returncode, len(sampled.stdout)) == (0, 9)


def test_standard_input_is_kept_so_that_the_run_stands_alone(place: Path) -> None:
    done = charlm("train", "-", "--steps", "3", "-q", *SMALL, cwd=place, stdin=TEXT)
    assert done.returncode == 0, done.stderr
    assert (place / "checkpoints/stdin/corpus.txt").read_text() == TEXT
    assert charlm("eval", "stdin", cwd=place).returncode == 0


def test_the_preset_is_the_lectures_demo_and_states_its_departures(place: Path) -> None:
    done = charlm(
        "train", "sums.txt", "--preset", "josef-k", "--name", "k", "--steps", "1", "--hidden", "16", cwd=place
    )
    assert "differs from the original" in done.stderr
    config: dict[str, Any] = json.loads(charlm("info", "k", "--json", cwd=place).stdout)["config"]
    wanted = {
        "cell": "lstm",
        "layers": 2,
        "embedding": 0,
        "dropout_between": 0.5,
        "dropout_input": 0,
        "dropout_output": 0,
    }
    assert {name: config[name] for name in wanted} == wanted


def test_control_characters_are_shown_on_a_terminal_and_exact_in_a_pipe(tmp_path: Path) -> None:
    (tmp_path / "esc.txt").write_text("\x1b[31mred\x1b[0m\u202e\n" * 60)
    options = ["--steps", "80", "--val", "0", "-q", *SMALL]
    assert charlm("train", "esc.txt", *options, cwd=tmp_path).returncode == 0
    assert "\x1b" in charlm("sample", "--length", "60", cwd=tmp_path).stdout
    with terminal() as screen, started("sample", "--length", "60", cwd=tmp_path, stdout=screen.side) as process:
        os.close(screen.side)
        shown = screen.read_until(lambda _: False)
        assert process.wait(PATIENCE) == 0
    assert "\x1b" not in shown
    assert "␛" in shown
    assert "⟨U+202E⟩" in shown


def test_help_names_every_command_and_completion_is_there(place: Path) -> None:
    shown = charlm("--help", cwd=place).stdout
    for name in ("train", "sample", "eval", "perplexity", "info", "verify", "data", "doctor", "--install-completion"):
        assert name in shown
    assert charlm("--version", cwd=place).stdout.startswith("charlm ")
    module = subprocess.run([sys.executable, "-m", "charlm", "--version"], capture_output=True, text=True, check=True)
    assert module.stdout == charlm("--version", cwd=place).stdout
    script = charlm("--show-completion", "bash", cwd=place, _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
    assert "charlm" in script.stdout
