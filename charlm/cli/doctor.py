"""charlm doctor"""

from __future__ import annotations

import typer

from charlm.cli import signals
from charlm.cli.command import JsonOption, command
from charlm.cli.outputs import Screen

_EXACT = {
    True: "yes: a short run, interrupted and resumed, ended in the same state as an uninterrupted one",
    False: "NO: a short run, interrupted and resumed, did not end in the same state as an uninterrupted one",
}
_IN_WORDS = ("threads_follow", "bit_exact", "promise")
_FOLLOW = {
    True: "as many as are fastest at the moment: a step gave the same bits with each number",
    False: "always this number",
}


def register(app: typer.Typer) -> None:
    command(app, "doctor")(doctor)


def doctor(screen: Screen, as_json: JsonOption = False) -> None:
    """Show versions, devices, and whether resuming is bit-exact.

    Also shows the precision that --precision auto selects. Trains for a second, to test whether an interrupted and
    resumed run on this machine ends in the same state, bit for bit, as an uninterrupted one.
    """
    from charlm import api

    with signals.scratch():
        found = api.doctor()
    if as_json:
        screen.json("doctor", **found)
        return
    from charlm.report.console import facts

    rows = [(name.replace("_", " "), str(value)) for name, value in found.items() if name not in _IN_WORDS]
    rows.append(("threads used", _FOLLOW[bool(found["threads_follow"])]))
    facts(screen.out, [*rows, ("bit-exact", _EXACT[bool(found["bit_exact"])]), ("", str(found["promise"]))])
