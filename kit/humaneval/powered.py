"""Prediction-powered intervals: a judge's scores make human votes go further and cannot mislead them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from kit.errors import Fault
from kit.humaneval.errors import StudyError
from kit.humaneval.sequential import score_by_item
from kit.humaneval.table import VoteTable
from kit.result import Measurement


@dataclass(frozen=True)
class Powered:
    """An estimate that rests on people and is sharpened by a judge.

    Args:
        mean: The estimate; n is the number of items that people judged.
        effective: As many items judged by people alone would be as sure.
        weight: How much a point of the judge counted: 0 for a useless judge, below 0 for one who has it backwards.
    """

    mean: Measurement
    effective: float
    weight: float


def powered_win_share(
    table: VoteTable, first: str, second: str, judge: Mapping[str, float], *, level: float = 0.95
) -> Powered:
    """Return the first model's share of wins over the second, ties as half, with a judge's help.

    Args:
        table: Votes of people; the mean of an item's votes counts.
        first: One model.
        second: The other one.
        judge: The judge's score of the first against the second for each item, 1 for a win and 0 for a loss; for the
            items that people judged, and for as many others of the same kind as there are.
        level: Nominal coverage.

    Raises:
        StudyError: no such model, an item that people judged and the judge did not, or too few of either.
    """
    scores = score_by_item(table, first, second)
    missing = [name for name in scores if name not in judge]
    if missing:
        what = f"no score of the judge for {len(missing)} items that people judged, the first being {missing[0]!r}"
        raise StudyError.of("prediction-powered", what, "let the judge score every item that people judged")
    elsewhere = [score for name, score in judge.items() if name not in scores]
    return powered_mean(list(scores.values()), [judge[name] for name in scores], elsewhere, level=level)


def powered_mean(human: ArrayLike, judge: ArrayLike, elsewhere: ArrayLike, *, level: float = 0.95) -> Powered:
    """Return the mean of what people would say of all items, from a few that they judged and a judge of all.

    The judge's mean elsewhere is corrected by the judge's error where people judged too, so that a judge who is wrong,
    biased or random costs nothing but the interval's width; the weight that makes it narrowest is estimated.

    Args:
        human: People's scores, one per item, shape (n,), n >= 2.
        judge: The judge's scores of the same items, shape (n,).
        elsewhere: The judge's scores of other items, drawn as these were, shape (N,), N >= 2.
        level: Nominal coverage.

    Raises:
        StudyError: unequal lengths, too few, or numbers that are not finite; all faults at once.

    Source:
        Angelopoulos et al. (2023), Science 382, 669-674, arXiv:2301.09633; PPI++, arXiv:2311.01453, for the weight.
    """
    from scipy.stats import t

    people, scored, others = (np.asarray(one, np.float64) for one in (human, judge, elsewhere))
    faults = [
        Fault(f"prediction-powered: {name}", f"at least two finite numbers are needed, got {len(values)}")
        for name, values in (("human", people), ("judge", scored), ("elsewhere", others))
        if len(values) < 2 or not np.isfinite(values).all()
    ]
    if len(people) != len(scored):
        faults.append(Fault("prediction-powered: judge", f"{len(scored)} scores for {len(people)} items"))
    if faults:
        raise StudyError(faults)
    n, more = len(people), len(others)
    everywhere = np.concatenate([scored, others]).var(ddof=1)
    covariance = float(np.cov(people, scored)[0, 1])
    weight = covariance / float((1 + n / more) * everywhere) if everywhere > 0 else 0.0
    mean = weight * others.mean() + (people - weight * scored).mean()
    variance = weight**2 * others.var(ddof=1) / more + (people - weight * scored).var(ddof=1) / n
    reach = float(t.ppf((1 + level) / 2, n - 1) * np.sqrt(variance))
    effective = float(people.var(ddof=1) / variance) if variance > 0 else float(n)
    method = f"prediction-powered, judge's weight {weight:.2f}: as sure as {effective:.0f} items judged by people alone"
    found = Measurement(float(mean), "share", n, float(mean - reach), float(mean + reach), level, method, 0.5)
    return Powered(found, effective, weight)
