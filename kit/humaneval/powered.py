"""Prediction-powered intervals: a judge's scores make human votes go further and cannot mislead them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from kit.errors import Fault, did_you_mean, listed, raise_faults
from kit.humaneval.errors import StudyError
from kit.humaneval.files import read_rows
from kit.humaneval.sequential import score_by_item
from kit.humaneval.table import VoteTable
from kit.result import Measurement

MOST = 20  # faults told of one file


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


@dataclass(frozen=True)
class PoweredPair:
    """What people and a judge together say of two models.

    Args:
        first: One model.
        second: The other one.
        share: The first's share of wins, ties as half.
    """

    first: str
    second: str
    share: Powered

    def to_text(self) -> str:
        """Return it in a sentence."""
        one = self.share.mean
        what = f"{self.first} wins {one.value:.3f} [{one.low:.3f}, {one.high:.3f}] against {self.second}"
        return f"{what}, by {one.n} items that people judged; {one.method}"


def read_judge(path: Path) -> dict[str, dict[str, float]]:
    """Return a judge's points for outputs, by item and condition, from a file of rows.

    Each row has an ``item`` and a column for each condition, such as ``item,base,adapted``. Points are numbers on any
    scale, more for the better one: of a reward model, of a language model that judges, of a metric.

    Args:
        path: CSV, Parquet, JSONL or JSON.

    Raises:
        StudyError: it cannot be read, has no such columns, or something in it is no finite number; all faults at once.
    """
    found: dict[str, dict[str, float]] = {}
    faults = []
    for line, row in read_rows(path):
        where = f"{path}, line {line}"
        name, points = row.get("item"), {key: value for key, value in row.items() if key != "item"}
        if name in (None, "") or not points:
            what = f"needs an item and a column for each condition, has {listed(row)}"
            raise StudyError.of(where, what, "begin the file with a line such as item,base,adapted")
        if str(name) in found:
            faults.append(Fault(where, f"{name!r} is there twice"))
        found[str(name)] = {}
        for key, value in points.items():
            try:
                found[str(name)][key] = float(value)
            except (TypeError, ValueError):
                found[str(name)][key] = math.nan
            if not math.isfinite(found[str(name)][key]):
                faults.append(Fault(f"{where}: {key}", f"must be a finite number, got {value!r}"))
    raise_faults(faults[:MOST], StudyError)
    return found


def powered_pairs(
    table: VoteTable, judge: Mapping[str, Mapping[str, float]], *, level: float = 0.95
) -> list[PoweredPair]:
    """Return every pair of models that people compared and a judge gave points, with a judge's help.

    Args:
        table: Votes of people.
        judge: The judge's points by item and condition (``read_judge``), for the items that people judged and for as
            many others of the same kind as there are. How far two outputs are apart is what counts; on which scale,
            the estimated weight takes care of.
        level: Nominal coverage.

    Raises:
        StudyError: points for something that nobody voted on, or too few of either.
    """
    models, given = table.comparisons().models, {name for points in judge.values() for name in points}
    strangers = [
        Fault("judge", f"{name!r} was never voted on.{did_you_mean(name, models)}", "", f"Models: {listed(models)}.")
        for name in sorted(given - set(models))
    ]
    raise_faults(strangers, StudyError)
    found = []
    for first, second in combinations([name for name in models if name in given], 2):
        if not score_by_item(table, first, second):
            continue
        lead = {
            item: points[first] - points[second]
            for item, points in judge.items()
            if first in points and second in points
        }
        found.append(PoweredPair(first, second, powered_win_share(table, first, second, lead, level=level)))
    if not found:
        raise StudyError.of(
            "judge", "no two models with points were compared by people", "vote, or give points of both"
        )
    return found


def powered_win_share(
    table: VoteTable, first: str, second: str, judge: Mapping[str, float], *, level: float = 0.95
) -> Powered:
    """Return the first model's share of wins over the second, ties as half, with a judge's help.

    Args:
        table: Votes of people; the mean of an item's votes counts.
        first: One model.
        second: The other one.
        judge: The judge's score of the first against the second for each item, the more the better the first is, such
            as 1 for a win and 0 for a loss; for the items that people judged, and for as many others of the same kind
            as there are.
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
    if len(elsewhere) < 2:
        what = f"the judge scored {len(elsewhere)} items that people did not judge, two are needed"
        fix = "let the judge score more items than people did: that is what makes their votes go further"
        raise StudyError.of("prediction-powered", what, fix)
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
