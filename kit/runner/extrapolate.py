"""What a notebook without figures will take: cell by cell, from small runs of itself."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kit.errors import RecipeError
from kit.runner.execute import EXECUTED
from kit.runner.machines import Machine
from kit.runner.predict import Prediction
from kit.runner.run import Run

LEAST_S = 0.05  # a cell below this tells nothing about its growth: its own jitter is as large


@dataclass(frozen=True)
class Trial:
    """One small run.

    Args:
        values: Its effective parameters.
        cells: Seconds of each of its code cells, in order.
        wall_s: Seconds in all, starting the kernel included.
        peak_gib: Largest resident memory, GiB.
    """

    values: Mapping[str, Any]
    cells: tuple[float, ...]
    wall_s: float
    peak_gib: float

    @classmethod
    def of(cls, run: Run) -> Trial:
        """Return what a finished run tells."""
        cells = json.loads((run.path / EXECUTED).read_text(encoding="utf-8"))["cells"]
        seconds = tuple(_seconds(cell) for cell in cells if cell["cell_type"] == "code")
        return cls(run.record["parameters"], seconds, run.record["wall_s"], run.record["peak_rss_gib"])


def _seconds(cell: Mapping[str, Any]) -> float:
    """Return how long a cell ran, as papermill noted."""
    found = cell.get("metadata", {}).get("papermill", {})
    if not found.get("start_time") or not found.get("end_time"):
        return 0.0
    began, ended = (dt.datetime.fromisoformat(found[name]) for name in ("start_time", "end_time"))
    return max(0.0, (ended - began).total_seconds())


def growing(small: Mapping[str, Any], wanted: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the dials that differ: whole numbers of which there are more, or fewer, than in the small run.

    Fractions such as a learning rate change what is computed and not how much; a seed neither.
    """
    return tuple(
        sorted(
            name
            for name, value in wanted.items()
            if _counts(value) and _counts(small.get(name)) and value != small[name] and name != "seed"
        )
    )


def _counts(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def doubled(small: Mapping[str, Any], wanted: Mapping[str, Any], dial: str) -> dict[str, Any]:
    """Return the small run's value of one dial doubled, no further than the wanted one."""
    value = small[dial]
    return {dial: min(2 * value, wanted[dial]) if wanted[dial] > value else max(1, value // 2)}


def extrapolate(base: Trial, others: Mapping[str, Trial], wanted: Mapping[str, Any], machine: Machine) -> Prediction:
    """Return what the wanted values will take.

    Each cell grows with each dial by the share of its time that grew when that dial alone did; the shares of several
    dials are multiplied, as passes over rows are. Memory grows by sums.

    Args:
        base: The smallest run.
        others: By dial the run in which that dial alone was another.
        wanted: Effective parameters to predict.
        machine: Where all of them ran.

    Raises:
        RecipeError: the runs are not of one notebook.
    """
    if any(len(other.cells) != len(base.cells) for other in others.values()):
        raise RecipeError.of("kit plan", "the small runs have different cells", "do not change the notebook meanwhile")
    work = sum(_cell(base, others, wanted, place) for place in range(len(base.cells)))
    overhead = max(0.0, base.wall_s - sum(base.cells))
    peak = base.peak_gib
    for dial, other in others.items():
        peak += max(0.0, _slope(base.peak_gib, other.peak_gib, base, other, dial)) * (wanted[dial] - base.values[dial])
    runs = 1 + len(others)
    basis = f"extrapolated from {runs} small run{'s' if runs > 1 else ''} of {total_s(base, *others.values()):.0f} s"
    if others:
        basis += f", growth with {', '.join(others)}"
    return Prediction(machine, {"start": overhead, "cells": work}, max(peak, 0.05), basis=basis)


def _cell(base: Trial, others: Mapping[str, Trial], wanted: Mapping[str, Any], place: int) -> float:
    seconds = base.cells[place]
    factor = 1.0
    for dial, other in others.items():
        if max(seconds, other.cells[place]) < LEAST_S:
            continue
        slope = _slope(seconds, other.cells[place], base, other, dial)
        share = slope * base.values[dial] / max(seconds, LEAST_S / 10)
        factor *= 1 + max(0.0, share) * (wanted[dial] / base.values[dial] - 1)
    return max(0.0, seconds * factor)


def _slope(before: float, after: float, base: Trial, other: Trial, dial: str) -> float:
    return (after - before) / float(other.values[dial] - base.values[dial])


def total_s(*trials: Trial) -> float:
    """Return the seconds of these runs together."""
    return sum(one.wall_s for one in trials)


def shown(dials: Sequence[str], small: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """Return the dials as people read them: ``epochs 1 → 100``."""
    return ", ".join(f"{dial} {small[dial]} → {wanted[dial]}" for dial in dials)
