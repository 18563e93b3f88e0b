"""How probable it is that a caption belongs to another picture, judged against captions that certainly do.

How well strangers fit, a picture and a caption of another row, is known for every data set: there are n * (n - 1) of
them. A caption that was mixed up is such a stranger, so the share of strangers that fit at least as well is spread
evenly for mixed-up captions, and near 0 for right ones. How many are even tells how many were mixed up.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kit.errors import DataError

# Hardly any right caption lies above (Storey's lambda); at 0.5 a share of 5% came out doubled, at 0.8 a fifth too big.
_EVEN = 0.9
FEWEST = 50


@dataclass(frozen=True)
class Strangers:
    """What was found of some rows.

    Args:
        probability: That a row's caption is a stranger's, shape (n,).
        share: The share of rows whose caption is.
    """

    probability: NDArray[np.float64]
    share: float


def beyond(scores: ArrayLike, strangers: ArrayLike) -> NDArray[np.float64]:
    """Return for each score the share of strangers that reach it, above 0 and at most 1, shape (n,).

    Args:
        scores: How well rows' own captions fit, higher is better; shape (n,).
        strangers: How well captions of other rows fit, by the same model; shape (m,).

    Source:
        Phipson and Smyth (2010), arXiv:1603.05766: the own score is counted among them, so that none is 0.
    """
    known = np.sort(np.asarray(strangers, dtype=np.float64).ravel())
    reached = len(known) - np.searchsorted(known, np.asarray(scores, dtype=np.float64), side="left")
    found: NDArray[np.float64] = (reached + 1) / (len(known) + 1)
    return found


def stranger_probability(reached: ArrayLike) -> Strangers:
    """Return how probable it is that each caption is a stranger's.

    Args:
        reached: From ``beyond``; shape (n,), n >= 50.

    Returns:
        The local false discovery rate: what an even spread contributes where a row lies, over how many rows lie there
        at all, by the steepest decreasing density.

    Raises:
        DataError: fewer, or numbers outside of 0 to 1.

    Source:
        Storey (2002), doi:10.1111/1467-9868.00346, for the share; Strimmer (2008), doi:10.1186/1471-2105-9-303, for the
        density.
    """
    p = np.asarray(reached, dtype=np.float64)
    if p.ndim != 1 or len(p) < FEWEST or not ((p >= 0) & (p <= 1)).all():
        what = f"needs at least {FEWEST} shares in [0, 1], got shape {p.shape}"
        raise DataError.of("strangers", what, "give a threshold instead")
    share = min(1.0, float((p > _EVEN).mean()) / (1 - _EVEN))
    return Strangers(np.minimum(1.0, share / _decreasing_density(p)), share)


def _decreasing_density(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the density at each number by the slopes of the least concave majorant (Grenander, 1956)."""
    x, counts = np.unique(p, return_counts=True)
    x, y = np.r_[0.0, x], np.r_[0.0, np.cumsum(counts) / len(p)]
    if x[-1] < 1:
        x, y = np.r_[x, 1.0], np.r_[y, 1.0]
    corners: list[int] = []
    for place in range(len(x)):
        while len(corners) > 1 and _below(x, y, corners[-2], corners[-1], place):
            corners.pop()
        corners.append(place)
    widths = np.maximum(np.diff(x[corners]), np.finfo(np.float64).tiny)
    slopes = np.diff(y[corners]) / widths
    at = np.clip(np.searchsorted(x[corners], p, side="left") - 1, 0, len(slopes) - 1)
    found: NDArray[np.float64] = slopes[at]
    return found


def _below(x: NDArray[np.float64], y: NDArray[np.float64], left: int, middle: int, right: int) -> bool:
    """Return whether the middle point lies on or below the line through the others."""
    return bool((y[middle] - y[left]) * (x[right] - x[left]) <= (y[right] - y[left]) * (x[middle] - x[left]))
