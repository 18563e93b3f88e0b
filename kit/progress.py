"""One progress bar for long work: it moves on a terminal and in a notebook, and is a few plain lines in a log."""

from __future__ import annotations

import html
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

LOG_EVERY_S = 10.0
CELL_EVERY_S = 0.25
QUICK_S = 1.0  # what is over sooner says nothing


class Bar(Protocol):
    """What long work tells its progress to."""

    def update(self, n: int = 1) -> object:
        """Say that ``n`` more are done."""


@dataclass
class _Work:
    """Counting, and the line that tells it."""

    total: int
    label: str
    every_s: float
    done: int = 0
    start: float = field(default_factory=time.monotonic)
    said: float = 0.0

    def __post_init__(self) -> None:
        self.said = self.start

    def update(self, n: int = 1) -> None:
        self.done += n
        now = time.monotonic()
        if now - self.said >= self.every_s and now - self.start >= QUICK_S and self.done < self.total:
            self.said = now
            self.say()

    def finish(self) -> None:
        if time.monotonic() - self.start >= QUICK_S:
            self.say()

    def line(self) -> str:
        took = time.monotonic() - self.start
        left = took / self.done * (self.total - self.done) if self.done else float("nan")
        end = f", about {left:.0f} s left" if self.done < self.total else ""
        return f"{self.label}: {self.done}/{self.total} in {took:.1f} s{end}"

    def say(self) -> None:
        print(self.line(), flush=True)


@dataclass
class _Cell(_Work):
    """Progress in a notebook: one output that changes, so the executed notebook keeps one and not dozens."""

    handle: Any = None

    def say(self) -> None:
        from IPython.display import display

        bar = f'<progress value="{self.done}" max="{self.total}"></progress> {html.escape(self.line())}'
        shown = {"text/plain": self.line(), "text/html": bar if self.done < self.total else html.escape(self.line())}
        if self.handle is None:
            self.handle = display(shown, raw=True, display_id=True)
        else:
            self.handle.update(shown, raw=True)


@contextmanager
def track(*, total: int, label: str) -> Iterator[Bar]:
    """Give a bar for ``total`` units of work.

    A terminal gets tqdm's bar, a notebook one output that changes, and a log a plain line at most every ten
    seconds and one at the end. Work of less than a second says nothing but on a terminal.

    Args:
        total: How many units there are, total >= 0.
        label: What is being done, e.g. "encoding pictures".
    """
    if sys.stderr.isatty():
        from tqdm import tqdm

        with tqdm(total=total, desc=label, leave=False) as bar:
            yield bar
        return
    work = _Cell(total, label, CELL_EVERY_S) if _in_a_notebook() else _Work(total, label, LOG_EVERY_S)
    yield work
    work.finish()


def _in_a_notebook() -> bool:
    ipython = sys.modules.get("IPython")
    return ipython is not None and hasattr(ipython.get_ipython(), "kernel")
