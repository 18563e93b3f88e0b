"""A sweep: many runs of one recipe, side by side on warm kernels; each finished one is a run like any other.

Nothing is kept but the runs themselves, so a killed sweep that is started again takes up the trials that had finished,
and ``kit history`` and ``kit compare`` know them.
"""

from __future__ import annotations

import json
import math
import os
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kit.errors import Fault, KitError, RunError, did_you_mean, listed
from kit.result import Measurement
from kit.runner.claims import Verdict
from kit.runner.kernel import end_all
from kit.runner.machine import usable_cores
from kit.runner.plan import Plan
from kit.runner.run import Run, run
from kit.runner.warm_owner import warm_kernels

PREFIXES = "KIT_CACHE_LOG"  # the activation store notes there what it computed


@dataclass(frozen=True)
class Trial:
    """One run of a sweep.

    Args:
        given: The swept parameters' values.
        run: The run; None for one that failed.
        error: Why it failed; empty for a good one.
    """

    given: Mapping[str, Any]
    run: Run | None
    error: str = ""

    def measured(self, metric: str) -> Measurement | None:
        """Return the trial's measurement of that name; None when it failed or did not measure it."""
        result = None if self.run is None else self.run.result
        return None if result is None else result.measurements.get(metric)

    @property
    def worse(self) -> tuple[Verdict, ...]:
        """What fell clearly below the last good run of the same parameters."""
        return tuple(one for one in self.run.verdicts if one.kind == "regression") if self.run else ()


@dataclass(frozen=True)
class Prefixes:
    """What trials computed of frozen prefixes, and what they found computed.

    Args:
        keys: Different prefixes: weights, preprocessing and cut.
        computed: Inputs that were computed.
        found: Inputs that were there, because another trial or an earlier run had computed them.
    """

    keys: int
    computed: int
    found: int


def carry_out(
    plans: Sequence[tuple[Mapping[str, Any], Plan]],
    *,
    out: Path,
    workers: int,
    on_trial: Callable[[Trial], None] = lambda _: None,
) -> list[Trial]:
    """Run the plans, so many at a time, and return their trials in the same order. One that fails stops no other.

    Args:
        plans: The swept values and the plan of each trial.
        out: The folder of runs.
        workers: How many run at a time.
        on_trial: Called with each trial as it ends, in this thread.
    """
    with _threads(workers), warm_kernels(), ThreadPoolExecutor(workers, thread_name_prefix="kit-trial") as pool:
        waiting: dict[Future[Trial], int] = {
            pool.submit(_trial, given, plan, out): number for number, (given, plan) in enumerate(plans)
        }
        done: dict[int, Trial] = {}
        try:
            for future in as_completed(waiting):
                done[waiting[future]] = future.result()
                on_trial(done[waiting[future]])
        except BaseException:  # ^C: what has not begun never does, and what has is ended
            pool.shutdown(wait=False, cancel_futures=True)
            end_all()
            raise
    return [done[number] for number in range(len(plans))]


def _trial(given: Mapping[str, Any], plan: Plan, out: Path) -> Trial:
    try:
        return Trial(given, run(plan, out=out))
    except KitError as error:
        return Trial(given, None, str(error))


@contextmanager
def _threads(workers: int) -> Iterator[None]:
    """Give each worker its share of the cores, unless the user has said how many threads there are to be."""
    if "OMP_NUM_THREADS" in os.environ:
        yield
        return
    os.environ["OMP_NUM_THREADS"] = str(max(1, usable_cores() // workers))
    try:
        yield
    finally:
        del os.environ["OMP_NUM_THREADS"]


@contextmanager
def prefixes_noted(path: Path) -> Iterator[Callable[[], Prefixes]]:
    """Let the runs below note what they compute of frozen prefixes; give a callable that counts it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    os.environ[PREFIXES] = str(path.absolute())

    def count() -> Prefixes:
        lines: list[dict[str, Any]] = []
        with suppress(FileNotFoundError):
            lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        computed = sum(line["computed"] for line in lines)
        return Prefixes(
            len({line["key"] for line in lines}), computed, sum(line["inputs"] for line in lines) - computed
        )

    try:
        yield count
    finally:
        del os.environ[PREFIXES]
        path.unlink(missing_ok=True)


def chosen_metric(trials: Sequence[Trial], metric: str) -> str:
    """Return the metric, the first measurement by default.

    Raises:
        RunError: no trial measured it.
    """
    measured = {name: None for one in trials if one.run and one.run.result for name in one.run.result.measurements}
    if metric in measured or not measured:
        return metric
    if metric:
        what = f"no trial measured it.{did_you_mean(metric, measured)}"
        raise RunError(Fault(f"--metric {metric}", what, allowed=f"Measured: {listed(measured)}."))
    return next(iter(measured))


@dataclass(frozen=True)
class Row:
    """Trials that differ in their seed alone.

    Args:
        given: Their swept values, without the seed.
        trials: The trials.
        value: The mean of their metric; None when none has one.
        low: With one trial its interval's lower end, with more the least.
        high: Its upper end, or the most.
        n: How many trials measured it.
    """

    given: Mapping[str, Any]
    trials: tuple[Trial, ...]
    value: float | None
    low: float | None
    high: float | None
    n: int


def ranked(trials: Sequence[Trial], metric: str) -> list[Row]:
    """Return the rows of a sweep's table, best first, those without the metric last."""
    groups: dict[str, list[Trial]] = {}
    for trial in trials:
        own = {name: value for name, value in trial.given.items() if name != "seed"}
        groups.setdefault(json.dumps(own, sort_keys=True, default=str), []).append(trial)
    rows = [_row(group, metric) for group in groups.values()]
    sign = -1 if _better(trials, metric) == "lower" else 1
    return sorted(rows, key=lambda row: -math.inf if row.value is None else sign * row.value, reverse=True)


def _row(group: Sequence[Trial], metric: str) -> Row:
    own = {name: value for name, value in group[0].given.items() if name != "seed"}
    found = [one for trial in group if (one := trial.measured(metric)) is not None]
    if not found:
        return Row(own, tuple(group), None, None, None, 0)
    values = [one.value for one in found]
    low, high = (found[0].low, found[0].high) if len(found) == 1 else (min(values), max(values))
    return Row(own, tuple(group), statistics.mean(values), low, high, len(found))


def _better(trials: Sequence[Trial], metric: str) -> str:
    return next((one.better for trial in trials if (one := trial.measured(metric)) is not None), "higher")


def scores(trials: Sequence[Trial], metric: str) -> list[float]:
    """Return each trial's metric so that higher is better; -inf for one without."""
    sign = -1 if _better(trials, metric) == "lower" else 1
    found = [trial.measured(metric) for trial in trials]
    return [-math.inf if one is None else sign * one.value for one in found]
