"""How often a ranking's intervals hold the truth, by simulated studies whose truth is known."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from kit.humaneval.ranking import Comparisons, Fit, Floats, davidson
from kit.humaneval.resample import sandwich
from kit.humaneval.simulate import rater_tastes, simulated_votes
from kit.humaneval.spans import strengths_of
from kit.intervals import Interval, bootstrap
from kit.result import Measurement

DRAWS = 500  # prompts (and raters) that stand for all of them, twice this with their opposites
NAIVE_REACH = 1.959964


def coverage(
    strengths: Sequence[float],
    *,
    raters: int,
    items: int,
    share: float = 1.0,
    rater_sd: float = 0.0,
    item_sd: float = 0.0,
    tie: float = 0.5,
    studies: int = 200,
    rounds: int = 300,
    seed: int = 0,
) -> dict[str, Measurement]:
    """Return how often each kind of nominal 95% interval held the truth in simulated studies.

    For "these_raters" and "sandwich" the truth is what the study's own raters would say of infinitely many prompts;
    for "new_raters" and "sandwich_new" what infinitely many raters would. "naive" and "naive_new" take every vote as
    independent.

    Args:
        strengths: The models' log-odds.
        raters: Raters of each study.
        items: Prompts of each study.
        share: Share of (rater, prompt, pair) that is voted on.
        rater_sd: Standard deviation of raters' tastes, log-odds.
        item_sd: Standard deviation of prompts' biases, log-odds.
        tie: Davidson's tie parameter.
        studies: How many studies.
        rounds: Bootstrap rounds in each.
        seed: Seed.
    """
    m = len(strengths)
    draws = np.random.default_rng([seed, 2]).normal(size=(DRAWS, m))
    draws = np.concatenate([draws, -draws])  # each with its opposite: no error of first order
    of_all = _truth(np.asarray(strengths) + draws * np.hypot(rater_sd, item_sd), tie)
    hits: dict[str, list[float]] = {}
    for study in range(studies):
        number = seed * 100_003 + study
        table = simulated_votes(strengths, raters=raters, items=items, share=share, rater_sd=rater_sd,
                                item_sd=item_sd, tie=tie, seed=number)  # fmt: skip
        tastes = rater_tastes(m, raters=raters, rater_sd=rater_sd, seed=number)
        every = (np.asarray(strengths) + draws[:, None] * item_sd + tastes).reshape(-1, m)
        truths = {"these": _truth(every, tie), "new": of_all}
        comparisons = Comparisons.of(table)
        found = strengths_of(table, rounds=rounds, level=0.95, seed=study)
        single = np.arange(len(table), dtype=np.int32)
        robust = sandwich(comparisons, davidson(comparisons), (single,), ties=bool(comparisons.counts[2].any()))
        reach = NAIVE_REACH * np.sqrt(np.diag(robust))
        for name, of in (("naive", "these"), ("naive_new", "new")):
            hits.setdefault(name, []).append(float((np.abs(found.values - truths[of]) <= reach).mean()))
        for name in ("these_raters", "sandwich", "new_raters", "sandwich_new"):
            spans = [getattr(span, name) for span in found.spans]
            hits.setdefault(name, []).append(_hit(spans, truths["new" if "new" in name else "these"]))
    return {name: _share(values) for name, values in hits.items()}


def _truth(appeal: Floats, tie: float) -> Floats:
    """Return the strengths that infinitely many votes of this appeal, shape (draws, m), would be fitted with."""
    m = appeal.shape[1]
    first, second = np.array(list(combinations(range(m), 2)), np.int32).T
    log_tie = np.full(len(appeal), np.log(tie) if tie else -np.inf)
    chances = np.stack([one.mean(0) for one in Fit(appeal, log_tie).odds(first, second)])
    names = tuple(map(str, range(m)))
    comparisons = Comparisons(names, first, second, np.zeros(0, np.int32))
    return davidson(comparisons, chances * 1000.0).strengths


def _hit(spans: Sequence[Interval | None], truth: Floats) -> float:
    held = [span.low <= value <= span.high for span, value in zip(spans, truth, strict=True) if span is not None]
    return float(np.mean(held)) if held else float("nan")


def _share(values: Sequence[float]) -> Measurement:
    span = bootstrap(values)
    mean, method = float(np.mean(values)), f"nominal 0.95; {span.method} of studies"
    return Measurement(mean, "share", len(values), span.low, span.high, span.level, method, 0.95, better="neither")
