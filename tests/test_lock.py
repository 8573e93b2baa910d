"""One holder at a time: by the system's lock, and by a file where a file system has no locks."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock
import pytest

from charlm.errors import StorageError
from charlm.storage import runs
from charlm.storage.lock import Held, held, is_held
from charlm.storage.runs import open_run, remove_empty

HOLDER = """
import os, sys
from pathlib import Path
import filelock
from charlm.storage.lock import held

def refuse(*_, **__):
    raise OSError(int(sys.argv[2]), "no locks")

if len(sys.argv) > 2:
    filelock.lock_descriptor = refuse
with held(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""
NO_LOCKS = [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP]


def refusing(number: int) -> Callable[..., bool]:
    def lock_descriptor(*_: object, **__: object) -> bool:
        raise OSError(number, os.strerror(number))

    return lock_descriptor


def free(path: Path) -> bool:
    try:
        with held(path):
            return True
    except Held:
        return False


@contextmanager
def another_process(*arguments: object) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-c", HOLDER, *map(str, arguments)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture(params=[None, *NO_LOCKS])
def system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[int, ...]:
    """What the file system answers to who wants a lock: nothing special, or an error."""
    if request.param is None:
        return ()
    monkeypatch.setattr(filelock, "lock_descriptor", refusing(request.param))
    return (request.param,)


@pytest.mark.usefixtures("system")
def test_a_lock_has_one_holder_until_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    for _ in range(2):
        with held(path):
            assert not free(path)
            assert not free(path)
        assert free(path)
    with pytest.raises(ZeroDivisionError), held(path):
        _ = 1 // 0
    assert free(path)
    assert free(tmp_path / ".other")
    assert sorted(os.listdir(tmp_path)) == [".lock", ".other"]


def test_a_killed_process_holds_nothing(tmp_path: Path, system: tuple[int, ...]) -> None:
    path = tmp_path / ".lock"
    with another_process(path, *system) as process:
        assert not free(path)
        process.kill()
        process.wait()
        assert free(path)


def test_a_lock_whose_file_was_removed_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its holder has removed the run's folder meanwhile; another process may have made it anew, and hold that lock."""
    path, real = tmp_path / ".lock", filelock.lock_descriptor

    def removed(descriptor: int, **options: bool) -> bool:
        path.unlink()
        return real(descriptor, **options)

    def replaced(descriptor: int, **options: bool) -> bool:
        path.unlink()
        path.touch()
        return real(descriptor, **options)

    for patch in (removed, replaced):
        monkeypatch.setattr(filelock, "lock_descriptor", patch)
        assert not free(path)


def test_looking_at_a_lock_neither_takes_it_nor_makes_it(
    tmp_path: Path, system: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / ".lock"
    assert not is_held(path)
    assert not list(tmp_path.iterdir())
    with another_process(path, *system) as process:
        for number in system:
            monkeypatch.setattr("fcntl.flock", refusing(number))
        assert is_held(path)
        assert is_held(path)
        process.kill()
        process.wait()
        assert not is_held(path)
        assert free(path)


def test_who_looks_at_the_moment_of_the_start_keeps_nobody_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lock is shared while another process looks: it is tried again."""
    answers, real = iter([False]), filelock.lock_descriptor
    monkeypatch.setattr(
        filelock, "lock_descriptor", lambda *a, **more: next(answers, None) is None and real(*a, **more)
    )
    assert free(tmp_path / ".lock")


def test_a_mark_that_cannot_be_judged_is_a_holder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there are no locks: of another machine, or half written."""
    path, mark = tmp_path / ".lock", tmp_path / ".lock.held"
    path.touch()
    monkeypatch.setattr("fcntl.flock", refusing(errno.ENOLCK))
    assert not is_held(path)
    for content in ("", "12", f"{os.getpid()}\n{socket.gethostname()}\n", "999999999\nanother machine\n"):
        mark.write_text(content)
        assert is_held(path), content
    mark.write_text(f"99999999999999999999999\n{socket.gethostname()}\n")
    assert not is_held(path)


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EINTR])
def test_other_errors_of_the_file_system_are_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(filelock, "lock_descriptor", refusing(number))
    run = open_run("book", str(tmp_path))
    with pytest.raises(StorageError, match=os.strerror(number)), run.locked():
        pytest.fail("nothing holds the run")


def test_where_open_files_cannot_be_removed_an_empty_run_goes_when_it_is_released(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on Windows, which is not there to be tried."""
    run, unlink, locked = open_run("book", str(tmp_path)), Path.unlink, True

    def refuse(path: Path, missing_ok: bool = False) -> None:
        if path.name == ".lock" and locked:
            raise PermissionError(errno.EACCES, "the file is in use")
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", refuse)
    monkeypatch.setattr(runs, "OPEN_FILES_STAY", True)
    with run.locked():
        remove_empty(run)
        assert run.folder.exists()
        locked = False
    assert not run.folder.exists()
