"""charlm data list and charlm data get"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from charlm.cli import complete, signals, streams
from charlm.cli.command import JsonOption, command
from charlm.cli.help import OUTPUT, Group
from charlm.cli.outputs import Screen
from charlm.errors import StorageError


def register(app: typer.Typer) -> None:
    data = typer.Typer(cls=Group, rich_markup_mode=None, help="List or fetch corpora that charlm knows by name.")
    app.add_typer(data, name="data")
    command(data, "list")(list_)
    command(data, "get")(get)


def list_(screen: Screen, as_json: JsonOption = False) -> None:
    """List known corpora with their sizes, licences and SHA-256."""
    from charlm.text.known import KNOWN

    if as_json:
        fields = ("name", "about", "licence", "source", "bytes", "sha256")
        screen.json(
            "data",
            corpora=[{field: getattr(corpus, field) or None for field in fields} for corpus in KNOWN.values()],
        )
        return
    from charlm.report.console import entry

    for corpus in KNOWN.values():
        size = f"{corpus.bytes:,} bytes" if corpus.bytes else "about 465,000 bytes"
        digest = corpus.sha256 or "depends on the version of Python"
        entry(screen.out, corpus.name, [corpus.about, f"{size}; {corpus.licence}; {corpus.source}", digest])


def get(
    screen: Screen,
    name: Annotated[
        str,
        typer.Argument(metavar="NAME", help="a name that charlm data list shows", autocompletion=complete.corpora),
    ],
    to: Annotated[str, typer.Option(help="folder to write it to", metavar="DIR", rich_help_panel=OUTPUT)] = "data",
    as_json: JsonOption = False,
) -> None:
    """Fetch a known corpus and print the path of its file.

    Writes DIR/NAME.txt. The download is checked by its SHA-256.
    """
    import hashlib

    from charlm.text.known import fetch, find_corpus

    corpus = find_corpus(name)
    path = Path(to) / f"{corpus.name}.txt"
    with signals.scratch():
        content = fetch(corpus)
    _write(path, content)
    screen.note(f"{corpus.about}; {corpus.licence}; from {corpus.source}")
    if as_json:
        digest = hashlib.sha256(content).hexdigest()
        screen.json("data", name=corpus.name, path=str(path), bytes=len(content), sha256=digest)
    else:
        streams.write_data(os.fsencode(path) + b"\n")


def _write(path: Path, content: bytes) -> None:
    """Write a file and, if need be, its folder."""
    from charlm.storage.durable import make_folder, write_durably

    with signals.held():
        try:
            make_folder(path.parent)
        except OSError as error:
            kept = "nothing was written"
            raise StorageError(f"cannot make {path.parent}: {error.strerror}", kept=kept) from error
        write_durably(path, content)
