"""Krippendorff's alpha: how much raters agree beyond chance, with an interval."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kit.errors import did_you_mean, listed
from kit.humaneval.errors import StudyError
from kit.humaneval.table import FIRST, LEFT, RIGHT, VoteTable
from kit.result import Measurement

METRICS = ("nominal", "ordinal", "interval")
Floats = NDArray[np.float64]


def agreement(table: VoteTable, *, rounds: int = 1000, level: float = 0.95, seed: int = 0) -> Measurement:
    """Return how much raters agree on which output is better, tie and both bad being answers of their own.

    Args:
        table: Votes; first times count.
        rounds: Bootstrap rounds.
        level: Nominal coverage.
        seed: Seed of the resampling.

    Raises:
        StudyError: no pair of outputs that two raters judged, or all answers alike.
    """
    votes = table.only((table.kind == FIRST) & (table.left != table.right))
    low, high = np.minimum(votes.left, votes.right), np.maximum(votes.left, votes.right)
    units = np.unique(np.stack([votes.item, low, high]), axis=1, return_inverse=True)[1].ravel()
    swapped = (votes.left != low) & (votes.answer <= RIGHT)
    answers = np.where(swapped, LEFT + RIGHT - votes.answer, votes.answer)
    return krippendorff_alpha(answers, units, rounds=rounds, level=level, seed=seed)


def krippendorff_alpha(
    values: ArrayLike,
    units: ArrayLike,
    *,
    metric: str = "nominal",
    rounds: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Measurement:
    """Return Krippendorff's alpha with the percentile interval of a bootstrap over units.

    Args:
        values: One rating each, as numbers, shape (n,).
        units: What each rating is of, shape (n,). Units with a single rating tell nothing and are left out.
        metric: "nominal" (names), "ordinal" (points of a rubric) or "interval" (differences mean something).
        rounds: Bootstrap rounds.
        level: Nominal coverage.
        seed: Seed of the resampling.

    Returns:
        Alpha: 1 for perfect agreement, 0 for chance. n is the number of units.

    Raises:
        StudyError: no unit with two ratings, all values alike, or no such metric.

    Source:
        Krippendorff (2011), "Computing Krippendorff's Alpha-Reliability", University of Pennsylvania; Hayes and
        Krippendorff (2007), Communication Methods and Measures 1, 77-89.
    """
    if metric not in METRICS:
        what = f"no such metric: {metric!r}.{did_you_mean(metric, METRICS)}"
        raise StudyError.of("agreement", what, allowed=f"Metrics: {listed(METRICS)}.")
    codes, value = np.unique(np.asarray(values), return_inverse=True)
    unit = np.unique(np.asarray(units), return_inverse=True)[1]
    counts = np.zeros((int(unit.max(initial=-1)) + 1, len(codes)))
    np.add.at(counts, (unit, value), 1)
    counts = counts[counts.sum(1) > 1]
    if not len(counts):
        raise StudyError.of("agreement", "nothing was judged by two raters", "give raters the same items")
    if (counts.sum(0) > 0).sum() < 2:
        raise StudyError.of("agreement", "all answers are alike, so that agreement cannot be told from chance")
    generator = np.random.default_rng(seed)
    picks = generator.multinomial(len(counts), np.full(len(counts), 1 / len(counts)), size=rounds)
    weights = np.concatenate([np.ones((1, len(counts))), picks])
    found = _alphas(counts, codes.astype(np.float64), weights, metric)
    tail = (1 - level) / 2
    low, high = np.nanquantile(found[1:], [tail, 1 - tail])
    method = f"Krippendorff's alpha, {metric}; percentile bootstrap over units, {rounds} rounds"
    return Measurement(float(found[0]), "alpha", len(counts), float(low), float(high), level, method, baseline=0.0)


def _alphas(counts: Floats, codes: Floats, weights: Floats, metric: str) -> Floats:
    """Return alpha for each row of unit weights, shape (k, units); nan where a sample has one value only."""
    c = len(codes)
    sizes = counts.sum(1)[:, None, None]
    together = counts[:, :, None] * counts[:, None, :] - np.eye(c) * counts[:, :, None]
    coincidences = (weights @ (together / (sizes - 1)).reshape(len(counts), -1)).reshape(-1, c, c)
    marginals = coincidences.sum(2)
    total = marginals.sum(1)
    distance = _distances(codes, marginals, metric)
    observed = (coincidences * distance).sum((1, 2))
    expected = (marginals[:, :, None] * marginals[:, None, :] * distance).sum((1, 2))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(expected > 0, 1 - (total - 1) * observed / expected, np.nan)


def _distances(codes: Floats, marginals: Floats, metric: str) -> NDArray[Any]:
    """Return squared distances of values, shape (k, c, c) or (c, c)."""
    if metric == "nominal":
        return 1 - np.eye(len(codes))
    if metric == "interval":
        return (codes[:, None] - codes[None, :]) ** 2
    # Ordinal: the ratings between two values, half of the ends' own.
    middle = np.cumsum(marginals, axis=1) - marginals / 2
    return (middle[:, :, None] - middle[:, None, :]) ** 2
