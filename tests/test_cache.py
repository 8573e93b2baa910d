"""The user's cache: whose folder it is, and what is remembered in it."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charlm.runtime import cache
from charlm.runtime.cache import cache_folder, recall, remember


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_folder_is_made_for_its_owner_alone(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_folder() == home / ".cache/charlm"
    assert mode(home / ".cache/charlm") == 0o700
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "other"))
    assert cache_folder() == home / "other/charlm"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # which its specification says to ignore
    assert cache_folder() == home / ".cache/charlm"


@pytest.mark.parametrize("before", [0o755, 0o777, 0o500])
def test_a_folder_that_others_may_use_is_closed_to_them(home: Path, before: int) -> None:
    folder = home / ".cache/charlm"
    folder.mkdir(parents=True)
    folder.chmod(before)
    assert cache_folder() == folder
    assert mode(folder) == 0o700


@pytest.mark.parametrize("link", [False, True])
def test_a_folder_of_another_user_is_not_used(home: Path, monkeypatch: pytest.MonkeyPatch, link: bool) -> None:
    folder = home / ".cache/charlm"
    folder.parent.mkdir()
    if link:
        (home / "target").mkdir(mode=0o755)
        folder.symlink_to(home / "target")
    assert cache_folder() == folder
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert cache_folder() is None


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give a file away")
def test_a_link_that_another_user_has_put_there_is_not_followed(home: Path) -> None:
    folder, mine = home / ".cache/charlm", home / "mine"
    folder.parent.mkdir()
    mine.mkdir(mode=0o755)
    folder.symlink_to(mine)
    os.chown(folder, 12345, 12345, follow_symlinks=False)
    assert cache_folder() is None
    assert mode(mine) == 0o755


def test_where_there_are_no_owners_the_folder_is_used_as_it_is(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "geteuid", raising=False)
    assert cache_folder() == home / ".cache/charlm"


@pytest.mark.parametrize("where", ["/", "", "relative", "/dev/null", "/proc/self"])
def test_without_a_place_for_it_there_is_none_and_nothing_fails(
    home: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    monkeypatch.chdir(home)
    monkeypatch.setenv("HOME", where)
    assert cache_folder() is None
    remember("speed", "key", 1)
    assert recall("speed", "key") is None
    assert list(home.iterdir()) == []


def test_a_user_whom_the_system_does_not_know_has_no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", unknown)
    assert cache_folder() is None


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(facts=st.dictionaries(st.text(), VALUES, max_size=8))
def test_what_is_remembered_is_recalled(tmp_path_factory: pytest.TempPathFactory, facts: dict[str, object]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        for key, value in facts.items():
            remember("facts", key, None)
            remember("facts", key, value)
        assert {key: recall("facts", key) for key in facts} == facts
        assert recall("others", "key") is None
        folder = cache_folder()
        assert folder is not None
        assert os.listdir(folder) in ([], ["facts.json"])


def test_another_process_recalls_it(home: Path) -> None:
    remember("facts", "answer", [42, "é"])
    code = "from charlm.runtime.cache import recall; print(ascii(recall('facts', 'answer')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == ascii([42, "é"]) + "\n"
    assert mode(home / ".cache/charlm") == 0o700


@pytest.mark.parametrize(
    "damage", [b"", b"{", b"[1]", b'"text"', b"\xff\xfe", b"[" * 100_000, b" " * 2**21, b'{"answer": 4'], ids=range(8)
)
def test_a_damaged_file_holds_nothing_and_is_replaced(home: Path, damage: bytes) -> None:
    remember("facts", "answer", 42)
    file = home / ".cache/charlm/facts.json"
    file.write_bytes(damage)
    assert recall("facts", "answer") is None
    remember("facts", "answer", 43)
    assert recall("facts", "answer") == 43


def test_only_the_newest_facts_are_kept(home: Path) -> None:
    for number in range(100):
        remember("facts", "first", "kept by being renewed")
        remember("facts", str(number), number)
    assert recall("facts", "first") == "kept by being renewed"
    assert (recall("facts", "99"), recall("facts", "1")) == (99, None)
    assert len(json.loads((home / ".cache/charlm/facts.json").read_bytes())) < 100


def test_what_is_no_json_is_not_remembered_and_a_full_disk_is_no_error(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remember("facts", "answer", 42)
    for value in (float("nan"), {1, 2}, object()):
        remember("facts", "answer", value)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    remember("facts", "answer", 43)
    assert recall("facts", "answer") == 42
    assert os.listdir(home / ".cache/charlm") == ["facts.json"]
    with pytest.raises(OSError, match="No space"):
        cache.replace(home / "x", b"x")
