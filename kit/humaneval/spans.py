"""Strengths with four kinds of intervals, for models that can be ranked against each other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kit.humaneval.ranking import Comparisons, Fit, Floats, davidson
from kit.humaneval.resample import prompt_rounds, rater_prompt_rounds, sandwich
from kit.humaneval.table import VoteTable
from kit.intervals import Interval


@dataclass(frozen=True)
class Spans:
    """A strength's intervals; None where raters or prompts are too few.

    Args:
        these_raters: Bootstrap over prompts: what the same raters would say of other prompts.
        new_raters: Bootstrap over raters and prompts: what other raters would say.
        sandwich: As ``these_raters``, by cluster-robust standard errors and Student's t.
        sandwich_new: As ``new_raters``, by two-way cluster-robust standard errors and Student's t.
    """

    these_raters: Interval | None = None
    new_raters: Interval | None = None
    sandwich: Interval | None = None
    sandwich_new: Interval | None = None


@dataclass(frozen=True, eq=False)
class Strengths:
    """Strengths of m models and how sure they are.

    Args:
        models: Their names.
        values: Log-odds, mean 0, shape (m,).
        covariance: Cluster-robust by prompt, shape (m, m).
        degrees: Degrees of freedom that go with it.
        spans: One for each model.
        places: Least and most of each model's places over the bootstrap rounds, tails left out, shape (m, 2).
    """

    models: tuple[str, ...]
    values: Floats
    covariance: Floats
    degrees: int
    spans: tuple[Spans, ...]
    places: NDArray[np.int64]


def strengths_of(votes: VoteTable, *, rounds: int, level: float, seed: int) -> Strengths:
    """Return the strengths of models that all have finite ones (``identify``), by Davidson's model."""
    comparisons = Comparisons.of(votes)
    fit = davidson(comparisons)
    ties = bool(comparisons.counts[2].any())
    prompts, raters = len(np.unique(votes.item)), len(np.unique(votes.rater))
    covariance = sandwich(comparisons, fit, (votes.item,), ties=ties)
    found: dict[str, list[Interval]] = {}
    draws = fit.strengths[None]
    if prompts > 1:
        draws = prompt_rounds(comparisons, votes.item, davidson, start=fit, rounds=rounds, seed=seed)
        found["these_raters"] = _percentiles(draws, level, f"bootstrap over prompts, {rounds} rounds")
        found["sandwich"] = _student(fit, covariance, level, prompts - 1, "cluster-robust by prompt")
    if prompts > 1 and raters > 1:
        both = (votes.item, votes.rater)
        two_way = rater_prompt_rounds(comparisons, *both, davidson, start=fit, rounds=rounds, seed=seed)
        found["new_raters"] = _percentiles(two_way, level, f"bootstrap over raters and prompts, {rounds} rounds")
        robust = sandwich(comparisons, fit, both, ties=ties)
        new = _student(fit, robust, level, min(prompts, raters) - 1, "cluster-robust by rater and prompt")
        # With few raters the difference of matrices can come out near zero, and an interval for new raters without any
        # width; new raters are never surer than these. The wider interval holds the truth in 0.965 of studies (mean of
        # the five settings of bench_ranking; 0.949 to 0.983), the larger variance with the fewer degrees in 0.972,
        # Satterthwaite's degrees in 0.934, the two-way alone in 0.952 with 0.922 at worst (600 studies each).
        found["sandwich_new"] = [
            max(pair, key=lambda one: one.high - one.low) for pair in zip(new, found["sandwich"], strict=True)
        ]
    tail = (1 - level) / 2
    places = np.quantile((-draws).argsort(1).argsort(1) + 1, [tail, 1 - tail], axis=0, method="nearest")
    spans = tuple(Spans(**{name: ends[model] for name, ends in found.items()}) for model in range(len(votes.models)))
    return Strengths(votes.models, fit.strengths, covariance, prompts - 1, spans, places.T.astype(np.int64))


def _percentiles(draws: Floats, level: float, method: str) -> list[Interval]:
    tail = (1 - level) / 2
    ends = np.quantile(draws, [tail, 1 - tail], axis=0)
    return [Interval(float(low), float(high), level, f"percentile {method}") for low, high in ends.T]


def _student(fit: Fit, covariance: Floats, level: float, degrees: int, method: str) -> list[Interval]:
    from scipy.stats import t

    reach = t.ppf((1 + level) / 2, degrees) * np.sqrt(np.diag(covariance))
    ends = zip(fit.strengths - reach, fit.strengths + reach, strict=True)
    return [Interval(float(low), float(high), level, f"{method}, t with {degrees} degrees") for low, high in ends]
