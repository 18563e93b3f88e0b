"""One progress bar for long work: it moves on a terminal and in a notebook, and is a few plain lines in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

LOG_EVERY_S = 10.0


class Bar(Protocol):
    """What long work tells its progress to."""

    def update(self, n: int = 1) -> object:
        """Say that ``n`` more are done."""


class _Lines:
    """Progress for a log: a line at most every ten seconds, and one at the end."""

    def __init__(self, total: int, label: str) -> None:
        self.total, self.label, self.done = total, label, 0
        self.start = self.said = time.monotonic()

    def update(self, n: int = 1) -> None:
        self.done += n
        now = time.monotonic()
        if now - self.said >= LOG_EVERY_S and self.done < self.total:
            self.said = now
            self.say(now)

    def say(self, now: float) -> None:
        took = now - self.start
        left = took / self.done * (self.total - self.done) if self.done else float("nan")
        end = f", about {left:.0f} s left" if self.done < self.total else ""
        print(f"{self.label}: {self.done}/{self.total} in {took:.1f} s{end}", flush=True)


@contextmanager
def track(*, total: int, label: str) -> Iterator[Bar]:
    """Give a bar for ``total`` units of work.

    A terminal gets tqdm's bar. A notebook and a log get plain lines, since a moving bar fills an executed
    notebook with dozens of outputs and a log with carriage returns.

    Args:
        total: How many units there are, total >= 0.
        label: What is being done, e.g. "encoding pictures".
    """
    if sys.stderr.isatty():
        from tqdm import tqdm

        with tqdm(total=total, desc=label, leave=False) as bar:
            yield bar
        return
    lines = _Lines(total, label)
    yield lines
    lines.say(time.monotonic())
