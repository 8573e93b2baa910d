"""docs/json.md against what the commands print: every field is documented, and every documented field is printed."""

from __future__ import annotations

import io
import json
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest
from processes import SMALL, TEXT
from standin import standing_in, using

from charlm.cli.main import app, run

PAGE: Final = Path(__file__).parent.parent / "docs/json.md"

# What is run in a folder with these texts; together they print every field.
SCRIPT: Final = (
    ("train", "sums.txt", "--steps", "40", *SMALL),
    ("train", "loop.txt", "--name", "other", "--val", "0", "--steps", "40", *SMALL),
    ("train", "sums.txt", "--name", "tested", "--test", "0.1", "--steps", "40", *SMALL),
    ("sample", "other", "--length", "100", "--count", "2", "--temperature", "0", "--novelty"),
    ("sample", "sums", "--length", "0", "--novelty"),
    ("train", "names.txt", "--name", "names", "--records", "line", "--val", "0", "--steps", "40", *SMALL),
    ("sample", "names", "--count", "2", "--rank", "--novelty"),
    ("train", "sums.txt", "--name", "back", "--direction", "backward", "--steps", "40", *SMALL),
    ("train", "sums.txt", "--name", "windowed", "--model", "window", "--layers", "1", "--steps", "2", *SMALL),
    ("fill", "sums", "back", "--text", "2 and ___ are 4", "--length", "1"),
    ("fill", "sums", "--before", "2 and "),
    ("eval", "sums", "--cold-windows", "64"),
    ("eval", "sums", "other", "--text", "sums.txt", "--text", "empty.txt", "--baselines", "--mix", "--dynamic"),
    ("score", "sums", "--text", "odd.txt", "--text", "empty.txt"),
    ("pairs", "sums", "agreement"),
    ("pairs", "sums", "pairs.tsv"),
    ("score", "sums", "--text", "odd.txt", "--records", "line"),
    ("novelty", "sums", "--text", "odd.txt"),
    ("novelty", "sums", "--text", "sums.txt"),
    ("inspect", "memory", "sums", "--contexts", "1,5", "--positions", "20"),
    ("inspect", "memory", "windowed", "--contexts", "1,5", "--positions", "20", "--text", "sums.txt"),
    ("lags", "--steps", "2", "--lags", "3,5", "--cells", "rnn", "--hidden", "2", "--seeds", "1"),
    ("compress", "odd.txt", "--model", "sums", "--output", "odd.charlm"),
    ("compress", "empty.txt", "--model", "sums", "--output", "empty.charlm"),
    ("decompress", "odd.charlm", "--model", "sums", "--output", "odd2.txt"),
    ("export", "sums", "--output", "sums.onnx"),
    ("export", "sums", "--output", "sums.md"),
    ("page", "sums", "--output", "sums.html", "--text", "odd.txt"),
    ("page", "other", "--output", "other.html", "--precision", "int8"),
    ("info", "sums"),
    ("info", "checkpoints/sums/last.safetensors"),
    ("info", "other"),
    ("info", "tested"),
    ("verify", "sums"),
    ("push", "sums", "ada/sums"),
    ("compare", "sums.txt", "--models", "rnn,ngram", "--steps", "10", *SMALL),
    ("runs",),
    ("plot", "sums", "other", "--output", "losses.svg"),
    ("inspect", "gradients", "sums", "--distance", "30", "--places", "2", "--parameters", "2000"),
    ("inspect", "gradients", "--distance", "1", "--places", "1", "--parameters", "1000"),
    ("inspect", "gradients", "other", "--text", "loop.txt", "--distance", "2", "--places", "1"),
    ("inspect", "gates", "sums", "--length", "100"),
    ("inspect", "cells", "sums", "--text", "sums.txt", "--length", "1500"),
    ("inspect", "cells", "sums", "--text", "quotes.txt", "--unit", "1:3"),
    ("data", "list"),
    ("data", "get", "python-docs"),
    ("doctor",),
)


TRIED: Final = SCRIPT if find_spec("huggingface_hub") else [line for line in SCRIPT if line[0] != "push"]


class Field(NamedTuple):
    type: str
    nullable: bool


def documented() -> dict[str, dict[str, Field]]:
    """The tables of the page: command -> path -> field."""
    sections = re.split(r"^## (.+)\n", PAGE.read_text(), flags=re.MULTILINE)[1:]
    row = re.compile(r"^\| `(.+?)` \| (.+?) \| .+? \| (.+?) \|$", re.MULTILINE)
    return {
        command: {path: Field(type_, null != "never") for path, type_, null in row.findall(text)}
        for command, text in zip(sections[::2], sections[1::2], strict=True)
    }


DOCUMENTED: Final = documented()


def outputs(folder: Path, patch: pytest.MonkeyPatch) -> dict[str, list[Any]]:
    """What each command prints, in the order of the script."""
    (folder / "sums.txt").write_text(TEXT)
    (folder / "loop.txt").write_text("ab" * 400)
    (folder / "names.txt").write_text("ada\nemma\nann\n" * 40)
    (folder / "odd.txt").write_text("€uro, 7 times 3 is 21.\n3 times 3 is 9.")
    (folder / "empty.txt").write_text("")
    (folder / "quotes.txt").write_text('2 times "2 is 4". ' * 40)
    (folder / "checkpoints/notes").mkdir(parents=True)
    (folder / "pairs.tsv").write_text("2 times 2 is 4.\t2 times 2 is 5.\n€\t£\n")
    patch.chdir(folder)
    found = defaultdict(list)
    for line in TRIED:
        if line[0] == "push":
            with standing_in() as hub, using(hub, folder / "home"):
                found["push"].append(answer(line, patch))
        else:
            found[command_of(line)].append(answer(line, patch))
    return found


def answer(line: tuple[str, ...], patch: pytest.MonkeyPatch) -> Any:
    out = io.StringIO()
    with patch.context() as here:
        here.setattr(sys, "stdout", out)
        assert run([*line, "--json", "-q"]) == 0, line
    return json.loads(out.getvalue(), parse_constant=pytest.fail)


def command_of(line: tuple[str, ...]) -> str:
    return " ".join(line[:2]) if line[0] in ("data", "inspect") else line[0]


def parts(path: str, value: Any, fields: dict[str, Field]) -> Iterator[tuple[str, Any]]:
    """The value and all in it, by path; what stands in a map or a pair is part of its field's type."""
    yield path, value
    if path and fields.get(path, Field("", False)).type.startswith("map"):
        return
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from parts(f"{path}.{name}".lstrip("."), inner, fields)
    elif isinstance(value, list):
        for inner in value:
            if isinstance(inner, dict):
                yield from ((p, v) for p, v in parts(f"{path}[]", inner, fields) if p != f"{path}[]")


def fits(value: Any, kind: str) -> bool:
    """Whether a value has a type as the page writes it.

    >>> fits([["a", 0.5]], "list of [string, number]"), fits(True, "integer"), fits({"a": None}, "map of numbers")
    (True, False, False)
    """
    singular = {"strings": "string", "integers": "integer", "numbers": "number", "objects": "object"}
    kind = singular.get(kind, kind)
    if kind.startswith("list of "):
        return isinstance(value, list) and all(fits(inner, kind.removeprefix("list of ")) for inner in value)
    if kind.startswith("map of "):
        inside = kind.removeprefix("map of ")
        return isinstance(value, dict) and all(fits(inner, inside) for inner in value.values())
    if kind.startswith("["):
        kinds = kind.strip("[]").split(", ")
        return isinstance(value, list) and len(value) == len(kinds) and all(map(fits, value, kinds))
    return {
        "any": True,
        "string": isinstance(value, str),
        "boolean": isinstance(value, bool),
        "integer": type(value) is int,
        "number": type(value) in (int, float),
        "object": isinstance(value, dict),
    }[kind]


def test_every_command_with_json_is_documented_and_tried() -> None:
    offered = {
        name
        for name, command in commands()
        if "as_json" in command.__annotations__ and name != "perplexity"  # which is eval
    }
    assert offered == DOCUMENTED.keys() == {command_of(line) for line in SCRIPT}


def commands() -> Iterator[tuple[str, Any]]:
    for command in app.registered_commands:
        yield str(command.name), command.callback
    for group in app.registered_groups:
        assert group.typer_instance is not None
        for command in group.typer_instance.registered_commands:
            yield f"{group.name} {command.name}", command.callback


def test_what_is_printed_is_what_is_documented(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    printed = outputs(tmp_path, monkeypatch)
    for command in printed:
        fields = DOCUMENTED[command]
        found = [pair for record in printed[command] for pair in parts("", record, fields) if pair[0]]
        assert {path for path, _ in found} == fields.keys(), command
        for path, value in found:
            field = fields[path]
            assert field.nullable if value is None else fits(value, field.type), (command, path, value, field)
        assert {record["schema"] for record in printed[command]} == {f"charlm.{command.split()[0]}/1"}
