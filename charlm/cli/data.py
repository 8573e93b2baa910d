"""charlm data list and charlm data get"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from charlm.cli import signals
from charlm.cli.command import Screen, command


def register(app: typer.Typer) -> None:
    data = typer.Typer(rich_markup_mode=None, help="Corpora that charlm knows by name.")
    app.add_typer(data, name="data")

    @command(data, "list")
    def list_(
        screen: Screen,
        options: dict[str, Any],  # noqa: ARG001
        as_json: Annotated[bool, typer.Option("--json", help="print it as JSON")] = False,
    ) -> None:
        """List known corpora with their sizes, licences and SHA-256."""
        from charlm.text.known import KNOWN

        if as_json:
            fields = ("name", "about", "licence", "source", "bytes", "sha256")
            screen.json(
                "data",
                corpora=[{field: getattr(corpus, field) or None for field in fields} for corpus in KNOWN.values()],
            )
            return
        from charlm.report.console import facts

        for corpus in KNOWN.values():
            size = f"{corpus.bytes:,} bytes" if corpus.bytes else "about 465,000 bytes"
            digest = corpus.sha256 or "depends on the version of Python"
            facts(
                screen.out,
                [(corpus.name, corpus.about), ("", f"{size}; {corpus.licence}; {corpus.source}"), ("", digest)],
            )

    @command(data, "get")
    def get(
        screen: Screen,
        options: dict[str, Any],  # noqa: ARG001
        name: Annotated[str, typer.Argument(help="one of charlm data list", show_default=False)],
        to: Annotated[str, typer.Option(help="folder to put it in", metavar="DIR")] = "data",
        as_json: Annotated[bool, typer.Option("--json", help="print it as JSON")] = False,
    ) -> None:
        """Put a known corpus into data/NAME.txt and print its path."""
        import hashlib

        from charlm.errors import StorageError
        from charlm.storage.durable import make_folder, write_durably
        from charlm.text.known import fetch, find_corpus

        corpus = find_corpus(name)
        path = Path(to) / f"{corpus.name}.txt"
        with signals.scratch():
            content = fetch(corpus)
        with signals.held():
            try:
                make_folder(path.parent)
            except OSError as error:
                kept = "nothing was written"
                raise StorageError(f"cannot make {path.parent}: {error.strerror}", kept=kept) from error
            write_durably(path, content)
        screen.note(f"{corpus.about}; {corpus.licence}; from {corpus.source}")
        if as_json:
            screen.json(
                "data", name=corpus.name, path=str(path), bytes=len(content), sha256=hashlib.sha256(content).hexdigest()
            )
        else:
            print(path)  # noqa: T201
