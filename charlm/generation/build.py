"""Compiles kernel.c for this processor, keeps the result in the user's cache, and loads it.

The name of a kept file ends in the SHA-256 of its content, which is checked before the file is loaded: a file that was
cut off or changed would end the process. Where there is no cache folder, or it lies on a disk that is full or that no
code may be loaded from (noexec), the kernel is compiled and loaded in a temporary folder, which is then removed.
"""

from __future__ import annotations

import ctypes
import os
import shlex
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Final

from charlm.runtime import processor
from charlm.runtime.cache import cache_folder, replace

SOURCE: Final = Path(__file__).with_name("kernel.c")
_FOR_THIS_PROCESSOR: Final = ("-march=native -mprefer-vector-width=512", "-march=native", "-mcpu=native", "")
_FLAGS: Final = "-O3 -std=gnu11 -shared -fPIC -pthread -w"
_PATIENCE: Final = 600  # seconds for the compiler, which takes a minute on a machine that is busy


class NoKernel(Exception):
    """The compiled decoder is not available; the message says why."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """The loaded kernel.c, the SHA-256 of its file in hexadecimal, and how many units it computes together."""

    code: ctypes.CDLL
    digest: str
    width: int


def kernel() -> Kernel:
    """The kernel, from the user's cache or newly compiled; raises NoKernel. Tried once in a process."""
    found = _found()
    if isinstance(found, str):
        raise NoKernel(found)
    return found


@cache
def _found() -> Kernel | str:
    """The kernel, or why there is none."""
    try:
        command = _command()
        key = repr((SOURCE.read_bytes(), " ".join(command), sorted(processor.features()), _FLAGS, _FOR_THIS_PROCESSOR))
        name = f"decoder-{sha256(key.encode(errors='surrogateescape')).hexdigest()[:20]}"
        folder = cache_folder()
        return _kept(folder, name) or _made(command, folder, name)
    except (NoKernel, OSError) as problem:
        return str(problem)


def _command() -> list[str]:
    """The C compiler and its own options, from the variable CC; raises NoKernel."""
    given = os.environ.get("CC", "cc")
    try:
        command = shlex.split(given)
    except ValueError as error:  # an open quotation mark
        raise NoKernel(f"the variable CC is not a command: {given!r}") from error
    if not command:
        raise NoKernel("no C compiler: the variable CC is empty")
    return command


def _kept(folder: Path | None, name: str) -> Kernel | None:
    """The kernel that an earlier process has kept, if it is whole and can be loaded; a damaged one is removed."""
    for path in sorted(folder.glob(f"{name}-*.so")) if folder else ():
        with suppress(OSError, NoKernel):
            if _digest(path) == path.stem.rpartition("-")[2]:
                return _load(path)
            path.unlink()
    return None


def _made(command: Sequence[str], folder: Path | None, name: str) -> Kernel:
    """A kernel that is compiled now, and kept where there is a folder for it; raises NoKernel or OSError.

    It is compiled among the system's temporary files or, if that fails, beside the kept ones.
    """
    problem: Exception | None = None
    for place in (None, folder) if folder else (None,):
        try:
            with tempfile.TemporaryDirectory(prefix="charlm-", dir=place, ignore_cleanup_errors=True) as scratch:
                made = Path(scratch, "decoder.so")
                _compile(command, made)
                return _keep(made, folder, name) or _load(made)
        except (NoKernel, OSError) as error:
            problem = problem or error
    raise problem or NoKernel("no place to compile in")


def _keep(made: Path, folder: Path | None, name: str) -> Kernel | None:
    """The kernel, loaded from where it is kept for other processes; None where that is not possible."""
    if folder is None:
        return None
    path = folder / f"{name}-{_digest(made)}.so"
    try:
        replace(path, made.read_bytes())
        return _load(path)
    except (OSError, NoKernel):
        with suppress(OSError):
            path.unlink()
        return None


def _compile(command: Sequence[str], made: Path) -> None:
    """Compile kernel.c into this file, for this processor as far as the compiler knows it; raises NoKernel."""
    for flags in _FOR_THIS_PROCESSOR:
        problem = _run([*command, *_FLAGS.split(), *flags.split(), str(SOURCE), "-o", str(made), "-lm"], made.parent)
        if not problem and made.exists():
            return
    raise NoKernel(f"{shlex.join(command)} could not compile the decoder: {problem or 'it wrote no file'}")


def _run(command: list[str], scratch: Path) -> str:
    """Run the compiler, whose temporary files go to `scratch`. Returns "" or what went wrong; raises NoKernel.

    What cannot be started, or does not end, is not worth another try.
    """
    import subprocess

    try:
        done = subprocess.run(  # noqa: S603
            command,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            encoding="utf-8",
            errors="replace",
            env={**os.environ, "TMPDIR": str(scratch)},
            timeout=_PATIENCE,
            check=False,
        )
    except FileNotFoundError as error:
        raise NoKernel(f"no C compiler: there is no {command[0]!r}") from error
    except subprocess.TimeoutExpired as error:
        raise NoKernel(f"the C compiler {command[0]!r} did not end in {_PATIENCE} seconds") from error
    except OSError as error:
        raise NoKernel(f"the C compiler {command[0]!r} cannot be started: {error.strerror}") from error
    return (done.stderr.strip().partition("\n")[0] or f"exit code {done.returncode}") if done.returncode else ""


def _load(path: Path) -> Kernel:
    """Load a library that is known to be whole; raises NoKernel if the system refuses, or if it is another one."""
    digest = _digest(path)
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise NoKernel(f"the compiled decoder cannot be loaded: {error}") from error
    try:
        library.charlm_run.argtypes = [ctypes.c_void_p]
        width = ctypes.c_int32.in_dll(library, "charlm_width").value
    except (AttributeError, ValueError) as error:
        raise NoKernel("what the C compiler has made is not the decoder") from error
    return Kernel(library, digest, width)


def _digest(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()
