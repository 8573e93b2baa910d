"""Documents that cannot drift: generated pages are up to date, names and examples in them are real."""

from __future__ import annotations

import importlib
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import matrix
import pytest
from test_layers import LAYERS

import charlm
from bench import defaults
from charlm.cli.main import app, run

ROOT = Path(__file__).parent.parent
FIGURE = re.compile(r"\d+\.\d+(?:e-\d+)?")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_the_reference_is_what_the_commands_say() -> None:
    page = runpy.run_path(str(ROOT / "docs/generate.py"))
    assert (ROOT / "docs/cli.md").read_text() == page["reference"](), "run make docs"


def test_every_command_is_in_the_reference() -> None:
    page = (ROOT / "docs/cli.md").read_text()
    names = [command.name for command in app.registered_commands]
    assert names
    assert all(f"## charlm {name}\n" in page for name in names)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_names_of_our_code_in_a_page_exist(page: Path) -> None:
    for name in re.findall(r"\bcharlm(?:\.\w+)+\b(?!/\d)", page.read_text()):  # charlm.eval/1 is a schema
        if not re.search(r"\.(txt|py|md|toml|safetensors)$", name):
            assert resolves(name), f"{page.name} names {name}, which does not exist"


def test_every_section_with_an_equation_names_the_function_that_computes_it() -> None:
    sections = re.split(r"^#+ (.*)$", (ROOT / "docs/mathematics.md").read_text(), flags=re.MULTILINE)
    for title, text in zip(sections[1::2], sections[2::2], strict=True):
        assert "$$" not in text or re.search(r"\bcharlm(?:\.\w+)+\b", text), f"{title!r} names no function"


def resolves(name: str) -> bool:
    parts = name.split(".")
    for size in range(len(parts), 0, -1):
        try:
            value = importlib.import_module(".".join(parts[:size]))
        except ImportError:
            continue
        for attribute in parts[size:]:
            if not hasattr(value, attribute):
                return False
            value = getattr(value, attribute)
        return True
    return False


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        if not target.startswith(("http", "mailto:")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def blocks(page: Path, language: str) -> Iterator[str]:
    yield from re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL)


def test_the_python_example_of_the_readme_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data/python-docs.txt").write_text("".join(f"The {n} and the {n} are {2 * n}.\n" for n in range(200)))
    (block,) = blocks(ROOT / "README.md", "python")
    quick = block.replace('time="1m"', "steps=20, hidden=32, threads=1")
    assert quick != block
    exec(compile(quick, "README.md", "exec"), {})  # noqa: S102 - our own page
    shown = capsys.readouterr().out
    assert "Trained(" in shown
    assert "lemon" in shown


def test_the_reader_in_the_checkpoint_page_reads_a_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("abc" * 50)
    trained = charlm.train(tmp_path / "t.txt", checkpoints=tmp_path, steps=1, hidden=4, threads=1)
    names: dict[str, object] = {}
    for block in blocks(ROOT / "docs/checkpoint.md", "python"):
        exec(compile(block, "checkpoint.md", "exec"), names)  # noqa: S102 - our own page
    read = names["read"]
    assert callable(read)
    assert "rnn.0.weight_hh" in str(read(trained.checkpoint))


def test_the_session_of_the_surprisal_page_prints_what_the_page_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every word of it; figures about so, since the model is trained here and processors round differently."""
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs/surprisal.md").read_text()
    session = re.findall(r"```(sh|python)\n(.*?)```(?:\n\n```text\n(.*?)```)?", page, re.DOTALL)
    assert sum(bool(out) for _, _, out in session) >= 4
    for language, code, said in session:
        (in_shell if language == "sh" else in_python)(code)
        printed = "".join(shortened(code, capsys.readouterr().out))
        assert words_of(printed) == words_of(said), code
        for one, other in zip(figures_of(printed), figures_of(said), strict=True):
            assert one == pytest.approx(other, rel=0.5, abs=1), code


def in_shell(code: str) -> None:
    """Commands of the shell, then those of charlm, in this process: each start of Python takes seconds."""
    ours = re.findall(r"^charlm (.*?)(?: [|>] .*)?$", code, re.MULTILINE)
    subprocess.run(["sh", "-ec", re.sub(r"^charlm .*$", "", code, flags=re.MULTILINE)], check=True)
    assert [run(shlex.split(line)) for line in ours] == [0] * len(ours)


def in_python(code: str) -> None:
    exec(compile(code, "surprisal.md", "exec"), {})  # noqa: S102 - our own page


def shortened(code: str, out: str) -> list[str]:
    """The lines that are left of an output by `| head -n N` or `> FILE`."""
    kept = re.search(r"\| head -n (\d+)$", code.strip())
    return [] if re.search(r"> \S+\.log$", code.strip()) else out.splitlines(True)[: int(kept[1]) if kept else None]


def words_of(text: str) -> list[str]:
    """The lines without figures, and without the whole numbers behind them, which are ranks."""
    return re.sub(r"(?<=0\.0[\t,])\d+(?=[\t,\n])", "0", FIGURE.sub("0.0", text)).splitlines()


def figures_of(text: str) -> list[float]:
    return [float(figure) for figure in FIGURE.findall(text)]


def test_the_readmes_two_commands_are_what_make_offers_and_ci_runs() -> None:
    readme = (ROOT / "README.md").read_text()
    commands = [line for block in blocks(ROOT / "README.md", "sh") for line in block.splitlines()]
    assert commands[:2] == ["make demo", "make test"] or commands.index("make demo") < commands.index("make test")
    steps = re.findall(r"^make (\w+)$", (ROOT / ".ci/run").read_text(), re.MULTILINE)
    assert steps == ["test", "lint"]
    listed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert all(
        f"make {name} " in listed
        for name in ("setup", "demo", "test", "lint", "check", "faults", "bench", "results", "docs", "clean")
    )
    assert readme.count("## ") >= 3


def test_the_fault_matrix_in_the_docs_is_the_one_that_is_tried() -> None:
    page = (ROOT / "docs/reliability.md").read_text()
    rows = re.findall(r"^\| (\d+)(?: \*)? \| (.*?) \| (.*?) \| ([\d,]+) \| (\d+) \|", page, re.MULTILINE)
    assert {int(number): (fault, required) for number, fault, required, _, _ in rows} == {
        number: (row.fault, row.required) for number, row in matrix.MATRIX.items()
    }
    assert all(tried != "0" and lost == "0" for *_, tried, lost in rows), "run make faults RECORD=1"


def drawn(text: str) -> Iterator[str]:
    """The paths of files in a drawing of folders, which end in / and hold what is indented by two more."""
    folders: list[str] = []
    for indent, name in re.findall(r"^( *)(\S+)", text, re.MULTILINE):
        del folders[len(indent) // 2 :]
        if name.endswith("/"):
            folders.append(name)
        else:
            yield "".join([*folders, name])


def test_the_architecture_names_every_module_and_no_other() -> None:
    page = (ROOT / "docs/architecture.md").read_text()
    named = list(drawn(page.split("```\n")[1]))
    there = [path for path in (ROOT / "charlm").rglob("*") if path.suffix in (".py", ".c", ".html", ".css", ".js")]
    assert len(named) == len(set(named))
    assert set(named) == {str(path.relative_to(ROOT)) for path in there if path.name != "__init__.py"}


def test_the_architecture_says_which_way_imports_go() -> None:
    page = (ROOT / "docs/architecture.md").read_text()
    (line,) = re.findall(r"^errors < .+?(?=```)", page, re.MULTILINE | re.DOTALL)
    assert [name.strip() for name in line.split("<")] == LAYERS


def test_the_picture_of_the_readme_is_small_and_stands_alone() -> None:
    picture = (ROOT / "docs/session.svg").read_text()
    assert "docs/session.svg" in (ROOT / "README.md").read_text()
    assert len(picture.encode()) < 200_000
    assert set(re.findall(r"https?://[^\s\"']+", picture)) == {"http://www.w3.org/2000/svg"}
    ElementTree.fromstring(picture)  # noqa: S314 - our own picture


def test_the_results_begin_with_what_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert "\n".join(defaults.section()) in (ROOT / "docs/results.md").read_text(), "run python -m bench.defaults"


def test_importing_the_package_is_light() -> None:
    code = "import charlm, sys; assert 'torch' not in sys.modules; charlm.train; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
