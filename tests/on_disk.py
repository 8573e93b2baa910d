"""What tests of texts on the disk share: small runs, and texts that are large however short they are."""

from __future__ import annotations

from typing import Any, Final

import pytest

from charlm.text import files, large, store, stored

TINY: Final[dict[str, Any]] = {
    "steps": 6,
    "hidden": 8,
    "embedding": 8,
    "bptt": 16,
    "batch": 3,
    "device": "cpu",
    "precision": "fp32",
    "threads": 1,
}


def read_in_pieces(patch: pytest.MonkeyPatch, *, block: int = 500) -> None:
    """Every text, however short and new, goes to the disk and is found there again, in blocks of so many characters."""
    patch.setattr(large, "LARGE", 0)
    patch.setattr(files, "SETTLED", -(10**6))
    patch.setattr(files, "READ", 61)
    patch.setattr(store, "BLOCK", 500)
    patch.setattr(stored, "BLOCK", block)
