"""Where a list of numbers falls into a low and a high group: two Gaussians, fitted without knowing any label."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kit.errors import DataError

_ROUNDS = 500
_ENOUGH = 1e-9  # nats a row, by which the likelihood must still rise
FEWEST = 20


@dataclass(frozen=True)
class TwoGroups:
    """Two Gaussians.

    Args:
        means: The low group's and the high group's mean.
        deviations: Their standard deviations.
        low_share: The share of numbers that the low group has.
    """

    means: tuple[float, float]
    deviations: tuple[float, float]
    low_share: float

    def low(self, values: ArrayLike) -> NDArray[np.float64]:
        """Return each number's probability to be of the low group.

        It falls with the number: beyond the low group's mean the wider Gaussian's far tail is not followed.
        """
        x = np.asarray(values, dtype=np.float64)
        held = np.clip(x, *self.means)
        logs = [
            np.log(share) - np.log(deviation) - ((held - mean) / deviation) ** 2 / 2
            for share, mean, deviation in zip(
                (self.low_share, 1 - self.low_share), self.means, self.deviations, strict=True
            )
        ]
        found: NDArray[np.float64] = 1 / (1 + np.exp(np.clip(logs[1] - logs[0], -500, 500)))
        return found

    def border(self, surest: float = 0.5) -> float:
        """Return the number up to which one is of the low group with this probability; a mean where none is."""
        low, high = self.means
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if self.low([middle])[0] > surest else (low, middle)
        return (low + high) / 2


def two_groups(values: ArrayLike) -> TwoGroups:
    """Return the two Gaussians that fit numbers best, by expectation and maximisation from a split at the median.

    Args:
        values: At least 20 finite numbers that are not all equal, shape (n,).

    Raises:
        DataError: fewer, or numbers that are all equal or not finite.

    Source:
        As losses are split into clean and noisy by Li et al. (2020), section 3.1, arXiv:2002.07394.
    """
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1 or len(x) < FEWEST or not np.isfinite(x).all() or x.min() == x.max():
        what = f"needs at least {FEWEST} finite numbers that are not all equal, got {x.size}"
        raise DataError.of("two groups", what, "give a threshold instead")
    centre, scale = x.mean(), x.std()
    z = (x - centre) / scale
    low = (z < np.median(z)).astype(np.float64)
    low = low if 0 < low.sum() < len(low) else (z <= np.median(z)).astype(np.float64)
    likelihood = -np.inf
    for _ in range(_ROUNDS):
        weights = np.stack([low, 1 - low]) + 1e-12
        share = weights.sum(1) / weights.sum()
        mean = weights @ z / weights.sum(1)
        deviation = np.sqrt((weights * (z - mean[:, None]) ** 2).sum(1) / weights.sum(1) + 1e-4)
        logs = np.log(share / deviation)[:, None] - ((z - mean[:, None]) / deviation[:, None]) ** 2 / 2
        total = np.logaddexp(*logs)
        low = np.exp(logs[0] - total)
        if total.mean() - likelihood < _ENOUGH:
            break
        likelihood = total.mean()
    first, second = np.argsort(mean)
    means, deviations = mean * scale + centre, deviation * scale
    return TwoGroups(
        (float(means[first]), float(means[second])), (float(deviations[first]), float(deviations[second])),
        float(share[first]),
    )  # fmt: skip
