"""The installed command, as a benchmark calls it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

CHARLM: Final = str(Path(sys.executable).with_name("charlm"))


def report(*arguments: str) -> dict[str, Any]:
    """The object that a command with `--json` prints; what it says beside that is for whoever watches."""
    done = subprocess.run([CHARLM, *arguments], stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found
