"""Imports go one way, heavy libraries stay where they belong."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import charlm

ROOT = Path(charlm.__file__).parent
LAYERS = [
    "errors",
    "options",
    "config",
    "keywords",
    "runtime",
    "text",
    "models",
    "storage",
    "generation",
    "evaluation",
    "compression",
    "export",
    "training",
    "inspection",
    "doctor",
    "report",
    "language_model",
    "api",
    "compare",
    "harness",
    "cli",
]
ONLY_IN = {
    "rich": "report",
    "typer": "cli",
    "sentencepiece": "text",
    "pooch": "text",
    "charset_normalizer": "text",
    "matplotlib": "report",
    "constriction": "compression",
    "filelock": "storage",
    "huggingface_hub": "storage",
    "zstandard": "text",
    "lm_eval": "harness",
    "onnx": "export",
    "onnxruntime": "export",
    "tensorboardX": "report",
}
MODULES = sorted(
    path for path in ROOT.rglob("*.py") if path.parent != ROOT or path.stem not in ("__init__", "__main__")
)


def layer(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_imports_only_from_its_own_layer_and_those_below_it(path: Path) -> None:
    own = LAYERS.index(layer(path))
    for name in imports(path):
        parts = name.split(".")
        if parts[0] == "charlm" and len(parts) > 1 and parts[1] in LAYERS:
            assert LAYERS.index(parts[1]) <= own, f"{path} imports {name}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_libraries_stay_in_their_packages_and_nothing_is_unpickled(path: Path) -> None:
    for name in imports(path):
        library = name.split(".")[0]
        assert library not in ("pickle", "shelve", "marshal", "dill", "joblib"), path
        assert name != "torch.load"
        assert ONLY_IN.get(library, layer(path)) == layer(path), f"{path} imports {library}"
    assert "torch.load(" not in path.read_text()


def test_the_command_line_and_the_package_come_up_without_heavy_libraries() -> None:
    code = "import sys, charlm, charlm.cli.main; print(*sorted({m.split('.')[0] for m in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "numpy", "rich", "sentencepiece", "matplotlib", "safetensors"} & set(loaded)


def test_sampling_and_info_do_not_import_torch() -> None:
    code = (
        "import sys, charlm.api, charlm.generation.generate, charlm.storage.checkpoint; print('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
