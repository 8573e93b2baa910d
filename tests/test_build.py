"""Where the compiled decoder comes from: the compiler, the kept file, and what happens without either."""

from __future__ import annotations

import ctypes
import os
import pwd
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile import made
from oracles import fresh_kernel

from charlm.cli.main import run
from charlm.errors import ConfigError
from charlm.generation import build
from charlm.generation.build import NoKernel, kernel
from charlm.generation.compiled import CompiledDecoder
from charlm.generation.decoder import NumpyDecoder
from charlm.generation.engine import open_decoder
from charlm.storage.checkpoint import save_checkpoint

# Copies a compiled kernel to where the last but one argument says, and notes each call.
COPYING = """
import shutil, sys
with open({calls!r}, "a") as file:
    file.write("called\\n")
shutil.copy({compiled!r}, sys.argv[-2])
"""


class Compiler:
    """A compiler that is there at once: its result was compiled before."""

    def __init__(self, folder: Path, compiled: Path) -> None:
        folder.mkdir()
        self.script, self.log, self.compiled = folder / "compiler.py", folder / "calls", compiled
        self.script.write_text(COPYING.format(calls=str(self.log), compiled=str(compiled)))
        self.log.touch()

    @property
    def command(self) -> str:
        return shlex.join([sys.executable, "-S", str(self.script)])

    @property
    def calls(self) -> int:
        return self.log.read_text().count("called")


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The kernel of this machine as a file; without a cache of its own, the file might be gone when it is loaded."""
    folder = tmp_path_factory.mktemp("kernel")
    path = folder / "kernel.so"
    with pytest.MonkeyPatch.context() as patch, fresh_kernel():
        patch.setenv("XDG_CACHE_HOME", str(folder))
        path.write_bytes(Path(kernel().code._name).read_bytes())
    return path


@pytest.fixture
def compiler(tmp_path: Path, compiled: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Compiler]:
    """A compiler, an empty cache, and an empty folder for temporary files."""
    found = Compiler(tmp_path / "bin", compiled)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("CC", found.command)
    with fresh_kernel():
        yield found
        assert list((tmp_path / "tmp").iterdir()) == []


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache/charlm"


def again() -> build.Kernel:
    """The kernel as another process would find it."""
    build._found.cache_clear()
    return kernel()


def decoder(engine: str = "auto") -> Any:
    checkpoint = made()
    return open_decoder(checkpoint.config.model, checkpoint.weights, engine=engine)


def works() -> bool:
    """Whether the compiled decoder is used, and agrees with NumPy's."""
    first, second = decoder(), decoder("numpy")
    one, other = (each.step([0], each.init_state(1))[0] for each in (first, second))
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    return isinstance(first, CompiledDecoder)


def test_what_was_compiled_is_kept_for_the_next_time(compiler: Compiler, cache: Path) -> None:
    assert works()
    digest = kernel().digest
    assert again().digest == digest
    assert compiler.calls == 1
    (kept,) = cache.iterdir()
    assert kept.read_bytes() == compiler.compiled.read_bytes()
    assert kept.stem.endswith(digest)
    assert cache.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("damage", ["empty", "cut", "shorter by one", "one bit", "text", "another library"])
def test_a_damaged_kept_file_is_compiled_again(compiler: Compiler, cache: Path, damage: str) -> None:
    """Loading a file that was cut off would end the process by a signal."""
    kernel()
    (kept,) = cache.iterdir()
    whole = kept.read_bytes()
    kept.unlink()  # the one that is loaded into this process stays as it is
    kept.write_bytes(
        {
            "empty": b"",
            "cut": whole[:5000],
            "shorter by one": whole[:-1],
            "one bit": whole[:9000] + bytes([whole[9000] ^ 1]) + whole[9001:],
            "text": b"hello",
            "another library": Path(ctypes.__file__).read_bytes(),
        }[damage]
    )
    build._found.cache_clear()
    assert works()
    assert compiler.calls == 2
    assert [path.read_bytes() for path in cache.iterdir()] == [whole]


@pytest.mark.parametrize("home", ["/", "", "/dev/null", None])
def test_without_a_cache_folder_it_is_compiled_for_this_process(
    compiler: Compiler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: str | None
) -> None:
    """No home folder: for a user whom the system does not know there is not even a variable."""

    def unknown(number: int) -> None:
        raise KeyError(number)

    monkeypatch.delenv("XDG_CACHE_HOME")
    if home is None:
        monkeypatch.delenv("HOME", raising=False)
        monkeypatch.setattr(pwd, "getpwuid", unknown)
    else:
        monkeypatch.setenv("HOME", home)
    assert works()
    assert works()
    assert compiler.calls == 1
    assert sorted(os.listdir(tmp_path)) == ["bin", "tmp"]


def test_a_disk_that_no_code_is_loaded_from_is_not_used(
    compiler: Compiler, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = ctypes.CDLL

    def refuse(path: str) -> ctypes.CDLL:
        if path.startswith(str(cache)):
            raise OSError("failed to map segment from shared object")
        return load(path)

    monkeypatch.setattr(ctypes, "CDLL", refuse)
    assert works()
    assert compiler.calls == 1
    assert list(cache.iterdir()) == []


def test_temporary_files_that_no_code_is_loaded_from_are_loaded_from_the_cache(
    compiler: Compiler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = ctypes.CDLL

    def refuse(path: str) -> ctypes.CDLL:
        if path.startswith(str(tmp_path / "tmp")):
            raise OSError("failed to map segment from shared object")
        return load(path)

    monkeypatch.setattr(ctypes, "CDLL", refuse)
    assert works()
    assert compiler.calls == 1


def test_a_full_cache_is_done_without(compiler: Compiler, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    assert works()
    assert compiler.calls == 1
    assert list(cache.iterdir()) == []


def test_without_a_place_for_temporary_files_it_is_compiled_in_the_cache(
    compiler: Compiler, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(tempfile, "tempdir", "/nowhere/at/all")
        assert works()
    assert compiler.calls == 1
    assert len(list(cache.iterdir())) == 1


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("", "CC is empty"),
        ("  ", "CC is empty"),
        ("gcc 'x", "CC is not a command"),
        ('gcc -DX="', "CC is not a command"),
        ("no-such-compiler", "no C compiler: there is no 'no-such-compiler'"),
        ("-O3", "no C compiler: there is no '-O3'"),
        ("/", "cannot be started"),
        ("/etc/hostname", "cannot be started"),
        ("false", "false could not compile the decoder: exit code 1"),
        ("true", "true could not compile the decoder: it wrote no file"),
        ("cat -", "could not compile the decoder"),
        ("sh -c 'echo >&2 \\\\377; exit 3'", "could not compile the decoder"),
        ("sh -c 'shift $(($# - 2)); echo text >$1' x", "cannot be loaded"),
    ],
)
@pytest.mark.usefixtures("compiler")
def test_whatever_the_compiler_is_numpy_takes_over_and_the_reason_is_given(
    monkeypatch: pytest.MonkeyPatch, cache: Path, value: str, words: str
) -> None:
    monkeypatch.setenv("CC", value)
    assert isinstance(decoder(), NumpyDecoder)
    with pytest.raises(NoKernel) as caught:
        kernel()
    assert words in str(caught.value)
    with pytest.raises(ConfigError, match=r"^--engine compiled: .*nothing was written; use --engine numpy$"):
        decoder("compiled")
    assert not cache.exists() or not os.listdir(cache)


@pytest.mark.usefixtures("compiler")
def test_another_library_is_not_taken_for_the_decoder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A compiler's wrapper may well ignore what it is given."""
    import _ctypes

    other = Compiler(tmp_path / "other", Path(_ctypes.__file__))
    monkeypatch.setenv("CC", other.command)
    with pytest.raises(NoKernel, match="is not the decoder"):
        kernel()
    assert isinstance(decoder(), NumpyDecoder)


@pytest.mark.usefixtures("compiler")
def test_a_compiler_that_fails_is_asked_in_one_decoder_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    other = Compiler(tmp_path / "other", Path("/nowhere"))
    monkeypatch.setenv("CC", other.command)
    decoder()
    calls = other.calls
    assert calls > 0
    for _ in range(3):
        decoder()
    assert other.calls == calls


def test_a_compiler_that_does_not_end_is_given_up(compiler: Compiler, monkeypatch: pytest.MonkeyPatch) -> None:
    def endless(command: list[str], **_: object) -> None:
        raise subprocess.TimeoutExpired(command, 600)

    monkeypatch.setattr(subprocess, "run", endless)
    with pytest.raises(NoKernel, match="did not end"):
        kernel()
    assert compiler.calls == 0


# the commands


@pytest.fixture
def model(tmp_path: Path) -> str:
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, made())
    return str(path)


def test_a_command_says_once_that_it_uses_numpy(
    compiler: Compiler,
    model: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsysbinary: pytest.CaptureFixture[bytes],
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("ab" * 20)
    commands = (
        ("sample", model, "--length", "20", "--count", "2", "--seed", "0"),
        ("eval", model, "--text", str(text), "--engine", "decoder"),
        ("score", model, "--text", str(text), "--engine", "decoder"),
        ("compress", str(text), "--model", model, "--output", str(tmp_path / "out.cz")),
    )
    for place, command in enumerate(commands):
        said = {}
        for name, cc, more in (("with", compiler.command, ()), ("without", "", ()), ("quiet", "", ("-q",))):
            monkeypatch.setenv("CC", cc)
            with fresh_kernel():
                assert run([*command, *more]) == 0
            out, said[name] = capsysbinary.readouterr()
            assert out
        assert b"NumPy" not in said["with"] + said["quiet"], place
        assert said["without"].count(b"no C compiler: the variable CC is empty: using NumPy, which is slower\n") == 1
