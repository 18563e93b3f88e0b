"""Two models, a cheap one first: what is answered at which cost when it hands over what it is not sure of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kit.errors import DataError, Fault, raise_faults
from kit.intervals import bootstrap
from kit.result import Measurement

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CASCADE, LOT = "#0072b2", "#999999"  # Okabe and Ito's blue, and grey


@dataclass(frozen=True)
class Curve:
    """A cascade at every threshold.

    Args:
        threshold: The first model's answer stands where it is at least so sure; ascending, shape (t,).
        handed: The share of questions that go on to the second model, shape (t,).
        accuracy: The share answered right, shape (t,).
        cost: Mean cost of a question, in the unit of the costs, shape (t,).
    """

    threshold: NDArray[np.float64]
    handed: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    cost: NDArray[np.float64]

    def cheapest(self, at_least: float) -> float:
        """Return the lowest threshold of this accuracy, or that of the best accuracy where none has it."""
        good = np.flatnonzero(self.accuracy >= at_least)
        return float(self.threshold[good[0] if len(good) else int(self.accuracy.argmax())])


def cascade(sure: ArrayLike, first: ArrayLike, second: ArrayLike, *, costs: tuple[float, float]) -> Curve:
    """Return a cascade's accuracy and cost at every threshold there is.

    Args:
        sure: How sure the first model is of its answers, shape (n,).
        first: Whether its answers are right, 0 to 1, shape (n,).
        second: Whether the second model's are, shape (n,).
        costs: What a question costs each of them, in one unit (seconds, products); who hands over pays both.

    Raises:
        DataError: shapes that do not fit, numbers that are not finite, or costs that are not above 0.

    Source:
        Chen et al. (2023), FrugalGPT, arXiv:2305.05176, section 3.
    """
    s, one, other = (np.asarray(values, dtype=np.float64) for values in (sure, first, second))
    _check(s, one, other, costs)
    order = np.argsort(s, kind="stable")
    ordered = s[order]
    # At threshold t all rows with less are handed over: those before the first that is as sure as t.
    borders = np.r_[np.flatnonzero(np.r_[True, ordered[1:] > ordered[:-1]]), len(s)]
    right = np.r_[0.0, np.cumsum(other[order])] + np.r_[np.cumsum(one[order][::-1])[::-1], 0.0]
    threshold = np.r_[ordered[borders[:-1]], np.inf]
    handed = borders / len(s)
    return Curve(threshold, handed, right[borders] / len(s), costs[0] + handed * costs[1])


def cascade_at(
    threshold: float,
    sure: ArrayLike,
    first: ArrayLike,
    second: ArrayLike,
    *,
    costs: tuple[float, float],
    split: str,
    clusters: Sequence[object] | None = None,
) -> dict[str, Measurement]:
    """Return what a cascade does at a threshold that other rows chose.

    Args:
        threshold: From ``Curve.cheapest`` on validation rows.
        sure: As for ``cascade``.
        first: Likewise.
        second: Likewise.
        costs: Likewise.
        split: The data it is measured on.
        clusters: One label per row, where rows are not independent; shape (n,).

    Returns:
        ``cascade_accuracy``; ``cascade_loss``: what the second model alone would have more, paired row by row;
        ``cascade_cost``: over the second model's alone; ``cascade_handed``.

    Raises:
        DataError: as ``cascade``.
    """
    s, one, other = (np.asarray(values, dtype=np.float64) for values in (sure, first, second))
    _check(s, one, other, costs)
    gone = s < threshold
    right = np.where(gone, other, one)
    cost = (costs[0] + gone * costs[1]) / costs[1]
    found = {}
    for name, values, unit, better in (
        ("accuracy", right, "share", "higher"), ("loss", other - right, "share", "lower"),
        ("cost", cost, "x", "lower"), ("handed", gone.astype(np.float64), "share", "neither"),
    ):  # fmt: skip
        interval = bootstrap(values, clusters=clusters)
        found[f"cascade_{name}"] = Measurement(
            float(values.mean()), unit, len(values), interval.low, interval.high,
            method=f"threshold {threshold:.3g} chosen on other rows, {interval.method}", split=split, better=better,
        )  # fmt: skip
    return found


def cascade_figure(curve: Curve, *, chosen: float | None = None, unit: str = "s", title: str = "") -> Figure:
    """Return a cascade's accuracy over its cost, beside handing over by lot.

    Args:
        curve: From ``cascade``.
        chosen: A threshold to mark.
        unit: Of the costs.
        title: Above the figure.
    """
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(6, 3.6), layout="constrained")
    ends = [0, len(curve.cost) - 1]
    axis.plot(curve.cost[ends], curve.accuracy[ends], "--", color=LOT, label="handing over by lot")
    axis.plot(curve.cost, curve.accuracy, color=CASCADE, linewidth=2, label="handing over when unsure")
    for end, name, align, rise in ((0, "first alone", "left", -14), (-1, "both, always", "right", 8)):
        axis.plot(curve.cost[end], curve.accuracy[end], "o", color=CASCADE)
        axis.annotate(
            name, (curve.cost[end], curve.accuracy[end]), (0, rise), textcoords="offset points", ha=align, fontsize=8
        )
    if chosen is not None:
        at = min(int(np.searchsorted(curve.threshold, chosen)), len(curve.cost) - 1)
        axis.plot(curve.cost[at], curve.accuracy[at], "D", color="#d55e00", markersize=8, label="chosen on validation")
    axis.set(title=title or "What sureness buys", xlabel=f"mean cost of a question ({unit})", ylabel="accuracy (share)")
    axis.margins(y=0.2)
    axis.legend(loc="lower right", fontsize=8)
    return figure


def _check(
    sure: NDArray[np.float64], first: NDArray[np.float64], second: NDArray[np.float64], costs: tuple[float, float]
) -> None:
    faults = []
    if sure.ndim != 1 or not sure.size or not sure.shape == first.shape == second.shape:
        faults.append(
            Fault("cascade", f"three numbers per row are needed, got {sure.shape}, {first.shape}, {second.shape}")
        )
    elif not all(np.isfinite(one).all() for one in (sure, first, second)):
        faults.append(Fault("cascade", "some numbers are not finite"))
    if not all(np.isfinite(one) and one > 0 for one in costs):
        faults.append(Fault("cascade: costs", f"must be above 0, got {costs}"))
    raise_faults(faults, DataError)
