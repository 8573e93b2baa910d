"""Where a Python program shows the progress of training: in a terminal, in a notebook, or nowhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from charlm.runtime.processes import place
from charlm.training.events import Emit, Event, ignore


@contextmanager
def watched(progress: bool | None, on_event: Emit | None) -> Iterator[Emit]:
    """What to hand events to while this lasts: `on_event`, and before it a display if there is to be one.

    `progress` None: in a notebook, or where standard error is a terminal. True: everywhere; in a pipe as lines.
    """
    other, notebook = on_event or ignore, in_notebook()
    wanted = notebook or _terminal() if progress is None else progress
    if not wanted or not place().is_first:  # of many processes one shows it
        yield other
        return
    from charlm.report.console import console
    from charlm.report.notebook import NotebookProgress
    from charlm.report.progress import Progress

    def both(event: Event) -> None:
        display(event)
        other(event)

    with NotebookProgress() if notebook else Progress(console(sys.stderr), quiet=False) as display:
        yield both


def in_notebook() -> bool:
    """Whether this is a cell of a notebook; IPython in a terminal is not."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and getattr(ipython.get_ipython(), "kernel", None) is not None


def _terminal() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()
