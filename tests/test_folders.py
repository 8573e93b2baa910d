"""A folder of texts with whatever else people keep in folders: the texts are read in order, the rest is named."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest
from odd import OBEYED, PLAIN, TINY, trained
from processes import charlm as command

import charlm
from charlm.errors import DataError, StorageError
from charlm.text import files
from charlm.text.corpus import load_corpus

LONG: Final = "Ten letters and some more of them."
NOBODY: Final = 65534


def written(path: Path, content: str | bytes) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


@contextmanager
def as_nobody() -> Iterator[Path]:
    """A folder of somebody whom permissions stop; as root, that somebody is who we are while the block runs."""
    with tempfile.TemporaryDirectory() as name:
        if os.geteuid() == 0:
            os.chown(name, NOBODY, NOBODY)
            os.seteuid(NOBODY)
        try:
            if not os.access(name, os.R_OK | os.W_OK | os.X_OK, effective_ids=True):
                pytest.skip("temporary files lie where only root may go")
            yield Path(name)
        finally:
            os.seteuid(os.getuid())  # first of all: whatever fails now, no other test may run as that somebody
            for path in sorted(Path(name).rglob("*")):
                if path.is_dir():
                    path.chmod(0o700)


@pytest.mark.fault(40)
def test_a_folder_is_read_recursively_in_the_order_of_paths(tmp_path: Path) -> None:
    for name in ("b.txt", "a/z.md", "a/b/deep", "c/.hidden", ".git/config", "a/.secret/x", "C.txt"):
        written(tmp_path / name, f"<{name}>\n")
    corpus = load_corpus([str(tmp_path)], "0")
    assert corpus.train == "<C.txt>\n<a/b/deep>\n<a/z.md>\n<b.txt>\n"
    assert [source.path for source in corpus.sources] == [
        str(tmp_path / n) for n in ("C.txt", "a/b/deep", "a/z.md", "b.txt")
    ]
    hidden = (".git", "a/.secret", "c/.hidden")
    assert corpus.remarks == tuple(f"skipped {tmp_path / name}: hidden" for name in hidden)


@pytest.mark.fault(40)
def test_what_a_folder_holds_beside_text_is_skipped_and_named(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    written(folder / "text.txt", LONG)
    skipped = {
        "run": "a charlm run",
        "interrupted": "a charlm run",
        "itself": "Too many levels of symbolic links",
        "there": "Too many levels of symbolic links",
        "linked pipe": "not a file",
        "linked device": "not a file",
        "latin": "not UTF-8 at byte 2",
        "picture": "binary",
        "pipe": "not a file",
        "socket": "not a file",
        "broken": "No such file or directory",
        "linked": "a link to a folder",
        "loop": "a link to a folder",
    }
    written(folder / "latin", "caf\xe9"[1:].encode("latin-1"))
    written(folder / "picture", b"PNG\0\x01\x02")
    os.mkfifo(folder / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(folder / "socket"))
    written(tmp_path / "elsewhere" / "more.txt", "not to be read")
    (folder / "broken").symlink_to(tmp_path / "nowhere")
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    (folder / "loop").symlink_to(folder)
    (folder / "itself").symlink_to(folder / "there")
    (folder / "there").symlink_to(folder / "itself")
    (folder / "linked pipe").symlink_to(folder / "pipe")
    (folder / "linked device").symlink_to("/dev/zero")
    written(folder / "run" / "last.safetensors", "ours")
    written(folder / "run" / "corpus.txt", "not to be read")
    written(folder / "interrupted" / "previous.safetensors", "ours")
    corpus = load_corpus([str(folder)], "0")
    assert corpus.train == LONG
    assert list(corpus.remarks) == sorted(f"skipped {folder / name}: {why}" for name, why in skipped.items())


@pytest.mark.fault(40)
def test_names_of_any_bytes_are_read_in_order(tmp_path: Path) -> None:
    names = [b"new\nline", b"\x1b]0;title\x07", b"latin\xe9", "\u202etxt".encode(), b"a" * 255, b"-", b" ", b"*", b"\\"]
    for number, name in enumerate(names):
        (tmp_path / os.fsdecode(name)).write_text(f"<{number}>\n")
    corpus = load_corpus([str(tmp_path)], "0")
    assert corpus.train == "".join(f"<{number}>\n" for number in sorted(range(9), key=lambda k: os.fsdecode(names[k])))
    assert len(corpus.sources) == 9
    assert corpus.remarks == ()


@pytest.mark.fault(40)
@pytest.mark.parametrize(
    ("name", "depth", "readable"), [("d", 1100, True), ("long" * 60, 16, True), ("long" * 60, 17, False)]
)
def test_nesting_is_followed_as_deep_as_paths_can_be_long(
    tmp_path: Path, name: str, depth: int, readable: bool
) -> None:
    here = os.open(tmp_path, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir(name, dir_fd=here)
        here, above = os.open(name, os.O_RDONLY, dir_fd=here), here
        os.close(above)
    text = os.open("t", os.O_CREAT | os.O_WRONLY, dir_fd=here)
    os.write(text, b"deep\n")
    os.close(text)
    os.close(here)
    written(tmp_path / "text.txt", LONG)
    corpus = load_corpus([str(tmp_path)], "0")
    assert corpus.train == "deep\n" * readable + LONG
    assert [remark.endswith(f"/{name}: File name too long") for remark in corpus.remarks] == [True] * (not readable)
    subprocess.run(["find", str(tmp_path / name), "-delete"], check=True)  # pytest could not


@pytest.mark.fault(40)
def test_what_vanishes_while_a_folder_is_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between listing and asking what it is, and between that and reading, for a file and for a folder."""
    written(tmp_path / "a.txt", LONG)
    written(tmp_path / "folder" / "b.txt", "gone with its folder")
    listed = os.listdir
    monkeypatch.setattr(
        os, "listdir", lambda path: [*listed(path), "listed"] if str(path) == str(tmp_path) else nothing()
    )
    opened = lambda path, mode: nothing() if path.endswith("late.txt") else open(path, mode)  # noqa: E731, SIM115
    monkeypatch.setattr(files, "open", opened, raising=False)

    def nothing() -> list[str]:
        raise FileNotFoundError(2, "No such file or directory")

    written(tmp_path / "late.txt", LONG)
    corpus = load_corpus([str(tmp_path)], "0")
    assert corpus.train == LONG
    gone = [f"skipped {tmp_path / name}: No such file or directory" for name in ("folder", "late.txt", "listed")]
    assert list(corpus.remarks) == gone


@pytest.mark.fault(40)
def test_links_to_files_are_read_and_a_link_to_a_folder_when_it_is_named(tmp_path: Path) -> None:
    written(tmp_path / "real" / "a.txt", LONG)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "link.txt").symlink_to(tmp_path / "real" / "a.txt")
    (tmp_path / "named").symlink_to(tmp_path / "real")
    assert load_corpus([str(tmp_path / "folder"), str(tmp_path / "named")], "0").train == LONG * 2


@pytest.mark.fault(40)
def test_what_may_not_be_read_is_named() -> None:
    """A file, a folder that cannot be listed, and one that can be listed but not entered."""
    with as_nobody() as folder:
        written(folder / "text.txt", LONG)
        Path(written(folder / "closed.txt", LONG)).chmod(0)
        for name, mode in (("locked", 0), ("listed", 0o444), ("blind", 0o111)):
            written(folder / name / "inside.txt", LONG)
            (folder / name).chmod(mode)
        refused = [folder / name for name in ("blind", "closed.txt", "listed/inside.txt", "locked")]
        corpus = load_corpus([str(folder)], "0")
        assert corpus.train == LONG
        assert list(corpus.remarks) == [f"skipped {path}: Permission denied" for path in refused]
        with pytest.raises(StorageError, match=r"cannot read .*closed\.txt: Permission denied"):
            load_corpus([str(folder / "closed.txt")], "0")
        with pytest.raises(DataError, match=r"locked contains no text files; skipped .*locked: Permission denied"):
            load_corpus([str(folder / "locked")], "0")


@pytest.mark.fault(40)
def test_a_folder_without_text_is_bad_data_and_says_what_it_holds(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"contains no text files; nothing was written"):
        load_corpus([str(tmp_path)], "0")
    written(tmp_path / "picture", b"\0\1")
    with pytest.raises(DataError, match=r"contains no text files; skipped .*/picture: binary; nothing was written"):
        load_corpus([str(tmp_path)], "0")
    written(tmp_path / "latin", b"\xe9")
    with pytest.raises(DataError, match=r"no text files; skipped .*/latin: not UTF-8 at byte 0 and 1 more; nothing"):
        load_corpus([str(tmp_path)], "0")


@pytest.mark.fault(40)
def test_the_texts_of_a_folder_are_learned_and_the_rest_is_named_a_line_each(tmp_path: Path) -> None:
    """Through the command line; nothing waits for the pipe or reads the device, and names stay on their lines."""
    folder = tmp_path / "all sorts"
    texts = {
        os.fsdecode(name): number for number, name in enumerate([b"a\n\x1b]0;b\x07", b"caf\xe9", b"z.txt", b"deep"])
    }
    for name, number in texts.items():
        path = folder / name / "text" if name == "deep" else folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"<{number}>" * 40)
    trained(folder, PLAIN, "z")
    (folder / "z.txt").write_text("<2>" * 40)
    (folder / "empty").mkdir()
    (folder / "binary\n\x1b[6n").write_bytes(b"\x7fELF\0")
    (folder / "latin\u202e").write_bytes(b"caf\xe9 au lait")
    os.mkfifo(folder / "pipe\udcff")
    (folder / "loop").symlink_to(folder)
    (folder / "device").symlink_to("/dev/zero")
    (folder / "lost").symlink_to("nowhere")
    (folder / ".hidden").write_text("hidden")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(folder / "socket"))
    done = command("train", str(folder), "--name", "all", "--val", "0", *TINY, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    expected = [
        ".hidden: hidden",
        "binary␊␛[6n: binary",
        "checkpoints/z: a charlm run",
        "device: not a file",
        "latin⟨U+202E⟩: not UTF-8 at byte 3",
        "loop: a link to a folder",
        "lost: No such file or directory",
        "pipe⟨U+DCFF⟩: not a file",
        "socket: not a file",
    ]
    said: Sequence[str] = [line for line in done.stderr.split("\n") if "skipped" in line]
    assert said == [f"note: skipped {folder}/{what}" for what in expected]
    assert not OBEYED.search(done.stderr)
    info = json.loads(command("info", "all", "--json", cwd=tmp_path).stdout)["result"]
    assert info is not None
    model = charlm.load("all", checkpoints=tmp_path / "checkpoints")
    order = sorted(texts, key=lambda name: str(folder / name))
    assert model.checkpoint.corpus.train_characters == 4 * 120
    recorded = [source.path for source in model.checkpoint.corpus.sources]
    assert recorded == [str(folder / name / "text" if name == "deep" else folder / name) for name in order]
