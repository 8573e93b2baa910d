"""What `charlm doctor` looks at: versions, devices, the choice of precision, and exactness, tried on a tiny run."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import torch

from charlm import __version__
from charlm.config import Config, ModelConfig
from charlm.generation.build import NoKernel, kernel
from charlm.models.network import Network, initialise
from charlm.runtime import limits
from charlm.runtime.device import choose_device, choose_runtime, set_threads
from charlm.storage.checkpoint import load_checkpoint
from charlm.training.trial import StepTrial, same_bits

PROMISE: Final = "exactness is promised for the same build of torch, the same device and the same number of threads"
_LIBRARIES: Final = ("numpy", "safetensors", "sentencepiece", "typer", "rich")
Train = Callable[..., Any]


def examine(train: Train) -> dict[str, object]:
    threads = set_threads(0)
    device = choose_device("auto")
    config = Config(model=ModelConfig(hidden=256, embedding=256))
    network = Network(config.model, 64)
    initialise(network, 0)
    network.to_device(device)
    runtime = choose_runtime(device, "auto", threads, StepTrial(config, network))
    gpus = (
        [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    )
    return {
        **asdict(runtime.environment),
        "charlm": __version__,
        "libraries": ", ".join(f"{name} {version(name)}" for name in _LIBRARIES),
        "decoder": _decoder(),
        "limits": _limits(),
        "gpus": ", ".join(gpus) or "none that torch can use",
        "threads_follow": device.type == "cpu" and threads > 1 and same_bits(config, network, runtime),
        "bit_exact": _exact(train, runtime.precision),
        "promise": PROMISE,
    }


def _limits() -> str:
    """What this process may use of the machine, and what sets that."""
    threads, memory = limits.threads(), limits.memory()
    plural = "s" * (threads.amount != 1)
    least = f"{memory.amount / 1e9:,.1f} GB ({memory.source})" if memory else "memory unknown"
    return f"{threads.amount} thread{plural} ({threads.source}), {least}"


def _decoder() -> str:
    """What `charlm sample` computes with."""
    try:
        kernel()
    except NoKernel as problem:
        return f"NumPy: {problem}"
    return "compiled for this processor"


def _exact(train: Train, precision: str) -> bool:
    """Whether a run that is stopped halfway and resumed ends in the state of one that is not."""
    options: dict[str, Any] = {
        "steps": 12,
        "hidden": 32,
        "batch": 4,
        "bptt": 16,
        "dropout": 0.2,
        "precision": precision,
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "text.txt").write_text("It was the best of times, it was the worst of times, " * 40)
        asked = iter(range(1000))
        whole = train(folder, name="whole", **options)
        train(folder, name="halves", stop=lambda: "half" if next(asked) == 6 else None, **options)
        halves = train(folder, name="halves", resume=True, **options)
        return load_checkpoint(whole.run.last).state_sha256 == load_checkpoint(halves.run.last).state_sha256
