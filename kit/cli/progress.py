"""One bar that counts a notebook's cells; plain lines where there is no terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def cell_bar(name: str) -> Iterator[Callable[[int, int, str], None]]:
    """Give a callable that takes cells done, cells there are and the heading above the next cell."""
    if sys.stderr.isatty():
        with _bar(name) as on_cell:
            yield on_cell
    else:
        yield _lines(name)


def _lines(name: str) -> Callable[[int, int, str], None]:
    begun = time.monotonic()
    last: list[str] = []

    def on_cell(done: int, total: int, title: str) -> None:
        # In a log a line for every cell is noise; one for each heading tells the same.
        if done == total or [title] != last:
            seconds = time.monotonic() - begun
            print(
                f"{name}: {done}/{total} cells, {seconds:.1f} s{', ' + title if title else ''}",
                file=sys.stderr,
                flush=True,
            )
        last[:] = [title]

    return on_cell


@contextmanager
def _bar(name: str) -> Iterator[Callable[[int, int, str], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("[bold]{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        TextColumn("[dim]{task.fields[title]}", markup=True),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(name, total=None, title="", start=False, visible=False)

        def on_cell(done: int, total: int, title: str) -> None:
            if not progress.tasks[0].started:
                progress.start_task(task)
            progress.update(task, completed=done, total=total, title=title.replace("[", "\\["), visible=True)

        yield on_cell
