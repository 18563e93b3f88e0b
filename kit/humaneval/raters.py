"""How raters vote: sides, self-consistency, gold items, speed, and what the ranking would be without each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kit.humaneval.identify import identify
from kit.humaneval.ranking import Comparisons, davidson
from kit.humaneval.resample import BLOCK, PRIOR
from kit.humaneval.table import FIRST, GOLD, LEFT, REPEAT, RIGHT, VoteTable
from kit.intervals import exact
from kit.result import Measurement

SLOWEST_MS = 600_000  # whoever took longer than ten minutes was away


@dataclass(frozen=True)
class RaterReport:
    """One rater.

    Args:
        rater: The name.
        votes: First-time votes.
        median_s: Seconds a vote, median; nan where none were measured.
        left_share: Share of decided votes that went to the left side.
        tie_share: Share of votes that were ties or both bad.
        self_consistency: Share of repeats answered as before; None without repeats.
        gold_accuracy: Share of gold items answered right; None without gold.
        shift: Largest change of a model's strength when this rater is left out, log-odds; nan for an only rater.
    """

    rater: str
    votes: int
    median_s: float
    left_share: Measurement | None
    tie_share: float
    self_consistency: Measurement | None
    gold_accuracy: Measurement | None
    shift: float


def rater_reports(table: VoteTable) -> tuple[RaterReport, ...]:
    """Return a report on each rater who voted, in the table's order."""
    shifts = leave_one_out(table)
    found = []
    for code, rater in enumerate(table.raters):
        own = table.only(table.rater == code)
        first = own.kinds(FIRST)
        if not len(first):
            continue
        measured = (left_share(own), float((first.answer > RIGHT).mean()), self_consistency(own), gold_accuracy(own))
        shift = float(np.abs(shifts[rater]).max(initial=0.0))
        found.append(RaterReport(rater, len(first), median_seconds(first), *measured, shift))
    return tuple(found)


def left_share(table: VoteTable) -> Measurement | None:
    """Return the share of decided votes that went to the left side, or None when nothing was decided.

    Sides are drawn at random, so without a position bias every decided vote is a fair coin, and the binomial test is
    exact whatever raters and prompts prefer.
    """
    from scipy.stats import binomtest

    decided = table.kinds(FIRST)
    decided = decided.only(decided.answer <= RIGHT)
    if not len(decided):
        return None
    left = int((decided.answer == LEFT).sum())
    p = binomtest(left, len(decided)).pvalue
    return _share(left, len(decided), f"binomial test against 1/2: p = {p:.3g}", baseline=0.5, better="neither")


def self_consistency(table: VoteTable) -> Measurement | None:
    """Return the share of repeats, sides swapped, that were answered as the first time; None without repeats."""
    first, second = _repeats(table)
    same = _winner(table, first) == _winner(table, second)
    return _share(int(same.sum()), len(same), "repeats with sides swapped") if len(same) else None


def same_side(table: VoteTable) -> Measurement | None:
    """Return the share of repeats, decided both times, that went to the same side: position before content."""
    first, second = _repeats(table)
    decided = (table.answer[first] <= RIGHT) & (table.answer[second] <= RIGHT)
    if not decided.any():
        return None
    same = table.answer[first][decided] == table.answer[second][decided]
    return _share(int(same.sum()), len(same), "repeats with sides swapped, decided both times", better="lower")


def gold_accuracy(table: VoteTable) -> Measurement | None:
    """Return the share of gold items answered right; a tie is wrong. None without gold."""
    gold = table.kinds(GOLD)
    if not len(gold):
        return None
    winner = _winner(gold, np.arange(len(gold)))
    right = gold.models.index("right") if "right" in gold.models else -1
    return _share(int((winner == right).sum()), len(gold), "gold items", baseline=0.5)


def leave_one_out(table: VoteTable) -> dict[str, NDArray[np.float64]]:
    """Return, for each rater who voted, how every model's strength changes without that rater's votes.

    Returns:
        Differences in log-odds, in the order of ``table.comparisons().models``; nan for an only rater, and for models
        whose strength is not finite to begin with.
    """
    votes = table.comparisons()
    comparisons = Comparisons.of(votes)
    size, m = 3 * len(comparisons.first), len(votes.models)
    codes = np.unique(votes.rater)
    if len(codes) < 2 or not identify(comparisons).core.all():
        return {votes.raters[code]: np.full(m, np.nan) for code in codes}
    fit = davidson(comparisons)
    prior = np.zeros((3, len(comparisons.first)))
    prior[:2] = PRIOR / 2  # without a rater, a model may have lost everything
    found: dict[str, NDArray[np.float64]] = {}
    for start in range(0, len(codes), BLOCK):
        block = codes[start : start + BLOCK]
        own = [np.bincount(comparisons.cell[votes.rater == code], minlength=size) for code in block]
        counts = comparisons.counts - np.array(own, np.float64).reshape(len(block), 3, -1) + prior
        without = davidson(comparisons, counts, start=fit).strengths
        found |= {votes.raters[code]: row - fit.strengths for code, row in zip(block, without, strict=True)}
    return found


def median_seconds(table: VoteTable) -> float:
    """Return the median seconds of a vote; pauses of over ten minutes and votes without a time do not count."""
    taken = table.ms[(table.ms > 0) & (table.ms < SLOWEST_MS)]
    return float(np.median(taken)) / 1000 if len(taken) else float("nan")


def _repeats(table: VoteTable) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the rows of first times and of their repeats by the same rater."""
    low, high = np.minimum(table.left, table.right), np.maximum(table.left, table.right)
    keys = list(zip(table.rater.tolist(), table.item.tolist(), low.tolist(), high.tolist(), strict=True))
    first = {keys[row]: row for row in np.flatnonzero(table.kind == FIRST)}
    pairs = [(first[keys[row]], row) for row in np.flatnonzero(table.kind == REPEAT) if keys[row] in first]
    found = np.array(pairs, np.int64).reshape(-1, 2)
    return found[:, 0], found[:, 1]


def _winner(table: VoteTable, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return who won each row: a model, or a number below 0 for each kind of no winner."""
    answer = table.answer[rows]
    sides = [table.left[rows], table.right[rows]]
    return np.select([answer == LEFT, answer == RIGHT], sides, -answer.astype(np.int64))


def _share(
    successes: int, n: int, method: str, *, baseline: float | None = None, better: str = "higher"
) -> Measurement:
    span = exact(successes, n)
    return Measurement(
        successes / n, "share", n, span.low, span.high, span.level, f"{method}; {span.method}", baseline, better=better
    )
