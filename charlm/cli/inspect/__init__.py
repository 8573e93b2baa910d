"""charlm inspect"""

from __future__ import annotations

import typer

from charlm.cli.help import Group
from charlm.cli.inspect import cells, gates, gradients, memory


def register(app: typer.Typer) -> None:
    group = typer.Typer(cls=Group, rich_markup_mode=None, help="Look into a model: gradients, gates, cells, memory.")
    app.add_typer(group, name="inspect")
    for module in (gradients, gates, cells, memory):
        module.register(group)
