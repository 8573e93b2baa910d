"""charlm doctor"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from charlm.cli import signals
from charlm.cli.command import Screen, command


def register(app: typer.Typer) -> None:
    @command(app, "doctor")
    def doctor(
        screen: Screen,
        options: dict[str, Any],  # noqa: ARG001
        as_json: Annotated[bool, typer.Option("--json", help="print it as JSON")] = False,
    ) -> None:
        """Tell versions, devices, threads, the precision that `auto` takes, and whether runs here are bit-exact."""
        from charlm import api

        with signals.scratch():
            found = api.doctor()
        if as_json:
            screen.json("doctor", **found)
        else:
            from charlm.report.console import facts

            exact = (
                "yes: the same short run twice, once interrupted and resumed, ended in the same state"
                if found["bit_exact"]
                else "NO: the same short run twice did not end in the same state"
            )
            rows = [
                (name.replace("_", " "), str(value))
                for name, value in found.items()
                if name not in ("bit_exact", "promise")
            ]
            facts(screen.out, [*rows, ("bit-exact", exact), ("", str(found["promise"]))])
