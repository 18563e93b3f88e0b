"""How well scores find planted faults: AUROC and average precision with intervals, and the precision-recall curve."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kit.errors import DataError
from kit.result import Measurement

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROUNDS = 500
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")  # Okabe and Ito's
Floats = NDArray[np.float64]


def auroc(scores: ArrayLike, planted: ArrayLike) -> float:
    """Return how often a fault has a higher score than a good row; ties count half. Chance is 0.5.

    Args:
        scores: Higher for what looks faulty, shape (n,).
        planted: Whether it is, shape (n,).

    Source:
        Hanley and McNeil (1982), doi:10.1148/radiology.143.1.7063747.
    """
    from scipy.stats import rankdata

    given, bad = _both(scores, planted)
    positive = int(bad.sum())
    return float((rankdata(given)[bad].sum() - positive * (positive + 1) / 2) / (positive * (len(bad) - positive)))


def average_precision(scores: ArrayLike, planted: ArrayLike) -> float:
    """Return the mean precision at each fault found, from the highest score down; ties are taken together.

    Chance is the share of faults.
    """
    precision, recall = precision_recall(scores, planted)
    return float((np.diff(np.r_[0.0, recall]) * precision).sum())


def precision_recall(scores: ArrayLike, planted: ArrayLike) -> tuple[Floats, Floats]:
    """Return precision and recall at every threshold, the highest first; shapes (t,)."""
    given, bad = _both(scores, planted)
    order = np.argsort(-given, kind="stable")
    ends = np.flatnonzero(np.r_[np.diff(given[order]) != 0, True])
    found = np.cumsum(bad[order])[ends]
    return found / (ends + 1), found / bad.sum()


def found_faults(
    scores: Sequence[ArrayLike], planted: Sequence[ArrayLike], *, split: str, prefix: str = "", seed: int = 0
) -> dict[str, Measurement]:
    """Return AUROC and average precision of several seeds' scores, with intervals over rows.

    Args:
        scores: One array per seed, each of shape (n,).
        planted: Each seed's faults, likewise.
        split: The data it was measured on.
        prefix: Put before the names.
        seed: Of the bootstrap; rows are drawn once for all seeds.

    Returns:
        ``auroc`` and ``average_precision``.

    Raises:
        DataError: no seed, or one without faults or without good rows.
    """
    pairs = [_both(one, other) for one, other in zip(scores, planted, strict=True)]
    if not pairs or len({len(one) for one, _ in pairs}) > 1:
        raise DataError.of("detection", "needs scores of the same rows for each seed")
    rng, n = np.random.default_rng(seed), len(pairs[0][0])
    picks = [rng.integers(n, size=n) for _ in range(ROUNDS)]
    chance = float(np.mean([bad.mean() for _, bad in pairs]))
    measures: Mapping[str, tuple[Callable[[ArrayLike, ArrayLike], float], float]] = {
        "auroc": (auroc, 0.5), "average_precision": (average_precision, chance),
    }  # fmt: skip
    found = {}
    for name, (measure, baseline) in measures.items():
        value = float(np.mean([measure(*pair) for pair in pairs]))
        draws = [
            np.mean([measure(one[pick], bad[pick]) for one, bad in pairs])
            for pick in picks
            if all(0 < bad[pick].sum() < n for _, bad in pairs)
        ]
        low, high = np.quantile(draws, [0.025, 0.975])
        method = f"mean of {len(pairs)} seeds, percentile bootstrap over rows, {len(draws)} rounds"
        found[f"{prefix}{name}"] = Measurement(
            value, "share", n, float(low), float(high), method=method, baseline=baseline, split=split
        )
    return found


def precision_recall_figure(
    curves: Mapping[str, tuple[ArrayLike, ArrayLike]],
    *,
    marks: Mapping[str, tuple[float, float]] | None = None,
    title: str = "",
) -> Figure:
    """Return the precision-recall curves of several scores.

    Args:
        curves: Scores and planted faults by name.
        marks: Points to mark, as recall and precision by name.
        title: Above the figure.
    """
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(5.6, 3.8), layout="constrained")
    for colour, (name, (scores, planted)) in zip(COLOURS, curves.items(), strict=False):
        precision, recall = precision_recall(scores, planted)
        axis.plot(recall, precision, color=colour, linewidth=2, label=f"{name}, AUROC {auroc(scores, planted):.3f}")
    chance = float(np.mean([np.asarray(planted, dtype=bool).mean() for _, planted in curves.values()]))
    axis.axhline(chance, color="#999999", linestyle="--", linewidth=1, label="by lot")
    for shape, (name, (recall_at, precision_at)) in zip("DosX", (marks or {}).items(), strict=False):
        axis.plot(recall_at, precision_at, shape, color="black", markersize=7, label=name)
    axis.set(title=title or "Planted faults", xlabel="recall (share of faults found)", ylabel="precision (share)")
    axis.set(xlim=(0, 1), ylim=(0, 1.02))
    axis.legend(fontsize=8)
    return figure


def _both(scores: ArrayLike, planted: ArrayLike) -> tuple[Floats, NDArray[np.bool_]]:
    given, bad = np.asarray(scores, dtype=np.float64), np.asarray(planted, dtype=bool)
    if given.ndim != 1 or given.shape != bad.shape or not np.isfinite(given).all() or not 0 < bad.sum() < len(bad):
        what = f"scores {given.shape} and faults {bad.shape}, {int(bad.sum())} of them"
        raise DataError.of("detection", what, "give one finite score per row, of faults and of good rows")
    return given, bad
