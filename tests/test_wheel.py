"""What is distributed: the package with its data, under a name of its own. `make wheel` installs and uses it."""

from __future__ import annotations

import tomllib
import zipfile
from pathlib import Path

import pytest

import charlm

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_distribution_has_a_name_of_its_own_and_the_command_has_ours() -> None:
    assert PROJECT["name"] == "charlm-cli"
    assert PROJECT["scripts"] == {"charlm": "charlm.__main__:main"}
    assert PROJECT["version"] == charlm.__version__


def test_the_wheel_holds_the_package_and_all_that_it_reads(tmp_path: Path) -> None:
    wheel = pytest.importorskip("hatchling.builders.wheel")
    path = Path(next(wheel.WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])))
    assert path.name == f"charlm_cli-{charlm.__version__}-py3-none-any.whl"
    with zipfile.ZipFile(path) as archive:
        names = set(archive.namelist())
    package = ROOT / "charlm"
    sources = {path for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert {path.suffix for path in sources} == {".py", ".typed", ".c", ".html", ".css", ".js", ".tsv"}
    inside = {name for name in names if not name.startswith("charlm_cli-")}
    assert inside == {str(path.relative_to(ROOT)) for path in sources}
