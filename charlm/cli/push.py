"""charlm push"""

from __future__ import annotations

from typing import Annotated

import typer

from charlm.cli import complete
from charlm.cli.command import FolderOption, JsonOption, command
from charlm.cli.help import WHICH
from charlm.cli.outputs import Screen
from charlm.config import DEFAULT_FOLDER


def register(app: typer.Typer) -> None:
    command(app, "push")(push)


def push(
    screen: Screen,
    run: Annotated[
        str,
        typer.Argument(
            metavar="RUN",
            help="file, run folder or run name",
            autocompletion=complete.runs,
            rich_help_panel=WHICH,
        ),
    ],
    repository: Annotated[
        str, typer.Argument(metavar="OWNER/NAME", help="repository on the Hugging Face Hub", rich_help_panel=WHICH)
    ],
    checkpoints: FolderOption = DEFAULT_FOLDER,
    private: Annotated[bool, typer.Option("--private", help="create a private repository")] = False,
    branch: Annotated[
        str, typer.Option(help="branch to push to, created if there is none (default: main)", metavar="NAME")
    ] = "",
    message: Annotated[
        str, typer.Option(help="commit message (default: the number of parameters)", metavar="TEXT")
    ] = "",
    force: Annotated[
        bool, typer.Option("--force", help="push to a repository that holds something else than a charlm model")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Upload a model to the Hugging Face Hub.

    Wherever a checkpoint is named, hf:OWNER/NAME is then this model. The repository is created if there is none. One
    commit holds model.safetensors, the best model of the run without its training state, and README.md, a card with its
    figures. The training text is not uploaded, and paths in the model are shortened to file names.

    Log in once with hf auth login, or set HF_TOKEN; the token needs write access. Needs pip install 'charlm-cli[hub]'.
    """
    from charlm import api
    from charlm.storage.hub import CARD, FILE

    screen.note(f"pushing to {repository}: the model alone, with file names in place of paths")
    done = api.push(
        run, repository, checkpoints=checkpoints, private=private, branch=branch, message=message, force=force
    )
    if as_json:
        screen.json("push", run=run, files=[FILE, CARD], **done.record())
        return
    from charlm.report.console import facts

    at = f"@{done.branch}" if done.branch else ""
    rows = [
        ("model", f"hf:{done.repository}{at}"),
        ("page", f"{done.url} ({'private' if done.private else 'public'}{', new' * done.created})"),
        ("commit", done.commit),
        (FILE, f"{done.bytes:,} bytes, SHA-256 {done.sha256}"),
    ]
    facts(screen.out, rows)
