"""What a benchmark ran on."""

from __future__ import annotations

import datetime
import platform
import subprocess
from pathlib import Path

import torch


def machine() -> dict[str, str]:
    """Date, commit, processor, threads and PyTorch's version."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    names = (line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name"))
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": commit.stdout.strip() or "unknown",
        "processor": next(names, platform.machine()),
        "threads": str(torch.get_num_threads()),
        "torch": torch.__version__,
    }


def stamp() -> dict[str, str]:
    """Machine, date and commit, as a row of figures has them."""
    here = machine()
    where = f"{here['processor']}, {here['threads']} thread{'s' * (here['threads'] != '1')}"
    return {"machine": where, "date": here["date"][:10], "commit": here["commit"]}


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []
