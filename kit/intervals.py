"""Intervals for shares and means: exact, bootstrap, and bootstrap by cluster (numpy; scipy for the exact ones)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class Interval:
    """A confidence interval, in the unit of what it is about.

    Args:
        low: Lower end.
        high: Upper end; low <= high.
        level: Nominal coverage, 0 < level < 1.
        method: How it was made, in words a methods section could print.
    """

    low: float
    high: float
    level: float
    method: str


def bootstrap(
    values: ArrayLike,
    *,
    statistic: str = "mean",
    clusters: Sequence[object] | None = None,
    level: float = 0.95,
    rounds: int = 2000,
    seed: int = 0,
) -> Interval:
    """Return the percentile bootstrap interval of a mean or a median.

    Args:
        values: One number per item, shape (n,), n >= 1.
        statistic: "mean" or "median".
        clusters: One label per item, shape (n,). When given, whole clusters are drawn instead of items, because
            items of one cluster (pictures of one concept, answers about one picture) are not independent.
        level: Nominal coverage, 0 < level < 1.
        rounds: Bootstrap rounds.
        seed: Seed of the resampling; the same seed gives the same interval.

    Returns:
        The interval, in the unit of ``values``. With a single item or cluster it has no width.

    Raises:
        ValueError: no values, values that are no numbers, unequal lengths, an unknown statistic, a level or a number of
            rounds out of range.

    Source:
        Efron and Tibshirani (1993), chapter 13; Field and Welsh (2007) for clusters.
    """
    numbers = np.asarray(values, dtype=np.float64)
    if numbers.ndim != 1 or not numbers.size:
        raise ValueError(f"values: one number per item is needed, got shape {numbers.shape}")
    if not np.isfinite(numbers).all():
        raise ValueError(f"values: {int((~np.isfinite(numbers)).sum())} of {numbers.size} are no finite numbers")
    if not 0 < level < 1 or rounds < 1:
        raise ValueError(f"level: above 0 and below 1, rounds: at least 1; got {level} and {rounds}")
    if statistic not in {"mean", "median"}:
        raise ValueError(f"statistic: 'mean' or 'median', got {statistic!r}")
    if clusters is not None and len(clusters) != numbers.size:
        raise ValueError(f"clusters: {len(clusters)} labels for {numbers.size} values")
    generator = np.random.default_rng(seed)
    if clusters is None:
        draws, unit = _resample_items(numbers, statistic, rounds, generator), "items"
    else:
        draws, unit = _resample_clusters(numbers, clusters, statistic, rounds, generator), "clusters"
    tail = (1 - level) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    return Interval(float(low), float(high), level, f"percentile bootstrap over {unit}, {rounds} rounds")


def _resample_items(
    numbers: NDArray[np.float64], statistic: str, rounds: int, generator: np.random.Generator
) -> NDArray[np.float64]:
    reduce = np.mean if statistic == "mean" else np.median
    block = max(1, 4_000_000 // numbers.size)  # 32 MB of float64 at a time
    parts = []
    for start in range(0, rounds, block):
        picks = generator.integers(numbers.size, size=(min(block, rounds - start), numbers.size))
        parts.append(reduce(numbers[picks], axis=1))
    return np.concatenate(parts)


def _resample_clusters(
    numbers: NDArray[np.float64],
    clusters: Sequence[object],
    statistic: str,
    rounds: int,
    generator: np.random.Generator,
) -> NDArray[np.float64]:
    labels: dict[object, int] = {}
    codes = np.array([labels.setdefault(label, len(labels)) for label in clusters])
    k = len(labels)
    if statistic == "mean":
        # A cluster bootstrap of a mean needs only each cluster's sum and size: draw how often each is taken.
        sums, sizes = np.bincount(codes, weights=numbers), np.bincount(codes)
        means = []
        block = max(1, 4_000_000 // k)  # 32 MB at a time
        for start in range(0, rounds, block):
            weights = generator.multinomial(k, np.full(k, 1 / k), size=min(block, rounds - start))
            means.append((weights @ sums) / (weights @ sizes))
        return np.concatenate(means).astype(np.float64)
    members = [numbers[codes == code] for code in range(k)]
    picks = generator.integers(k, size=(rounds, k))
    return np.array([np.median(np.concatenate([members[code] for code in row])) for row in picks])


def exact(successes: int, n: int, *, level: float = 0.95) -> Interval:
    """Return the Clopper-Pearson interval of a share.

    Args:
        successes: How many of n succeeded, 0 <= successes <= n.
        n: Trials, n >= 1.
        level: Nominal coverage; the real coverage is never below it.

    Returns:
        The interval, a share in [0, 1].

    Source:
        Clopper and Pearson (1934), Biometrika 26, 404-413.
    """
    from scipy.stats import binomtest  # 0.4 s, and only who asks pays

    found = binomtest(successes, n).proportion_ci(confidence_level=level, method="exact")
    return Interval(float(found.low), float(found.high), level, "Clopper-Pearson exact")
