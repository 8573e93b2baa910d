"""Outputs are checked before any work, and written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from charlm.cli.outputs import Screen, check_outputs, check_picture
from charlm.errors import ConfigError, StorageError

SCREEN = Screen(quiet=True, color=False)


def test_files_that_can_be_written_pass(tmp_path: Path) -> None:
    (tmp_path / "old").write_text("old")
    (tmp_path / "in").write_text("in")
    check_outputs([str(tmp_path / "old"), str(tmp_path / "new")], [str(tmp_path / "in"), "-"])
    check_outputs([], ["-"])
    assert (tmp_path / "old").read_text() == "old"
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("outputs", "inputs", "kind", "words"),
    [
        (["a", "./a"], [], ConfigError, "two outputs have the same name: a, ./a"),
        (["a"], ["b", "sub/../a"], ConfigError, "a is an input and an output"),
        (["link"], ["a"], ConfigError, "link is an input and an output"),
        (["a"], ["link"], ConfigError, "a is an input and an output"),
        (["none/a"], [], StorageError, "cannot write none/a: no such folder"),
        (["sub"], [], StorageError, "cannot write sub: it is a folder"),
    ],
)
def test_files_that_could_not_be_written_or_would_destroy_an_input_are_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    outputs: list[str],
    inputs: list[str],
    kind: type[Exception],
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    (tmp_path / "a").write_text("a")
    (tmp_path / "link").symlink_to("a")
    with pytest.raises(kind, match=f"^{words}; nothing was written"):
        check_outputs(outputs, inputs)


def test_a_picture_is_png_or_svg() -> None:
    check_picture("--plot", "p.PNG")
    with pytest.raises(ConfigError, match=r"--plot must end in \.png or \.svg, not p\.pdf"):
        check_picture("--plot", "p.pdf")


def test_a_file_is_replaced_through_a_link_and_a_pipe_is_written_to(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to("real")
    SCREEN.write_file(str(tmp_path / "link"), b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"new"
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    try:
        SCREEN.write_file(str(tmp_path / "pipe"), b"piped")
        assert os.read(reader, 9) == b"piped"
    finally:
        os.close(reader)


def test_what_goes_where(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen(quiet=False, color=False)
    screen.json("test", loss=None)
    screen.note("one\nline")
    screen.note_model(None, Path("checkpoints/a/best.safetensors"))
    out, err = capsys.readouterr()
    assert out == '{"schema": "charlm.test/1", "loss": null}\n'
    assert err == "one␊line\nusing the newest run: checkpoints/a/best.safetensors\n"
    with pytest.raises(ValueError, match="JSON"):
        screen.json("test", loss=float("nan"))
