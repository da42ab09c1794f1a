"""A bar on standard error that says what a run is doing; none where standard error is no terminal."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Display

from onnxslim.pipeline.interface import Progress
from onnxslim.printable import printable


class Bar(Progress):
    """Draws one bar, for whatever is under way."""

    def __init__(self, display: Display) -> None:
        self._display = display
        self._what: str | None = None
        self._task = display.add_task("starting", total=None)

    def __call__(self, what: str, done: int, total: int | None) -> None:
        """Show `done` of `total` steps of `what`; another `what` starts the bar anew."""
        if what != self._what:
            self._what = what
            self._display.reset(self._task, description=escape(printable(what)), total=total)
        self._display.update(self._task, completed=done, total=total)


@contextlib.contextmanager
def progress_bar() -> Iterator[Progress]:
    """Yield something to report progress to. The bar vanishes when it is over."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield Progress()
        return
    columns = SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Display(*columns, console=console, transient=True) as display:
        yield Bar(display)
