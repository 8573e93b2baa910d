"""The user's cache: a folder for what can be made again, and small facts that are kept there; without torch.

The folder is $XDG_CACHE_HOME/charlm, or ~/.cache/charlm. Code is loaded from it, so nobody but its owner may read or
write it (mode 0700), and a folder of another user is not used. Where there is no such place (no home folder, as for a
user that the system does not know; a read-only disk) everything works without it. Nothing here raises.
"""

from __future__ import annotations

import json
import os
import stat
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

_MOST: Final = 64  # facts of one name, the newest
_LARGEST: Final = 2**20  # bytes of their file


def cache_folder() -> Path | None:
    """The folder, made if it was missing, which this process can write in; None where there is none to be trusted."""
    base = _base()
    if base is None:
        return None
    folder = base / "charlm"
    with suppress(OSError):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if _is_private(folder) and os.access(folder, os.W_OK | os.X_OK):
            return folder
    return None


def _base() -> Path | None:
    """The folder of all programs' caches, or None."""
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if given.is_absolute():  # others are to be ignored, by its specification
        return given
    try:
        home = Path.home()
    except (RuntimeError, KeyError):  # no HOME, and a user without an entry in the system's list
        return None
    return home / ".cache" if home.is_absolute() and home != Path(home.anchor) else None


def _is_private(folder: Path) -> bool:
    """Whether the folder is this user's, after taking away what others may do in it; raises OSError.

    Where there are no such owners (Windows), a folder in the user's profile is private already.
    """
    if not hasattr(os, "geteuid"):
        return True
    for found in (folder.lstat(), folder.stat()):  # of a link, the link too
        if found.st_uid != os.geteuid():
            return False
    if stat.S_IMODE(found.st_mode) != 0o700:
        folder.chmod(0o700)
    return True


def recall(name: str, key: str) -> Any:
    """What was remembered under this name and key, as JSON has it; None if nothing was, or it was lost."""
    folder = cache_folder()
    return _facts(folder / f"{name}.json").get(key) if folder else None


def remember(name: str, key: str, value: object) -> None:
    """Keep a small JSON value for other processes; where that is impossible, nothing happens.

    The file is replaced as a whole. Of two processes that write at the same time, one may lose its fact.
    """
    folder = cache_folder()
    if folder is None:
        return
    path = folder / f"{name}.json"
    facts = {**{old: fact for old, fact in _facts(path).items() if old != key}, key: value}
    kept = dict(list(facts.items())[-_MOST:])
    with suppress(OSError, ValueError, TypeError):
        replace(path, json.dumps(kept, allow_nan=False).encode())


def replace(path: Path, data: bytes) -> None:
    """Replace a file of the cache as a whole, without waiting for the disk; raises OSError."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".charlm-")
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise


def _facts(path: Path) -> dict[str, Any]:
    """What a file of facts holds; nothing if it is missing, damaged or too large."""
    try:
        if path.stat().st_size > _LARGEST:
            return {}
        facts = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return facts if isinstance(facts, dict) else {}
