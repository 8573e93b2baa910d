"""A file is written whole or not at all, whichever step fails and however."""

from __future__ import annotations

import errno
import itertools
import os
import resource
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from charlm.errors import StorageError
from charlm.storage.durable import write_durably

OLDER, OLD, NEW = b"the content before last", b"the last content " * 500, b"the content to be " * 9000
STEPS = ("open", "fsync", "replace", "link", "read")
Watch = Callable[[], None]


class Disk:
    """A folder with two files, and a hand on every step that a writer takes: `fail` makes the n-th call of one fail."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.path, self.keep = folder, folder / "file", folder / "kept"
        self.failing: tuple[str, int, int] | None = None
        self.calls: list[str] = []
        self.watch: Watch = lambda: None
        for name in STEPS[:-1]:
            monkeypatch.setattr(os, name, self._wrapped(name, getattr(os, name)))
        monkeypatch.setattr(Path, "read_bytes", self._wrapped("read", Path.read_bytes))

    def _wrapped(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def step(*args: Any, **kwargs: Any) -> Any:
            self.calls.append(name)
            self.watch()
            if self.failing is not None and self.failing[:2] == (name, self.calls.count(name)):
                raise OSError(self.failing[2], os.strerror(self.failing[2]))
            return real(*args, **kwargs)

        return step

    def fill(self) -> None:
        for path, content in ((self.path, OLD), (self.keep, OLDER)):
            path.unlink(missing_ok=True)
            with open(path, "wb") as file:
                file.write(content)
        self.calls.clear()

    def fail(self, name: str, number: int, code: int) -> None:
        self.fill()
        self.failing = (name, number, code)

    def contents(self) -> dict[str, bytes]:
        """Every file there is, hidden ones as well, read past the hand."""
        found = {}
        for name in os.listdir(self.folder):
            with open(self.folder / name, "rb") as file:
                found[name] = file.read()
        return found


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(tmp_path, monkeypatch)


def attempt(disk: Disk, kept: bool) -> str:
    """What the writer's error says; nothing when there is none."""
    try:
        write_durably(disk.path, NEW, keep=disk.keep if kept else None)
    except StorageError as error:
        return str(error)
    return ""


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """The system itself refuses to let a file grow beyond `size`, in the middle of a write."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


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
    disk: Disk, name: str, code: int, kept: bool
) -> None:
    for number in itertools.count(1):
        disk.fail(name, number, code)
        said = attempt(disk, kept)
        if disk.calls.count(name) < number:  # there is no such call any more: all have failed once
            break
        found = disk.contents()
        assert sorted(found) == ["file", "kept"]
        if not said:
            assert name == "link"  # the one failure that there is a way around
            assert found == {"file": NEW, "kept": OLD}
            continue
        assert os.strerror(code) in said
        unchanged = "what was there is unchanged" in said
        assert unchanged != ("file is written, but may not outlive a power failure" in said)
        assert found["file"] == (OLD if unchanged else NEW)
        assert found["kept"] in ((OLDER, OLD) if kept else (OLDER,))
    assert not said
    assert disk.contents() == {"file": NEW, "kept": OLD if kept else OLDER}
    assert (number > 1) == (kept or name != "link")


def test_at_every_step_both_files_are_whole(disk: Disk) -> None:
    def watch() -> None:
        found = disk.contents()
        assert found["file"] in (OLD, NEW)
        assert found["kept"] in (OLDER, OLD)
        assert {found["file"], found["kept"]} & {OLD, NEW}

    disk.fill()
    disk.watch = watch
    write_durably(disk.path, NEW, keep=disk.keep)
    assert set(disk.calls) == set(STEPS)


def test_the_content_is_flushed_before_the_rename_and_the_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    fsync, replace = os.fsync, os.replace

    def flush(descriptor: int) -> None:
        state = os.fstat(descriptor)
        order.append("folder" if stat.S_ISDIR(state.st_mode) else f"{state.st_size} bytes")
        fsync(descriptor)

    def rename(source: Path, target: Path) -> None:
        order.append("rename")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", flush)
    monkeypatch.setattr(os, "replace", rename)
    write_durably(tmp_path / "file", NEW)
    assert order == [f"{len(NEW)} bytes", "rename", "folder"]


def test_a_full_disk_in_the_middle_of_a_write_changes_nothing(disk: Disk) -> None:
    disk.fill()
    with largest_file(len(NEW) // 2), pytest.raises(StorageError, match="unchanged"):
        write_durably(disk.path, NEW, keep=disk.keep)
    assert disk.contents() == {"file": OLD, "kept": OLDER}


def test_a_disk_that_gives_back_other_bytes_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_bytes(OLD)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", lambda _: NEW[:-1] + b"?")
        with pytest.raises(StorageError, match="read back differs"):
            write_durably(path, NEW)
    assert path.read_bytes() == OLD
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("code", [errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.EXDEV])
def test_without_hard_links_the_old_content_is_copied(disk: Disk, code: int) -> None:
    disk.fail("link", 1, code)
    write_durably(disk.path, NEW, keep=disk.keep)
    assert disk.contents() == {"file": NEW, "kept": OLD}


def test_a_full_disk_without_hard_links_changes_nothing(disk: Disk) -> None:
    disk.fail("link", 1, errno.EPERM)
    with largest_file(len(OLD) // 2), pytest.raises(StorageError, match="unchanged"):
        write_durably(disk.path, b"short", keep=disk.keep)
    assert disk.contents() == {"file": OLD, "kept": OLDER}


@pytest.mark.parametrize("name", ["open", "fsync"])
@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP, errno.EACCES])
def test_a_folder_that_cannot_be_flushed_is_tolerated(disk: Disk, name: str, code: int) -> None:
    disk.fail(name, 2, code)  # the first is the file's own
    write_durably(disk.path, NEW)
    assert disk.calls.count(name) == 2
    assert disk.contents() == {"file": NEW, "kept": OLDER}


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
