"""How large one difference is beside another: what a child keeps of a score, what cleaning recovers of a loss."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kit.errors import DataError, Fault, raise_faults
from kit.result import Measurement

ROUNDS = 2000
_BLOCK = 4_000_000  # weights in memory at a time: 32 MB


def share_of(
    part: ArrayLike,
    whole: ArrayLike,
    *,
    split: str,
    clusters: Sequence[object] | None = None,
    what: str = "",
    level: float = 0.95,
    seed: int = 0,
) -> Measurement:
    """Return the mean of ``part`` over the mean of ``whole``, both of the same rows.

    Rows are drawn together, so that what makes a row hard for both is no noise.

    Args:
        part: One number per row, averaged over seeds, shape (n,): what is kept, or what was gained back.
        whole: Likewise: what there was, or what had been lost.
        split: The data it was measured on.
        clusters: One label per row, where rows are not independent; shape (n,).
        what: What is divided by what, in words; for the method.
        level: Nominal coverage.
        seed: Of the bootstrap.

    Returns:
        The ratio with its bootstrap interval. The interval has no ends, and the method says so, where the whole is
        not above 0 in more of the draws than an interval leaves out: a share of nothing is any number.

    Raises:
        DataError: shapes that do not fit, numbers that are not finite, or a whole whose mean is not above 0.
    """
    own, all_of_it = np.asarray(part, dtype=np.float64), np.asarray(whole, dtype=np.float64)
    labels = list(range(len(own))) if clusters is None else list(clusters)
    _check(own, all_of_it, labels)
    draws = _draws(own, all_of_it, labels, seed)
    nothing = float((draws[:, 1] <= 0).mean())
    method = f"{what}{', ' if what else ''}ratio of means over the same rows"
    value = float(own.mean() / all_of_it.mean())
    if nothing > (1 - level) / 2:
        method += f"; no interval: the whole is not above 0 in {nothing:.0%} of {ROUNDS} draws"
        return Measurement(value, "share", len(own), method=method, split=split)
    kept = draws[draws[:, 1] > 0]
    low, high = np.quantile(kept[:, 0] / kept[:, 1], [(1 - level) / 2, (1 + level) / 2])
    unit = "items" if clusters is None else "clusters"
    method += f", percentile bootstrap over {unit}, {ROUNDS} rounds"
    return Measurement(value, "share", len(own), float(low), float(high), level, method=method, split=split)


def _draws(
    part: NDArray[np.float64], whole: NDArray[np.float64], labels: Sequence[object], seed: int
) -> NDArray[np.float64]:
    """Return sums of both in each draw of clusters, shape (rounds, 2)."""
    known: dict[object, int] = {}
    codes = np.array([known.setdefault(label, len(known)) for label in labels])
    k = len(known)
    sums = np.stack([np.bincount(codes, weights=one, minlength=k) for one in (part, whole)], axis=1)
    generator, found = np.random.default_rng(seed), []
    size, even = max(1, _BLOCK // k), np.full(k, 1 / k)
    for start in range(0, ROUNDS, size):
        weights = generator.multinomial(k, even, size=min(size, ROUNDS - start))
        found.append(weights @ sums)
    return np.concatenate(found)


def _check(part: NDArray[np.float64], whole: NDArray[np.float64], labels: Sequence[object]) -> None:
    faults = []
    if part.ndim != 1 or part.shape != whole.shape or not part.size or len(labels) != len(part):
        what = (
            f"one number per row is needed on each side, got shapes {part.shape}, {whole.shape}, {len(labels)} labels"
        )
        faults.append(Fault("share", what))
    elif not (np.isfinite(part).all() and np.isfinite(whole).all()):
        faults.append(Fault("share", "some numbers are not finite"))
    elif whole.mean() <= 0:
        faults.append(Fault("share", f"the whole is {whole.mean():.3g} on average, and a share of that says nothing"))
    raise_faults(faults, DataError)
