"""How a sweep shows what has ended: a table that grows on a terminal, a line for each trial in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kit.runner.sweep import Trial

ROWS = 20  # of the table while it grows; the one at the end has all


@contextmanager
def live_trials(total: int, *, metric: str, at_once: int, begun: float) -> Iterator[Callable[[Trial], None]]:
    """Give a callable that takes each trial as it ends.

    Args:
        total: How many there will be.
        metric: What they are ranked by; empty for each one's first measurement.
        at_once: How many run at a time; 0 where nobody knows.
        begun: When the sweep began, by ``time.monotonic``.
    """
    if not sys.stderr.isatty():
        yield lambda trial: _tell(trial, metric, begun)
        return
    from rich.console import Console
    from rich.live import Live

    done: list[Trial] = []
    with Live(
        get_renderable=lambda: growing(done, total, metric=metric, at_once=at_once, spent_s=time.monotonic() - begun),
        console=Console(stderr=True, highlight=False),
        refresh_per_second=2,
        transient=True,  # the table at the end takes its place
    ):
        yield done.append


def growing(done: list[Trial], total: int, *, metric: str, at_once: int, spent_s: float) -> Any:
    """Return the table of the trials that have ended, best first, and how far the sweep is."""
    from rich.console import Group
    from rich.table import Table

    from kit.runner.sweep import chosen_metric, ranked

    bar = f"{len(done)} of {total} trials, {spent_s:.0f} s"
    if running := min(at_once, total - len(done)):
        bar += f", {running} running"
    if done and len(done) < total:
        bar += f", about {spent_s / len(done) * (total - len(done)):.0f} s left"
    finished = [trial for trial in done if trial.run is not None and trial.run.result is not None]
    if not finished:
        return Group(bar)
    shown = metric if any(trial.measured(metric) for trial in finished) else chosen_metric(finished, "")
    rows = ranked(done, shown)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in (*rows[0].given, shown, "interval", "runs"):
        table.add_column(column)
    for row in rows[:ROWS]:
        interval = "" if row.low is None else f"\\[{row.low:.4g}, {row.high:.4g}]"
        value = "failed" if row.value is None else f"{row.value:.4g}"
        table.add_row(*(str(one) for one in row.given.values()), value, interval, str(row.n))
    return Group(table, bar)


def _tell(trial: Trial, metric: str, begun: float) -> None:
    given = " ".join(f"{name}={value}" for name, value in trial.given.items())
    found = trial.measured(metric) if metric else None
    if found is None and trial.run is not None and trial.run.result is not None:
        found = next(iter(trial.run.result.measurements.values()))
    what = "failed: " + trial.error.splitlines()[0] if trial.run is None else str(found)
    reused = ", was there" if trial.run is not None and trial.run.reused else ""
    print(f"{time.monotonic() - begun:7.1f} s  {given}  {what}{reused}", file=sys.stderr, flush=True)
