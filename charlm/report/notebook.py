"""Progress of a training run in a notebook: one output, redrawn in place."""

from __future__ import annotations

from importlib import import_module
from io import StringIO
from typing import Any, Final

from rich.console import RenderableType
from rich.live import Live

from charlm.report.console import Console
from charlm.report.progress import Progress
from charlm.training.events import Event, Recorded, Stepped

_WIDTH: Final = 100
_HTML: Final = '<pre style="line-height: 1.3; white-space: pre; overflow-x: auto">{}</pre>'


class NotebookProgress(Progress):
    """The lines and the live display of `Progress`, as HTML in the output of a cell; needs no widgets."""

    def __init__(self) -> None:
        lines = _recorder()
        super().__init__(lines, quiet=False)
        self._output = self._live = _Output(lines)

    def __enter__(self) -> NotebookProgress:
        self._output.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._output.stop()

    def __call__(self, event: Event) -> None:
        super().__call__(event)
        if not isinstance(event, (Stepped, Recorded)):  # whose display `Progress` draws, as often as is good
            self._output.draw()


class _Output(Live):
    """What rich's Live is in a terminal: the lines that were printed, and below them what moves."""

    def __init__(self, lines: Console) -> None:
        super().__init__(console=lines, auto_refresh=False)
        self._moving: RenderableType | None = None
        self._shown: Any = None

    def start(self, refresh: bool = False) -> None:  # noqa: ARG002
        self._shown = import_module("IPython.display").display(self._content(), raw=True, display_id=True)

    def update(self, renderable: RenderableType, *, refresh: bool = False) -> None:
        self._moving = renderable
        if refresh:
            self.draw()

    def stop(self) -> None:
        """Leave the lines alone."""
        self._moving = None
        self.draw()

    def draw(self) -> None:
        self._shown.update(self._content(), raw=True)

    def _content(self) -> dict[str, str]:
        """What a notebook shows, as HTML and as text."""
        moving = _recorder()
        if self._moving is not None:
            moving.print(self._moving)
        parts = self.console, moving
        html = "".join(part.export_html(clear=False, inline_styles=True, code_format="{code}") for part in parts)
        text = "".join(part.export_text(clear=False) for part in parts)
        return {"text/html": _HTML.format(html), "text/plain": text}


def _recorder() -> Console:
    return Console(file=StringIO(), record=True, width=_WIDTH, force_jupyter=False, highlight=False)
