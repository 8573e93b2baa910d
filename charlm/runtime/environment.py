"""What a result depends on besides its options."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """Versions, device and arithmetic of a run."""

    python: str = ""
    torch: str = ""
    system: str = ""
    device: str = "cpu"
    device_name: str = ""
    threads: int = 1  # of each process
    processes: int = 1
    precision: str = "fp32"
    reason: str = ""  # for that precision
