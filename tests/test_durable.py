"""A file is written whole or not at all, whichever step fails and however."""

from __future__ import annotations

import errno
import importlib
import itertools
import os
import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from disk import Disk, Hand
from matrix import Tries
from victims import limit_files

from charlm.errors import StorageError
from charlm.storage import durable
from charlm.storage.durable import append, flush, make_folder, write_durably

OLDER, OLD, NEW = b"the content before last", b"the last content " * 500, b"the content to be " * 9000
Writer = Callable[..., bool]
SHORT = b"a whole checkpoint" * 111
STEPS = ("open", "write", "fsync", "read", "link", "replace", "unlink")


class Folder:
    """A folder with two files, and a hand on every step that a writer takes: `fail` makes the n-th call of one fail."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.path, self.keep = folder, folder / "file", folder / "kept"
        self.hand = Hand()
        monkeypatch.setattr(durable, "os", self.hand)

    def fill(self) -> None:
        for path, content in ((self.path, OLD), (self.keep, OLDER)):
            path.unlink(missing_ok=True)
            path.write_bytes(content)
        self.hand.calls.clear()
        self.hand.before = lambda _: None

    def fail(self, name: str, number: int, code: int) -> None:
        self.fill()

        def before(called: str) -> None:
            if called == name and self.hand.calls.count(name) == number:
                raise OSError(code, os.strerror(code))

        self.hand.before = before

    def contents(self) -> dict[str, bytes]:
        """Every file there is, hidden ones as well."""
        return {path.name: path.read_bytes() for path in self.folder.iterdir()}


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    return Folder(tmp_path, monkeypatch)


def attempt(disk: Folder, kept: bool) -> str:
    """What the writer's error says; nothing when there is none."""
    try:
        write_durably(disk.path, NEW, keep=disk.keep if kept else None)
    except StorageError as error:
        return str(error)
    return ""


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Within the block, see `limit_files`."""
    limits, uncompiled = resource.getrlimit(resource.RLIMIT_FSIZE), sys.dont_write_bytecode
    limit_files(size)
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        sys.dont_write_bytecode = uncompiled


def test_no_module_is_kept_half_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    monkeypatch.setattr(sys, "pycache_prefix", None)
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("before", "meanwhile"):
        (tmp_path / f"half_compiled_{name}.py").write_text(f"text = {'x' * 9999!r}\n")
    importlib.import_module("half_compiled_before")
    with largest_file(100):
        importlib.import_module("half_compiled_meanwhile")
    compiled = [path.name.split(".")[0] for path in tmp_path.glob("**/*.pyc")]
    assert compiled == ["half_compiled_before"]


@pytest.mark.parametrize("data", [b"", b"x", b"\r\n\0\xff", NEW])
def test_what_is_written_is_what_is_there(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "file"
    for before in (None, OLD, b""):
        if before is not None:
            path.write_bytes(before)
        write_durably(path, data)
        assert path.read_bytes() == data
        assert list(tmp_path.iterdir()) == [path]


def test_keep_holds_what_was_there_before(tmp_path: Path) -> None:
    path, keep = tmp_path / "file", tmp_path / "kept"
    write_durably(path, OLDER, keep=keep)
    assert not keep.exists()
    for before, now in ((OLDER, OLD), (OLD, NEW), (NEW, NEW)):
        write_durably(path, now, keep=keep)
        assert (keep.read_bytes(), path.read_bytes()) == (before, now)
    assert sorted(tmp_path.iterdir()) == [path, keep]


def test_whoever_reads_on_reads_the_content_from_before(tmp_path: Path) -> None:
    path, keep = tmp_path / "file", tmp_path / "kept"
    path.write_bytes(OLD)
    keep.write_bytes(OLDER)
    with path.open("rb") as reader, keep.open("rb") as another:
        write_durably(path, NEW, keep=keep)
        assert (reader.read(), another.read()) == (OLD, OLDER)


def test_changing_the_file_leaves_what_is_kept(tmp_path: Path) -> None:
    path, keep = tmp_path / "file", tmp_path / "kept"
    write_durably(path, OLD)
    write_durably(path, NEW, keep=keep)
    with path.open("r+b") as file:
        file.write(b"torn")
    assert keep.read_bytes() == OLD


@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EROFS])
@pytest.mark.parametrize("name", STEPS)
def test_whichever_call_fails_the_old_content_stays_and_nothing_else_is_left(
    disk: Folder, name: str, code: int, kept: bool
) -> None:
    for number in itertools.count(1):
        disk.fail(name, number, code)
        said = attempt(disk, kept)
        if disk.hand.calls.count(name) < number:  # there is no such call any more: all have failed once
            break
        found = disk.contents()
        assert sorted(found) == ["file", "kept"]
        if not said:
            assert name == "link"  # the one failure that there is a way around
            assert found == {"file": NEW, "kept": OLD}
            continue
        assert os.strerror(code) in said
        unchanged = "what was there is unchanged" in said
        assert unchanged != ("file is written, but may not survive a power failure" in said)
        assert found["file"] == (OLD if unchanged else NEW)
        assert found["kept"] in ((OLDER, OLD) if kept else (OLDER,))
    assert not said
    assert disk.contents() == {"file": NEW, "kept": OLD if kept else OLDER}
    assert (number > 1) == (kept or name not in ("link", "unlink"))


def test_at_every_step_both_files_are_whole(disk: Folder) -> None:
    def watch(_: str) -> None:
        found = disk.contents()
        assert found["file"] in (OLD, NEW)
        assert found["kept"] in (OLDER, OLD)
        assert {found["file"], found["kept"]} & {OLD, NEW}

    disk.fill()
    disk.hand.before = watch
    write_durably(disk.path, NEW, keep=disk.keep)
    assert set(disk.hand.calls) - {"close"} == set(STEPS)


def test_a_full_disk_in_the_middle_of_a_write_changes_nothing(disk: Folder) -> None:
    disk.fill()
    with largest_file(len(NEW) // 2), pytest.raises(StorageError, match="unchanged"):
        write_durably(disk.path, NEW, keep=disk.keep)
    assert disk.contents() == {"file": OLD, "kept": OLDER}


def test_a_disk_that_gives_back_other_bytes_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_bytes(OLD)
    for given in (NEW[:-1] + b"?", NEW[:-1], NEW + b"?", b""):
        parts = iter([given, b""])
        with monkeypatch.context() as patch:
            hand = Hand()
            hand.read = lambda *_, parts=parts: next(parts)  # type: ignore[attr-defined]
            patch.setattr(durable, "os", hand)
            with pytest.raises(StorageError, match="read back differs"):
                write_durably(path, NEW)
    assert path.read_bytes() == OLD
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("code", [errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.EXDEV])
def test_without_hard_links_the_old_content_is_copied(disk: Folder, code: int) -> None:
    disk.fail("link", 1, code)
    write_durably(disk.path, NEW, keep=disk.keep)
    assert disk.contents() == {"file": NEW, "kept": OLD}


def test_a_full_disk_without_hard_links_changes_nothing(disk: Folder) -> None:
    disk.fail("link", 1, errno.EPERM)
    with largest_file(len(OLD) // 2), pytest.raises(StorageError, match="unchanged"):
        write_durably(disk.path, b"short", keep=disk.keep)
    assert disk.contents() == {"file": OLD, "kept": OLDER}


@pytest.mark.fault(10)
@pytest.mark.parametrize("name", ["open", "fsync"])
@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP, errno.EACCES])
def test_a_folder_that_cannot_be_flushed_is_tolerated(disk: Folder, name: str, code: int) -> None:
    last = {"open": 3, "fsync": 2}[name]  # before it the file's own: written, and for open read back
    disk.fail(name, last, code)
    assert not write_durably(disk.path, NEW)
    assert disk.hand.calls.count(name) == last
    disk.fill()
    assert write_durably(disk.path, NEW)
    assert disk.contents() == {"file": NEW, "kept": OLDER}


CHECKPOINTS = [f"checkpoint {number} ".encode() * (40 + number) for number in range(4)]


def saved_often(folder: Path, disk: Disk, tries: Tries, write: Writer) -> None:
    """Rows and checkpoints as a run writes them, with a power failure at every moment of it."""
    last, previous, metrics = folder / "last", folder / "previous", folder / "metrics"
    done, doing, length = -1, -1, 0
    lengths = {-1: 0}

    def fail() -> None:
        for found in disk.after_power_loss():
            there = {name: CHECKPOINTS.index(found[name]) for name in ("last", "previous") if name in found}
            assert there.get("last", done) in (done, doing), "neither the old checkpoint nor the new one"
            assert "last" in there or done < 0
            assert there.get("previous", done) <= max(done, 0)
            assert len(found.get("metrics", b"")) >= lengths[there.get("last", -1)], "rows are missing"
            tries.survived()

    disk.moments = fail
    for doing, data in enumerate(CHECKPOINTS):
        lengths[doing] = length
        flush(metrics)
        write(last, data, keep=previous)
        done = doing
        fail()
        for _ in range(2):
            length = append(metrics, b"a row of metrics\n")


@pytest.mark.fault(6)
@pytest.mark.parametrize("links", [True, False])
def test_after_a_power_failure_the_old_or_the_new_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tries: Tries, links: bool
) -> None:
    hand = Hand()
    monkeypatch.setattr(durable, "os", hand)
    if not links:
        hand.link = _no_links  # type: ignore[attr-defined]
    saved_often(tmp_path, Disk(str(tmp_path), hand), tries, write_durably)
    assert tries.count > 500


def _no_links(*_: object) -> None:
    raise OSError(errno.EPERM, "no links here")


@pytest.mark.parametrize("missing", ["file", "folder", "order", "rows"])
def test_a_writer_that_forgets_to_flush_does_not_survive_a_power_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    """Without which the test above would prove nothing."""
    hand = Hand()
    monkeypatch.setattr(durable, "os", hand)
    disk = Disk(str(tmp_path), hand)
    fsync = disk._fsync

    def forgetful(result: None, descriptor: int) -> None:
        name = disk.open[descriptor]
        kind = "folder" if name not in disk.names else "rows" if name == "metrics" else "file"
        if kind != missing:
            fsync(result, descriptor)

    def renamed_first(path: Path, data: bytes, *, keep: Path | None = None) -> bool:
        write_durably(path.with_name("other"), b"", keep=None)
        os.replace(path.with_name("other"), path)
        disk._replace(None, path.with_name("other"), path)
        return write_durably(path, data, keep=keep)

    monkeypatch.setattr(disk, "_fsync", forgetful)
    with pytest.raises((AssertionError, ValueError)):  # ValueError: what is there is no checkpoint at all
        saved_often(tmp_path, disk, Tries([]), renamed_first if missing == "order" else write_durably)


def test_a_folder_is_made_with_all_above_it_and_each_is_flushed_into_the_one_above(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hand = Hand()
    monkeypatch.setattr(durable, "os", hand)
    make_folder(tmp_path / "a" / "b" / "c")
    assert (tmp_path / "a/b/c").is_dir()
    assert [name for name in hand.calls if name in ("mkdir", "fsync")] == ["mkdir", "fsync"] * 3
    make_folder(tmp_path / "a" / "b")
    assert hand.calls.count("mkdir") == 3
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="Not a directory"):
        make_folder(tmp_path / "file" / "d")


def test_rows_are_appended_and_a_missing_file_is_made(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    flush(path)
    assert path.read_bytes() == b""
    assert [append(path, row) for row in (b"one\n", b"", b"two\n")] == [4, 4, 8]
    flush(path)
    assert path.read_bytes() == b"one\ntwo\n"


@pytest.mark.fault(7)
def test_a_disk_that_is_full_at_any_byte_changes_nothing(disk: Folder, tries: Tries) -> None:
    for size in range(len(SHORT)):
        disk.fill()
        with largest_file(size), pytest.raises(StorageError, match="unchanged") as raised:
            write_durably(disk.path, SHORT, keep=disk.keep)
        assert raised.value.exit_code == 74
        assert disk.contents() == {"file": OLD, "kept": OLDER}
        tries.survived()
    with largest_file(len(SHORT)):
        assert write_durably(disk.path, SHORT, keep=disk.keep)
    assert disk.contents() == {"file": SHORT, "kept": OLD}


@pytest.mark.parametrize("where", ["missing/file", "plain/file", "folder", "x" * 256])
def test_a_place_that_cannot_be_written_is_an_output_error(tmp_path: Path, where: str) -> None:
    (tmp_path / "plain").write_bytes(OLD)
    (tmp_path / "folder").mkdir()
    with pytest.raises(StorageError, match=r"cannot write .*; what was there is unchanged"):
        write_durably(tmp_path / where, NEW)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "plain"]
    assert (tmp_path / "plain").read_bytes() == OLD


@pytest.mark.skipif(os.geteuid() == 0, reason="no permission stops root")
def test_a_read_only_folder_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(OLD)
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(StorageError, match="Permission denied"):
            write_durably(tmp_path / "file", NEW)
        assert (tmp_path / "file").read_bytes() == OLD
    finally:
        tmp_path.chmod(0o700)
